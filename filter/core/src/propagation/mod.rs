//! Trace context in headers: read strictly, written in full.
//!
//! One file a format, each with the same three items: the headers that it is read from, `extract`
//! and `inject`.

use crate::model::{Format, FormatSet, HeaderEdit, SpanId, TraceFlags, TraceId};

mod b3;
mod baggage;
mod datadog;
mod edits;
mod gcp;
mod grpc_trace_bin;
mod ids;
mod jaeger;
mod malformed;
mod ottrace;
mod request_id;
mod response;
mod skywalking;
mod standing;
mod text;
mod tracecontext;
mod tracestate;
mod xray;

pub use baggage::{attributes as baggage_attributes, carry as carry_baggage};
pub use malformed::Malformed;
pub(crate) use request_id::is_uuid;
pub use request_id::native_tracer_decided;
pub use response::respond;
pub use standing::Standing;
pub(crate) use text::percent_decode;
pub use tracestate::{TraceState, TraceStateError};

use edits::Edits;
use standing::{Name, OT_BAGGAGE, UBERCTX};

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
    /// The caller's span, the parent of ours; absent where a format names a trace alone
    /// (X-Ray's `Root` from a load balancer).
    pub parent_id: Option<SpanId>,
    /// What the caller decided.
    pub decision: ParentDecision,
    /// Whether the caller vouches for the randomness of the trace id's low 7 bytes.
    pub random: bool,
    /// Vendors' state: what came with a valid `traceparent` of this trace, and what is its like
    /// in `datadog`.
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
    /// The formats that were present but invalid, also when another one was valid.
    pub invalid: FormatSet,
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

/// A context on its way to the next hop, with what some formats say beside it.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The context.
    pub context: &'a SpanContext,
    /// The caller's span id (for `x-b3-parentspanid`).
    pub parent_id: Option<SpanId>,
    /// `service.name` of the resource (for `sw8`).
    pub service: &'a str,
    /// Whether what the caller sent counts for nothing, in no format.
    pub alone: bool,
}

/// Reads the context that stands on a request: the first of `formats` that is valid wins.
///
/// A decision without ids counts only where no format has a context. Nothing is allocated
/// but for vendors' state and what stands in base64.
#[must_use]
pub fn extract(formats: &[Format], standing: &Standing<'_>) -> Extracted {
    let mut winner = None;
    let mut decision = None;
    let mut invalid = FormatSet::default();
    let mut w3c = None;
    for (format, found) in extract_each(formats, standing) {
        match found {
            Ok(Incoming::Absent) => {}
            Ok(Incoming::Context(context)) => {
                if format == Format::TraceContext {
                    w3c = Some(context.trace_id);
                }
                winner = winner.or(Some(context));
            }
            Ok(Incoming::Decision(found)) => decision = decision.or(Some(found)),
            Ok(Incoming::Invalid) | Err(_) => invalid.insert(format),
        }
    }
    let incoming = match (winner, decision) {
        (Some(mut context), _) => {
            // The state belongs to the trace, whichever format told of the trace first. A format
            // of 64 bits tells of its low half alone.
            if let Some(whole) = w3c.filter(|id| ids::may_be(context.trace_id, *id)) {
                context.trace_id = whole;
                context.state = context.state.over(tracecontext::state(standing));
            }
            Incoming::Context(context)
        }
        (None, Some(decision)) => Incoming::Decision(decision),
        (None, None) if invalid.is_empty() => Incoming::Absent,
        (None, None) => Incoming::Invalid,
    };
    Extracted { incoming, invalid }
}

/// What each of `formats` says alone, in this order, or why it is not valid.
pub fn extract_each(
    formats: &[Format],
    standing: &Standing<'_>,
) -> impl Iterator<Item = (Format, Result<Incoming, Malformed>)> {
    formats.iter().map(|&format| (format, extract_one(format, standing)))
}

/// Makes those members of `context.state` that speak of its sender speak of `context`: the member
/// of each format that is among `inject` or `extract`. The others are passed on as they came.
pub fn update_state(context: &mut SpanContext, inject: &[Format], extract: &[Format]) {
    if inject.contains(&Format::Datadog) || extract.contains(&Format::Datadog) {
        datadog::update_state(context);
    }
}

