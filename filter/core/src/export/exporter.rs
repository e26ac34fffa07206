//! The exporter: what goes when, and what becomes of it.

use core::time::Duration;

use rand::Rng;

use super::answer::{self, Verdict};
use super::collectors::Collectors;
use super::encoder::Encoder;
use super::handover::{self, Address, Claimed, Parcel};
use super::queue::{Batch, Load, Queue, Refused};
use super::retry;
use super::{CallId, ExportCall, Outcome};
use crate::config::{Export, Protocol, Retry};
use crate::model::{Metric, Metrics, MonoNanos, Shared};
use crate::span::{Resource, Span};

/// How many requests may be under way at once.
pub const MAX_IN_FLIGHT: usize = 8;

/// How long after its time-out an attempt of which the host never told the end is given up:
/// without it a lost callback would hold its spans for ever.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// The queue and its deliveries, for one worker.
///
/// After every call, over all calls so far, the spans that were pushed are those exported, those
/// dropped by cause, and those that the gauges show as waiting and as under way; but for what is
/// left to others, from [`drain`](Self::drain) until somebody takes it.
#[derive(Debug)]
pub struct Exporter {
    protocol: Protocol,
    collectors: Collectors,
    address: Address,
    /// The headers of every request but for the authority.
    headers: Vec<(String, String)>,
    timeout: Duration,
    retry: Retry,
    encoder: Encoder,
    queue: Queue,
    in_flight: Vec<Attempt>,
    next_id: u64,
}

/// A request under way.
#[derive(Debug)]
struct Attempt {
    id: CallId,
    sent: MonoNanos,
    batch: Batch,
    /// The place of its collector.
    to: usize,
}

impl Exporter {
    /// An empty queue.
    #[must_use]
    pub fn new(config: &Export, resource: &Resource) -> Self {
        let encoder = Encoder::new(config.protocol, config.compression, resource);
        let pseudo =
            [(":method", "POST"), (":path", &config.path), (":scheme", config.scheme.name())];
        let agent = ("user-agent", concat!("meshweft/", env!("CARGO_PKG_VERSION")));
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let of_body = encoder.headers(config.timeout);
        let of_body = of_body.into_iter().map(|(name, value)| (name.to_owned(), value));
        let own = pseudo.map(own).into_iter().chain(of_body).chain([own(agent)]);
        Self {
            protocol: config.protocol,
            collectors: Collectors::new(config),
            address: Address::of(config),
            headers: own.chain(config.headers.iter().cloned()).collect(),
            timeout: config.timeout,
            retry: config.retry,
            encoder,
            queue: Queue::new(config.queue, config.batch),
            in_flight: Vec::new(),
            next_id: 0,
        }
    }

    /// Encodes `span` and takes it in, or drops and counts it.
    pub fn push(&mut self, span: &Span, now: MonoNanos, metrics: &mut Metrics) {
        match self.queue.push(|batch| self.encoder.append(batch, span), now) {
            Ok(bytes) => wait(metrics, Load { spans: 1, bytes }),
            Err(Refused::Full) => metrics.add(Metric::DroppedQueueFull, 1),
            Err(Refused::TooLarge) => metrics.add(Metric::DroppedEncode, 1),
        }
    }

