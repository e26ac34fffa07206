//! One request, from its headers to its end.

mod caller;
mod inferred;
mod kept;

use rand::Rng;

use crate::config::{AccessLogField, Direction, Fact, KeepBaggage, Trust};
use crate::correlation::Ticket;
use crate::matching::Facts;
use crate::model::{
    Exchange, HeaderEdit, Headers, Metric, Shared, SpanId, TraceFlags, TraceId, UnixNanos,
};
use crate::plugin::Plugin;
use crate::propagation::{
    self, Outgoing, ParentDecision, RemoteContext, SpanContext, Standing, TraceState,
};
use crate::sampling::{Decision, Kept, Origin, OtMember, Reason, Threshold, Verdict};
use crate::span::{Correlated, Link, OpenStream, Part, Subject};
use caller::{Caller, receive};
use inferred::{Followed, ends, follow};
use kept::{Beginning, Pending, Piece};

/// The property under which the first instance on a request leaves the trace id: filter state
/// `wasm.meshweft.trace_id`, readable in access logs. It is the mark by which a second instance
/// knows that it is the second, so it is left on every request.
pub const TRACE_ID_STATE: &str = "meshweft.trace_id";

/// One request. Whatever callbacks the host leaves out, at most one span comes of it, or two of one
/// that was told of while it was open.
#[derive(Debug, Default)]
pub struct Stream {
    state: State,
    /// What is to be given back when a remembered request is over.
    remembered: Option<Ticket>,
    /// Whether the whole response has come by.
    is_whole: bool,
    /// When the headers of the response came, where that is to be told.
    first_byte: Option<UnixNanos>,
    followed: Option<Followed>,
    /// Whether a question about what is kept was taken off that nobody here answers.
    refused: bool,
}

/// What shall become of a request, and what shall be said about it.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct RequestEffects {
    /// Changes to its headers, in order.
    pub edits: Vec<HeaderEdit>,
    /// Names and values to be set as filter state, under `wasm.`.
    pub filter_state: Vec<(&'static str, String)>,
    /// What an operator should read.
    pub warning: Option<&'static str>,
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
    /// The head decision dropped it; its end may keep it.
    Dropped(Dropped),
    /// A span is open.
    Recording(Box<Recording>),
    /// Counted; nothing more to do.
    Ended,
}

#[derive(Debug)]
struct Dropped {
    /// What went on; without the vendors' state where no end keeps it.
    context: SpanContext,
    decision: Decision,
    /// What is held of it, if its end may keep it.
    pending: Option<Box<Pending>>,
}

#[derive(Debug)]
struct Recording {
    context: SpanContext,
    decision: Decision,
    open: Open,
    /// The key by which it is known as an open stream, where these are told of.
    told: Option<u64>,
}

/// What a span says of the beginning, beside its context.
#[derive(Debug)]
struct Open {
    headers: Headers,
    parent_id: Option<SpanId>,
    /// If it had to be asked for.
    direction: Option<Direction>,
    correlation: Option<Correlated>,
    links: Vec<Link>,
    baggage: Vec<(String, String)>,
}

impl Stream {
    /// Continues or begins a trace and decides.
    pub fn on_request_headers(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        rng: &mut impl Rng,
    ) -> RequestEffects {
        self.begin(true, plugin, exchange, shared, rng)
    }

    /// The same, of a request that is still `open` or of one that is over already.
    fn begin(
        &mut self,
        open: bool,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        rng: &mut impl Rng,
    ) -> RequestEffects {
        if !matches!(self.state, State::New) {
            return RequestEffects::default();
        }
        let begun = begin(open, plugin, exchange, shared, rng);
        self.state = begun.state;
        self.remembered = begun.remembered;
        self.followed = begun.followed;
        self.refused = begun.refused;
        begun.effects
    }

