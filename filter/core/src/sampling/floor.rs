//! So many traces per minute of every operation, however rare.
//!
//! Each operation has a token bucket of one minute's worth. Only what the rate dropped asks it for
//! a token, and what the rate recorded takes one too, so that the floor adds nothing where the
//! rate gives enough. All buckets stand in one record in shared data, which a worker reads and
//! writes only when a bucket may have a token that the worker has not had yet: about so many
//! times per minute and operation, not once a request.
//!
//! The number of operations is bounded, for callers choose hosts. A new one takes the place of the
//! one that was longest not seen, but only if that was quiet for a minute, or for as long as one
//! that is in use does not ask for a token: until then the new one has no floor.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::model::MonoNanos;
use crate::model::shared::{PREFIX, Shared, update};

/// Operations of a proxy at most, and those that one worker remembers.
const OPERATIONS: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);
/// When a worker asks again that could not write.
const LATER: Duration = Duration::from_secs(1);
/// One that is in use asks again at the first tick behind its next token, and ticks may be late.
const TWO_TICKS: Duration = Duration::from_secs(2);
/// A bucket that was written so much later than now is not one of ours: workers have one clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A method, and what it is called on, as a number.
pub(crate) type Operation = u64;

/// The floor as one worker applies it.
#[derive(Clone, Debug)]
pub(crate) struct Floor {
    key: String,
    per_second: f64,
    most: f64,
    /// How long nobody must have asked for an operation before another takes its place.
    quiet: Duration,
    seen: BTreeMap<Operation, Seen>,
}

/// What one worker knows of an operation.
#[derive(Clone, Debug)]
struct Seen {
    at: MonoNanos,
    /// There is no token before.
    dry_until: MonoNanos,
    /// Traces that the rate gave and that the bucket does not know of.
    recorded: f64,
}

/// What stands in shared data, for each operation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    operation: Operation,
    tokens: f64,
    at: MonoNanos,
}

/// The number of the operation that `parts` name together (FNV-1a).
pub(crate) fn operation(parts: [&[u8]; 2]) -> Operation {
    let byte = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = parts.into_iter().flat_map(|part| part.iter().copied().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, byte)
}

impl Floor {
    /// At least `per_minute` traces of every operation, if there are as many requests.
    /// Whatever has the same name and number has the same buckets.
    pub(crate) fn new(name: &str, per_minute: f64) -> Self {
        let per_second = per_minute / MINUTE.as_secs_f64();
        let token = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX);
        Self {
            key: format!("{PREFIX}floor/{per_minute}/{name}"),
            per_second,
            most: per_minute.max(1.0),
            quiet: token.max(MINUTE).saturating_add(TWO_TICKS),
            seen: BTreeMap::new(),
        }
    }

    /// The rate recorded a request of `operation`. `tick` is the time of the last tick.
    pub(crate) fn recorded(&mut self, operation: Operation, tick: MonoNanos) {
        let most = self.most;
        if let Some(seen) = self.seen(operation, tick) {
            seen.recorded = (seen.recorded + 1.0).min(most);
        }
    }

    /// Whether a request of `operation` that the rate dropped is recorded all the same. The clock
    /// is read only where shared data are.
    pub(crate) fn lifts(
        &mut self,
        operation: Operation,
        tick: MonoNanos,
        shared: &dyn Shared,
    ) -> bool {
        let Self { per_second, most, quiet, .. } = *self;
        let key = self.key.clone();
        let Some(seen) = self.seen(operation, tick) else { return false };
        if tick < seen.dry_until {
            return false;
        }
        let now = shared.now();
        let answer = update(shared, &key, |value| {
            let mut buckets = value.and_then(|value| decode(value, now, most)).unwrap_or_default();
            let Some(bucket) = bucket(&mut buckets, operation, now, most, quiet) else {
                return (None, None);
            };
            let elapsed = now.since(bucket.at).as_secs_f64();
            let tokens = elapsed.mul_add(per_second, bucket.tokens).min(most);
            bucket.tokens = (tokens - seen.recorded).max(0.0);
            bucket.at = bucket.at.max(now);
            let lifted = bucket.tokens >= 1.0;
            if lifted {
                bucket.tokens -= 1.0;
            }
            let rest = bucket.tokens;
            (Some(encode(&buckets)), Some((lifted, rest)))
        });
        let (lifted, wait) = match answer {
            Some(Some((lifted, rest))) => {
                seen.recorded = 0.0;
                let wait = Duration::try_from_secs_f64((1.0 - rest) / per_second);
                (lifted, if rest < 1.0 { wait.unwrap_or(Duration::MAX) } else { Duration::ZERO })
            }
            Some(None) => (false, MINUTE),
            None => (false, LATER),
        };
        seen.dry_until = now.after(wait);
        lifted
    }

    /// `None` if this worker has seen too many others since the last tick.
    fn seen(&mut self, operation: Operation, tick: MonoNanos) -> Option<&mut Seen> {
        if self.seen.len() >= OPERATIONS && !self.seen.contains_key(&operation) {
            let (oldest, seen) = self.seen.iter().min_by_key(|(_, seen)| seen.at)?;
            if seen.at >= tick {
                return None;
            }
            let oldest = *oldest;
            self.seen.remove(&oldest);
        }
        let new = Seen { at: tick, dry_until: MonoNanos::default(), recorded: 0.0 };
        let seen = self.seen.entry(operation).or_insert(new);
        seen.at = tick;
        Some(seen)
    }
}

