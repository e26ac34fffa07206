//! What is kept for its outcome, in virtual time, as the collector gets it.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::{RequestEffects, Stream};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";

/// A request as the emulated host shows it.
#[derive(Clone, Default)]
struct Told {
    headers: Vec<(String, String)>,
    properties: BTreeMap<String, Vec<u8>>,
}

impl Exchange for Told {
    fn request_headers(&self) -> Headers {
        self.headers.iter().map(|(name, value)| (name, value)).collect()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.properties.get(&path.join(".")).cloned()
    }
}

impl Told {
    fn new(headers: &[(&str, &str)]) -> Self {
        let pseudo =
            [(":method", "GET"), (":path", "/a"), (":authority", "shop"), (":scheme", "http")];
        let mut told = Self::default();
        for (name, value) in pseudo.iter().chain(headers) {
            told.headers.push(((*name).to_owned(), (*value).to_owned()));
        }
        told.with("request.time", 1_700_000_000_000_000_000)
    }

    fn with(mut self, property: &str, value: i64) -> Self {
        self.properties.insert(property.to_owned(), value.to_le_bytes().to_vec());
        self
    }

    /// The same when it is over, with this status and after so many milliseconds.
    fn over(self, status: i64, millis: i64) -> Self {
        self.with("response.code", status)
            .with("request.duration", millis.saturating_mul(1_000_000))
            .with("response.flags", 0)
    }

