//! Each protocol through a real Envoy: what arrives, and what becomes of a batch after each kind
//! of answer.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Reply, Span};
use meshweft_lab::config::{COLLECTOR, COLLECTOR_H2};
use meshweft_lab::envoy::adds_up;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::{Value, json};
use tokio::time::Instant;

const PROTOCOLS: [&str; 4] = ["otlp/http", "otlp/http+json", "otlp/grpc", "zipkin"];

/// One worker that exports in `protocol`.
async fn workload(protocol: &str, more: Value) -> Workload {
    let cluster = if protocol == "otlp/grpc" { COLLECTOR_H2 } else { COLLECTOR };
    let mut config = exporting(json!({"export": {"protocol": protocol, "cluster": cluster}}));
    for (key, value) in more.as_object().into_iter().flatten() {
        config["export"][key] = value.clone();
    }
    Workload::with(&config, Options { workers: 1, ..Options::default() }).await
}

/// Requests that leave every kind of span: a path, a header, and the listener.
const REQUESTS: [(&str, &str, &str); 5] = [
    ("inbound", "/orders/7?q=1", ""),
    ("outbound", "/a/status/404", ""),
    ("gateway", "/a/status/503", ""),
    ("inbound", "/b", "vendor=\"a,b\",other=1"),
    ("outbound", "/a/reset", ""),
];

