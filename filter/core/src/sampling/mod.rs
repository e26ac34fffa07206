//! The head decision: what is recorded, and why.

mod adaptive;
mod floor;
mod index;
mod keep;
mod limit;
mod probability;
mod relay;
mod remote;

use std::borrow::Cow;
use std::rc::Rc;

use adaptive::Adaptive;
use floor::{Floor, Operation, operation};
use index::Index;
pub use keep::{Ending, KeepReason, Kept, Moment, reason as keep_reason};
use limit::Limit;
pub use probability::{OtMember, Randomness, Threshold};
pub(crate) use relay::Relay;
pub use relay::{ANSWER, QUESTION};
pub use remote::{MAX_ANSWER, Poll};
use remote::{Remote, Strategy};

use crate::config::{self, Keep, ParentPolicy, Rate, Rule, Sampling};
use crate::matching::{Facts, Routes};
use crate::model::{MonoNanos, Shared, TraceId, UnixNanos};
use crate::propagation::ParentDecision;

/// Whether a span is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Not recorded, not exported; flag 00 goes on.
    Drop,
    /// Recorded, exported; flag 01 goes on.
    RecordAndSample,
}

/// Why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// No rule matched: the rate that follows the load.
    Adaptive,
    /// No rule matched: the default rate.
    Default,
    /// A rate dropped it, but its operation has had too few traces: the configuration's rate, or
    /// that of the rule at this index.
    Floor(Option<usize>),
    /// A limit dropped what would have been recorded: the configuration's, or that of the rule at
    /// this index.
    Limit(Option<usize>),
    /// A valid parent decided.
    Parent,
    /// No rule matched: the server of remote sampling.
    Remote,
    /// The rule at this index matched and its rate decided.
    Rule(usize),
}

impl Reason {
    /// The reason as an attribute and `explain` show it: `parent`, `default`, `adaptive`,
    /// `remote`, `rule:<name>`, `floor`, `floor:<name>`, and for what is not sampled also `limit`,
    /// `limit:<name>`.
    #[must_use]
    pub fn describe(self, sampling: &Sampling) -> Cow<'static, str> {
        let name = |index: usize| sampling.rules.get(index).map_or("", |rule| &rule.name);
        match self {
            Self::Adaptive => "adaptive".into(),
            Self::Default => "default".into(),
            Self::Floor(None) => "floor".into(),
            Self::Floor(Some(index)) => format!("floor:{}", name(index)).into(),
            Self::Limit(None) => "limit".into(),
            Self::Limit(Some(index)) => format!("limit:{}", name(index)).into(),
            Self::Parent => "parent".into(),
            Self::Remote => "remote".into(),
            Self::Rule(index) => format!("rule:{}", name(index)).into(),
        }
    }
}

/// A decision with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether the span is recorded.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The index of the first rule that matched, whatever decided in the end.
    pub rule: Option<usize>,
    /// The threshold by which the span was kept; `None` if its probability is unknown, as where
    /// something else than a rate had a say, and where the span is not recorded.
    pub threshold: Option<Threshold>,
}

/// The trace that a decision is about, with what came in of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// What the parent decided; `None` where no valid context and no decision came in.
    pub parent: Option<ParentDecision>,
    /// The bits that thresholds are compared with.
    pub randomness: Randomness,
    /// The threshold by which the parent says that it was kept.
    pub threshold: Option<Threshold>,
}

impl Origin {
    /// Of the trace `id`, whose parent sent `ot`.
    #[must_use]
    pub fn new(id: TraceId, parent: Option<ParentDecision>, ot: Option<&OtMember<'_>>) -> Self {
        let randomness = ot.and_then(|ot| ot.randomness).unwrap_or_else(|| Randomness::of(id));
        Self { parent, randomness, threshold: ot.and_then(|ot| ot.threshold) }
    }
}

/// What a rate that follows the load aims at, as one worker applies it.
#[derive(Clone, Debug)]
struct Target {
    /// The rate is no higher.
    highest: Rate,
    adaptive: Adaptive,
    floor: Option<Floor>,
}

impl Target {
    /// Of the rule of this name; empty: of the configuration.
    fn new(name: &str, target: config::Adaptive, highest: Rate) -> Self {
        Self {
            highest,
            adaptive: Adaptive::new(name, target.target_per_second),
            floor: target.floor_per_minute.map(|floor| Floor::new(name, floor)),
        }
    }

    /// Counts a decision and gives the rate that is for it.
    fn next(&mut self) -> Rate {
        Rate::new(self.adaptive.next().min(self.highest.get())).unwrap_or(self.highest)
    }
}

/// Decides for the requests of one instance.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    index: Index,
    limit: Option<Limit>,
    /// Those of rules, in the order of their indices.
    limits: Vec<(usize, Limit)>,
    /// In place of the configuration's rate, and of those of rules, in the same order.
    targets: Vec<(Option<usize>, Target)>,
    /// In place of the configuration's rate, too.
    remote: Option<Remote>,
    /// By which operations are named.
    routes: Rc<Routes>,
    /// The time of the last tick, by both clocks.
    wall: UnixNanos,
    tick: MonoNanos,
}

