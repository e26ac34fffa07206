//! Delivery to the collector through a real Envoy: nothing is lost that is not counted.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Reply, Span};
use meshweft_lab::config::{COLLECTOR, cluster};
use meshweft_lab::envoy::adds_up;
use meshweft_lab::load::paced;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::{Value, json};
use tokio::time::Instant;

type Metrics = BTreeMap<String, i64>;

fn of(metrics: &Metrics, name: &str) -> i64 {
    metrics.get(name).copied().unwrap_or(0)
}

/// Whether so many spans are recorded and no delivery is due: what is asked of `/stats` at rest.
fn settled(metrics: &Metrics, sampled: i64) -> bool {
    let gone = of(metrics, "queue_spans") == 0 && of(metrics, "in_flight_spans") == 0;
    of(metrics, "sampled") == sampled && gone && adds_up(metrics)
}

fn ids(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|span| &*span.span_id).collect()
}

async fn one_worker(config: &Value) -> Workload {
    Workload::with(config, Options { workers: 1, ..Options::default() }).await
}

async fn send(lab: &Workload, total: usize) {
    let client = Client::new(Version::H1);
    let failures = paced(&client, lab.envoy.listener("inbound"), "/a", 200, total).await;
    assert_eq!(failures, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_without_a_collector_lose_nothing() {
    let mut lab = Workload::start(&exporting(json!({"export": {"retry": {"max": "1s"}}}))).await;
    assert!(adds_up(&lab.envoy.metrics_until(|_| true).await));
    lab.collector.down().await;
    send(&lab, 2000).await;
    let down = lab.envoy.metrics_until(|m| of(m, "sampled") == 2000 && adds_up(m)).await;
    assert_eq!(of(&down, "exported"), 0);
    assert_eq!(of(&down, "queue_spans") + of(&down, "in_flight_spans"), 2000);
    // An outage is probed: two workers with a pause of at least a quarter of a second.
    let probes = of(&down, "export_requests");
    assert!((2..=120).contains(&probes), "{probes}");
    assert_eq!(of(&down, "export_failures_status_5xx"), 0);
    let unreachable = of(&down, "export_failures_unreachable");
    assert!((1..=probes).contains(&unreachable), "{down:#?}");
    lab.collector.up().await;
    let spans = lab.collector.wait_for(2000).await;
    let up = lab.envoy.metrics_until(|m| settled(m, 2000)).await;
    assert_eq!((spans.len(), ids(&spans).len()), (2000, 2000));
    assert_eq!((of(&up, "exported"), of(&up, "queue_bytes")), (2000, 0));
    assert_eq!(lab.collector.spans().len(), 2000);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_queue_delivers_what_fits_and_counts_the_rest() {
    let config = json!({"export": {
        "batch": {"max_spans": 20},
        "queue": {"max_spans": 100},
        "retry": {"max": "1s"},
    }});
    let mut lab = one_worker(&exporting(config)).await;
    lab.collector.down().await;
    send(&lab, 300).await;
    let down = lab.envoy.metrics_until(|m| of(m, "sampled") == 300 && adds_up(m)).await;
    assert_eq!(of(&down, "dropped_queue_full"), 200);
    assert_eq!(of(&down, "queue_spans") + of(&down, "in_flight_spans"), 100);
    lab.collector.up().await;
    let up = lab.envoy.metrics_until(|m| settled(m, 300)).await;
    assert_eq!((of(&up, "exported"), of(&up, "dropped_queue_full")), (100, 200));
    let spans = lab.collector.spans();
    assert_eq!((spans.len(), ids(&spans).len()), (100, 100));
    // The spans of the first requests are those that fit.
    let forwarded = lab.app.seen().into_iter().take(150).map(|seen| seen.one("traceparent"));
    let first: Vec<_> = forwarded.collect();
    assert!(ids(&spans).iter().all(|id| first.iter().any(|parent| parent.contains(id))));
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_what_otlp_asks_for_and_batches_keep_their_bound() {
    let config = json!({"export": {
        "path": "/custom/v1/traces",
        "authority": "collector.example:4318",
        "headers": {"authorization": "Bearer ${LAB_TOKEN}", "x-tenant": "lab"},
        "batch": {"max_spans": 7, "interval": "500ms"},
    }});
    let lab = one_worker(&exporting(config)).await;
    send(&lab, 50).await;
    assert_eq!(ids(&lab.collector.wait_for(50).await).len(), 50);
    for request in lab.collector.requests() {
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        assert_eq!(request.path, "/custom/v1/traces");
        assert_eq!(header("authorization"), "Bearer from-the-environment");
        assert_eq!(header("x-tenant"), "lab");
        assert_eq!(header("content-type"), "application/x-protobuf");
        assert_eq!(header("host"), "collector.example:4318");
        assert!(header("user-agent").starts_with("meshweft/"), "{request:#?}");
        // A span of an export request would cause the next one.
        assert_eq!(header("traceparent"), "");
        assert!((1..=7).contains(&request.spans), "{request:#?}");
    }
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_sent_again_is_sent_again_byte_for_byte() {
    let config = json!({"export": {"retry": {"initial": "50ms", "max": "5s"}}});
    let lab = one_worker(&exporting(config)).await;
    let header = ("retry-after".to_owned(), "1".to_owned());
    let busy = Reply { status: 503, headers: vec![header], ..Reply::default() };
    let status = |status| Reply { status, ..Reply::default() };
    lab.collector.reply_with(vec![busy, status(429), status(502), status(504)]);
    send(&lab, 1).await;
    let begun = Instant::now();
    let end = lab.envoy.metrics_until(|m| settled(m, 1)).await;
    // Not before the collector asked for it.
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let requests = lab.collector.requests();
    let statuses: Vec<_> = requests.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [503, 429, 502, 504, 200]);
    let bodies: BTreeSet<_> = requests.iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 1, "{requests:#?}");
    assert_eq!(of(&end, "export_requests"), 5);
    assert_eq!(of(&end, "export_failures_status_5xx"), 3);
    assert_eq!(of(&end, "export_failures_status_4xx"), 1);
    assert_eq!((of(&end, "exported"), lab.collector.spans().len()), (1, 1));
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_collector_refuses_is_counted_and_not_sent_again() {
    let lab = one_worker(&exporting(json!({}))).await;
    lab.collector.reply_with(vec![Reply { status: 400, ..Reply::default() }]);
    send(&lab, 1).await;
    let end = lab.envoy.metrics_until(|m| settled(m, 1)).await;
    assert_eq!((of(&end, "dropped_rejected"), of(&end, "exported")), (1, 0));
    assert_eq!(of(&end, "export_failures_status_4xx"), 1);
    assert_eq!(lab.collector.requests().len(), 1);

    // A partial success is a success, apart from what it names.
    lab.collector.reply_with(vec![Reply { rejected: 1, ..Reply::default() }]);
    send(&lab, 20).await;
    let end = lab.envoy.metrics_until(|m| settled(m, 21)).await;
    assert_eq!((of(&end, "dropped_rejected"), of(&end, "exported")), (2, 19));
    assert_eq!(ids(&lab.collector.spans()).len(), 20);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_collector_is_a_time_out() {
    let config = json!({"export": {"timeout": "300ms", "retry": {"initial": "50ms"}}});
    let lab = one_worker(&exporting(config)).await;
    lab.collector.reply_with(vec![Reply { delay: Duration::from_secs(2), ..Reply::default() }]);
    send(&lab, 1).await;
    let end = lab.envoy.metrics_until(|m| settled(m, 1)).await;
    assert_eq!(of(&end, "export_failures_timeout"), 1, "{end:#?}");
    assert_eq!(of(&end, "export_requests"), 2);
    assert_eq!(of(&end, "exported"), 1);
    assert_eq!(ids(&lab.collector.spans()).len(), 1);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_nowhere_costs_a_bounded_queue() {
    let nobody = json!({
        "name": "nobody",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "nobody", "endpoints": []},
    });
    // No such cluster, and a cluster without a host.
    for cluster in ["nowhere", "nobody"] {
        let config = exporting(json!({"export": {
            "cluster": cluster,
            "batch": {"max_spans": 20},
            "queue": {"max_spans": 50},
            "retry": {"initial": "50ms", "max": "100ms", "max_elapsed": "2s"},
        }}));
        let clusters = vec![nobody.clone()];
        let options = Options { workers: 1, clusters, ..Options::default() };
        let lab = Workload::with(&config, options).await;
        send(&lab, 100).await;
        let held = lab.envoy.metrics_until(|m| of(m, "sampled") == 100 && adds_up(m)).await;
        assert!(of(&held, "queue_spans") <= 50, "{held:#?}");
        assert!(of(&held, "dropped_queue_full") >= 50, "{held:#?}");
        let end = lab.envoy.metrics_until(|m| settled(m, 100)).await;
        assert!(of(&end, "export_failures_unreachable") > 0, "{end:#?}");
        assert_eq!(of(&end, "export_failures_status_5xx"), 0);
        assert_eq!((of(&end, "exported"), of(&end, "queue_bytes")), (0, 0));
        let given_up = of(&end, "dropped_retries_exhausted");
        assert_eq!(given_up + of(&end, "dropped_queue_full"), 100);
        lab.envoy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_collector_takes_over_and_gives_back() {
    let second = Collector::start().await;
    let config = json!({"export": {
        "cluster": [COLLECTOR, "nowhere", "second"],
        "batch": {"max_spans": 10},
        "retry": {"initial": "100ms", "max": "500ms"},
    }});
    let clusters = vec![cluster("second", second.address())];
    let options = Options { workers: 1, clusters, ..Options::default() };
    let mut lab = Workload::with(&exporting(config), options).await;
    send(&lab, 100).await;
    let up = lab.envoy.metrics_until(|m| settled(m, 100)).await;
    assert_eq!((of(&up, "exported"), of(&up, "export_failovers")), (100, 0));

    lab.collector.down().await;
    send(&lab, 300).await;
    assert_eq!(ids(&second.wait_for(300).await).len(), 300);
    let away = lab.envoy.metrics_until(|m| settled(m, 400)).await;
    // Also what went to the cluster that does not exist.
    assert!(of(&away, "export_failovers") > 30, "{away:#?}");
    assert!(of(&away, "export_failures_unreachable") >= 2, "{away:#?}");

    lab.collector.up().await;
    let back = Instant::now();
    while lab.collector.spans().len() == 100 {
        assert!(back.elapsed() < Duration::from_secs(20), "the first is not asked again");
        send(&lab, 1).await;
    }
    lab.envoy.metrics_until(|m| settled(m, of(m, "sampled"))).await;
    let asked = second.requests().len();
    let before = lab.envoy.metric("sampled").await;
    send(&lab, 100).await;
    let end = lab.envoy.metrics_until(|m| settled(m, before + 100)).await;
    assert_eq!(second.requests().len(), asked, "the first has all again");
    let all = lab.collector.spans().len() + second.spans().len();
    assert_eq!(i64::try_from(all).expect("few"), of(&end, "sampled"));
    let log = lab.envoy.log();
    for named in [COLLECTOR, "nowhere"] {
        let lines = log.matches(&format!("export to cluster \"{named}\"")).count();
        assert_eq!(lines, 1, "{named}: {log}");
    }
    lab.envoy.stop().await;
}