/// The edits that write `outgoing` in every format of `inject`, rewrite each format of `extract`
/// that stands on the request, and remove headers that would go stale. Where it is to go alone,
/// those of all other formats are removed too.
#[must_use]
pub fn inject(
    inject: &[Format],
    extract: &[Format],
    standing: &Standing<'_>,
    outgoing: &Outgoing<'_>,
) -> Vec<HeaderEdit> {
    let mut edits = Edits::new(standing);
    for &format in Format::ALL {
        let stands = || headers_of(format).iter().any(|name| standing.has(*name));
        let writes = inject.contains(&format) || (extract.contains(&format) && stands());
        if writes {
            inject_one(format, &mut edits, outgoing);
        } else if outgoing.alone {
            headers_of(format).iter().for_each(|name| edits.remove(*name));
        }
        if format == Format::TraceContext
            && !writes
            && (outgoing.alone || extract.contains(&format))
        {
            // Without a traceparent it means nothing.
            tracecontext::remove_state(&mut edits);
        }
    }
    if outgoing.alone {
        edits.remove(Name::Sw8X);
    }
    edits.into_list()
}

/// The edits that leave no context of any format on a request.
#[must_use]
pub fn forget(standing: &Standing<'_>) -> Vec<HeaderEdit> {
    let mut edits = Edits::new(standing);
    Format::ALL.iter().flat_map(|format| headers_of(*format)).for_each(|name| edits.remove(*name));
    edits.remove(Name::Tracestate);
    edits.remove(Name::Sw8X);
    edits.into_list()
}

/// The edits that leave no context of any format on a request, and no baggage.
#[must_use]
pub fn strip(standing: &Standing<'_>) -> Vec<HeaderEdit> {
    let mut edits = Edits::new(standing);
    Name::ALL.iter().for_each(|name| edits.remove(*name));
    edits.remove_keyed(UBERCTX);
    edits.remove_keyed(OT_BAGGAGE);
    edits.into_list()
}

fn extract_one(format: Format, standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    match format {
        Format::B3 => b3::extract_single(standing),
        Format::B3Multi => b3::extract_multi(standing),
        Format::Baggage => Ok(Incoming::Absent),
        Format::Datadog => datadog::extract(standing),
        Format::Gcp => gcp::extract(standing),
        Format::GrpcTraceBin => grpc_trace_bin::extract(standing),
        Format::Jaeger => jaeger::extract(standing),
        Format::OtTrace => ottrace::extract(standing),
        Format::SkyWalking => skywalking::extract(standing),
        Format::TraceContext => tracecontext::extract(standing),
        Format::XRay => xray::extract(standing),
    }
}

fn inject_one(format: Format, edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    match format {
        Format::B3 => b3::inject_single(edits, outgoing),
        Format::B3Multi => b3::inject_multi(edits, outgoing),
        Format::Baggage => {}
        Format::Datadog => datadog::inject(edits, outgoing),
        Format::Gcp => gcp::inject(edits, outgoing),
        Format::GrpcTraceBin => grpc_trace_bin::inject(edits, outgoing),
        Format::Jaeger => jaeger::inject(edits, outgoing),
        Format::OtTrace => ottrace::inject(edits, outgoing),
        Format::SkyWalking => skywalking::inject(edits, outgoing),
        Format::TraceContext => tracecontext::inject(edits, outgoing),
        Format::XRay => xray::inject(edits, outgoing),
    }
}

