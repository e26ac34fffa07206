//! What a request costs: hostcalls, which are the same with every compiler, and fuel, which is
//! shown only.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{boot, boot_with, collect};
use meshweft_host_tests::{Exchange, HostEmulator, Usage, request};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DROPPED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What one request spends when the instance has seen others.
fn spent(host: &mut HostEmulator, root: u32, kind: &str, exchange: &Exchange) -> Usage {
    for _ in 0..3 {
        host.serve(root, exchange.clone()).unwrap();
    }
    let before = host.usage();
    host.serve(root, exchange.clone()).unwrap();
    let spent = host.usage().since(&before);
    eprintln!("{kind}: fuel {}, hostcalls {} {:?}", spent.fuel, spent.total(), spent.hostcalls);
    spent
}

fn calls(usage: &Usage) -> Vec<(&str, u64)> {
    usage.hostcalls.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

/// What every request pays: is another instance on it, what are its headers, what goes on, leave
/// the trace id. What is recorded also pays for a span's properties and the clock.
#[test]
fn hostcalls_of_a_request() {
    let (mut host, root) = boot();
    let kinds = [
        ("sampled", request()),
        ("continued", request().with_header("traceparent", PARENT)),
        ("unsampled", request().with_header("traceparent", DROPPED_PARENT)),
    ];
    let [sampled, continued, unsampled] =
        kinds.map(|(kind, exchange)| spent(&mut host, root, kind, &exchange));
    let (mut silent, silent_root) = boot_with("");
    let passed = spent(&mut silent, silent_root, "passed through", &request());
    let recorded = |headers| {
        [
            ("clock_time_get", 1),
            ("proxy_get_header_map_pairs", 1),
            ("proxy_get_property", 13),
            ("proxy_replace_header_map_value", headers),
            ("proxy_set_property", 1),
        ]
    };
    // A new trace has a tracestate, which says how likely it was to be sampled.
    assert_eq!(calls(&sampled), recorded(2));
    assert_eq!(calls(&continued), recorded(1));
    let dropped = [
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        ("proxy_replace_header_map_value", 1),
        ("proxy_set_property", 1),
    ];
    assert_eq!(calls(&unsampled), dropped);
    let untouched = [("proxy_get_header_map_pairs", 1), ("proxy_get_property", 1)];
    assert_eq!(calls(&passed), untouched);
}

/// All formats are looked for in one pass over the headers: what does not stand costs no call.
#[test]
fn formats_that_do_not_stand_cost_nothing() {
    let all = r#"["tracecontext", "baggage", "b3", "b3multi", "jaeger", "datadog", "xray",
        "ottrace", "gcp", "grpc-trace-bin", "skywalking"]"#;
    let spent_by = |extract: &str, exchange: &Exchange| {
        let (mut host, root) = boot_with(&format!(
            r#"{{"export": {{"cluster": "otel-collector"}},
                "propagation": {{"extract": {extract}}}}}"#
        ));
        spent(&mut host, root, extract, exchange).hostcalls
    };
    for exchange in [request(), request().with_header("traceparent", PARENT)] {
        assert_eq!(spent_by(all, &exchange), spent_by(r#"["tracecontext"]"#, &exchange));
    }
}

/// Each thing that is told costs one call, and nothing else is read for it.
#[test]
fn what_is_told_costs_one_call_each() {
    let (mut host, root) = boot_with(
        r#"{"export": {"cluster": "otel-collector"}, "propagation": {
            "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
            "access_log": ["trace_id", "span_id", "sampled"]}}"#,
    );
    let exchange = request().with_header("traceparent", DROPPED_PARENT);
    let told = [
        ("proxy_add_header_map_value", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        // traceparent, traceresponse, x-trace-id
        ("proxy_replace_header_map_value", 3),
        ("proxy_set_property", 3),
    ];
    assert_eq!(calls(&spent(&mut host, root, "told", &exchange)), told);
}

/// What requests, exports and answers take is given back.
#[test]
fn memory_stays_flat() {
    let (mut host, root) = boot();
    let exchange = request()
        .with_header("traceparent", PARENT)
        .with_header("tracestate", "a=b,c=d")
        .with_header("x-long", "v".repeat(4_000));
    let mut round = || {
        for _ in 0..100 {
            host.serve(root, exchange.clone()).unwrap();
        }
        assert_eq!(collect(&mut host, root).len(), 100);
        host.memory()
    };
    let warm = (0..3).map(|_| round()).max();
    assert_eq!((0..10).map(|_| round()).max(), warm);
}
