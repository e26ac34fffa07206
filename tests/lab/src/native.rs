//! Envoy's own tracers: exporters that owe nothing to ours, to try the receiver with and to
//! compare the filter with.

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
    let tracer = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "service_name": service,
        "http_service": {"http_uri": {
            "uri": format!("http://{COLLECTOR}/v1/traces"),
            "cluster": COLLECTOR,
            "timeout": "1s",
        }},
    });
    by_provider(percent, "envoy.tracers.opentelemetry", &tracer)
}

/// The same listener with the native Zipkin tracer, which sends Zipkin's JSON, its default.
///
/// # Panics
/// If the value is not such a listener.
#[must_use]
pub fn traced_by_zipkin(mut listener: Value, percent: f64) -> Value {
    let tracer = json!({
        "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
        "collector_cluster": COLLECTOR,
        "collector_endpoint": "/api/v2/spans",
        "collector_endpoint_version": "HTTP_JSON",
    });
    listener["filter_chains"][0]["filters"][0]["typed_config"]["tracing"] =
        by_provider(percent, "envoy.tracers.zipkin", &tracer);
    listener
}

fn by_provider(percent: f64, name: &str, tracer: &Value) -> Value {
    json!({
        "random_sampling": {"value": percent},
        "provider": {"name": name, "typed_config": tracer},
    })
}

/// A bootstrap in which native tracers export every 100 ms and not every 5 s.
#[must_use]
pub fn exporting_soon(mut bootstrap: Value) -> Value {
    bootstrap["layered_runtime"] = json!({"layers": [{"name": "lab", "static_layer": {
        "tracing.opentelemetry.flush_interval_ms": 100,
        "tracing.opentelemetry.min_flush_spans": 1,
        "tracing.zipkin.flush_interval_ms": 100,
        "tracing.zipkin.min_flush_spans": 1,
    }}]});
    bootstrap
}
