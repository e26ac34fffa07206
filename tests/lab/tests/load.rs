//! Many requests at once: every one of them has exactly one span.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use meshweft_lab::client::Version;
use meshweft_lab::envoy::{Envoy, adds_up};
use meshweft_lab::load::flood;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::json;

const CONNECTIONS: usize = 16;
const PER_CONNECTION: usize = 313;
/// What each of the four floods sends: 5,008, together a little over 20,000.
const PER_FLOOD: usize = CONNECTIONS * PER_CONNECTION;

/// Resident memory in KiB.
fn memory(envoy: &Envoy) -> u64 {
    let pid = envoy.pid().expect("Envoy runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number")
}

async fn every_request_has_one_span(workers: u32) {
    let options = Options { workers, ..Options::default() };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let mut sizes = Vec::new();
    for _ in 0..2 {
        for (listener, version) in [("inbound", Version::H1), ("inbound-h2", Version::H2)] {
            let to = lab.envoy.listener(listener);
            let failures = flood(version, to, "/a", CONNECTIONS, PER_CONNECTION).await;
            assert_eq!(failures, Vec::<String>::new());
        }
        sizes.push(memory(&lab.envoy));
    }
    let total = 4 * PER_FLOOD;
    let of = |metrics: &std::collections::BTreeMap<String, i64>, name: &str| {
        usize::try_from(metrics.get(name).copied().unwrap_or(0)).expect("not below 0")
    };
    let metrics = lab
        .envoy
        .metrics_until(|m| of(m, "exported") == total && of(m, "queue_spans") == 0 && adds_up(m))
        .await;
    assert_eq!((of(&metrics, "requests"), of(&metrics, "sampled")), (total, total));
    let stats = lab.envoy.stats().await;
    let by_envoy =
        ["inbound", "inbound-h2"].map(|l| of(&stats, &format!("http.{l}.downstream_rq_completed")));
    assert_eq!(by_envoy, [2 * PER_FLOOD, 2 * PER_FLOOD]);

    let spans =
        lab.collector.wait_until(Duration::from_secs(5), |spans| spans.len() >= total).await;
    assert_eq!(spans.len(), total);
    let traces: BTreeSet<_> = spans.iter().map(|span| &*span.trace_id).collect();
    let ids: BTreeSet<_> = spans.iter().map(|span| &*span.span_id).collect();
    assert_eq!((traces.len(), ids.len()), (total, total));
    let exported: BTreeSet<_> =
        spans.iter().map(|span| format!("00-{}-{}-03", span.trace_id, span.span_id)).collect();
    let seen = lab.app.seen();
    let forwarded: BTreeSet<_> = seen.iter().map(|seen| seen.one("traceparent")).collect();
    assert_eq!(seen.len(), total);
    let odd: Vec<_> = forwarded.symmetric_difference(&exported).take(5).collect();
    assert_eq!(odd, Vec::<&String>::new());

    // The second half of the load finds the memory of the first.
    let [first, second] = &*sizes else { panic!("{sizes:?}") };
    assert!(*second < first + 32 * 1024, "KiB: {sizes:?}");
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_requests_over_two_workers() {
    every_request_has_one_span(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_requests_over_four_workers() {
    every_request_has_one_span(4).await;
}
