//! Both sides of a workload whose application forwards `x-request-id` alone, in virtual time.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, Shared, SharedError, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::Stream;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";
const KEY: (&str, &str) = ("x-request-id", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10");
/// The same id, in which a native tracer has left its trace status.
const KEY_TRACED: (&str, &str) = ("x-request-id", "6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d10");

/// A request as the host shows it.
struct Told {
    headers: Headers,
    direction: i64,
    asked: RefCell<Vec<String>>,
}

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        self.headers.clone()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let path = path.join(".");
        self.asked.borrow_mut().push(path.clone());
        let listener = path == "xds.listener_direction" && self.direction != 0;
        listener.then(|| self.direction.to_le_bytes().to_vec())
    }
}

fn told(direction: i64, headers: &[(&str, &str)]) -> Told {
    let pseudo = [(":method", "GET"), (":path", "/"), (":authority", "shop"), (":scheme", "http")];
    let headers = pseudo.iter().chain(headers).copied().collect();
    Told { headers, direction, asked: RefCell::default() }
}

fn inbound(headers: &[(&str, &str)]) -> Told {
    told(1, headers)
}

fn outbound(headers: &[(&str, &str)]) -> Told {
    told(2, headers)
}

/// Shared data that counts what it costs.
#[derive(Default)]
struct Counting {
    local: Local,
    calls: Cell<u32>,
}

impl Counting {
    fn count(&self) {
        self.calls.set(self.calls.get().saturating_add(1));
    }
}

impl Shared for Counting {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.count();
        self.local.get(key)
    }
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), SharedError> {
        self.count();
        self.local.set(key, value, cas)
    }
    fn now(&self) -> MonoNanos {
        self.local.now()
    }
}

/// The instance of a worker, for listeners of both directions.
struct Worker {
    plugin: Plugin,
    rng: SmallRng,
    shared: Counting,
}

/// What becomes of a request: its headers as they go on.
type Onward = BTreeMap<String, String>;

impl Worker {
    fn new(more: &str) -> Self {
        let config = format!(r#"{{"export": {{"cluster": "collector"}}{more}}}"#);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(7),
            shared: Counting::default(),
        }
    }

    fn begin(&mut self, told: &Told) -> (Stream, Onward) {
        let mut stream = Stream::default();
        let Self { plugin, rng, shared } = self;
        let effects = stream.on_request_headers(plugin, told, shared, rng);
        let set = |edit| match edit {
            HeaderEdit::Set(name, value) => Some((name.into_owned(), value)),
            HeaderEdit::Add(..) | HeaderEdit::Remove(_) => None,
        };
        (stream, effects.edits.into_iter().filter_map(set).collect())
    }

    fn end(&mut self, mut stream: Stream, told: &Told) {
        let Self { plugin, rng, shared } = self;
        let _ = stream.on_log(plugin, told, shared, rng);
    }

    /// Serves a request from its headers to its end.
    fn serve(&mut self, told: &Told) -> Onward {
        let (stream, onward) = self.begin(told);
        self.end(stream, told);
        onward
    }

    fn after(&mut self, millis: u64) {
        let clock = &self.shared.local.clock;
        clock.set(clock.get().after(Duration::from_millis(millis)));
    }