/// The bucket of `operation`, a new one where there is room.
fn bucket(
    buckets: &mut Vec<Bucket>,
    operation: Operation,
    now: MonoNanos,
    most: f64,
    quiet: Duration,
) -> Option<&mut Bucket> {
    let place = match buckets.iter().position(|bucket| bucket.operation == operation) {
        Some(place) => place,
        None if buckets.len() < OPERATIONS => {
            buckets.push(Bucket { operation, tokens: most, at: now });
            buckets.len().checked_sub(1)?
        }
        None => {
            let (place, oldest) =
                buckets.iter_mut().enumerate().min_by_key(|(_, bucket)| bucket.at)?;
            if now.since(oldest.at) < quiet {
                return None;
            }
            *oldest = Bucket { operation, tokens: most, at: now };
            place
        }
    };
    buckets.get_mut(place)
}

/// `None` for what no worker can have written.
fn decode(bytes: &[u8], now: MonoNanos, most: f64) -> Option<Vec<Bucket>> {
    let (words, rest) = bytes.as_chunks::<8>();
    let (buckets, odd) = words.as_chunks::<3>();
    if !rest.is_empty() || !odd.is_empty() || buckets.len() > OPERATIONS {
        return None;
    }
    let bucket = |[operation, tokens, at]: &[[u8; 8]; 3]| {
        let operation = u64::from_le_bytes(*operation);
        let tokens = f64::from_le_bytes(*tokens);
        let at = MonoNanos(u64::from_le_bytes(*at));
        let possible = (0.0..=most).contains(&tokens) && at <= now.after(CLOCK_TOLERANCE);
        possible.then_some(Bucket { operation, tokens, at })
    };
    buckets.iter().map(bucket).collect()
}

