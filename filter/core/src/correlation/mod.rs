//! Services that forward no context: what came in is remembered under a header that the
//! application does forward, and looked up when it makes a call.
//!
//! A request and the calls that it causes may be served by different workers, and their listeners
//! may have instances of their own. So all of it stands in shared data (`Slots`). A remembered
//! request costs one look and one write there, a looked-up one one look. Its end costs nothing:
//! an entry is written to live somewhat longer than a short request needs, and ticks renew those
//! of requests that are still open.

pub mod infer;
mod key;
mod record;

use core::time::Duration;
use std::collections::BTreeMap;

use crate::config;
use crate::model::slots::{SlotId, Slots, Written};
use crate::model::{Headers, Metric, Metrics, MonoNanos, Shared};
use crate::propagation::{RemoteContext, SpanContext};
use key::key;
pub use key::{NoKey, key_value};
use record::{MAX_PAYLOAD, MAX_STATE, Record, Records};

/// How much longer than `linger` an entry is written to live. Ticks, a second apart, renew it
/// when half of that is over, so that a late one does no harm.
const AHEAD: Duration = Duration::from_secs(3);
/// Half of it.
const RENEWED: Duration = Duration::from_millis(1500);
/// So many calls of a worker without a context, and none with a key that is known, mean that the
/// application does not forward it.
const TELLING: u32 = 100;

/// How a call was joined to what came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// Not at all: requests of several traces had the same key, or might have made the call.
    Ambiguous,
    /// To the request that was most likely by delays.
    Best,
    /// By a header that it has in common with them.
    Header,
    /// To the only request that was open.
    Single,
}

impl How {
    /// As the attribute `meshweft.correlation` says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Best => "best",
            Self::Header => "header",
            Self::Single => "single",
        }
    }
}

/// The requests that may have caused a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// What they are worth.
    pub how: How,
    /// The newest first; one at least, eight at most. Of one trace, unless they are ambiguous.
    pub candidates: Vec<RemoteContext>,
    /// Whether there are more.
    pub more: bool,
}

impl Found {
    /// How likely the newest is the one, knowing nothing else.
    #[must_use]
    pub fn confidence(&self) -> f64 {
        let known = u32::try_from(self.candidates.len()).unwrap_or(u32::MAX);
        1.0 / f64::from(known.saturating_add(u32::from(self.more)).max(1))
    }
}

/// The keys of a request, one at least.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keys(Vec<SlotId>);

/// An open request that is remembered; see [`Correlation::close`].
#[derive(Debug, Eq, PartialEq)]
pub struct Ticket(u64);

/// What one instance on one worker remembers and looks up.
#[derive(Debug)]
pub struct Correlation {
    headers: Vec<String>,
    linger: Duration,
    slots: Slots,
    /// Open requests of this worker, by their tickets.
    open: BTreeMap<u64, Open>,
    /// How many of them at most are renewed.
    most: usize,
    tickets: u64,
    forwards: Forwards,
}

#[derive(Debug)]
struct Open {
    keys: Keys,
    record: Record,
}

/// Whether the application forwards a key, or a context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Forwards {
    /// Not so far, for so many calls.
    NotYet(u32),
    /// It never has, and the metric says so.
    Never,
    /// It has.
    Yes,
}

impl Correlation {
    /// `None` where no header is to be looked at.
    #[must_use]
    pub fn new(config: &config::Correlation) -> Option<Self> {
        let longest = config.linger.saturating_add(AHEAD);
        (!config.headers.is_empty()).then(|| Self {
            headers: config.headers.clone(),
            linger: config.linger,
            slots: Slots::new("correlation", config.capacity, longest, MAX_PAYLOAD),
            open: BTreeMap::new(),
            most: config.capacity,
            tickets: 0,
            forwards: Forwards::NotYet(0),
        })
    }

    /// What a request with these headers can be joined by.
    #[must_use]
    pub fn keys(&self, headers: &Headers) -> Option<Keys> {
        let keys: Vec<_> = self.headers.iter().filter_map(|name| key(name, headers)).collect();
        (!keys.is_empty()).then_some(Keys(keys))
    }

