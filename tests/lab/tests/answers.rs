//! What callers and access logs are told of the trace, however a request ends.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};

use meshweft_lab::app::TIMED;
use meshweft_lab::client::{Answer, Client, Version, raw};
use meshweft_lab::collector::Span;
use meshweft_lab::config::route;
use meshweft_lab::ends::all_ways_to_end;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::{Value, json};

const PARENT: &str = "00f067aa0ba902b7";

/// A configuration that tells everything, and does not record what has the header `x-rule`.
fn telling() -> Value {
    exporting(json!({
        "propagation": {
            "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
            "access_log": ["trace_id", "span_id", "sampled"],
        },
        "sampling": {"rules": [
            {"name": "none", "match": {"headers": {"x-rule": {"present": true}}}, "rate": 0},
        ]},
    }))
}

/// What an answer says of the trace: each header with all its values.
fn told(answer: &Answer) -> BTreeMap<&str, Vec<&str>> {
    let mut told: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        if ["traceresponse", "server-timing", "x-trace-id"].contains(&&**name) {
            let value = str::from_utf8(value).expect("text");
            told.entry(name).or_default().push(value);
        }
    }
    told
}

/// What it must say of this context.
fn of<'a>(trace_id: &'a str, parent: &'a str, timing: &'a str) -> BTreeMap<&'a str, Vec<&'a str>> {
    let pairs = [("traceresponse", parent), ("server-timing", timing), ("x-trace-id", trace_id)];
    pairs.into_iter().map(|(name, value)| (name, vec![value])).collect()
}

