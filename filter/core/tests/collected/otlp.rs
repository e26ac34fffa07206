//! Collected exports, in JSON and in protobuf: what the model can hold of their spans comes out
//! of our encoders as it came in.

use core::time::Duration;

use meshweft_core::config::{Config, Scalar};
use meshweft_core::export::Exporter;
use meshweft_core::model::{Metrics, MonoNanos, SpanId, TraceFlags, TraceId, UnixNanos};
use meshweft_core::span::{KeyValue, Resource, Span, SpanKind, Status, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message;

#[test]
fn cases() {
    let Some(folder) = super::folder() else { return };
    let suite = super::suite(&folder, "otlp");
    let cases = suite["cases"].as_array().unwrap();
    let mut compared = 0;
    for case in cases {
        println!("{}", case["name"]);
        let json: ExportTraceServiceRequest = serde_json::from_value(case["json"].clone()).unwrap();
        let bytes = hex::decode(case["protobuf_hex"].as_str().unwrap()).unwrap();
        let theirs = ExportTraceServiceRequest::decode(&*bytes).unwrap();
        assert_eq!(json, theirs, "the case's own two forms");
        for theirs in theirs.resource_spans {
            let spans: Vec<_> =
                theirs.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
            let Some(ours) = spans.iter().map(ours).collect::<Option<Vec<_>>>() else { continue };
            let resource = theirs.resource.unwrap_or_default().attributes;
            let attributes = resource.iter().map(|pair| match value(pair.value.as_ref()) {
                Value::Scalar(scalar) => (pair.key.clone(), scalar),
                Value::Strings(_) => panic!("a list among the attributes of a resource"),
            });
            let resource_of_ours = Resource { attributes: attributes.collect() };
            for protocol in ["otlp/http", "otlp/http+json"] {
                let [export] = &*exported(protocol, &resource_of_ours, &ours).resource_spans else {
                    panic!("one resource")
                };
                assert_eq!(export.resource.as_ref().unwrap().attributes, resource);
                let mut read = export.scope_spans[0].spans.clone();
                for (read, theirs) in read.iter_mut().zip(&spans) {
                    // We say always whether a parent is remote.
                    read.flags = if theirs.flags == 0 { 0 } else { read.flags };
                }
                assert_eq!(read, spans);
            }
            compared += 1;
        }
    }
    assert!(compared >= 7, "{compared} of {} cases were compared", cases.len());
}

/// Through the exporter, and read by the published types.
fn exported(protocol: &str, resource: &Resource, spans: &[Span]) -> ExportTraceServiceRequest {
    let config = format!(r#"{{"export": {{"cluster": "c", "protocol": "{protocol}"}}}}"#);
    let config = Config::parse(config.as_bytes(), &|_| None).unwrap().export.unwrap();
    let mut exporter = Exporter::new(&config, resource);
    let mut metrics = Metrics::default();
    for span in spans {
        exporter.push(span, MonoNanos(1), &mut metrics);
    }
    let calls = exporter.poll(MonoNanos(1).after(Duration::from_secs(1)), &mut metrics);
    let [call] = &*calls else { panic!("one request") };
    match protocol {
        "otlp/http" => ExportTraceServiceRequest::decode(&*call.body).unwrap(),
        _ => serde_json::from_slice(&call.body).unwrap(),
    }
}

/// The span in our model, unless the model cannot hold all of it.
fn ours(span: &otlp::Span) -> Option<Span> {
    let status = span.status.clone().unwrap_or_default();
    let fits = span.events.is_empty()
        && span.links.is_empty()
        && span.dropped_attributes_count == 0
        && span.dropped_events_count == 0
        && span.dropped_links_count == 0
        && status.code != 1;
    fits.then(|| Span {
        trace_id: TraceId::from_bytes(span.trace_id.clone().try_into().unwrap()).unwrap(),
        span_id: SpanId::from_bytes(span.span_id.clone().try_into().unwrap()).unwrap(),
        parent_id: span.parent_span_id.clone().try_into().ok().and_then(SpanId::from_bytes),
        trace_state: span.trace_state.clone(),
        flags: TraceFlags::from_bits(u8::try_from(span.flags & 0xff).unwrap()),
        name: span.name.clone(),
        kind: if span.kind == 2 { SpanKind::Server } else { SpanKind::Client },
        start: UnixNanos(span.start_time_unix_nano),
        end: UnixNanos(span.end_time_unix_nano),
        status: if status.code == 2 { Status::Error(status.message) } else { Status::Unset },
        attributes: span
            .attributes
            .iter()
            .map(|pair| KeyValue {
                key: pair.key.clone().into(),
                value: value(pair.value.as_ref()),
            })
            .collect(),
        links: vec![],
    })
}

fn value(value: Option<&AnyValue>) -> Value {
    Value::Scalar(match value.and_then(|value| value.value.clone()).unwrap() {
        Any::StringValue(text) => Scalar::String(text),
        Any::BoolValue(value) => Scalar::Bool(value),
        Any::IntValue(value) => Scalar::Int(value),
        Any::DoubleValue(value) => Scalar::Double(value),
        Any::ArrayValue(array) => {
            let text = |value: &AnyValue| match value.value.clone() {
                Some(Any::StringValue(text)) => text,
                other => panic!("{other:?} in a list"),
            };
            return Value::Strings(array.values.iter().map(text).collect());
        }
        other => panic!("{other:?}"),
    })
}
