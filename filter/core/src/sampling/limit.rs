//! So many per second, for all workers of a proxy together.
//!
//! # The bucket
//!
//! All workers draw on one token bucket in shared data. A bucket that holds one second's worth and
//! fills at the limit would pass eleven seconds' worth in the ten seconds after a pause, a tenth
//! too much. So ten seconds after it last held more than half a second's worth it fills a
//! little slower, by as much as the burst was over that half second:
//!
//! - a window of ten seconds that begins with more than half a second's worth passes at most what
//!   is there and ten seconds of slow filling,
//! - any other passes half a second's worth and ten seconds of filling until the bucket holds
//!   more, and from there on the same as the first kind;
//!
//! both are at most 5 % over the limit, and in the second after a burst the bucket is at most 5 %
//! under it. Below two a second one token takes the place of the 5 %.
//!
//! # Leases
//!
//! A worker takes tokens in blocks of half of what it was asked for in the last [`LEASE`], never
//! more than the limit grants in that time, and they are void after it: what an idle worker holds
//! is soon nobody's, and spent late by so little that the bounds above hold. What is left of
//! a lease goes back with the next one. Where there is nothing to take, a worker does not ask
//! again before there can be.
//!
//! Whatever goes wrong errs on the side of fewer: a worker that others outrun each time takes
//! nothing for that request, a bucket that a stranger wrote over begins empty, and on a host
//! without shared data nothing passes a limit, since nobody knows what the others do.

use core::time::Duration;

use crate::model::MonoNanos;
use crate::model::shared::{PREFIX, Shared, update};

/// The time over which a limit holds.
const WINDOW: f64 = 10.0;
/// The part by which a window may differ from the limit; one token where that is more.
const TOLERANCE: f64 = 0.05;
/// What a full bucket holds, in seconds, rounded to whole tokens. A little less than one, so
/// that a bucket need not fill more than 5 % slower after it.
const BURST: f64 = 0.97;
/// How long tokens are good that a worker has taken, in seconds.
const LEASE: f64 = 0.01;
const LEASE_TIME: Duration = Duration::from_millis(10);
/// What is left of an older lease is lost.
const RETURN_TIME: Duration = Duration::from_secs(1);
/// A bucket that was written so much later than now is not one of ours: workers have one clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A limit as one worker applies it.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    key: String,
    shape: Shape,
    /// Tokens in hand, whole ones.
    left: f64,
    /// When they were taken.
    taken: MonoNanos,
    /// How many tokens were asked for since `since`, and half as many of those before.
    asked: f64,
    since: MonoNanos,
    /// There is no token before.
    dry_until: MonoNanos,
}

/// What buckets of one limit have in common; tokens, and tokens per second.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rate: f64,
    burst: f64,
    /// More than this has to be paid back,
    slack: f64,
    /// at this rate.
    slow: f64,
    /// The largest lease.
    lease: f64,
}

/// What stands in shared data.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    tokens: f64,
    at: MonoNanos,
    /// When it last held more than the slack.
    rich: MonoNanos,
}

impl Limit {
    /// So many `per_second`. A limit is known by its name and its value: whatever says the same,
    /// on whichever listener, before or after a reload, draws on the same bucket.
    pub(crate) fn new(name: &str, per_second: f64) -> Self {
        Self {
            key: format!("{PREFIX}limit/{per_second}/{name}"),
            shape: Shape::new(per_second),
            left: 0.0,
            taken: MonoNanos::default(),
            asked: 0.0,
            since: MonoNanos::default(),
            dry_until: MonoNanos::default(),
        }
    }

