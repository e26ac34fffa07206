//! Sampling as a server says (Jaeger's remote sampling): one worker of the proxy asks, all follow.
//!
//! Whose turn it is to ask stands in shared data, and so does the last good answer. A worker looks
//! once a tick: it takes the turn when it is due, and reads the answer when there is a new one. A
//! turn is taken for a whole interval before it is known what becomes of it, so that a worker that
//! goes down with it delays the next one by no more. What fails changes nothing: all go on by the
//! answer that they have.

mod strategy;

use core::fmt::Write;
use core::time::Duration;

pub(crate) use strategy::Strategy;

use super::floor::Floor;
use super::limit::Limit;
use crate::config;
use crate::model::MonoNanos;
use crate::model::shared::{PREFIX, Shared, update};

/// How many bytes of an answer to a [`Poll`] are worth reading; one of as many is refused.
pub const MAX_ANSWER: usize = 512 * 1024;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// When an answer is no longer waited for: the host has told before that there is none.
const GIVEN_UP: Duration = Duration::from_secs(6);
/// As long as there is no answer the next attempt comes sooner.
const IMPATIENT: Duration = Duration::from_secs(5);
/// Nobody takes a turn for longer, but for clocks that are read one after the other.
const LONGEST: Duration = Duration::from_secs(3601);
/// At most one line in the log in this time.
const QUIET: Duration = Duration::from_secs(60);
/// How the limit and the floor of an answer are named: no rule is called so.
const NAME: &str = "*remote";

/// A question to the server, for the host to send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Poll {
    /// Envoy's name of the cluster.
    pub cluster: String,
    /// Pseudo headers first.
    pub headers: Vec<(String, String)>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// A server's sampling as one worker applies it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    poll: Poll,
    interval: Duration,
    turn_key: String,
    answer_key: String,
    /// Which answer this worker has read.
    version: u64,
    /// Until when a question of this worker is under way; there is one at a time.
    asking: MonoNanos,
    current: Option<Current>,
}

/// A strategy with what it needs to be applied.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) strategy: Strategy,
    /// Of [`Strategy::PerSecond`].
    pub(crate) limit: Option<Limit>,
    /// Of [`Strategy::PerOperation`].
    pub(crate) floor: Option<Floor>,
}

/// What stands in shared data beside the answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Turn {
    /// When the next question is due.
    due: MonoNanos,
    /// When the log last told of a failure; zero: never.
    complained: MonoNanos,
    /// Differs from answer to answer; zero: there is none.
    version: u64,
}

