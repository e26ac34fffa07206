//! Trace context in headers: read strictly, written in full.

use crate::config::Format;
use crate::model::{HeaderEdit, Headers, SpanId, TraceFlags, TraceId};

mod tracestate;

pub use tracestate::TraceState;

/// What the caller decided about recording.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ParentDecision {
    /// Record, and see that everyone does (B3 debug flag).
    Debug,
    /// Left to us (B3 without a sampling state).
    Deferred,
    /// Do not record.
    Drop,
    /// Record.
    Sample,
}

/// A valid context of a caller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RemoteContext {
    /// The trace to continue.
    pub trace_id: TraceId,
    /// The caller's span: the parent of ours.
    pub parent_id: SpanId,
    /// What the caller decided.
    pub decision: ParentDecision,
    /// Whether the caller vouches for the randomness of the trace id's low 7 bytes.
    pub random: bool,
    /// Vendors' state; empty unless it came with a valid `traceparent`.
    pub state: TraceState,
}

/// What the headers of a request say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Incoming {
    /// No header of any format.
    Absent,
    /// A valid context, in the first format that has one.
    Context(RemoteContext),
    /// No ids, but a decision (`b3: 0`, `x-b3-sampled: 1`).
    Decision(ParentDecision),
    /// Headers of a format, none of them valid: a new trace must begin.
    Invalid,
}

/// The result of [`extract`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extracted {
    /// What to go on with.
    pub incoming: Incoming,
    /// Whether a format was present but invalid, also when a later one was valid.
    pub invalid: bool,
}

/// The context that goes on to the next hop: the span is ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: TraceId,
    /// Our span, the parent of what comes next.
    pub span_id: SpanId,
    /// Sampled and random.
    pub flags: TraceFlags,
    /// Whether the caller asked for debug (B3).
    pub debug: bool,
    /// Vendors' state, passed on.
    pub state: TraceState,
}

/// Reads the context from `headers`: the first of `formats` that is valid wins.
#[must_use]
pub fn extract(formats: &[Format], headers: &Headers) -> Extracted {
    let _ = (formats, headers);
    todo!("propagation helper")
}

/// The edits that write `context` in every format of `inject`, rewrite each format of `extract`
/// that stands on the request, and remove headers that would go stale.
///
/// `parent_id` is the caller's span id (for `x-b3-parentspanid`).
#[must_use]
pub fn inject(
    inject: &[Format],
    extract: &[Format],
    headers: &Headers,
    context: &SpanContext,
    parent_id: Option<SpanId>,
) -> Vec<HeaderEdit> {
    let _ = (inject, extract, headers, context, parent_id);
    todo!("propagation helper")
}
