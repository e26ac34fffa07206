//! One request, from its headers to its end.

use rand::Rng;

use crate::matching::Facts;
use crate::model::{Exchange, HeaderEdit, Headers, Metric, MonoNanos, SpanId, TraceFlags, TraceId};
use crate::plugin::Plugin;
use crate::propagation::{
    self, Incoming, Outgoing, ParentDecision, RemoteContext, SpanContext, Standing,
};
use crate::sampling::{self, Decision, Verdict};
use crate::span::{self, Subject};

/// The property under which the first instance on a request leaves the trace id: filter state
/// `wasm.meshweft.trace_id`, readable in access logs.
pub const TRACE_ID_STATE: &str = "meshweft.trace_id";

/// One request. Whatever callbacks the host leaves out, at most one span comes of it.
#[derive(Debug, Default)]
pub struct Stream {
    state: State,
}

/// What shall become of the request.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct RequestEffects {
    /// Changes to its headers, in order.
    pub edits: Vec<HeaderEdit>,
    /// To be set as filter state under [`TRACE_ID_STATE`].
    pub trace_id: Option<TraceId>,
}

#[derive(Debug, Default)]
enum State {
    /// No callback has run yet.
    #[default]
    New,
    /// Another instance was first.
    Passive,
    /// Nothing is exported anywhere, so nothing is begun.
    PassThrough,
    /// The head decision dropped it.
    Dropped,
    /// A span is open.
    Recording(Box<Recording>),
    /// Counted; nothing more to do.
    Ended,
}

#[derive(Debug)]
struct Recording {
    headers: Headers,
    context: SpanContext,
    parent_id: Option<SpanId>,
    decision: Decision,
}

impl Stream {
    /// Continues or begins a trace and decides.
    pub fn on_request_headers(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        rng: &mut impl Rng,
    ) -> RequestEffects {
        if !matches!(self.state, State::New) {
            return RequestEffects::default();
        }
        let (state, effects) = begin(plugin, exchange, rng);
        self.state = state;
        effects
    }

    /// Counts the request, and takes in its span if one is open.
    ///
    /// Everything is final here, also for requests whose header callbacks never ran. For those
    /// there is a trace id to be set as filter state under [`TRACE_ID_STATE`]: access loggers
    /// come later, and so do other instances. `now` is asked only where a span is taken in.
    pub fn on_log(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        now: impl FnOnce() -> MonoNanos,
        rng: &mut impl Rng,
    ) -> Option<TraceId> {
        let mut trace_id = None;
        if matches!(self.state, State::New) {
            // The headers can be read but not changed any more.
            let (state, effects) = begin(plugin, exchange, rng);
            self.state = state;
            trace_id = effects.trace_id;
        }
        match core::mem::replace(&mut self.state, State::Ended) {
            State::Ended | State::New => {}
            State::Passive => plugin.metrics.add(Metric::Passive, 1),
            State::PassThrough => plugin.metrics.add(Metric::Requests, 1),
            State::Dropped => {
                plugin.metrics.add(Metric::Requests, 1);
                plugin.metrics.add(Metric::NotSampled, 1);
            }
            State::Recording(recording) => {
                plugin.metrics.add(Metric::Requests, 1);
                plugin.metrics.add(Metric::Sampled, 1);
                let reason = recording.decision.reason.describe(&plugin.config().sampling);
                let subject = Subject {
                    context: &recording.context,
                    parent_id: recording.parent_id,
                    kind: plugin.span_kind(exchange),
                    headers: &recording.headers,
                    reason: &reason,
                };
                let span = span::describe(subject, plugin.config().spans, exchange);
                plugin.record(&span, now());
            }
        }
        trace_id
    }
}