    /// What is due. To be called on ticks only.
    pub fn poll(&mut self, now: MonoNanos, metrics: &mut Metrics) -> Vec<ExportCall> {
        self.give_up_lost(now, metrics);
        let mut calls = Vec::new();
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let Some((to, collector, turn)) = self.collectors.next(now) else { break };
            let Some(mut batch) = self.queue.take(now, turn) else { break };
            batch.first_attempt.get_or_insert(now);
            let id = CallId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            let authority = (":authority".to_owned(), collector.authority.clone());
            calls.push(ExportCall {
                id,
                cluster: collector.cluster.clone(),
                headers: [authority].into_iter().chain(self.headers.iter().cloned()).collect(),
                body: batch.body(&self.encoder),
                timeout: self.timeout,
            });
            stop_waiting(metrics, batch.load());
            count(metrics, Metric::InFlightSpans, batch.load().spans);
            count(metrics, Metric::ExportRequests, 1);
            count(metrics, Metric::ExportFailovers, usize::from(to > 0));
            self.collectors.asked(to, id);
            self.in_flight.push(Attempt { id, sent: now, batch, to });
        }
        calls
    }

    /// Takes the outcome of an attempt. An unknown id changes nothing.
    ///
    /// After a failure gives what an operator should read in the log, at most once a minute for
    /// each collector.
    pub fn outcome(
        &mut self,
        id: CallId,
        outcome: &Outcome<'_>,
        now: MonoNanos,
        metrics: &mut Metrics,
        rng: &mut impl Rng,
    ) -> Option<String> {
        let index = self.in_flight.iter().position(|attempt| attempt.id == id)?;
        let attempt = self.in_flight.swap_remove(index);
        let to = attempt.to;
        let trouble = self.end(attempt, outcome, now, rng.next_u64(), metrics)?;
        let collector = self.collectors.get_mut(to)?;
        collector.complaints.about(&collector.cluster, &trouble, now)
    }

    /// The configuration is on its way out: batches go without waiting for company, and what is
    /// unsent is left in shared data, since the host may end this VM with it.
    ///
    /// Nobody's gauges count what is left: those of who takes it may begin anew at zero.
    pub fn drain(&mut self, shared: &dyn Shared, now: MonoNanos, metrics: &mut Metrics) {
        self.queue.hurry();
        let unsent = unsent(&mut self.in_flight, &mut self.queue);
        let mut batches: Vec<_> = unsent.filter(|(_, batch)| batch.left.is_none()).collect();
        let mut room = handover::MAX_BYTES;
        let parcel = |(_, batch): &mut (bool, &mut Batch)| {
            let load = batch.load();
            // What will not fit is not packed either.
            let body = (load.bytes <= room).then(|| batch.body(&self.encoder));
            room = room.saturating_sub(body.as_ref().map_or(0, |body| body.len()));
            Parcel { load, body }
        };
        let parcels: Vec<_> = batches.iter_mut().map(parcel).collect();
        let marks = self.address.leave(&parcels, shared, now);
        for ((under_way, batch), mark) in batches.into_iter().zip(marks) {
            batch.left = mark;
            match (mark, under_way) {
                (Some(_), true) => stop_being_under_way(metrics, batch.load()),
                (Some(_), false) => stop_waiting(metrics, batch.load()),
                (None, _) => {}
            }
        }
    }

    /// Takes back what was left, where the host lets this instance go on. What others have taken
    /// meanwhile is theirs.
    pub fn wake(&mut self, shared: &dyn Shared, now: MonoNanos, metrics: &mut Metrics) {
        let unsent = unsent(&mut self.in_flight, &mut self.queue);
        let batches: Vec<_> = unsent.filter(|(_, batch)| batch.left.is_some()).collect();
        let marks: Vec<_> = batches.iter().filter_map(|(_, batch)| batch.left).collect();
        if marks.is_empty() {
            return;
        }
        let back = handover::take_back(&marks, shared, now);
        for (under_way, batch) in batches {
            if !batch.left.is_some_and(|mark| back.contains(&mark)) {
                continue;
            }
            batch.left = None;
            if under_way {
                count(metrics, Metric::InFlightSpans, batch.load().spans);
            } else {
                wait(metrics, batch.load());
            }
        }
        self.queue.forget(|batch| batch.left.is_some());
        let is_gone = |attempt: &mut Attempt| attempt.batch.left.is_some();
        for attempt in self.in_flight.extract_if(.., is_gone) {
            self.queue.release(attempt.batch.load());
            // The one that tries whether a collector is back may be among them.
            self.collectors.forget();
        }
    }

    /// Takes over what instances have left that send to the same place and did not wake again,
    /// and counts what is lost.
    pub fn take_over(&mut self, shared: &dyn Shared, now: MonoNanos, metrics: &mut Metrics) {
        let Claimed { parcels, lost } =
            handover::claim(Some(&self.address), self.queue.room(), shared, now);
        for Parcel { load, body } in parcels {
            let Some(body) = body else { continue };
            wait(metrics, load);
            count(metrics, Metric::TakenOver, load.spans);
            self.queue.take_over(load, body);
        }
        count_lost(&lost, metrics);
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops and counts what is left: the time to drain is over.
    pub fn abandon(&mut self, metrics: &mut Metrics) {
        let waiting = self.queue.clear();
        stop_waiting(metrics, waiting);
        count(metrics, Metric::DroppedShutdown, waiting.spans);
        for attempt in self.in_flight.drain(..) {
            let load = attempt.batch.load();
            self.queue.release(load);
            stop_being_under_way(metrics, load);
            count(metrics, Metric::DroppedShutdown, load.spans);
        }
        self.collectors.forget();
    }

    /// Settles an attempt; gives what an operator should know of it.
    fn end(
        &mut self,
        attempt: Attempt,
        outcome: &Outcome<'_>,
        now: MonoNanos,
        draw: u64,
        metrics: &mut Metrics,
    ) -> Option<String> {
        let Attempt { id, sent, mut batch, to } = attempt;
        let elapsed = now.since(sent);
        if let Outcome::Answered(_) = outcome {
            let millis = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
            metrics.add(Metric::ExportMs, millis);
        }
        let load = batch.load();
        stop_being_under_way(metrics, load);
        let judgement = answer::judge(self.protocol, outcome, elapsed, self.timeout);
        if let Some(failure) = judgement.failure {
            metrics.add(failure, 1);
        }
        match judgement.verdict {
            Verdict::Accept { rejected } => {
                let rejected = rejected.min(load.spans);
                count(metrics, Metric::Exported, load.spans.saturating_sub(rejected));
                count(metrics, Metric::DroppedRejected, rejected);
                self.queue.release(load);
                self.collectors.is_there(to);
            }
            Verdict::Refuse => {
                count(metrics, Metric::DroppedRejected, load.spans);
                self.queue.release(load);
                self.collectors.is_there(to);
            }
            Verdict::Retry(asked) => {
                self.collectors.is_away(to, id, asked, now, draw);
                if now.since(batch.first_attempt.unwrap_or(sent)) >= self.retry.max_elapsed {
                    count(metrics, Metric::DroppedRetriesExhausted, load.spans);
                    self.queue.release(load);
                } else {
                    batch.failures = batch.failures.saturating_add(1);
                    // Another collector may have it at once.
                    let pause = match self.collectors.next(now) {
                        Some(_) => Duration::ZERO,
                        None => retry::pause(&self.retry, batch.failures, asked, draw),
                    };
                    batch.not_before = now.after(pause);
                    wait(metrics, load);
                    self.queue.put_back(batch);
                }
            }
        }
        judgement.trouble
    }

    fn give_up_lost(&mut self, now: MonoNanos, metrics: &mut Metrics) {
        let patience = self.timeout.saturating_add(LOST_AFTER);
        while let Some(index) =
            self.in_flight.iter().position(|attempt| now.since(attempt.sent) >= patience)
        {
            let attempt = self.in_flight.swap_remove(index);
            self.end(attempt, &Outcome::NoAnswer, now, u64::MAX, metrics);
        }
    }
}

