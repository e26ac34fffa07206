//! Whole requests in virtual time: headers in, headers on, the end, the tick, the answer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::export::{Answer, ExportCall, Outcome};
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, UnixNanos};
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
    /// The properties that were asked for, in order.
    asked: RefCell<Vec<String>>,
}

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        self.headers.clone()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let path = path.join(".");
        self.asked.borrow_mut().push(path.clone());
        self.properties.get(&path).cloned()
    }
}

fn request(headers: &[(&str, &str)]) -> Told {
    request_to("shop", headers)
}

fn request_to(host: &str, headers: &[(&str, &str)]) -> Told {
    let pseudo = [(":method", "GET"), (":path", "/"), (":authority", host), (":scheme", "http")];
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
    shared: Local,
}

impl Worker {
    fn new(config: &str) -> Self {
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(7),
            now: MonoNanos(1),
            shared: Local::default(),
        }
    }

    /// One that exports everything, with this propagation.
    fn exporting(propagation: &str) -> Self {
        Self::new(&format!(
            r#"{{"export": {{"cluster": "collector"}}, "propagation": {propagation}}}"#
        ))
    }

    /// The headers of a request come.
    fn begin(&mut self, told: &Told) -> (Stream, RequestEffects) {
        let mut stream = Stream::default();
        self.shared.clock.set(self.now);
        let effects =
            stream.on_request_headers(&mut self.plugin, told, &self.shared, &mut self.rng);
        (stream, effects)
    }

    /// A request is over.
    fn log(&mut self, stream: &mut Stream, told: &Told) -> RequestEffects {
        self.shared.clock.set(self.now);
        stream.on_log(&mut self.plugin, told, &self.shared, &mut self.rng)
    }

    /// Serves a request; gives what goes on, by header.
    fn serve(&mut self, told: &Told) -> BTreeMap<String, Option<String>> {
        let (mut stream, effects) = self.begin(told);
        self.log(&mut stream, told);
        let edits = effects.edits.into_iter().map(|edit| match edit {
            HeaderEdit::Add(name, _) => panic!("{name} added"),
            HeaderEdit::Remove(name) => (name.into_owned(), None),
            HeaderEdit::Set(name, value) => (name.into_owned(), Some(value)),
        });
        edits.collect()
    }

    fn tick(&mut self) -> Vec<ExportCall> {
        self.now = self.now.after(Duration::from_secs(1));
        self.plugin.on_tick(self.now, self.wall(), &self.shared).calls
    }

    /// Clocks began together, in 1970.
    const fn wall(&self) -> UnixNanos {
        UnixNanos(self.now.0)
    }

    fn answer(&mut self, call: &ExportCall, status: u16) {
        let outcome = Outcome::Answered(Answer { status, ..Answer::default() });
        self.plugin.on_outcome(call.id, &outcome, self.now, &self.shared, &mut self.rng);
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
    assert!(worker.plugin.on_shutdown(worker.now, &worker.shared));
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
    assert_eq!(edits.get("tracestate"), Some(&Some("ot=th:0".to_owned())));
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| !name.starts_with("meshweft_queue"));
    assert_eq!(
        metrics,
        counted(&[
            ("requests", 1),
            ("sampled", 1),
            ("context_invalid", 1),
            ("context_invalid_tracecontext", 1),
            ("context_restarted", 1)
        ])
    );
}

#[test]
fn what_a_limit_drops_is_counted() {
    let mut worker = Worker::new(
        r#"{"export": {"cluster": "c"}, "sampling": {"rules": [
            {"name": "pay", "limit_per_second": 0.1}]}}"#,
    );
    for flags in ["-03", "-02", "-02"] {
        let forwarded = worker.serve(&request(&[])).remove("traceparent").flatten().unwrap();
        assert_eq!(forwarded.get(52..), Some(flags));
    }
    let [call] = &*worker.tick() else { panic!("one export") };
    assert!(contains(&call.body, b"rule:pay"));
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| !name.contains("queue") && !name.contains("export"));
    assert_eq!(
        metrics,
        counted(&[
            ("requests", 3),
            ("sampled", 1),
            ("not_sampled", 2),
            ("limited", 2),
            ("rule_pay", 3),
            ("context_missing", 3),
            ("in_flight_spans", 1),
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
    // Access loggers and other instances come after it.
    let mark = vec![(TRACE_ID_STATE, TRACE.to_owned())];
    assert_eq!(
        [worker.log(&mut stream, &told), worker.log(&mut stream, &told)],
        [
            RequestEffects { filter_state: mark, ..RequestEffects::default() },
            RequestEffects::default()
        ]
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
            ("context_invalid", 1),
            ("context_invalid_tracecontext", 1)
        ])
    );
    assert!(worker.plugin.on_shutdown(worker.now, &worker.shared));
}