impl Sampler {
    /// A sampler that decides as `sampling` says, for the spans of `service`, whose operations are
    /// named by `routes`.
    #[must_use]
    pub fn new(sampling: &Sampling, service: &str, routes: Rc<Routes>) -> Self {
        let matches = sampling.rules.iter().map(|rule| &rule.matches);
        let index = Index::new(matches);
        let rules = sampling.rules.iter().enumerate();
        let limits = rules.filter_map(|(index, rule)| {
            Some((index, Limit::new(&rule.name, rule.limit_per_second?)))
        });
        let target = sampling.adaptive.map(|target| Target::new("", target, sampling.rate));
        let rules = sampling.rules.iter().enumerate();
        let targets = rules.filter_map(|(index, rule)| {
            let highest = rule.rate.unwrap_or(Rate::ALL);
            Some((Some(index), Target::new(&rule.name, rule.adaptive?, highest)))
        });
        Self {
            sampling: sampling.clone(),
            index,
            limit: sampling.limit_per_second.map(|limit| Limit::new("", limit)),
            limits: limits.collect(),
            targets: target.map(|target| (None, target)).into_iter().chain(targets).collect(),
            remote: sampling.remote.as_ref().map(|remote| Remote::new(remote, service)),
            routes,
            wall: UnixNanos::default(),
            tick: MonoNanos::default(),
        }
    }

    /// Takes in what the time of day is: rules that have expired are void from now on.
    pub const fn on_start(&mut self, wall: UnixNanos) {
        self.wall = wall;
    }

    /// Takes in what the time is, and what the other workers have seen.
    pub fn on_tick(&mut self, now: MonoNanos, wall: UnixNanos, shared: &dyn Shared) {
        self.wall = wall;
        self.tick = now;
        for (_, target) in &mut self.targets {
            target.adaptive.on_tick(now, shared);
        }
    }

    /// A question to the server of remote sampling, where it is time for one and the turn of this
    /// worker; to be asked at ticks. Takes in what other workers were told.
    pub fn poll(&mut self, now: MonoNanos, shared: &dyn Shared) -> Option<Poll> {
        self.remote.as_mut()?.on_tick(now, shared)
    }

    /// Takes in the answer to a question, or why there is none, in words.
    ///
    /// # Errors
    ///
    /// Says, once a minute for all workers together, why the answer is not used.
    pub fn on_answer(
        &mut self,
        answer: Result<&[u8], String>,
        now: MonoNanos,
        shared: &dyn Shared,
    ) -> Result<(), Option<String>> {
        let Some(remote) = &mut self.remote else { return Ok(()) };
        remote.on_answer(answer, now, shared)
    }

    /// The names of the rules that have expired.
    pub fn expired(&self) -> impl Iterator<Item = &str> {
        let expired = self.sampling.rules.iter().filter(|rule| rule.has_expired(self.wall));
        expired.map(|rule| rule.name.as_str())
    }

    /// What may keep a request that `decision` dropped.
    #[must_use]
    pub fn keep(&self, decision: &Decision) -> Option<&Keep> {
        let rule = decision.rule.and_then(|rule| self.sampling.rules.get(rule));
        let open = decision.verdict == Verdict::Drop && rule.is_none_or(|rule| rule.keep);
        self.sampling.keep.as_ref().filter(|_| open)
    }

    /// Decides for a request. The clock and shared data are asked only where a limit or a floor
    /// has a say.
    pub fn decide(&mut self, facts: &Facts<'_>, origin: Origin, shared: &dyn Shared) -> Decision {
        let rules = &self.sampling.rules;
        let fits = |rule: &Rule| !rule.has_expired(self.wall) && facts.fit(&rule.matches);
        let rule = self.index.first(facts, |rule| rules.get(rule).is_some_and(fits));
        let matched = rule.and_then(|rule| rules.get(rule));
        let policy = matched.and_then(|rule| rule.parent).unwrap_or(self.sampling.parent);
        if let Some(verdict) = by_parent(policy, origin.parent) {
            // A threshold that would not have kept the trace says nothing of why it was kept.
            let threshold = origin.threshold.filter(|threshold| {
                verdict == Verdict::RecordAndSample && threshold.keeps(origin.randomness)
            });
            return Decision { verdict, reason: Reason::Parent, rule, threshold };
        }
        let follows = matched.is_some_and(|rule| rule.adaptive.is_some());
        let decision = match matched.and_then(|rule| rule.rate) {
            _ if follows => self.by_load(rule, rule, facts, origin, shared),
            Some(rate) => by_rate(rate, Reason::Default, rule, origin),
            None => self
                .by_remote(rule, facts, origin, shared)
                .unwrap_or_else(|| self.by_load(None, rule, facts, origin, shared)),
        };
        self.limited(decision, shared)
    }

