//! What the README says of Envoy's own OpenTelemetry tracer, beside the filter in one Envoy.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says where it broke"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_lab::app::App;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::load;
use meshweft_lab::mesh::exporting;
use meshweft_lab::native;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use prost::Message;
use serde_json::json;

const REQUESTS: usize = 200;

/// How long spans may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

struct Both {
    envoy: Envoy,
    app: App,
    collector: Collector,
}

/// Listeners `native` and `filter`, each with one of the two, exporting every 100 ms.
async fn both() -> Both {
    let app = App::start().await;
    let collector = Collector::start().await;
    let http =
        |name, filters| listener(name, Direction::Inbound, filters, vec![route("/", "app")], None);
    let filter = http("filter", vec![meshweft(&exporting(json!({})))]);
    let native = native::traced(http("native", vec![]), "native", 100.0);
    let envoy = Envoy::start(
        &native::exporting_soon(bootstrap(
            node("both"),
            vec![filter, native],
            vec![cluster("app", app.address()), cluster(COLLECTOR, collector.address())],
        )),
        2,
    )
    .await;
    Both { envoy, app, collector }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_traceparent() {
    let Both { envoy, app, collector } = both().await;
    let client = Client::new(Version::H1);
    let sent: [(&str, &[u8]); 1] = [("traceparent", b"00-not-a-context-01")];

    client.get(envoy.listener("native"), "/native", &sent).await.expect("an answer");
    assert_eq!(app.last().one("traceparent"), "00-not-a-context-01");
    client.get(envoy.listener("filter"), "/filter", &sent).await.expect("an answer");
    // A valid one after it, so that the native tracer has had its time to export the first.
    let valid: [(&str, &[u8]); 1] =
        [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    client.get(envoy.listener("native"), "/valid", &valid).await.expect("an answer");

    let spans = collector.wait_for(2).await;
    let mut services: Vec<_> = spans.iter().map(|span| span.service()).collect();
    services.sort_unstable();
    assert_eq!(services, ["lab", "native"], "one span of each: the native one is the valid one's");
    let restarted = spans.iter().find(|span| span.service() == "lab").expect("the filter's span");
    let onward = app.seen().into_iter().find(|seen| seen.path == "/filter").expect("a request");
    let forwarded = format!("00-{}-{}-03", restarted.trace_id, restarted.span_id);
    assert_eq!(onward.one("traceparent"), forwarded);
    envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_while_the_collector_is_away() {
    let Both { envoy, app: _app, mut collector } = both().await;
    let client = Client::new(Version::H1);
    collector.down().await;
    for name in ["native", "filter"] {
        let failures = load::paced(&client, envoy.listener(name), "/", 200, REQUESTS).await;
        assert_eq!(failures, Vec::<String>::new());
    }
    // All spans of the native tracer have been sent into the void by now, and count as sent.
    let sent = "tracing.opentelemetry.spans_sent";
    let all = |stats: &std::collections::BTreeMap<String, i64>| {
        stats.get(sent) == i64::try_from(REQUESTS).ok().as_ref()
    };
    let stats = envoy.stats_until(all).await;
    assert_eq!(stats.get("tracing.opentelemetry.spans_dropped").copied().unwrap_or(0), 0);
    collector.up().await;
    let spans = collector.wait_until(PATIENCE, |spans| spans.len() >= REQUESTS).await;
    let of = |service: &str| spans.iter().filter(|span| span.service() == service).count();
    assert_eq!((of("native"), of("lab")), (0, REQUESTS));
    envoy.stop().await;
}

/// Spans of the same request, as both encode them: a byte of ours tells more.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_a_span_beside_those_of_the_native_tracer() {
    let Both { envoy, app: _app, collector } = both().await;
    let client = Client::new(Version::H1);
    for name in ["filter", "native"] {
        for _ in 0..10 {
            client.get(envoy.listener(name), "/orders/7", &[]).await.expect("an answer");
        }
    }
    collector.wait_for(20).await;
    let mut sizes: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for resource in collector.exports().into_iter().flat_map(|export| export.resource_spans) {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let service = attributes.into_iter().find(|pair| pair.key == "service.name");
        let service = service.and_then(|pair| pair.value?.value).expect("a name");
        let Any::StringValue(service) = service else { panic!("{service:?} is no name") };
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let size = (span.encoded_len(), span.attributes.len());
            sizes.entry(service.clone()).or_default().push(size);
        }
    }
    let average = |service: &str| {
        let all = &sizes[service];
        assert_eq!(all.len(), 10, "{service}");
        let sum = |of: fn(&(usize, usize)) -> usize| all.iter().map(of).sum::<usize>() / all.len();
        (sum(|(bytes, _)| *bytes), sum(|(_, attributes)| *attributes))
    };
    let ((ours, our_attributes), (native, native_attributes)) = (average("lab"), average("native"));
    println!("filter: {ours} bytes and {our_attributes} attributes a span");
    println!("native: {native} bytes and {native_attributes} attributes a span");
    // By the attribute, which is what both mostly are.
    assert!(ours * native_attributes <= native * our_attributes * 5 / 4, "{ours} {native}");
    envoy.stop().await;
}

/// Both on one request: who wins, and what the operator reads of it.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_same_request_the_native_tracer_has_the_last_word() {
    const WARNING: &str = "native tracer";
    let app = App::start().await;
    let collector = Collector::start().await;
    let http = |name| {
        let filter = vec![meshweft(&exporting(json!({})))];
        listener(name, Direction::Inbound, filter, vec![route("/", "app")], None)
    };
    let zero = native::traced(http("zero"), "native", 0.0);
    let listeners = vec![native::traced(http("both"), "native", 100.0), zero, http("alone")];
    let clusters = vec![cluster("app", app.address()), cluster(COLLECTOR, collector.address())];
    let bootstrap = native::exporting_soon(bootstrap(node("both"), listeners, clusters));
    let envoy = Envoy::start(&bootstrap, 2).await;
    let incoming: [(&str, &[u8]); 1] =
        [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];

    // Without it ours goes on. With it the native one does: where it samples nothing it is not
    // off. What it then says of a sampled parent differs: Envoy 1.36 follows it, 1.40 does not.
    for (name, winner) in [("alone", Some("lab")), ("zero", None), ("both", Some("native"))] {
        assert!(!envoy.log().contains(WARNING), "{name}: {}", envoy.log());
        let before = collector.spans().len();
        let client = Client::new(Version::H1);
        client.get(envoy.listener(name), "/", &incoming).await.expect("an answer");
        let onward = app.last().one("traceparent");
        assert!(onward.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{name} {onward}");
        let ours_is_there =
            |spans: &[Span]| spans[before..].iter().any(|span| span.service() == "lab");
        let spans = collector.wait_until(PATIENCE, ours_is_there).await;
        let ours = spans[before..].iter().find(|span| span.service() == "lab").expect("a span");
        assert_eq!(onward.contains(&ours.span_id), winner == Some("lab"), "{name} {onward}");
        if winner == Some("native") {
            let is_there = |spans: &[Span]| spans.iter().any(|s| onward.contains(&s.span_id));
            let spans = collector.wait_until(PATIENCE, is_there).await;
            // Both have the same parent: neither is the other's child.
            assert!(spans.iter().all(|span| span.parent_id == "b7ad6b7169203331"), "{spans:#?}");
        }
    }
    // Each instance says it once on each of its workers.
    for _ in 0..20 {
        let client = Client::new(Version::H1);
        client.get(envoy.listener("both"), "/", &[]).await.expect("an answer");
    }
    let metrics = envoy.metrics_until(|m| m.get("native_tracer_seen") == Some(&21)).await;
    assert_eq!(metrics.get("requests"), Some(&23));
    let lines = envoy.log().lines().filter(|line| line.contains(WARNING)).count();
    assert!((1..=2).contains(&lines), "{}", envoy.log());
    envoy.stop().await;
}
