//! One open request, with the histories that are possible for it.
//!
//! A history says which of the calls so far a request has made. Its weight is the product of the
//! rates of what it made and the chances of what it did not make meanwhile, as learned; how likely
//! it is depends on the other requests as well ([`joint`](super::joint)).

use super::joint::Way;
use super::model::{Callee, Exit, Last, Lesson, Model, Route, State};
use super::order::Order;
use super::table::{Call, place};

/// Histories of one request at most.
pub(super) const MAX_HISTORIES: usize = 16;
/// Calls that one request may have made, at most.
pub(super) const MAX_CALLS: usize = 24;
/// A history that is so much less likely than the likeliest is not followed.
const IMPOSSIBLE: f32 = 1e-4;
/// A history is learned from if it is at least so likely.
const LEARNED: f32 = 0.05;

/// An open request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Open {
    pub(super) id: u32,
    /// Who follows it.
    pub(super) worker: u32,
    /// What is to be known of it, for whoever asks.
    pub(super) about: Vec<u8>,
    pub(super) route: Route,
    /// Microseconds.
    pub(super) begun: u64,
    /// The declared calls that it may make, as a set of their positions.
    pub(super) may: u64,
    /// Whether no other request has been open beside it.
    pub(super) alone: bool,
    pub(super) order: Order,
    pub(super) histories: Vec<History>,
    pub(super) calls: Vec<Maybe>,
    /// Which part of what is possible was followed; meaningful during one event.
    pub(super) covered: f32,
}

/// One way in which a request may have come to where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct History {
    pub(super) last: Last,
    /// When the state was entered, in microseconds.
    pub(super) since: u64,
    /// Which of the request's calls it has made, as a set of their positions.
    pub(super) made: u32,
    /// Which of those are not answered.
    pub(super) open: u32,
    /// How likely it was by itself when the state was entered.
    pub(super) weight: f32,
    /// The same now; meaningful during one event.
    pub(super) now: f32,
    /// How likely it is by all that is known; meaningful during one event.
    pub(super) likely: f32,
}

/// The rates at which a request makes a call.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) rate: f32,
    /// The rate if a history is true.
    rates: Vec<f32>,
}

/// A call that a request may have made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Maybe {
    pub(super) call: u32,
    /// How sure of it an answer was that named this request; 0: none was.
    pub(super) claimed: f32,
}

impl Open {
    /// Whether the declared calls let it make one that needs one of `needs`.
    pub(super) const fn can_make(&self, needs: u64) -> bool {
        needs == 0 || self.may & needs != 0
    }

    /// What the weights have become by waiting until `now`.
    pub(super) fn survive(&mut self, model: &Model, now: u64) {
        let route = self.route;
        for history in &mut self.histories {
            let at = model.at(state(route, history), now.saturating_sub(history.since));
            history.now = history.weight * at.survival();
        }
    }

    /// Its histories for [`joint`](super::joint), by the position that each of `calls` has there.
    pub(super) fn ways(&self, calls: &[Call], places: &[u128]) -> Vec<Way> {
        let place = |maybe: &Maybe| {
            place(calls, maybe.call).and_then(|at| places.get(at)).copied().unwrap_or_default()
        };
        let places: Vec<u128> = self.calls.iter().map(place).collect();
        let made = |history: &History| {
            let made = places.iter().enumerate().filter(|(i, _)| history.made & bit(*i) != 0);
            made.fold(0, |made, (_, place)| made | place)
        };
        let histories = self.histories.iter();
        histories.map(|history| Way { made: made(history), weight: history.now }).collect()
    }

    /// How likely it has made the call at this position.
    pub(super) fn has_made(&self, position: usize) -> f32 {
        let made = self.histories.iter().filter(|history| history.made & bit(position) != 0);
        made.map(|history| history.likely).sum()
    }

    /// How likely its likeliest history is.
    pub(super) fn likeliest(&self) -> f32 {
        self.histories.iter().map(|history| history.likely).fold(0.0, f32::max)
    }

    /// Forgets histories that are hardly possible.
    pub(super) fn rule_out(&mut self) {
        let least = self.likeliest() * IMPOSSIBLE;
        if self.histories.iter().any(|history| history.likely < least) {
            self.histories.retain(|history| history.likely >= least);
            self.drop_unmade();
        }
    }

