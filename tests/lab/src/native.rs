//! Envoy's own OpenTelemetry tracer: an exporter that owes nothing to ours, to try the receiver
//! with and to compare the filter with.

use serde_json::{Value, json};

use crate::config::COLLECTOR;

/// A listener of [`crate::config::listener`] with the native tracer, which samples this share of
/// the requests, in percent, and exports to the lab's collector.
///
/// # Panics
/// If the value is not such a listener.
#[must_use]
pub fn traced(mut listener: Value, service: &str, percent: f64) -> Value {
    listener["filter_chains"][0]["filters"][0]["typed_config"]["tracing"] =
        tracing(service, percent);
    listener
}

/// The native tracer as a field of a connection manager; see [`traced`].
#[must_use]
pub fn tracing(service: &str, percent: f64) -> Value {
    json!({
        "random_sampling": {"value": percent},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": service,
                "http_service": {"http_uri": {
                    "uri": format!("http://{COLLECTOR}/v1/traces"),
                    "cluster": COLLECTOR,
                    "timeout": "1s",
                }},
            },
        },
    })
}

/// A bootstrap in which native tracers export every 100 ms and not every 5 s.
#[must_use]
pub fn exporting_soon(mut bootstrap: Value) -> Value {
    bootstrap["layered_runtime"] = json!({"layers": [{"name": "lab", "static_layer": {
        "tracing.opentelemetry.flush_interval_ms": 100,
        "tracing.opentelemetry.min_flush_spans": 1,
    }}]});
    bootstrap
}
