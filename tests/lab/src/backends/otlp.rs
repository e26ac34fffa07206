//! Spans in the official types, each with what stands around it, so that two ways of telling the
//! same spans can be held against each other.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as otlp;

/// A span with its resource and scope.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Where it is from.
    pub resource: Resource,
    /// What recorded it.
    pub scope: InstrumentationScope,
    /// The schema URLs of both.
    pub schema_urls: [String; 2],
    /// The span.
    pub span: otlp::Span,
}

impl Whole {
    /// An attribute's value, with its type.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&Value> {
        value(&self.span.attributes, key)
    }

    /// An attribute's value of the resource, with its type.
    #[must_use]
    pub fn resource_attribute(&self, key: &str) -> Option<&Value> {
        value(&self.resource.attributes, key)
    }

    /// `service.name`.
    #[must_use]
    pub fn service(&self) -> &str {
        match value(&self.resource.attributes, "service.name") {
            Some(Value::StringValue(name)) => name,
            _ => "",
        }
    }

    /// `KIND name`, and whether it is an error.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = self.span.kind().as_str_name().trim_start_matches("SPAN_KIND_");
        let status = self.span.status.clone().unwrap_or_default();
        let error = if status.code() == otlp::status::StatusCode::Error { " error" } else { "" };
        format!("{} {kind} {}{error}", self.service(), self.span.name)
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

/// An id as text.
#[must_use]
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All spans, by trace and span id.
#[must_use]
pub fn spans(exports: Vec<ExportTraceServiceRequest>) -> Vec<Whole> {
    let mut all = Vec::new();
    for of_resource in exports.into_iter().flat_map(|export| export.resource_spans) {
        for of_scope in of_resource.scope_spans {
            all.extend(of_scope.spans.into_iter().map(|span| Whole {
                resource: of_resource.resource.clone().unwrap_or_default(),
                scope: of_scope.scope.clone().unwrap_or_default(),
                schema_urls: [of_resource.schema_url.clone(), of_scope.schema_url.clone()],
                // An absent status says as much as an empty one.
                span: otlp::Span { status: Some(span.status.unwrap_or_default()), ..span },
            }));
        }
    }
    all.sort_by(|a, b| {
        (&a.span.trace_id, &a.span.span_id).cmp(&(&b.span.trace_id, &b.span.span_id))
    });
    all
}

/// As a backend tells it that keeps no schema URLs.
#[must_use]
pub fn without_schema(span: Whole) -> Whole {
    Whole { schema_urls: Default::default(), ..span }
}

/// How often each shape of a trace occurs. A shape is every span's label with its children in
/// brackets; spans whose parent is not in the trace stand at the root.
#[must_use]
pub fn shapes(spans: &[Whole]) -> BTreeMap<String, usize> {
    let mut traces: BTreeMap<&[u8], Vec<&Whole>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.span.trace_id).or_default().push(span);
    }
    let mut shapes = BTreeMap::new();
    for trace in traces.values() {
        let is_root = |span: &&&Whole| {
            !trace.iter().any(|other| other.span.span_id == span.span.parent_span_id)
        };
        let roots = trace.iter().filter(is_root).map(|root| branch(root, trace));
        *shapes.entry(joined(roots.collect())).or_default() += 1;
    }
    shapes
}

fn branch(span: &Whole, trace: &[&Whole]) -> String {
    let children = trace.iter().filter(|child| child.span.parent_span_id == span.span.span_id);
    let children: Vec<_> = children.map(|child| branch(child, trace)).collect();
    if children.is_empty() {
        return span.label();
    }
    format!("{} [{}]", span.label(), joined(children))
}

fn joined(mut parts: Vec<String>) -> String {
    parts.sort();
    parts.join(", ")
}
