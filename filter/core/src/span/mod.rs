//! Spans and the resource they come from, in OpenTelemetry's terms.

use std::borrow::Cow;

use crate::config::Scalar;
use crate::model::{SpanId, TraceFlags, TraceId, UnixNanos};

mod attempt;
mod attributes;
mod authority;
mod custom;
mod ending;
mod http;
mod open;
mod outcome;
mod resource;
mod texts;
mod urls;

pub use attempt::{AttemptEnding, Tries};
pub use ending::Part;
pub use http::{Correlated, Describer, Subject};
pub use open::{OpenStream, OpenStreams};
pub(crate) use outcome::{Outcome, grpc_that_came};
pub use resource::{Locality, Node, resource};

/// The version of the semantic conventions that names and values follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Which side of a call a span describes; numbers are OTLP's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SpanKind {
    /// The request as it came in.
    Server = 2,
    /// The request as it went out.
    Client = 3,
}

/// How it went; numbers are OTLP's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Status {
    /// Nothing to say.
    #[default]
    Unset,
    /// A failure; the text is empty where the attributes say it all.
    Error(String),
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue {
    /// The attribute's name.
    pub key: Cow<'static, str>,
    /// Its value.
    pub value: Value,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One value.
    Scalar(Scalar),
    /// Several strings.
    Strings(Vec<String>),
}

/// A span of another trace to which a span has to do, though it is not its child.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// `tracestate` as it came with it.
    pub trace_state: String,
    /// Its W3C flags. That the span is remote is understood: it came in headers.
    pub flags: TraceFlags,
    /// How likely it is that the two have to do with each other, where that was inferred.
    pub confidence: Option<f64>,
}

/// The attribute of a link that was inferred.
pub const LINK_CONFIDENCE: &str = "meshweft.correlation.confidence";

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace_id: TraceId,
    /// This span.
    pub span_id: SpanId,
    /// The caller's span, if there was one.
    pub parent_id: Option<SpanId>,
    /// `tracestate` as it was sent on.
    pub trace_state: String,
    /// Its W3C flags, as they were sent on. A parent is remote always: it came in headers.
    pub flags: TraceFlags,
    /// Of low cardinality: never a raw path.
    pub name: String,
    /// Which side.
    pub kind: SpanKind,
    /// When the request came.
    pub start: UnixNanos,
    /// When it was done with, never before `start`.
    pub end: UnixNanos,
    /// How it went.
    pub status: Status,
    /// What is known of it.
    pub attributes: Vec<KeyValue>,
    /// What it has to do with beside its parent.
    pub links: Vec<Link>,
}

/// Where spans come from: attributes of the resource, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// Names and values; no name twice.
    pub attributes: Vec<(String, Scalar)>,
}

impl Resource {
    /// `service.name`; empty where it is not text.
    #[must_use]
    pub fn service_name(&self) -> &str {
        match self.attributes.iter().find(|(key, _)| key == "service.name") {
            Some((_, Scalar::String(name))) => name,
            _ => "",
        }
    }
}