impl Remote {
    /// What the server says of `service`. Whatever asks the same server about the same service,
    /// before or after a reload, has one turn and one answer.
    pub(crate) fn new(config: &config::Remote, service: &str) -> Self {
        let separator = if config.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{separator}service={}", config.path, encoded(service));
        let key = |what| format!("{PREFIX}remote/{what}/{}{path}", config.cluster);
        let headers = [
            (":method", "GET"),
            (":path", &path),
            (":authority", &config.authority),
            (":scheme", "http"),
            ("accept", "application/json"),
            ("user-agent", concat!("meshweft/", env!("CARGO_PKG_VERSION"))),
        ];
        Self {
            turn_key: key("turn"),
            answer_key: key("answer"),
            poll: Poll {
                cluster: config.cluster.clone(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                timeout: TIMEOUT,
            },
            interval: config.interval,
            version: 0,
            asking: MonoNanos::default(),
            current: None,
        }
    }

    /// What the last good answer says; `None` as long as there is none.
    pub(crate) const fn current(&mut self) -> Option<&mut Current> {
        self.current.as_mut()
    }

    /// Takes in what the server has told another worker; gives a question if it is time for one
    /// and this worker's turn.
    pub(crate) fn on_tick(&mut self, now: MonoNanos, shared: &dyn Shared) -> Option<Poll> {
        let (interval, free) = (self.interval, self.asking <= now);
        let (ours, version) = update(shared, &self.turn_key, |value| {
            let mut turn = Turn::decode(value, now);
            let ours = free && turn.due <= now;
            if ours {
                let pause = if turn.version == 0 { interval.min(IMPATIENT) } else { interval };
                turn.due = now.after(pause);
            }
            (ours.then(|| turn.encode()), (ours, turn.version))
        })?;
        if version != self.version && version != 0 {
            self.version = version;
            let answer = shared.get(&self.answer_key);
            let strategy = answer.and_then(|(answer, _)| read(&answer).ok());
            // A stranger's is no answer.
            self.current = strategy.map(Current::new).or_else(|| self.current.take());
        }
        ours.then(|| {
            self.asking = now.after(GIVEN_UP);
            self.poll.clone()
        })
    }

    /// Takes in the answer to a question of this worker, or why there is none. An error is for an
    /// operator to read, and is given at most once a minute by all workers together.
    ///
    /// # Errors
    ///
    /// Says, sometimes, why the answer is not used.
    pub(crate) fn on_answer(
        &mut self,
        answer: Result<&[u8], String>,
        now: MonoNanos,
        shared: &dyn Shared,
    ) -> Result<(), Option<String>> {
        self.asking = MonoNanos::default();
        match answer.and_then(|answer| Ok((answer, read(answer)?))) {
            Ok((answer, strategy)) => {
                self.share(answer, now, shared);
                self.current = Some(Current::new(strategy));
                Ok(())
            }
            Err(why) => Err(self.complaint(&why, now, shared)),
        }
    }

    /// Lays the answer where the other workers find it.
    fn share(&mut self, answer: &[u8], now: MonoNanos, shared: &dyn Shared) {
        const ALWAYS: u32 = 0;
        if shared.set(&self.answer_key, answer, ALWAYS).is_err() {
            return;
        }
        let (version, due) = (now.0.max(1), now.after(self.interval));
        let known = update(shared, &self.turn_key, |value| {
            (Some(Turn { version, due, ..Turn::decode(value, now) }.encode()), ())
        });
        if known.is_some() {
            self.version = version;
        }
    }

    fn complaint(&self, why: &str, now: MonoNanos, shared: &dyn Shared) -> Option<String> {
        let first = update(shared, &self.turn_key, |value| {
            let mut turn = Turn::decode(value, now);
            let first = turn.complained.0 == 0 || now.since(turn.complained) >= QUIET;
            turn.complained = now;
            (first.then(|| turn.encode()), first)
        });
        let meanwhile = match self.current {
            Some(_) => "its last good answer is kept",
            None => "sampling.rate decides until there is an answer",
        };
        let cluster = &self.poll.cluster;
        first.unwrap_or(true).then(|| {
            format!(
                "remote sampling: cluster \"{cluster}\" {why}; {meanwhile} \
                 (further failures are counted only)"
            )
        })
    }
}

impl Current {
    fn new(strategy: Strategy) -> Self {
        let limit = match strategy {
            Strategy::PerSecond(limit) => Some(Limit::new(NAME, limit)),
            Strategy::PerOperation { .. } | Strategy::Share(_) => None,
        };
        let floor = match strategy {
            Strategy::PerOperation { floor_per_minute, .. } => floor_per_minute,
            Strategy::PerSecond(_) | Strategy::Share(_) => None,
        };
        Self { strategy, limit, floor: floor.map(|floor| Floor::new(NAME, floor)) }
    }
}

impl Turn {
    /// What no worker can have written is as good as nothing: the question is due.
    fn decode(bytes: Option<&[u8]>, now: MonoNanos) -> Self {
        let Some((words, [])) = bytes.map(<[u8]>::as_chunks::<8>) else { return Self::default() };
        let [due, complained, version] = words else { return Self::default() };
        let turn = Self {
            due: MonoNanos(u64::from_le_bytes(*due)),
            complained: MonoNanos(u64::from_le_bytes(*complained)),
            version: u64::from_le_bytes(*version),
        };
        let latest = now.after(LONGEST);
        if turn.due <= latest && turn.complained <= latest { turn } else { Self::default() }
    }

