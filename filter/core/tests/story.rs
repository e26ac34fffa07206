//! Whole requests in virtual time: headers in, headers on, the end, the tick, the answer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::export::{ExportCall, Outcome};
use meshweft_core::model::{HeaderEdit, Headers, MonoNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::{RequestEffects, Stream, TRACE_ID_STATE};
use rand::SeedableRng;
use rand::rngs::SmallRng;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";
const EXPORTING: &str = r#"{"service": {"name": "shop"}, "export": {"cluster": "collector"}}"#;

/// A request as the emulated host shows it.
#[derive(Default)]
struct Told {
    headers: Headers,
    properties: BTreeMap<String, Vec<u8>>,
}

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        self.headers.clone()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.properties.get(&path.join(".")).cloned()
    }
}

fn request(headers: &[(&str, &str)]) -> Told {
    let pseudo = [(":method", "GET"), (":path", "/"), (":authority", "shop"), (":scheme", "http")];
    let mut told =
        Told { headers: pseudo.iter().chain(headers).copied().collect(), ..Told::default() };
    for (path, value) in [
        ("request.time", 1_700_000_000_000_000_000_i64),
        ("request.duration", 5_000_000),
        ("response.code", 200),
    ] {
        told.properties.insert(path.to_owned(), value.to_le_bytes().to_vec());
    }
    told
}

/// One worker with one instance.
struct Worker {
    plugin: Plugin,
    rng: SmallRng,
    now: MonoNanos,
}

impl Worker {
    fn new(config: &str) -> Self {
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(7),
            now: MonoNanos(1),
        }
    }

    /// Serves a request; gives what goes on, by header.
    fn serve(&mut self, told: &Told) -> BTreeMap<String, Option<String>> {
        let mut stream = Stream::default();
        let effects = stream.on_request_headers(&mut self.plugin, told, &mut self.rng);
        let now = self.now;
        stream.on_log(&mut self.plugin, told, || now, &mut self.rng);
        let edits = effects.edits.into_iter().map(|edit| match edit {
            HeaderEdit::Add(name, _) => panic!("{name} added"),
            HeaderEdit::Remove(name) => (name.into_owned(), None),
            HeaderEdit::Set(name, value) => (name.into_owned(), Some(value)),
        });
        edits.collect()
    }

    fn tick(&mut self) -> Vec<ExportCall> {
        self.now = self.now.after(Duration::from_secs(1));
        self.plugin.on_tick(self.now).calls
    }

    fn answer(&mut self, call: &ExportCall, status: u16) {
        let outcome = Outcome::Answered { status, retry_after: None, body: b"" };
        self.plugin.on_outcome(call.id, &outcome, self.now, &mut self.rng);
    }

    fn metrics(&mut self) -> BTreeMap<String, i64> {
        let updates = self.plugin.metrics.take();
        updates.iter().map(|u| (self.plugin.metric_name(u.metric), u.value)).collect()
    }
}

