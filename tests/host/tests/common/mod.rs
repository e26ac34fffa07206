//! What the test files share.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "test code")]

use std::sync::LazyLock;
use std::time::Duration;

use meshweft_host_tests::{
    CONFIGURATION, Callout, Exchange, HostEmulator, Module, ok_answer, request,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

static MODULE: LazyLock<Module> = LazyLock::new(Module::load);

/// The release module, compiled once for each test binary.
pub(crate) fn module() -> &'static Module {
    &MODULE
}

/// A worker with the module configured by [`CONFIGURATION`].
pub(crate) fn boot() -> (HostEmulator, u32) {
    boot_with(CONFIGURATION)
}

/// A worker with the module so configured.
pub(crate) fn boot_with(configuration: &str) -> (HostEmulator, u32) {
    HostEmulator::boot(module(), configuration).expect("the module starts")
}

/// A request about which a native tracer has decided: Envoy wrote its status into the id.
pub(crate) fn natively_traced() -> Exchange {
    let mut exchange = request();
    let headers = exchange.request_headers.as_mut().expect("request headers");
    headers.retain(|(name, _)| name != b"x-request-id");
    exchange.with_header("x-request-id", "6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d10")
}

/// The spans of a callout's body.
pub(crate) fn spans_of(callout: &Callout) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(callout.body.as_slice()).expect("OTLP");
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

/// Lets time pass and ticks come until no callout waits, with a collector that takes all.
/// Gives all spans that arrived.
pub(crate) fn collect(host: &mut HostEmulator, root: u32) -> Vec<Span> {
    let mut spans = Vec::new();
    for _ in 0..5 {
        host.advance(Duration::from_secs(2));
        host.tick(root).expect("a tick");
        let waiting: Vec<Callout> = host.state().pending().into_iter().cloned().collect();
        for callout in waiting {
            spans.extend(spans_of(&callout));
            host.answer(callout.token, ok_answer()).expect("an answer");
        }
    }
    host.tick(root).expect("a tick");
    spans
}

/// Trace id, parent id and flags of a traceparent.
pub(crate) fn traceparent(value: &[u8]) -> (String, String, String) {
    let text = str::from_utf8(value).expect("ASCII");
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace_id, parent_id, flags] = parts.as_slice() else {
        panic!("{text:?} has not four parts")
    };
    assert_eq!(*version, "00");
    ((*trace_id).to_owned(), (*parent_id).to_owned(), (*flags).to_owned())
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