    fn encode(self) -> Vec<u8> {
        [self.due.0, self.complained.0, self.version].map(u64::to_le_bytes).concat()
    }
}

/// What an answer says, from the server or out of shared data.
fn read(answer: &[u8]) -> Result<Strategy, String> {
    if answer.len() >= MAX_ANSWER {
        return Err("gave an answer that is too long".to_owned());
    }
    Strategy::parse(answer).map_err(|why| format!("gave an answer that cannot be used: {why}"))
}

/// `text` as a value of a query (RFC 3986, section 2).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Rate;
    use crate::model::shared::fake::Store;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 77 * SECOND;
    const TURN: &str = "meshweft/1/remote/turn/jaeger/sampling?service=shop";
    const ANSWER: &str = "meshweft/1/remote/answer/jaeger/sampling?service=shop";

    fn config() -> config::Remote {
        config::Remote {
            cluster: "jaeger".to_owned(),
            authority: "jaeger.test".to_owned(),
            path: "/sampling".to_owned(),
            interval: Duration::from_secs(60),
        }
    }

    /// A proxy whose workers tick once a second, one after the other.
    struct Proxy {
        store: Store,
        workers: Vec<Remote>,
        /// Seconds since the start.
        now: u64,
    }

    impl Proxy {
        fn new(workers: usize) -> Self {
            let workers = vec![Remote::new(&config(), "shop"); workers];
            Self { store: Store::default(), workers, now: 0 }
        }

        fn time(&self, worker: usize) -> MonoNanos {
            MonoNanos(START + self.now * SECOND + u64::try_from(worker).unwrap() * 1_000)
        }

        /// Lets seconds pass, with `answer` to each question; gives when which worker asked and
        /// what was said of it.
        fn run(
            &mut self,
            seconds: u64,
            answer: Result<&str, &str>,
        ) -> Vec<(u64, usize, Result<(), Option<String>>)> {
            let mut asked = Vec::new();
            for _ in 0..seconds {
                for worker in 0..self.workers.len() {
                    let now = self.time(worker);
                    if self.workers[worker].on_tick(now, &self.store).is_some() {
                        let answer = answer.map(str::as_bytes).map_err(str::to_owned);
                        let said = self.workers[worker].on_answer(answer, now, &self.store);
                        asked.push((self.now, worker, said));
                    }
                }
                self.now += 1;
            }
            asked
        }

        /// What the workers apply.
        fn strategies(&mut self) -> Vec<Option<Strategy>> {
            let current = |worker: &mut Remote| worker.current().map(|now| now.strategy.clone());
            self.workers.iter_mut().map(current).collect()
        }
    }

