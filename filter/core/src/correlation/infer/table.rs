//! The open requests of a proxy, each with the histories that are possible for it.
//!
//! What ties the requests together is that each call was made by one of them or by nobody
//! ([`joint`]). Requests that have ended stay as long as open ones may have made the same calls.

use super::joint;
use super::model::{Callee, Lesson, Model, Route};
use super::open::{History, Open, Shares};
use super::order::Order;
use super::trust::Trust;

/// Requests that are followed at most.
pub(super) const MAX_OPEN: usize = 128;
/// Workers that follow requests, at most.
pub(super) const MAX_WORKERS: usize = 256;
/// A worker that is not heard of for so many microseconds is gone.
const SILENCE: u64 = 10_000_000;
/// Calls that are followed at most, of all requests.
pub(super) const MAX_FOLLOWED: usize = 1024;
/// A request that made a call with less than this chance did not make it.
const NEGLIGIBLE: f32 = 0.001;
/// Requests that have ended and that are followed all the same, at most.
pub(super) const MAX_ENDED: usize = 64;
/// Calls of which it is open who made them, at most: a set holds so many.
const MAX_DOUBTFUL: usize = 128;
/// Odds beyond this are certainty.
const CERTAIN: f32 = 1e4;
/// What is at least so likely is clear.
const CLEAR: f32 = 0.9;

/// What is known of a request when it begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Begun {
    pub(super) worker: u32,
    pub(super) about: Vec<u8>,
    pub(super) route: Route,
    pub(super) may: u64,
}

/// What is known of a call when it begins.
#[derive(Clone, Debug, Default)]
pub(super) struct Begins {
    pub(super) about: Vec<u8>,
    pub(super) callee: Callee,
    /// The declared calls that it is one of, as a set of their positions; none: any request may
    /// have made it.
    pub(super) needs: u64,
}

/// A call that an open request may have made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) id: u32,
    /// What is to be known of it; empty if it was attached.
    pub(super) about: Vec<u8>,
    pub(super) callee: Callee,
    pub(super) at: u64,
    /// When it was answered; 0 while it is not.
    pub(super) answered: u64,
    /// The odds that nobody made it.
    pub(super) nobody: f32,
    /// The odds that a request made it which is not followed any more.
    pub(super) gone: f32,
    /// The request that made it if all goes in order.
    pub(super) in_order: u32,
}

/// A request that may have made a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// The request.
    pub(super) request: u32,
    /// How likely it is the one, 0 to 1.
    pub(super) confidence: f32,
    /// Which part of what is possible was followed to say so.
    pub(super) covered: f32,
}

/// Who may have made a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// The name of the call.
    pub(super) call: u32,
    /// Who may have made it, most likely first.
    pub(super) candidates: Vec<Candidate>,
    /// Who made it, where that is sure enough.
    pub(super) attached: Option<Candidate>,
}

/// A call and how likely a request that has ended made it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Late {
    /// What is to be known of the call.
    pub(super) about: Vec<u8>,
    /// How likely it is the one, 0 to 1.
    pub(super) confidence: f32,
}

/// Open requests and the calls they may have made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) requests: Vec<Open>,
    /// Requests that have ended and may have made calls that open ones may have made as well.
    pub(super) ended: Vec<Open>,
    pub(super) calls: Vec<Call>,
    pub(super) next: u32,
    /// Requests that are open and not followed, since there were too many.
    pub(super) unseen: u32,
    /// Calls that are not answered.
    pub(super) under_way: u32,
    pub(super) trust: Trust,
    /// The workers that follow requests, and when they were last heard of.
    pub(super) workers: Vec<(u32, u64)>,
}

impl Table {
    /// How many requests are open.
    #[must_use]
    pub(super) fn open(&self) -> usize {
        self.requests.len().saturating_add(usize::try_from(self.unseen).unwrap_or(usize::MAX))
    }