/// The headers from which a format is read, or which go stale with it.
const fn headers_of(format: Format) -> &'static [Name] {
    match format {
        Format::B3 => b3::SINGLE_HEADERS,
        Format::B3Multi => b3::MULTI_HEADERS,
        Format::Baggage => &[],
        Format::Datadog => datadog::HEADERS,
        Format::Gcp => gcp::HEADERS,
        Format::GrpcTraceBin => grpc_trace_bin::HEADERS,
        Format::Jaeger => jaeger::HEADERS,
        Format::OtTrace => ottrace::HEADERS,
        Format::SkyWalking => skywalking::HEADERS,
        Format::TraceContext => tracecontext::HEADERS,
        Format::XRay => xray::HEADERS,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::Headers;

    const ALL: [Format; 3] = [Format::TraceContext, Format::B3, Format::B3Multi];
    const TRACEPARENT_VALUE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const B3_VALUE: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";

    fn remote(trace: &str, span: &str, decision: ParentDecision, state: &str) -> Incoming {
        Incoming::Context(RemoteContext {
            trace_id: TraceId::from_hex(trace.as_bytes()).unwrap(),
            parent_id: SpanId::from_hex(span.as_bytes()).ok(),
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
    fn check(formats: &[Format], headers: &[(&str, &str)], incoming: Incoming, invalid: &[Format]) {
        let headers: Headers = headers.iter().copied().collect();
        let invalid = invalid.iter().copied().collect();
        let found = extract(formats, &Standing::of(&headers));
        assert_eq!(found, Extracted { incoming, invalid });
    }

    #[test]
    fn the_first_valid_format_of_the_list_wins() {
        let both = [("b3", B3_VALUE), ("traceparent", TRACEPARENT_VALUE), ("tracestate", "a=1")];
        check(&ALL, &both, w3c("a=1"), &[]);
        check(&[Format::B3, Format::TraceContext], &both, b3(), &[]);
        check(&[Format::B3Multi], &both, Incoming::Absent, &[]);
        check(&[], &both, Incoming::Absent, &[]);
    }

    #[test]
    fn the_state_belongs_to_its_trace_whichever_format_won() {
        let same = "0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-1";
        let both = [("b3", same), ("traceparent", TRACEPARENT_VALUE), ("tracestate", "a=1")];
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7");
        let b3_first = [Format::B3, Format::TraceContext];
        check(&b3_first, &both, remote(trace, span, ParentDecision::Sample, "a=1"), &[]);
        // A format that is not asked tells of no state.
        check(&[Format::B3], &both, remote(trace, span, ParentDecision::Sample, ""), &[]);
    }

    #[test]
    fn a_format_of_64_bits_does_not_cut_an_id_that_stands_whole() {
        let half = "8448eb211c80319c-00f067aa0ba902b7-1";
        let both = [("b3", half), ("traceparent", TRACEPARENT_VALUE), ("tracestate", "a=1")];
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7");
        let b3_first = [Format::B3, Format::TraceContext];
        check(&b3_first, &both, remote(trace, span, ParentDecision::Sample, "a=1"), &[]);
        // Another trace is another trace.
        let other = [("b3", "8448eb211c80319d-00f067aa0ba902b7-1"), both[1], both[2]];
        let short = "00000000000000008448eb211c80319d";
        check(&b3_first, &other, remote(short, span, ParentDecision::Sample, ""), &[]);
    }

    #[test]
    fn an_invalid_format_is_told_also_beside_a_valid_one() {
        check(&ALL, &[("traceparent", "x"), ("b3", B3_VALUE)], b3(), &[Format::TraceContext]);
        check(&ALL, &[("traceparent", TRACEPARENT_VALUE), ("b3", "")], w3c(""), &[Format::B3]);
        check(&ALL, &[("traceparent", "x")], Incoming::Invalid, &[Format::TraceContext]);
        let repeated = [("traceparent", TRACEPARENT_VALUE), ("traceparent", TRACEPARENT_VALUE)];
        check(&ALL, &repeated, Incoming::Invalid, &[Format::TraceContext]);
        check(&ALL, &[("tracestate", "a=1")], Incoming::Absent, &[]);
    }

    #[test]
    fn a_decision_counts_only_without_a_context() {
        let drop = Incoming::Decision(ParentDecision::Drop);
        check(&ALL, &[("b3", "0"), ("x-b3-sampled", "1")], drop.clone(), &[]);
        check(&ALL, &[("traceparent", "x"), ("x-b3-sampled", "0")], drop, &[Format::TraceContext]);
        let later = [("b3", "0"), ("traceparent", TRACEPARENT_VALUE)];
        check(&[Format::B3, Format::TraceContext], &later, w3c(""), &[]);
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
        HeaderEdit::Set(name.into(), value.to_owned())
    }

    fn remove(name: &'static str) -> HeaderEdit {
        HeaderEdit::Remove(name.into())
    }

    fn inject_beside(
        inject: &[Format],
        extract: &[Format],
        headers: &Headers,
        context: &SpanContext,
        parent_id: Option<SpanId>,
    ) -> Vec<HeaderEdit> {
        let outgoing = Outgoing { context, parent_id, service: "shop", alone: false };
        super::inject(inject, extract, &Standing::of(headers), &outgoing)
    }

    const OURS: &str = "00-0af7651916cd43dd8448eb211c80319c-00000000000000cd-01";

    #[test]
    fn writes_what_is_listed_and_no_more() {
        let empty = Headers::default();
        assert_eq!(
            inject_beside(&[Format::TraceContext], &ALL, &empty, &ours("a=1", false), None),
            [set("traceparent", OURS), set("tracestate", "a=1")]
        );
        assert_eq!(
            inject_beside(&[Format::B3Multi, Format::B3], &[], &empty, &ours("a=1", false), None),
            [
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-1"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                set("x-b3-sampled", "1"),
            ]
        );
        assert_eq!(inject_beside(&[], &ALL, &empty, &ours("a=1", true), None), []);
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
            inject_beside(&[Format::TraceContext], &ALL, &standing, &ours("", true), None),
            [
                set("traceparent", OURS),
                remove("tracestate"),
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-d"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                remove("x-b3-parentspanid"),
                set("x-b3-flags", "1"),
                remove("x-b3-sampled"),
            ]
        );
        assert_eq!(
            inject_beside(&[], &[Format::TraceContext], &standing, &ours("", false), None),
            [remove("tracestate")]
        );
        assert_eq!(inject_beside(&[], &[], &standing, &ours("", false), None), []);
    }

    #[test]
    fn what_goes_alone_leaves_no_other_format_beside_it() {
        let headers: Headers = [
            ("tracestate", "old=1"),
            ("b3", "0"),
            ("uber-trace-id", "1:1:0:1"),
            ("uberctx-user", "a"),
            ("sw8", ""),
            ("sw8-x", "1-5"),
            ("baggage", "a=1"),
        ]
        .into_iter()
        .collect();
        let context = ours("", false);
        let outgoing =
            Outgoing { context: &context, parent_id: None, service: "shop", alone: true };
        let alone = |inject: &[Format]| {
            super::inject(inject, &[Format::B3], &Standing::of(&headers), &outgoing)
        };
        let b3 = set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-1");
        let others = [remove("uber-trace-id"), remove("sw8"), remove("sw8-x")];
        let mut with_w3c = vec![set("traceparent", OURS), remove("tracestate"), b3.clone()];
        with_w3c.extend(others.clone());
        assert_eq!(alone(&[Format::TraceContext]), with_w3c);
        let mut without = vec![remove("tracestate"), b3];
        without.extend(others);
        assert_eq!(alone(&[]), without);
        let forgotten = ["b3", "uber-trace-id", "sw8", "tracestate", "sw8-x"].map(remove);
        assert_eq!(forget(&Standing::of(&headers)), forgotten);
    }

    #[test]
    fn the_parent_goes_on_in_b3_alone() {
        let headers: Headers = [("x-b3-flags", "1")].into_iter().collect();
        let parent = SpanId::from_hex(b"00f067aa0ba902b7").ok();
        assert_eq!(
            inject_beside(&ALL, &[], &headers, &ours("", false), parent),
            [
                set("traceparent", OURS),
                set("b3", "0af7651916cd43dd8448eb211c80319c-00000000000000cd-1-00f067aa0ba902b7"),
                set("x-b3-traceid", "0af7651916cd43dd8448eb211c80319c"),
                set("x-b3-spanid", "00000000000000cd"),
                set("x-b3-parentspanid", "00f067aa0ba902b7"),
                set("x-b3-sampled", "1"),
                remove("x-b3-flags"),
            ]
        );
    }
}