#[test]
fn an_instance_without_export_leaves_no_mark_for_those_behind_it() {
    let mut worker = Worker::new("");
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    let (_, effects) = worker.begin(&request(&[("traceparent", &incoming)]));
    assert_eq!(effects, RequestEffects::default());
}

#[test]
fn on_its_way_out_an_instance_waits_for_its_spans() {
    let mut worker = Worker::new(EXPORTING);
    worker.serve(&request(&[]));
    assert!(!worker.plugin.on_shutdown(worker.now, &worker.shared));
    let call = worker.tick().pop().unwrap();
    worker.answer(&call, 200);
    assert!(worker.plugin.on_tick(worker.now, worker.wall(), &worker.shared).done);
    assert!(!worker.plugin.on_tick(worker.now, worker.wall(), &worker.shared).done);
    // A request that had been open all the time ends after that: lost, but counted.
    worker.metrics();
    worker.serve(&request(&[]));
    assert_eq!(worker.metrics().get("meshweft_dropped_shutdown"), Some(&1));
}

#[test]
fn a_shutdown_with_the_collector_away_ends_with_every_span_counted() {
    let mut worker = Worker::new(EXPORTING);
    worker.serve(&request(&[]));
    assert!(!worker.plugin.on_shutdown(worker.now, &worker.shared));
    let call = worker.tick().pop().unwrap();
    worker.plugin.on_outcome(
        call.id,
        &Outcome::NotSent,
        worker.now,
        &worker.shared,
        &mut worker.rng,
    );
    worker.now = worker.now.after(Duration::from_secs(400));
    assert!(worker.plugin.on_tick(worker.now, worker.wall(), &worker.shared).done);
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
    assert!(!worker.plugin.on_shutdown(worker.now, &worker.shared));
    worker.now = worker.now.after(Duration::from_secs(300));
    let tick = worker.plugin.on_tick(worker.now, worker.wall(), &worker.shared);
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

/// A caller that wants everything: its trace, no sampling, debug, and state of vendors.
fn stranger() -> Told {
    let (traceparent, b3) = (format!("00-{TRACE}-{PARENT}-00"), format!("{TRACE}-{PARENT}-d"));
    request(&[
        ("traceparent", &traceparent),
        ("tracestate", "a=1"),
        ("b3", &b3),
        ("x-b3-sampled", "0"),
    ])
}

#[test]
fn a_rule_expires_by_itself() {
    let mut worker = Worker::new(
        r#"{"export": {"cluster": "collector"}, "sampling": {"rate": 0, "rules": [
            {"name": "gone", "rate": 1, "until": "1970-01-01T00:01:40Z"},
            {"name": "incident", "match": {"host": "shop"}, "rate": 1,
                "until": "1970-01-01T00:02:00.5Z"}]}}"#,
    );
    worker.now = MonoNanos(100_000_000_000);
    let warning = "sampling rules that have expired are ignored: gone";
    assert_eq!(worker.plugin.on_start(worker.wall()), Some(warning.to_owned()));
    let mut recorded = Vec::new();
    for second in 100..130 {
        worker.tick();
        worker.serve(&request(&[]));
        if worker.metrics().contains_key("meshweft_sampled") {
            recorded.push(second);
        }
    }
    // A round's tick comes a second after its number: that of round 120, at 121 s, is the first after 120.5 s.
    assert_eq!(recorded, (100..120).collect::<Vec<_>>());
}