    /// A worker lives. Requests of workers that have not been heard of for long are forgotten.
    pub(super) fn lives(&mut self, worker: u32, now: u64) {
        self.workers.retain(|(known, at)| *known != worker && now.saturating_sub(*at) < SILENCE);
        if self.workers.len() < MAX_WORKERS {
            self.workers.push((worker, now));
        }
        let Self { requests, workers, .. } = self;
        let before = requests.len();
        requests.retain(|open| workers.iter().any(|(known, _)| *known == open.worker));
        if requests.is_empty() {
            self.unseen = 0;
        }
        if requests.len() != before {
            self.settle();
        }
    }

    /// Forgets requests whose ends could not be told.
    pub(super) fn drop(&mut self, ids: &[u32]) {
        self.requests.retain(|open| !ids.contains(&open.id));
        let unseen = ids.iter().filter(|id| **id == 0).count();
        self.unseen = self.unseen.saturating_sub(u32::try_from(unseen).unwrap_or(u32::MAX));
        self.settle();
    }

    /// After requests are gone of which no end was seen.
    fn settle(&mut self) {
        for history in self.requests.iter_mut().flat_map(|open| &mut open.histories) {
            history.now = history.weight;
        }
        self.weigh();
        self.forget();
    }

    /// A request begins; 0 is the name of one that is not followed.
    pub(super) fn begin(&mut self, begun: Begun, now: u64) -> u32 {
        if self.requests.len() >= MAX_OPEN {
            self.unseen = self.unseen.saturating_add(1);
            return 0;
        }
        if self.open() == 0 {
            self.under_way = 0;
        }
        let id = self.name();
        self.requests.iter_mut().for_each(|open| open.alone = false);
        let history = History { since: now, weight: 1.0, ..History::default() };
        let Begun { worker, about, route, may } = begun;
        let is_known = self.workers.iter().any(|(known, _)| *known == worker);
        if !is_known && self.workers.len() < MAX_WORKERS {
            self.workers.push((worker, now));
        }
        self.requests.push(Open {
            id,
            worker,
            about,
            route,
            begun: now,
            may,
            alone: self.requests.is_empty(),
            order: Order::new(now),
            histories: vec![history],
            calls: Vec::new(),
            covered: 1.0,
        });
        id
    }

    /// A call begins of which it is known which request made it. Gives its name.
    pub(super) fn call_of(&mut self, model: &Model, callee: Callee, request: u32, now: u64) -> u32 {
        let id = self.name();
        let of = Some(request);
        self.starts();
        let in_order = self.trust.order.call(&mut self.requests, model, callee, of, 0, now);
        let open = self.requests.iter_mut().find(|open| open.id == request);
        if open.is_some_and(|open| open.made(model, id, callee, now)) {
            let (about, at, answered) = (Vec::new(), now, 0);
            let (nobody, gone) = (0.0, 0.0);
            self.add(Call { id, about, callee, at, answered, nobody, gone, in_order });
        }
        id
    }

    /// A call begins, and nothing says of which request.
    pub(super) fn call(
        &mut self,
        model: &Model,
        begins: Begins,
        confidence: f32,
        now: u64,
    ) -> Answer {
        let Begins { about, callee, needs } = begins;
        let id = self.name();
        let in_order = self.trust.order.call(&mut self.requests, model, callee, None, needs, now);
        self.starts();
        self.wait(model, now);
        self.weigh();
        let background = self.trust.background.rate(callee, now);
        let mut shares = Vec::new();
        for open in &self.requests {
            let can = open.can_make(needs);
            shares.push(if can { open.shares(model, callee, now) } else { Shares::default() });
        }
        let sum = background + shares.iter().map(|shares| shares.rate).sum::<f32>();
        let scale = if sum > 0.0 { 1.0 / sum } else { 0.0 };
        // The most likely first, by insertion: sorting takes much code.
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut gone = 0.0;
        for (open, shares) in self.requests.iter_mut().zip(&shares) {
            let confidence = shares.rate * scale;
            if !confidence.is_finite() || confidence < NEGLIGIBLE {
                gone += f32::min(confidence, NEGLIGIBLE);
                continue;
            }
            let place = candidates.partition_point(|other| other.confidence >= confidence);
            let covered = open.covered;
            candidates.insert(place, Candidate { request: open.id, confidence, covered });
            if !open.may_have_made(id, callee, shares, scale, now) {
                gone += confidence;
            }
        }
        let nobody = background * scale;
        if let Some(first) = candidates.first() {
            self.claim(id, first.request, first.confidence);
        }
        let attached = self.trust.attach(candidates.first(), in_order, confidence);
        let attached = attached.filter(|_| self.unseen == 0);
        if candidates.is_empty() && in_order == 0 {
            self.trust.background.learn(callee, 1.0, now);
        } else {
            let about = if attached.is_none() { about } else { Vec::new() };
            let (at, answered) = (now, 0);
            self.add(Call { id, about, callee, at, answered, nobody, gone, in_order });
        }
        Answer { call: id, candidates, attached }
    }