    fn edit(&mut self, edits: Vec<HeaderEdit>) {
        for edit in edits {
            match edit {
                HeaderEdit::Add(name, value) => self.headers.push((name.into_owned(), value)),
                HeaderEdit::Remove(gone) => self.headers.retain(|(name, _)| *name != gone),
                HeaderEdit::Set(name, value) => {
                    self.headers.retain(|(other, _)| *other != name);
                    self.headers.push((name.into_owned(), value));
                }
            }
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

/// One worker with one instance.
struct Worker {
    plugin: Plugin,
    rng: SmallRng,
    now: MonoNanos,
    shared: Local,
}

impl Worker {
    fn new(sampling: &str) -> Self {
        Self::with(sampling, r#""propagation": {}"#)
    }

    fn with(sampling: &str, more: &str) -> Self {
        let config = format!(r#"{{"export": {{"cluster": "c"}}, "sampling": {sampling}, {more}}}"#);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(7),
            now: MonoNanos(1),
            shared: Local::default(),
        }
    }

    /// The headers of a request come, and go on as this says.
    fn begin(&mut self, told: &mut Told) -> Stream {
        let mut stream = Stream::default();
        let RequestEffects { edits, .. } =
            stream.on_request_headers(&mut self.plugin, told, &self.shared, &mut self.rng);
        told.edit(edits);
        stream
    }

    /// A request is over.
    fn end(&mut self, mut stream: Stream, told: &Told) {
        stream.on_log(&mut self.plugin, told, &self.shared, &mut self.rng);
    }

    /// Serves a request that is answered in full with this status after so many milliseconds;
    /// gives it as it went on.
    fn serve(&mut self, mut told: Told, status: i64, millis: i64) -> Told {
        let mut stream = self.begin(&mut told);
        stream.on_response_end();
        self.end(stream, &told.clone().over(status, millis));
        told
    }

    /// What has been exported since the last time.
    fn spans(&mut self) -> Vec<Span> {
        self.now = self.now.after(Duration::from_secs(1));
        let calls = self.plugin.on_tick(self.now, UnixNanos(self.now.0), &self.shared).calls;
        let requests =
            calls.iter().map(|call| ExportTraceServiceRequest::decode(&*call.body).unwrap());
        let resources = requests.flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    fn metrics(&mut self) -> BTreeMap<String, i64> {
        let updates = self.plugin.metrics.take();
        updates.iter().map(|u| (self.plugin.metric_name(u.metric), u.value)).collect()
    }
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == name);
    match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        None => String::new(),
        Some(other) => panic!("{other:?}"),
    }
}

/// Why a span was kept, and what had dropped it.
fn reasons(spans: &[Span]) -> Vec<(String, String)> {
    let of = |span| (attribute(span, "meshweft.keep"), attribute(span, "meshweft.sampling.reason"));
    spans.iter().map(of).collect()
}

fn pair(keep: &str, reason: &str) -> (String, String) {
    (keep.to_owned(), reason.to_owned())
}

#[test]
fn a_kept_span_is_the_one_that_was_forwarded() {
    let mut worker = Worker::with(
        r#"{"keep": {"errors": true}}"#,
        r#""propagation": {"baggage": {"attributes": ["tenant"]}}"#,
    );
    let traceparent = format!("00-{TRACE}-{PARENT}-00");
    let told = || {
        Told::new(&[
            ("traceparent", &traceparent),
            ("tracestate", "ot=th:8;rv:00000000000001,a=1"),
            ("baggage", "tenant=acme"),
        ])
    };
    worker.serve(told(), 200, 5);
    assert_eq!(worker.spans(), []);
    let forwarded = worker.serve(told(), 503, 5);
    let [span] = &*worker.spans() else { panic!("one span") };
    let went_on = format!("00-{}-{}-00", hex::encode(&span.trace_id), hex::encode(&span.span_id));
    assert_eq!(forwarded.header("traceparent"), went_on);
    assert_eq!(hex::encode(&span.trace_id), TRACE);
    assert_eq!(hex::encode(&span.parent_span_id), PARENT);
    // What was forwarded was not sampled, and no rate kept it; that the parent is remote is known.
    assert_eq!(span.flags, 0x300);
    assert_eq!(span.trace_state, "ot=rv:00000000000001,a=1");
    assert_eq!(span.trace_state, forwarded.header("tracestate"));
    assert_eq!(attribute(span, "tenant"), "acme");
    assert_eq!(attribute(span, "http.response.status_code"), "503");
    assert_eq!(reasons(std::slice::from_ref(span)), [pair("errors", "parent")]);
    let mut metrics = worker.metrics();
    metrics.retain(|name, _| {
        ["sampled", "kept", "meshweft_requests"].iter().any(|n| name.ends_with(n))
    });
    let counted = [("requests", 2), ("not_sampled", 2), ("kept", 1)];
    let counted = counted.map(|(name, count)| (format!("meshweft_{name}"), count));
    assert_eq!(metrics, counted.into_iter().collect());
}

#[test]
fn a_kept_span_links_to_what_was_not_trusted() {
    let mut worker = Worker::with(
        r#"{"rate": 0, "keep": {"errors": true}}"#,
        r#""propagation": {"trust": "link"}"#,
    );
    worker.serve(Told::new(&[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]), 503, 5);
    let [span] = &*worker.spans() else { panic!("one span") };
    assert_ne!(hex::encode(&span.trace_id), TRACE);
    assert_eq!(hex::encode(&span.parent_span_id), "");
    let links: Vec<_> = span
        .links
        .iter()
        .map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id)))
        .collect();
    assert_eq!(links, [(TRACE.to_owned(), PARENT.to_owned())]);
    assert_eq!(reasons(std::slice::from_ref(span)), [pair("errors", "default")]);
}

