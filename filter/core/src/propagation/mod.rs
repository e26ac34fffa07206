//! Trace context in headers: read strictly, written in full.

use crate::config::Format;
use crate::model::{HeaderEdit, Headers, SpanId, TraceFlags, TraceId};

mod b3;
mod standing;
mod text;
mod tracecontext;
mod tracestate;

pub use tracestate::{TraceState, TraceStateError};

use standing::Standing;

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
///
/// A decision without ids counts only where no format has a full context. Nothing is allocated
/// but for a `tracestate`.
#[must_use]
pub fn extract(formats: &[Format], headers: &Headers) -> Extracted {
    let standing = Standing::of(headers);
    let mut winner = None;
    let mut decision = None;
    let mut invalid = false;
    for &format in formats {
        match standing.parse(format) {
            Incoming::Absent => {}
            Incoming::Context(context) => winner = winner.or(Some((format, context))),
            Incoming::Decision(found) => decision = decision.or(Some(found)),
            Incoming::Invalid => invalid = true,
        }
    }
    let incoming = match (winner, decision) {
        (Some((format, mut context)), _) => {
            if format == Format::TraceContext && standing.tracestate {
                // An invalid one goes, and the traceparent stays (section 3.3).
                context.state = TraceState::parse(headers.get_all(TRACESTATE)).unwrap_or_default();
            }
            Incoming::Context(context)
        }
        (None, Some(decision)) => Incoming::Decision(decision),
        (None, None) if invalid => Incoming::Invalid,
        (None, None) => Incoming::Absent,
    };
    Extracted { incoming, invalid }
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
    let standing = Standing::of(headers);
    let is_ours = |format| inject.contains(&format) || extract.contains(&format);
    let is_written =
        |format| inject.contains(&format) || (extract.contains(&format) && standing.has(format));
    let mut edits = Vec::with_capacity(MAX_EDITS);
    if is_written(Format::TraceContext) {
        edits.push(HeaderEdit::Set(TRACEPARENT, tracecontext::write(context)));
        if !context.state.is_empty() {
            edits.push(HeaderEdit::Set(TRACESTATE, context.state.as_str().to_owned()));
        }
    }
    if is_ours(Format::TraceContext) && standing.tracestate && context.state.is_empty() {
        // It belongs to a trace that ends here, or was no valid list.
        edits.push(HeaderEdit::Remove(TRACESTATE));
    }
    if is_written(Format::B3) {
        edits.push(HeaderEdit::Set(B3, b3::write_single(context, parent_id)));
    }
    if is_written(Format::B3Multi) {
        b3::write_multi(&mut edits, &standing, context, parent_id);
    }
    edits
}

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
const B3: &str = "b3";
const X_B3_TRACEID: &str = "x-b3-traceid";
const X_B3_SPANID: &str = "x-b3-spanid";
const X_B3_PARENTSPANID: &str = "x-b3-parentspanid";
const X_B3_SAMPLED: &str = "x-b3-sampled";
const X_B3_FLAGS: &str = "x-b3-flags";