    /// A call was answered.
    pub(super) fn answer(&mut self, model: &Model, id: u32, now: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(call) = call_mut(&mut self.calls, id) else { return };
        call.answered = now;
        let (callee, in_order) = (call.callee, call.in_order);
        if let Some(open) = self.requests.iter_mut().find(|open| open.id == in_order) {
            open.order.answer(callee, now);
        }
        for open in &mut self.requests {
            open.answer(model, id, callee, now);
        }
    }

    /// A request ends. Gives the calls that it most likely made, as far as is known by now.
    pub(super) fn end(
        &mut self,
        model: &Model,
        id: u32,
        now: u64,
        lessons: &mut Vec<Lesson>,
    ) -> Vec<Late> {
        let Some(position) = self.requests.iter().position(|open| open.id == id) else {
            if id == 0 {
                self.unseen = self.unseen.saturating_sub(1);
            }
            return Vec::new();
        };
        self.wait(model, now);
        if let Some(open) = self.requests.get_mut(position) {
            open.end(model, now);
        }
        self.weigh();
        let mut open = self.requests.remove(position);
        if self.trust.order.end(&open, model) {
            for open in &mut self.requests {
                let likely =
                    open.histories.iter().max_by(|a, b| a.likely.total_cmp(&b.likely)).copied();
                if let Some(history) = likely {
                    open.order.resume(&history);
                }
            }
        }
        if self.trust.learns(open.likeliest() * open.covered) || open.alone {
            open.learn(&self.calls, now, lessons);
            for lesson in lessons.iter().filter(|lesson| lesson.weight >= CLEAR) {
                if lesson.exit.is_some() {
                    self.trust.lasted(model.at(lesson.state, lesson.lasted).survival());
                }
            }
        }
        let mut late = Vec::new();
        for (index, maybe) in open.calls.iter().enumerate() {
            let confidence = open.has_made(index) * open.covered;
            if maybe.claimed > 0.0 && open.covered >= CLEAR {
                self.trust.observe(maybe.claimed, confidence);
            }
            if let Some(call) = call_mut(&mut self.calls, maybe.call)
                && !call.about.is_empty()
                && confidence > 0.5
            {
                late.push(Late { about: call.about.clone(), confidence });
            }
        }
        for history in &mut open.histories {
            history.weight = history.now;
        }
        open.calls.iter_mut().for_each(|maybe| maybe.claimed = 0.0);
        open.about = Vec::new();
        self.ended.push(open);
        let nobodys = self.nobodys();
        for (place, callee) in self.forget() {
            let nobodys = nobodys.get(place).copied().unwrap_or_default();
            self.trust.background.learn(callee, nobodys, now);
        }
        late
    }

    /// Notes that an answer named `request` as the one that made `call`.
    fn claim(&mut self, call: u32, request: u32, confidence: f32) {
        let open = self.requests.iter_mut().find(|open| open.id == request);
        let maybe = open.and_then(|open| open.calls.iter_mut().find(|maybe| maybe.call == call));
        if let Some(maybe) = maybe {
            maybe.claimed = confidence;
        }
    }

    /// Counts a call that begins.
    fn starts(&mut self) {
        let open = u32::try_from(self.open()).unwrap_or(u32::MAX);
        self.trust.pool.call(self.under_way, open);
        self.under_way = self.under_way.saturating_add(1);
    }

