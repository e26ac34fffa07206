//! One configured instance on one worker: what its requests share, and its way out.

use core::time::Duration;
use std::rc::Rc;

use rand::{Rng, RngExt};

use crate::config::{Config, Direction, Infer, Mode};
use crate::correlation::Correlation;
use crate::correlation::infer::{Inference, Method};
use crate::export::{self, Answer, CallId, ExportCall, Exporter, Outcome};
use crate::matching::Side;
use crate::model::{Exchange, Metric, MetricId, Metrics, MonoNanos, Shared, UnixNanos};
use crate::sampling::{Poll, Relay, Sampler};
use crate::span::{Describer, Node, OpenStreams, Span, SpanKind, Tries, resource};

/// The longest time between ticks, so that retries and metrics do not wait for a long interval.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// How many sampling rules have a counter of their own: the set of metrics is bounded.
pub const MAX_RULE_METRICS: usize = 64;

/// How long an instance without an exporter has to go: there is nothing to wait for.
const NOTHING_TO_DRAIN: Duration = Duration::ZERO;

/// What an operator should read once a native tracer is seen.
const NATIVE_TRACER: &str = "an x-request-id carries the trace status of Envoy's native tracer, of \
    this proxy or of one before it; a proxy with both forwards the native traceparent, not ours. \
    Switch the native one off: without `tracing` in Envoy's HTTP connection manager, with \
    `disableSpanReporting: true` in Istio's Telemetry (PROPAGATION.md says more)";

/// Rules that a warning names at most.
const MAX_NAMED: usize = 8;

/// One configured instance on one worker.
#[derive(Debug)]
pub struct Plugin {
    config: Config,
    side: Side,
    service: String,
    exporter: Option<Exporter>,
    phase: Phase,
    native_tracer_seen: bool,
    relay: Option<Relay>,
    /// What makes spans of requests.
    pub describer: Describer,
    /// Streams that may be told of before they end.
    pub open: OpenStreams,
    /// Tries at upstreams that are under way.
    pub tries: Tries,
    /// What decides about requests.
    pub sampler: Sampler,
    /// What joins calls to what came in; `None` where nothing is to be joined.
    pub correlation: Option<Correlation>,
    /// What joins calls of which no header tells; `None` where that is off.
    pub inference: Option<Inference>,
    /// Counts of everything that happens to requests and spans.
    pub metrics: Metrics,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Serving,
    Draining { until: MonoNanos },
    Done,
}

/// What shall happen at a tick.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Tick {
    /// Requests to send.
    pub calls: Vec<ExportCall>,
    /// A question to the server of remote sampling, to be sent.
    pub poll: Option<Poll>,
    /// Whether the instance has finished and the host may forget it. Said once.
    pub done: bool,
}

impl Plugin {
    /// An instance on the proxy that `node` (serialized, as the host gives it) describes.
    #[must_use]
    pub fn new(
        config: Config,
        node: Option<&[u8]>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let node = node.map(Node::from_property).unwrap_or_default();
        let keep = config.sampling.keep.as_ref();
        let propagate = keep.and_then(|keep| keep.propagate.as_ref());
        let resource = resource(&config.service, &node, environment);
        let side = Side::new(config.mode, node.is_gateway());
        // Where nothing is begun there is nothing to remember; a gateway forwards all headers.
        let joins =
            config.export.is_some() && side != Side::Gateway && config.mode != Mode::Upstream;
        let service = resource.service_name().to_owned();
        let describer = Describer::new(&config.spans);
        Self {
            side,
            correlation: joins.then(|| Correlation::new(&config.correlation)).flatten(),
            inference: joins.then(|| inference(&config)).flatten(),
            exporter: config.export.as_ref().map(|export| Exporter::new(export, &resource)),
            phase: Phase::Serving,
            native_tracer_seen: false,
            relay: propagate.map(Relay::new),
            sampler: Sampler::new(&config.sampling, &service, Rc::clone(describer.routes())),
            describer,
            open: OpenStreams::default(),
            tries: Tries::default(),
            service,
            metrics: Metrics::new(rule_metrics(&config)),
            config,
        }
    }