    /// The response is on its way to the caller, who may go on as soon as it has come: a call that
    /// inference follows counts as answered.
    pub fn on_answer(&mut self, plugin: &Plugin, shared: &impl Shared) {
        if let (Some(Followed::Call(call)), Some(inference)) = (self.followed, &plugin.inference) {
            self.followed = None;
            inference.answer(call, shared);
        }
    }

    /// Tells the caller of the trace, with the headers of the response that is on its way: the
    /// upstream's, or a reply that the proxy makes itself.
    ///
    /// Nothing is told of a trace that this instance did not continue or begin.
    /// Where hops tell one another what they kept, a verdict is taken and given.
    /// `wall`, which costs a call to the host, is asked where the configuration wants to know how
    /// long the response took to begin.
    #[must_use]
    pub fn on_response_headers(
        &mut self,
        plugin: &Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        wall: impl FnOnce() -> UnixNanos,
    ) -> Vec<HeaderEdit> {
        let may_be_told = match &self.state {
            State::Recording(_) => true,
            State::Dropped(dropped) => dropped.pending.is_some(),
            State::New | State::Passive | State::PassThrough | State::Ended => false,
        };
        if may_be_told && plugin.config().spans.facts.contains(&Fact::Timing) {
            self.first_byte = Some(wall());
        }
        let respond =
            |context| propagation::respond(&plugin.config().propagation.response, context);
        let mut edits = self.course().map(|(context, _)| respond(context)).unwrap_or_default();
        edits.extend(self.relay(plugin, exchange, shared, Piece::Headers));
        edits
    }

    /// Takes and gives a verdict that came too late for the headers, in the trailers.
    #[must_use]
    pub fn on_response_trailers(
        &mut self,
        plugin: &Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
    ) -> Option<HeaderEdit> {
        self.relay(plugin, exchange, shared, Piece::Trailers)
    }

    fn relay(
        &mut self,
        plugin: &Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        piece: Piece,
    ) -> Option<HeaderEdit> {
        if self.refused {
            return Some(kept::hush());
        }
        let (context, decision, pending) = match &mut self.state {
            State::Dropped(Dropped { context, decision, pending }) => {
                (&*context, &*decision, pending.as_deref_mut())
            }
            State::Recording(recording) => (&recording.context, &recording.decision, None),
            State::New | State::Passive | State::PassThrough | State::Ended => return None,
        };
        kept::respond(plugin, exchange, shared, (context, decision), pending, piece)
    }

    /// The last of the response came by.
    pub const fn on_response_end(&mut self) {
        self.is_whole = true;
    }

    /// The context that went on and the decision about it, until the request ends; `None` if this
    /// instance has not continued or begun its trace.
    #[must_use]
    pub const fn course(&self) -> Option<(&SpanContext, &Decision)> {
        match &self.state {
            State::Dropped(dropped) => Some((&dropped.context, &dropped.decision)),
            State::Recording(recording) => Some((&recording.context, &recording.decision)),
            State::New | State::Passive | State::PassThrough | State::Ended => None,
        }
    }

