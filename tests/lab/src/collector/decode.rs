//! From a request to spans, strictly: what a protocol does not allow gets the status that says so.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;
use serde_json::Value as Json;

use super::Span;

/// How the path of OTLP over HTTP for traces ends; collectors may stand below a path of their own.
const PATH: &str = "/v1/traces";

/// The path of the same in gRPC.
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The path of Zipkin's second format.
const ZIPKIN: &str = "/api/v2/spans";

/// The protocol of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaks {
    Grpc,
    Json,
    Protobuf,
    Zipkin,
}

impl Speaks {
    /// The status of a success.
    pub(crate) const fn success(self) -> u16 {
        match self {
            Self::Zipkin => 202,
            Self::Grpc | Self::Json | Self::Protobuf => 200,
        }
    }
}

/// What a request has told.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) spans: Vec<Span>,
    /// The same in the official types, where there are such.
    pub(crate) export: Option<ExportTraceServiceRequest>,
}

impl From<ExportTraceServiceRequest> for Decoded {
    fn from(export: ExportTraceServiceRequest) -> Self {
        Self { spans: spans(export.clone()), export: Some(export) }
    }
}

/// What a protocol asks of a request, or the status that says what it lacks.
pub(crate) fn request(parts: &Parts, body: &Bytes) -> Result<(Speaks, Decoded), u16> {
    let header = |name: &str| parts.headers.get(name).map(HeaderValue::as_bytes);
    if parts.method != Method::POST {
        return Err(405);
    }
    let path = parts.uri.path();
    let speaks = match header("content-type") {
        Some(b"application/grpc") if path == METHOD => Speaks::Grpc,
        Some(b"application/json") if path.ends_with(PATH) => Speaks::Json,
        Some(b"application/json") if path.ends_with(ZIPKIN) => Speaks::Zipkin,
        Some(b"application/x-protobuf") if path.ends_with(PATH) => Speaks::Protobuf,
        _ if path == METHOD || path.ends_with(PATH) || path.ends_with(ZIPKIN) => return Err(415),
        _ => return Err(404),
    };
    let is_proto = |body: &[u8]| ExportTraceServiceRequest::decode(body).map_err(|_| 400_u16);
    let decoded = match speaks {
        Speaks::Grpc => {
            // No frame but one, of the whole body; and trailers must be asked for.
            let length = u32::try_from(body.len().saturating_sub(5)).map_err(|_| 400_u16)?;
            let [flag, a, b, c, d] = *body.first_chunk::<5>().ok_or(400_u16)?;
            let encoding = header("grpc-encoding");
            if u32::from_be_bytes([a, b, c, d]) != length || header("te") != Some(b"trailers") {
                return Err(400);
            }
            let message = body.slice(5..);
            match (flag, encoding) {
                (0, None) => is_proto(&message)?.into(),
                (1, Some(b"gzip")) => is_proto(&gunzip(&message)?)?.into(),
                _ => return Err(400),
            }
        }
        Speaks::Json | Speaks::Protobuf | Speaks::Zipkin => {
            let body = match header("content-encoding") {
                None => body.to_vec(),
                Some(b"gzip") => gunzip(body)?,
                Some(_) => return Err(415),
            };
            match speaks {
                Speaks::Zipkin => zipkin(&body).ok_or(400_u16)?,
                Speaks::Json => serde_json::from_slice::<ExportTraceServiceRequest>(&body)
                    .map_err(|_| 400_u16)?
                    .into(),
                Speaks::Grpc | Speaks::Protobuf => is_proto(&body)?.into(),
            }
        }
    };
    Ok((speaks, decoded))
}

/// What a whole gzip stream holds; what follows it is not allowed.
fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, u16> {
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    let mut out = Vec::new();
    decoder.read_to_end(&mut out).map_err(|_| 400_u16)?;
    if decoder.into_inner().is_empty() { Ok(out) } else { Err(400) }
}

/// Zipkin's list of spans; tags are attributes, and the local service is the resource.
fn zipkin(body: &[u8]) -> Option<Decoded> {
    let list: Json = serde_json::from_slice(body).ok()?;
    let span = |span: &Json| {
        let text = |key: &str| Some(span.get(key)?.as_str()?.to_owned());
        let micros = |key: &str| span.get(key)?.as_u64();
        let mut attributes = BTreeMap::new();
        for (key, value) in span.get("tags")?.as_object()? {
            attributes.insert(key.clone(), value.as_str()?.to_owned());
        }
        let service = span.get("localEndpoint")?.get("serviceName")?.as_str()?.to_owned();
        let start = micros("timestamp")?.checked_mul(1000)?;
        Some(Span {
            trace_id: text("traceId")?,
            span_id: text("id")?,
            parent_id: text("parentId").unwrap_or_default(),
            trace_state: attributes.get("w3c.tracestate").cloned().unwrap_or_default(),
            flags: 0,
            name: text("name")?,
            kind: text("kind")?,
            start,
            end: start.checked_add(micros("duration").filter(|d| *d > 0)?.checked_mul(1000)?)?,
            error: attributes.contains_key("error"),
            links: Vec::new(),
            attributes,
            resource: BTreeMap::from([("service.name".to_owned(), service)]),
        })
    };
    let spans = list.as_array()?.iter().map(span).collect::<Option<Vec<_>>>()?;
    Some(Decoded { spans, export: None })
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut all = Vec::new();
    for resource_spans in request.resource_spans {
        let resource = texts(resource_spans.resource.map(|r| r.attributes).unwrap_or_default());
        for span in resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Span {
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                trace_state: span.trace_state,
                flags: span.flags,
                name: span.name,
                kind: match otlp::span::SpanKind::try_from(span.kind) {
                    Ok(otlp::span::SpanKind::Server) => "SERVER".to_owned(),
                    Ok(otlp::span::SpanKind::Client) => "CLIENT".to_owned(),
                    other => format!("{other:?}"),
                },
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                error: span.status.is_some_and(|s| s.code() == otlp::status::StatusCode::Error),
                links: span.links.iter().map(|l| (hex(&l.trace_id), hex(&l.span_id))).collect(),
                attributes: texts(span.attributes),
                resource: resource.clone(),
            });
        }
    }
    all
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes
        .into_iter()
        .map(|pair| (pair.key, pair.value.map(text).unwrap_or_default()))
        .collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(Value::ArrayValue(array)) => {
            array.values.into_iter().map(text).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
