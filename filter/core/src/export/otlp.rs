//! OTLP in protobuf: spans and the envelope around them are written straight from the model,
//! without messages in between, so that taking a span in allocates nothing.
//! The field numbers are those of opentelemetry-proto v1.

use prost::Message;

use crate::config::Scalar;
use crate::model::TraceFlags;
use crate::span::{KeyValue, LINK_CONFIDENCE, Link, Resource, SCHEMA_URL, Span, Status, Value};

/// The name of the instrumentation scope.
pub(super) const SCOPE: &str = "meshweft";

/// `STATUS_CODE_ERROR`.
pub(super) const STATUS_ERROR: u64 = 2;

/// Everything of an `ExportTraceServiceRequest` but its spans, encoded once.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    /// The fields of `ResourceSpans` before its scope.
    resource_spans: Vec<u8>,
    /// The fields of `ScopeSpans` before its spans.
    scope_spans: Vec<u8>,
}

impl Envelope {
    pub(super) fn new(resource: &Resource) -> Self {
        let mut resource_spans = Vec::new();
        message(&mut resource_spans, 1, |out| {
            for (key, value) in &resource.attributes {
                message(out, 1, |out| {
                    string(out, 1, key);
                    message(out, 2, |out| scalar(out, value));
                });
            }
        });
        string(&mut resource_spans, 3, SCHEMA_URL);
        let mut scope_spans = Vec::new();
        message(&mut scope_spans, 1, |out| {
            string(out, 1, SCOPE);
            string(out, 2, env!("CARGO_PKG_VERSION"));
        });
        string(&mut scope_spans, 3, SCHEMA_URL);
        Self { resource_spans, scope_spans }
    }

    /// The request around `spans`, a run of [`encode_span`]'s elements: equal spans give equal
    /// bytes, so a retry is the same request again.
    pub(super) fn wrap(&self, spans: &[u8]) -> Vec<u8> {
        let scope_spans = self.scope_spans.len().saturating_add(spans.len());
        let mut head = self.resource_spans.clone();
        prefix(&mut head, 2, scope_spans);
        let resource_spans = head.len().saturating_add(scope_spans);
        let mut body = Vec::with_capacity(resource_spans.saturating_add(MAX_PREFIX));
        prefix(&mut body, 1, resource_spans);
        body.extend_from_slice(&head);
        body.extend_from_slice(&self.scope_spans);
        body.extend_from_slice(spans);
        body
    }
}

/// Appends `span` as one element of `ScopeSpans.spans`.
pub(super) fn encode_span(out: &mut Vec<u8>, span: &Span) {
    message(out, 2, |out| {
        bytes(out, 1, &span.trace_id.to_bytes());
        bytes(out, 2, &span.span_id.to_bytes());
        string(out, 3, &span.trace_state);
        if let Some(parent_id) = span.parent_id {
            bytes(out, 4, &parent_id.to_bytes());
        }
        string(out, 5, &span.name);
        number(out, 6, span.kind as u64);
        fixed64(out, 7, span.start.0);
        fixed64(out, 8, span.end.0);
        for KeyValue { key, value } in &span.attributes {
            message(out, 9, |out| {
                string(out, 1, key);
                message(out, 2, |out| match value {
                    Value::Scalar(value) => scalar(out, value),
                    Value::Strings(values) => message(out, 5, |out| {
                        for value in values {
                            message(out, 1, |out| bytes(out, 1, value.as_bytes()));
                        }
                    }),
                });
            });
        }
        for link in &span.links {
            message(out, 13, |out| encode_link(out, link));
        }
        match &span.status {
            Status::Unset => {}
            Status::Error(text) => message(out, 15, |out| {
                string(out, 2, text);
                number(out, 3, STATUS_ERROR);
            }),
        }
        flags(out, 16, span.flags, span.parent_id.is_some());
    });
}

