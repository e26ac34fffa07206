//! What most tests begin with.

use crate::abi::Pairs;
use crate::state::{Answer, Exchange};

/// The cluster that the emulated Envoy has.
pub const CLUSTER: &str = "otel-collector";

/// When the emulated clock begins: 2026-01-01T00:00:00Z.
pub const EPOCH: u64 = 1_767_225_600_000_000_000;

/// A configuration that records everything.
pub const CONFIGURATION: &str =
    r#"{"service": {"name": "checkout"}, "export": {"cluster": "otel-collector"}}"#;

/// A plain request on an inbound listener that took five milliseconds and brought 200.
#[must_use]
pub fn request() -> Exchange {
    let response = vec![(b":status".to_vec(), b"200".to_vec())];
    Exchange { response_headers: Some(response), ..Exchange::default() }
        .with_header(":authority", "shop.example:8080")
        .with_header(":path", "/orders/17?token=secret")
        .with_header(":method", "GET")
        .with_header(":scheme", "http")
        .with_header("user-agent", "test/1")
        .with_header("x-request-id", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10")
        .with_property(&["xds", "listener_direction"], 1_i64.to_le_bytes())
        .with_property(&["xds", "cluster_name"], "inbound|8080||")
        .with_property(&["xds", "route_name"], "default")
        .with_property(&["request", "time"], EPOCH.to_le_bytes())
        .with_property(&["request", "protocol"], "HTTP/1.1")
        .with_property(&["request", "method"], "GET")
        .with_property(&["request", "host"], "shop.example:8080")
        .with_property(&["request", "scheme"], "http")
        .with_property(&["request", "path"], "/orders/17?token=secret")
        .with_property(&["request", "url_path"], "/orders/17")
        .with_property(&["source", "address"], "127.0.0.1:40000")
        .with_property(&["destination", "address"], "127.0.0.1:8080")
        .with_final_property(&["request", "duration"], 5_000_000_i64.to_le_bytes())
        .with_final_property(&["response", "code"], 200_i64.to_le_bytes())
        .with_final_property(&["response", "flags"], 0_i64.to_le_bytes())
        .with_final_property(&["response", "code_details"], "via_upstream")
        .with_final_property(&["upstream", "address"], "127.0.0.1:8081")
        .with_final_property(&["upstream", "request_attempt_count"], 1_i64.to_le_bytes())
}

/// The answer of a collector that took everything.
#[must_use]
pub fn ok_answer() -> Answer {
    answer(&[(":status", "200")], b"")
}

/// An answer to a callout.
#[must_use]
pub fn answer(headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let pair = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let headers: Pairs = headers.iter().map(pair).collect();
    Answer { headers: Some(headers), body: body.to_vec(), trailers: None }
}