    /// Whether [`on_log`](Self::on_log) has run.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Counts the request, and takes in its span if one is open.
    ///
    /// Everything is final here, also for requests whose header callbacks never ran. For those
    /// there is filter state to be set: access loggers come later, and so do other instances.
    /// Headers cannot be changed any more, so there are no edits.
    pub fn on_log(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        rng: &mut impl Rng,
    ) -> RequestEffects {
        let effects = self.begin(false, plugin, exchange, shared, rng);
        if let (Some(ticket), Some(correlation)) = (&self.remembered, &mut plugin.correlation) {
            correlation.close(ticket);
        }
        let late = self.followed.take().map(|followed| ends(followed, plugin, shared));
        match core::mem::replace(&mut self.state, State::Ended) {
            State::Ended | State::New => {}
            State::Passive => plugin.metrics.add(Metric::Passive, 1),
            State::PassThrough => plugin.metrics.add(Metric::Requests, 1),
            State::Dropped(dropped) => {
                plugin.metrics.add(Metric::Requests, 1);
                plugin.metrics.add(Metric::NotSampled, 1);
                let Dropped { context, decision, pending } = dropped;
                let end = pending.and_then(|pending| {
                    let course = (&context, &decision);
                    pending.end(plugin, exchange, shared, course, self.is_whole)
                });
                if let Some((mut open, kept)) = end {
                    open.links.extend(late.unwrap_or_default());
                    plugin.metrics.add(Metric::Kept, 1);
                    let recording = Recording { context, decision, open, told: None };
                    recording.end(Some(kept), self.first_byte, plugin, exchange, shared, rng);
                }
            }
            State::Recording(mut recording) => {
                recording.open.links.extend(late.unwrap_or_default());
                plugin.metrics.add(Metric::Requests, 1);
                plugin.metrics.add(Metric::Sampled, 1);
                recording.end(None, self.first_byte, plugin, exchange, shared, rng);
            }
        }
        RequestEffects { edits: Vec::new(), ..effects }
    }
}

impl Recording {
    /// Hands over the span, which the end has `kept` or the head decision sampled.
    fn end(
        mut self,
        kept: Option<Kept>,
        first_byte: Option<UnixNanos>,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
        rng: &mut impl Rng,
    ) {
        let told = self.told.is_some_and(|key| plugin.open.end(key));
        let part = if told { self.tell_again(rng) } else { Part::Whole };
        let reason = self.decision.reason.describe(&plugin.config().sampling);
        let kept = kept.map(Kept::describe);
        let subject = Subject {
            context: &self.context,
            parent_id: self.open.parent_id,
            kind: plugin.span_kind(self.open.direction, exchange),
            headers: &self.open.headers,
            reason: &reason,
            correlation: self.open.correlation,
            keep: kept.as_deref(),
            baggage: &self.open.baggage,
            links: &self.open.links,
        };
        let span = plugin.describer.describe(subject, part, first_byte, exchange);
        plugin.record(&span, shared.now());
    }

    /// Takes a span of its own for a stream that was told of while it was open, and links to that.
    fn tell_again(&mut self, rng: &mut impl Rng) -> Part {
        self.open.links.push(Link {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            trace_state: self.context.state.as_str().to_owned(),
            flags: self.context.flags,
            confidence: None,
        });
        self.context.span_id = SpanId::random(rng);
        Part::Finished
    }

    /// Makes it known as a stream that is open, where such are told of.
    fn may_be_told(
        mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        shared: &impl Shared,
    ) -> Self {
        if plugin.config().spans.open_after.is_none() {
            return self;
        }
        let start = exchange.integer(&["request", "time"]).map_or(0, i64::cast_unsigned);
        let reason = self.decision.reason.describe(&plugin.config().sampling).into_owned();
        let stream = OpenStream {
            context: self.context.clone(),
            parent_id: self.open.parent_id,
            kind: plugin.span_kind(self.open.direction, exchange),
            headers: self.open.headers.clone(),
            reason,
            correlation: self.open.correlation,
            baggage: self.open.baggage.clone(),
            links: self.open.links.clone(),
            start: UnixNanos(start),
        };
        self.told = Some(plugin.open.begin(stream, shared.now()));
        self
    }
}

/// A request as it has begun.
#[derive(Default)]
struct Begun {
    state: State,
    effects: RequestEffects,
    remembered: Option<Ticket>,
    followed: Option<Followed>,
    refused: bool,
}