    fn share(rate: f64) -> (String, Strategy) {
        let answer = format!(r#"{{"probabilisticSampling": {{"samplingRate": {rate}}}}}"#);
        (answer, Strategy::Share(Rate::new(rate).unwrap()))
    }

    #[test]
    fn the_question_is_one_of_http() {
        let mut remote = Remote::new(
            &config::Remote { path: "/api/sampling?v=1".to_owned(), ..config() },
            "shop & co/ü",
        );
        let poll = remote.on_tick(MonoNanos(START), &Store::default()).unwrap();
        assert_eq!((&*poll.cluster, poll.timeout), ("jaeger", Duration::from_secs(5)));
        let headers = [
            (":method", "GET"),
            (":path", "/api/sampling?v=1&service=shop%20%26%20co%2F%C3%BC"),
            (":authority", "jaeger.test"),
            (":scheme", "http"),
            ("accept", "application/json"),
            ("user-agent", concat!("meshweft/", env!("CARGO_PKG_VERSION"))),
        ];
        assert_eq!(poll.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn one_worker_asks_and_all_follow() {
        for workers in [1, 2, 16] {
            let mut proxy = Proxy::new(workers);
            let (answer, strategy) = share(0.5);
            let asked = proxy.run(1, Ok(&answer));
            assert_eq!(asked, [(0, 0, Ok(()))]);
            // Those that ticked after it know already.
            assert_eq!(proxy.strategies(), vec![Some(strategy.clone()); workers]);
            let asked = proxy.run(180, Ok(&answer));
            assert_eq!(asked.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [60, 120, 180]);
            let (answer, strategy) = share(0.25);
            proxy.run(61, Ok(&answer));
            assert_eq!(proxy.strategies(), vec![Some(strategy); workers]);
            assert_eq!(proxy.store.keys(), [ANSWER, TURN]);
        }
    }

    #[test]
    fn a_reload_begins_with_the_last_answer() {
        let mut proxy = Proxy::new(2);
        let (answer, strategy) = share(0.5);
        proxy.run(30, Ok(&answer));
        proxy.workers = vec![Remote::new(&config(), "shop"); 4];
        assert_eq!(proxy.run(1, Err("is down")), []);
        assert_eq!(proxy.strategies(), vec![Some(strategy); 4]);
        // Another service is another question.
        proxy.workers = vec![Remote::new(&config(), "cart")];
        assert_eq!(proxy.run(1, Err("is down")).len(), 1);
    }

    #[test]
    fn failures_keep_the_last_good_answer() {
        let mut proxy = Proxy::new(3);
        let (answer, strategy) = share(0.5);
        proxy.run(1, Ok(&answer));
        let asked = proxy.run(60, Err("answered with status 503"));
        let said = "remote sampling: cluster \"jaeger\" answered with status 503; its last \
            good answer is kept (further failures are counted only)";
        assert_eq!(asked, [(60, 0, Err(Some(said.to_owned())))]);
        let asked = proxy.run(60, Ok("<html>"));
        let said = "remote sampling: cluster \"jaeger\" gave an answer that cannot be used: it is \
            not JSON; its last good answer is kept (further failures are counted only)";
        assert_eq!(asked, [(120, 0, Err(Some(said.to_owned())))]);
        assert_eq!(proxy.strategies(), vec![Some(strategy); 3]);
        let (answer, strategy) = share(0.1);
        proxy.run(61, Ok(&answer));
        assert_eq!(proxy.strategies(), vec![Some(strategy); 3]);
    }

    #[test]
    fn without_an_answer_the_next_attempt_comes_sooner() {
        let mut proxy = Proxy::new(2);
        let asked = proxy.run(20, Err("gave no answer in time"));
        assert_eq!(asked.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 5, 10, 15]);
        // One line, whoever asked.
        let said: Vec<_> = asked.into_iter().filter_map(|(.., said)| said.unwrap_err()).collect();
        let line = "remote sampling: cluster \"jaeger\" gave no answer in time; sampling.rate decides until \
            there is an answer (further failures are counted only)";
        assert_eq!(said, [line]);
        assert_eq!(proxy.strategies(), [None, None]);
        let (answer, strategy) = share(0.5);
        assert_eq!(proxy.run(60, Ok(&answer)), [(20, 0, Ok(()))]);
        assert_eq!(proxy.strategies(), vec![Some(strategy); 2]);
    }

    #[test]
    fn failures_are_told_once_a_minute() {
        let mut proxy = Proxy::new(4);
        let asked = proxy.run(181, Err("gave no answer in time"));
        let told = asked.iter().filter(|(.., said)| *said != Err(None)).map(|(at, ..)| *at);
        assert_eq!(told.collect::<Vec<_>>(), [0, 60, 120, 180]);
    }

    /// The worker whose turn it was never came back.
    #[test]
    fn a_worker_that_goes_down_is_relieved() {
        let mut proxy = Proxy::new(2);
        let now = proxy.time(1);
        assert!(proxy.workers[1].on_tick(now, &proxy.store).is_some());
        proxy.workers.pop();
        let (answer, _) = share(0.5);
        assert_eq!(proxy.run(10, Ok(&answer)), [(6, 0, Ok(()))]);
    }

    #[test]
    fn an_answer_of_any_length_is_bounded() {
        let mut proxy = Proxy::new(1);
        let (answer, _) = share(0.5);
        let padded = |len: usize| format!("{answer}{}", " ".repeat(len - answer.len()));
        let long = "remote sampling: cluster \"jaeger\" gave an answer that is too long; \
            sampling.rate decides until there is an answer (further failures are counted only)";
        let asked = proxy.run(1, Ok(&padded(MAX_ANSWER)));
        assert_eq!(asked, [(0, 0, Err(Some(long.to_owned())))]);
        assert_eq!(proxy.run(5, Ok(&padded(MAX_ANSWER - 1))), [(5, 0, Ok(()))]);
    }

    /// The host tells answers apart by one question at a time.
    #[test]
    fn nobody_asks_again_before_the_answer() {
        let config = config::Remote { interval: Duration::from_secs(1), ..config() };
        let store = Store::default();
        let mut workers = vec![Remote::new(&config, "shop"); 2];
        let mut asks = |worker: usize, millis: u64| {
            let now = MonoNanos(START + millis * 1_000_000);
            workers[worker].on_tick(now, &store).is_some()
        };
        assert_eq!([0, 1000, 2000, 4900].map(|at| asks(0, at)), [true, false, false, false]);
        // Another one has a question of its own.
        assert!(asks(1, 4950));
        // The time for an answer is over, and the host has not said so.
        assert_eq!([5990, 6000, 7000].map(|at| asks(0, at)), [false, true, false]);
        let (answer, strategy) = share(0.5);
        let now = MonoNanos(START + 7_200_000_000);
        assert_eq!(workers[0].on_answer(Ok(answer.as_bytes()), now, &store), Ok(()));
        assert_eq!(workers[0].current().map(|now| now.strategy.clone()), Some(strategy));
        let now = MonoNanos(START + 8_200_000_000);
        assert!(workers[0].on_tick(now, &store).is_some());
    }

    #[test]
    fn without_shared_data_nobody_asks() {
        let mut proxy = Proxy::new(2);
        proxy.store.broken.set(true);
        assert_eq!(proxy.run(100, Err("is down")), []);
        // What was asked before is heard all the same.
        let (answer, strategy) = share(0.5);
        let now = proxy.time(0);
        let said = proxy.workers[0].on_answer(Ok(answer.as_bytes()), now, &proxy.store);
        assert_eq!(said, Ok(()));
        assert_eq!(proxy.strategies(), [Some(strategy), None]);
    }

    #[test]
    fn conflicts_are_no_second_question() {
        let mut proxy = Proxy::new(4);
        proxy.store.conflicts.set(3);
        let (answer, strategy) = share(0.5);
        let asked = proxy.run(130, Ok(&answer));
        assert_eq!(asked.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [0, 60, 120]);
        assert_eq!(proxy.strategies(), vec![Some(strategy); 4]);
    }

    #[test]
    fn garbage_is_as_good_as_nothing() {
        let now = MonoNanos(START);
        let turn = Turn { due: now, complained: now, version: 7 };
        assert_eq!(Turn::decode(Some(&turn.encode()), now), turn);
        let future = now.after(Duration::from_secs(4000));
        let garbage = [
            Vec::new(),
            b"x".to_vec(),
            vec![0xff; 24],
            turn.encode()[1..].to_vec(),
            [turn.encode(), vec![0]].concat(),
            Turn { due: future, ..turn }.encode(),
            Turn { complained: future, ..turn }.encode(),
        ];
        for garbage in garbage {
            assert_eq!(Turn::decode(Some(&garbage), now), Turn::default(), "{garbage:?}");
            let mut proxy = Proxy::new(2);
            let (answer, strategy) = share(0.5);
            proxy.run(10, Ok(&answer));
            proxy.store.put(TURN, &garbage);
            proxy.store.put(ANSWER, &garbage);
            // It is asked again at once, and nobody forgets what it knew.
            assert_eq!(proxy.run(60, Ok(&answer)), [(10, 0, Ok(()))]);
            assert_eq!(proxy.strategies(), vec![Some(strategy); 2]);
        }
        // A stranger's answer under a new version.
        let (other, _) = share(0.25);
        for stranger in ["{}".to_owned(), format!("{other}{}", " ".repeat(MAX_ANSWER))] {
            let mut proxy = Proxy::new(2);
            let (answer, strategy) = share(0.5);
            proxy.run(10, Ok(&answer));
            proxy.store.put(ANSWER, stranger.as_bytes());
            let due = MonoNanos(START + 60 * SECOND);
            proxy.store.put(TURN, &Turn { due, version: 9, ..Turn::default() }.encode());
            assert_eq!(proxy.run(10, Ok(&answer)), []);
            assert_eq!(proxy.strategies(), vec![Some(strategy); 2]);
        }
    }
}
