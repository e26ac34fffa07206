//! What has been learned about delays: in each state of a request, how long until it makes which
//! call, or ends.
//!
//! A state's delays are kept as rates per span of time (a piecewise constant hazard over buckets
//! that widen by a fifth): time spent in it, and what ended it. That bears being cut off by an
//! answer that comes in between, and needs no shape of distribution. Everything is bounded, and
//! what is older than about [`MEMORY`] visits of a state fades.

/// Buckets of delays: from 10 µs, each a fifth wider, to about two seconds.
pub(super) const BUCKETS: usize = 64;
/// Where each bucket begins, in microseconds; the last one has no end.
const EDGES: [f32; BUCKETS] = edges();
/// States that are remembered at most.
pub(super) const MAX_STATES: usize = 192;
/// Ways out of one state that are remembered at most.
pub(super) const MAX_EXITS: usize = 6;
/// Visits of a state after which half of what is known of it fades.
const MEMORY: f32 = 2000.0;
/// The weight of what is assumed before anything is known, in visits.
const PRIOR: f32 = 0.7;
/// The least chance of having waited for so long.
const LEAST: f32 = 1e-12;
/// The chance assumed for a known way out, for each bucket.
const PRIOR_KNOWN: f32 = 0.01;
/// The chance assumed for a call that was never seen in a state.
const PRIOR_UNSEEN: f32 = 0.005;

const fn edges() -> [f32; BUCKETS] {
    let mut edges = [0.0; BUCKETS];
    let mut edge = 10.0;
    let mut index = 1;
    #[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "constant")]
    while index < BUCKETS {
        edges[index] = edge;
        edge *= 1.21;
        index += 1;
    }
    edges
}

/// What is called, as a hash of destination, method and path template; 0 is nobody's.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Callee(pub u32);

/// Which kind of request came in, as a hash of method and path template.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Route(pub u32);

/// What happened last to a request, of what can be seen from outside.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Last {
    #[default]
    Begun,
    Called(Callee),
    Answered(Callee),
}

/// A state of a request: of which kind, what happened last, how many calls it has made and how
/// many of those are not answered yet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct State {
    pub(super) route: Route,
    pub(super) last: Last,
    pub(super) made: u32,
    pub(super) open: u32,
}

impl State {
    /// States beyond these counts are taken for alike.
    const MOST: u32 = 7;

    fn key(self) -> u64 {
        let (kind, callee) = match self.last {
            Last::Begun => (0, 0),
            Last::Called(Callee(callee)) => (1, callee),
            Last::Answered(Callee(callee)) => (2, callee),
        };
        let counts = self.made.min(Self::MOST) << 5 | self.open.min(Self::MOST) << 2 | kind;
        let mut key = u64::from(self.route.0) << 32 | u64::from(callee);
        // Finalizer of splitmix64: every bit counts in every bit.
        key ^= u64::from(counts).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        key = (key ^ (key >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        key = (key ^ (key >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        key ^ (key >> 31)
    }
}

/// What ends a state from within.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Exit {
    Call(Callee),
    End,
}

impl Exit {
    const fn code(self) -> u32 {
        match self {
            Self::Call(Callee(callee)) => callee,
            Self::End => 0,
        }
    }
}

/// One visit of a state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lesson {
    pub(super) state: State,
    /// Microseconds.
    pub(super) lasted: u64,
    /// What ended it; none: it was cut off.
    pub(super) exit: Option<Exit>,
    /// How sure it is.
    pub(super) weight: f32,
}

pub(super) type Histogram = [f32; BUCKETS];

#[derive(Clone, Debug)]
pub(super) struct Learned {
    pub(super) key: u64,
    /// Visits as they reached each bucket; a part of a bucket is a part of a visit.
    pub(super) visits: Histogram,
    pub(super) exits: Vec<(u32, Histogram)>,
    rates: Rates,
}

/// What [`Learned`] says, ready to be asked: rates per microsecond.
#[derive(Clone, Debug)]
struct Rates {
    /// The sum of all rates up to the beginning of each bucket.
    before: Histogram,
    all: Histogram,
    exits: Vec<(u32, Histogram)>,
    unseen: Histogram,
}

/// What is known of delays.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) states: Vec<Learned>,
}

/// A state at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'m> {
    learned: Option<&'m Learned>,
    bucket: usize,
    elapsed: f32,
}