    fn name(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1).max(1);
        self.next
    }

    /// One call more; beyond the bound it is forgotten at once.
    fn add(&mut self, call: Call) {
        if self.calls.len() < MAX_FOLLOWED {
            self.calls.push(call);
        }
    }

    /// The request of which this is known.
    pub(super) fn find(&self, about: impl Fn(&[u8]) -> bool) -> Option<u32> {
        self.requests.iter().find(|open| about(&open.about)).map(|open| open.id)
    }

    /// What is known of a request.
    pub(super) fn about(&self, request: u32) -> Option<&[u8]> {
        self.requests.iter().find(|open| open.id == request).map(|open| &*open.about)
    }

    /// What the weights of histories have become by waiting until `now`.
    fn wait(&mut self, model: &Model, now: u64) {
        self.requests.iter_mut().for_each(|open| open.survive(model, now));
    }

    /// How likely each history is, by its weight and by that each call was made only once.
    fn weigh(&mut self) {
        let Self { requests, ended, calls, .. } = self;
        for history in ended.iter_mut().flat_map(|ended| &mut ended.histories) {
            history.now = history.weight;
        }
        let (places, nobody) = doubtful(ended.iter().chain(requests.iter()), calls);
        let ways = ended.iter().chain(requests.iter()).map(|open| open.ways(calls, &places));
        let likely = joint::likely(&ways.collect::<Vec<_>>(), &nobody);
        // Beyond that, calls are not told apart.
        let has_room = nobody.len() < MAX_DOUBTFUL;
        for (open, likely) in ended.iter_mut().chain(requests).zip(likely) {
            open.covered = if has_room { likely.covered } else { 0.0 };
            for (history, likely) in open.histories.iter_mut().zip(likely.ways) {
                history.likely = likely;
            }
            open.rule_out();
        }
    }

    /// How likely nobody made each call, by how likely histories are.
    fn nobodys(&self) -> Vec<f32> {
        let mut left = vec![1.0_f32; self.calls.len()];
        for open in self.requests.iter().chain(&self.ended) {
            for (index, maybe) in open.calls.iter().enumerate() {
                if let Some(left) = of_call(&self.calls, &mut left, maybe.call) {
                    *left = (*left - open.has_made(index)).max(0.0);
                }
            }
        }
        let share = |call: &Call| call.nobody / (call.nobody + call.gone).max(f32::MIN_POSITIVE);
        self.calls.iter().zip(left).map(|(call, left)| left * share(call)).collect()
    }

    /// Forgets requests that have ended and share no call with an open one; and what the others
    /// share with none.
    fn leave(&mut self) {
        let Self { requests, ended, calls, .. } = self;
        let by_open = makers(requests.iter(), calls);
        let by_ended = makers(ended.iter(), calls);
        let may = |makers: &[(u32, u32)], place| makers.get(place).map_or(0, |(may, _)| *may);
        let mut surplus = ended.len().saturating_sub(MAX_ENDED);
        ended.retain_mut(|ended| {
            let is_open = |call| place(calls, call).is_some_and(|at| may(&by_open, at) > 0);
            let stays = surplus == 0 && ended.calls.iter().any(|maybe| is_open(maybe.call));
            if stays {
                ended.reduce(|call| {
                    let Some(at) = place(calls, call) else { return Some(1.0) };
                    let is_shared = may(&by_open, at) > 0 || may(&by_ended, at) > 1;
                    calls.get(at).filter(|_| !is_shared).map(|call| call.nobody + call.gone)
                });
                return true;
            }
            surplus = surplus.saturating_sub(1);
            for (index, maybe) in ended.calls.iter().enumerate() {
                let likely = ended.has_made(index);
                if let Some(call) = call_mut(calls, maybe.call) {
                    call.gone = (call.gone + likely / (1.0 - likely).max(1e-6)).min(CERTAIN);
                }
            }
            false
        });
    }

    /// Calls that no request may have made any more are settled; gives what was called, and the
    /// place of it. One that is not answered is kept for the request that made it if all goes in
    /// order.
    fn forget(&mut self) -> Vec<(usize, Callee)> {
        self.leave();
        let makers = makers(self.requests.iter().chain(&self.ended), &self.calls);
        let mut kept: Vec<bool> = makers.into_iter().map(|(may, _)| may > 0).collect();
        for (call, kept) in self.calls.iter().zip(&mut kept).filter(|(c, _)| c.answered == 0) {
            *kept |= self.requests.iter().any(|open| open.id == call.in_order);
        }
        let mut settled = Vec::new();
        let mut kept = kept.into_iter().enumerate();
        self.calls.retain(|call| {
            let (place, kept) = kept.next().unwrap_or_default();
            if !kept {
                settled.push((place, call.callee));
            }
            kept
        });
        settled
    }
}