/// One for each header name above.
const MAX_EDITS: usize = 8;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const ALL: [Format; 3] = [Format::TraceContext, Format::B3, Format::B3Multi];
    const TRACEPARENT_VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const B3_VALUE: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

    fn remote(trace: &str, span: &str, decision: ParentDecision, state: &str) -> Incoming {
        Incoming::Context(RemoteContext {
            trace_id: TraceId::from_hex(trace.as_bytes()).unwrap(),
            parent_id: SpanId::from_hex(span.as_bytes()).unwrap(),
            decision,
            random: false,
            state: TraceState::parse([state.as_bytes()]).unwrap(),
        })
    }

    fn w3c(state: &str) -> Incoming {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        remote(trace, span, ParentDecision::Sample, state)
    }

    fn b3() -> Incoming {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        remote(trace, span, ParentDecision::Drop, "")
    }

    #[track_caller]
    fn check(formats: &[Format], headers: &[(&str, &str)], incoming: Incoming, invalid: bool) {
        let headers: Headers = headers.iter().copied().collect();
        assert_eq!(extract(formats, &headers), Extracted { incoming, invalid });
    }

    #[test]
    fn the_first_valid_format_of_the_list_wins() {
        let both = [("b3", B3_VALUE), ("traceparent", TRACEPARENT_VALUE), ("tracestate", "a=1")];
        check(&ALL, &both, w3c("a=1"), false);
        check(&[Format::B3, Format::TraceContext], &both, b3(), false);
        check(&[Format::B3Multi], &both, Incoming::Absent, false);
        check(&[], &both, Incoming::Absent, false);
    }

    #[test]
    fn an_invalid_format_is_told_also_beside_a_valid_one() {
        check(&ALL, &[("traceparent", "x"), ("b3", B3_VALUE)], b3(), true);
        check(&ALL, &[("traceparent", TRACEPARENT_VALUE), ("b3", "")], w3c(""), true);
        check(&ALL, &[("traceparent", "x")], Incoming::Invalid, true);
        let repeated = [("traceparent", TRACEPARENT_VALUE), ("traceparent", TRACEPARENT_VALUE)];
        check(&ALL, &repeated, Incoming::Invalid, true);
        check(&ALL, &[("tracestate", "a=1")], Incoming::Absent, false);
    }

    #[test]
    fn a_decision_counts_only_without_a_context() {
        let drop = Incoming::Decision(ParentDecision::Drop);
        check(&ALL, &[("b3", "0"), ("x-b3-sampled", "1")], drop.clone(), false);
        check(&ALL, &[("traceparent", "x"), ("x-b3-sampled", "0")], drop, true);
        let later = [("b3", "0"), ("traceparent", TRACEPARENT_VALUE)];
        check(&[Format::B3, Format::TraceContext], &later, w3c(""), false);
    }

    fn ours(state: &str, debug: bool) -> SpanContext {
        SpanContext {
            trace_id: TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap(),
            span_id: SpanId::from_hex(b"00000000000000cd").unwrap(),
            flags: TraceFlags::SAMPLED,
            debug,
            state: TraceState::parse([state.as_bytes()]).unwrap(),
        }
    }

    fn set(name: &'static str, value: &str) -> HeaderEdit {
        HeaderEdit::Set(name, value.to_owned())
    }

    const OURS: &str = "00-0af7651916cd43dd8448eb211c80319c-00000000000000cd-01";

    #[test]
    fn writes_what_is_listed_and_no_more() {
        let empty = Headers::default();
        assert_eq!(
            inject(&[Format::TraceContext], &ALL, &empty, &ours("a=1", false), None),
            [set("traceparent", OURS), set("tracestate", "a=1")]
        );
        assert_eq!(
            inject(&[Format::B3Multi, Format::B3], &[], &empty, &ours("a=1", false), None),
            [
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-1"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                set("x-b3-sampled", "1"),
            ]
        );
        assert_eq!(inject(&[], &ALL, &empty, &ours("a=1", true), None), []);
    }

    #[test]
    fn what_stands_is_rewritten_and_nothing_goes_stale() {
        let standing: Headers = [
            ("tracestate", "old=1"),
            ("b3", "0"),
            ("x-b3-parentspanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "0"),
            ("x-b3-flags", "0"),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            inject(&[Format::TraceContext], &ALL, &standing, &ours("", true), None),
            [
                set("traceparent", OURS),
                HeaderEdit::Remove("tracestate"),
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-d"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                HeaderEdit::Remove("x-b3-parentspanid"),
                set("x-b3-flags", "1"),
                HeaderEdit::Remove("x-b3-sampled"),
            ]
        );
        assert_eq!(
            inject(&[], &[Format::TraceContext], &standing, &ours("", false), None),
            [HeaderEdit::Remove("tracestate")]
        );
        assert_eq!(inject(&[], &[], &standing, &ours("", false), None), []);
    }

    #[test]
    fn the_parent_goes_on_in_b3_alone() {
        let headers: Headers = [("x-b3-flags", "1")].into_iter().collect();
        let parent = SpanId::from_hex(b"00f067aa0ba902b7").ok();
        assert_eq!(
            inject(&ALL, &[], &headers, &ours("", false), parent),
            [
                set("traceparent", OURS),
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-1-00f067aa0ba902b7"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                set("x-b3-parentspanid", "00f067aa0ba902b7"),
                set("x-b3-sampled", "1"),
                HeaderEdit::Remove("x-b3-flags"),
            ]
        );
    }
}
