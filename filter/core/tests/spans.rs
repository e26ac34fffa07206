//! Spans beside the one of a whole request, in virtual time: open streams, tries at an upstream.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::attempt::Attempt;
use meshweft_core::config::Config;
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, UnixNanos};
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
const SECOND: u64 = 1_000_000_000;

/// A request as the host shows it, with the filter state that its filters share.
#[derive(Default)]
struct Host {
    headers: RefCell<Vec<(String, String)>>,
    properties: RefCell<BTreeMap<String, Vec<u8>>>,
    response: RefCell<BTreeMap<String, String>>,
}

impl Host {
    fn request(headers: &[(&str, &str)]) -> Self {
        let pseudo =
            [(":method", "GET"), (":path", "/a"), (":authority", "shop"), (":scheme", "http")];
        let all = pseudo.iter().chain(headers).map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Self { headers: RefCell::new(all.collect()), ..Self::default() }
    }

    fn int(&self, path: &str, value: u64) {
        self.properties.borrow_mut().insert(path.to_owned(), value.to_le_bytes().to_vec());
    }

    fn text(&self, path: &str, value: &str) {
        self.properties.borrow_mut().insert(path.to_owned(), value.as_bytes().to_vec());
    }

    fn forget(&self, path: &str) {
        self.properties.borrow_mut().remove(path);
    }

    fn answer(&self, name: &str, value: &str) {
        self.response.borrow_mut().insert(name.to_owned(), value.to_owned());
    }

    fn header(&self, name: &str) -> String {
        let headers = self.headers.borrow();
        headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default()
    }

    fn edit(&self, edits: Vec<HeaderEdit>) {
        for edit in edits {
            let HeaderEdit::Set(name, value) = edit else { panic!("{edit:?}") };
            let mut headers = self.headers.borrow_mut();
            headers.retain(|(n, _)| *n != name);
            headers.push((name.into_owned(), value));
        }
    }
}

impl Exchange for Host {
    fn request_headers(&self) -> Headers {
        self.headers.borrow().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.properties.borrow().get(&path.join(".")).cloned()
    }
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        self.response.borrow().get(name).map(|value| value.as_bytes().to_vec())
    }
}

struct Worker {
    plugin: Plugin,
    rng: SmallRng,
    now: u64,
    shared: Local,
}

impl Worker {
    fn new(fields: &str) -> Self {
        let config = format!(r#"{{"export": {{"cluster": "collector"}}, {fields}}}"#);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(7),
            now: 1_000 * SECOND,
            shared: Local::default(),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = MonoNanos(self.now).after(time).0;
        self.shared.clock.set(MonoNanos(self.now));
    }

    /// A second goes by; what is exported at its end.
    fn tick(&mut self) -> Vec<Span> {
        self.pass(Duration::from_secs(1));
        let tick = self.plugin.on_tick(MonoNanos(self.now), UnixNanos(self.now), &self.shared);
        let requests =
            tick.calls.iter().map(|call| ExportTraceServiceRequest::decode(&*call.body).unwrap());
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|spans| spans.scope_spans)
            .flat_map(|spans| spans.spans)
            .collect()
    }

    fn sampled(&mut self) -> i64 {
        let updates = self.plugin.metrics.take();
        let named = updates
            .iter()
            .filter(|update| self.plugin.metric_name(update.metric) == "meshweft_sampled");
        named.map(|update| update.value).sum()
    }

    /// A try begins; what it goes with stands on the request.
    fn attempt(&mut self, host: &Host, number: u64, address: &str) -> Attempt {
        host.int("upstream.request_attempt_count", number);
        host.text("upstream.address", address);
        host.response.borrow_mut().clear();
        let mut attempt = Attempt::default();
        let effects =
            attempt.on_request_headers(&mut self.plugin, host, UnixNanos(self.now), &mut self.rng);
        host.edit(effects.edits);
        for (name, value) in effects.filter_state {
            host.text(name, &value);
        }
        attempt
    }

    fn done(&mut self, mut attempt: Attempt, host: &Host) {
        attempt.on_done(&mut self.plugin, host, MonoNanos(self.now), UnixNanos(self.now));
    }
}

fn line(span: &Span, names: &[&str]) -> String {
    let value = |name: &&str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == **name)?;
        Some(match attribute.value.clone()?.value? {
            Value::StringValue(text) => format!("{name}={text}"),
            Value::IntValue(number) => format!("{name}={number}"),
            other => format!("{name}={other:?}"),
        })
    };
    let message = span.status.as_ref().map(|status| status.message.clone());
    let all = names.iter().filter_map(value).chain(message.map(|m| format!("error: {m}")));
    all.collect::<Vec<_>>().join(" ")
}

