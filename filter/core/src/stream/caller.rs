//! Who has caused a request: what its headers say, or else what is remembered, or inferred.

use rand::Rng;

use super::inferred::{Inferred, infer};
use crate::config::{Direction, Trust};
use crate::correlation::{Found, How};
use crate::matching::Facts;
use crate::model::{Metric, Shared, TraceFlags};
use crate::plugin::Plugin;
use crate::propagation::{self, Incoming, ParentDecision, RemoteContext, Standing};
use crate::span::{Correlated, Link};

/// What counts of that which a caller sent.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Caller {
    /// The trace that goes on.
    pub(super) remote: Option<RemoteContext>,
    /// The decision that came with it, or alone.
    pub(super) decision: Option<ParentDecision>,
    /// How it was found, if not among the headers.
    pub(super) correlation: Option<Correlated>,
    /// The spans that may have caused it beside the parent, or in place of one.
    pub(super) links: Vec<Link>,
    /// What all of it is worth.
    pub(super) trust: Trust,
    /// What inference says of it, where it was asked.
    pub(super) inferred: Option<Inferred>,
}

/// Reads what came in, or else looks it up, counts it, and weighs it.
pub(super) fn receive(
    open: bool,
    plugin: &mut Plugin,
    standing: &Standing<'_>,
    facts: &Facts<'_>,
    shared: &impl Shared,
    rng: &mut impl Rng,
) -> Caller {
    let propagation = &plugin.config().propagation;
    let extracted = propagation::extract(&propagation.extract, standing);
    let begins = plugin.config().export.is_some();
    let trust =
        if !standing.is_empty() { facts.trust(&propagation.trust) } else { Trust::Continue };
    if !extracted.invalid.is_empty() {
        plugin.metrics.add(Metric::ContextInvalid, 1);
        plugin.metrics.add_invalid(extracted.invalid);
    }
    let comes_alone = !matches!(extracted.incoming, Incoming::Context(_));
    if comes_alone
        && trust == Trust::Continue
        && let Some(found) = look_up(plugin, facts, shared)
    {
        return join(weigh(extracted.incoming, trust), found);
    }
    let asks = open && comes_alone && trust == Trust::Continue;
    let mut inferred = if asks { infer(plugin, facts, shared, rng) } else { None };
    if let Some(joined) = inferred.as_mut().and_then(|inferred| inferred.joined.take()) {
        let caller = weigh(extracted.incoming, trust);
        return Caller {
            decision: joined.remote.as_ref().map(|remote| remote.decision).or(caller.decision),
            remote: joined.remote,
            correlation: Some(joined.correlation),
            links: joined.links,
            inferred,
            ..caller
        };
    }
    match (&extracted.incoming, trust) {
        (Incoming::Absent | Incoming::Decision(_), _) => {
            plugin.metrics.add(Metric::ContextMissing, 1);
        }
        (Incoming::Context(_), Trust::Continue) => plugin.metrics.add(Metric::ContextContinued, 1),
        (Incoming::Context(_) | Incoming::Invalid, _) if begins => {
            plugin.metrics.add(Metric::ContextRestarted, 1);
        }
        // Nothing is begun, so nothing is begun anew.
        (Incoming::Context(_) | Incoming::Invalid, _) => {}
    }
    Caller { inferred, ..weigh(extracted.incoming, trust) }
}

fn weigh(incoming: Incoming, trust: Trust) -> Caller {
    let nothing = Caller { trust, ..Caller::default() };
    match (trust, incoming) {
        (Trust::Continue, Incoming::Context(remote)) => {
            Caller { decision: Some(remote.decision), remote: Some(remote), ..nothing }
        }
        (Trust::Continue, Incoming::Decision(decision)) => {
            Caller { decision: Some(decision), ..nothing }
        }
        (Trust::Link, Incoming::Context(remote)) => {
            Caller { links: Vec::from_iter(link(&remote)), ..nothing }
        }
        (Trust::Continue, Incoming::Absent | Incoming::Invalid)
        | (Trust::Link, Incoming::Absent | Incoming::Decision(_) | Incoming::Invalid)
        | (Trust::Restart, _) => nothing,
    }
}