/// All batches that nobody has taken yet, and whether each is under way.
fn unsent<'a>(
    in_flight: &'a mut [Attempt],
    queue: &'a mut Queue,
) -> impl Iterator<Item = (bool, &'a mut Batch)> {
    let under_way = in_flight.iter_mut().map(|attempt| (true, &mut attempt.batch));
    under_way.chain(queue.waiting().map(|batch| (false, batch)))
}

/// Counts what instances have left that are gone, and that nobody takes over: for those who do
/// not export themselves.
pub fn give_up_left(shared: &dyn Shared, now: MonoNanos, metrics: &mut Metrics) {
    count_lost(&handover::claim(None, Load::default(), shared, now).lost, metrics);
}

fn count_lost(loads: &[Load], metrics: &mut Metrics) {
    for load in loads {
        count(metrics, Metric::DroppedShutdown, load.spans);
    }
}

/// Counts `load` as waiting.
fn wait(metrics: &mut Metrics, load: Load) {
    count(metrics, Metric::QueueSpans, load.spans);
    count(metrics, Metric::QueueBytes, load.bytes);
}

/// Counts `load` as waiting no more.
fn stop_waiting(metrics: &mut Metrics, load: Load) {
    metrics.add(Metric::QueueSpans, signed(load.spans).saturating_neg());
    metrics.add(Metric::QueueBytes, signed(load.bytes).saturating_neg());
}