    /// Remembers a request that has come in, and what goes on of it, under each of its keys.
    pub fn remember(
        &mut self,
        keys: Keys,
        context: &SpanContext,
        shared: &dyn Shared,
        metrics: &mut Metrics,
    ) -> Option<Ticket> {
        let now = shared.now();
        let record = Record {
            since: now,
            until: now.after(self.linger).after(AHEAD),
            trace_id: context.trace_id,
            span_id: context.span_id,
            flags: context.flags,
            debug: context.debug,
            state: context.state.within(MAX_STATE),
        };
        for key in &keys.0 {
            self.write(*key, &record, now, shared, metrics);
        }
        metrics.add(Metric::CorrelationRemembered, 1);
        if self.open.len() >= self.most {
            // It is remembered for as long as it was written for.
            metrics.add(Metric::CorrelationEvicted, 1);
            return None;
        }
        self.tickets = self.tickets.wrapping_add(1);
        self.open.insert(self.tickets, Open { keys, record });
        Some(Ticket(self.tickets))
    }

    /// A request that was remembered is over.
    pub fn close(&mut self, ticket: &Ticket) {
        self.open.remove(&ticket.0);
    }

    /// The requests that may have caused a call that came without a context.
    pub fn look_up(
        &mut self,
        keys: Option<&Keys>,
        shared: &dyn Shared,
        metrics: &mut Metrics,
    ) -> Option<Found> {
        let mut ambiguous = None;
        for key in keys.map_or(&[][..], |keys| &keys.0) {
            let Some(found) = self.find(*key, shared) else { continue };
            match found.how {
                How::Ambiguous => ambiguous = ambiguous.or(Some(found)),
                How::Best | How::Header | How::Single => {
                    metrics.add(Metric::ContextCorrelated, 1);
                    self.forwarded(metrics);
                    return Some(found);
                }
            }
        }
        if ambiguous.is_some() {
            metrics.add(Metric::ContextAmbiguous, 1);
            self.forwarded(metrics);
        } else {
            metrics.add(Metric::CorrelationUnmatched, 1);
            self.forwarded_nothing(metrics);
        }
        ambiguous
    }

    /// A call has come with something that the application forwards.
    pub fn forwarded(&mut self, metrics: &mut Metrics) {
        if core::mem::replace(&mut self.forwards, Forwards::Yes) == Forwards::Never {
            metrics.add(Metric::CorrelationNeverForwarded, -1);
        }
    }

    /// Renews what is remembered of requests that are open for long.
    pub fn on_tick(&mut self, now: MonoNanos, shared: &dyn Shared, metrics: &mut Metrics) {
        let soon = now.after(self.linger).after(RENEWED);
        let mut open = core::mem::take(&mut self.open);
        for Open { keys, record } in open.values_mut() {
            if record.until <= soon {
                record.until = now.after(self.linger).after(AHEAD);
                keys.0.iter().for_each(|key| self.write(*key, record, now, shared, metrics));
            }
        }
        self.open = open;
    }

    /// The instance goes; so does what it says of the application.
    pub fn on_shutdown(&mut self, metrics: &mut Metrics) {
        self.forwarded(metrics);
    }

    fn forwarded_nothing(&mut self, metrics: &mut Metrics) {
        let Forwards::NotYet(calls) = self.forwards else { return };
        let calls = calls.saturating_add(1);
        self.forwards = if calls < TELLING {
            Forwards::NotYet(calls)
        } else {
            metrics.add(Metric::CorrelationNeverForwarded, 1);
            Forwards::Never
        };
    }

    fn write(
        &self,
        key: SlotId,
        record: &Record,
        now: MonoNanos,
        shared: &dyn Shared,
        metrics: &mut Metrics,
    ) {
        let written = self.slots.update(shared, key, now, |standing| {
            let mut records = Records::read(standing.unwrap_or_default(), now);
            records.put(record.clone());
            Some(records.write())
        });
        match written {
            Written::Lost | Written::Stored { evicted: true } => {
                metrics.add(Metric::CorrelationEvicted, 1);
            }
            Written::Stored { evicted: false } | Written::Unchanged => {}
        }
    }