/// Other filters and the router write over some headers before the end.
#[test]
fn a_kept_span_speaks_of_the_request_as_it_came() {
    let mut worker = Worker::new(r#"{"rate": 0, "keep": {"errors": true}}"#);
    let mut told = Told::new(&[("user-agent", "test/1")]);
    let stream = worker.begin(&mut told);
    for (name, value) in &mut told.headers {
        *value = match name.as_str() {
            ":method" => "POST",
            ":path" => "/shop.Cart/Add",
            ":authority" => "elsewhere:81",
            ":scheme" => "https",
            _ => continue,
        }
        .to_owned();
    }
    told.headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
    let told = told.over(500, 5).with("response.grpc_status", 13);
    worker.end(stream, &told);
    let [span] = &*worker.spans() else { panic!("one span") };
    let facts = ["http.request.method", "url.path", "server.address", "url.scheme", "rpc.method"]
        .map(|name| attribute(span, name));
    assert_eq!(facts, ["GET", "/a", "shop", "http", ""]);
    assert_eq!(attribute(span, "user_agent.original"), "test/1");
}

/// We write over some headers ourselves.
#[test]
fn an_attribute_of_a_kept_span_is_that_of_a_sampled_one() {
    let attributes = r#""spans": {"attributes": [
        {"name": "from", "request_header": "traceparent"},
        {"name": "tenant", "request_header": "x-tenant"},
        {"name": "tenants", "request_header": "x-tenant", "pattern": "b"},
        {"name": "late", "request_header": "x-late"}]}"#;
    let came = format!("00-{TRACE}-{PARENT}-00");
    for sampling in [
        r#"{"parent": "ignore", "rate": 0, "keep": {"errors": true}}"#,
        r#"{"parent": "ignore", "rate": 1}"#,
    ] {
        let mut worker = Worker::with(sampling, attributes);
        let mut told = Told::new(&[("traceparent", &came), ("x-tenant", "a"), ("x-tenant", "b")]);
        let stream = worker.begin(&mut told);
        assert_ne!(told.header("traceparent"), came);
        told.headers.retain(|(name, _)| name != "x-tenant");
        told.headers.push(("x-tenant".to_owned(), "other".to_owned()));
        told.headers.push(("x-late".to_owned(), "yes".to_owned()));
        worker.end(stream, &told.over(500, 5));
        let [span] = &*worker.spans() else { panic!("one span") };
        let found = ["from", "tenant", "tenants", "late"].map(|name| attribute(span, name));
        assert_eq!(found, [&*came, "a,b", "b", ""], "{sampling}");
    }
}

#[test]
fn what_the_head_decided_stands_beside_why_it_was_kept() {
    let mut worker = Worker::new(
        r#"{"rate": 0, "keep": {"status": ["5xx"], "slower_than": "500ms"}, "rules": [
            {"name": "health", "match": {"path": "/healthz"}, "keep": false},
            {"name": "limited", "match": {"path": "/limited"}, "rate": 1, "limit_per_second": 0.1},
            {"name": "all", "match": {"path": "/all"}, "rate": 1},
            {"name": "none", "match": {"path": "/none"}, "rate": 0, "keep": true}]}"#,
    );
    let mut serve = |path: &str, status, millis| {
        let mut told = Told::new(&[]);
        told.edit(vec![HeaderEdit::Set(":path".into(), path.to_owned())]);
        worker.serve(told, status, millis);
        reasons(&worker.spans())
    };
    assert_eq!(serve("/limited", 503, 5), [pair("", "rule:limited")]);
    assert_eq!(serve("/limited", 503, 5), [pair("status", "limit:limited")]);
    assert_eq!(serve("/all", 503, 5), [pair("", "rule:all")]);
    assert_eq!(serve("/none", 200, 501), [pair("slower_than", "rule:none")]);
    assert_eq!(serve("/none", 503, 501), [pair("status", "rule:none")]);
    assert_eq!(serve("/none", 200, 500), []);
    assert_eq!(serve("/", 500, 5), [pair("status", "default")]);
    assert_eq!(serve("/healthz", 503, 5000), []);
}

#[test]
fn a_response_that_did_not_come_to_its_end_may_be_broken() {
    let mut worker = Worker::new(r#"{"rate": 0, "keep": {"errors": true}}"#);
    let mut told = Told::new(&[]);
    let stream = worker.begin(&mut told);
    // The upstream closed the connection.
    worker.end(stream, &told.over(200, 5).with("response.flags", 1 << 6));
    let [span] = &*worker.spans() else { panic!("one span") };
    assert_eq!(attribute(span, "envoy.response_flags"), "UC");
    assert_eq!(reasons(std::slice::from_ref(span)), [pair("errors", "default")]);
}

/// No callback but the last: the request never reached the filter.
#[test]
fn what_is_seen_at_its_end_alone_is_kept_too() {
    let mut worker = Worker::new(r#"{"rate": 0, "keep": {"errors": true}}"#);
    for status in [400, 500, 0] {
        worker.end(Stream::default(), &Told::new(&[]).over(status, 0));
    }
    let spans = worker.spans();
    let statuses: Vec<_> =
        spans.iter().map(|span| attribute(span, "http.response.status_code")).collect();
    assert_eq!(statuses, ["500", ""]);
}

#[test]
fn without_keep_nothing_is_kept() {
    let mut worker = Worker::new(r#"{"rate": 0}"#);
    worker.serve(Told::new(&[]), 503, 5000);
    assert_eq!(worker.spans(), []);
}