/// The ids as they stand at the head of a span on the wire: fields 1 and 2 of `Span`.
fn on_the_wire(traceparent: &str) -> Vec<u8> {
    let mut parts = traceparent.split('-').skip(1).map(|part| hex::decode(part).unwrap());
    let (trace, span) = (parts.next().unwrap(), parts.next().unwrap());
    [&[0x0a, 16][..], &trace, &[0x12, 8], &span].concat()
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

fn counted(pairs: &[(&str, i64)]) -> BTreeMap<String, i64> {
    pairs.iter().map(|(name, value)| (format!("meshweft_{name}"), *value)).collect()
}

#[test]
fn the_forwarded_parent_id_is_the_exported_span_id() {
    let mut worker = Worker::new(EXPORTING);
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    for told in [request(&[]), request(&[("traceparent", &incoming)])] {
        let forwarded = worker.serve(&told).remove("traceparent").flatten().unwrap();
        assert_ne!(forwarded.get(36..52), Some(PARENT));
        let calls = worker.tick();
        let [call] = &*calls else { panic!("{calls:?}") };
        assert!(contains(&call.body, &on_the_wire(&forwarded)), "{forwarded}");
        worker.answer(call, 200);
    }
    assert!(worker.plugin.on_shutdown(worker.now));
}

#[test]
fn a_continued_trace_keeps_its_id_and_its_parent() {
    let mut worker = Worker::new(EXPORTING);
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    let edits = worker.serve(&request(&[("traceparent", &incoming), ("tracestate", "a=1")]));
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_eq!(forwarded.get(..36), Some(&*format!("00-{TRACE}-")));
    assert_eq!(forwarded.get(52..), Some("-01"));
    let call = worker.tick().pop().unwrap();
    // Field 4, parent_span_id; field 3, trace_state.
    assert!(contains(&call.body, &[&[0x22, 8], &*hex::decode(PARENT).unwrap()].concat()));
    assert!(contains(&call.body, b"\x1a\x03a=1"));
    worker.answer(&call, 200);
    assert_eq!(
        worker.metrics(),
        counted(&[
            ("requests", 1),
            ("sampled", 1),
            ("context_continued", 1),
            ("export_requests", 1),
            ("exported", 1),
            ("export_ms", 0),
        ])
    );
}

#[test]
fn what_the_parent_dropped_goes_on_as_00_and_is_not_exported() {
    let mut worker = Worker::new(EXPORTING);
    let incoming = format!("00-{TRACE}-{PARENT}-00");
    let edits = worker.serve(&request(&[("traceparent", &incoming)]));
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_eq!(forwarded.get(52..), Some("-00"));
    assert_eq!(worker.tick(), []);
    assert_eq!(
        worker.metrics(),
        counted(&[("requests", 1), ("not_sampled", 1), ("context_continued", 1)])
    );
}

#[test]
fn an_invalid_context_restarts_the_trace_and_is_counted() {
    let mut worker = Worker::new(EXPORTING);
    let incoming = format!("00-{TRACE}-{PARENT}-01-");
    let edits = worker.serve(&request(&[("traceparent", &incoming), ("tracestate", "a=1")]));
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_ne!(forwarded.get(3..35), Some(TRACE));
    assert_eq!(edits.get("tracestate"), Some(&None));
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| !name.starts_with("meshweft_queue"));
    assert_eq!(
        metrics,
        counted(&[
            ("requests", 1),
            ("sampled", 1),
            ("context_invalid", 1),
            ("context_restarted", 1)
        ])
    );
}

#[test]
fn listeners_of_both_directions_share_an_instance() {
    let mut worker = Worker::new(EXPORTING);
    // Field 6, kind: 2 is SERVER, 3 is CLIENT; field 5, name, stands before it.
    for (direction, kind) in [(1_i64, 2), (2, 3), (1, 2), (0, 2)] {
        let mut told = request(&[]);
        told.properties
            .insert("xds.listener_direction".to_owned(), direction.to_le_bytes().to_vec());
        worker.serve(&told);
        let call = worker.tick().pop().unwrap();
        assert!(contains(&call.body, &[b"\x2a\x03GET\x30", &[kind][..]].concat()), "{direction}");
        worker.answer(&call, 200);
    }
}