    fn find(&self, key: SlotId, shared: &dyn Shared) -> Option<Found> {
        let now = shared.now();
        let records = Records::read(&self.slots.get(shared, key, now)?, now);
        let more = records.crowded > now;
        let how = if records.is_of_one_trace() && !more { How::Header } else { How::Ambiguous };
        let candidates: Vec<_> = records.list.into_iter().map(Record::into_context).collect();
        (!candidates.is_empty()).then_some(Found { how, candidates, more })
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;
    use crate::model::shared::fake::Store;
    use crate::model::{MetricId, SpanId, TraceFlags, TraceId};
    use crate::propagation::{ParentDecision, TraceState};

    /// One worker of a proxy.
    struct Worker<'a> {
        store: &'a Store,
        correlation: Correlation,
        metrics: Metrics,
    }

    impl<'a> Worker<'a> {
        fn new(store: &'a Store) -> Self {
            Self::with(store, "{}")
        }

        fn with(store: &'a Store, json: &str) -> Self {
            let json = format!(r#"{{"correlation": {json}}}"#);
            let config = Config::parse(json.as_bytes(), &|_| None).unwrap().correlation;
            let correlation = Correlation::new(&config).unwrap();
            Self { store, correlation, metrics: Metrics::default() }
        }

        /// A request comes from outside and goes on as `span` of `trace`.
        fn inbound(&mut self, headers: &[(&str, &str)], trace: u8, span: u8) -> Option<Ticket> {
            let keys = self.correlation.keys(&headers.iter().copied().collect())?;
            self.correlation.remember(keys, &context(trace, span), self.store, &mut self.metrics)
        }

        /// The workload makes a call; gives the traces and spans that may have caused it.
        fn outbound(&mut self, headers: &[(&str, &str)]) -> Option<(How, Vec<(u8, u8)>)> {
            let found = self.found(headers)?;
            let ids = |context: &RemoteContext| {
                (context.trace_id.to_bytes()[0], context.parent_id.unwrap().to_bytes()[0])
            };
            Some((found.how, found.candidates.iter().map(ids).collect()))
        }

        fn found(&mut self, headers: &[(&str, &str)]) -> Option<Found> {
            let keys = self.correlation.keys(&headers.iter().copied().collect());
            self.correlation.look_up(keys.as_ref(), self.store, &mut self.metrics)
        }

        fn tick(&mut self) {
            self.correlation.on_tick(self.store.now(), self.store, &mut self.metrics);
        }

        fn counted(&mut self) -> Vec<(&'static str, i64)> {
            let updates = self.metrics.take().into_iter();
            updates
                .map(|update| match update.metric {
                    MetricId::Fixed(metric) => {
                        let name = metric.name().strip_prefix("meshweft_").unwrap();
                        (name.strip_prefix("correlation_").unwrap_or(name), update.value)
                    }
                    other => panic!("{other:?}"),
                })
                .collect()
        }
    }

    fn context(trace: u8, span: u8) -> SpanContext {
        SpanContext {
            trace_id: TraceId::from_bytes([trace; 16]).unwrap(),
            span_id: SpanId::from_bytes([span; 8]).unwrap(),
            flags: TraceFlags::SAMPLED.with(TraceFlags::RANDOM),
            debug: false,
            state: TraceState::parse([&b"ot=th:0,a=1"[..]]).unwrap(),
        }
    }

    fn at(store: &Store, millis: u64) {
        store.local.clock.set(MonoNanos(millis * 1_000_000));
    }