/// The fields of a `Span.Link`.
fn encode_link(out: &mut Vec<u8>, link: &Link) {
    bytes(out, 1, &link.trace_id.to_bytes());
    bytes(out, 2, &link.span_id.to_bytes());
    string(out, 3, &link.trace_state);
    if let Some(confidence) = link.confidence {
        message(out, 4, |out| {
            string(out, 1, LINK_CONFIDENCE);
            message(out, 2, |out| scalar(out, &Scalar::Double(confidence)));
        });
    }
    flags(out, 6, link.flags, true);
}

/// `SpanFlags`: the W3C flags in bits 0 to 7; bit 8, "it is known whether the parent (or the
/// linked span) is remote"; bit 9, "it is".
pub(super) fn span_flags(flags: TraceFlags, remote: bool) -> u32 {
    const HAS_IS_REMOTE: u32 = 0x100;
    const IS_REMOTE: u32 = 0x200;
    let remote = if remote { IS_REMOTE } else { 0 };
    u32::from(flags.bits()) | HAS_IS_REMOTE | remote
}

fn flags(out: &mut Vec<u8>, field: u32, flags: TraceFlags, remote: bool) {
    key(out, field, WireType::Fixed32);
    out.extend_from_slice(&span_flags(flags, remote).to_le_bytes());
}

/// What a collector says beside success.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Partial {
    /// How many spans it refuses nevertheless.
    pub(super) rejected: usize,
    /// Why, or a warning.
    pub(super) message: String,
}

impl Partial {
    pub(super) fn new(rejected: i64, message: &[u8]) -> Self {
        let rejected = usize::try_from(rejected.max(0)).unwrap_or(usize::MAX);
        Self { rejected, message: String::from_utf8_lossy(message).into_owned() }
    }
}

/// What an answer with a status of success refuses nevertheless. A body that cannot be read
/// refuses nothing: the status has spoken.
pub(super) fn partial_success(body: &[u8]) -> Partial {
    let partial = TraceResponse::decode(body).ok().and_then(|response| response.partial_success);
    let partial = partial.unwrap_or_default();
    Partial::new(partial.rejected_spans, &partial.error_message)
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct TraceResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<TracePartialSuccess>,
}

/// `ExportTracePartialSuccess`. Text that is not UTF-8 must not hide the number.
#[derive(Clone, PartialEq, prost::Message)]
struct TracePartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(bytes = "vec", tag = "2")]
    error_message: Vec<u8>,
}

/// The tag and the length of a message are no longer than this: 1 and 10 bytes.
const MAX_PREFIX: usize = 11;

#[derive(Clone, Copy)]
enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Len = 2,
    Fixed32 = 5,
}

/// The fields of an `AnyValue`: a `oneof`, so that defaults are written too.
fn scalar(out: &mut Vec<u8>, value: &Scalar) {
    match value {
        Scalar::String(value) => bytes(out, 1, value.as_bytes()),
        Scalar::Bool(value) => number(out, 2, u64::from(*value)),
        Scalar::Int(value) => number(out, 3, value.cast_unsigned()),
        Scalar::Double(value) => fixed64(out, 4, value.to_bits()),
    }
}

/// A message of which only its fields are known: its length is written after them and then
/// moved to the front, which is cheaper than to compute it beforehand.
fn message(out: &mut Vec<u8>, field: u32, fields: impl FnOnce(&mut Vec<u8>)) {
    key(out, field, WireType::Len);
    let start = out.len();
    fields(out);
    let end = out.len();
    varint(out, end.saturating_sub(start) as u64);
    let width = out.len().saturating_sub(end);
    if let Some(tail) = out.get_mut(start..) {
        tail.rotate_right(width);
    }
}

fn prefix(out: &mut Vec<u8>, field: u32, len: usize) {
    key(out, field, WireType::Len);
    varint(out, len as u64);
}