fn encode(buckets: &[Bucket]) -> Vec<u8> {
    let words = buckets.iter().flat_map(|Bucket { operation, tokens, at }| {
        [operation.to_le_bytes(), tokens.to_le_bytes(), at.0.to_le_bytes()]
    });
    words.flatten().collect()
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::shared::fake::Store;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 77 * SECOND;

    struct Proxy {
        store: Store,
        workers: Vec<Floor>,
        /// Seconds since the start.
        now: u64,
    }

    impl Proxy {
        fn new(per_minute: f64, workers: usize) -> Self {
            let store = Store::default();
            Self { store, workers: vec![Floor::new("", per_minute); workers], now: 0 }
        }

        fn lifts(&mut self, worker: usize, operation: Operation) -> bool {
            // Ticks come every second: what a worker knows of the time is a little old.
            let tick = MonoNanos(START + self.now * SECOND);
            self.store.local.clock.set(MonoNanos(tick.0 + SECOND / 2));
            self.workers[worker].lifts(operation, tick, &self.store)
        }

        /// One request a second on one worker after the other; how many are lifted.
        fn serve(&mut self, seconds: u64, operation: Operation) -> usize {
            let mut lifted = 0;
            for _ in 0..seconds {
                let worker = usize::try_from(self.now).unwrap() % self.workers.len();
                lifted += usize::from(self.lifts(worker, operation));
                self.now += 1;
            }
            lifted
        }
    }

    #[test]
    fn every_operation_has_its_traces_per_minute() {
        for workers in [1, 4, 16] {
            for (per_minute, hour) in [(0.5, 31), (1.0, 61), (6.0, 366)] {
                let mut proxy = Proxy::new(per_minute, workers);
                let lifted = proxy.serve(3600, 1);
                // The first minute's worth is there at once, and ticks round up.
                assert!(lifted <= hour, "{lifted}");
                assert!(lifted + hour / 10 >= hour, "{lifted}");
            }
        }
    }

    #[test]
    fn no_minute_has_less() {
        let mut proxy = Proxy::new(3.0, 4);
        let minutes: Vec<_> = (0..30).map(|_| proxy.serve(60, 1)).collect();
        assert!(minutes.iter().all(|lifted| (3..=6).contains(lifted)), "{minutes:?}");
    }

    #[test]
    fn a_rare_operation_is_not_lost_among_busy_ones() {
        let mut proxy = Proxy::new(1.0, 4);
        for round in 0..30 {
            for busy in 0..100 {
                proxy.serve(1, busy);
            }
            assert!(proxy.lifts(round % 4, 1000), "{round}");
        }
    }

    #[test]
    fn what_the_rate_records_counts() {
        let mut proxy = Proxy::new(2.0, 1);
        for _ in 0..600 {
            let tick = MonoNanos(START + proxy.now * SECOND);
            if proxy.now.is_multiple_of(20) {
                proxy.workers[0].recorded(1, tick);
            }
            assert!(!proxy.lifts(0, 1) || proxy.now < 60, "{}", proxy.now);
            proxy.now += 1;
        }
        // Recorded long ago and in plenty is no debt.
        (0..100).for_each(|_| proxy.workers[0].recorded(1, MonoNanos(START)));
        proxy.now += 60;
        assert!(proxy.serve(120, 1) >= 2);
    }

    #[test]
    fn the_number_of_operations_is_bounded() {
        let mut proxy = Proxy::new(1.0, 2);
        let mut lifted = 0;
        for host in 0..20_000 {
            lifted += usize::from(proxy.lifts(usize::try_from(host).unwrap() % 2, host));
            if host % 100 == 99 {
                proxy.now += 1;
            }
        }
        // Two hundred seconds: the table once, and again after each minute.
        assert!((256..=256 * 4).contains(&lifted), "{lifted}");
        assert!(proxy.workers.iter().all(|worker| worker.seen.len() == OPERATIONS));
        assert_eq!(proxy.store.keys(), ["meshweft/1/floor/1/"]);
        assert_eq!(proxy.store.value("meshweft/1/floor/1/").unwrap().len(), 256 * 24);
    }

    /// Hosts made up faster than ticks come are not even looked up.
    #[test]
    fn made_up_operations_do_not_reach_shared_data() {
        let mut proxy = Proxy::new(1.0, 1);
        for host in 0..5_000 {
            proxy.lifts(0, host);
        }
        assert_eq!(proxy.store.gets.get(), 256);
    }

    #[test]
    fn the_longest_unseen_operation_makes_room() {
        let mut proxy = Proxy::new(1.0, 1);
        for operation in 0..256 {
            assert!(proxy.lifts(0, operation), "{operation}");
        }
        proxy.now += 30;
        assert!(!proxy.lifts(0, 256));
        proxy.now += 31;
        // Seen by all but one.
        for operation in (0..256).filter(|operation| *operation != 99) {
            assert!(proxy.lifts(0, operation), "{operation}");
        }
        proxy.now += 31;
        assert!(proxy.lifts(0, 256));
        assert!(!proxy.lifts(0, 257));
        assert!(!proxy.lifts(0, 99));
    }

    #[test]
    fn made_up_hosts_take_no_floor_away() {
        for (per_minute, lifts) in [(0.1, 2..=2), (0.5, 10..=10), (1.0, 20..=20), (6.0, 120..=126)]
        {
            let mut proxy = Proxy::new(per_minute, 4);
            let (mut lifted, mut host) = (0, 1000);
            for _ in 0..20 * 60 {
                for request in 0..10 {
                    lifted += usize::from(proxy.lifts(request % 4, 1));
                }
                for _ in 0..5 {
                    host += 1;
                    proxy.lifts(usize::try_from(host % 4).unwrap(), host);
                }
                proxy.now += 1;
            }
            assert!(lifts.contains(&lifted), "{per_minute}: {lifted}");
        }
    }

    /// The table has a floor's worth for each of its places, whoever stands there.
    #[test]
    fn made_up_hosts_gain_a_bounded_number() {
        for per_minute in [0.5, 1.0, 6.0] {
            let mut proxy = Proxy::new(per_minute, 4);
            let mut lifted = 0.0;
            for host in 0..6_000 {
                lifted +=
                    f64::from(u8::from(proxy.lifts(usize::try_from(host % 4).unwrap(), host)));
                proxy.now += u64::from(host % 5 == 4);
            }
            // Twenty minutes, and what stood there at their beginning.
            assert!(lifted <= 256.0 * per_minute.mul_add(20.0, per_minute.max(1.0)), "{lifted}");
            assert!(lifted >= 256.0 * 9.0, "{lifted}");
        }
    }

    /// The smallest number that may be configured, and less.
    #[test]
    fn a_floor_of_nearly_nothing_is_no_fault() {
        for per_minute in [1e-6, f64::MIN_POSITIVE] {
            let mut proxy = Proxy::new(per_minute, 1);
            let lifted = (0..300).filter(|host| {
                proxy.now += 60;
                proxy.lifts(0, *host)
            });
            assert_eq!(lifted.count(), 256);
        }
    }

    #[test]
    fn shared_data_is_asked_seldom() {
        let mut proxy = Proxy::new(1.0, 2);
        for _ in 0..600 {
            for worker in 0..2 {
                for operation in 0..20 {
                    proxy.lifts(worker, operation);
                    proxy.workers[worker]
                        .recorded(operation, MonoNanos(START + proxy.now * SECOND));
                }
            }
            proxy.now += 1;
        }
        // Ten minutes, twenty operations, two workers: of 24,000 requests.
        let gets = proxy.store.gets.get();
        assert!(gets <= 20 * 2 * 11, "{gets}");
    }

    #[test]
    fn conflicts_and_a_lack_of_shared_data_lift_nothing() {
        let mut proxy = Proxy::new(1.0, 1);
        proxy.store.broken.set(true);
        assert_eq!(proxy.serve(60, 1), 0);
        assert_eq!(proxy.store.gets.get(), 30);
        proxy.store.broken.set(false);
        assert!(proxy.serve(3, 1) == 1);
        proxy.store.conflicts.set(u32::MAX);
        assert_eq!(proxy.serve(120, 1), 0);
    }

    #[test]
    fn garbage_is_begun_anew() {
        let now = MonoNanos(START);
        let good = Bucket { operation: 1, tokens: 2.0, at: now };
        assert_eq!(decode(&encode(&[good, good]), now, 2.0), Some(vec![good, good]));
        let future = MonoNanos(START + 2 * SECOND);
        for garbage in [
            b"x".to_vec(),
            vec![0xff; 24],
            encode(&[good])[..16].to_vec(),
            encode(&[good; 257]),
            encode(&[good, Bucket { tokens: 2.1, ..good }]),
            encode(&[Bucket { tokens: -1.0, ..good }]),
            encode(&[Bucket { tokens: f64::NAN, ..good }]),
            encode(&[Bucket { at: future, ..good }]),
        ] {
            assert_eq!(decode(&garbage, now, 2.0), None, "{garbage:?}");
            let mut proxy = Proxy::new(2.0, 1);
            proxy.store.put("meshweft/1/floor/2/", &garbage);
            assert_eq!(proxy.serve(4, 1), 2);
            assert_eq!(proxy.store.value("meshweft/1/floor/2/").unwrap().len(), 24);
        }
    }

    #[test]
    fn operations_are_told_apart() {
        let all =
            [[&b"GET"[..], b"a"], [b"GET", b"b"], [b"POST", b"a"], [b"GETa", b""], [b"", b""]];
        let mut numbers = all.map(operation).to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all.len());
        assert_eq!(operation([b"GET", b"a"]), operation([b"GET", b"a"]));
    }
}