fn seconds(span: &Span) -> (u64, u64) {
    (span.start_time_unix_nano / SECOND, span.end_time_unix_nano / SECOND)
}

#[test]
fn a_stream_without_an_end_is_told_of_and_told_again_when_it_ends() {
    let mut worker = Worker::new(r#""spans": {"open_after": "5s"}"#);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let host = Host::request(&[("traceparent", &parent)]);
    host.int("request.time", 1_000 * SECOND);
    worker.pass(Duration::ZERO);
    let mut stream = Stream::default();
    let effects =
        stream.on_request_headers(&mut worker.plugin, &host, &worker.shared, &mut worker.rng);
    host.edit(effects.edits);
    let brief_host = Host::request(&[]);
    brief_host.int("request.time", 1_000 * SECOND);
    let mut brief = Stream::default();
    let _ =
        brief.on_request_headers(&mut worker.plugin, &brief_host, &worker.shared, &mut worker.rng);
    let end = |stream: &mut Stream, worker: &mut Worker, host: &Host| {
        host.int("response.code", 200);
        host.int("request.duration", worker.now.saturating_sub(1_000 * SECOND));
        stream.on_log(&mut worker.plugin, host, &worker.shared, &mut worker.rng);
    };
    assert_eq!([(); 2].map(|()| worker.tick().len()), [0, 0]);
    end(&mut brief, &mut worker, &brief_host);
    let ended = worker.tick();
    assert_eq!(ended.iter().map(|s| line(s, &["meshweft.stream"])).collect::<Vec<_>>(), [""]);
    // It is due at the fifth tick, and waits a batch's interval for company.
    assert_eq!([(); 2].map(|()| worker.tick().len()), [0, 0]);
    let told = worker.tick();
    let [open] = &*told else { panic!("{told:?}") };
    let names = ["http.request.method", "url.path", "http.response.status_code", "meshweft.stream"];
    assert_eq!(line(open, &names), "http.request.method=GET url.path=/a meshweft.stream=open");
    assert_eq!(seconds(open), (1_000, 1_005));
    let forwarded = host.header("traceparent");
    assert_eq!(forwarded, format!("00-{TRACE}-{}-01", hex::encode(&open.span_id)));
    // Once only.
    assert_eq!([(); 9].map(|()| worker.tick().len()), [0; 9]);
    end(&mut stream, &mut worker, &host);
    let told = worker.tick();
    let [finished] = &*told else { panic!("{told:?}") };
    assert_eq!(
        line(finished, &names),
        "http.request.method=GET url.path=/a http.response.status_code=200 meshweft.stream=finished"
    );
    assert_eq!(seconds(finished), (1_000, 1_015));
    assert_ne!(finished.span_id, open.span_id);
    assert_eq!(hex::encode(&finished.parent_span_id), PARENT);
    assert_eq!((&finished.trace_id, &finished.name), (&open.trace_id, &open.name));
    let links: Vec<_> = finished.links.iter().map(|l| (&l.trace_id, &l.span_id)).collect();
    assert_eq!(links, [(&open.trace_id, &open.span_id)]);
    assert_eq!(worker.sampled(), 3);
}

#[test]
fn tries_are_children_of_the_request_and_siblings() {
    let mut worker = Worker::new(r#""mode": "upstream""#);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let host = Host::request(&[("traceparent", &parent), ("tracestate", "a=1")]);
    let mut forwarded = Vec::new();
    // No connection.
    let first = worker.attempt(&host, 1, "10.0.0.1:80");
    forwarded.push(host.header("traceparent"));
    worker.pass(Duration::from_secs(1));
    host.text("upstream.transport_failure_reason", "connection refused");
    worker.done(first, &host);
    host.forget("upstream.transport_failure_reason");
    // A retry that is too slow, and beside it a third try, which answers.
    worker.pass(Duration::from_secs(1));
    let slow = worker.attempt(&host, 2, "10.0.0.2:80");
    forwarded.push(host.header("traceparent"));
    worker.pass(Duration::from_secs(1));
    let mut fast = worker.attempt(&host, 3, "[fd00::1]:80");
    forwarded.push(host.header("traceparent"));
    worker.pass(Duration::from_secs(1));
    host.answer(":status", "503");
    fast.on_response_headers(&host);
    host.int("response.code", 503);
    worker.done(slow, &host);
    worker.done(fast, &host);
    assert_eq!(worker.sampled(), 3);
    let spans = worker.tick();
    let names = [
        "http.response.status_code",
        "error.type",
        "network.peer.address",
        "http.request.resend_count",
        "envoy.attempt.kind",
        "envoy.attempt.outcome",
    ];
    assert_eq!(
        spans.iter().map(|span| (line(span, &names), seconds(span))).collect::<Vec<_>>(),
        [
            (
                "error.type=connection_failure network.peer.address=10.0.0.1 \
                 error: connection refused"
                    .to_owned(),
                (1_000, 1_001)
            ),
            (
                "network.peer.address=10.0.0.2 http.request.resend_count=1 \
                 envoy.attempt.kind=retry envoy.attempt.outcome=superseded"
                    .to_owned(),
                (1_002, 1_004)
            ),
            (
                "http.response.status_code=503 error.type=503 network.peer.address=fd00::1 \
                 http.request.resend_count=2 envoy.attempt.kind=hedge error: "
                    .to_owned(),
                (1_003, 1_004)
            ),
        ]
    );
    for (span, forwarded) in spans.iter().zip(forwarded) {
        assert_eq!(forwarded, format!("00-{TRACE}-{}-01", hex::encode(&span.span_id)));
        assert_eq!(hex::encode(&span.parent_span_id), PARENT);
        assert_eq!((span.kind, &*span.name, &*span.trace_state), (3, "GET", "a=1"));
    }
    // A request of another parent on the same stream, as an internal redirect makes one.
    let other = format!("00-{TRACE}-00f067aa0ba90200-01");
    host.edit(vec![HeaderEdit::Set("traceparent".into(), other)]);
    let redirected = worker.attempt(&host, 1, "10.0.0.1:80");
    worker.done(redirected, &host);
    let parents: Vec<_> = worker.tick().iter().map(|s| hex::encode(&s.parent_span_id)).collect();
    assert_eq!(parents, ["00f067aa0ba90200"]);
}

#[test]
fn a_try_of_what_is_not_recorded_is_left_alone() {
    for headers in [
        &[][..],
        &[("traceparent", &*format!("00-{TRACE}-{PARENT}-00"))],
        &[("traceparent", "garbage")],
        &[("b3", "0")],
        &[("b3", "1")],
    ] {
        let mut worker = Worker::new(r#""mode": "upstream""#);
        let host = Host::request(headers);
        let before = host.headers.borrow().clone();
        let mut attempt = worker.attempt(&host, 1, "10.0.0.1:80");
        attempt.on_response_headers(&host);
        attempt.on_response_trailers(&host);
        worker.done(attempt, &host);
        assert_eq!(*host.headers.borrow(), before);
        assert_eq!((worker.tick(), worker.sampled()), (vec![], 0));
    }
    // Strange filter state is nobody's parent.
    for state in ["", "-", "x-y", "00f067aa0ba902b7-", "00f067aa0ba902b7-00f067aa0ba902b8"] {
        let mut worker = Worker::new(r#""mode": "upstream""#);
        let host = Host::request(&[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
        host.text("meshweft.tries", state);
        let attempt = worker.attempt(&host, 1, "");
        worker.done(attempt, &host);
        let parents: Vec<_> =
            worker.tick().iter().map(|s| hex::encode(&s.parent_span_id)).collect();
        assert_eq!(parents, [PARENT], "{state}");
    }
}

#[test]
fn a_grpc_try_ends_with_its_trailers() {
    let mut worker = Worker::new(r#""mode": "upstream""#);
    for (headers, trailers, expected) in [
        (None, Some("0"), "rpc.grpc.status_code=0"),
        (None, Some("14"), "error.type=14 rpc.grpc.status_code=14 error: "),
        (Some("5"), None, "error.type=5 rpc.grpc.status_code=5 error: "),
        (None, Some("x"), ""),
    ] {
        let host = Host::request(&[
            ("traceparent", &format!("00-{TRACE}-{PARENT}-01")),
            ("content-type", "application/grpc"),
        ]);
        let mut attempt = worker.attempt(&host, 1, "10.0.0.1:80");
        host.answer(":status", "200");
        if let Some(status) = headers {
            host.answer("grpc-status", status);
        }
        attempt.on_response_headers(&host);
        if let Some(status) = trailers {
            host.answer("grpc-status", status);
            attempt.on_response_trailers(&host);
        }
        worker.done(attempt, &host);
        let spans = worker.tick();
        let [span] = &*spans else { panic!("{spans:?}") };
        assert_eq!(line(span, &["error.type", "rpc.grpc.status_code"]), expected);
    }
}
