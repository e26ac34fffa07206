//! Applications that answer in order.
//!
//! On one thread with a queue, the request that has waited longest in a state from which a call
//! can be made is the one that makes it. Whether an application is of that kind needs no labels:
//! if it is not, requests end where none ever does, or with a call that was not answered.

use super::model::{Callee, Exit, Last, Model, State};
use super::open::{History, Open};

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
    /// Whether it could have made a call that another request could have made as well.
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

    const fn call(&mut self, callee: Callee, now: u64) {
        self.last = Last::Called(callee);
        self.since = now;
        self.made = self.made.saturating_add(1);
        self.open = self.open.saturating_add(1);
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
        let oldest = waiting().min_by_key(|open| open.order.since).map(|open| open.id);
        if waiting().nth(1).is_some() {
            // The ends of all of them will show whether it was the right one.
            for open in requests.iter_mut().filter(|open| can(open)) {
                open.order.tested = true;
            }
        }
        let Some(id) = of.or(oldest) else { return 0 };
        if let Some(open) = requests.iter_mut().find(|open| open.id == id) {
            open.order.call(callee, now);
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

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::correlation::infer::model::{Lesson, Route};
    use crate::correlation::infer::table::{Begins, Begun, Table};

    /// An application that makes one call for each request.
    fn model() -> Model {
        let mut model = Model::default();
        let mut learn = |last, made, open, exit| {
            let state = State { route: Route(1), last, made, open };
            model.learn(&Lesson { state, lasted: 100, exit: Some(exit), weight: 50.0 });
        };
        learn(Last::Begun, 0, 0, Exit::Call(Callee(7)));
        learn(Last::Answered(Callee(7)), 1, 0, Exit::End);
        model.refresh();
        model
    }

    fn begin(table: &mut Table, now: u64) -> u32 {
        table.begin(Begun { route: Route(1), about: vec![1], ..Begun::default() }, now)
    }

    fn call(table: &mut Table, model: &Model, now: u64) -> u32 {
        let begins = Begins { callee: Callee(7), ..Begins::default() };
        table.call(model, begins, 0.99, now).call
    }

    /// Pairs of requests; whether the second one makes its call first.
    fn run(overtakes: bool) -> f32 {
        let model = model();
        let mut table = Table::default();
        for round in 0..300_u64 {
            let now = round * 10_000;
            let (one, two) = (begin(&mut table, now), begin(&mut table, now + 1));
            let (first, second) = if overtakes { (two, one) } else { (one, two) };
            let call_of_first = call(&mut table, &model, now + 100);
            table.answer(&model, call_of_first, now + 200);
            table.end(&model, first, now + 300, &mut Vec::new());
            let call_of_second = call(&mut table, &model, now + 400);
            table.answer(&model, call_of_second, now + 500);
            table.end(&model, second, now + 600, &mut Vec::new());
        }
        table.trust.order.worth()
    }

    #[test]
    fn order_is_believed_until_it_is_contradicted() {
        assert_eq!(Contradictions::default().worth(), 0.0);
        assert!(run(false) > 0.99, "{}", run(false));
        assert!(run(true) < 0.5, "{}", run(true));
    }
}