/// Calls of which it is open who made them, each as a set of its position and the others as none,
/// as far as there is room; and the weight of that none of these requests made it, by position.
fn doubtful<'t>(requests: impl Iterator<Item = &'t Open>, calls: &[Call]) -> (Vec<u128>, Vec<f32>) {
    let mut nobody = Vec::new();
    let mut places = Vec::with_capacity(calls.len());
    for (call, known) in calls.iter().zip(makers(requests, calls)) {
        let next = u32::try_from(nobody.len()).ok().and_then(|next| 1_u128.checked_shl(next));
        let place = next.filter(|_| !matches!(known, (0, _) | (1, 1)));
        if place.is_some() {
            nobody.push(call.nobody + call.gone);
        }
        places.push(place.unwrap_or(0));
    }
    (places, nobody)
}

/// Of each call, how many of these requests may have made it, and how many certainly have.
fn makers<'t>(requests: impl Iterator<Item = &'t Open>, calls: &[Call]) -> Vec<(u32, u32)> {
    let mut makers = vec![(0_u32, 0_u32); calls.len()];
    for (call, always) in requests.flat_map(Open::may_have) {
        if let Some((may, have)) = of_call(calls, &mut makers, call) {
            *may = may.saturating_add(1);
            *have = have.saturating_add(u32::from(always));
        }
    }
    makers
}

/// What stands in `values` for a call.
fn of_call<'v, T>(calls: &[Call], values: &'v mut [T], id: u32) -> Option<&'v mut T> {
    place(calls, id).and_then(|place| values.get_mut(place))
}

/// A call, if it is followed.
fn call_mut(calls: &mut [Call], id: u32) -> Option<&mut Call> {
    place(calls, id).and_then(|place| calls.get_mut(place))
}