/// A span without what differs from run to run; its length in time is checked.
fn same(span: &Span, exact: bool) -> Span {
    let step = if exact { 1 } else { 1_000 };
    assert!(span.end >= span.start && span.start > 1_500_000_000_000_000_000, "{span:#?}");
    assert_eq!((span.start % step, span.end % step), (0, 0), "{span:#?}");
    let mut attributes = span.attributes.clone();
    for name in ["network.peer.port", "server.port", "envoy.upstream_address", "url.full"] {
        attributes.remove(name);
    }
    Span {
        trace_id: String::new(),
        span_id: String::new(),
        start: 0,
        end: 0,
        attributes,
        ..span.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_spans_arrive_in_every_protocol() {
    let mut arrived: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for protocol in PROTOCOLS {
        // Packed or not, each arrives as the other does.
        let packed = !arrived.is_empty();
        let compression = if packed { "gzip" } else { "none" };
        let lab = workload(protocol, json!({"compression": compression})).await;
        let client = Client::new(Version::H1);
        for (listener, path, state) in REQUESTS {
            let parent = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
            let headers: [(&str, &[u8]); 2] =
                [("traceparent", parent.as_bytes()), ("tracestate", state.as_bytes())];
            let headers = if state.is_empty() { &headers[..0] } else { &headers };
            client.get(lab.envoy.listener(listener), path, headers).await.expect("an answer");
        }
        let spans = lab.settled(5).await;
        let seen: BTreeSet<_> = lab
            .app
            .seen()
            .iter()
            .map(|seen| seen.one("traceparent").split('-').nth(2).unwrap_or_default().to_owned())
            .collect();
        assert_eq!(seen, spans.iter().map(|span| span.span_id.clone()).collect());
        let mut spans: Vec<_> = spans.iter().map(|span| same(span, protocol != "zipkin")).collect();
        spans.sort_by_key(|span| format!("{span:?}"));
        arrived.insert(protocol, spans);
        lab.envoy.stop().await;
    }
    let expected = arrived["otlp/http"].clone();
    assert_eq!(arrived["otlp/http+json"], expected);
    assert_eq!(arrived["otlp/grpc"], expected);
    // Zipkin has one kind of value, one place for it, and no flags.
    let mut expected: Vec<_> = expected
        .into_iter()
        .map(|mut span| {
            span.flags = 0;
            let service = span.resource.remove("service.name").expect("a service");
            span.attributes.append(&mut span.resource);
            span.resource.insert("service.name".to_owned(), service);
            // The status says in words what the flags mean.
            let words = span.attributes.get("envoy.response_flags_text").cloned();
            let mut tag = |key: &str, value: &str| {
                span.attributes.insert(key.to_owned(), value.to_owned());
            };
            tag("otel.scope.name", "meshweft");
            tag("otel.scope.version", env!("CARGO_PKG_VERSION"));
            if span.error {
                tag("otel.status_code", "ERROR");
                tag("error", &words.unwrap_or_default());
            }
            if !span.trace_state.is_empty() {
                tag("w3c.tracestate", &span.trace_state);
            }
            span
        })
        .collect();
    expected.sort_by_key(|span| format!("{span:?}"));
    assert_eq!(arrived["zipkin"], expected);
}

/// An answer, and what it leads to: requests in all, the counter that it moves, what becomes of
/// the span, and the least time that it takes.
struct Case {
    what: &'static str,
    reply: Reply,
    requests: i64,
    failure: &'static str,
    delivered: bool,
    least: Duration,
}

fn case(
    what: &'static str,
    reply: Reply,
    requests: i64,
    failure: &'static str,
    delivered: bool,
) -> Case {
    Case { what, reply, requests, failure, delivered, least: Duration::ZERO }
}

/// Answers that every protocol over HTTP treats alike.
fn over_http() -> Vec<Case> {
    let status = |status| Reply { status, ..Reply::default() };
    let after = ("retry-after".to_owned(), "1".to_owned());
    let busy = Reply { headers: vec![after], ..status(429) };
    vec![
        case("unauthorized", status(401), 1, "status_4xx", false),
        case("not found", status(404), 1, "status_4xx", false),
        case("server error", status(500), 1, "status_5xx", false),
        case("unavailable", status(503), 2, "status_5xx", true),
        Case { least: Duration::from_millis(900), ..case("busy", busy, 2, "status_4xx", true) },
    ]
}

fn everywhere() -> Vec<Case> {
    let slow = Reply { delay: Duration::from_secs(2), ..Reply::default() };
    let reset = Reply { reset: true, ..Reply::default() };
    vec![
        case("success", Reply::default(), 1, "", true),
        case("slow", slow, 2, "timeout", true),
        case("reset", reset, 2, "reset", true),
    ]
}

fn over_grpc() -> Vec<Case> {
    let code = |grpc_status| Reply { grpc_status, ..Reply::default() };
    let paused = Reply { grpc_pause: Some(1), ..code(8) };
    let garbage = Reply { garbage: Some(b"<html>"), ..Reply::default() };
    let empty = Reply { garbage: Some(b""), ..Reply::default() };
    let failure = "grpc_status";
    vec![
        case("unauthenticated", code(16), 1, failure, false),
        case("unimplemented", code(12), 1, failure, false),
        case("internal", code(13), 1, failure, false),
        case("unavailable as gRPC says it", code(14), 2, failure, true),
        case("aborted", code(10), 2, failure, true),
        case("exhausted for good", code(8), 1, failure, false),
        Case {
            least: Duration::from_millis(900),
            ..case("exhausted for a second", paused, 2, failure, true)
        },
        case("no gRPC", garbage, 1, failure, false),
        case("nothing", empty, 1, failure, false),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_a_retry_or_a_loss_that_is_counted() {
    const FAILURES: [&str; 6] =
        ["timeout", "reset", "status_4xx", "status_5xx", "unreachable", "grpc_status"];
    for protocol in PROTOCOLS {
        let retry = json!({"initial": "50ms"});
        let lab = workload(protocol, json!({"timeout": "500ms", "retry": retry})).await;
        let mut cases = everywhere();
        cases.extend(over_http());
        if protocol == "otlp/grpc" {
            cases.extend(over_grpc());
        } else {
            // A success is a success, whatever its body.
            let garbage = Reply { garbage: Some(b"<html>\xff"), ..Reply::default() };
            cases.push(case("garbage", garbage, 1, "", true));
        }
        let mut before: BTreeMap<String, i64> = BTreeMap::new();
        let mut stored = 0;
        for (round, case) in (1_i64..).zip(cases) {
            let what = format!("{protocol}: {}", case.what);
            lab.collector.clear();
            stored += 1;
            lab.collector.reply_with(vec![case.reply.clone()]);
            let begun = Instant::now();
            let to = lab.envoy.listener("inbound");
            Client::new(Version::H1).get(to, "/a", &[]).await.expect("an answer");
            let after = lab
                .envoy
                .metrics_until(|m| {
                    let of = |name: &str| m.get(name).copied().unwrap_or(0);
                    of("sampled") == round
                        && of("queue_spans") + of("in_flight_spans") == 0
                        && adds_up(m)
                })
                .await;
            assert!(begun.elapsed() >= case.least, "{what}: {:?}", begun.elapsed());
            let moved = |name: &str| {
                let of = |m: &BTreeMap<String, i64>| m.get(name).copied().unwrap_or(0);
                of(&after) - of(&before)
            };
            let failures = FAILURES.map(|name| (name, moved(&format!("export_failures_{name}"))));
            let expected = FAILURES.map(|name| (name, i64::from(name == case.failure)));
            assert_eq!(failures, expected, "{what}");
            let ends = (moved("export_requests"), moved("exported"), moved("dropped_rejected"));
            let delivered = i64::from(case.delivered);
            assert_eq!(ends, (case.requests, delivered, 1 - delivered), "{what}");
            let requests = lab.collector.requests();
            let bodies: BTreeSet<_> = requests.iter().map(|request| request.body).collect();
            assert_eq!(bodies.len(), 1, "{what}: a retry is the same again: {requests:#?}");
            before = after;
        }
        assert_eq!(before["sampled"], stored);
        lab.envoy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_success_is_counted_and_told_once_in_the_collectors_words() {
    for protocol in ["otlp/http", "otlp/http+json", "otlp/grpc"] {
        let lab = workload(protocol, json!({})).await;
        lab.collector.reply_always(Reply { rejected: 1, ..Reply::default() });
        for round in 1..=3 {
            let to = lab.envoy.listener("inbound");
            Client::new(Version::H1).get(to, "/a", &[]).await.expect("an answer");
            let rejected = |m: &BTreeMap<String, i64>| m.get("dropped_rejected") == Some(&round);
            let metrics = lab.envoy.metrics_until(|m| rejected(m) && adds_up(m)).await;
            let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
            assert_eq!((of("export_requests"), of("exported")), (round, 0), "{protocol}");
        }
        let log = lab.envoy.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("export to cluster")).collect();
        let [line] = &*told else { panic!("{told:#?}") };
        let words = "was accepted but for 1 spans: \"the lab says so\" (further troubles are told \
            at most once a minute)";
        assert!(line.contains(words), "{line}");
        lab.envoy.stop().await;
    }
}
