//! One try at an upstream: the module as an upstream filter (`mode: upstream`).
//!
//! There the host shows the downstream request's properties, runs no `on_log`, and leaves on a
//! second try the headers that the first one went with. So the times are those of a clock of our
//! own, the end is `on_done`, and filter state says whose child a try is.

use rand::Rng;

use crate::config::Propagation;
use crate::model::{Exchange, Format, Headers, Metric, MonoNanos, SpanId, TraceFlags, UnixNanos};
use crate::plugin::Plugin;
use crate::propagation::{
    self, Incoming, Outgoing, ParentDecision, SpanContext, Standing, update_state,
};
use crate::span::{AttemptEnding, SpanKind, Subject};
use crate::stream::RequestEffects;

/// Filter state of ours: the span that all tries are children of, and the one that the last try
/// went with. A request whose headers name another one is not a further try at the same.
const TRIES_STATE: &str = "meshweft.tries";

/// One try at an upstream.
#[derive(Debug, Default)]
pub struct Attempt(Option<Box<Recording>>);

#[derive(Debug)]
struct Recording {
    headers: Headers,
    context: SpanContext,
    parent_id: SpanId,
    ending: AttemptEnding,
}

impl Attempt {
    /// Begins a span for the try, if the request has a recorded parent.
    pub fn on_request_headers(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        wall: UnixNanos,
        rng: &mut impl Rng,
    ) -> RequestEffects {
        if self.0.is_some() || plugin.config().export.is_none() {
            return RequestEffects::default();
        }
        let headers = exchange.request_headers();
        let Some((recording, effects)) = begin(plugin, headers, exchange, wall, rng) else {
            return RequestEffects::default();
        };
        self.0 = Some(Box::new(recording));
        effects
    }

    /// The span that went on, and the one that it is a child of; `None` where none was begun.
    #[must_use]
    pub fn course(&self) -> Option<(&SpanContext, SpanId)> {
        self.0.as_ref().map(|recording| (&recording.context, recording.parent_id))
    }

    /// Takes the status in.
    pub fn on_response_headers(&mut self, exchange: &impl Exchange) {
        let Some(recording) = &mut self.0 else { return };
        let number = |name| number(exchange.response_header(name));
        recording.ending.code = number(":status");
        if recording.ending.is_grpc {
            recording.ending.grpc = number("grpc-status");
        }
    }

    /// Takes in what a gRPC answer says at its end.
    pub fn on_response_trailers(&mut self, exchange: &impl Exchange) {
        let Some(recording) = &mut self.0 else { return };
        if recording.ending.is_grpc {
            recording.ending.grpc =
                number(exchange.response_header("grpc-status")).or(recording.ending.grpc);
        }
    }

    /// Takes in the span.
    pub fn on_done(
        &mut self,
        plugin: &mut Plugin,
        exchange: &impl Exchange,
        now: MonoNanos,
        wall: UnixNanos,
    ) {
        let Some(recording) = self.0.take() else { return };
        let Recording { headers, context, parent_id, ending } = *recording;
        plugin.tries.end(parent_id);
        plugin.metrics.add(Metric::Sampled, 1);
        let subject = Subject {
            context: &context,
            parent_id: Some(parent_id),
            kind: SpanKind::Client,
            headers: &headers,
            reason: "parent",
            correlation: None,
            keep: None,
            baggage: &[],
            links: &[],
        };
        let span = plugin.describer.describe_attempt(subject, ending, wall, exchange);
        plugin.record(&span, now);
    }
}

fn begin(
    plugin: &mut Plugin,
    headers: Headers,
    exchange: &impl Exchange,
    wall: UnixNanos,
    rng: &mut impl Rng,
) -> Option<(Recording, RequestEffects)> {
    let standing = Standing::of(&headers);
    let formats = &plugin.config().propagation;
    let Incoming::Context(remote) = propagation::extract(&known(formats), &standing).incoming
    else {
        return None;
    };
    if !matches!(remote.decision, ParentDecision::Sample | ParentDecision::Debug) {
        return None;
    }
    let parent_id = parent(remote.parent_id?, exchange);
    let random = if remote.random { TraceFlags::RANDOM } else { TraceFlags::default() };
    let mut context = SpanContext {
        trace_id: remote.trace_id,
        span_id: SpanId::random(rng),
        flags: TraceFlags::SAMPLED.with(random),
        debug: remote.decision == ParentDecision::Debug,
        state: remote.state,
    };
    update_state(&mut context, &formats.inject, &formats.extract);
    let outgoing = Outgoing {
        context: &context,
        parent_id: Some(parent_id),
        service: plugin.service(),
        alone: false,
    };
    let effects = RequestEffects {
        edits: propagation::inject(&formats.inject, &formats.extract, &standing, &outgoing),
        filter_state: vec![(TRIES_STATE, format!("{parent_id}-{}", context.span_id))],
        warning: None,
    };
    let ending = AttemptEnding::new(wall, &headers, exchange, plugin.tries.begin(parent_id));
    Some((Recording { headers, context, parent_id, ending }, effects))
}

/// The formats in which a try looks for its parent: what an instance before the router wrote, also
/// where it reads other formats.
#[must_use]
pub fn known(formats: &Propagation) -> Vec<Format> {
    [formats.inject.as_slice(), &formats.extract].concat()
}

/// The span that a try is a child of: the one in its headers, unless an earlier try wrote that.
fn parent(found: SpanId, exchange: &impl Exchange) -> SpanId {
    let earlier = || {
        let state = exchange.text(&[TRIES_STATE])?;
        let (parent, last) = state.split_once('-')?;
        let last = SpanId::from_hex(last.as_bytes()).ok()?;
        (last == found).then(|| SpanId::from_hex(parent.as_bytes()).ok()).flatten()
    };
    earlier().unwrap_or(found)
}

fn number(value: Option<Vec<u8>>) -> Option<i64> {
    str::from_utf8(&value?).ok()?.parse().ok()
}