    /// By what the server of remote sampling says, if there is one and it has said something.
    fn by_remote(
        &mut self,
        rule: Option<usize>,
        facts: &Facts<'_>,
        origin: Origin,
        shared: &dyn Shared,
    ) -> Option<Decision> {
        let remote = self.remote.as_mut()?.current()?;
        let by_rate = |rate| by_rate(rate, Reason::Remote, rule, origin);
        Some(match &remote.strategy {
            Strategy::Share(rate) => by_rate(*rate),
            Strategy::PerOperation { rates, default, .. } => {
                let decision =
                    by_rate(*rates.get(&facts.span_name(&self.routes)).unwrap_or(default));
                let operation = || operation(facts.operation(&self.routes));
                floored(decision, remote.floor.as_mut(), None, operation, self.tick, shared)
            }
            Strategy::PerSecond(_) => {
                let limit = remote.limit.as_mut();
                let within = limit.is_some_and(|limit| limit.take(shared.now(), shared));
                // What might have been dropped for its time has no probability that is known.
                let rate = if within { Rate::ALL } else { Rate::NONE };
                Decision { threshold: None, ..by_rate(rate) }
            }
        })
    }

    /// By the rate that follows the load, and its floor: of the rule at the index `whose`, or of
    /// the configuration, which may have a plain rate.
    fn by_load(
        &mut self,
        whose: Option<usize>,
        rule: Option<usize>,
        facts: &Facts<'_>,
        origin: Origin,
        shared: &dyn Shared,
    ) -> Decision {
        let Some(target) = of(&mut self.targets, whose) else {
            return by_rate(self.sampling.rate, Reason::Default, rule, origin);
        };
        let decision = by_rate(target.next(), Reason::Adaptive, rule, origin);
        let operation = || operation(facts.operation(&self.routes));
        floored(decision, target.floor.as_mut(), whose, operation, self.tick, shared)
    }

    /// What limits leave of a decision: the rule's first, then the one over all.
    fn limited(&mut self, decision: Decision, shared: &dyn Shared) -> Decision {
        let mut own = decision.rule.and_then(|rule| of(&mut self.limits, rule));
        let unlimited = own.is_none() && self.limit.is_none();
        if decision.verdict == Verdict::Drop || unlimited {
            return decision;
        }
        let dropped = |rule| Decision {
            verdict: Verdict::Drop,
            reason: Reason::Limit(rule),
            threshold: None,
            ..decision
        };
        let now = shared.now();
        if own.as_mut().is_some_and(|limit| !limit.take(now, shared)) {
            return dropped(decision.rule);
        }
        if self.limit.as_mut().is_some_and(|limit| !limit.take(now, shared)) {
            if let Some(own) = own {
                own.give_back();
            }
            return dropped(None);
        }
        // What might have been dropped for its time has no probability that is known.
        Decision { threshold: None, ..decision }
    }
}

/// What `rate` decides, for the `reason` that holds where no rule matched.
fn by_rate(rate: Rate, reason: Reason, rule: Option<usize>, origin: Origin) -> Decision {
    let threshold = Threshold::of(rate).filter(|threshold| threshold.keeps(origin.randomness));
    Decision {
        verdict: if threshold.is_some() { Verdict::RecordAndSample } else { Verdict::Drop },
        reason: rule.map_or(reason, Reason::Rule),
        rule,
        threshold,
    }
}

/// What a floor makes of what a rate decided: that of the rule at the index `whose`, or that of the
/// configuration.
fn floored(
    decision: Decision,
    floor: Option<&mut Floor>,
    whose: Option<usize>,
    operation: impl FnOnce() -> Operation,
    tick: MonoNanos,
    shared: &dyn Shared,
) -> Decision {
    let Some(floor) = floor else { return decision };
    let operation = operation();
    if decision.verdict == Verdict::RecordAndSample {
        floor.recorded(operation, tick);
        decision
    } else if floor.lifts(operation, tick, shared) {
        Decision { verdict: Verdict::RecordAndSample, reason: Reason::Floor(whose), ..decision }
    } else {
        decision
    }
}

/// The one of `key`, in a list that is ordered by keys.
fn of<K: Copy + Ord, T>(list: &mut [(K, T)], key: K) -> Option<&mut T> {
    let at = list.binary_search_by_key(&key, |(key, _)| *key).ok()?;
    list.get_mut(at).map(|(_, value)| value)
}