    fn id(value: &str) -> [(&'static str, &str); 1] {
        [("x-request-id", value)]
    }

    fn joined(ids: &[(u8, u8)]) -> Option<(How, Vec<(u8, u8)>)> {
        Some((How::Header, ids.to_vec()))
    }

    fn ambiguous(ids: &[(u8, u8)]) -> Option<(How, Vec<(u8, u8)>)> {
        Some((How::Ambiguous, ids.to_vec()))
    }

    #[test]
    fn a_call_is_joined_on_whichever_worker_it_is_served() {
        let store = Store::default();
        let (mut one, mut two) = (Worker::new(&store), Worker::new(&store));
        let _open = one.inbound(&id("a"), 1, 11);
        let _other = two.inbound(&id("b"), 2, 22);
        for worker in [&mut one, &mut two] {
            assert_eq!(worker.outbound(&id("a")), joined(&[(1, 11)]));
            assert_eq!(worker.outbound(&id("b")), joined(&[(2, 22)]));
            assert_eq!(worker.outbound(&id("c")), None);
            assert_eq!(worker.outbound(&[]), None);
            assert_eq!(
                worker.counted(),
                [("context_correlated", 2), ("remembered", 1), ("unmatched", 2)]
            );
        }
    }

    #[test]
    fn the_context_is_the_one_that_went_on() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let _open = worker.inbound(&id("a"), 1, 11);
        let found = worker.found(&id("a")).unwrap();
        assert_eq!((found.confidence(), found.more), (1.0, false));
        assert_eq!(
            found.candidates,
            [RemoteContext {
                trace_id: TraceId::from_bytes([1; 16]).unwrap(),
                parent_id: SpanId::from_bytes([11; 8]),
                decision: ParentDecision::Sample,
                random: true,
                state: TraceState::parse([&b"ot=th:0,a=1"[..]]).unwrap(),
            }]
        );
    }