fn begin(
    plugin: &mut Plugin,
    exchange: &impl Exchange,
    rng: &mut impl Rng,
) -> (State, RequestEffects) {
    if exchange.property(&[TRACE_ID_STATE]).is_some_and(|id| !id.is_empty()) {
        return (State::Passive, RequestEffects::default());
    }
    let headers = exchange.request_headers();
    let standing = Standing::of(&headers);
    let extract = &plugin.config().propagation.extract;
    let extracted = propagation::extract(extract, &standing);
    if !extracted.invalid.is_empty() {
        plugin.metrics.add(Metric::ContextInvalid, 1);
    }
    match extracted.incoming {
        Incoming::Context(_) => plugin.metrics.add(Metric::ContextContinued, 1),
        Incoming::Absent | Incoming::Decision(_) => plugin.metrics.add(Metric::ContextMissing, 1),
        Incoming::Invalid if plugin.config().export.is_some() => {
            plugin.metrics.add(Metric::ContextRestarted, 1);
        }
        // Without an export nothing is begun, so nothing is begun anew.
        Incoming::Invalid => {}
    }
    let (remote, parent) = match extracted.incoming {
        Incoming::Context(remote) => {
            let decision = remote.decision;
            (Some(remote), Some(decision))
        }
        Incoming::Decision(decision) => (None, Some(decision)),
        Incoming::Absent | Incoming::Invalid => (None, None),
    };
    if plugin.config().export.is_none() {
        // No mark is left: another instance behind this one may have an export.
        return (State::PassThrough, RequestEffects::default());
    }

    let trace_id = remote.as_ref().map_or_else(|| TraceId::random(rng), |remote| remote.trace_id);
    let facts = Facts::new(&headers, exchange, plugin.side());
    let decision = sampling::decide(&plugin.config().sampling, &facts, parent, trace_id);
    if let Some(rule) = decision.rule {
        plugin.metrics.add_rule(rule);
    }
    let parent_id = remote.as_ref().and_then(|remote| remote.parent_id);
    let mut context = SpanContext {
        trace_id,
        span_id: SpanId::random(rng),
        flags: flags(remote.as_ref(), decision.verdict),
        debug: parent == Some(ParentDecision::Debug) && decision.verdict != Verdict::Drop,
        state: remote.map(|remote| remote.state).unwrap_or_default(),
    };
    let formats = &plugin.config().propagation;
    propagation::update_state(&mut context, &formats.inject, &formats.extract);
    let outgoing = Outgoing { context: &context, parent_id, service: "" };
    let edits = propagation::inject(&formats.inject, &formats.extract, &standing, &outgoing);
    let effects = RequestEffects { edits, trace_id: Some(trace_id) };
    let state = match decision.verdict {
        Verdict::Drop => State::Dropped,
        Verdict::RecordAndSample => {
            State::Recording(Box::new(Recording { headers, context, parent_id, decision }))
        }
    };
    (state, effects)
}

/// Our own ids are random throughout; of another's only its maker can say so.
fn flags(remote: Option<&RemoteContext>, verdict: Verdict) -> TraceFlags {
    let flags = match remote {
        Some(remote) if !remote.random => TraceFlags::default(),
        Some(_) | None => TraceFlags::RANDOM,
    };
    match verdict {
        Verdict::Drop => flags,
        Verdict::RecordAndSample => flags.with(TraceFlags::SAMPLED),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::propagation::TraceState;

    #[test]
    fn flags_of_new_and_continued_traces() {
        let mut remote = RemoteContext {
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            parent_id: SpanId::from_bytes([2; 8]),
            decision: ParentDecision::Sample,
            random: false,
            state: TraceState::default(),
        };
        assert_eq!(flags(None, Verdict::Drop).bits(), 0x02);
        assert_eq!(flags(None, Verdict::RecordAndSample).bits(), 0x03);
        assert_eq!(flags(Some(&remote), Verdict::RecordAndSample).bits(), 0x01);
        remote.random = true;
        assert_eq!(flags(Some(&remote), Verdict::Drop).bits(), 0x02);
    }
}