fn begin(
    is_open: bool,
    plugin: &mut Plugin,
    exchange: &impl Exchange,
    shared: &impl Shared,
    rng: &mut impl Rng,
) -> Begun {
    if exchange.property(&[TRACE_ID_STATE]).is_some_and(|id| !id.is_empty()) {
        return Begun { state: State::Passive, ..Begun::default() };
    }
    let headers = exchange.request_headers();
    let standing = Standing::of(&headers);
    let facts = Facts::new(&headers, exchange, plugin.side());
    let Caller { remote, decision: parent, correlation, links, trust, inferred } =
        receive(is_open, plugin, &standing, &facts, shared, rng);
    if plugin.config().export.is_none() {
        plugin.metrics.add(Metric::CelFailed, facts.failed().into());
        // No mark is left: another instance behind this one may have an export.
        let mut edits = onward(plugin, &standing, &facts, None);
        if trust != Trust::Continue {
            // Nothing is begun here; what nobody is to find behind the edge goes all the same.
            edits.extend(propagation::forget(&standing));
        }
        let question = kept::refuse(&headers);
        let refused = question.is_some();
        edits.extend(question);
        let effects = RequestEffects { edits, ..RequestEffects::default() };
        return Begun { state: State::PassThrough, effects, refused, ..Begun::default() };
    }

    let own = inferred.as_ref().map(|inferred| inferred.own);
    let new_trace = || own.map_or_else(|| TraceId::random(rng), |(trace_id, _)| trace_id);
    let trace_id = remote.as_ref().map_or_else(new_trace, |remote| remote.trace_id);
    let ot = remote.as_ref().and_then(|remote| OtMember::of(&remote.state));
    let decision =
        plugin.sampler.decide(&facts, Origin::new(trace_id, parent, ot.as_ref()), shared);
    plugin.metrics.add(Metric::CelFailed, facts.failed().into());
    if let Some(rule) = decision.rule {
        plugin.metrics.add_rule(rule);
    }
    if matches!(decision.reason, Reason::Limit(_)) {
        plugin.metrics.add(Metric::Limited, 1);
    }
    let sampled = decision.verdict == Verdict::RecordAndSample;
    let parent_id = remote.as_ref().and_then(|remote| remote.parent_id);
    let mut context = SpanContext {
        trace_id,
        span_id: own.map_or_else(|| SpanId::random(rng), |(_, span_id)| span_id),
        flags: flags(remote.as_ref(), decision.verdict),
        // Where the parent does not decide, what it asked of everyone else does not go on either.
        debug: parent == Some(ParentDecision::Debug) && decision.reason == Reason::Parent,
        state: state(remote.as_ref(), ot, decision.threshold),
    };
    let formats = &plugin.config().propagation;
    propagation::update_state(&mut context, &formats.inject, &formats.extract);
    let outgoing = Outgoing {
        context: &context,
        parent_id,
        service: plugin.service(),
        alone: trust != Trust::Continue,
    };
    let mut edits = onward(plugin, &standing, &facts, Some(&outgoing));
    let beginning = Beginning {
        facts: &facts,
        context: &context,
        decision: &decision,
        caller: parent_id,
        stripped: strips(plugin, &facts),
    };
    let (relayed, question) =
        if is_open { kept::ask(plugin, shared, beginning) } else { (None, None) };
    let refused = relayed.is_none() && question.is_some();
    edits.extend(question);
    let continued = remote.is_some() && correlation.is_none();
    let remembered =
        if is_open { remember(plugin, &facts, &context, continued, shared) } else { None };
    let followed = match inferred {
        Some(inferred) => inferred.call.map(Followed::Call),
        None if is_open => follow(plugin, &facts, &context, remote.is_some(), shared),
        None => None,
    };
    let filter_state = filter_state(&plugin.config().propagation.access_log, &context, sampled);
    let seen = propagation::native_tracer_decided(&headers);
    let warning = if seen { plugin.on_native_tracer() } else { None };
    let direction = facts.known_direction();
    let open =
        |headers, baggage| Open { headers, parent_id, direction, correlation, links, baggage };
    let baggage =
        || propagation::baggage_attributes(&plugin.config().propagation.baggage, &standing);
    let state = match decision.verdict {
        Verdict::Drop if plugin.sampler.keep(&decision).is_some() => {
            let open = open(headers.only(|name| kept::is_held(plugin, name)), baggage());
            let pending = Box::new(Pending { open, relayed, kept: None });
            State::Dropped(Dropped { context, decision, pending: Some(pending) })
        }
        Verdict::Drop => {
            let context = SpanContext { state: TraceState::default(), ..context };
            State::Dropped(Dropped { context, decision, pending: None })
        }
        Verdict::RecordAndSample => {
            let baggage = baggage();
            let begun = open(headers, baggage);
            let recording = Recording { context, decision, open: begun, told: None };
            State::Recording(Box::new(if is_open {
                recording.may_be_told(plugin, exchange, shared)
            } else {
                recording
            }))
        }
    };
    let effects = RequestEffects { edits, filter_state, warning };
    Begun { state, effects, remembered, followed, refused }
}