impl Model {
    /// `state` as it is `elapsed` microseconds after it was entered.
    pub(super) fn at(&self, state: State, elapsed: u64) -> At<'_> {
        let key = state.key();
        let found = self.states.binary_search_by_key(&key, |learned| learned.key).ok();
        let elapsed = micros(elapsed);
        At { learned: found.and_then(|i| self.states.get(i)), bucket: bucket(elapsed), elapsed }
    }

    /// Takes in one visit of a state; [`refresh`](Self::refresh) makes it count.
    pub(super) fn learn(&mut self, lesson: &Lesson) {
        if let Some(learned) = self.of(lesson.state.key()) {
            learned.learn(lesson);
        }
    }

    /// Takes in all that another one has learned.
    pub(super) fn merge(&mut self, other: &Self) {
        for theirs in &other.states {
            let Some(ours) = self.of(theirs.key) else { continue };
            add(&mut ours.visits, &theirs.visits);
            for (code, events) in &theirs.exits {
                if let Some(known) = ours.exit(*code) {
                    add(known, events);
                }
            }
        }
    }

    fn of(&mut self, key: u64) -> Option<&mut Learned> {
        let index = match self.states.binary_search_by_key(&key, |learned| learned.key) {
            Ok(index) => index,
            Err(_) if self.states.len() >= MAX_STATES => return None,
            Err(index) => {
                self.states.insert(index, Learned::new(key));
                index
            }
        };
        self.states.get_mut(index)
    }

    /// Makes what was learned since the last call count.
    pub(super) fn refresh(&mut self) {
        for learned in &mut self.states {
            learned.refresh();
        }
    }
}

impl At<'_> {
    /// The chance that nothing has ended the state until now; never none at all, or a request that
    /// stays open for minutes could not be weighed any more.
    pub(super) fn survival(&self) -> f32 {
        let Some(learned) = self.learned else { return 1.0 };
        let before = of(&learned.rates.before, self.bucket);
        let rest = self.elapsed - of(&EDGES, self.bucket);
        (-before - rest * of(&learned.rates.all, self.bucket)).exp().max(LEAST)
    }

    /// The rate of `exit` per microsecond.
    pub(super) fn rate(&self, exit: Exit) -> f32 {
        let code = exit.code();
        let Some(learned) = self.learned else { return PRIOR_KNOWN / width(self.bucket) };
        let exit = learned.rates.exits.iter().find(|(known, _)| *known == code);
        of(exit.map_or(&learned.rates.unseen, |(_, rates)| rates), self.bucket)
    }

    /// The share of visits that end by `exit`.
    pub(super) fn share(&self, exit: Exit) -> f32 {
        let Some(learned) = self.learned else { return 0.0 };
        let events = learned.exits.iter().find(|(known, _)| *known == exit.code());
        let events: f32 = events.map_or(0.0, |(_, events)| events.iter().sum());
        let visits = learned.visits.iter().fold(1.0, |most: f32, visits| most.max(*visits));
        events / visits
    }
}

impl Learned {
    pub(super) fn new(key: u64) -> Self {
        let empty = [0.0; BUCKETS];
        let rates = Rates { before: empty, all: empty, exits: Vec::new(), unseen: empty };
        let mut learned = Self { key, visits: empty, exits: Vec::new(), rates };
        learned.refresh();
        learned
    }

    fn learn(&mut self, lesson: &Lesson) {
        let Lesson { weight, exit, .. } = *lesson;
        let lasted = micros(lesson.lasted);
        let last = bucket(lasted);
        for (index, visits) in self.visits.iter_mut().enumerate().take(last.saturating_add(1)) {
            let part = if index == last {
                ((lasted - of(&EDGES, index)) / width(index)).clamp(0.05, 1.0)
            } else {
                1.0
            };
            *visits += weight * part;
        }
        let events = exit.and_then(|exit| self.exit(exit.code()));
        if let Some(event) = events.and_then(|events| events.get_mut(last)) {
            *event += weight;
        }
    }

    fn exit(&mut self, code: u32) -> Option<&mut Histogram> {
        let known = self.exits.iter().position(|(known, _)| *known == code);
        let position = known.or_else(|| {
            (self.exits.len() < MAX_EXITS).then(|| {
                self.exits.push((code, [0.0; BUCKETS]));
                self.exits.len().saturating_sub(1)
            })
        });
        self.exits.get_mut(position?).map(|(_, events)| events)
    }