#[test]
fn a_request_that_never_reached_the_filter_has_a_span() {
    let mut worker = Worker::new(EXPORTING);
    let mut stream = Stream::default();
    let told = request(&[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
    let now = worker.now;
    let mut log = || stream.on_log(&mut worker.plugin, &told, || now, &mut worker.rng);
    // Access loggers and other instances come after it.
    assert_eq!(
        [log(), log()].map(|id| id.map(|id| id.to_string())),
        [Some(TRACE.to_owned()), None]
    );
    assert_eq!(worker.tick().len(), 1);
    let metrics = worker.metrics();
    assert_eq!(metrics.get("meshweft_requests"), Some(&1));
    assert_eq!(metrics.get("meshweft_in_flight_spans"), Some(&1));
}

#[test]
fn the_second_instance_on_a_request_stays_passive() {
    let mut worker = Worker::new(EXPORTING);
    let mut told = request(&[]);
    told.properties.insert(TRACE_ID_STATE.to_owned(), TRACE.as_bytes().to_vec());
    assert_eq!(worker.serve(&told), BTreeMap::new());
    assert_eq!(worker.tick(), []);
    assert_eq!(worker.metrics(), counted(&[("passive", 1)]));
}

#[test]
fn an_empty_configuration_touches_nothing_and_counts() {
    let mut worker = Worker::new("");
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(worker.serve(&request(&[("traceparent", &incoming)])), BTreeMap::new());
    assert_eq!(worker.serve(&request(&[])), BTreeMap::new());
    assert_eq!(worker.serve(&request(&[("traceparent", "bad")])), BTreeMap::new());
    assert_eq!(worker.tick(), []);
    assert_eq!(
        worker.metrics(),
        counted(&[
            ("requests", 3),
            ("context_continued", 1),
            ("context_missing", 1),
            ("context_invalid", 1)
        ])
    );
    assert!(worker.plugin.on_shutdown(worker.now));
}

#[test]
fn an_instance_without_export_leaves_no_mark_for_those_behind_it() {
    let mut worker = Worker::new("");
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    let told = request(&[("traceparent", &incoming)]);
    let effects = Stream::default().on_request_headers(&mut worker.plugin, &told, &mut worker.rng);
    assert_eq!(effects, RequestEffects::default());
}

#[test]
fn on_its_way_out_an_instance_waits_for_its_spans() {
    let mut worker = Worker::new(EXPORTING);
    worker.serve(&request(&[]));
    assert!(!worker.plugin.on_shutdown(worker.now));
    let call = worker.tick().pop().unwrap();
    worker.answer(&call, 200);
    assert!(worker.plugin.on_tick(worker.now).done);
    assert!(!worker.plugin.on_tick(worker.now).done);
    // A request that had been open all the time ends after that: lost, but counted.
    worker.metrics();
    worker.serve(&request(&[]));
    assert_eq!(worker.metrics().get("meshweft_dropped_shutdown"), Some(&1));
}

#[test]
fn a_shutdown_with_the_collector_away_ends_with_every_span_counted() {
    let mut worker = Worker::new(EXPORTING);
    worker.serve(&request(&[]));
    assert!(!worker.plugin.on_shutdown(worker.now));
    let call = worker.tick().pop().unwrap();
    worker.plugin.on_outcome(call.id, &Outcome::NotSent, worker.now, &mut worker.rng);
    worker.now = worker.now.after(Duration::from_secs(400));
    assert!(worker.plugin.on_tick(worker.now).done);
    let metrics = worker.metrics();
    let dropped = ["shutdown", "retries_exhausted"]
        .map(|cause| metrics.get(&format!("meshweft_dropped_{cause}")).copied().unwrap_or(0));
    assert_eq!(dropped.iter().sum::<i64>(), 1, "{metrics:?}");
    assert_eq!(metrics.get("meshweft_queue_spans"), None);
}

#[test]
fn what_is_counted_as_lost_is_not_sent() {
    let mut worker = Worker::new(EXPORTING);
    worker.serve(&request(&[]));
    assert!(!worker.plugin.on_shutdown(worker.now));
    worker.now = worker.now.after(Duration::from_secs(300));
    let tick = worker.plugin.on_tick(worker.now);
    assert_eq!((tick.calls, tick.done), (vec![], true));
    let metrics = worker.metrics();
    assert_eq!(metrics.get("meshweft_dropped_shutdown"), Some(&1));
    assert_eq!(metrics.get("meshweft_export_requests"), None);
}

#[test]
fn rules_decide_and_are_counted() {
    let mut worker = Worker::new(
        r#"{"export": {"cluster": "collector"}, "sampling": {"rules": [
            {"name": "root", "match": {"path": "/"}, "rate": 0}]}}"#,
    );
    let edits = worker.serve(&request(&[]));
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_eq!(forwarded.get(52..), Some("-02"), "not sampled, but random");
    assert_eq!(
        worker.metrics(),
        counted(&[("requests", 1), ("not_sampled", 1), ("context_missing", 1), ("rule_root", 1)])
    );
}
