//! Applications that answer in order.
//!
//! On one thread with a queue, the request that has waited longest in a state from which a call
//! can be made is the one that makes it. Whether an application is of that kind needs no labels:
//! if it is not, requests end where none ever does, or with a call that was not answered.

use super::model::{Callee, Exit, Last, Model, State};
use super::table::{History, Open};

/// Ends that are remembered.
const MEMORY: f32 = 3000.0;
/// For each contradiction, so many ends were wrong: not each is one.
const UNSEEN: f32 = 2.0;
/// A way out that is rarer than this does not happen.
const NEVER: f32 = 0.05;

/// Where a request stands if all goes in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) last: Last,
    pub(super) since: u64,
    pub(super) made: u32,
    pub(super) open: u32,
    /// Whether another request could have made one of its calls.
    pub(super) tested: bool,
}

/// How often order was contradicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Contradictions {
    pub(super) ends: f32,
    pub(super) against: f32,
}

impl Order {
    pub(super) const fn new(now: u64) -> Self {
        Self { last: Last::Begun, since: now, made: 0, open: 0, tested: false }
    }

    pub(super) const fn answer(&mut self, callee: Callee, now: u64) {
        self.last = Last::Answered(callee);
        self.since = now;
        self.open = self.open.saturating_sub(1);
    }

    /// As a history says, after order was lost.
    pub(super) const fn resume(&mut self, history: &History) {
        self.last = history.last;
        self.since = history.since;
        self.made = history.made.count_ones();
        self.open = history.open.count_ones();
        self.tested = false;
    }

    const fn call(&mut self, callee: Callee, tested: bool, now: u64) {
        self.last = Last::Called(callee);
        self.since = now;
        self.made = self.made.saturating_add(1);
        self.open = self.open.saturating_add(1);
        self.tested |= tested;
    }
}

impl Contradictions {
    /// What an answer by order is worth.
    pub(super) fn worth(&self) -> f32 {
        1.0 - UNSEEN * (self.against + 1.0) / (self.ends + UNSEEN)
    }

    /// Gives a call to the request that has waited longest, or to the one that made it.
    pub(super) fn call(
        &mut self,
        requests: &mut [Open],
        model: &Model,
        callee: Callee,
        of: Option<u32>,
        needs: u64,
        now: u64,
    ) -> u32 {
        let can = |open: &Open| {
            open.can_make(needs) && model.at(open.ordered(), 0).share(Exit::Call(callee)) >= NEVER
        };
        let waiting = || requests.iter().filter(|open| can(open));
        let tested = waiting().nth(1).is_some();
        let oldest = waiting().min_by_key(|open| open.order.since).map(|open| open.id);
        let Some(id) = of.or(oldest) else { return 0 };
        if let Some(open) = requests.iter_mut().find(|open| open.id == id) {
            open.order.call(callee, tested, now);
        }
        id
    }

    /// Looks whether a request ends where requests end; else order has been lost.
    pub(super) fn end(&mut self, open: &Open, model: &Model) -> bool {
        if !open.order.tested {
            return false;
        }
        let against = open.order.open > 0 || model.at(open.ordered(), 0).share(Exit::End) < NEVER;
        if self.ends >= MEMORY {
            self.ends /= 2.0;
            self.against /= 2.0;
        }
        self.ends += 1.0;
        self.against += if against { 1.0 } else { 0.0 };
        against
    }
}

impl Open {
    /// The state that it is in if all goes in order.
    const fn ordered(&self) -> State {
        State {
            route: self.route,
            last: self.order.last,
            made: self.order.made,
            open: self.order.open,
        }
    }
}
