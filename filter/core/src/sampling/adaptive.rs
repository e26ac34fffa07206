//! A rate that follows the load, so that a proxy records about so many traces per second.
//!
//! Workers add what they have seen to one record in shared data, at ticks and spread over the
//! time since the tick before: counts by second, of the last few seconds. The rate is the target
//! over the mean of five whole seconds, the last one left out, because other workers have yet to
//! report it. So a new load has its rate after eight seconds at the latest. What was recorded is
//! not looked at, only what was offered: nothing can oscillate.
//!
//! Between two ticks a worker lowers the rate by itself once it has seen more than the target:
//! they lie a second apart at the most, so that the proxy's load is at least what it has seen.
//! This takes the peak off a load that jumps, or that was there before the first report.

use core::time::Duration;

use crate::model::MonoNanos;
use crate::model::shared::{PREFIX, Shared, update};

/// One count.
const SLOT: Duration = Duration::from_secs(1);
const SLOT_NANOS: u64 = 1_000_000_000;
/// Counts that the record holds, and that the mean is taken of.
const SLOTS: usize = 8;
const WINDOW: u64 = 5;
/// Ticks that come sooner after a report make none.
const REPORT: Duration = Duration::from_millis(500);

/// The rate of one target, as one worker applies it.
#[derive(Clone, Debug)]
pub(crate) struct Adaptive {
    key: String,
    target: f64,
    /// The rate that the last report gave.
    rate: f64,
    /// Decisions since the last tick that could have reported them.
    seen: f64,
    /// Decisions not yet in the record.
    unreported: f64,
    /// When the last report was.
    reported: Option<MonoNanos>,
}

/// What stands in shared data.
#[derive(Clone, Debug, PartialEq)]
struct Load {
    /// Nothing is known of the time before.
    begin: MonoNanos,
    /// The second that the last count is of.
    last: u64,
    counts: [f64; SLOTS],
}

impl Adaptive {
    /// About `target` traces per second. As with limits, whatever has the same name and target has
    /// the same record.
    pub(crate) fn new(name: &str, target: f64) -> Self {
        Self {
            key: format!("{PREFIX}load/{target}/{name}"),
            target,
            rate: 1.0,
            seen: 0.0,
            unreported: 0.0,
            reported: None,
        }
    }

    /// Counts a decision and gives the rate that is for it, above zero.
    pub(crate) fn next(&mut self) -> f64 {
        self.seen += 1.0;
        self.unreported += 1.0;
        self.rate.min(self.target / self.seen)
    }

    /// Reports what was seen, and takes the rate from what all workers saw.
    pub(crate) fn on_tick(&mut self, now: MonoNanos, shared: &dyn Shared) {
        // The first report is of an unknown time; a tick is not longer.
        let since = self.reported.unwrap_or_else(|| MonoNanos(now.0.saturating_sub(SLOT_NANOS)));
        if self.reported.is_some() && now.since(since) < REPORT {
            return;
        }
        self.seen = 0.0;
        let unreported = self.unreported;
        let load = update(shared, &self.key, |value| {
            let mut load = value
                .and_then(|value| Load::decode(value, now))
                .unwrap_or_else(|| Load::new(since, now));
            load.add(unreported, since, now);
            (Some(load.encode()), load)
        });
        let Some(load) = load else { return };
        self.reported = Some(now);
        self.unreported = 0.0;
        self.rate = match load.mean() {
            Some(mean) => self.target / mean,
            // Only some workers have reported.
            None => self.rate.min(self.target / load.so_far(now)),
        }
        .min(1.0);
    }
}

impl Load {
    fn new(begin: MonoNanos, now: MonoNanos) -> Self {
        Self { begin, last: now.0 / SLOT_NANOS, counts: [0.0; SLOTS] }
    }