    /// Tells the time before the first request comes; gives what an operator should read.
    pub fn on_start(&mut self, wall: UnixNanos) -> Option<String> {
        self.sampler.on_start(wall);
        let mut expired = self.sampler.expired();
        let named: Vec<_> = expired.by_ref().take(MAX_NAMED).collect();
        let more = expired.count();
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let named = named.join(", ");
        (!named.is_empty())
            .then(|| format!("sampling rules that have expired are ignored: {named}{more}"))
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The time between ticks.
    #[must_use]
    pub fn tick_period(&self) -> Duration {
        self.config
            .export
            .as_ref()
            .map_or(LONGEST_TICK, |export| export.batch.interval.min(LONGEST_TICK))
    }

    /// The time to the first tick: workers start together and must not export together. What else
    /// tells them apart is drawn here.
    pub fn first_tick(&mut self, rng: &mut impl Rng) -> Duration {
        if let Some(inference) = &mut self.inference {
            inference.set_worker(rng.random());
        }
        let period = u64::try_from(self.tick_period().as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(rng.random_range(1..=period))
    }

    /// The name of a metric under Envoy's `wasmcustom.` prefix.
    #[must_use]
    pub fn metric_name(&self, id: MetricId) -> String {
        match id {
            MetricId::Fixed(metric) => metric.name().to_owned(),
            MetricId::Rule(index) => {
                let rule = self.config.sampling.rules.get(index);
                format!("meshweft_rule_{}", rule.map_or("", |rule| &rule.name))
            }
            MetricId::Invalid(format) => {
                format!("meshweft_context_invalid_{}", format.name().replace('-', "_"))
            }
        }
    }

    /// All metrics that this instance may move.
    pub fn metric_ids(&self) -> impl Iterator<Item = MetricId> {
        let fixed = Metric::ALL.iter().copied().map(MetricId::Fixed);
        let invalid = self.config.propagation.extract.iter().copied().map(MetricId::Invalid);
        let rules = (0..rule_metrics(&self.config)).map(MetricId::Rule);
        fixed.chain(invalid).chain(rules)
    }

    /// On which side of the workload requests of this instance are.
    #[must_use]
    pub const fn side(&self) -> Side {
        self.side
    }

    /// Which side of a call the span of a request describes, `known` or asked for.
    #[must_use]
    pub fn span_kind(&self, known: Option<Direction>, exchange: &impl Exchange) -> SpanKind {
        match known.unwrap_or_else(|| self.side.of(exchange)) {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        }
    }

    /// How this instance tells others what it kept, if it does.
    pub(crate) const fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// `service.name` of the resource.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Counts a request about which a native tracer decides; the first time there is something
    /// for an operator to read.
    pub fn on_native_tracer(&mut self) -> Option<&'static str> {
        self.metrics.add(Metric::NativeTracerSeen, 1);
        let first = !core::mem::replace(&mut self.native_tracer_seen, true);
        first.then_some(NATIVE_TRACER)
    }

    /// Takes in a finished span.
    pub fn record(&mut self, span: &Span, now: MonoNanos) {
        let Some(exporter) = &mut self.exporter else { return };
        exporter.push(span, now, &mut self.metrics);
        if self.phase == Phase::Done {
            // No tick will come any more.
            exporter.abandon(&mut self.metrics);
        }
    }

    /// Sends what is due; during a shutdown also says when it is over. `wall` is what rules expire
    /// by.
    pub fn on_tick(&mut self, now: MonoNanos, wall: UnixNanos, shared: &dyn Shared) -> Tick {
        self.sampler.on_tick(now, wall, shared);
        if let Some(correlation) = &mut self.correlation {
            correlation.on_tick(now, shared, &mut self.metrics);
        }
        if let Some(inference) = &mut self.inference {
            inference.on_tick(shared);
        }
        self.tell_open(now, wall);
        let Some(exporter) = &mut self.exporter else {
            export::give_up_left(shared, now, &mut self.metrics);
            return Tick { done: self.finish(), ..Tick::default() };
        };
        match self.phase {
            Phase::Serving => exporter.take_over(shared, now, &mut self.metrics),
            Phase::Draining { .. } | Phase::Done => exporter.wake(shared, now, &mut self.metrics),
        }
        let over = match self.phase {
            Phase::Draining { until } => exporter.is_idle() || now >= until,
            Phase::Serving | Phase::Done => false,
        };
        if over {
            // What is counted as lost here must not be sent as well.
            exporter.abandon(&mut self.metrics);
            return Tick { done: self.finish(), ..Tick::default() };
        }
        let calls = exporter.poll(now, &mut self.metrics);
        // One on its way out leaves the questions to others.
        let serving = self.phase == Phase::Serving;
        let poll = if serving { self.sampler.poll(now, shared) } else { None };
        self.metrics.add(Metric::RemoteRequests, i64::from(poll.is_some()));
        Tick { calls, poll, done: false }
    }

    /// Takes the answer to a [`Tick::poll`]; gives what an operator should read about it.
    pub fn on_answer(
        &mut self,
        outcome: &Outcome<'_>,
        now: MonoNanos,
        shared: &dyn Shared,
    ) -> Option<String> {
        let answer = match outcome {
            Outcome::Answered(Answer { status: 200..=299, body, .. }) => Ok(*body),
            Outcome::Answered(Answer { status, .. }) => {
                Err(format!("answered with status {status}"))
            }
            Outcome::NoAnswer => Err("gave no answer in time".to_owned()),
            Outcome::NotSent => Err("could not be asked: is there one of this name?".to_owned()),
        };
        let complaint = self.sampler.on_answer(answer, now, shared).err()?;
        self.metrics.add(Metric::RemoteFailures, 1);
        complaint
    }

    /// Records what there is so far of streams that have been open for long.
    fn tell_open(&mut self, now: MonoNanos, wall: UnixNanos) {
        let Some(after) = self.config.spans.open_after else { return };
        for stream in self.open.due(|began| began.after(after) <= now) {
            let span = self.describer.describe_open(stream.subject(), stream.start, wall);
            self.metrics.add(Metric::Sampled, 1);
            self.record(&span, now);
        }
    }

    /// Takes the outcome of a request that [`on_tick`](Self::on_tick) wanted sent; gives what
    /// an operator should read about it.
    pub fn on_outcome(
        &mut self,
        id: CallId,
        outcome: &Outcome<'_>,
        now: MonoNanos,
        shared: &dyn Shared,
        rng: &mut impl Rng,
    ) -> Option<String> {
        let exporter = self.exporter.as_mut()?;
        exporter.wake(shared, now, &mut self.metrics);
        exporter.outcome(id, outcome, now, &mut self.metrics, rng)
    }

    /// The configuration is on its way out. Whether the host may forget this instance at once;
    /// else ticks go on until one says that it is done: the queue is empty, or a span has had
    /// the time that the configuration grants to retries. Where no tick comes any more, others
    /// take over what waits.
    pub fn on_shutdown(&mut self, now: MonoNanos, shared: &dyn Shared) -> bool {
        if let Some(correlation) = &mut self.correlation {
            correlation.on_shutdown(&mut self.metrics);
        }
        let idle = self.exporter.as_mut().is_none_or(|exporter| {
            exporter.drain(shared, now, &mut self.metrics);
            exporter.is_idle()
        });
        let patience =
            self.config.export.as_ref().map_or(NOTHING_TO_DRAIN, |export| export.retry.max_elapsed);
        if self.phase == Phase::Serving {
            self.phase = Phase::Draining { until: now.after(patience) };
        }
        idle && self.finish()
    }

    /// Ends a shutdown; true the first time.
    fn finish(&mut self) -> bool {
        let draining = matches!(self.phase, Phase::Draining { .. });
        if draining {
            self.phase = Phase::Done;
        }
        draining
    }
}

fn inference(config: &Config) -> Option<Inference> {
    let method = match config.correlation.infer {
        Infer::Best => Method::Best,
        Infer::Off => return None,
        Infer::Single => Method::Single,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a share needs no more than seven digits")]
    let confidence = config.correlation.confidence as f32;
    Some(Inference::new(method, confidence))
}

/// How many rules of `config` have a counter.
fn rule_metrics(config: &Config) -> usize {
    config.sampling.rules.len().min(MAX_RULE_METRICS)
}
