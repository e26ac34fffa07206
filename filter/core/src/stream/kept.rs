//! A request that the head decision dropped and that its end may keep: what its span would need of
//! the beginning, and what it says to other hops and hears of them.

use super::Open;
use crate::config::{AttributeSource, Direction};
use crate::matching::Facts;
use crate::model::{Exchange, HeaderEdit, Headers, MonoNanos, Shared, SpanId};
use crate::plugin::Plugin;
use crate::propagation::SpanContext;
use crate::sampling::{self, ANSWER, Decision, Ending, Kept, Moment, QUESTION};
use crate::span::Link;

/// The headers of which every span speaks and that filters behind this one, or the router, write
/// over.
const HELD: &[&str] = &[":authority", ":method", ":path", ":scheme", "content-type"];

const INBOUND: Option<Direction> = Some(Direction::Inbound);
const OUTBOUND: Option<Direction> = Some(Direction::Outbound);

/// What is held of a request that its end may keep; of its headers those that [are](is_held).
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) open: Open,
    /// Absent where hops tell one another nothing.
    pub(super) relayed: Option<Relayed>,
    pub(super) kept: Option<Kept>,
}

/// Whether a span is to speak of this header as it came. All others are read at the end.
pub(super) fn is_held(plugin: &Plugin, name: &[u8]) -> bool {
    let attributes = &plugin.config().spans.attributes;
    let asked = attributes.iter().any(|attribute| match &attribute.source {
        AttributeSource::RequestHeader(asked) => asked.as_bytes() == name,
        _ => false,
    });
    asked || HELD.iter().any(|held| held.as_bytes() == name)
}

/// How a request stands to other hops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relayed {
    /// The side of the workload on which it is; `None` at a gateway.
    hop: Option<Direction>,
    /// Of a request to the workload: that its caller asks. Of others: that the next hop was asked.
    asks: bool,
    /// When it came, where its time to the response's headers counts.
    began: Option<MonoNanos>,
}

/// What there is to know of a request before it goes on.
#[derive(Clone, Copy)]
pub(super) struct Beginning<'a> {
    pub(super) facts: &'a Facts<'a>,
    pub(super) context: &'a SpanContext,
    pub(super) decision: &'a Decision,
    /// The span that calls, in the trace that goes on.
    pub(super) caller: Option<SpanId>,
    /// Whether the next hop is one to which nothing goes.
    pub(super) stripped: bool,
}

/// Takes off a question that came in, where there is one.
pub(super) fn refuse(headers: &Headers) -> Option<HeaderEdit> {
    headers.get(QUESTION).map(|_| HeaderEdit::Remove(QUESTION.into()))
}

/// Takes off an answer, whoever gave it.
pub(super) fn hush() -> HeaderEdit {
    HeaderEdit::Remove(ANSWER.into())
}

/// Takes the question that came in, and asks the next hop. No question of another's goes on.
pub(super) fn ask(
    plugin: &Plugin,
    shared: &impl Shared,
    beginning: Beginning<'_>,
) -> (Option<Relayed>, Option<HeaderEdit>) {
    let Beginning { facts, context, decision, caller, stripped } = beginning;
    let headers = facts.headers();
    let (Some(relay), Some(keep)) = (plugin.relay(), plugin.sampler.keep(decision)) else {
        return (None, refuse(headers));
    };
    let hop = facts.of_workload();
    let mut relayed = Relayed { hop, asks: !stripped, began: None };
    if hop == INBOUND {
        let values = headers.get_all(QUESTION);
        relayed.asks = caller.is_some_and(|caller| relay.asks(values, caller));
        relay.enters(shared, context.trace_id, context.span_id);
    }
    // Nobody is told of a gateway's own time.
    let timed = keep.slower_than.is_some() && relayed.asks && hop.is_some();
    if timed || (keep.slower_than.is_some() && hop == OUTBOUND) {
        relayed.began = Some(shared.now());
    }
    let edit = if hop != INBOUND && relayed.asks {
        Some(HeaderEdit::Set(QUESTION.into(), relay.question(context.span_id)))
    } else {
        refuse(headers)
    };
    (Some(relayed), edit)
}