    /// Whether one more is within the limit.
    pub(crate) fn take(&mut self, now: MonoNanos, shared: &dyn Shared) -> bool {
        let period = now.since(self.since);
        if period >= LEASE_TIME {
            let adjacent = period < LEASE_TIME.saturating_mul(2);
            self.asked = if adjacent { self.asked / 2.0 } else { 0.0 };
            self.since = now;
        }
        self.asked += 1.0;
        let fresh = now.since(self.taken) < LEASE_TIME;
        if !(fresh && self.left >= 1.0) && (now < self.dry_until || !self.lease(now, shared)) {
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// Gives back what [`take`](Self::take) has just given.
    pub(crate) fn give_back(&mut self) {
        self.left += 1.0;
    }

    /// Takes a new block of tokens.
    fn lease(&mut self, now: MonoNanos, shared: &dyn Shared) -> bool {
        let Self { shape, left, taken, .. } = *self;
        let returned = if now.since(taken) < RETURN_TIME { left } else { 0.0 };
        let wanted = (self.asked / 2.0).floor().min(shape.lease).max(1.0);
        let leased = update(shared, &self.key, |value| {
            let stored = value.map(|value| Bucket::decode(value, now, &shape));
            let mut bucket = match stored {
                Some(Some(bucket)) => bucket.filled(now, &shape),
                Some(None) => Bucket { tokens: 0.0, at: now, rich: now },
                None => Bucket { tokens: shape.burst, at: now, rich: now },
            };
            bucket.put(returned, &shape);
            let granted = bucket.tokens.floor().min(wanted);
            bucket.tokens -= granted;
            let unchanged = granted < 1.0 && returned < 1.0 && matches!(stored, Some(Some(_)));
            ((!unchanged).then(|| bucket.encode()), (granted, bucket.tokens))
        });
        let Some((granted, rest)) = leased else { return false };
        self.left = granted;
        self.taken = now;
        if granted < 1.0 {
            let wait = Duration::try_from_secs_f64((wanted - rest) / shape.rate);
            self.dry_until = now.after(wait.unwrap_or(Duration::MAX));
        }
        granted >= 1.0
    }
}

impl Shape {
    fn new(rate: f64) -> Self {
        let tolerance = (rate * WINDOW * TOLERANCE).max(1.0);
        // Tokens are whole: less than one more than the most is still no more than the most.
        let below = rate.mul_add(WINDOW, tolerance).floor() + 0.999;
        // Of a lease, all may be spent at its end.
        let window = WINDOW + LEASE;
        let slack = rate.mul_add(-window, below);
        let burst = (rate * BURST).round().max(slack).max(1.0);
        Self {
            rate,
            burst,
            slack,
            slow: ((below - burst) / window).min(rate),
            lease: (rate * LEASE).floor(),
        }
    }
}

impl Bucket {
    /// `None` for what no worker can have written.
    fn decode(bytes: &[u8], now: MonoNanos, shape: &Shape) -> Option<Self> {
        let (tokens, bytes) = bytes.split_first_chunk()?;
        let (at, bytes) = bytes.split_first_chunk()?;
        let rich: &[u8; 8] = bytes.try_into().ok()?;
        let bucket = Self {
            tokens: f64::from_le_bytes(*tokens),
            at: MonoNanos(u64::from_le_bytes(*at)),
            rich: MonoNanos(u64::from_le_bytes(*rich)),
        };
        let possible = (0.0..=shape.burst).contains(&bucket.tokens)
            && bucket.rich <= bucket.at
            && bucket.at <= now.after(CLOCK_TOLERANCE);
        possible.then_some(bucket)
    }

    fn encode(self) -> Vec<u8> {
        [self.tokens.to_le_bytes(), self.at.0.to_le_bytes(), self.rich.0.to_le_bytes()].concat()
    }

    /// The bucket as it is `now`.
    fn filled(mut self, now: MonoNanos, shape: &Shape) -> Self {
        let elapsed = now.since(self.at).as_secs_f64();
        let slow_until = self.rich.after(Duration::from_secs_f64(WINDOW));
        let slow = slow_until.since(self.at).as_secs_f64().min(elapsed);
        self.at = self.at.max(now);
        self.put((elapsed - slow).mul_add(shape.rate, slow * shape.slow), shape);
        self
    }

    fn put(&mut self, tokens: f64, shape: &Shape) {
        self.tokens = (self.tokens + tokens).min(shape.burst);
        if self.tokens > shape.slack {
            self.rich = self.at;
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::collections::BinaryHeap;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::model::shared::fake::Store;

    const SECOND: u64 = 1_000_000_000;
    /// Monotonic clocks begin anywhere.
    const START: u64 = 77 * SECOND;

    /// A proxy whose workers share one limit.
    struct Proxy {
        rate: f64,
        store: Store,
        workers: Vec<Limit>,
        rng: SmallRng,
        now: u64,
        granted: Vec<u64>,
        asked: u64,
    }

    impl Proxy {
        fn new(rate: f64, workers: usize) -> Self {
            Self {
                rate,
                store: Store::default(),
                workers: vec![Limit::new("", rate); workers],
                rng: SmallRng::seed_from_u64(7),
                now: START,
                granted: Vec::new(),
                asked: 0,
            }
        }

        /// One request on one worker.
        fn ask(&mut self, worker: usize) -> bool {
            self.asked += 1;
            let granted = self.workers[worker].take(MonoNanos(self.now), &self.store);
            if granted {
                self.granted.push(self.now);
            }
            granted
        }

        /// Requests as they come by chance, so many per second for each worker.
        fn run(&mut self, seconds: f64, loads: &[f64]) {
            let end = self.now + nanos(seconds);
            let mut next = BinaryHeap::new();
            for (worker, load) in loads.iter().enumerate() {
                next.push((core::cmp::Reverse(self.now + gap(&mut self.rng, *load)), worker));
            }
            while let Some((core::cmp::Reverse(at), worker)) = next.pop() {
                if at >= end {
                    break;
                }
                self.now = at;
                self.ask(worker);
                let gap = gap(&mut self.rng, loads[worker]);
                next.push((core::cmp::Reverse(at + gap), worker));
            }
            self.now = end;
        }

        /// The same load on each worker, together `times` the limit.
        fn overload(&mut self, seconds: f64, times: f64) {
            let workers = self.workers.len();
            let each = self.rate * times / f64::from(u32::try_from(workers).unwrap());
            self.run(seconds, &vec![each; workers]);
        }

        fn tolerance(&self) -> f64 {
            (self.rate * 0.5).max(1.0)
        }

        /// No ten seconds pass more than the limit and its tolerance.
        #[track_caller]
        fn assert_bounded(&self) {
            let most = self.rate * 10.0 + self.tolerance();
            let window = 10 * SECOND;
            let mut first = 0;
            for (index, at) in self.granted.iter().enumerate() {
                while self.granted[first] + window < *at {
                    first += 1;
                }
                let count = count(index + 1 - first);
                assert!(count <= most, "{count} of {} in the 10 s to {at}", self.rate * 10.0);
            }
        }

        /// Any ten seconds from `start` to now pass the limit less its tolerance; what has not
        /// grown to a whole token counts for the next window.
        #[track_caller]
        fn assert_used(&self, start: u64) {
            let least = (self.rate * 10.0 - self.tolerance() - 1.0).floor().max(0.0);
            let window = 10 * SECOND;
            let starts = self.granted.iter().filter(|at| **at >= start).chain([&start]);
            for begin in starts.filter(|at| **at + window <= self.now) {
                let after = self.granted.partition_point(|at| at <= begin);
                let until = self.granted.partition_point(|at| *at < begin + window);
                let count = count(until - after);
                assert!(count >= least, "{count} of {} from {begin}", self.rate * 10.0);
            }
        }

        fn total(&self, start: u64) -> f64 {
            count(self.granted.iter().filter(|at| **at >= start).count())
        }
    }

    fn count(count: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap())
    }

    fn nanos(seconds: f64) -> u64 {
        u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap()
    }

    fn gap(rng: &mut SmallRng, per_second: f64) -> u64 {
        if per_second == 0.0 {
            1_000_000 * SECOND
        } else {
            nanos(-rng.random::<f64>().max(1e-12).ln() / per_second)
        }
    }

    #[test]
    fn an_overload_is_held_at_the_limit() {
        for workers in [1, 2, 4, 16] {
            for (rate, times) in [
                (0.5, 100.0),
                (1.0, 100.0),
                (1.5, 20.0),
                (0.25, 20.0),
                (1.0, 10.0),
                (2.0, 10.0),
                (5.0, 100.0),
                (20.0, 100.0),
                (100.0, 10.0),
                (1000.0, 5.0),
                (5000.0, 2.0),
            ] {
                let mut proxy = Proxy::new(rate, workers);
                proxy.overload(35.0, times);
                proxy.assert_bounded();
                proxy.assert_used(START);
                // Once the burst at the beginning is paid back, the limit itself.
                let late = proxy.total(START + 15 * SECOND);
                assert!(
                    (late - rate * 20.0).abs() <= (rate * 0.2).max(1.0),
                    "{late} of {}",
                    rate * 20.0
                );
            }
        }
    }

    #[test]
    fn one_busy_worker_among_idle_ones_has_it_all() {
        for rate in [5.0, 100.0, 1000.0] {
            let mut proxy = Proxy::new(rate, 16);
            let mut loads = [rate * 0.01; 16];
            loads[3] = rate * 20.0;
            proxy.run(30.0, &loads);
            proxy.assert_bounded();
            proxy.assert_used(START);
        }
    }

    #[test]
    fn load_that_moves_from_worker_to_worker_has_it_all() {
        let mut proxy = Proxy::new(1000.0, 4);
        for round in 0..120 {
            let mut loads = [0.0; 4];
            loads[round % 4] = 4000.0;
            proxy.run(0.25, &loads);
        }
        proxy.assert_bounded();
        proxy.assert_used(START);
    }

    #[test]
    fn what_stays_under_the_limit_passes() {
        for workers in [1, 4, 16] {
            for rate in [50.0, 1000.0] {
                let mut proxy = Proxy::new(rate, workers);
                proxy.overload(30.0, 0.9);
                assert_eq!(proxy.total(START), f64::from(u32::try_from(proxy.asked).unwrap()));
            }
        }
    }

    #[test]
    fn short_bursts_under_the_limit_pass() {
        let mut proxy = Proxy::new(1000.0, 4);
        for round in 0..200 {
            for _ in 0..90 {
                proxy.ask(round % 4);
                proxy.now += 10_000;
            }
            proxy.now += SECOND / 10 - 900_000;
        }
        proxy.assert_bounded();
        assert_eq!(proxy.total(START), 200.0 * 90.0);
    }

    #[test]
    fn a_burst_is_one_second_s_worth_and_is_paid_back() {
        for workers in [1, 16] {
            for rate in [5.0, 100.0, 1000.0] {
                let mut proxy = Proxy::new(rate, workers);
                for _ in 0..4 {
                    let idle_over = proxy.now;
                    proxy.overload(0.001, 20_000.0);
                    let burst = proxy.total(idle_over);
                    assert!(burst <= rate + 1.0, "{burst} of {rate}");
                    assert!(burst >= rate * 0.95 - 1.0, "{burst} of {rate}");
                    proxy.overload(12.0, 5.0);
                    proxy.assert_used(idle_over + SECOND / 1000);
                    proxy.now += 30 * SECOND;
                }
                proxy.assert_bounded();
            }
        }
    }

    /// What a worker once took and did not need is nobody's after a pause, however long ago.
    #[test]
    fn old_leases_add_nothing_to_a_burst() {
        for pause in [2, 60] {
            let mut proxy = Proxy::new(10_000.0, 16);
            proxy.overload(2.0, 0.9);
            let held: f64 = proxy.workers.iter().map(|worker| worker.left).sum();
            assert!(held > 5.0, "{held}");
            proxy.now += pause * SECOND;
            let idle_over = proxy.now;
            proxy.overload(0.001, 2000.0);
            let burst = proxy.total(idle_over);
            assert!((9_650.0..=9_710.0).contains(&burst), "{burst}");
        }
    }

    #[test]
    fn pauses_of_any_length_are_bounded() {
        for tenths in 1..=12 {
            let mut proxy = Proxy::new(100.0, 4);
            for _ in 0..3 {
                proxy.overload(12.0, 5.0);
                proxy.now += tenths * SECOND / 10;
            }
            proxy.assert_bounded();
        }
    }

    /// The worst that callers can do to a window: full bursts as often as the bucket allows.
    #[test]
    fn bursts_at_any_distance_are_bounded() {
        for pause in 1..=12 {
            let mut proxy = Proxy::new(100.0, 4);
            for round in 0..40 {
                for request in 0..120 {
                    proxy.ask((round + request) % 4);
                }
                proxy.now += pause * SECOND;
            }
            proxy.assert_bounded();
        }
    }

    #[test]
    fn conflicts_cost_no_tokens() {
        for conflicts in [2, 3, 7] {
            let mut proxy = Proxy::new(100.0, 4);
            proxy.store.conflicts.set(conflicts);
            proxy.overload(30.0, 10.0);
            proxy.assert_bounded();
            proxy.assert_used(START);
        }
    }

    #[test]
    fn a_worker_that_is_always_outrun_passes_nothing() {
        let mut proxy = Proxy::new(100.0, 1);
        assert!(proxy.ask(0));
        proxy.store.conflicts.set(u32::MAX);
        proxy.overload(5.0, 5.0);
        assert_eq!(proxy.granted, [START]);
    }

    #[test]
    fn without_shared_data_nothing_passes() {
        let mut proxy = Proxy::new(100.0, 2);
        proxy.store.broken.set(true);
        proxy.overload(5.0, 5.0);
        assert_eq!(proxy.granted, [0; 0]);
    }

    /// What no worker wrote gives nobody a burst, and the limit goes on from there.
    #[test]
    fn garbage_is_an_empty_bucket() {
        let shape = Shape::new(100.0);
        let at = MonoNanos(START + 5 * SECOND);
        let bucket = Bucket { tokens: 97.0, at, rich: at };
        let future = MonoNanos(at.0 + 2 * SECOND);
        let long = [bucket.encode(), vec![0]].concat();
        assert_eq!(Bucket::decode(&bucket.encode(), at, &shape), Some(bucket));
        for garbage in [
            Vec::new(),
            b"x".to_vec(),
            vec![0xff; 24],
            bucket.encode()[..23].to_vec(),
            long,
            Bucket { tokens: 97.1, ..bucket }.encode(),
            Bucket { tokens: -1.0, ..bucket }.encode(),
            Bucket { tokens: f64::NAN, ..bucket }.encode(),
            Bucket { at: future, ..bucket }.encode(),
            Bucket { rich: future, ..bucket }.encode(),
        ] {
            let mut proxy = Proxy::new(100.0, 4);
            let keys = ["meshweft/1/limit/100/"];
            proxy.overload(5.0, 5.0);
            assert_eq!(proxy.store.keys(), keys);
            proxy.store.put(keys[0], &garbage);
            proxy.overload(0.005, 5.0);
            assert!(proxy.total(START + 5 * SECOND) <= 1.0, "{garbage:?}");
            proxy.overload(30.0, 5.0);
            proxy.assert_bounded();
            proxy.assert_used(START + 5 * SECOND);
            assert_eq!(proxy.store.keys(), keys);
        }
    }

    #[test]
    fn a_stranger_who_writes_all_the_time_opens_nothing() {
        let mut proxy = Proxy::new(100.0, 4);
        for round in 1..=100 {
            proxy.overload(0.1, 10.0);
            proxy.store.put("meshweft/1/limit/100/", &[round; 24]);
        }
        proxy.assert_bounded();
    }

    /// However many requests there are, workers go to shared data about two hundred times a
    /// second, and once for each request at the most.
    #[test]
    fn shared_data_is_asked_seldom() {
        for (rate, times) in [(10.0, 1000.0), (100.0, 100.0), (1000.0, 10.0), (20_000.0, 0.9)] {
            let mut proxy = Proxy::new(rate, 2);
            proxy.overload(5.0, times);
            let gets = proxy.store.gets.get();
            assert!(gets <= 2 * 5 * 400, "{rate}: {gets} gets of {} requests", proxy.asked);
            assert!(proxy.store.sets.get() <= gets);
        }
        let mut quiet = Proxy::new(100.0, 2);
        quiet.overload(10.0, 0.1);
        assert_eq!((quiet.store.gets.get(), quiet.store.sets.get()), (quiet.asked, quiet.asked));
    }

    #[test]
    fn the_same_limit_is_one_bucket_and_others_are_not() {
        let store = Store::default();
        let now = MonoNanos(START);
        let passed = |name: &str, rate: f64| {
            let mut limit = Limit::new(name, rate);
            (0..100).filter(|_| limit.take(now, &store)).count()
        };
        assert_eq!(passed("", 10.0), 10);
        assert_eq!(passed("", 10.0), 0);
        assert_eq!(passed("", 20.0), 19);
        assert_eq!(passed("pay", 10.0), 10);
        assert_eq!(passed("pay", 0.5), 1);
        let keys = ["0.5/pay", "10/", "10/pay", "20/"];
        assert_eq!(store.keys(), keys.map(|key| format!("meshweft/1/limit/{key}")));
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut proxy = Proxy::new(1.0, 2);
        assert!(proxy.ask(0));
        proxy.workers[0].give_back();
        // The other worker cannot have it before this one comes back to the bucket.
        assert!(!proxy.ask(1));
        proxy.now += 20_000_000;
        assert!(proxy.ask(0));
        assert!(!proxy.ask(0));
    }

    /// Workers read the clock one after the other, but may write in another order.
    #[test]
    fn a_worker_may_be_a_little_behind() {
        let mut proxy = Proxy::new(100.0, 2);
        for round in 0..40_000_u64 {
            proxy.now = START + round * 1_000_000 - if round % 2 == 0 { 500_000 } else { 0 };
            proxy.ask(usize::from(round % 2 == 0));
        }
        proxy.granted.sort_unstable();
        proxy.assert_bounded();
        proxy.assert_used(START);
    }

    #[test]
    fn a_clock_that_stands_still_opens_nothing() {
        let store = Store::default();
        let mut limit = Limit::new("", 10.0);
        let passed = (0..1000).filter(|_| limit.take(MonoNanos::default(), &store)).count();
        assert_eq!(passed, 10);
    }

    #[test]
    fn the_smallest_and_the_largest_limit() {
        for (rate, passed) in [(f64::MIN_POSITIVE, 1), (1e-9, 1), (1e9, 1000)] {
            let mut proxy = Proxy::new(rate, 1);
            for _ in 0..1000 {
                proxy.ask(0);
                proxy.now += 1_000_000;
            }
            assert_eq!(proxy.granted.len(), passed, "{rate}");
        }
    }
}