/// Counts `load` as under way no more.
fn stop_being_under_way(metrics: &mut Metrics, load: Load) {
    metrics.add(Metric::InFlightSpans, signed(load.spans).saturating_neg());
}

fn count(metrics: &mut Metrics, metric: Metric, amount: usize) {
    metrics.add(metric, signed(amount));
}

fn signed(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{Answer, otlp};
    use super::*;
    use crate::config;
    use crate::model::{Local, MetricId, SpanId, TraceFlags, TraceId, UnixNanos};
    use crate::span::{SpanKind, Status};

    fn config() -> Export {
        Export {
            protocol: Protocol::OtlpHttp,
            collectors: vec![config::Collector {
                cluster: "collector".into(),
                authority: "collector:4318".into(),
            }],
            path: "/v1/traces".into(),
            scheme: config::Scheme::Http,
            headers: vec![("authorization".into(), "Bearer t".into())],
            timeout: Duration::from_secs(5),
            compression: config::Compression::None,
            batch: config::Batch { max_spans: 4, max_bytes: 400, interval: Duration::from_secs(1) },
            queue: config::Queue { max_spans: 40, max_bytes: 3_000 },
            retry: Retry {
                initial: Duration::from_millis(500),
                max: Duration::from_secs(8),
                max_elapsed: Duration::from_secs(60),
            },
        }
    }

    fn span(name: &str) -> Span {
        Span {
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            span_id: SpanId::from_bytes([2; 8]).unwrap(),
            parent_id: None,
            trace_state: String::new(),
            flags: TraceFlags::SAMPLED,
            name: name.into(),
            kind: SpanKind::Server,
            start: UnixNanos(1),
            end: UnixNanos(2),
            status: Status::Unset,
            attributes: vec![],
            links: vec![],
        }
    }

    fn answered(status: u16) -> Outcome<'static> {
        Outcome::Answered(Answer { status, ..Answer::default() })
    }

    /// An exporter, its clock in milliseconds, its metrics.
    struct Bench {
        exporter: Exporter,
        millis: u64,
        metrics: Metrics,
        totals: [i64; Metric::ALL.len()],
        rng: SmallRng,
    }

    impl Bench {
        fn new(seed: u64) -> Self {
            Self {
                exporter: Exporter::new(&config(), &Resource::default()),
                millis: 1,
                metrics: Metrics::default(),
                totals: [0; Metric::ALL.len()],
                rng: SmallRng::seed_from_u64(seed),
            }
        }

        fn now(&self) -> MonoNanos {
            MonoNanos(self.millis * 1_000_000)
        }

        fn push(&mut self, name: &str) {
            let now = self.now();
            self.exporter.push(&span(name), now, &mut self.metrics);
        }

        /// It is told to go, and lives.
        fn drain(&mut self) {
            let (shared, now) = (Local::default(), self.now());
            self.exporter.drain(&shared, now, &mut self.metrics);
            self.exporter.wake(&shared, now, &mut self.metrics);
        }

        fn poll(&mut self) -> Vec<ExportCall> {
            let now = self.now();
            self.exporter.poll(now, &mut self.metrics)
        }

        fn poll_ids(&mut self) -> Vec<CallId> {
            self.poll().iter().map(|call| call.id).collect()
        }

        fn end(&mut self, id: CallId, outcome: &Outcome<'_>) {
            let now = self.now();
            self.exporter.outcome(id, outcome, now, &mut self.metrics, &mut self.rng);
        }

        fn total(&mut self, metric: Metric) -> i64 {
            for update in self.metrics.take() {
                if let MetricId::Fixed(metric) = update.metric {
                    self.totals[metric as usize] += update.value;
                }
            }
            self.totals[metric as usize]
        }

        fn sum(&mut self, metrics: &[Metric]) -> i64 {
            metrics.iter().map(|metric| self.total(*metric)).sum()
        }
    }

    #[test]
    fn a_call_in_full() {
        let mut bench = Bench::new(1);
        bench.push("a");
        assert_eq!(bench.poll(), []);
        bench.millis += 1_000;
        let mut spans = Vec::new();
        otlp::encode_span(&mut spans, &span("a"));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            bench.poll(),
            [ExportCall {
                id: CallId(0),
                cluster: "collector".into(),
                headers: vec![
                    header(":authority", "collector:4318"),
                    header(":method", "POST"),
                    header(":path", "/v1/traces"),
                    header(":scheme", "http"),
                    header("content-type", "application/x-protobuf"),
                    header("user-agent", concat!("meshweft/", env!("CARGO_PKG_VERSION"))),
                    header("authorization", "Bearer t"),
                ],
                body: otlp::Envelope::new(&Resource::default()).wrap(&spans).into(),
                timeout: Duration::from_secs(5),
            }]
        );
        bench.millis += 30;
        bench.end(CallId(0), &answered(200));
        assert_eq!(bench.total(Metric::ExportMs), 30);
        assert_eq!(bench.total(Metric::Exported), 1);
        assert!(bench.exporter.is_idle());
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut bench = Bench::new(2);
        for _ in 0..12 {
            bench.push("a");
        }
        let ids = bench.poll_ids();
        assert_eq!(ids, [CallId(0), CallId(1), CallId(2)]);
        for id in ids {
            bench.end(id, &Outcome::NoAnswer);
        }
        assert_eq!(bench.poll_ids(), []);
        bench.millis += 500;
        assert_eq!(bench.poll_ids(), [CallId(3)]);
        bench.millis += 4_000;
        assert_eq!(bench.poll_ids(), [], "the probe is under way");
        bench.end(CallId(3), &answered(503));
        bench.millis += 499;
        assert_eq!(bench.poll_ids(), [], "the second pause is at least half a second");
        bench.millis += 501;
        assert_eq!(bench.poll_ids(), [CallId(4)]);
        bench.end(CallId(4), &answered(200));
        assert_eq!(bench.poll_ids(), [CallId(5), CallId(6)]);
    }

    #[test]
    fn one_batch_that_always_fails_holds_up_nobody() {
        let mut bench = Bench::new(3);
        for _ in 0..4 {
            bench.push("poison");
        }
        let poisoned = bench.poll().remove(0);
        bench.end(poisoned.id, &answered(502));
        let mut healthy = 0;
        let mut attempts = 1;
        while bench.millis < 50_000 {
            bench.millis += 250;
            for call in bench.poll() {
                if call.body == poisoned.body {
                    attempts += 1;
                    bench.end(call.id, &answered(502));
                } else {
                    healthy += 4;
                    bench.end(call.id, &answered(200));
                }
            }
            for _ in 0..4 {
                bench.push("healthy");
            }
        }
        // Ready at the end: what came last, and at most what came in one first pause.
        assert!((792..=800).contains(&(healthy + 4)), "{healthy}");
        assert!((8..=14).contains(&attempts), "{attempts}");
        assert_eq!(bench.total(Metric::DroppedQueueFull), 0);
    }

    #[test]
    fn exhausted_after_max_elapsed_since_the_first_attempt() {
        let mut bench = Bench::new(4);
        for _ in 0..4 {
            bench.push("a");
        }
        let mut attempts = 0;
        while !bench.exporter.is_idle() {
            for id in bench.poll_ids() {
                attempts += 1;
                bench.end(id, &Outcome::NotSent);
            }
            bench.millis += 10;
        }
        let seconds = bench.millis / 1_000;
        assert!((60..=68).contains(&seconds), "{seconds}");
        assert!((12..=20).contains(&attempts), "{attempts}");
        assert_eq!(bench.total(Metric::DroppedRetriesExhausted), 4);
        assert_eq!(bench.total(Metric::ExportFailuresUnreachable), attempts);
        assert_eq!(bench.total(Metric::ExportRequests), attempts);
    }

    #[test]
    fn a_refusal_ends_an_outage() {
        let mut bench = Bench::new(5);
        for _ in 0..8 {
            bench.push("a");
        }
        let ids = bench.poll_ids();
        bench.end(ids[0], &Outcome::NoAnswer);
        bench.end(ids[1], &answered(400));
        bench.push("b");
        bench.millis += 1_000;
        assert_eq!(bench.poll_ids(), [CallId(2), CallId(3)]);
        assert_eq!(bench.total(Metric::DroppedRejected), 4);
        assert_eq!(bench.total(Metric::ExportFailuresStatus4xx), 1);
    }

    #[test]
    fn a_lost_attempt_is_given_up() {
        let mut bench = Bench::new(6);
        bench.push("a");
        bench.drain();
        let id = bench.poll_ids()[0];
        bench.millis += 34_999;
        assert_eq!(bench.poll_ids(), []);
        assert_eq!(bench.total(Metric::InFlightSpans), 1);
        bench.millis += 1;
        assert_eq!(bench.poll_ids(), []);
        assert_eq!(bench.total(Metric::InFlightSpans), 0);
        assert_eq!(bench.total(Metric::ExportFailuresTimeout), 1);
        bench.end(id, &answered(200));
        assert_eq!(bench.total(Metric::Exported), 0, "its end comes too late");
        bench.millis += 500;
        assert_eq!(bench.poll_ids(), [CallId(1)]);
    }

    #[test]
    fn requests_under_way_are_bounded() {
        let mut bench = Bench::new(7);
        for _ in 0..40 {
            bench.push("a");
        }
        let ids = bench.poll_ids();
        assert_eq!(ids.len(), MAX_IN_FLIGHT);
        assert_eq!(bench.poll_ids(), []);
        bench.end(ids[3], &answered(204));
        assert_eq!(bench.poll_ids().len(), 1);
    }

    #[test]
    fn nothing_gets_lost_on_a_random_walk() {
        const WAITING: &[Metric] = &[Metric::QueueSpans, Metric::InFlightSpans];
        const ENDED: &[Metric] = &[
            Metric::Exported,
            Metric::DroppedQueueFull,
            Metric::DroppedRejected,
            Metric::DroppedRetriesExhausted,
            Metric::DroppedEncode,
            Metric::DroppedShutdown,
        ];
        for seed in 0..40 {
            let mut bench = Bench::new(seed);
            let mut pushed = 0;
            let mut open: Vec<CallId> = Vec::new();
            // Some collectors are better than others.
            let health = bench.rng.random_range(0..10);
            for step in 0..2_000 {
                match bench.rng.random_range(0..100) {
                    0..50 => {
                        let length = [1, 10, 300, 1_000][bench.rng.random_range(0..4_usize)];
                        bench.push(&"n".repeat(length));
                        pushed += 1;
                    }
                    50..65 => {
                        let ids = bench.poll_ids();
                        open.extend(ids);
                        assert!(bench.exporter.in_flight.len() <= MAX_IN_FLIGHT);
                    }
                    65..80 if !open.is_empty() => {
                        let index = bench.rng.random_range(0..open.len());
                        let id = open.swap_remove(index);
                        let retry_after: Option<&[u8]> = bench.rng.random_bool(0.1).then_some(b"3");
                        let outcome = if bench.rng.random_range(0..10) < health {
                            Outcome::Answered(Answer {
                                status: 200,
                                body: b"\x0a\x02\x08\x02",
                                ..Answer::default()
                            })
                        } else {
                            match bench.rng.random_range(0..5) {
                                0 => Outcome::NoAnswer,
                                1 => Outcome::NotSent,
                                2 => answered(400),
                                _ => Outcome::Answered(Answer {
                                    status: 503,
                                    retry_after,
                                    body: b"\xff",
                                    ..Answer::default()
                                }),
                            }
                        };
                        bench.end(id, &outcome);
                        bench.end(id, &outcome);
                    }
                    98 if step > 1_500 => bench.drain(),
                    99 if bench.rng.random_bool(0.05) => {
                        bench.exporter.abandon(&mut bench.metrics);
                        assert!(bench.exporter.is_idle());
                    }
                    _ => bench.millis += bench.rng.random_range(1..2_000),
                }
                let (waiting, ended) = (bench.sum(WAITING), bench.sum(ENDED));
                assert_eq!(pushed, waiting + ended, "seed {seed} step {step}");
                assert!(waiting <= 40);
                assert!((0..=3_000).contains(&bench.total(Metric::QueueBytes)));
                assert_eq!(bench.exporter.is_idle(), waiting == 0);
            }
            bench.exporter.abandon(&mut bench.metrics);
            assert_eq!(pushed, bench.sum(ENDED));
            for gauge in [Metric::QueueSpans, Metric::QueueBytes, Metric::InFlightSpans] {
                assert_eq!(bench.total(gauge), 0);
            }
        }
    }
}