/// What a parent has decided, where that counts.
const fn by_parent(policy: ParentPolicy, parent: Option<ParentDecision>) -> Option<Verdict> {
    match (policy, parent) {
        (ParentPolicy::Respect, Some(ParentDecision::Debug | ParentDecision::Sample)) => {
            Some(Verdict::RecordAndSample)
        }
        (ParentPolicy::Respect, Some(ParentDecision::Drop)) => Some(Verdict::Drop),
        (ParentPolicy::Respect, Some(ParentDecision::Deferred) | None)
        | (ParentPolicy::Ignore, _) => None,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::config::{Config, Direction, Template};
    use crate::matching::Side;
    use crate::model::{Exchange, Headers, Local};

    /// Rules here ask for headers alone.
    struct NoProperties;

    impl Exchange for NoProperties {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            panic!("{path:?}")
        }
    }

    /// What `floor_per_minute` asks for.
    struct NoRoute;

    impl Exchange for NoRoute {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            assert_eq!(path, ["xds", "route_name"]);
            None
        }
    }

    fn facts(headers: &Headers) -> Facts<'_> {
        Facts::new(headers, &NoProperties, Side::Always(Direction::Inbound))
    }

    fn sampler(json: &str) -> Sampler {
        let json = format!(r#"{{"sampling": {json}}}"#);
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap();
        Sampler::new(&config.sampling, "shop", Rc::default())
    }

    fn get(path: &str) -> Headers {
        [(":method", "GET"), (":path", path), (":authority", "shop")].into_iter().collect()
    }

    /// Low in its 56 random bits: recorded by rates near one only.
    fn low() -> TraceId {
        TraceId::from_hex(b"ffffffffffffffffff00000000000001").unwrap()
    }

    fn high() -> TraceId {
        TraceId::from_hex(b"000000000000000000fffffffffffffe").unwrap()
    }

    fn origin(parent: Option<ParentDecision>, id: TraceId) -> Origin {
        Origin::new(id, parent, None)
    }

    /// The threshold of what was kept by this rate.
    fn kept(verdict: Verdict, reason: Reason, rate: f64) -> Option<Threshold> {
        let by_rate = verdict == YES && reason != Reason::Parent;
        by_rate.then(|| Threshold::of(Rate::new(rate).unwrap())).flatten()
    }

    const YES: Verdict = Verdict::RecordAndSample;
    const NO: Verdict = Verdict::Drop;

    #[test]
    fn parents_decide_where_they_are_respected() {
        use ParentDecision::{Debug, Deferred, Drop, Sample};
        let mut respect = sampler(r#"{"rate": 0.5}"#);
        let mut ignore = sampler(r#"{"rate": 0.5, "parent": "ignore"}"#);
        let headers = get("/");
        for (parent, id, respected, reason, ignored) in [
            (None, low(), NO, Reason::Default, NO),
            (None, high(), YES, Reason::Default, YES),
            (Some(Sample), low(), YES, Reason::Parent, NO),
            (Some(Debug), low(), YES, Reason::Parent, NO),
            (Some(Drop), high(), NO, Reason::Parent, YES),
            (Some(Deferred), low(), NO, Reason::Default, NO),
            (Some(Deferred), high(), YES, Reason::Default, YES),
        ] {
            let facts = facts(&headers);
            assert_eq!(
                respect.decide(&facts, origin(parent, id), &Local::default()),
                Decision {
                    verdict: respected,
                    reason,
                    rule: None,
                    threshold: kept(respected, reason, 0.5)
                },
                "{parent:?} {id}"
            );
            assert_eq!(
                ignore.decide(&facts, origin(parent, id), &Local::default()),
                Decision {
                    verdict: ignored,
                    reason: Reason::Default,
                    rule: None,
                    threshold: kept(ignored, Reason::Default, 0.5)
                },
                "{parent:?} {id}"
            );
        }
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let mut sampler = sampler(
            r#"{"rate": 0, "rules": [
                {"name": "health", "match": {"path": {"prefix": "/health"}}, "rate": 0},
                {"name": "edge", "match": {"path": {"prefix": "/edge"}}, "parent": "ignore"},
                {"name": "half", "match": {"path": "/half"}, "rate": 0.5},
                {"name": "all", "rate": 1}]}"#,
        );
        let sample = Some(ParentDecision::Sample);
        for (path, parent, id, verdict, reason, rule) in [
            ("/healthz?x", None, high(), NO, Reason::Rule(0), 0),
            ("/healthz", sample, low(), YES, Reason::Parent, 0),
            ("/edge", sample, high(), NO, Reason::Rule(1), 1),
            ("/half", None, low(), NO, Reason::Rule(2), 2),
            ("/half", None, high(), YES, Reason::Rule(2), 2),
            ("/half", Some(ParentDecision::Deferred), high(), YES, Reason::Rule(2), 2),
            ("/", None, low(), YES, Reason::Rule(3), 3),
            ("/", Some(ParentDecision::Drop), low(), NO, Reason::Parent, 3),
        ] {
            let headers = get(path);
            assert_eq!(
                sampler.decide(&facts(&headers), origin(parent, id), &Local::default()),
                Decision {
                    verdict,
                    reason,
                    rule: Some(rule),
                    threshold: kept(verdict, reason, if path == "/half" { 0.5 } else { 1.0 })
                },
                "{path} {parent:?} {id}"
            );
        }
    }

    #[test]
    fn limits_hold_over_rules_and_over_all() {
        let mut sampler = sampler(
            r#"{"rate": 0.5, "limit_per_second": 4, "rules": [
                {"name": "pay", "match": {"path": "/pay"}, "rate": 1, "limit_per_second": 3},
                {"name": "free", "match": {"path": "/free"}, "rate": 1}]}"#,
        );
        let (pay, free, other) = (get("/pay"), get("/free"), get("/"));
        let sample = Some(ParentDecision::Sample);
        let shared = Local::default();
        for (headers, parent, id, verdict, reason, rule) in [
            // What the rate drops, and what a parent decides, takes no token.
            (&other, None, low(), NO, Reason::Default, None),
            (&pay, sample, low(), YES, Reason::Parent, Some(0)),
            (&pay, None, low(), YES, Reason::Rule(0), Some(0)),
            (&pay, None, low(), YES, Reason::Rule(0), Some(0)),
            (&pay, None, low(), YES, Reason::Rule(0), Some(0)),
            (&pay, None, low(), NO, Reason::Limit(Some(0)), Some(0)),
            // What its own limit drops takes no token from the others.
            (&free, None, low(), YES, Reason::Rule(1), Some(1)),
            (&free, None, low(), NO, Reason::Limit(None), Some(1)),
            (&other, None, high(), NO, Reason::Limit(None), None),
        ] {
            let decision = sampler.decide(&facts(headers), origin(parent, id), &shared);
            assert_eq!(decision, Decision { verdict, reason, rule, threshold: None });
        }
        assert_eq!(shared.keys(), ["meshweft/1/limit/3/pay", "meshweft/1/limit/4/"]);
    }

    #[test]
    fn what_the_limit_over_all_drops_is_given_back_to_the_rule() {
        let mut sampler = sampler(
            r#"{"limit_per_second": 1, "rules": [
                {"name": "pay", "match": {"path": "/pay"}, "limit_per_second": 0.01}]}"#,
        );
        let (pay, other) = (get("/pay"), get("/"));
        let shared = Local::default();
        let mut decide =
            |headers| sampler.decide(&facts(headers), origin(None, high()), &shared).reason;
        assert_eq!(decide(&other), Reason::Default);
        assert_eq!(decide(&pay), Reason::Limit(None));
        // As long as its lease lasts, another worker's token for all would do.
        assert_eq!(decide(&pay), Reason::Limit(None));
        shared.clock.set(MonoNanos(600_000_000));
        assert_eq!(decide(&pay), Reason::Rule(0));
        shared.clock.set(MonoNanos(3_000_000_000));
        assert_eq!(decide(&pay), Reason::Limit(Some(0)));
    }

    #[test]
    fn the_load_decides_where_no_rule_has_a_rate() {
        let mut sampler = sampler(
            r#"{"rate": 0.5, "adaptive": {"target_per_second": 1, "floor_per_minute": 1}, "rules": [
                {"name": "off", "match": {"path": "/off"}, "rate": 0},
                {"name": "named", "match": {"path": "/named"}}]}"#,
        );
        let (off, named, other) = (get("/off"), get("/named"), get("/"));
        let shared = Local::default();
        let side = Side::Always(Direction::Inbound);
        for (headers, id, verdict, reason, rule, rate) in [
            // A rule's rate is nobody's floor and nobody's load.
            (&off, high(), NO, Reason::Rule(0), Some(0), None),
            (&other, high(), YES, Reason::Adaptive, None, Some(0.5)),
            // That was this minute's trace of `GET shop`.
            (&other, low(), NO, Reason::Adaptive, None, None),
            (&named, high(), YES, Reason::Rule(1), Some(1), Some(1.0 / 3.0)),
        ] {
            let decision =
                sampler.decide(&Facts::new(headers, &NoRoute, side), origin(None, id), &shared);
            let threshold = rate.and_then(|rate| kept(YES, Reason::Adaptive, rate));
            assert_eq!(decision, Decision { verdict, reason, rule, threshold });
        }
        // The rest of two traces is owed for another minute.
        let minute = |minutes: u64| MonoNanos(minutes * 60_000_000_000);
        for (minutes, verdict, reason) in [
            (1, NO, Reason::Adaptive),
            (2, YES, Reason::Floor(None)),
            (2, NO, Reason::Adaptive),
            (3, YES, Reason::Floor(None)),
        ] {
            sampler.on_tick(minute(minutes), UnixNanos::default(), &shared);
            shared.clock.set(minute(minutes));
            let decision =
                sampler.decide(&Facts::new(&other, &NoRoute, side), origin(None, low()), &shared);
            let expected = Decision { verdict, reason, rule: None, threshold: None };
            assert_eq!(decision, expected, "{minutes}");
        }
        assert_eq!(shared.keys(), ["meshweft/1/floor/1/", "meshweft/1/load/1/"]);
    }

    /// Two rules with one target have a load and a floor each, and none of them is the default's.
    #[test]
    fn a_rule_may_follow_its_own_load() {
        let mut sampler = sampler(
            r#"{"rate": 0.01, "adaptive": {"target_per_second": 1}, "rules": [
                {"name": "pay", "match": {"path": "/pay"},
                    "adaptive": {"target_per_second": 2, "floor_per_minute": 1}},
                {"name": "buy", "match": {"path": "/buy"}, "rate": 0.25,
                    "adaptive": {"target_per_second": 2}}]}"#,
        );
        let (pay, buy, other) = (get("/pay"), get("/buy"), get("/"));
        let shared = Local::default();
        let side = Side::Always(Direction::Inbound);
        for (headers, id, verdict, reason, rule, rate) in [
            // Without a rate of its own nothing but its load lowers it.
            (&pay, low(), YES, Reason::Rule(0), Some(0), Some(1.0)),
            (&pay, low(), YES, Reason::Rule(0), Some(0), Some(1.0)),
            (&pay, high(), YES, Reason::Rule(0), Some(0), Some(2.0 / 3.0)),
            (&pay, low(), NO, Reason::Rule(0), Some(0), None),
            // Its rate is the highest.
            (&buy, high(), YES, Reason::Rule(1), Some(1), Some(0.25)),
            (&buy, low(), NO, Reason::Rule(1), Some(1), None),
            (&other, high(), YES, Reason::Adaptive, None, Some(0.01)),
        ] {
            let threshold = rate.and_then(|rate| kept(YES, reason, rate));
            let facts = Facts::new(headers, &NoRoute, side);
            let decision = sampler.decide(&facts, origin(None, id), &shared);
            assert_eq!(decision, Decision { verdict, reason, rule, threshold });
        }
        sampler.on_tick(MonoNanos(1_000_000_000), UnixNanos::default(), &shared);
        assert_eq!(
            shared.keys(),
            [
                "meshweft/1/floor/1/pay",
                "meshweft/1/load/1/",
                "meshweft/1/load/2/buy",
                "meshweft/1/load/2/pay"
            ]
        );
    }

    #[test]
    fn a_rules_floor_is_its_own() {
        let mut sampler = sampler(
            r#"{"rules": [{"name": "pay", "match": {"path": "/pay"}, "rate": 0,
                "adaptive": {"target_per_second": 2, "floor_per_minute": 1}}]}"#,
        );
        let (pay, shared) = (get("/pay"), Local::default());
        let facts = Facts::new(&pay, &NoRoute, Side::Always(Direction::Inbound));
        let decision = sampler.decide(&facts, origin(None, high()), &shared);
        let reason = Reason::Floor(Some(0));
        assert_eq!(decision, Decision { verdict: YES, reason, rule: Some(0), threshold: None });
        assert_eq!(reason.describe(&sampler.sampling), "floor:pay");
        assert_eq!(sampler.decide(&facts, origin(None, high()), &shared).verdict, NO);
    }

    const REMOTE: &str = r#"{"rate": 0.5, "limit_per_second": 1000,
        "remote": {"cluster": "jaeger"}, "rules": [
            {"name": "off", "match": {"path": "/off"}, "rate": 0},
            {"name": "named", "match": {"path": "/named"}}]}"#;

    /// Decisions by the server's `answer` about a request by rule and one without.
    fn told(sampler: &mut Sampler, answer: &str, shared: &Local) {
        let answered = sampler.on_answer(Ok(answer.as_bytes()), shared.now(), shared);
        assert_eq!(answered, Ok(()), "{answer}");
    }

    #[test]
    fn the_server_decides_where_no_rule_has_a_rate() {
        let json = REMOTE.replace(r#""limit_per_second": 1000,"#, "");
        let mut sampler = sampler(&json);
        let (off, named, other) = (get("/off"), get("/named"), get("/"));
        let shared = Local::default();
        let sample = Some(ParentDecision::Sample);
        let all = r#"{"probabilisticSampling": {"samplingRate": 1}}"#;
        let quarter = r#"{"strategyType": "PROBABILISTIC",
            "probabilisticSampling": {"samplingRate": 0.25}}"#;
        for (answer, headers, parent, id, verdict, reason, rule, rate) in [
            // Until the first answer, and after a bad one.
            ("", &other, None, low(), NO, Reason::Default, None, 0.5),
            ("", &other, None, high(), YES, Reason::Default, None, 0.5),
            ("", &named, None, high(), YES, Reason::Rule(1), Some(1), 0.5),
            (all, &other, None, low(), YES, Reason::Remote, None, 1.0),
            ("", &other, None, low(), YES, Reason::Remote, None, 1.0),
            (quarter, &other, None, low(), NO, Reason::Remote, None, 0.25),
            (quarter, &other, None, high(), YES, Reason::Remote, None, 0.25),
            (quarter, &named, None, high(), YES, Reason::Rule(1), Some(1), 0.25),
            // Parents and the rates of rules come before.
            (quarter, &other, sample, low(), YES, Reason::Parent, None, 0.25),
            (all, &off, None, high(), NO, Reason::Rule(0), Some(0), 0.0),
        ] {
            if answer.is_empty() {
                let bad = sampler.on_answer(Ok(b"{}"), shared.now(), &shared);
                assert!(bad.is_err());
            } else {
                told(&mut sampler, answer, &shared);
            }
            let decision = sampler.decide(&facts(headers), origin(parent, id), &shared);
            let threshold = kept(verdict, reason, rate);
            assert_eq!(decision, Decision { verdict, reason, rule, threshold }, "{answer}");
        }
        assert_eq!(Reason::Remote.describe(&sampler.sampling), "remote");
    }

    #[test]
    fn the_servers_limit_is_one_of_traces_per_second() {
        let mut sampler = sampler(REMOTE);
        let (headers, shared) = (get("/"), Local::default());
        let recorded = |sampler: &mut Sampler| {
            let decisions = (0..20).map(|_| {
                let decision = sampler.decide(&facts(&headers), origin(None, low()), &shared);
                assert_eq!((decision.reason, decision.threshold), (Reason::Remote, None));
                usize::from(decision.verdict == YES)
            });
            decisions.sum::<usize>()
        };
        let limit = |limit: u32| {
            format!(
                r#"{{"strategyType": "RATE_LIMITING",
                    "rateLimitingSampling": {{"maxTracesPerSecond": {limit}}}}}"#
            )
        };
        for (per_second, expected) in [(5, 5), (5, 0), (10, 10), (0, 0)] {
            told(&mut sampler, &limit(per_second), &shared);
            assert_eq!(recorded(&mut sampler), expected, "{per_second}");
        }
        let keys = shared.keys();
        let limits: Vec<_> = keys.iter().filter(|key| key.contains("limit")).collect();
        assert_eq!(
            limits,
            ["meshweft/1/limit/10/*remote", "meshweft/1/limit/1000/", "meshweft/1/limit/5/*remote"]
        );
    }

    #[test]
    fn the_server_may_tell_operations_apart() {
        let mut sampler = sampler(r#"{"remote": {"cluster": "jaeger"}}"#);
        let shared = Local::default();
        told(
            &mut sampler,
            r#"{"operationSampling": {"defaultSamplingProbability": 0.25,
                "defaultLowerBoundTracesPerSecond": 0.02, "perOperationStrategies": [
                    {"operation": "GET", "probabilisticSampling": {"samplingRate": 0}},
                    {"operation": "shop.Cart/Add", "probabilisticSampling": {"samplingRate": 1}}]}}"#,
            &shared,
        );
        let get = get("/");
        let add: Headers = [
            (":method", "POST"),
            (":path", "/shop.Cart/Add"),
            (":authority", "shop"),
            ("content-type", "application/grpc"),
        ]
        .into_iter()
        .collect();
        let put: Headers =
            [(":method", "PUT"), (":path", "/"), (":authority", "shop")].into_iter().collect();
        for (headers, id, verdict, reason, rate) in [
            (&add, low(), YES, Reason::Remote, 1.0),
            (&put, high(), YES, Reason::Remote, 0.25),
            // 1.2 a minute, and the rate has given one.
            (&put, low(), NO, Reason::Remote, 0.25),
            (&get, high(), YES, Reason::Floor(None), 0.0),
            (&get, high(), NO, Reason::Remote, 0.0),
        ] {
            let facts = Facts::new(headers, &NoRoute, Side::Always(Direction::Inbound));
            let decision = sampler.decide(&facts, origin(None, id), &shared);
            let threshold = kept(verdict, reason, rate).filter(|_| reason == Reason::Remote);
            assert_eq!(decision, Decision { verdict, reason, rule: None, threshold });
        }
    }

    /// Rates and floors are of operations as spans name them, by `spans.routes` before the host.
    #[test]
    fn operations_are_told_apart_by_templates() {
        let shared = Local::default();
        let routes = Rc::new(Routes::new(&[Template::parse("/orders/{id}").unwrap()]));
        let sampler = |json: &str| Sampler { routes: Rc::clone(&routes), ..sampler(json) };
        let mut remote = sampler(r#"{"remote": {"cluster": "jaeger"}}"#);
        told(
            &mut remote,
            r#"{"operationSampling": {"defaultSamplingProbability": 0, "perOperationStrategies": [
                {"operation": "GET /orders/{id}", "probabilisticSampling": {"samplingRate": 1}}]}}"#,
            &shared,
        );
        let mut floor =
            sampler(r#"{"rate": 0, "adaptive": {"target_per_second": 1, "floor_per_minute": 1}}"#);
        for (path, rated, lifted) in [
            ("/orders/7", YES, YES),
            // The same operation: its trace of this minute is there.
            ("/orders/8?a=b", YES, NO),
            ("/orders", NO, YES),
        ] {
            let headers = get(path);
            let facts = Facts::new(&headers, &NoRoute, Side::Always(Direction::Inbound));
            let origin = origin(None, low());
            assert_eq!(remote.decide(&facts, origin, &shared).verdict, rated, "{path}");
            assert_eq!(floor.decide(&facts, origin, &shared).verdict, lifted, "{path}");
        }
    }

    /// A parent's decisions are no load, and without limits nothing is shared.
    #[test]
    fn shared_data_is_left_alone_where_nothing_needs_it() {
        let mut sampler = sampler(
            r#"{"rate": 0.5, "limit_per_second": 1, "adaptive": {"target_per_second": 1}}"#,
        );
        let (headers, shared) = (get("/"), Local::default());
        for parent in [ParentDecision::Sample, ParentDecision::Drop] {
            sampler.decide(&facts(&headers), origin(Some(parent), high()), &shared);
        }
        sampler.decide(&facts(&headers), origin(None, low()), &shared);
        assert_eq!(shared.keys(), [""; 0]);
    }

    #[test]
    fn an_expired_rule_is_void_and_the_next_one_decides() {
        let mut sampler = sampler(
            r#"{"rate": 0, "rules": [
                {"name": "incident", "match": {"path": {"prefix": "/pay"}}, "rate": 1,
                    "until": "1970-01-01T00:00:10Z"},
                {"name": "pay", "match": {"path": "/pay"}, "rate": 0},
                {"name": "short", "match": {"path": "/pay"}, "until": "1970-01-01T00:00:05Z"}]}"#,
        );
        let headers = get("/pay");
        for (wall, verdict, rule, expired) in [
            (0, YES, 0, &[][..]),
            (4_999_999_999, YES, 0, &[]),
            (5_000_000_000, YES, 0, &["short"]),
            (9_999_999_999, YES, 0, &["short"]),
            (10_000_000_000, NO, 1, &["incident", "short"]),
            (u64::MAX, NO, 1, &["incident", "short"]),
        ] {
            sampler.on_tick(MonoNanos::default(), UnixNanos(wall), &Local::default());
            assert_eq!(
                sampler.decide(&facts(&headers), origin(None, low()), &Local::default()),
                Decision {
                    verdict,
                    reason: Reason::Rule(rule),
                    rule: Some(rule),
                    threshold: kept(verdict, Reason::Rule(rule), 1.0)
                },
                "{wall}"
            );
            assert_eq!(sampler.expired().collect::<Vec<_>>(), expired, "{wall}");
        }
    }

    #[test]
    fn a_rule_may_respect_what_the_configuration_ignores() {
        let mut sampler = sampler(
            r#"{"parent": "ignore", "rate": 1, "rules": [
                {"name": "inner", "match": {"host": "shop"}, "parent": "respect"}]}"#,
        );
        let headers = get("/");
        assert_eq!(
            sampler.decide(
                &facts(&headers),
                origin(Some(ParentDecision::Drop), high()),
                &Local::default()
            ),
            Decision { verdict: NO, reason: Reason::Parent, rule: Some(0), threshold: None }
        );
    }

    #[test]
    fn a_parents_threshold_goes_on_if_it_kept_the_trace() {
        use ParentDecision::{Debug, Deferred, Drop, Sample};
        let mut sampler = sampler(r#"{"rate": 1}"#);
        let headers = get("/");
        let (all, half) = (Threshold::from_hex("0"), Threshold::from_hex("8"));
        for (parent, id, ot, expected) in [
            (Some(Sample), high(), "th:8", half),
            (Some(Debug), high(), "th:8", half),
            (Some(Sample), low(), "th:8", None),
            (Some(Sample), low(), "rv:80000000000000;th:8", half),
            (Some(Sample), high(), "rv:7fffffffffffff;th:8", None),
            (Some(Sample), high(), "rv:80000000000000", None),
            (Some(Drop), high(), "th:8", None),
            (Some(Drop), low(), "th:8", None),
            (Some(Deferred), low(), "th:8", all),
            (None, low(), "", all),
        ] {
            let origin = Origin::new(id, parent, Some(&OtMember::parse(ot)));
            let threshold = sampler.decide(&facts(&headers), origin, &Local::default()).threshold;
            assert_eq!(threshold, expected, "{parent:?} {id} {ot}");
        }
    }

    #[test]
    fn the_senders_randomness_counts_in_place_of_the_id() {
        let mut sampler = sampler(r#"{"rate": 0.5, "parent": "ignore"}"#);
        let headers = get("/");
        for (id, ot, verdict) in [
            (low(), "rv:80000000000000", YES),
            (high(), "rv:7fffffffffffff", NO),
            (high(), "rv:7fffffffffffff;", YES),
        ] {
            let origin = Origin::new(id, None, Some(&OtMember::parse(ot)));
            assert_eq!(
                sampler.decide(&facts(&headers), origin, &Local::default()).verdict,
                verdict,
                "{id} {ot}"
            );
        }
    }

    /// The chi-squared test of each rate, whose bound one run in a thousand would miss.
    #[test]
    fn rates_are_met_and_monotone() {
        const RATES: [f64; 4] = [0.001, 0.01, 0.1, 0.5];
        let mut rng = SmallRng::seed_from_u64(1);
        let headers = get("/");
        let facts = facts(&headers);
        let mut samplers = RATES.map(|rate| sampler(&format!(r#"{{"rate": {rate}}}"#)));
        let mut recorded = [0_u32; RATES.len()];
        let n = 1_000_000_u32;
        for _ in 0..n {
            let origin = origin(None, TraceId::random(&mut rng));
            let mut before = NO;
            for (sampler, count) in samplers.iter_mut().zip(&mut recorded) {
                let verdict = sampler.decide(&facts, origin, &Local::default()).verdict;
                assert!(before == NO || verdict == YES, "a larger rate lost {origin:?}");
                before = verdict;
                *count += u32::from(verdict == YES);
            }
        }
        for (rate, count) in RATES.into_iter().zip(recorded) {
            let expected = f64::from(n) * rate;
            let difference = f64::from(count) - expected;
            let chi_squared =
                difference.powi(2) / expected + difference.powi(2) / (f64::from(n) - expected);
            assert!(chi_squared < 10.83, "{rate}: {count}, {chi_squared}");
        }
    }
}