/// A string field of proto3: absent when empty.
fn string(out: &mut Vec<u8>, field: u32, value: &str) {
    if !value.is_empty() {
        bytes(out, field, value.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    prefix(out, field, value.len());
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, WireType::Varint);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, WireType::Fixed64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn key(out: &mut Vec<u8>, field: u32, wire_type: WireType) {
    varint(out, u64::from(field) << 3 | wire_type as u64);
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time are what is asked for")]
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::samples::{full, small};
    use super::*;

    #[test]
    fn golden_span() {
        let mut out = vec![0xee];
        encode_span(&mut out, &small());
        let expected = concat!(
            "ee",
            "124d",                                 // ScopeSpans.spans, 77 bytes
            "0a100af7651916cd43dd8448eb211c80319c", // trace_id
            "120800f067aa0ba902b7",                 // span_id
            "2a03474554",                           // name
            "3003",                                 // kind
            "390100000000000000",                   // start
            "410807060504030201",                   // end
            "4a10",                                 // attributes, 16 bytes
            "0a016b",                               // key
            "120b18ffffffffffffffffff01",           // value: int -1
            "850101010000",                         // flags, field 16
        );
        assert_eq!(hex::encode(&out), expected);
    }

    #[test]
    fn golden_envelope() {
        let resource = Resource { attributes: vec![("a".into(), Scalar::String("b".into()))] };
        let body = Envelope::new(&resource).wrap(b"SPANS OF ANY LENGTH");
        let url = format!("1a{:02x}{}", SCHEMA_URL.len(), hex::encode(SCHEMA_URL));
        let version = env!("CARGO_PKG_VERSION");
        let scope =
            format!("0a086d65736877656674{}{:02x}{}", "12", version.len(), hex::encode(version));
        let scope_spans =
            format!("0a{:02x}{scope}{url}{}", scope.len() / 2, hex::encode("SPANS OF ANY LENGTH"));
        let resource_spans =
            format!("0a0a0a080a016112030a0162{url}12{:02x}{scope_spans}", scope_spans.len() / 2);
        // 128 and more in two bytes.
        let len = resource_spans.len() / 2;
        assert!((128..256).contains(&len), "{len}");
        assert_eq!(hex::encode(body), format!("0a{:02x}01{resource_spans}", len));
    }

    #[test]
    fn varints_of_every_width() {
        for (value, expected) in [
            (0, "00"),
            (0x7f, "7f"),
            (0x80, "8001"),
            (300, "ac02"),
            (u64::MAX, "ffffffffffffffffff01"),
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(hex::encode(out), expected, "{value}");
        }
    }

    #[test]
    fn partial_successes() {
        for (body, rejected, message) in [
            (&b""[..], 0, ""),
            (b"\x0a\x00", 0, ""),
            (b"\x0a\x02\x08\x03", 3, ""),
            (b"\x0a\x02\x08\x64", 100, ""),
            (b"\x0a\x07\x08\x03\x12\x03why", 3, "why"),
            (b"\x0a\x03\x12\x01w", 0, "w"),
            // A text that is not UTF-8.
            (b"\x0a\x05\x08\x03\x12\x01\xff", 3, "\u{fffd}"),
            // A negative number.
            (b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, ""),
            // An unknown field.
            (b"\x0a\x04\x08\x03\x18\x01", 3, ""),
            // Cut off; not protobuf; a field of the wrong type.
            (b"\x0a\x02\x08", 0, ""),
            (b"{\"partialSuccess\":{}}", 0, ""),
            (b"\x0a\x05\x0a\x03abc", 0, ""),
        ] {
            let expected = Partial { rejected, message: message.to_owned() };
            assert_eq!(partial_success(body), expected, "{body:?}");
        }
    }

    /// The judge: the published types of OpenTelemetry.
    #[cfg(not(target_family = "wasm"))]
    mod judged {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use opentelemetry_proto::tonic::common::v1 as common;
        use opentelemetry_proto::tonic::resource::v1 as resource;
        use opentelemetry_proto::tonic::trace::v1 as trace;

        use super::*;

        type Any = common::any_value::Value;

        fn key_value(key: &str, value: Any) -> common::KeyValue {
            common::KeyValue {
                key: key.into(),
                value: Some(common::AnyValue { value: Some(value) }),
                ..Default::default()
            }
        }

        fn strings(values: &[&str]) -> Any {
            let values = values
                .iter()
                .map(|value| common::AnyValue { value: Some(Any::StringValue((*value).into())) });
            Any::ArrayValue(common::ArrayValue { values: values.collect() })
        }

        fn link(byte: u8, trace_state: &str, flags: u32) -> trace::span::Link {
            trace::span::Link {
                trace_id: vec![byte; 16],
                span_id: vec![byte; 8],
                trace_state: trace_state.into(),
                flags,
                attributes: (byte == 9)
                    .then(|| judged("meshweft.correlation.confidence", 0.25))
                    .into_iter()
                    .collect(),
                ..Default::default()
            }
        }

        fn judged(key: &str, value: f64) -> common::KeyValue {
            let value =
                common::AnyValue { value: Some(common::any_value::Value::DoubleValue(value)) };
            common::KeyValue { key: key.into(), value: Some(value), ..Default::default() }
        }

        fn full_judged() -> trace::Span {
            use trace::SpanFlags::{ContextHasIsRemoteMask, ContextIsRemoteMask};
            let remote = ContextHasIsRemoteMask as u32 | ContextIsRemoteMask as u32;
            trace::Span {
                flags: remote | 1,
                parent_span_id: vec![7; 8],
                trace_state: "ot=th:8,vendor=x".into(),
                name: "GET /orders/{id}".into(),
                kind: trace::span::SpanKind::Server.into(),
                status: Some(trace::Status {
                    message: "timeout".into(),
                    code: trace::status::StatusCode::Error.into(),
                }),
                attributes: vec![
                    key_value("bool.false", Any::BoolValue(false)),
                    key_value("bool.true", Any::BoolValue(true)),
                    key_value("double", Any::DoubleValue(-0.5)),
                    key_value("int.max", Any::IntValue(i64::MAX)),
                    key_value("int.zero", Any::IntValue(0)),
                    key_value("string.empty", Any::StringValue(String::new())),
                    key_value("string.long", Any::StringValue("ä".repeat(20_000))),
                    key_value("strings", strings(&["a", ""])),
                    key_value("strings.none", strings(&[])),
                ],
                links: vec![link(8, "vendor=y", remote | 3), link(9, "", remote)],
                ..small_judged()
            }
        }

        fn small_judged() -> trace::Span {
            trace::Span {
                trace_id: hex::decode("0af7651916cd43dd8448eb211c80319c").unwrap(),
                span_id: hex::decode("00f067aa0ba902b7").unwrap(),
                flags: 0x101,
                name: "GET".into(),
                kind: trace::span::SpanKind::Client.into(),
                start_time_unix_nano: 1,
                end_time_unix_nano: 0x0102_0304_0506_0708,
                attributes: vec![key_value("k", Any::IntValue(-1))],
                ..Default::default()
            }
        }

        #[test]
        fn a_body_decodes() {
            let ours = super::super::super::samples::resource();
            let mut spans = Vec::new();
            encode_span(&mut spans, &small());
            encode_span(&mut spans, &full());
            let body = Envelope::new(&ours).wrap(&spans);
            let expected = ExportTraceServiceRequest {
                resource_spans: vec![trace::ResourceSpans {
                    resource: Some(resource::Resource {
                        attributes: vec![
                            key_value("service.name", Any::StringValue("checkout".into())),
                            key_value("replicas", Any::IntValue(3)),
                        ],
                        ..Default::default()
                    }),
                    scope_spans: vec![trace::ScopeSpans {
                        scope: Some(common::InstrumentationScope {
                            name: "meshweft".into(),
                            version: env!("CARGO_PKG_VERSION").into(),
                            ..Default::default()
                        }),
                        spans: vec![small_judged(), full_judged()],
                        schema_url: SCHEMA_URL.into(),
                    }],
                    schema_url: SCHEMA_URL.into(),
                }],
            };
            assert_eq!(ExportTraceServiceRequest::decode(&body[..]).unwrap(), expected);
        }

        #[test]
        fn spans_are_canonical() {
            for (ours, theirs) in [(small(), small_judged()), (full(), full_judged())] {
                let mut out = Vec::new();
                encode_span(&mut out, &ours);
                let mut expected = Vec::new();
                bytes(&mut expected, 2, &theirs.encode_to_vec());
                assert_eq!(out, expected);
            }
        }
    }
}