    /// Forgets the calls for which `nobody` gives the weight of that nobody has made them.
    /// Histories that do not differ otherwise become one.
    pub(super) fn reduce(&mut self, nobody: impl Fn(u32) -> Option<f32>) {
        let mut forgotten = 0;
        for (index, maybe) in self.calls.iter().enumerate() {
            let Some(nobody) = nobody(maybe.call) else { continue };
            forgotten |= bit(index);
            let without = self.histories.iter_mut().filter(|h| h.made & bit(index) == 0);
            without.for_each(|history| history.weight *= nobody);
        }
        let mut reduced: Vec<History> = Vec::new();
        for history in self.histories.drain(..) {
            let (made, open) = (history.made & !forgotten, history.open & !forgotten);
            match reduced.iter_mut().find(|other| other.made == made) {
                Some(other) => {
                    other.weight += history.weight;
                    other.likely += history.likely;
                }
                None => reduced.push(History { made, open, ..history }),
            }
        }
        self.histories = reduced;
        self.scale();
        self.drop_unmade();
    }

    /// The rates at which its histories make such a call.
    pub(super) fn shares(&self, model: &Model, callee: Callee, now: u64) -> Shares {
        let mut shares = Shares::default();
        for history in &self.histories {
            let at = model.at(state(self.route, history), now.saturating_sub(history.since));
            let rate = at.rate(Exit::Call(callee));
            shares.rates.push(rate);
            shares.rate += history.likely * rate;
        }
        shares
    }

    /// Each history goes on in two ways: with the call and without it; `false` if it has too many
    /// calls to follow one more.
    pub(super) fn may_have_made(
        &mut self,
        call: u32,
        callee: Callee,
        shares: &Shares,
        scale: f32,
        now: u64,
    ) -> bool {
        if self.calls.len() >= MAX_CALLS {
            return false;
        }
        let by_others = (1.0 - shares.rate * scale).max(0.0);
        let bit = self.push(Maybe { call, claimed: 0.0 });
        let mut with = Vec::with_capacity(self.histories.len());
        for (history, rate) in self.histories.iter_mut().zip(&shares.rates) {
            let weight = history.now * rate * scale;
            with.push(History {
                last: Last::Called(callee),
                since: now,
                made: history.made | bit,
                open: history.open | bit,
                weight,
                now: weight,
                likely: history.likely * rate * scale,
            });
            history.likely *= by_others;
        }
        self.histories.extend(with);
        self.prune();
        true
    }

    /// It has certainly made a call, which says how well each history fits; `false` if it has too
    /// many to follow one more.
    pub(super) fn made(&mut self, model: &Model, call: u32, callee: Callee, now: u64) -> bool {
        if self.calls.len() >= MAX_CALLS {
            return false;
        }
        let bit = self.push(Maybe { call, claimed: 0.0 });
        let route = self.route;
        for history in &mut self.histories {
            let at = model.at(state(route, history), now.saturating_sub(history.since));
            history.weight *= at.survival() * at.rate(Exit::Call(callee));
            history.last = Last::Called(callee);
            history.since = now;
            history.made |= bit;
            history.open |= bit;
        }
        self.scale();
        true
    }

    /// A call was answered that it may have made.
    pub(super) fn answer(&mut self, model: &Model, call: u32, callee: Callee, now: u64) {
        let Some(index) = self.calls.iter().position(|maybe| maybe.call == call) else { return };
        let bit = bit(index);
        let route = self.route;
        for history in self.histories.iter_mut().filter(|history| history.open & bit != 0) {
            let at = model.at(state(route, history), now.saturating_sub(history.since));
            history.weight *= at.survival();
            history.last = Last::Answered(callee);
            history.since = now;
            history.open &= !bit;
        }
        self.scale();
    }

    /// Weighs the histories by their ends.
    pub(super) fn end(&mut self, model: &Model, now: u64) {
        let route = self.route;
        for history in &mut self.histories {
            let at = model.at(state(route, history), now.saturating_sub(history.since));
            history.now *= at.rate(Exit::End);
        }
        let most = self.histories.iter().fold(0.0, |most: f32, history| most.max(history.now));
        if most > 0.0 {
            self.histories.iter_mut().for_each(|history| history.now /= most);
        }
    }