    #[test]
    fn a_look_costs_one_read_and_a_memory_one_more_write() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let cost = |worker: &mut Worker<'_>, what: &dyn Fn(&mut Worker<'_>)| {
            let before = (store.gets.get(), store.sets.get());
            what(worker);
            (store.gets.get() - before.0, store.sets.get() - before.1)
        };
        let open = worker.inbound(&id("x"), 9, 9).unwrap();
        assert_eq!(cost(&mut worker, &|worker| _ = worker.inbound(&id("a"), 1, 11)), (1, 1));
        assert_eq!(cost(&mut worker, &|worker| _ = worker.outbound(&id("a"))), (1, 0));
        assert_eq!(cost(&mut worker, &|worker| _ = worker.outbound(&[])), (0, 0));
        assert_eq!(cost(&mut worker, &|worker| _ = worker.inbound(&[], 1, 11)), (0, 0));
        assert_eq!(cost(&mut worker, &|worker| worker.correlation.close(&open)), (0, 0));
        assert_eq!(cost(&mut worker, &|worker| worker.tick()), (0, 0));
    }

    #[test]
    fn a_request_is_remembered_for_a_while_after_its_end() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let ticket = worker.inbound(&id("a"), 1, 11).unwrap();
        worker.correlation.close(&ticket);
        for millis in (0..8000).step_by(1000) {
            at(&store, millis);
            worker.tick();
            let found = if millis < 4000 { joined(&[(1, 11)]) } else { None };
            assert_eq!(worker.outbound(&id("a")), found, "{millis}");
        }
    }

    /// Ticks may come late; they renew what is open however long.
    #[test]
    fn a_request_that_is_open_for_long_is_not_forgotten() {
        for (linger, period) in [("1s", 1000), ("0ms", 1000), ("1s", 2400), ("1m", 2400)] {
            let store = Store::default();
            let json = format!(r#"{{"linger": "{linger}"}}"#);
            let mut worker = Worker::with(&store, &json);
            let ticket = worker.inbound(&id("a"), 1, 11).unwrap();
            let end = 100 * period;
            for millis in (0..=end).step_by(100) {
                at(&store, millis);
                if millis % period == 0 {
                    worker.tick();
                }
                assert_eq!(worker.outbound(&id("a")), joined(&[(1, 11)]), "{linger} {millis}");
            }
            worker.correlation.close(&ticket);
            let linger = if linger == "0ms" { 0 } else { 1000 };
            at(&store, end + linger);
            worker.tick();
            assert_eq!(worker.outbound(&id("a")), joined(&[(1, 11)]), "{linger}");
        }
    }

    #[test]
    fn one_that_had_to_go_comes_back_while_it_is_open() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let _open = worker.inbound(&id("a"), 1, 11);
        for key in store.keys() {
            store.put(&key, b"a stranger's");
        }
        assert_eq!(worker.outbound(&id("a")), None);
        at(&store, 1500);
        worker.tick();
        assert_eq!(worker.outbound(&id("a")), joined(&[(1, 11)]));
    }

    #[test]
    fn requests_of_one_trace_go_on_under_the_newest() {
        let store = Store::default();
        let (mut one, mut two) = (Worker::new(&store), Worker::new(&store));
        let _first = one.inbound(&id("a"), 1, 11);
        at(&store, 1);
        let _second = two.inbound(&id("a"), 1, 12);
        let found = one.found(&id("a")).unwrap();
        assert_eq!((found.how, found.confidence(), found.more), (How::Header, 0.5, false));
        assert_eq!(one.outbound(&id("a")), joined(&[(1, 12), (1, 11)]));
        assert_eq!(two.outbound(&id("a")), joined(&[(1, 12), (1, 11)]));
    }

    #[test]
    fn requests_of_several_traces_are_told_and_not_guessed() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let ticket = worker.inbound(&id("a"), 1, 11).unwrap();
        at(&store, 1);
        let _second = worker.inbound(&id("a"), 2, 22);
        assert_eq!(worker.outbound(&id("a")), ambiguous(&[(2, 22), (1, 11)]));
        assert_eq!(worker.found(&id("a")).unwrap().confidence(), 0.5);
        // The first is over: its late calls are still possible, and then not any more.
        worker.correlation.close(&ticket);
        at(&store, 2000);
        worker.tick();
        assert_eq!(worker.outbound(&id("a")), ambiguous(&[(2, 22), (1, 11)]));
        at(&store, 4000);
        assert_eq!(worker.outbound(&id("a")), joined(&[(2, 22)]));
        assert_eq!(
            worker.counted(),
            [("context_correlated", 1), ("context_ambiguous", 3), ("remembered", 2)]
        );
    }

    #[test]
    fn a_constant_is_ambiguous_however_many_have_it() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        for trace in 1..=20 {
            at(&store, trace.into());
            let _open = worker.inbound(&id("a"), trace, trace);
        }
        let newest: Vec<_> = (13..=20).rev().map(|trace| (trace, trace)).collect();
        assert_eq!(worker.outbound(&id("a")), ambiguous(&newest));
        let found = worker.found(&id("a")).unwrap();
        assert!(found.more);
        assert_eq!(found.confidence(), 1.0 / 9.0);
        // They are over but for one; that there were more is known for as long as they were.
        for trace in 1..=19 {
            worker.correlation.close(&Ticket(trace));
        }
        at(&store, 2500);
        worker.tick();
        at(&store, 4012);
        assert_eq!(worker.outbound(&id("a")).map(|(how, _)| how), Some(How::Ambiguous));
        at(&store, 4020);
        worker.tick();
        assert_eq!(worker.outbound(&id("a")), joined(&[(20, 20)]));
    }

    #[test]
    fn the_first_header_by_which_a_call_can_be_joined_counts() {
        let store = Store::default();
        let mut worker = Worker::with(&store, r#"{"headers": ["x-request-id", "x-order"]}"#);
        let both =
            |id: &'static str, order: &'static str| [("x-request-id", id), ("x-order", order)];
        let _first = worker.inbound(&both("a", "o"), 1, 11);
        at(&store, 1);
        let _second = worker.inbound(&both("b", "o"), 2, 22);
        let _third = worker.inbound(&[("x-order", "p")], 3, 33);
        assert_eq!(worker.outbound(&both("a", "o")), joined(&[(1, 11)]));
        assert_eq!(worker.outbound(&both("new", "p")), joined(&[(3, 33)]));
        assert_eq!(worker.outbound(&both("a", "p")), joined(&[(1, 11)]));
        assert_eq!(worker.outbound(&both("new", "o")), ambiguous(&[(2, 22), (1, 11)]));
        // One header's value is no value of the other.
        assert_eq!(worker.outbound(&both("o", "a")), None);
    }

    #[test]
    fn a_full_store_loses_the_oldest_and_counts_them() {
        const SLOTS: i64 = 64;
        let store = Store::default();
        let mut worker = Worker::with(&store, r#"{"capacity": 64}"#);
        let names: Vec<_> = (0..1000).map(|number| format!("key {number}")).collect();
        for (millis, name) in (0..).zip(&names) {
            at(&store, millis);
            if let Some(ticket) = worker.inbound(&id(name), 1, 11) {
                worker.correlation.close(&ticket);
            }
        }
        let known = names.iter().rev().take_while(|name| worker.outbound(&id(name)).is_some());
        // Ids fill the buckets unevenly.
        let known = known.count();
        assert!((16..=64).contains(&known), "{known}");
        let all = names.iter().filter(|name| worker.outbound(&id(name)).is_some()).count();
        assert_eq!(all, 64);
        let counted = worker.counted();
        assert!(counted.contains(&("evicted", 1000 - SLOTS)), "{counted:?}");
        let bytes: usize = store.keys().iter().map(|key| store.value(key).unwrap().len()).sum();
        assert_eq!((store.keys().len(), bytes), (8, 64 * (34 + 8 + 43 + 11)));
    }

    #[test]
    fn requests_beyond_the_capacity_are_remembered_but_not_renewed() {
        let store = Store::default();
        let mut worker = Worker::with(&store, r#"{"capacity": 64}"#);
        let tickets = (0..100).filter_map(|_| worker.inbound(&id("a"), 1, 11)).count();
        assert_eq!(tickets, 64);
        assert_eq!(worker.counted(), [("remembered", 100), ("evicted", 36)]);
    }

    #[test]
    fn nothing_is_joined_where_the_host_fails() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        store.broken.set(true);
        let ticket = worker.inbound(&id("a"), 1, 11).unwrap();
        assert_eq!(worker.outbound(&id("a")), None);
        worker.correlation.close(&ticket);
        assert_eq!(worker.counted(), [("remembered", 1), ("unmatched", 1), ("evicted", 1)]);
    }

    #[test]
    fn a_header_that_is_never_forwarded_is_told_until_it_is() {
        let store = Store::default();
        let mut worker = Worker::new(&store);
        let _open = worker.inbound(&id("a"), 1, 11);
        let gauge = |worker: &mut Worker<'_>| {
            let counted = worker.counted().into_iter();
            counted.filter(|(name, _)| *name == "never_forwarded").map(|(_, by)| by).sum::<i64>()
        };
        for _ in 1..TELLING {
            worker.outbound(&id("b"));
        }
        assert_eq!(gauge(&mut worker), 0);
        for _ in 0..2 * TELLING {
            worker.outbound(&[]);
        }
        assert_eq!(gauge(&mut worker), 1);
        worker.outbound(&id("a"));
        assert_eq!(gauge(&mut worker), -1);
        for _ in 0..2 * TELLING {
            worker.outbound(&[]);
        }
        assert_eq!(gauge(&mut worker), 0);

        let mut worker = Worker::new(&store);
        for _ in 0..TELLING {
            worker.outbound(&[]);
        }
        // Gauges are all workers' together: one that goes takes its part with it.
        worker.correlation.on_shutdown(&mut worker.metrics);
        assert_eq!(gauge(&mut worker), 0);
        // A context is something that is forwarded.
        let mut worker = Worker::new(&store);
        worker.correlation.forwarded(&mut worker.metrics);
        for _ in 0..TELLING {
            worker.outbound(&[]);
        }
        assert_eq!(gauge(&mut worker), 0);
    }
}