/// Where a call stands: names ascend.
pub(super) fn place(calls: &[Call], id: u32) -> Option<usize> {
    let first = calls.first()?.id;
    let after = |id: u32| id.wrapping_sub(first);
    calls.binary_search_by_key(&after(id), |call| after(call.id)).ok()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::model::{Exit, State};
    use super::super::open::{MAX_CALLS, MAX_HISTORIES};
    use super::*;

    fn begun(worker: u32, route: u32, may: u64) -> Begun {
        Begun { worker, about: route.to_le_bytes().to_vec(), route: Route(route), may }
    }

    fn call(table: &mut Table, needs: u64, now: u64) -> Answer {
        let begins = Begins { about: vec![9], callee: Callee(7), needs };
        table.call(&Model::default(), begins, 0.99, now)
    }

    #[test]
    fn each_open_request_is_a_candidate_that_may_have_made_it() {
        let mut table = Table::default();
        let requests: Vec<_> = (1..=3).map(|i| table.begin(begun(1, i, 1 << i), 0)).collect();
        let mut all: Vec<_> =
            call(&mut table, 0, 1000).candidates.iter().map(|c| c.request).collect();
        all.sort_unstable();
        assert_eq!(all, requests);
        let declared = call(&mut table, 1 << 2, 1000).candidates;
        assert_eq!(declared.iter().map(|c| c.request).collect::<Vec<_>>(), [requests[1]]);
        assert_eq!(call(&mut table, 1 << 9, 1000).candidates, []);
        assert_eq!(table.find(|about| about == 3_u32.to_le_bytes()), Some(requests[2]));
        assert_eq!(table.about(requests[0]), Some(&1_u32.to_le_bytes()[..]));
    }

    #[test]
    fn a_call_is_linked_from_the_end_of_the_only_one_that_can_have_made_it() {
        let mut table = Table::default();
        let one = table.begin(begun(1, 1, 0), 0);
        let call = call(&mut table, 0, 1000);
        assert_eq!(call.attached, None, "nothing is known yet");
        table.answer(&Model::default(), call.call, 2000);
        let mut lessons = Vec::new();
        let late = table.end(&Model::default(), one, 3000, &mut lessons);
        assert_eq!(late.iter().map(|late| &*late.about).collect::<Vec<_>>(), [&[9]]);
        assert!(late[0].confidence > 0.5, "{late:?}");
        let most = lessons.iter().filter(|lesson| lesson.weight > 0.5);
        let exits: Vec<_> = most.map(|lesson| (lesson.lasted, lesson.exit)).collect();
        let expected = [(1000, Some(Exit::Call(Callee(7)))), (1000, None), (1000, Some(Exit::End))];
        assert_eq!(exits, expected);
        assert_eq!((table.requests.len(), table.calls.len()), (0, 0));
    }

    #[test]
    fn everything_is_bounded() {
        let mut table = Table::default();
        let names: Vec<_> = (0..500).map(|i| table.begin(begun(i, i, 0), 0)).collect();
        assert_eq!((table.requests.len(), table.open()), (MAX_OPEN, 500));
        assert!(table.workers.len() <= MAX_WORKERS);
        for now in 0..300 {
            let answer = call(&mut table, 0, now * 1000);
            assert_eq!(answer.attached, None, "there are requests that are not followed");
        }
        assert!(table.calls.len() <= MAX_FOLLOWED);
        assert!(
            table
                .requests
                .iter()
                .all(|open| open.calls.len() <= MAX_CALLS && open.histories.len() <= MAX_HISTORIES)
        );
        assert_eq!(Table::read(&table.write()).map(|table| table.open()), Some(500));
        for name in names {
            table.end(&Model::default(), name, 1_000_000, &mut Vec::new());
        }
        assert_eq!((table.open(), table.calls.len()), (0, 0));
    }

    /// One that has been open for minutes is as if it had never been seen to last so long.
    #[test]
    fn a_stream_does_not_stand_in_the_way() {
        let mut model = Model::default();
        let state = State { route: Route(1), ..State::default() };
        for lasted in (0..200).map(|i| 900 + i) {
            let exit = Some(Exit::Call(Callee(7)));
            model.learn(&Lesson { state, lasted, exit, weight: 1.0 });
        }
        model.refresh();
        let mut table = Table::default();
        table.begin(begun(1, 1, 0), 0);
        let minutes = 600_000_000;
        for now in [minutes, minutes + 10_000] {
            let other = table.begin(begun(1, 1, 0), now);
            let begins = Begins { about: vec![9], callee: Callee(7), needs: 0 };
            let answer = table.call(&model, begins, 0.99, now + 1000);
            let first = answer.candidates.first().map(|first| first.request);
            assert_eq!(first, Some(other));
            assert!(answer.candidates[0].confidence > 0.99, "{answer:?}");
            table.answer(&model, answer.call, now + 2000);
            table.end(&model, other, now + 3000, &mut Vec::new());
            table = Table::read(&table.write()).unwrap();
        }
        table.drop(&[1, 0]);
        assert_eq!((table.open(), table.ended.len(), table.calls.len()), (0, 0, 0));
    }

    #[test]
    fn requests_of_a_worker_that_is_gone_are_forgotten() {
        let mut table = Table::default();
        table.begin(begun(1, 1, 0), 0);
        let other = table.begin(begun(2, 2, 0), 0);
        table.lives(2, SILENCE - 1);
        assert_eq!(table.open(), 2);
        table.lives(2, SILENCE + 1);
        assert_eq!(table.requests.iter().map(|open| open.id).collect::<Vec<_>>(), [other]);
    }
}
