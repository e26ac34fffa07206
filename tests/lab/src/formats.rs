//! The headers of the context formats, as their specifications name them.

/// Every header that carries trace context, or values that travel with it.
pub const HEADERS: [&str; 26] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "uber-trace-id",
    "jaeger-debug-id",
    "jaeger-baggage",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-origin",
    "x-datadog-tags",
    "x-amzn-trace-id",
    "ot-tracer-traceid",
    "ot-tracer-spanid",
    "ot-tracer-sampled",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "sw8-correlation",
    "sw8-x",
];

/// What headers begin with that have a key of the baggage in their name.
const KEYED: [&str; 2] = ["uberctx-", "ot-baggage-"];

/// Whether a tracing filter may change the header of this name, in lower case.
#[must_use]
pub fn carries_context(name: &str) -> bool {
    HEADERS.contains(&name) || KEYED.iter().any(|prefix| name.starts_with(prefix))
}