    /// `None` for what no worker can have written.
    fn decode(bytes: &[u8], now: MonoNanos) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let [begin, last, counts @ ..] = words else { return None };
        let counts: &[[u8; 8]; SLOTS] = counts.try_into().ok().filter(|_| rest.is_empty())?;
        let load = Self {
            begin: MonoNanos(u64::from_le_bytes(*begin)),
            last: u64::from_le_bytes(*last),
            counts: counts.map(f64::from_le_bytes),
        };
        let latest = now.after(SLOT);
        let possible = load.begin <= latest
            && load.last <= latest.0 / SLOT_NANOS
            && load.counts.iter().all(|count| (0.0..1e15).contains(count));
        possible.then_some(load)
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.begin.0.to_le_bytes(), self.last.to_le_bytes()];
        let counts = self.counts.map(f64::to_le_bytes);
        numbers.into_iter().chain(counts).flatten().collect()
    }

    /// Adds `count`, seen evenly from `since` to `now`.
    fn add(&mut self, count: f64, since: MonoNanos, now: MonoNanos) {
        let slot = now.0 / SLOT_NANOS;
        let passed = usize::try_from(slot.saturating_sub(self.last)).unwrap_or(usize::MAX);
        self.counts.rotate_left(passed.min(SLOTS));
        self.counts.iter_mut().rev().take(passed).for_each(|count| *count = 0.0);
        self.last = self.last.max(slot);
        let time = now.since(since).as_secs_f64();
        for (slot, sum) in (0..=self.last).rev().zip(self.counts.iter_mut().rev()) {
            let begin = MonoNanos(slot.saturating_mul(SLOT_NANOS));
            let overlap = begin.after(SLOT).min(now).since(begin.max(since)).as_secs_f64();
            if overlap > 0.0 {
                *sum += count * overlap / time;
            }
        }
    }

    /// Decisions per second, once a whole second is known that all workers have reported.
    fn mean(&self) -> Option<f64> {
        // The last second and the one before are still being reported.
        let end = self.last.checked_sub(1)?;
        let begin = MonoNanos(end.saturating_sub(WINDOW).saturating_mul(SLOT_NANOS));
        let end = MonoNanos(end.saturating_mul(SLOT_NANOS));
        let time = end.since(begin.max(self.begin));
        if time < SLOT {
            return None;
        }
        let counts = self.counts.iter().rev().skip(2).take(usize::try_from(WINDOW).ok()?);
        Some(counts.sum::<f64>() / time.as_secs_f64())
    }

    /// Decisions per second as far as they are known.
    fn so_far(&self, now: MonoNanos) -> f64 {
        self.counts.iter().sum::<f64>() / now.since(self.begin).max(SLOT).as_secs_f64()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use std::ops::Range;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::model::shared::fake::Store;

    const MILLI: u64 = 1_000_000;
    const START: u64 = 77_300 * MILLI;

    /// A proxy whose workers share one target. Time goes in steps of a millisecond.
    struct Proxy {
        target: f64,
        store: Store,
        workers: Vec<Adaptive>,
        rng: SmallRng,
        now: u64,
        tick: u64,
        /// By second since the start: what is expected to be recorded.
        kept: Vec<f64>,
        /// Rates that the first worker used, one a second.
        rates: Vec<f64>,
    }

    impl Proxy {
        fn new(target: f64, workers: usize) -> Self {
            Self {
                target,
                store: Store::default(),
                workers: vec![Adaptive::new("", target); workers],
                rng: SmallRng::seed_from_u64(11),
                now: START,
                tick: 1000,
                kept: Vec::new(),
                rates: Vec::new(),
            }
        }

        /// The load of all workers together; of requests that come by chance.
        fn run(&mut self, seconds: u64, load: impl Fn(f64) -> f64) {
            let count = u64::try_from(self.workers.len()).unwrap();
            for step in 0..seconds * 1000 {
                self.now += MILLI;
                let since = (self.now - START) / MILLI;
                if since % 1000 == 1 {
                    self.kept.push(0.0);
                    self.rates.push(self.workers[0].rate);
                }
                for (index, worker) in (0..).zip(&mut self.workers) {
                    // Staggered, and each a little late.
                    if (since + index * self.tick / count) % self.tick == 7 * (index % 3) {
                        worker.on_tick(MonoNanos(self.now), &self.store);
                    }
                }
                #[expect(clippy::cast_precision_loss, reason = "a small number of steps")]
                let mean = load(step as f64 / 1000.0) / 1000.0;
                let mut left: f64 = mean;
                while left > 0.0 {
                    // Up to one request is enough of an approximation below a hundred a step.
                    if self.rng.random::<f64>() < left.min(0.5) * 2.0 && self.rng.random::<bool>() {
                        let worker = self.rng.random_range(0..self.workers.len());
                        *self.kept.last_mut().unwrap() += self.workers[worker].next();
                    }
                    left -= 0.5;
                }
            }
        }

        /// What is recorded per second on average.
        fn mean(&self, seconds: Range<usize>) -> f64 {
            let count = u32::try_from(seconds.len()).unwrap();
            self.kept[seconds].iter().sum::<f64>() / f64::from(count)
        }

        #[track_caller]
        fn assert_on_target(&self, seconds: Range<usize>) {
            let mean = self.mean(seconds.clone());
            let off = (mean / self.target - 1.0).abs();
            assert!(off <= 0.1, "{mean} for {} in {seconds:?}: {:?}", self.target, self.kept);
        }
    }

    const WORKERS: [usize; 4] = [1, 2, 4, 16];

    #[test]
    fn a_steady_load_is_on_target() {
        for workers in WORKERS {
            for (target, load) in [(10.0, 15.0), (10.0, 1000.0), (100.0, 110.0), (100.0, 5000.0)] {
                let mut proxy = Proxy::new(target, workers);
                proxy.run(40, |_| load);
                proxy.assert_on_target(10..40);
            }
        }
    }

    #[test]
    fn a_load_under_the_target_is_recorded_whole() {
        let mut proxy = Proxy::new(100.0, 4);
        proxy.run(30, |_| 20.0);
        let rates: Vec<_> = proxy.rates.iter().skip(3).copied().collect();
        assert_eq!(rates, vec![1.0; 27]);
    }

    #[test]
    fn ten_times_the_load_is_back_on_target_within_ten_seconds() {
        for workers in WORKERS {
            for (target, before) in [(10.0, 50.0), (100.0, 500.0)] {
                let mut proxy = Proxy::new(target, workers);
                proxy.run(20, |_| before);
                proxy.run(40, |_| before * 10.0);
                proxy.assert_on_target(30..60);
                // From there on the rate only follows chance.
                let rates = &proxy.rates[30..60];
                let wanted = target / (before * 10.0);
                assert!(rates.iter().all(|rate| (rate / wanted - 1.0).abs() < 0.1), "{rates:?}");
                // On the way it never fell below.
                let way = &proxy.rates[20..30];
                assert!(way.iter().all(|rate| rate / wanted > 0.9), "{way:?}");
            }
        }
    }

    #[test]
    fn a_tenth_of_the_load_is_back_on_target_within_ten_seconds() {
        for workers in WORKERS {
            for (target, before) in [(10.0, 1000.0), (100.0, 5000.0)] {
                let mut proxy = Proxy::new(target, workers);
                proxy.run(20, |_| before);
                proxy.run(40, |_| before / 10.0);
                proxy.assert_on_target(30..60);
                // On the way it never overshot by more than chance: of 500 requests in a mean of
                // five seconds, four standard deviations are 18 %.
                let way = &proxy.rates[20..30];
                let wanted = target / before * 10.0;
                assert!(way.iter().all(|rate| rate / wanted < 1.2), "{way:?}");
            }
        }
    }

    #[test]
    fn without_chance_the_rate_settles_and_stays() {
        for workers in [1, 4] {
            let mut proxy = Proxy::new(100.0, workers);
            let mut rates = Vec::new();
            for step in 0..60_000_u64 {
                proxy.now += MILLI;
                // Up at 20 s, down at 40 s.
                let load = if (20_000..40_000).contains(&step) { 10 } else { 1 };
                for (index, worker) in (0..).zip(&mut proxy.workers) {
                    for _ in 0..load {
                        let _ = worker.next();
                    }
                    if step % 1000 == index * 211 + 300 {
                        worker.on_tick(MonoNanos(proxy.now), &proxy.store);
                        rates.push(worker.rate * f64::from(u32::try_from(workers).unwrap()));
                    }
                }
            }
            let phase = rates.len() / 3;
            for (index, wanted) in [0.1, 0.01, 0.1].into_iter().enumerate() {
                let rates = &rates[index * phase..(index + 1) * phase];
                let settled = &rates[phase / 2..];
                assert!(settled.iter().all(|r| (r / wanted - 1.0).abs() < 0.01), "{rates:?}");
                // It comes from one side and does not turn back.
                let turns = rates.windows(2).filter(|pair| {
                    if index == 1 {
                        pair[1] > pair[0] * 1.001
                    } else {
                        index == 2 && pair[1] < pair[0] * 0.999
                    }
                });
                assert_eq!(turns.count(), 0, "{rates:?}");
            }
        }
    }

    #[test]
    fn a_ramp_is_followed() {
        let mut proxy = Proxy::new(50.0, 4);
        proxy.run(10, |_| 200.0);
        // Ten times in a minute and a half.
        proxy.run(90, |at| 200.0 + at * 20.0);
        proxy.run(30, |_| 2000.0);
        let most = proxy.kept[20..100].chunks_exact(10).map(|c| c.iter().sum::<f64>() / 10.0);
        for mean in most {
            assert!((45.0..75.0).contains(&mean), "{mean}");
        }
        proxy.assert_on_target(110..130);
    }

    /// A spike that is over before the workers have told each other of it.
    #[test]
    fn a_spike_passes_by_and_leaves_no_trace() {
        let mut proxy = Proxy::new(10.0, 4);
        proxy.run(20, |_| 100.0);
        proxy.run(1, |_| 5000.0);
        // At the rate before it would have been 500.
        assert!(proxy.kept[20] < 200.0, "{}", proxy.kept[20]);
        proxy.run(40, |_| 100.0);
        proxy.assert_on_target(31..61);
    }

    #[test]
    fn a_start_under_full_load_is_cushioned() {
        // Of 5000: by each worker the target, and once more for every e-fold of it.
        for (workers, most) in [(1, 100.0), (4, 300.0), (16, 900.0)] {
            let mut proxy = Proxy::new(10.0, workers);
            proxy.run(40, |_| 5000.0);
            let worst = proxy.kept.iter().copied().fold(0.0, f64::max);
            assert!(worst <= most, "{workers} workers: {worst}");
            proxy.assert_on_target(10..40);
        }
    }

    #[test]
    fn after_a_long_idle_time_all_is_recorded_until_it_is_too_much() {
        let mut proxy = Proxy::new(20.0, 2);
        proxy.run(20, |_| 500.0);
        proxy.run(300, |_| 0.0);
        assert_eq!(proxy.workers[0].rate, 1.0);
        proxy.run(40, |_| 500.0);
        assert!(proxy.kept[320] <= 200.0, "{}", proxy.kept[320]);
        proxy.assert_on_target(330..360);
    }

    #[test]
    fn one_busy_worker_is_on_target() {
        let store = Store::default();
        let mut workers = vec![Adaptive::new("", 10.0); 16];
        for second in 0..30_u64 {
            for (index, worker) in (0..).zip(&mut workers) {
                if index == 5 {
                    for _ in 0..400 {
                        let _ = worker.next();
                    }
                }
                worker.on_tick(MonoNanos(START + second * 1000 * MILLI + index * MILLI), &store);
            }
        }
        assert!((workers[5].next() * 400.0 / 10.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn ticks_of_any_period_and_conflicts_change_nothing() {
        for tick in [10, 250, 1000] {
            let mut proxy = Proxy::new(50.0, 4);
            proxy.tick = tick;
            proxy.store.conflicts.set(3);
            proxy.run(40, |_| 1000.0);
            proxy.assert_on_target(10..40);
            assert!(proxy.store.gets.get() <= 4 * 3 * 2 * 41, "{}", proxy.store.gets.get());
        }
    }

    /// What one worker has seen still bounds what it records.
    #[test]
    fn without_shared_data_each_worker_has_its_own_bound() {
        let mut proxy = Proxy::new(10.0, 2);
        proxy.store.broken.set(true);
        proxy.run(20, |_| 2000.0);
        assert!(proxy.mean(5..20) <= 2.0 * 60.0, "{:?}", proxy.kept);
        assert!(proxy.mean(5..20) >= 2.0 * 10.0, "{:?}", proxy.kept);
    }

    #[test]
    fn garbage_is_begun_anew() {
        let now = MonoNanos(START);
        let load = Load { begin: now, last: now.0 / SLOT_NANOS, counts: [1.0; SLOTS] };
        assert_eq!(Load::decode(&load.encode(), now), Some(load.clone()));
        let future = MonoNanos(START + 60_000 * MILLI);
        let mut negative = load.clone();
        negative.counts[3] = -1.0;
        for garbage in [
            Vec::new(),
            vec![0xff; 80],
            load.encode()[1..].to_vec(),
            [load.encode(), vec![0; 8]].concat(),
            [load.encode(), vec![0]].concat(),
            negative.encode(),
            Load { begin: future, ..load.clone() }.encode(),
            Load { last: future.0 / SLOT_NANOS, ..load.clone() }.encode(),
            Load { counts: [f64::NAN; SLOTS], ..load.clone() }.encode(),
        ] {
            assert_eq!(Load::decode(&garbage, now), None, "{garbage:?}");
            let mut proxy = Proxy::new(20.0, 4);
            proxy.run(15, |_| 500.0);
            proxy.store.put("meshweft/1/load/20/", &garbage);
            proxy.run(30, |_| 500.0);
            // It does not even show.
            proxy.assert_on_target(10..20);
            proxy.assert_on_target(20..45);
            assert_eq!(proxy.store.keys(), ["meshweft/1/load/20/"]);
        }
    }
}