/// A request: listener, version, method, path, more headers; and the status of its answer.
type Request = (&'static str, Version, &'static str, &'static str, Headers, u16);
type Headers = &'static [(&'static str, &'static str)];

/// How an exchange may end that the filter has seen begin.
const SEEN: [Request; 16] = [
    ("inbound", Version::H1, "GET", "/a", &[], 200),
    ("outbound", Version::H1, "GET", "/a", &[], 200),
    ("gateway", Version::H1, "HEAD", "/a", &[], 200),
    ("inbound", Version::H1, "GET", "/stream", &[], 200),
    ("inbound-h2", Version::H2, "GET", "/stream", &[], 200),
    ("inbound", Version::H1, "GET", "/status/404", &[], 404),
    ("inbound", Version::H1, "GET", "/status/500", &[], 500),
    ("inbound-h2", Version::H2, "POST", "/a.B/Get", &[("content-type", "application/grpc")], 200),
    ("inbound-h2", Version::H2, "POST", "/a.B/Fail", &[("content-type", "application/grpc")], 200),
    // Envoy's own answers: a direct one, a redirect, a filter behind ours, an upstream that does
    // not listen, no cluster, a reset before the answer; and no upstream at all, as gRPC.
    ("inbound", Version::H1, "GET", "/direct", &[], 418),
    ("inbound", Version::H1, "GET", "/moved", &[], 301),
    ("inbound", Version::H1, "GET", "/denied", &[], 403),
    ("outbound", Version::H1, "GET", "/closed", &[], 503),
    ("inbound", Version::H1, "GET", "/nowhere", &[], 503),
    ("inbound", Version::H1, "GET", "/reset", &[], 503),
    ("inbound-h2", Version::H2, "POST", "/empty.A/B", &[("content-type", "application/grpc")], 200),
];

async fn send(lab: &Workload, request: &Request, more: &[(&str, &str)]) -> Answer {
    let (listener, version, method, path, headers, status) = *request;
    let headers = headers.iter().chain(more).map(|(n, v)| (*n, v.as_bytes())).collect::<Vec<_>>();
    let to = lab.envoy.listener(listener);
    let answer = Client::new(version).send(method, to, path, &headers, bytes::Bytes::new()).await;
    let answer = answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
    assert_eq!(answer.status, status, "{method} {path}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_the_trace() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let lab = Workload::with(&telling(), all_ways_to_end()).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    // A new trace, one that goes on, and one that is not recorded.
    let ways = [("", "", "03"), ("traceparent", &*parent, "01"), ("x-rule", "none", "02")];
    let mut expected = BTreeSet::new();
    for request in &SEEN {
        for (name, value, flags) in ways {
            let more = [(name, value)];
            let more = if name.is_empty() { &[][..] } else { &more };
            let answer = send(&lab, request, more).await;
            let parent = told(&answer)["traceresponse"].join("|");
            let fields: Vec<_> = parent.split('-').collect();
            let ["00", trace_id, span_id, last] = *fields else { panic!("{parent} {request:?}") };
            let timing = format!("traceparent;desc=\"{parent}\"");
            assert_eq!(told(&answer), of(trace_id, &parent, &timing), "{request:?}");
            assert_eq!((last, trace_id == TRACE), (flags, flags == "01"), "{request:?}");
            if flags != "02" {
                expected.insert((trace_id.to_owned(), span_id.to_owned()));
            }
        }
    }
    let spans = lab.settled(i64::try_from(SEEN.len() * ways.len()).expect("few")).await;
    assert_eq!(spans.into_iter().map(ids).collect::<BTreeSet<_>>(), expected);
    lab.envoy.stop().await;
}

fn ids(span: Span) -> (String, String) {
    (span.trace_id, span.span_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_application_says_of_itself_stays_beside_it() {
    let lab = Workload::start(&telling()).await;
    let request = ("inbound", Version::H1, "GET", "/timed", &[][..], 200);
    let answer = send(&lab, &request, &[]).await;
    let spans = lab.settled(1).await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    // One span is the nearest to the caller; timings are of everyone.
    let parent = format!("00-{}-{}-03", span.trace_id, span.span_id);
    let timing = format!("traceparent;desc=\"{parent}\"");
    let mut expected = of(&span.trace_id, &parent, TIMED.0);
    expected.entry("server-timing").or_default().push(&timing);
    assert_eq!(told(&answer), expected);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_where_nothing_is_asked_for() {
    let lab = Workload::start(&exporting(json!({}))).await;
    let request = ("inbound", Version::H1, "GET", "/timed", &[][..], 200);
    let answer = send(&lab, &request, &[]).await;
    let own = [("server-timing", vec![TIMED.0]), ("traceresponse", vec![TIMED.1])];
    assert_eq!(told(&answer), BTreeMap::from(own));
    lab.envoy.stop().await;
}

/// Requests that end before they come to the filter, as bytes; and the status.
const UNSEEN: [(&str, u16); 5] = [
    ("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 503\r\n", 503),
    ("OPTIONS * HTTP/1.1\r\nhost: a\r\n", 404),
    ("GET / HTTP/1.1\r\n", 400),
    ("BREW / HTTP/1.1\r\nhost: a\r\n", 400),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n", 400),
];

/// Envoy does not call a filter for the answer to a request that it has not shown it: there is a
/// span, and access logs have its ids, but the caller is not told.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_ends_before_the_filter_is_in_the_logs_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("access.log");
    let options = Options { access_log: Some(log.clone()), ..all_ways_to_end() };
    let lab = Workload::with(&telling(), options).await;
    for (request, status) in UNSEEN {
        let request = format!("{request}connection: close\r\n\r\n");
        let answer = raw(lab.envoy.listener("inbound"), request.as_bytes()).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, told(&answer)), (status, BTreeMap::new()), "{request:?}");
    }
    let spans = lab.settled(i64::try_from(UNSEEN.len()).expect("few")).await;
    let lines = lab.envoy.access_log_lines(&log, UNSEEN.len()).await;
    assert_eq!(joined(&lines, &spans), [("true", UNSEEN.len())].into());
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_logs_join_with_spans() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("access.log");
    let options = Options { access_log: Some(log.clone()), ..all_ways_to_end() };
    let lab = Workload::with(&telling(), options).await;
    for request in &SEEN {
        send(&lab, request, &[]).await;
        send(&lab, request, &[("x-rule", "none")]).await;
    }
    let requests = 2 * SEEN.len();
    let spans = lab.settled(i64::try_from(requests).expect("few")).await;
    let lines = lab.envoy.access_log_lines(&log, requests).await;
    assert_eq!(joined(&lines, &spans), [("true", SEEN.len()), ("false", SEEN.len())].into());
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_route_is_told_and_logged() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("access.log");
    let known = json!([{"name": "known", "domains": ["known"], "routes": [route("/", "app")]}]);
    let manager = json!({"route_config": {"virtual_hosts": known}});
    let options = Options { access_log: Some(log.clone()), manager, ..Options::default() };
    let lab = Workload::with(&telling(), options).await;
    let request = ("inbound", Version::H1, "GET", "/a", &[("host", "unknown")][..], 404);
    let answer = send(&lab, &request, &[]).await;
    let spans = lab.settled(1).await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    let parent = format!("00-{}-{}-03", span.trace_id, span.span_id);
    let timing = format!("traceparent;desc=\"{parent}\"");
    assert_eq!(told(&answer), of(&span.trace_id, &parent, &timing));
    let expected = format!("{} {} true 404 NR", span.trace_id, span.span_id);
    assert_eq!(lab.envoy.access_log_lines(&log, 1).await, [expected]);
    lab.envoy.stop().await;
}

/// How many lines say of `sampled` what, if each line that says `true` has a span of its own
/// with the same ids and outcome, and no other has one.
fn joined<'a>(lines: &'a [String], spans: &[Span]) -> BTreeMap<&'a str, usize> {
    let mut left: BTreeSet<String> = spans.iter().map(line).collect();
    assert_eq!(left.len(), spans.len());
    let mut count = BTreeMap::new();
    for line in lines {
        let fields: Vec<_> = line.split(' ').collect();
        let [trace_id, span_id, sampled, ..] = *fields else { panic!("{line}") };
        assert_eq!((trace_id.len(), span_id.len()), (32, 16), "{line}");
        assert_eq!(left.remove(line), sampled == "true", "{line} {left:#?}");
        *count.entry(sampled).or_default() += 1;
    }
    assert!(left.is_empty(), "{left:#?}");
    count
}

/// The line that an access log has for the request of a span.
fn line(span: &Span) -> String {
    let or = |name, other| match span.attribute(name) {
        "" => other,
        text => text,
    };
    let (code, flags) = ("http.response.status_code", "envoy.response_flags");
    let outcome = format!("{} {}", or(code, "0"), or(flags, "-"));
    format!("{} {} true {outcome}", span.trace_id, span.span_id)
}