    fn refresh(&mut self) {
        if self.visits.first().is_some_and(|visits| *visits > MEMORY) {
            let exits = self.exits.iter_mut().flat_map(|(_, events)| events);
            self.visits.iter_mut().chain(exits).for_each(|value| *value /= 2.0);
        }
        let visits = smooth(&self.visits);
        let rates = |events: &Histogram, prior: f32| {
            let mut rates = smooth(events);
            for (index, (rate, visits)) in rates.iter_mut().zip(&visits).enumerate() {
                *rate = (*rate + PRIOR * prior) / ((visits + PRIOR) * width(index));
            }
            rates
        };
        let exits = self.exits.iter();
        let exits: Vec<_> = exits.map(|(code, e)| (*code, rates(e, PRIOR_KNOWN))).collect();
        let mut all = [0.0; BUCKETS];
        let mut before = [0.0; BUCKETS];
        let mut sum = 0.0;
        for (index, (all, before)) in all.iter_mut().zip(&mut before).enumerate() {
            *before = sum;
            *all = exits.iter().map(|(_, rates)| of(rates, index)).sum();
            sum += *all * width(index);
        }
        self.rates = Rates { before, all, exits, unseen: rates(&[0.0; BUCKETS], PRIOR_UNSEEN) };
    }
}

fn add(to: &mut Histogram, more: &Histogram) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to += more);
}

/// Each bucket with half of it from its neighbours.
fn smooth(values: &Histogram) -> Histogram {
    let mut smooth = [0.0; BUCKETS];
    for (index, value) in smooth.iter_mut().enumerate() {
        let here = of(values, index);
        let left = index.checked_sub(1).map_or(here, |left| of(values, left));
        let right = values.get(index.saturating_add(1)).copied().unwrap_or(here);
        *value = 0.25f32.mul_add(left + right, here / 2.0);
    }
    smooth
}

fn of(values: &Histogram, index: usize) -> f32 {
    values.get(index).copied().unwrap_or_default()
}

fn bucket(elapsed: f32) -> usize {
    EDGES.partition_point(|edge| *edge <= elapsed).saturating_sub(1)
}

/// The width of a bucket; of the last as if it had an end.
fn width(bucket: usize) -> f32 {
    let begin = of(&EDGES, bucket);
    EDGES.get(bucket.saturating_add(1)).map_or(begin * 0.21, |end| end - begin)
}

/// Microseconds as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "delays need no more than seven digits")]
fn micros(micros: u64) -> f32 {
    micros as f32
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const BEGUN: State = State { route: Route(1), last: Last::Begun, made: 0, open: 0 };
    const CALL: Exit = Exit::Call(Callee(7));

    fn learned(delays: impl Iterator<Item = u64>) -> Model {
        let mut model = Model::default();
        for lasted in delays {
            model.learn(&Lesson { state: BEGUN, lasted, exit: Some(CALL), weight: 1.0 });
        }
        model.refresh();
        model
    }

    #[test]
    fn a_call_is_likely_when_it_is_usually_made() {
        let model = learned((0..200).map(|i| 900 + i));
        let rate = |elapsed| model.at(BEGUN, elapsed).rate(CALL);
        assert!(rate(1000) > 50.0 * rate(100), "{} {}", rate(1000), rate(100));
        let survival = |elapsed| model.at(BEGUN, elapsed).survival();
        assert!(survival(300) > 0.95 && survival(3000) < 0.05, "{}", survival(3000));
        assert!(model.at(BEGUN, 0).share(CALL) > 0.99);
        assert_eq!(model.at(BEGUN, 0).share(Exit::End), 0.0);
    }

    #[test]
    fn what_is_not_known_is_possible() {
        let model = learned((0..200).map(|i| 900 + i));
        let other = State { made: 1, ..BEGUN };
        assert_eq!(model.at(other, 1000).survival(), 1.0);
        assert!(model.at(other, 1000).rate(CALL) > 0.0);
        let unseen = model.at(BEGUN, 1000).rate(Exit::Call(Callee(8)));
        assert!(unseen > 0.0 && unseen < model.at(BEGUN, 1000).rate(CALL) / 1000.0);
    }

    #[test]
    fn what_two_have_learned_adds_up_and_fades() {
        let mut model = learned([1000; 600].into_iter());
        model.merge(&learned([1000; 600].into_iter()));
        model.refresh();
        let visits = |model: &Model| model.states[0].visits[0];
        assert_eq!(visits(&model), 1200.0);
        model.merge(&learned([1000; 1200].into_iter()));
        model.refresh();
        assert_eq!(visits(&model), 1200.0, "half of it");
    }

    #[test]
    fn the_number_of_states_and_exits_is_bounded() {
        let mut model = Model::default();
        for kind in 0..1000 {
            let state = State { route: Route(kind), ..BEGUN };
            let exit = Some(Exit::Call(Callee(kind)));
            model.learn(&Lesson { state, lasted: 10, exit, weight: 1.0 });
            model.learn(&Lesson { state: BEGUN, lasted: 10, exit, weight: 1.0 });
        }
        assert_eq!(model.states.len(), MAX_STATES);
        assert!(model.states.iter().all(|learned| learned.exits.len() <= MAX_EXITS));
    }
}