#[test]
fn many_expired_rules_are_one_line() {
    let rule = |i| format!(r#"{{"name": "r{i}", "until": "1970-01-01T00:00:00Z"}}"#);
    let rules: Vec<_> = (0..20).map(rule).collect();
    let mut worker = Worker::new(&format!(r#"{{"sampling": {{"rules": [{}]}}}}"#, rules.join(",")));
    let warning = "sampling rules that have expired are ignored: \
        r0, r1, r2, r3, r4, r5, r6, r7 and 12 more";
    assert_eq!(worker.plugin.on_start(UnixNanos(0)), Some(warning.to_owned()));
    assert_eq!(Worker::new(EXPORTING).plugin.on_start(UnixNanos(u64::MAX)), None);
}

#[test]
fn a_restarted_trace_has_nothing_of_what_came_in() {
    let mut worker = Worker::exporting(r#"{"trust": "restart"}"#);
    let edits = worker.serve(&stranger());
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_ne!(forwarded.get(3..35), Some(TRACE));
    assert_eq!(forwarded.get(52..), Some("-03"), "the rate decides, and the id is random");
    assert_eq!(edits.get("tracestate"), Some(&Some("ot=th:0".to_owned())));
    let ids = forwarded.get(3..52).unwrap();
    assert_eq!(edits.get("b3"), Some(&Some(format!("{ids}-1"))));
    assert_eq!(edits.get("x-b3-traceid"), Some(&forwarded.get(3..35).map(str::to_owned)));
    assert_eq!(edits.get("x-b3-sampled"), Some(&Some("1".to_owned())));
    let call = worker.tick().pop().unwrap();
    assert!(contains(&call.body, &on_the_wire(&forwarded)));
    assert!(!contains(&call.body, &hex::decode(PARENT).unwrap()), "no parent, no link");
    worker.answer(&call, 200);
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| name.starts_with("meshweft_context"));
    assert_eq!(metrics, counted(&[("context_restarted", 1)]));
}

#[test]
fn a_debug_flag_that_is_not_trusted_records_nothing() {
    for trust in ["restart", "link"] {
        let mut worker = Worker::new(&format!(
            r#"{{"export": {{"cluster": "collector"}}, "sampling": {{"rate": 0}},
                "propagation": {{"trust": "{trust}"}}}}"#
        ));
        worker.serve(&request(&[("x-b3-flags", "1")]));
        worker.serve(&request(&[("b3", &format!("{TRACE}-{PARENT}-d"))]));
        assert_eq!(worker.tick(), []);
        assert_eq!(
            worker.metrics(),
            counted(&[
                ("requests", 2),
                ("not_sampled", 2),
                ("context_missing", 1),
                ("context_restarted", 1)
            ])
        );
    }
}

#[test]
fn a_linked_trace_is_a_new_one_that_names_the_old() {
    let mut worker = Worker::exporting(r#"{"trust": "link"}"#);
    let incoming = format!("00-{TRACE}-{PARENT}-02");
    let edits = worker.serve(&request(&[("traceparent", &incoming), ("tracestate", "a=1")]));
    let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
    assert_ne!(forwarded.get(3..35), Some(TRACE));
    assert_eq!(forwarded.get(52..), Some("-03"));
    assert_eq!(edits.get("tracestate"), Some(&Some("ot=th:0".to_owned())));
    let call = worker.tick().pop().unwrap();
    // Field 13, a link: ids, tracestate, and flags that say random, remote.
    let (trace, parent) = (hex::decode(TRACE).unwrap(), hex::decode(PARENT).unwrap());
    let link = [
        &[0x6a, 38, 0x0a, 16][..],
        &trace,
        &[0x12, 8],
        &parent,
        b"\x1a\x03a=1",
        b"\x35\x02\x03\0\0",
    ]
    .concat();
    assert!(contains(&call.body, &link), "{:02x?}", call.body);
    assert!(!contains(&call.body, &[&[0x22, 8][..], &parent].concat()), "no parent");
    assert_eq!(worker.metrics().get("meshweft_context_restarted"), Some(&1));
}

#[test]
fn the_first_rule_that_matches_says_what_a_context_is_worth() {
    let mut worker = Worker::exporting(
        r#"{"trust": [
            {"match": {"headers": {"x-inside": {"present": true}}}, "trust": "continue"},
            {"match": {"headers": {"x-outside": {"present": true}}}, "trust": "restart"},
            {"match": {"headers": {"x-inside": {"present": true}}}, "trust": "restart"}]}"#,
    );
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    for (header, continued) in [("x-inside", true), ("x-outside", false), ("x-else", true)] {
        let edits = worker.serve(&request(&[("traceparent", &incoming), (header, "")]));
        let forwarded = edits.get("traceparent").cloned().flatten().unwrap();
        assert_eq!(forwarded.get(3..35) == Some(TRACE), continued, "{header}");
    }
    let metrics = worker.metrics();
    assert_eq!(metrics.get("meshweft_context_continued"), Some(&2));
    assert_eq!(metrics.get("meshweft_context_restarted"), Some(&1));
}

