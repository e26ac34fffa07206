//! Stories of delivery in virtual time: a source of spans, an exporter that is polled at ticks,
//! and a collector that decodes what it gets and answers as each story says.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::time::Duration;
use std::collections::HashMap;
use std::rc::Rc;

use meshweft_core::config::{
    Batch, Collector, Compression, Export, Protocol, Queue, Retry, Scheme,
};
use meshweft_core::export::{Answer, CallId, ExportCall, Exporter, Outcome};
use meshweft_core::model::{
    Local, Metric, MetricId, Metrics, MonoNanos, SpanId, TraceFlags, TraceId, UnixNanos,
};
use meshweft_core::span::{Resource, Span, SpanKind, Status};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Milliseconds between two ticks.
const TICK: u64 = 100;
/// Milliseconds from a request to its answer.
const LATENCY: u64 = 30;

/// What the collector does with a request.
#[derive(Clone)]
enum Reply {
    Answer { status: u16, retry_after: Option<&'static str>, rejected: u8 },
    NoAnswer { after: u64 },
    NotSent,
}

const OK: Reply = Reply::Answer { status: 200, retry_after: None, rejected: 0 };
const UNAVAILABLE: Reply = Reply::Answer { status: 503, retry_after: None, rejected: 0 };
const RESET: Reply = Reply::NoAnswer { after: LATENCY };

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(bytes = "vec", repeated, tag = "2")]
    spans: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct SpanIdOnly {
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

fn collector(cluster: &str) -> Collector {
    Collector { cluster: cluster.into(), authority: cluster.into() }
}

struct Story {
    config: Export,
    exporter: Exporter,
    metrics: Metrics,
    totals: [i64; Metric::ALL.len()],
    rng: SmallRng,
    /// Milliseconds.
    now: u64,
    pushed: u64,
    under_way: Vec<(u64, CallId, Reply)>,
    /// When each request was sent, and its body.
    requests: Vec<(u64, Rc<[u8]>)>,
    /// How many requests went to each collector.
    asked: HashMap<String, u64>,
    /// How often each span was stored.
    stored: HashMap<u64, u32>,
}

impl Story {
    fn new(change: impl FnOnce(&mut Export)) -> Self {
        let mut config = Export {
            protocol: Protocol::OtlpHttp,
            collectors: vec![collector("collector")],
            path: "/v1/traces".into(),
            scheme: Scheme::Http,
            headers: vec![],
            timeout: Duration::from_secs(5),
            compression: Compression::None,
            batch: Batch { max_spans: 512, max_bytes: 1 << 20, interval: Duration::from_secs(1) },
            queue: Queue { max_spans: 8_192, max_bytes: 16 << 20 },
            retry: Retry {
                initial: Duration::from_millis(500),
                max: Duration::from_secs(30),
                max_elapsed: Duration::from_secs(300),
            },
        };
        change(&mut config);
        Self {
            exporter: Exporter::new(&config, &Resource::default()),
            config,
            metrics: Metrics::default(),
            totals: [0; Metric::ALL.len()],
            rng: SmallRng::seed_from_u64(7),
            now: 1,
            pushed: 0,
            under_way: vec![],
            requests: vec![],
            asked: HashMap::new(),
            stored: HashMap::new(),
        }
    }

    fn time(&self) -> MonoNanos {
        MonoNanos(self.now * 1_000_000)
    }

    fn push(&mut self) {
        self.pushed += 1;
        let span = Span {
            trace_id: TraceId::from_bytes([9; 16]).unwrap(),
            span_id: SpanId::from_bytes(self.pushed.to_be_bytes()).unwrap(),
            parent_id: None,
            trace_state: String::new(),
            flags: TraceFlags::SAMPLED,
            name: "GET".into(),
            kind: SpanKind::Server,
            start: UnixNanos(1),
            end: UnixNanos(2),
            status: Status::Unset,
            attributes: vec![],
            links: vec![],
        };
        let now = self.time();
        self.exporter.push(&span, now, &mut self.metrics);
    }

    /// The exporter is told to go, and lives.
    fn drain(&mut self) {
        let (shared, now) = (Local::default(), self.time());
        self.exporter.drain(&shared, now, &mut self.metrics);
        self.exporter.wake(&shared, now, &mut self.metrics);
    }

    /// Goes on for `millis`, with `per_tick` new spans before each tick.
    fn run(&mut self, millis: u64, per_tick: u64, collector: impl Fn(u64) -> Reply) {
        self.run_with(millis, per_tick, |_, now| collector(now));
    }

    /// The same where it matters which collector is asked.
    fn run_with(&mut self, millis: u64, per_tick: u64, collector: impl Fn(&str, u64) -> Reply) {
        let end = self.now + millis;
        while self.now < end {
            for _ in 0..per_tick {
                self.push();
            }
            let now = self.time();
            for call in self.exporter.poll(now, &mut self.metrics) {
                let reply = collector(&call.cluster, self.now);
                *self.asked.entry(call.cluster.clone()).or_default() += 1;
                self.receive(call, reply);
            }
            self.now += TICK;
            self.answer();
            self.check();
        }
    }

    fn receive(&mut self, call: ExportCall, reply: Reply) {
        let request = Request::decode(&call.body[..]).unwrap();
        assert_eq!(request.resource_spans.len(), 1);
        assert_eq!(request.resource_spans[0].scope_spans.len(), 1);
        let spans = &request.resource_spans[0].scope_spans[0].spans;
        let bytes: usize =
            spans.iter().map(|span| 1 + prost::length_delimiter_len(span.len()) + span.len()).sum();
        assert!((1..=self.config.batch.max_spans).contains(&spans.len()), "{}", spans.len());
        assert!(bytes <= self.config.batch.max_bytes, "{bytes}");
        let due = match reply {
            Reply::Answer { status, rejected, .. } => {
                if status == 200 {
                    for span in &spans[usize::from(rejected)..] {
                        let id = SpanIdOnly::decode(&span[..]).unwrap().span_id;
                        let id = u64::from_be_bytes(id.try_into().unwrap());
                        *self.stored.entry(id).or_default() += 1;
                    }
                }
                LATENCY
            }
            Reply::NoAnswer { after } => after,
            Reply::NotSent => 0,
        };
        self.requests.push((self.now, call.body));
        self.under_way.push((self.now + due, call.id, reply));
    }

    fn answer(&mut self) {
        let (due, rest) = core::mem::take(&mut self.under_way)
            .into_iter()
            .partition(|(due, ..)| *due <= self.now);
        self.under_way = rest;
        let due: Vec<_> = due;
        for (at, id, reply) in due {
            let at = MonoNanos(at * 1_000_000);
            let body;
            let outcome = match reply {
                Reply::Answer { status, retry_after, rejected } => {
                    body = [0x0a, 0x02, 0x08, rejected];
                    let retry_after = retry_after.map(str::as_bytes);
                    Outcome::Answered(Answer {
                        status,
                        retry_after,
                        body: &body,
                        ..Answer::default()
                    })
                }
                Reply::NoAnswer { .. } => Outcome::NoAnswer,
                Reply::NotSent => Outcome::NotSent,
            };
            self.exporter.outcome(id, &outcome, at, &mut self.metrics, &mut self.rng);
        }
    }

    /// Every span is somewhere, and the bounds hold.
    fn check(&mut self) {
        let ended = [
            Metric::Exported,
            Metric::DroppedQueueFull,
            Metric::DroppedRejected,
            Metric::DroppedRetriesExhausted,
            Metric::DroppedEncode,
            Metric::DroppedShutdown,
        ];
        let ended: i64 = ended.iter().map(|metric| self.total(*metric)).sum();
        let held = self.total(Metric::QueueSpans) + self.total(Metric::InFlightSpans);
        assert_eq!(i64::try_from(self.pushed).unwrap(), ended + held);
        assert!(held <= i64::try_from(self.config.queue.max_spans).unwrap());
        let bytes = self.total(Metric::QueueBytes);
        assert!(bytes <= i64::try_from(self.config.queue.max_bytes).unwrap());
    }

    fn total(&mut self, metric: Metric) -> i64 {
        for update in self.metrics.take() {
            if let MetricId::Fixed(metric) = update.metric
                && metric != Metric::ExportMs
            {
                self.totals[metric as usize] += update.value;
            }
        }
        self.totals[metric as usize]
    }

    /// How many spans were stored, each of them once.
    fn stored_once(&self) -> u64 {
        assert!(self.stored.values().all(|times| *times == 1));
        self.stored.len() as u64
    }

    /// Lets the exporter finish, without new spans.
    fn settle(&mut self) {
        let end = self.now + 120_000;
        while !self.exporter.is_idle() && self.now < end {
            self.run(TICK, 0, |_| OK);
        }
        assert!(self.exporter.is_idle());
    }
}

#[test]
fn an_outage_of_a_minute_loses_nothing() {
    let silent = Reply::NoAnswer { after: 5_000 };
    // A thousand spans a second in the first way to be down, a hundred in the others.
    for (down, per_tick) in [(RESET, 100), (UNAVAILABLE, 10), (Reply::NotSent, 10), (silent, 10)] {
        let spans = 1_050 * per_tick;
        let mut story = Story::new(|config| config.queue.max_spans = 100_000);
        story.run(5_000, per_tick, |_| OK);
        story.run(60_000, per_tick, |_| down.clone());
        let probes = story.requests.len();
        assert!(probes < 40, "{probes}");
        story.run(40_000, per_tick, |_| OK);
        assert!(story.total(Metric::QueueSpans) <= 1_100, "caught up");
        story.settle();
        assert_eq!(story.pushed, spans);
        assert_eq!(story.stored_once(), spans);
        assert_eq!(story.total(Metric::Exported), spans as i64);
        assert_eq!(story.total(Metric::ExportRequests), story.requests.len() as i64);
    }
}

fn two_collectors(config: &mut Export) {
    config.collectors = vec![collector("first"), collector("second")];
}

#[test]
fn the_second_collector_has_what_the_first_cannot_take() {
    let silent = Reply::NoAnswer { after: 5_000 };
    for (down, most) in [(RESET, 60), (UNAVAILABLE, 60), (Reply::NotSent, 60), (silent, 60)] {
        let mut story = Story::new(two_collectors);
        story.run_with(5_000, 10, |_, _| OK);
        assert_eq!(story.asked.get("second"), None, "the first is there");
        let before = story.asked["first"];
        story.run_with(60_000, 10, |cluster, _| if cluster == "first" { down.clone() } else { OK });
        let probes = story.asked["first"] - before;
        assert!((2..most).contains(&probes), "{probes}");
        // What waits is the last second's, and what the first has not answered yet.
        let held = story.total(Metric::QueueSpans) + story.total(Metric::InFlightSpans);
        assert!(held <= 400, "{held}");
        assert_eq!(story.total(Metric::ExportFailovers), story.asked["second"] as i64);
        // Back after a pause: the longest is half a minute.
        story.run_with(40_000, 10, |_, _| OK);
        let (first, second) = (story.asked["first"], story.asked["second"]);
        story.run_with(5_000, 10, |_, _| OK);
        assert!(story.asked["first"] > first);
        assert_eq!(story.asked["second"], second);
        story.settle();
        assert_eq!(story.stored_once(), story.pushed);
        assert_eq!(story.total(Metric::Exported), story.pushed as i64);
    }
}

#[test]
fn all_collectors_away_lose_nothing() {
    let mut story = Story::new(two_collectors);
    // With the pause after it, which may be half a minute: less than the queue has room for.
    story.run_with(40_000, 10, |cluster, _| if cluster == "first" { RESET } else { UNAVAILABLE });
    assert!(story.requests.len() < 80, "{}", story.requests.len());
    story.run_with(40_000, 10, |cluster, _| if cluster == "first" { RESET } else { OK });
    story.settle();
    assert_eq!(story.stored_once(), story.pushed);
}

#[test]
fn what_a_collector_refuses_is_refused() {
    let refusal = Reply::Answer { status: 401, retry_after: None, rejected: 0 };
    let mut story = Story::new(two_collectors);
    story.run_with(5_000, 10, |_, _| refusal.clone());
    assert_eq!(story.asked.get("second"), None);
    assert_eq!(story.total(Metric::ExportFailovers), 0);
}

#[test]
fn a_small_queue_keeps_what_fits_and_counts_the_rest() {
    let mut story = Story::new(|config| config.queue.max_spans = 1_000);
    story.run(60_000, 100, |_| RESET);
    assert_eq!(story.total(Metric::QueueSpans) + story.total(Metric::InFlightSpans), 1_000);
    assert_eq!(story.total(Metric::DroppedQueueFull), 59_000);
    story.settle();
    assert_eq!(story.stored_once(), 1_000);
    assert!((1..=1_000).all(|id| story.stored.contains_key(&id)), "the oldest are kept");
}

#[test]
fn a_bound_in_bytes_holds_too() {
    let mut story = Story::new(|config| config.queue.max_bytes = 10_000);
    story.run(20_000, 10, |_| UNAVAILABLE);
    let dropped = story.total(Metric::DroppedQueueFull);
    assert!(dropped > 0);
    story.settle();
    assert_eq!(story.stored_once() as i64 + dropped, 2_000);
}

#[test]
fn a_flapping_collector_gets_all_of_it() {
    let mut story = Story::new(|_| ());
    // Two seconds up, one down, in three ways.
    story.run(60_000, 20, |now| match now / 1_000 % 9 {
        2 => RESET,
        5 => UNAVAILABLE,
        8 => Reply::NoAnswer { after: 5_000 },
        _ => OK,
    });
    story.settle();
    assert_eq!(story.stored_once(), 12_000);
    assert!(story.total(Metric::ExportFailuresReset) > 0);
    assert!(story.total(Metric::ExportFailuresStatus5xx) > 0);
    assert!(story.total(Metric::ExportFailuresTimeout) > 0);
}

#[test]
fn one_failure_does_not_stop_healthy_traffic() {
    let mut story = Story::new(|_| ());
    story.run(5_000, 10, |_| OK);
    let before = story.requests.len();
    while story.requests.len() == before {
        story.run(TICK, 10, |_| RESET);
    }
    let failed = story.now;
    story.run(2_000, 10, |_| OK);
    let next = story.requests.iter().find(|(at, _)| *at >= failed).unwrap().0;
    assert!(next - failed <= 600, "{}", next - failed);
    story.settle();
    assert_eq!(story.stored_once(), story.pushed);
}

#[test]
fn retry_after_is_kept_and_bounded() {
    for (asked, least, most) in
        [("7", 7_000, 7_500), ("3600", 30_000, 30_000), ("0", 250, 500), ("soon", 250, 500)]
    {
        let mut story = Story::new(|_| ());
        let throttle = Reply::Answer { status: 429, retry_after: Some(asked), rejected: 0 };
        story.run(2_000, 1, |_| throttle.clone());
        let first = story.requests[0].0 + LATENCY;
        story.run(40_000, 1, |_| OK);
        let second = story.requests[1].0;
        let pause = second - first;
        assert!((least..=most + TICK).contains(&pause), "{asked}: {pause}");
        assert!(story.total(Metric::ExportFailuresStatus4xx) >= 1, "{asked}");
        story.settle();
        assert_eq!(story.stored_once(), story.pushed);
    }
}

#[test]
fn a_retry_sends_identical_bytes() {
    let mut story = Story::new(|_| ());
    story.run(20_000, 3, |_| UNAVAILABLE);
    story.settle();
    let mut bodies: HashMap<&[u8], u32> = HashMap::new();
    let mut first_spans: HashMap<Vec<u8>, &[u8]> = HashMap::new();
    for (_, body) in &story.requests {
        *bodies.entry(body).or_default() += 1;
        let first =
            Request::decode(&body[..]).unwrap().resource_spans[0].scope_spans[0].spans[0].clone();
        assert_eq!(*first_spans.entry(first).or_insert(body), &body[..]);
    }
    assert!(bodies.values().any(|times| *times > 1));
    assert_eq!(story.stored_once(), story.pushed);
}

#[test]
fn partial_success_is_counted() {
    let mut story = Story::new(|_| ());
    story.run(10_000, 5, |_| Reply::Answer { status: 200, retry_after: None, rejected: 2 });
    story.run(2_000, 0, |_| Reply::Answer { status: 200, retry_after: None, rejected: 2 });
    assert!(story.exporter.is_idle());
    let requests = story.requests.len() as i64;
    assert_eq!(story.total(Metric::DroppedRejected), 2 * requests);
    assert_eq!(story.total(Metric::Exported), 500 - 2 * requests);
    assert_eq!(story.stored_once() as i64, 500 - 2 * requests);
}

#[test]
fn what_is_refused_is_not_sent_again() {
    for status in [400, 401, 413, 500, 501, 301, 100] {
        let mut story = Story::new(|_| ());
        story.push();
        story.run(60_000, 0, |_| Reply::Answer { status, retry_after: Some("1"), rejected: 0 });
        assert_eq!(story.requests.len(), 1, "{status}");
        assert_eq!(story.total(Metric::DroppedRejected), 1, "{status}");
        assert!(story.exporter.is_idle());
    }
}

#[test]
fn a_batch_stays_until_its_time_is_over() {
    let mut story = Story::new(|config| config.retry.max_elapsed = Duration::from_secs(60));
    story.push();
    story.run(59_000, 0, |_| RESET);
    assert_eq!(story.total(Metric::DroppedRetriesExhausted), 0);
    story.run(33_000, 0, |_| RESET);
    assert_eq!(story.total(Metric::DroppedRetriesExhausted), 1);
    assert!(story.exporter.is_idle());
}

#[test]
fn a_reload_drains_at_once() {
    let mut story = Story::new(|config| config.batch.interval = Duration::from_secs(60));
    story.run(2_000, 10, |_| OK);
    assert_eq!(story.requests, []);
    story.drain();
    story.run(2 * TICK, 0, |_| OK);
    assert!(story.exporter.is_idle());
    assert_eq!(story.stored_once(), 200);
    // A span of a request that was still open.
    story.push();
    story.run(2 * TICK, 0, |_| OK);
    assert_eq!(story.stored_once(), 201);
}

#[test]
fn a_reload_during_an_outage_drains_after_it() {
    let mut story = Story::new(|_| ());
    story.run(5_000, 10, |_| RESET);
    story.drain();
    story.run(5_000, 0, |_| RESET);
    assert!(!story.exporter.is_idle());
    story.settle();
    assert_eq!(story.stored_once(), 500);
}

#[test]
fn what_is_abandoned_is_counted() {
    let mut story = Story::new(|_| ());
    story.run(5_000, 10, |_| Reply::NoAnswer { after: 60_000 });
    assert!(story.total(Metric::InFlightSpans) > 0);
    story.drain();
    story.exporter.abandon(&mut story.metrics);
    story.check();
    assert!(story.exporter.is_idle());
    assert_eq!(story.total(Metric::DroppedShutdown), 500);
    let requests = story.requests.len();
    // Late outcomes change nothing.
    story.run(120_000, 0, |_| OK);
    assert_eq!(story.requests.len(), requests);
    assert_eq!(story.total(Metric::ExportFailuresTimeout), 0);
}

#[test]
fn small_batches_by_bytes() {
    let mut story = Story::new(|config| config.batch.max_bytes = 200);
    story.run(5_000, 10, |_| OK);
    story.settle();
    assert_eq!(story.stored_once(), 500);
    // Three spans fit into one request.
    assert!(story.requests.len() >= 167, "{}", story.requests.len());
}

#[test]
fn workers_do_not_retry_in_step() {
    let attempts = |seed| {
        let mut story = Story::new(|_| ());
        story.rng = SmallRng::seed_from_u64(seed);
        story.run(60_000, 1, |_| RESET);
        story.requests.into_iter().map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (one, other) = (attempts(1), attempts(2));
    assert_eq!(one[0], other[0]);
    let common = one.iter().filter(|at| other.contains(at)).count();
    assert!(common <= 2, "{one:?} {other:?}");
}