/// A part of the response that can tell of a verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Headers,
    Trailers,
}

/// A part of the response comes by of a request that went on as `context`; `pending` if its end
/// may keep it. Gives what becomes of the verdict in that part.
pub(super) fn respond(
    plugin: &Plugin,
    exchange: &impl Exchange,
    shared: &impl Shared,
    (context, decision): (&SpanContext, &Decision),
    pending: Option<&mut Pending>,
    piece: Piece,
) -> Option<HeaderEdit> {
    let relay = plugin.relay()?;
    let (Some(pending), Some(keep)) = (pending, plugin.sampler.keep(decision)) else {
        return Some(hush());
    };
    let Some(relayed) = pending.relayed else { return Some(hush()) };
    let moment = match piece {
        Piece::Headers => {
            Moment::Headers { elapsed: relayed.began.map(|began| shared.now().since(began)) }
        }
        Piece::Trailers => Moment::Trailers,
    };
    let here = || {
        let ending = Ending::new(exchange, plugin.side(), &pending.open.headers, moment);
        sampling::keep_reason(keep, &ending).map(Kept::Here)
    };
    let answer = match relayed.hop {
        INBOUND => None,
        // The header of this name is gone when the trailers come by.
        OUTBOUND | None => exchange.response_header(ANSWER),
    };
    let below = || {
        let answer = answer.as_deref().filter(|_| relayed.asks)?;
        relay.answered(answer, context.span_id).map(Kept::Below)
    };
    let told = || relay.told(shared, context.trace_id).map(Kept::Below);
    let new = match (relayed.hop, pending.kept) {
        (_, Some(_)) => None,
        (INBOUND, None) if relayed.asks => here().or_else(told),
        (INBOUND, None) => None,
        (OUTBOUND, None) => here().or_else(below),
        (None, None) => below(),
    };
    pending.kept = pending.kept.or(new);
    match (relayed.hop, new, pending.open.parent_id) {
        (INBOUND, Some(kept), Some(caller)) => {
            Some(HeaderEdit::Set(ANSWER.into(), relay.answer(caller, kept.reason())))
        }
        (INBOUND, _, _) => Some(hush()),
        (OUTBOUND, Some(kept), _) => {
            relay.tell(shared, context.trace_id, kept.reason());
            answer.map(|_| hush())
        }
        (OUTBOUND | None, _, _) => answer.map(|_| hush()),
    }
}

impl Pending {
    /// What is to be recorded after all, now that all is over, and why.
    pub(super) fn end(
        self,
        plugin: &Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        (context, decision): (&SpanContext, &Decision),
        is_whole: bool,
    ) -> Option<(Open, Kept)> {
        let Self { mut open, relayed, kept } = self;
        let keep = plugin.sampler.keep(decision)?;
        let here = || {
            let moment = Moment::End { is_whole };
            let ending = Ending::new(exchange, plugin.side(), &open.headers, moment);
            sampling::keep_reason(keep, &ending).map(Kept::Here)
        };
        let relay = plugin.relay().zip(relayed);
        let told = || {
            let (relay, _) = relay.filter(|(_, relayed)| relayed.hop == INBOUND)?;
            relay.told(shared, context.trace_id).map(Kept::Below)
        };
        let kept = match kept {
            Some(Kept::Here(_)) => kept,
            Some(Kept::Below(_)) | None => here().or(kept).or_else(told),
        }?;
        if let Some((relay, Relayed { hop: OUTBOUND, .. })) = relay {
            let caller = open.parent_id;
            let entered = || relay.entered(shared, context.trace_id);
            // An application with spans of its own has dropped those in between: its caller was
            // told that the trace is not sampled.
            let missed = caller.and_then(|caller| entered().filter(|entered| *entered != caller));
            open.links.extend(missed.map(|span_id| Link {
                trace_id: context.trace_id,
                span_id,
                trace_state: context.state.as_str().to_owned(),
                flags: context.flags,
                confidence: None,
            }));
        }
        let headers = open.headers.over(|name| is_held(plugin, name), &exchange.request_headers());
        Some((Open { headers, ..open }, kept))
    }
}
