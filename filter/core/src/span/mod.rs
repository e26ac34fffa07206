//! Spans and the resource they come from, in OpenTelemetry's terms.

use crate::config::Scalar;
use crate::model::{SpanId, TraceId, UnixNanos};

mod authority;
mod flags;
mod http;
mod outcome;
mod resource;

pub use flags::ResponseFlags;
pub use http::{Subject, describe};
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
    pub key: &'static str,
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
    /// OTLP's `flags`: the W3C flags in bits 0 to 7, bit 8 "remoteness is known", bit 9 "the
    /// parent is remote".
    pub flags: u32,
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
}

/// Where spans come from: attributes of the resource, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// Names and values; no name twice.
    pub attributes: Vec<(String, Scalar)>,
}