/// Remembers what goes on of a request from outside, for the calls that it may cause.
fn remember(
    plugin: &mut Plugin,
    facts: &Facts<'_>,
    context: &SpanContext,
    continued: bool,
    shared: &impl Shared,
) -> Option<Ticket> {
    let correlation = plugin.correlation.as_mut()?;
    let keys = correlation.keys(facts.headers())?;
    match facts.of_workload() {
        Some(Direction::Inbound) => {
            correlation.remember(keys, context, shared, &mut plugin.metrics)
        }
        Some(Direction::Outbound) if continued => {
            correlation.forwarded(&mut plugin.metrics);
            None
        }
        Some(Direction::Outbound) | None => None,
    }
}

/// The edits that let `outgoing` go on, and of the baggage what may; to a host that is to get
/// nothing, neither. Those hold also where nothing is begun.
fn onward(
    plugin: &Plugin,
    standing: &Standing<'_>,
    facts: &Facts<'_>,
    outgoing: Option<&Outgoing<'_>>,
) -> Vec<HeaderEdit> {
    let config = &plugin.config().propagation;
    if strips(plugin, facts) {
        return propagation::strip(standing);
    }
    let inject =
        |outgoing| propagation::inject(&config.inject, &config.extract, standing, outgoing);
    let mut edits = outgoing.map(inject).unwrap_or_default();
    // Where nothing is begun, what all may go on goes on as it came.
    if outgoing.is_some() || config.baggage.keep != KeepBaggage::All {
        edits.extend(propagation::carry_baggage(config, standing));
    }
    edits
}

/// Whether a request goes to a host that is to get nothing.
fn strips(plugin: &Plugin, facts: &Facts<'_>) -> bool {
    plugin.config().propagation.strip.as_ref().is_some_and(|hosts| facts.host_fits(hosts))
}

/// What access logs are told; the trace id in any case.
fn filter_state(
    fields: &[AccessLogField],
    context: &SpanContext,
    sampled: bool,
) -> Vec<(&'static str, String)> {
    let mut state = vec![(TRACE_ID_STATE, context.trace_id.to_hex())];
    state.extend(fields.iter().filter_map(|field| match field {
        AccessLogField::Sampled => Some(("meshweft.sampled", sampled.to_string())),
        AccessLogField::SpanId => Some(("meshweft.span_id", context.span_id.to_hex())),
        AccessLogField::TraceId => None,
    }));
    state
}

/// The vendors' state that goes on. A new trace gets a member `ot` if there is something to say; a
/// trace that came without one never does (`tracestate` is of those who sent it).
fn state(
    remote: Option<&RemoteContext>,
    ot: Option<OtMember<'_>>,
    threshold: Option<Threshold>,
) -> TraceState {
    match (remote, ot) {
        (None, _) => OtMember::default().write(&TraceState::default(), threshold),
        (Some(remote), None) => remote.state.clone(),
        (Some(remote), Some(ot)) => ot.write(&remote.state, threshold),
    }
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
