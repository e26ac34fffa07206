//! OTLP in JSON: protobuf's mapping, but ids in hex and enums as numbers.
//! Every span is an element with a comma behind it, so that a batch can be appended to.

use super::json::{double, hex, number, raw, signed, string};
use super::otlp::{Partial, SCOPE, STATUS_ERROR, span_flags};
use crate::config::{Json, Scalar};
use crate::span::{KeyValue, LINK_CONFIDENCE, Link, Resource, SCHEMA_URL, Span, Status, Value};

/// Everything of an export but its spans, encoded once.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Envelope {
    pub(super) fn new(resource: &Resource) -> Self {
        let mut head = Vec::new();
        raw(&mut head, r#"{"resourceSpans":[{"resource":{"attributes":["#);
        list(&mut head, &resource.attributes, |out, (key, value)| {
            attribute(out, key, |out| scalar(out, value));
        });
        raw(&mut head, r#"]},"scopeSpans":[{"scope":{"name":"#);
        string(&mut head, SCOPE);
        raw(&mut head, r#","version":"#);
        string(&mut head, env!("CARGO_PKG_VERSION"));
        raw(&mut head, r#"},"spans":["#);
        let mut tail = Vec::new();
        for end in ["],\"schemaUrl\":", "}],\"schemaUrl\":"] {
            raw(&mut tail, end);
            string(&mut tail, SCHEMA_URL);
        }
        raw(&mut tail, "}]}");
        Self { head, tail }
    }

    /// The export around `spans`, a run of [`encode_span`]'s elements.
    pub(super) fn wrap(&self, spans: &[u8]) -> Vec<u8> {
        [&self.head, spans.strip_suffix(b",").unwrap_or(spans), &self.tail].concat()
    }
}

/// Appends `span` as one element, and a comma.
pub(super) fn encode_span(out: &mut Vec<u8>, span: &Span) {
    raw(out, "{");
    ids(out, &span.trace_id.to_bytes(), &span.span_id.to_bytes(), &span.trace_state);
    if let Some(parent_id) = span.parent_id {
        raw(out, r#","parentSpanId":""#);
        hex(out, &parent_id.to_bytes());
        raw(out, "\"");
    }
    raw(out, r#","flags":"#);
    number(out, span_flags(span.flags, span.parent_id.is_some()).into());
    raw(out, r#","name":"#);
    string(out, &span.name);
    raw(out, r#","kind":"#);
    number(out, span.kind as u64);
    raw(out, r#","startTimeUnixNano":""#);
    number(out, span.start.0);
    raw(out, r#"","endTimeUnixNano":""#);
    number(out, span.end.0);
    raw(out, r#"","attributes":["#);
    list(out, &span.attributes, |out, KeyValue { key, value }| {
        attribute(out, key, |out| match value {
            Value::Scalar(value) => scalar(out, value),
            Value::Strings(values) => {
                raw(out, r#"{"arrayValue":{"values":["#);
                list(out, values, |out, value| {
                    raw(out, r#"{"stringValue":"#);
                    string(out, value);
                    raw(out, "}");
                });
                raw(out, "]}}");
            }
        });
    });
    raw(out, "]");
    if !span.links.is_empty() {
        raw(out, r#","links":["#);
        list(out, &span.links, encode_link);
        raw(out, "]");
    }
    match &span.status {
        Status::Unset => {}
        Status::Error(text) => {
            raw(out, r#","status":{"message":"#);
            string(out, text);
            raw(out, r#","code":"#);
            number(out, STATUS_ERROR);
            raw(out, "}");
        }
    }
    raw(out, "},");
}

fn encode_link(out: &mut Vec<u8>, link: &Link) {
    raw(out, "{");
    ids(out, &link.trace_id.to_bytes(), &link.span_id.to_bytes(), &link.trace_state);
    raw(out, r#","flags":"#);
    number(out, span_flags(link.flags, true).into());
    if let Some(confidence) = link.confidence {
        raw(out, r#","attributes":["#);
        attribute(out, LINK_CONFIDENCE, |out| scalar(out, &Scalar::Double(confidence)));
        raw(out, "]");
    }
    raw(out, "}");
}

fn ids(out: &mut Vec<u8>, trace_id: &[u8], span_id: &[u8], trace_state: &str) {
    raw(out, r#""traceId":""#);
    hex(out, trace_id);
    raw(out, r#"","spanId":""#);
    hex(out, span_id);
    raw(out, "\"");
    if !trace_state.is_empty() {
        raw(out, r#","traceState":"#);
        string(out, trace_state);
    }
}

fn attribute(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    raw(out, r#"{"key":"#);
    string(out, key);
    raw(out, r#","value":"#);
    value(out);
    raw(out, "}");
}

fn scalar(out: &mut Vec<u8>, value: &Scalar) {
    match value {
        Scalar::String(value) => {
            raw(out, r#"{"stringValue":"#);
            string(out, value);
        }
        Scalar::Bool(value) => {
            raw(out, r#"{"boolValue":"#);
            raw(out, if *value { "true" } else { "false" });
        }
        Scalar::Int(value) => {
            raw(out, r#"{"intValue":""#);
            signed(out, *value);
            raw(out, "\"");
        }
        Scalar::Double(value) => {
            raw(out, r#"{"doubleValue":"#);
            double(out, *value);
        }
    }
    raw(out, "}");
}

/// `items` with commas between them.
fn list<T>(out: &mut Vec<u8>, items: &[T], mut write: impl FnMut(&mut Vec<u8>, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            raw(out, ",");
        }
        write(out, item);
    }
}

/// What an answer with a status of success refuses nevertheless. A body that cannot be read
/// refuses nothing: the status has spoken.
pub(super) fn partial_success(body: &[u8]) -> Partial {
    let body = Json::read(body).unwrap_or(Json::Null);
    let Some(partial) = body.get("partialSuccess") else { return Partial::default() };
    let rejected = match partial.get("rejectedSpans") {
        Some(Json::String(digits)) => digits.parse::<i64>().ok(),
        Some(Json::Number(number)) => number.as_i64(),
        _ => None,
    };
    let message = match partial.get("errorMessage") {
        Some(Json::String(message)) => message.as_str(),
        _ => "",
    };
    Partial::new(rejected.unwrap_or_default(), message.as_bytes())
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::samples;
    use super::*;

    fn export(resource: &Resource, spans: &[Span]) -> String {
        let mut elements = Vec::new();
        for span in spans {
            encode_span(&mut elements, span);
        }
        String::from_utf8(Envelope::new(resource).wrap(&elements)).unwrap()
    }

    #[test]
    fn golden() {
        let resource = Resource { attributes: vec![("a".into(), Scalar::Double(0.5))] };
        let version = env!("CARGO_PKG_VERSION");
        let scope = format!(r#""scope":{{"name":"meshweft","version":"{version}"}}"#);
        let url = format!(r#""schemaUrl":"{SCHEMA_URL}""#);
        let span = concat!(
            r#"{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"00f067aa0ba902b7","#,
            r#""flags":257,"name":"GET","kind":3,"startTimeUnixNano":"1","#,
            r#""endTimeUnixNano":"72623859790382856","#,
            r#""attributes":[{"key":"k","value":{"intValue":"-1"}}]}"#,
        );
        let with = |spans: &str| {
            format!(
                r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"a","value":{{"doubleValue":0.5}}}}]}},"scopeSpans":[{{{scope},"spans":[{spans}],{url}}}],{url}}}]}}"#
            )
        };
        let small = samples::small();
        assert_eq!(export(&resource, &[]), with(""));
        assert_eq!(export(&resource, core::slice::from_ref(&small)), with(span));
        assert_eq!(export(&resource, &[small.clone(), small]), with(&format!("{span},{span}")));
    }

    #[test]
    fn partial_successes() {
        for (body, rejected, message) in [
            ("", 0, ""),
            ("{}", 0, ""),
            (r#"{"partialSuccess":{}}"#, 0, ""),
            (r#"{"partialSuccess":null}"#, 0, ""),
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}"#, 3, "why"),
            (r#"{"partialSuccess":{"rejectedSpans":3,"errorMessage":7}}"#, 3, ""),
            (r#"{"partialSuccess":{"rejectedSpans":"-3"}}"#, 0, ""),
            (r#"{"partialSuccess":{"rejectedSpans":"99999999999999999999"}}"#, 0, ""),
            (r#"{"partialSuccess":{"rejectedSpans":1.5}}"#, 0, ""),
            (r#"{"partialSuccess":{"errorMessage":"warned"}}"#, 0, "warned"),
            (r#"{"partialSuccess":[1]}"#, 0, ""),
            (r#"["partialSuccess"]"#, 0, ""),
            ("\u{0}{", 0, ""),
        ] {
            let expected = Partial { rejected, message: message.to_owned() };
            assert_eq!(partial_success(body.as_bytes()), expected, "{body}");
        }
        let deep = "[".repeat(60_000);
        assert_eq!(partial_success(deep.as_bytes()), Partial::default());
    }

    /// The judge: the published types of OpenTelemetry read it as they read our protobuf.
    #[cfg(not(target_family = "wasm"))]
    #[test]
    fn the_same_as_in_protobuf() {
        use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
        use prost::Message;

        use super::super::otlp;

        for spans in [vec![], vec![samples::small()], vec![samples::full(), samples::small()]] {
            let json = export(&samples::resource(), &spans);
            let mut elements = Vec::new();
            for span in &spans {
                otlp::encode_span(&mut elements, span);
            }
            let bytes = otlp::Envelope::new(&samples::resource()).wrap(&elements);
            let judged: ExportTraceServiceRequest = serde_json::from_str(&json).unwrap();
            assert_eq!(judged, ExportTraceServiceRequest::decode(&*bytes).unwrap());
        }
    }
}
