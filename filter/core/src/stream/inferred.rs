//! What nothing but time tells of a request: which one made a call, and which calls one made.

use rand::Rng;

use super::caller::link;
use crate::config::Direction;
use crate::correlation::How;
use crate::correlation::infer::{Answer, Call, Guess, Method, Request, seen};
use crate::matching::Facts;
use crate::model::{Metric, Shared, SpanId, TraceFlags, TraceId};
use crate::plugin::Plugin;
use crate::propagation::{RemoteContext, SpanContext};
use crate::span::{Correlated, Link};

/// What inference follows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Followed {
    Call(Call),
    Request(Request),
}

/// Follows a request that comes in, or a call of which it is known what has caused it.
pub(super) fn follow(
    plugin: &Plugin,
    facts: &Facts<'_>,
    context: &SpanContext,
    caused: bool,
    shared: &impl Shared,
) -> Option<Followed> {
    let inference = plugin.inference.as_ref()?;
    let rules = &plugin.config().correlation.calls;
    match facts.of_workload()? {
        Direction::Inbound => {
            let may = seen::declared(rules, |rule| &rule.from, facts);
            let about = seen::about_request(context);
            inference.begin(seen::route(facts), may, &about, shared).map(Followed::Request)
        }
        Direction::Outbound if caused => {
            let is = |about: &[u8]| seen::is_of(about, context.trace_id);
            inference.call_of(seen::callee(facts), is, shared).map(Followed::Call)
        }
        Direction::Outbound => None,
    }
}

/// What was followed ends. Gives links to the calls that a request made only most probably.
pub(super) fn ends(followed: Followed, plugin: &mut Plugin, shared: &impl Shared) -> Vec<Link> {
    let Some(inference) = &mut plugin.inference else { return Vec::new() };
    match followed {
        Followed::Call(call) => {
            inference.answer(call, shared);
            Vec::new()
        }
        Followed::Request(request) => {
            let late: Vec<_> = inference.end(request, shared).iter().filter_map(guessed).collect();
            let told = i64::try_from(late.len()).unwrap_or(i64::MAX);
            plugin.metrics.add(Metric::CorrelationLate, told);
            late
        }
    }
}

/// A call of which nobody has told what caused it.
#[derive(Debug, PartialEq)]
pub(super) struct Inferred {
    /// What it is called if nobody has caused it.
    pub(super) own: (TraceId, SpanId),
    pub(super) call: Option<Call>,
    /// What may have caused it; `None` where nothing may have.
    pub(super) joined: Option<Joined>,
}

/// What may have caused a call: the one request that counts, or else links to several.
#[derive(Debug, PartialEq)]
pub(super) struct Joined {
    pub(super) correlation: Correlated,
    pub(super) remote: Option<RemoteContext>,
    pub(super) links: Vec<Link>,
}

/// What has most likely caused a call that came without a context and without a known key.
pub(super) fn infer(
    plugin: &mut Plugin,
    facts: &Facts<'_>,
    shared: &impl Shared,
    rng: &mut impl Rng,
) -> Option<Inferred> {
    let inference = plugin.inference.as_ref()?;
    if facts.of_workload() != Some(Direction::Outbound) {
        return None;
    }
    let own = (TraceId::random(rng), SpanId::random(rng));
    let needs = seen::declared(&plugin.config().correlation.calls, |rule| &rule.to, facts);
    let about = seen::about_call(own.0, own.1, TraceFlags::RANDOM);
    let Answer { call, attached, candidates } =
        inference.call(seen::callee(facts), needs, &about, shared);
    let (how, metric) = match inference.method() {
        Method::Best => (How::Best, Metric::ContextBest),
        Method::Single => (How::Single, Metric::ContextSingle),
    };
    let first = attached.as_ref().or_else(|| candidates.first());
    let confidence = first.map_or(0.0, |first| f64::from(first.confidence));
    let remote = attached.and_then(|attached| seen::context(&attached.about));
    let (how, links) = match (&remote, candidates.is_empty()) {
        (Some(_), _) => (how, Vec::new()),
        (None, false) => (How::Ambiguous, candidates.iter().filter_map(guessed).collect()),
        (None, true) => return Some(Inferred { own, call, joined: None }),
    };
    let metric = if how == How::Ambiguous { Metric::ContextAmbiguous } else { metric };
    plugin.metrics.add(metric, 1);
    let candidates = if how == How::Ambiguous { links.len() } else { 1 };
    let correlation = Correlated { how, confidence, candidates };
    Some(Inferred { own, call, joined: Some(Joined { correlation, remote, links }) })
}

/// A link to what may have to do with the span.
fn guessed(guess: &Guess) -> Option<Link> {
    let confidence = Some(f64::from(guess.confidence));
    Some(Link { confidence, ..link(&seen::context(&guess.about)?)? })
}