#[test]
fn nothing_is_read_of_a_request_for_trust_unless_a_rule_asks_and_something_came_in() {
    let by_source = r#"{"trust": [{"match": {"source": {"prefix": "10."}}, "trust": "restart"}]}"#;
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    let (bare, with_parent) = (request(&[]), request(&[("traceparent", &incoming)]));
    Worker::new(EXPORTING).begin(&with_parent);
    assert_eq!(with_parent.asked.take(), [TRACE_ID_STATE]);
    let mut worker = Worker::exporting(by_source);
    worker.begin(&bare);
    // The listener says whether a call may be joined to what came in.
    assert_eq!(bare.asked.take(), [TRACE_ID_STATE, "xds.listener_direction"]);
    worker.begin(&with_parent);
    assert_eq!(
        with_parent.asked.take(),
        [TRACE_ID_STATE, "connection.uri_san_peer_certificate", "source.address"]
    );
}

#[test]
fn where_nothing_is_begun_a_stranger_is_forgotten_all_the_same() {
    for trust in ["restart", "link"] {
        let mut worker = Worker::new(&format!(r#"{{"propagation": {{"trust": "{trust}"}}}}"#));
        let incoming = format!("00-{TRACE}-{PARENT}-01");
        let edits = worker.serve(&request(&[
            ("traceparent", &incoming),
            ("tracestate", "a=1"),
            ("x-datadog-origin", "rum"),
            ("baggage", "a=1"),
        ]));
        let gone = ["traceparent", "tracestate", "x-datadog-origin"];
        assert_eq!(edits, gone.map(|name| (name.to_owned(), None)).into());
    }
}

#[test]
fn a_debug_flag_goes_on_only_where_the_parent_decides() {
    for (parent, flag) in [("respect", "d"), ("ignore", "1")] {
        let mut worker = Worker::new(&format!(
            r#"{{"export": {{"cluster": "collector"}}, "sampling": {{"parent": "{parent}"}}}}"#
        ));
        let edits = worker.serve(&request(&[("b3", &format!("{TRACE}-{PARENT}-d"))]));
        let b3 = edits.get("b3").cloned().flatten().unwrap();
        assert_eq!(b3.split('-').nth(2), Some(flag), "{parent}");
    }
}

#[test]
fn to_a_host_outside_goes_no_context_and_the_span_is_recorded() {
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", &*incoming), ("tracestate", "a=1"), ("baggage", "k=v")];
    let bare = ["baggage", "traceparent", "tracestate"].map(|name| (name.to_owned(), None));

    let strip = r#"{"egress": {"strip": ["*.Example.com"]}}"#;
    let mut worker = Worker::exporting(strip);
    assert_eq!(worker.serve(&request_to("API.example.com:443", &headers)), bare.clone().into());
    assert_eq!(worker.serve(&request_to("api.example.com", &[])), BTreeMap::new());
    let calls = worker.tick();
    let [call] = &*calls else { panic!("{calls:?}") };
    assert!(contains(&call.body, &hex::decode(TRACE).unwrap()));
    assert_eq!(worker.metrics().get("meshweft_sampled"), Some(&2));

    let inside = worker.serve(&request_to("example.com.shop", &headers));
    let forwarded = inside.get("traceparent").cloned().flatten().unwrap();
    assert_eq!(forwarded.get(..36), Some(&*format!("00-{TRACE}-")));

    // What may not leave may not leave without an export either.
    let mut silent = Worker::new(&format!(r#"{{"propagation": {strip}}}"#));
    assert_eq!(silent.serve(&request_to("api.example.com", &headers)), bare.into());
    assert_eq!(silent.serve(&request_to("shop", &headers)), BTreeMap::new());
}

#[test]
fn callers_are_told_of_the_trace_whether_it_is_sampled_or_not() {
    let all = r#"{"response": ["traceresponse", "server-timing", {"header": "x-trace-id"}]}"#;
    let mut worker = Worker::exporting(all);
    for flags in ["01", "00"] {
        let told = request(&[("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}"))]);
        let mut stream = Stream::default();
        assert_eq!(
            stream.on_response_headers(
                &worker.plugin,
                &request(&[]),
                &worker.shared,
                UnixNanos::default
            ),
            [],
            "no request yet"
        );
        let effects =
            stream.on_request_headers(&mut worker.plugin, &told, &worker.shared, &mut worker.rng);
        let forwarded = effects.edits.into_iter().find_map(|edit| match edit {
            HeaderEdit::Set(name, value) if name == "traceparent" => Some(value),
            _ => None,
        });
        let forwarded = forwarded.unwrap();
        assert_eq!(forwarded.get(52..), Some(&*format!("-{flags}")));
        assert_eq!(
            stream.on_response_headers(
                &worker.plugin,
                &request(&[]),
                &worker.shared,
                UnixNanos::default
            ),
            [
                HeaderEdit::Set("traceresponse".into(), forwarded.clone()),
                HeaderEdit::Add(
                    "server-timing".into(),
                    format!("traceparent;desc=\"{forwarded}\"")
                ),
                HeaderEdit::Set("x-trace-id".into(), TRACE.to_owned()),
            ]
        );
        worker.log(&mut stream, &told);
        assert_eq!(
            stream.on_response_headers(
                &worker.plugin,
                &request(&[]),
                &worker.shared,
                UnixNanos::default
            ),
            [],
            "the end was told"
        );
    }
    let mut second = request(&[]);
    second.properties.insert(TRACE_ID_STATE.to_owned(), TRACE.as_bytes().to_vec());
    let (mut stream, _) = worker.begin(&second);
    assert_eq!(
        stream.on_response_headers(
            &worker.plugin,
            &request(&[]),
            &worker.shared,
            UnixNanos::default
        ),
        [],
        "the first instance tells"
    );
    let mut quiet = Worker::new(EXPORTING);
    let (mut stream, _) = quiet.begin(&request(&[]));
    assert_eq!(
        stream.on_response_headers(&quiet.plugin, &request(&[]), &quiet.shared, UnixNanos::default),
        [],
        "not asked for"
    );
}

#[test]
fn access_logs_find_what_was_asked_for_and_instances_their_mark() {
    let (span_id, sampled) = ("meshweft.span_id", "meshweft.sampled");
    for (fields, names) in [
        ("[]", vec![TRACE_ID_STATE]),
        (r#"["trace_id"]"#, vec![TRACE_ID_STATE]),
        (r#"["sampled"]"#, vec![TRACE_ID_STATE, sampled]),
        (r#"["trace_id", "span_id", "sampled"]"#, vec![TRACE_ID_STATE, span_id, sampled]),
    ] {
        let mut worker = Worker::exporting(&format!(r#"{{"access_log": {fields}}}"#));
        for (flags, verdict) in [("01", "true"), ("00", "false")] {
            let told = request(&[("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}"))]);
            let (_, effects) = worker.begin(&told);
            let expected: Vec<_> = names
                .iter()
                .map(|name| match *name {
                    TRACE_ID_STATE => (*name, TRACE.to_owned()),
                    "meshweft.sampled" => (*name, verdict.to_owned()),
                    _ => (*name, our_span(&effects)),
                })
                .collect();
            assert_eq!(effects.filter_state, expected, "{fields}");
            // Where the header callbacks never ran the end tells the same.
            let logged = worker.log(&mut Stream::default(), &told);
            let found: Vec<_> = logged.filter_state.iter().map(|(name, _)| *name).collect();
            assert_eq!((found, logged.edits), (names.clone(), vec![]));
        }
    }
}

/// Our span as it goes on in `traceparent`.
fn our_span(effects: &RequestEffects) -> String {
    let traceparent = effects.edits.iter().find_map(|edit| match edit {
        HeaderEdit::Set(name, value) if name == "traceparent" => value.get(36..52),
        _ => None,
    });
    traceparent.unwrap().to_owned()
}

#[test]
fn a_native_tracer_is_counted_and_spoken_of_once() {
    let ours = ("x-request-id", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10");
    let native = ("x-request-id", "6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d10");
    let mut worker = Worker::new(EXPORTING);
    let mut warned = |headers| worker.begin(&request(&[headers])).1.warning;
    assert_eq!(warned(ours), None);
    let warning = warned(native).unwrap();
    for word in ["x-request-id", "tracing", "disableSpanReporting", "PROPAGATION"] {
        assert!(warning.contains(word), "{warning}");
    }
    assert_eq!([warned(native), warned(ours)], [None, None]);
    assert_eq!(worker.metrics().get("meshweft_native_tracer_seen"), Some(&2));
    // Its context is the native tracer's business where we begin nothing.
    let (_, effects) = Worker::new("").begin(&request(&[native]));
    assert_eq!(effects, RequestEffects::default());
    let mut late = Worker::new(EXPORTING);
    assert_eq!(late.log(&mut Stream::default(), &request(&[native])).warning, Some(warning));
}

#[test]
fn invalid_contexts_are_counted_by_format() {
    let mut worker =
        Worker::exporting(r#"{"extract": ["tracecontext", "b3", "b3multi", "grpc-trace-bin"]}"#);
    worker.serve(&request(&[("traceparent", "x"), ("b3", "x")]));
    worker.serve(&request(&[("b3", "x"), ("x-b3-traceid", TRACE), ("x-b3-spanid", PARENT)]));
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| name.contains("_context_"));
    assert_eq!(
        metrics,
        counted(&[
            ("context_invalid", 2),
            ("context_invalid_b3", 2),
            ("context_invalid_tracecontext", 1),
            ("context_continued", 1),
            ("context_restarted", 1)
        ])
    );
    let names: Vec<_> =
        worker.plugin.metric_ids().map(|id| worker.plugin.metric_name(id)).collect();
    let by_format: Vec<_> =
        names.iter().filter_map(|name| name.strip_prefix("meshweft_context_invalid_")).collect();
    assert_eq!(by_format, ["tracecontext", "b3", "b3multi", "grpc_trace_bin"]);
}

#[test]
fn of_the_baggage_goes_on_what_may_and_onto_the_span_what_was_named() {
    let mut worker = Worker::exporting(
        r#"{"baggage": {"allow": ["tenant"], "attributes": ["tenant", "http.request.method"]}}"#,
    );
    let baggage = ("baggage", "tenant=acme%20co,secret=1,http.request.method=DELETE");
    let edits = worker.serve(&request(&[baggage]));
    assert_eq!(edits.get("baggage"), Some(&Some("tenant=acme%20co".to_owned())));
    let call = worker.tick().pop().unwrap();
    assert!(contains(&call.body, b"\x0a\x06tenant\x12\x09\x0a\x07acme co"));
    assert!(!contains(&call.body, b"secret"));
    assert!(!contains(&call.body, b"DELETE"), "what is known is not replaced");
}

#[test]
fn where_nothing_is_begun_baggage_goes_on_as_it_came_unless_it_may_not() {
    let long = format!("k={}", "v".repeat(10_000));
    let told = request(&[("baggage", &long)]);
    assert_eq!(Worker::new("").serve(&told), BTreeMap::new());
    let mut drops = Worker::new(r#"{"propagation": {"baggage": "drop"}}"#);
    assert_eq!(drops.serve(&told), [("baggage".to_owned(), None)].into());
}