/// A caller without a context that is one of those `found`, as if its headers had told so; or that
/// may be any of them.
fn join(caller: Caller, found: Found) -> Caller {
    let correlation = Some(Correlated {
        how: found.how,
        confidence: found.confidence(),
        candidates: found.candidates.len(),
    });
    let mut candidates = found.candidates.into_iter();
    let remote = if found.how == How::Header { candidates.next() } else { None };
    Caller {
        decision: remote.as_ref().map(|remote| remote.decision).or(caller.decision),
        remote,
        correlation,
        links: candidates.filter_map(|candidate| link(&candidate)).collect(),
        ..caller
    }
}

/// A link to the caller's span; `None` where the caller named its trace alone.
pub(super) fn link(remote: &RemoteContext) -> Option<Link> {
    let sampled = match remote.decision {
        ParentDecision::Debug | ParentDecision::Sample => TraceFlags::SAMPLED,
        ParentDecision::Deferred | ParentDecision::Drop => TraceFlags::default(),
    };
    let random = if remote.random { TraceFlags::RANDOM } else { TraceFlags::default() };
    Some(Link {
        trace_id: remote.trace_id,
        span_id: remote.parent_id?,
        trace_state: remote.state.as_str().to_owned(),
        flags: sampled.with(random),
        confidence: None,
    })
}

/// What has caused a call that came without a context.
fn look_up(plugin: &mut Plugin, facts: &Facts<'_>, shared: &impl Shared) -> Option<Found> {
    let correlation = plugin.correlation.as_mut()?;
    if facts.of_workload() != Some(Direction::Outbound) {
        return None;
    }
    let keys = correlation.keys(facts.headers());
    correlation.look_up(keys.as_ref(), shared, &mut plugin.metrics)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::{SpanId, TraceId};
    use crate::propagation::TraceState;

    fn remote() -> RemoteContext {
        RemoteContext {
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            parent_id: SpanId::from_bytes([2; 8]),
            decision: ParentDecision::Sample,
            random: false,
            state: TraceState::parse([&b"a=1"[..]]).unwrap(),
        }
    }

    #[test]
    fn what_came_in_counts_as_it_is_trusted() {
        use ParentDecision::{Drop, Sample};
        let none = |trust| Caller { trust, ..Caller::default() };
        let continued =
            || Caller { remote: Some(remote()), decision: Some(Sample), ..Caller::default() };
        let decided = || Caller { decision: Some(Drop), ..Caller::default() };
        let linked = || Caller {
            links: Vec::from_iter(link(&remote())),
            trust: Trust::Link,
            ..Caller::default()
        };
        let nothing = || [Trust::Continue, Trust::Restart, Trust::Link].map(none);
        for (incoming, expected) in [
            (Incoming::Absent, nothing()),
            (Incoming::Context(remote()), [continued(), none(Trust::Restart), linked()]),
            (Incoming::Decision(Drop), [decided(), none(Trust::Restart), none(Trust::Link)]),
            (Incoming::Invalid, nothing()),
        ] {
            let found = [Trust::Continue, Trust::Restart, Trust::Link]
                .map(|trust| weigh(incoming.clone(), trust));
            assert_eq!(found, expected, "{incoming:?}");
        }
    }

    #[test]
    fn links_name_a_span_and_what_was_decided_about_it() {
        let flags = |decision, random| {
            let remote = RemoteContext { decision, random, ..remote() };
            link(&remote).map(|link| link.flags.bits())
        };
        assert_eq!(flags(ParentDecision::Sample, false), Some(0x01));
        assert_eq!(flags(ParentDecision::Debug, true), Some(0x03));
        assert_eq!(flags(ParentDecision::Drop, true), Some(0x02));
        assert_eq!(flags(ParentDecision::Deferred, false), Some(0x00));
        assert_eq!(
            link(&remote()),
            Some(Link {
                trace_id: TraceId::from_bytes([1; 16]).unwrap(),
                span_id: SpanId::from_bytes([2; 8]).unwrap(),
                trace_state: "a=1".to_owned(),
                flags: TraceFlags::SAMPLED,
                confidence: None,
            })
        );
        assert_eq!(link(&RemoteContext { parent_id: None, ..remote() }), None);
    }
}