    /// Learns from the histories that are likely at the end.
    pub(super) fn learn(&self, calls: &[Call], now: u64, lessons: &mut Vec<Lesson>) {
        for history in &self.histories {
            let likely = history.likely;
            if likely < LEARNED {
                continue;
            }
            let mut state = State { route: self.route, ..State::default() };
            let mut since = self.begun;
            let mut made: Vec<(u64, Option<Exit>, Callee)> = Vec::new();
            let insert = |made: &mut Vec<(u64, _, _)>, event: (u64, _, _)| {
                made.insert(made.partition_point(|(at, ..)| *at <= event.0), event);
            };
            for (index, maybe) in self.calls.iter().enumerate() {
                let call = place(calls, maybe.call).and_then(|place| calls.get(place));
                let Some(call) = call.filter(|_| history.made & bit(index) != 0) else { continue };
                insert(&mut made, (call.at, Some(Exit::Call(call.callee)), call.callee));
                if call.answered != 0 {
                    insert(&mut made, (call.answered, None, call.callee));
                }
            }
            for (at, exit, callee) in made {
                let lasted = at.saturating_sub(since);
                lessons.push(Lesson { state, lasted, exit, weight: likely });
                since = at;
                if exit.is_some() {
                    state.last = Last::Called(callee);
                    state.made = state.made.saturating_add(1);
                    state.open = state.open.saturating_add(1);
                } else {
                    state.last = Last::Answered(callee);
                    state.open = state.open.saturating_sub(1);
                }
            }
            let end = Some(Exit::End);
            let lasted = now.saturating_sub(since);
            lessons.push(Lesson { state, lasted, exit: end, weight: likely });
        }
    }

    /// Adds a call and gives the set of it alone.
    fn push(&mut self, maybe: Maybe) -> u32 {
        let position = self.calls.len();
        self.calls.push(maybe);
        bit(position)
    }

    /// Keeps the most likely histories, with weights around 1.
    fn prune(&mut self) {
        let mut order: Vec<History> = Vec::with_capacity(self.histories.len());
        for history in &self.histories {
            let likely = |other: &History| other.likely >= history.likely;
            let place = order.partition_point(likely);
            order.insert(place, *history);
        }
        order.truncate(MAX_HISTORIES);
        self.histories = order;
        self.scale();
        self.drop_unmade();
    }

    /// Weights around 1.
    fn scale(&mut self) {
        let most = self.histories.iter().fold(0.0, |most: f32, history| most.max(history.weight));
        for history in self.histories.iter_mut().filter(|_| most > 0.0) {
            history.weight /= most;
            history.now /= most;
        }
    }

    /// The calls that it has made in some history, and whether it has in all.
    pub(super) fn may_have(&self) -> impl Iterator<Item = (u32, bool)> {
        let ever = self.histories.iter().fold(0, |ever, history| ever | history.made);
        let always = self.histories.iter().fold(ever, |always, history| always & history.made);
        let calls = self.calls.iter().enumerate().filter(move |(i, _)| ever & bit(*i) != 0);
        calls.map(move |(index, maybe)| (maybe.call, always & bit(index) != 0))
    }

    /// Calls that no history has made any more give up their places; but whether a claim was right
    /// is still to be told at the end.
    fn drop_unmade(&mut self) {
        let used = self.histories.iter().fold(0, |used, history| used | history.made);
        let mut places = Vec::with_capacity(self.calls.len());
        let mut index = 0_usize;
        self.calls.retain(|maybe| {
            let kept = used & bit(index) != 0 || maybe.claimed > 0.0;
            if kept {
                places.push(index);
            }
            index = index.saturating_add(1);
            kept
        });
        if places.len() == index {
            return;
        }
        let moved = |set: u32| {
            let places = places.iter().enumerate();
            places.fold(0, |to, (new, old)| to | if set & bit(*old) != 0 { bit(new) } else { 0 })
        };
        for history in &mut self.histories {
            history.made = moved(history.made);
            history.open = moved(history.open);
        }
    }
}

