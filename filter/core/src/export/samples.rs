//! Spans for the tests of the encoders.

use crate::config::Scalar;
use crate::model::{SpanId, TraceFlags, TraceId, UnixNanos};
use crate::span::{KeyValue, Link, Resource, Span, SpanKind, Status, Value};

/// Where they are from.
pub(super) fn resource() -> Resource {
    Resource {
        attributes: vec![
            ("service.name".into(), Scalar::String("checkout".into())),
            ("replicas".into(), Scalar::Int(3)),
        ],
    }
}

/// A span with little in it.
pub(super) fn small() -> Span {
    Span {
        trace_id: TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap(),
        span_id: SpanId::from_hex(b"00f067aa0ba902b7").unwrap(),
        parent_id: None,
        trace_state: String::new(),
        flags: TraceFlags::SAMPLED,
        name: "GET".into(),
        kind: SpanKind::Client,
        start: UnixNanos(1),
        end: UnixNanos(0x0102_0304_0506_0708),
        status: Status::Unset,
        attributes: vec![KeyValue { key: "k".into(), value: Value::Scalar(Scalar::Int(-1)) }],
        links: vec![],
    }
}

/// A span with all that a span can have.
pub(super) fn full() -> Span {
    let scalar =
        |key: &'static str, value| KeyValue { key: key.into(), value: Value::Scalar(value) };
    let strings = |key: &'static str, values: &[&str]| KeyValue {
        key: key.into(),
        value: Value::Strings(values.iter().copied().map(str::to_owned).collect()),
    };
    let link = |byte, trace_state: &str, flags| Link {
        trace_id: TraceId::from_bytes([byte; 16]).unwrap(),
        span_id: SpanId::from_bytes([byte; 8]).unwrap(),
        trace_state: trace_state.to_owned(),
        flags,
        confidence: (byte == 9).then_some(0.25),
    };
    Span {
        parent_id: SpanId::from_bytes([7; 8]),
        trace_state: "ot=th:8,vendor=x".into(),
        name: "GET /orders/{id}".into(),
        kind: SpanKind::Server,
        status: Status::Error("timeout".into()),
        attributes: vec![
            scalar("bool.false", Scalar::Bool(false)),
            scalar("bool.true", Scalar::Bool(true)),
            scalar("double", Scalar::Double(-0.5)),
            scalar("int.max", Scalar::Int(i64::MAX)),
            scalar("int.zero", Scalar::Int(0)),
            scalar("string.empty", Scalar::String(String::new())),
            scalar("string.long", Scalar::String("ä".repeat(20_000))),
            strings("strings", &["a", ""]),
            strings("strings.none", &[]),
        ],
        links: vec![
            link(8, "vendor=y", TraceFlags::SAMPLED.with(TraceFlags::RANDOM)),
            link(9, "", TraceFlags::default()),
        ],
        ..small()
    }
}

/// A span as the filter makes it of a usual request.
pub(super) fn usual() -> Span {
    let text = |key: &'static str, value: &str| KeyValue {
        key: key.into(),
        value: Value::Scalar(Scalar::String(value.into())),
    };
    let number = |key: &'static str, value| KeyValue {
        key: key.into(),
        value: Value::Scalar(Scalar::Int(value)),
    };
    Span {
        parent_id: SpanId::from_bytes([7; 8]),
        name: "GET /orders/{id}".into(),
        kind: SpanKind::Server,
        start: UnixNanos(1_544_712_660_300_123_456),
        end: UnixNanos(1_544_712_660_304_234_567),
        attributes: vec![
            text("http.request.method", "GET"),
            number("http.response.status_code", 200),
            text("server.address", "shop.example"),
            text("network.protocol.version", "1.1"),
            text("url.scheme", "http"),
            text("url.path", "/orders/7"),
            text("user_agent.original", "curl/8.5.0"),
            text("client.address", "10.244.3.17"),
            text("network.peer.address", "10.244.3.17"),
            number("network.peer.port", 51_324),
            text("envoy.cluster", "outbound|8080||orders.shop.svc.cluster.local"),
            text("envoy.upstream_address", "10.244.1.9:8080"),
            text("envoy.response_code_details", "via_upstream"),
            text("meshweft.sampling.reason", "default"),
        ],
        ..small()
    }
}