    /// The spans that are ready, in the order in which they ended.
    fn spans(&mut self) -> Vec<Span> {
        self.after(1000);
        let now = self.shared.now();
        let calls = self.plugin.on_tick(now, UnixNanos(now.0), &self.shared).calls;
        let body = |body: &[u8]| ExportTraceServiceRequest::decode(body).unwrap();
        let requests = calls.iter().map(|call| body(&call.body));
        let resources = requests.flat_map(|request| request.resource_spans);
        resources.flat_map(|r| r.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    fn counted(&mut self) -> Vec<(String, i64)> {
        let updates = self.plugin.metrics.take();
        let named = updates.iter().map(|u| (self.plugin.metric_name(u.metric), u.value));
        let ours = named.filter_map(|(name, value)| {
            let name = name.strip_prefix("meshweft_")?.to_owned();
            (name.starts_with("context_") || name.starts_with("correlation_"))
                .then_some((name, value))
        });
        ours.collect()
    }
}

fn ids(traceparent: &str) -> (&str, &str, &str) {
    (&traceparent[3..35], &traceparent[36..52], &traceparent[53..])
}

/// `meshweft.correlation` and what belongs to it.
fn correlation(span: &Span) -> Vec<String> {
    let ours = span.attributes.iter().filter(|a| a.key.starts_with("meshweft.correlation"));
    let text = |value: Option<Value>| match value.unwrap() {
        Value::StringValue(text) => text,
        Value::DoubleValue(number) => number.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    ours.map(|a| text(a.value.clone().and_then(|value| value.value))).collect()
}

fn counts(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[test]
fn a_call_goes_on_as_if_its_header_had_come() {
    for (flags, recorded) in [("00", false), ("01", true), ("02", false), ("03", true)] {
        let mut worker = Worker::new("");
        let came = parent(flags);
        let headers = [KEY, ("traceparent", &*came), ("tracestate", "a=1,b=2")];
        let (from_outside, to_app) = (inbound(&headers), outbound(&[KEY_TRACED]));
        let (open, app) = worker.begin(&from_outside);
        let called = worker.serve(&to_app);
        worker.end(open, &from_outside);
        // An application that forwards what it got.
        let forwarding =
            [("traceparent", &*app["traceparent"]), ("tracestate", &*app["tracestate"])];
        let forwarded = worker.serve(&outbound(&forwarding));
        let (_, server, _) = ids(&app["traceparent"]);
        for onward in [&called, &forwarded] {
            let (trace, span, went) = ids(&onward["traceparent"]);
            assert_eq!((trace, went), (TRACE, flags));
            assert_ne!(span, server);
            assert_eq!(onward["tracestate"], "a=1,b=2");
        }
        let spans = worker.spans();
        let expected: &[&str] = if recorded { &[server, PARENT, server] } else { &[] };
        let parents: Vec<_> = spans.iter().map(|span| hex::encode(&span.parent_span_id)).collect();
        assert_eq!(parents, expected);
        let told: Vec<_> = spans.iter().map(correlation).collect();
        let joined = vec!["header".to_owned(), "1".to_owned()];
        assert_eq!(told, if recorded { vec![joined, vec![], vec![]] } else { vec![] });
        assert_eq!(
            worker.counted(),
            counts(&[
                ("context_continued", 2),
                ("context_correlated", 1),
                ("correlation_remembered", 1)
            ])
        );
    }
}

#[test]
fn calls_of_one_trace_go_on_under_the_newest_request_and_link_the_others() {
    let mut worker = Worker::new("");
    let came = parent("01");
    let first = inbound(&[KEY, ("traceparent", &came)]);
    let (_one, one) = worker.begin(&first);
    worker.after(1);
    let (_two, two) = worker.begin(&first);
    worker.serve(&outbound(&[KEY]));
    let [span] = &*worker.spans() else { panic!() };
    assert_eq!(hex::encode(&span.parent_span_id), ids(&two["traceparent"]).1);
    let [link] = &*span.links else { panic!("{:?}", span.links) };
    assert_eq!(hex::encode(&link.trace_id), TRACE);
    assert_eq!(hex::encode(&link.span_id), ids(&one["traceparent"]).1);
    assert_eq!(correlation(span), ["header", "0.5", "2"]);
}

#[test]
fn calls_of_several_traces_begin_one_and_link_all() {
    let mut worker = Worker::new("");
    let (_one, one) = worker.begin(&inbound(&[KEY]));
    worker.after(1);
    let (_two, two) = worker.begin(&inbound(&[KEY_TRACED]));
    let called = worker.serve(&outbound(&[KEY]));
    let (trace, _, flags) = ids(&called["traceparent"]);
    assert_eq!((flags, &*called["tracestate"]), ("03", "ot=th:0"));
    let [span] = &*worker.spans() else { panic!() };
    assert_eq!((hex::encode(&span.trace_id), &*span.parent_span_id), (trace.to_owned(), &[][..]));
    let links: Vec<_> = span
        .links
        .iter()
        .map(|l| (hex::encode(&l.trace_id), hex::encode(&l.span_id), &*l.trace_state, l.flags))
        .collect();
    let link = |onward: &Onward| {
        let (trace, span, _) = ids(&onward["traceparent"]);
        (trace.to_owned(), span.to_owned(), "ot=th:0", 0x303)
    };
    assert_eq!(links, [link(&two), link(&one)]);
    assert_eq!(correlation(span), ["ambiguous", "0.5", "2"]);
    assert_eq!(
        worker.counted(),
        counts(&[("context_missing", 2), ("context_ambiguous", 1), ("correlation_remembered", 2)])
    );
}

/// What an edge has begun anew is what the application works for.
#[test]
fn the_trace_that_is_remembered_is_the_one_that_goes_on() {
    for trust in ["restart", "link"] {
        let more = format!(r#", "propagation": {{"trust": "{trust}"}}"#);
        let mut worker = Worker::new(&more);
        let came = parent("00");
        let (_open, app) = worker.begin(&inbound(&[KEY, ("traceparent", &came)]));
        let (trace, ..) = ids(&app["traceparent"]);
        assert_ne!(trace, TRACE);
        // Trust is about what callers send; this has not been sent.
        let called = worker.serve(&outbound(&[KEY]));
        assert_eq!(ids(&called["traceparent"]).0, trace, "{trust}");
        // And a context that is sent means what the configuration says.
        let called = worker.serve(&outbound(&[KEY, ("traceparent", &came)]));
        assert!(![trace, TRACE].contains(&ids(&called["traceparent"]).0), "{trust}");
    }
}

#[test]
fn a_context_that_is_sent_counts_and_an_invalid_one_does_not() {
    let mut worker = Worker::new("");
    let (_open, app) = worker.begin(&inbound(&[KEY]));
    let came = parent("01");
    let called = worker.serve(&outbound(&[KEY, ("traceparent", &came)]));
    assert_eq!(ids(&called["traceparent"]).0, TRACE);
    for bad in [("traceparent", "00-x"), ("b3", "0")] {
        let called = worker.serve(&outbound(&[KEY, bad, ("tracestate", "a=1")]));
        let (trace, _, flags) = ids(&called["traceparent"]);
        assert_eq!((trace, flags), (ids(&app["traceparent"]).0, "03"), "{bad:?}");
        assert_eq!(called["tracestate"], "ot=th:0");
    }
    assert_eq!(
        worker.counted(),
        counts(&[
            ("context_continued", 1),
            ("context_missing", 1),
            ("context_invalid", 1),
            ("context_correlated", 2),
            ("correlation_remembered", 1),
            ("context_invalid_tracecontext", 1),
        ])
    );
}

#[test]
fn no_context_goes_to_a_host_outside_and_the_span_is_joined() {
    let mut worker = Worker::new(r#", "propagation": {"egress": {"strip": ["shop"]}}"#);
    let other = Told {
        headers: [(":method", "GET"), (":path", "/"), (":authority", "here"), KEY]
            .into_iter()
            .collect(),
        ..inbound(&[])
    };
    let (_open, app) = worker.begin(&other);
    assert_eq!(worker.serve(&outbound(&[KEY])), Onward::new());
    let [span] = &*worker.spans() else { panic!() };
    let (trace, server, _) = ids(&app["traceparent"]);
    assert_eq!(hex::encode(&span.trace_id), trace);
    assert_eq!(hex::encode(&span.parent_span_id), server);
}

#[test]
fn only_a_workloads_own_requests_are_joined() {
    let callers = [(1, 1), (2, 1), (2, 2), (0, 2), (0, 0)];
    for (mode, pairs) in [
        ("auto", &callers[..]),
        ("gateway", &[(1, 2)]),
        ("inbound", &[(1, 2)]),
        ("outbound", &[(1, 2)]),
    ] {
        for &(first, second) in pairs {
            let mut worker = Worker::new(&format!(r#", "mode": "{mode}""#));
            let (_open, one) = worker.begin(&told(first, &[KEY]));
            let two = worker.serve(&told(second, &[KEY]));
            let (one, two) = (ids(&one["traceparent"]).0, ids(&two["traceparent"]).0);
            assert_ne!(one, two, "{mode} {first} {second}");
        }
    }
    // Two instances, as where the listeners have configurations of their own.
    let mut server = Worker::new(r#", "mode": "inbound""#);
    let (_open, one) = server.begin(&told(0, &[KEY]));
    let mut client = Worker::new(r#", "mode": "outbound""#);
    client.shared = core::mem::take(&mut server.shared);
    let two = client.serve(&told(0, &[KEY]));
    assert_eq!(ids(&one["traceparent"]).0, ids(&two["traceparent"]).0);
}

#[test]
fn the_listener_is_asked_for_once_and_shared_data_where_it_must() {
    let cost = |more: &str, told: &Told| {
        let mut worker = Worker::new(more);
        let before = worker.shared.calls.get();
        worker.serve(told);
        let asked = told.asked.borrow();
        let listener = asked.iter().filter(|name| *name == "xds.listener_direction").count();
        (worker.shared.calls.get().abs_diff(before), listener)
    };
    let came = parent("01");
    let forwarded = ("traceparent", &*came);
    let (off, both) = (r#", "correlation": {"headers": []}"#, "");
    assert_eq!(cost(both, &inbound(&[KEY])), (2, 1));
    assert_eq!(cost(both, &inbound(&[KEY, forwarded])), (2, 1));
    assert_eq!(cost(both, &inbound(&[])), (0, 1));
    assert_eq!(cost(both, &outbound(&[KEY])), (1, 1));
    assert_eq!(cost(both, &outbound(&[KEY, forwarded])), (0, 1));
    assert_eq!(cost(off, &inbound(&[KEY])), (0, 1));
    let unsampled = r#", "sampling": {"rate": 0}, "correlation": {"headers": []}"#;
    assert_eq!(cost(unsampled, &inbound(&[KEY])), (0, 0));
}

/// The headers of a request that Envoy's codec refused, say, never came to the application.
#[test]
fn what_never_went_on_is_not_remembered() {
    let mut worker = Worker::new("");
    worker.end(Stream::default(), &inbound(&[KEY]));
    assert_eq!(worker.shared.local.keys(), [""; 0]);
    let mut passive = Worker::new("");
    passive.plugin = Plugin::new(Config::parse(b"{}", &|_| None).unwrap(), None, &|_| None);
    passive.serve(&inbound(&[KEY]));
    passive.serve(&outbound(&[KEY]));
    assert_eq!(
        (passive.shared.calls.get(), passive.counted()),
        (0, counts(&[("context_missing", 2)]))
    );
}

const SINGLE: &str = r#", "correlation": {"headers": [], "infer": "single"}"#;
const BEST: &str = r#", "correlation": {"headers": [], "infer": "best"}"#;

fn trace_of(onward: &Onward) -> String {
    ids(&onward["traceparent"]).0.to_owned()
}

#[test]
fn single_joins_to_the_only_request_that_is_open() {
    let mut worker = Worker::new(SINGLE);
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let first = inbound(&[("traceparent", &traceparent), ("tracestate", "a=1")]);
    let (stream, onward) = worker.begin(&first);
    let call = worker.serve(&outbound(&[]));
    assert_eq!(trace_of(&call), TRACE);
    assert_eq!(call["tracestate"], "a=1");
    let (other, _) = worker.begin(&inbound(&[]));
    let call = worker.serve(&outbound(&[]));
    assert_ne!(trace_of(&call), TRACE, "two are open");
    worker.end(other, &inbound(&[]));
    worker.end(stream, &first);
    let call = worker.serve(&outbound(&[]));
    assert_ne!(trace_of(&call), TRACE, "none is open");
    assert_eq!(
        worker.counted(),
        counts(&[("context_continued", 1), ("context_missing", 3), ("context_single", 1)])
    );
    let spans = worker.spans();
    let parent = hex::decode(ids(&onward["traceparent"]).1).unwrap();
    assert_eq!(spans[0].parent_span_id, parent);
    assert_eq!(correlation(&spans[0]), ["single", "1"]);
}

/// What links say, as hex, and how sure they are.
fn links(span: &Span) -> Vec<(String, f64)> {
    let confidence = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
        let value = link.attributes.first().and_then(|a| a.value.clone()?.value);
        let Some(Value::DoubleValue(confidence)) = value else { panic!("{link:?}") };
        confidence
    };
    span.links.iter().map(|link| (hex::encode(&link.trace_id), confidence(link))).collect()
}

#[test]
fn best_learns_and_links_where_it_is_not_sure() {
    let mut worker = Worker::new(BEST);
    for round in 0..300 {
        let (stream, onward) = worker.begin(&inbound(&[]));
        worker.after(5 + round % 3);
        let call = worker.serve(&outbound(&[]));
        if round > 50 {
            assert_eq!(trace_of(&call), trace_of(&onward), "{round}");
        }
        worker.after(5);
        worker.end(stream, &inbound(&[]));
        worker.after(5);
        if round % 50 == 0 {
            worker.spans();
        }
    }
    worker.spans();
    let (early, early_onward) = worker.begin(&inbound(&[]));
    let (late, late_onward) = worker.begin(&inbound(&[]));
    worker.after(6);
    let call = worker.serve(&outbound(&[]));
    let ours = [trace_of(&early_onward), trace_of(&late_onward)];
    assert!(!ours.contains(&trace_of(&call)));
    worker.after(5);
    // No request ends before it has made its call.
    worker.end(early, &inbound(&[]));
    let spans = worker.spans();
    let mut linked: Vec<_> = links(&spans[0]).into_iter().map(|(trace, _)| trace).collect();
    linked.sort();
    let mut ours = ours.to_vec();
    ours.sort();
    assert_eq!(linked, ours);
    assert_eq!(correlation(&spans[0])[0], "ambiguous");
    let told = links(&spans[1]);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].0, trace_of(&call));
    assert!(told[0].1 > 0.95, "{told:?}");
    worker.end(late, &inbound(&[]));
}

#[test]
fn declared_calls_are_made_by_no_other_request() {
    let config = r#", "correlation": {"headers": [], "infer": "best",
        "calls": [{"from": {"headers": {"x-kind": "a"}}, "to": {"host": "shop"}}]}"#;
    let mut worker = Worker::new(config);
    for _ in 0..40 {
        let (stream, _) = worker.begin(&inbound(&[("x-kind", "a")]));
        worker.after(2);
        worker.serve(&outbound(&[]));
        worker.after(2);
        worker.end(stream, &inbound(&[]));
    }
    worker.spans();
    let (one, _) = worker.begin(&inbound(&[("x-kind", "b")]));
    let (two, onward) = worker.begin(&inbound(&[("x-kind", "a")]));
    worker.after(2);
    let call = worker.serve(&outbound(&[]));
    assert_eq!(trace_of(&call), trace_of(&onward));
    worker.end(one, &inbound(&[]));
    worker.end(two, &inbound(&[]));
}

/// Whatever a stranger writes where open requests and delays are kept: nothing is joined wrongly,
/// nothing traps.
#[test]
fn strangers_in_the_store_of_inference_change_nothing() {
    for garbage in [&b""[..], b"x", &[0; 64], &[0xff; 4096], b"MWT1\xff\xff\xff\xff"] {
        let mut worker = Worker::new(BEST);
        for key in ["meshweft/1/infer/open", "meshweft/1/infer/learned"] {
            worker.shared.set(key, garbage, 0).unwrap();
        }
        let (stream, onward) = worker.begin(&inbound(&[]));
        for key in ["meshweft/1/infer/open", "meshweft/1/infer/learned"] {
            worker.shared.set(key, garbage, 0).unwrap();
        }
        let call = worker.serve(&outbound(&[]));
        assert_ne!(trace_of(&call), trace_of(&onward));
        worker.end(stream, &inbound(&[]));
        worker.spans();
    }
}