fn state(route: Route, history: &History) -> State {
    State {
        route,
        last: history.last,
        made: history.made.count_ones(),
        open: history.open.count_ones(),
    }
}

/// The set of one position.
fn bit(position: usize) -> u32 {
    u32::try_from(position).ok().and_then(|position| 1_u32.checked_shl(position)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn open() -> Open {
        Open {
            id: 1,
            worker: 1,
            about: Vec::new(),
            route: Route(1),
            begun: 0,
            may: 0b10,
            alone: true,
            order: Order::new(0),
            histories: vec![History { weight: 1.0, now: 1.0, likely: 1.0, ..History::default() }],
            calls: Vec::new(),
            covered: 1.0,
        }
    }

    /// What each history has made, the most likely first.
    fn made(open: &Open) -> Vec<u32> {
        open.histories.iter().map(|history| history.made).collect()
    }

    #[test]
    fn declared_calls_are_made_by_those_that_may() {
        assert_eq!(
            [0, 0b01, 0b10, 0b11].map(|needs| open().can_make(needs)),
            [true, false, true, true]
        );
    }

    #[test]
    fn a_call_that_it_may_have_made_divides_its_histories() {
        let mut open = open();
        let shares = Shares { rate: 3.0, rates: vec![3.0] };
        open.may_have_made(7, Callee(5), &shares, 0.25, 1000);
        assert_eq!(made(&open), [1, 0], "with a chance of three quarters it made it");
        let with = open.histories[0];
        assert_eq!((with.last, with.since, with.open), (Last::Called(Callee(5)), 1000, 1));
        open.answer(&Model::default(), 7, Callee(5), 2000);
        let answered = open.histories[0];
        assert_eq!(
            (answered.last, answered.since, answered.made, answered.open),
            (Last::Answered(Callee(5)), 2000, 1, 0)
        );
        assert_eq!(open.histories[1].since, 0, "who made no call waits for no answer");
    }

    #[test]
    fn a_call_that_it_has_made_is_in_all_histories_until_there_are_too_many() {
        let mut open = open();
        for call in 1..=24 {
            assert!(open.made(&Model::default(), call, Callee(5), u64::from(call)));
        }
        assert!(!open.made(&Model::default(), 25, Callee(5), 25));
        assert_eq!(made(&open), [(1 << MAX_CALLS) - 1]);
        assert_eq!(open.histories[0].since, 24);
    }

    #[test]
    fn histories_that_differ_in_nothing_that_matters_become_one() {
        let mut open = open();
        for call in 1..=2 {
            open.made(&Model::default(), call, Callee(5), 0);
        }
        let history = |made, weight| History { made, weight, likely: weight, ..History::default() };
        open.histories = vec![history(0b11, 0.25), history(0b10, 0.5), history(0b01, 1.0)];
        open.reduce(|call| (call == 1).then_some(0.5));
        assert_eq!(open.calls.iter().map(|maybe| maybe.call).collect::<Vec<_>>(), [2]);
        let left: Vec<_> = open.histories.iter().map(|h| (h.made, h.weight, h.likely)).collect();
        assert_eq!(left, [(1, 0.5, 0.75), (0, 1.0, 1.0)], "0.25 + 0.5 * 0.5, and the other");
    }

    #[test]
    fn calls_that_no_history_has_made_give_up_their_places() {
        let mut open = open();
        for call in 1..=3 {
            open.made(&Model::default(), call, Callee(5), 0);
        }
        open.histories[0].made = 0b101;
        open.histories[0].open = 0b100;
        open.drop_unmade();
        let calls = |open: &Open| open.calls.iter().map(|maybe| maybe.call).collect::<Vec<_>>();
        assert_eq!(calls(&open), [1, 3]);
        assert_eq!((open.histories[0].made, open.histories[0].open), (0b11, 0b10));
        open.calls[0].claimed = 0.9;
        open.histories[0].made = 0b10;
        open.drop_unmade();
        assert_eq!(calls(&open), [1, 3], "the end is to tell that the claim was wrong");
        assert_eq!(open.may_have().collect::<Vec<_>>(), [(3, true)]);
    }
}
