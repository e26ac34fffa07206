//! The table and the model as bytes in shared data, read strictly: whatever no worker of ours can
//! have written is nothing.

use super::model::{
    BUCKETS, Callee, Histogram, Last, Learned, MAX_EXITS, MAX_STATES, Model, Route,
};
use super::open::{History, MAX_CALLS, MAX_HISTORIES, Maybe, Open};
use super::order::{Contradictions, Order};
use super::table::{Call, MAX_ENDED, MAX_FOLLOWED, MAX_OPEN, MAX_WORKERS, Table};
use super::trust::{Background, CLASSES, Calls, Class, MAX_CALLEES, Pool, Trust};

/// What every value begins with: ours, and how it is written.
const TABLE: u32 = 0x3254_574D;
const MODEL: u32 = 0x324D_574D;
/// More than any weight, odds or count of ours.
const MOST: f32 = 1e9;
/// Bytes of what is known of a request or a call, at most.
pub(super) const MAX_ABOUT: usize = 600;

/// Bytes that are being written.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// What is no number is nothing.
    fn f32(&mut self, value: f32) {
        let value = if value.is_finite() { value } else { 0.0 };
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn last(&mut self, last: Last) {
        let (kind, callee) = match last {
            Last::Begun => (0, 0),
            Last::Called(Callee(callee)) => (1, callee),
            Last::Answered(Callee(callee)) => (2, callee),
        };
        self.u32(kind);
        self.u32(callee);
    }

    /// From the first value that is not 0 to the last one.
    fn histogram(&mut self, values: &Histogram) {
        let first = values.iter().position(|value| *value != 0.0).unwrap_or(0);
        let end = values.iter().rposition(|v| *v != 0.0).map_or(first, |i| i.saturating_add(1));
        let some = values.get(first..end).unwrap_or_default();
        self.count(first);
        self.count(some.len());
        some.iter().for_each(|value| self.f32(*value));
    }
}

/// Bytes that are being read.
#[derive(Clone, Copy, Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Weights, odds and counts are numbers, none below 0, and none so large that sums are none.
    fn f32(&mut self) -> Option<f32> {
        self.signed().filter(|value| (0.0..=MOST).contains(value))
    }

    fn signed(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes).filter(|value| value.is_finite())
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        usize::try_from(self.u32()?).ok().filter(|count| *count <= most)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count(MAX_ABOUT)?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn last(&mut self) -> Option<Last> {
        let (kind, callee) = (self.u32()?, Callee(self.u32()?));
        match kind {
            0 => Some(Last::Begun),
            1 => Some(Last::Called(callee)),
            2 => Some(Last::Answered(callee)),
            _ => None,
        }
    }

    fn list<T>(
        &mut self,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.count(most)?;
        (0..count).map(|_| read(self)).collect()
    }

    fn histogram(&mut self) -> Option<Histogram> {
        let first = self.count(BUCKETS)?;
        let some = self.list(BUCKETS, Self::f32)?;
        let mut values = [0.0; BUCKETS];
        values.get_mut(first..first.checked_add(some.len())?)?.copy_from_slice(&some);
        Some(values)
    }
}

impl Table {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u32(TABLE);
        to.u32(self.next);
        to.u32(self.unseen);
        to.u32(self.under_way);
        self.trust.write(&mut to);
        to.count(self.workers.len());
        for (worker, at) in &self.workers {
            to.u32(*worker);
            to.u64(*at);
        }
        to.count(self.calls.len());
        self.calls.iter().for_each(|call| call.write(&mut to));
        to.count(self.requests.len());
        self.requests.iter().for_each(|open| open.write(&mut to));
        to.count(self.ended.len());
        self.ended.iter().for_each(|ended| ended.write(&mut to));
        to.0
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.u32()? != TABLE {
            return None;
        }
        let table = Self {
            next: from.u32()?,
            unseen: from.u32()?,
            under_way: from.u32()?,
            trust: Trust::read(&mut from)?,
            workers: from.list(MAX_WORKERS, |from| Some((from.u32()?, from.u64()?)))?,
            calls: from.list(MAX_FOLLOWED, Call::read)?,
            requests: from.list(MAX_OPEN, Open::read)?,
            ended: from.list(MAX_ENDED, Open::read)?,
        };
        from.0.is_empty().then_some(table)
    }
}

impl Open {
    fn write(&self, to: &mut Writer) {
        to.u32(self.id);
        to.u32(self.worker);
        to.bytes(&self.about);
        to.u32(self.route.0);
        to.u64(self.begun);
        to.u64(self.may);
        to.u32(u32::from(self.alone));
        let Order { last, since, made, open, tested } = self.order;
        to.last(last);
        to.u64(since);
        to.u32(made);
        to.u32(open);
        to.u32(u32::from(tested));
        to.count(self.histories.len());
        for History { last, since, made, open, weight, .. } in &self.histories {
            to.last(*last);
            to.u64(*since);
            to.u32(*made);
            to.u32(*open);
            to.f32(*weight);
        }
        to.count(self.calls.len());
        for Maybe { call, claimed } in &self.calls {
            to.u32(*call);
            to.f32(*claimed);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: from.u32()?,
            worker: from.u32()?,
            about: from.bytes()?.to_vec(),
            route: Route(from.u32()?),
            begun: from.u64()?,
            may: from.u64()?,
            alone: from.u32()? != 0,
            order: Order {
                last: from.last()?,
                since: from.u64()?,
                made: from.u32()?,
                open: from.u32()?,
                tested: from.u32()? != 0,
            },
            histories: from.list(MAX_HISTORIES, |from| {
                Some(History {
                    last: from.last()?,
                    since: from.u64()?,
                    made: from.u32()?,
                    open: from.u32()?,
                    weight: from.f32()?,
                    ..History::default()
                })
            })?,
            calls: from
                .list(MAX_CALLS, |from| Some(Maybe { call: from.u32()?, claimed: from.f32()? }))?,
            covered: 1.0,
        })
    }
}

impl Call {
    fn write(&self, to: &mut Writer) {
        to.u32(self.id);
        to.bytes(&self.about);
        to.u32(self.callee.0);
        to.u64(self.at);
        to.u64(self.answered);
        to.f32(self.nobody);
        to.f32(self.gone);
        to.u32(self.in_order);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: from.u32()?,
            about: from.bytes()?.to_vec(),
            callee: Callee(from.u32()?),
            at: from.u64()?,
            answered: from.u64()?,
            nobody: from.f32()?,
            gone: from.f32()?,
            in_order: from.u32()?,
        })
    }
}

impl Trust {
    fn write(&self, to: &mut Writer) {
        to.f32(self.order.ends);
        to.f32(self.order.against);
        to.f32(self.spare);
        to.f32(self.ends);
        to.f32(self.sure);
        to.f32(self.late);
        let Pool { calls, most, at_most, before, full } = self.pool;
        [calls, most, at_most, before, u32::from(full)].into_iter().for_each(|n| to.u32(n));
        for Class { answers, right } in self.classes {
            to.f32(answers);
            to.f32(right);
        }
        to.count(self.background.callees.len());
        for Calls { callee, recent, at, settled, nobodys } in &self.background.callees {
            to.u32(callee.0);
            to.f32(*recent);
            to.u64(*at);
            to.f32(*settled);
            to.f32(*nobodys);
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        let order = Contradictions { ends: from.f32()?, against: from.f32()? };
        let (spare, ends) = (from.signed()?, from.f32()?);
        let (sure, late) = (from.f32()?, from.f32()?);
        let pool = Pool {
            calls: from.u32()?,
            most: from.u32()?,
            at_most: from.u32()?,
            before: from.u32()?,
            full: from.u32()? != 0,
        };
        let mut classes = [Class::default(); CLASSES.len()];
        for class in &mut classes {
            *class = Class { answers: from.f32()?, right: from.f32()? };
        }
        let callees = from.list(MAX_CALLEES, |from| {
            Some(Calls {
                callee: Callee(from.u32()?),
                recent: from.f32()?,
                at: from.u64()?,
                settled: from.f32()?,
                nobodys: from.f32()?,
            })
        })?;
        Some(Self {
            order,
            background: Background { callees },
            pool,
            classes,
            spare,
            ends,
            sure,
            late,
        })
    }
}

impl Model {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u32(MODEL);
        to.count(self.states.len());
        for Learned { key, visits, exits, .. } in &self.states {
            to.u64(*key);
            to.histogram(visits);
            to.count(exits.len());
            for (code, events) in exits {
                to.u32(*code);
                to.histogram(events);
            }
        }
        to.0
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.u32()? != MODEL {
            return None;
        }
        let states = from.list(MAX_STATES, |from| {
            let mut learned = Learned::new(from.u64()?);
            learned.visits = from.histogram()?;
            learned.exits = from.list(MAX_EXITS, |from| Some((from.u32()?, from.histogram()?)))?;
            Some(learned)
        })?;
        let ascending = states.is_sorted_by(|a, b| a.key < b.key);
        (ascending && from.0.is_empty()).then_some(Self { states })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::correlation::infer::model::{Exit, Lesson, State};
    use crate::correlation::infer::table::{Begins, Begun};

    /// Five requests, one of them ended, and three calls, one of them answered.
    fn table() -> Table {
        let mut table = Table::default();
        for route in 1..=5 {
            let about = vec![1, 2, 3];
            table.begin(Begun { worker: 9, about, route: Route(route), may: 5 }, 1000);
        }
        for callee in 1..=3 {
            let begins = Begins { about: vec![4], callee: Callee(callee), needs: 0 };
            let answer = table.call(&Model::default(), begins, 0.99, 2000);
            if callee == 1 {
                table.answer(&Model::default(), answer.call, 3000);
            }
        }
        table.end(&Model::default(), 5, 4000, &mut Vec::new());
        assert_eq!((table.requests.len(), table.ended.len()), (4, 1));
        table
    }

    /// As it is after it was written: what means something during an event only is gone.
    fn at_rest(mut table: Table) -> Table {
        for open in table.requests.iter_mut().chain(&mut table.ended) {
            open.covered = 1.0;
            for history in &mut open.histories {
                (history.now, history.likely) = (0.0, 0.0);
            }
        }
        table
    }

    #[test]
    fn a_table_comes_back() {
        let table = at_rest(table());
        assert_eq!(Table::read(&table.write()), Some(table));
    }

    /// As another plugin may have left them.
    #[test]
    fn weights_of_any_size_do_no_harm_to_what_is_known() {
        for weight in [0.0, 1e-40, 1e9] {
            let mut table = table();
            for history in table.requests.iter_mut().flat_map(|open| &mut open.histories) {
                history.weight = weight;
            }
            let mut table = Table::read(&table.write()).unwrap();
            let begins = Begins { about: vec![4], callee: Callee(1), needs: 0 };
            assert_eq!(table.call(&Model::default(), begins, 0.99, 5000).attached, None);
            let back = Table::read(&table.write()).map(|table| table.requests.len());
            assert_eq!(back, Some(4), "{weight}");
        }
    }

    #[test]
    fn a_model_comes_back() {
        let mut model = Model::default();
        let state = State { route: Route(3), ..State::default() };
        for lasted in [10, 900, 5_000_000] {
            model.learn(&Lesson { state, lasted, exit: Some(Exit::End), weight: 0.5 });
        }
        let read = Model::read(&model.write()).unwrap();
        assert_eq!(read.states[0].visits, model.states[0].visits);
        assert_eq!(read.states[0].exits, model.states[0].exits);
    }

    /// Whatever stands there: nothing traps, and what is read can be worked with.
    #[test]
    fn strange_bytes_are_nothing_or_harmless() {
        let bytes = table().write();
        for length in 0..bytes.len() {
            assert_eq!(Table::read(&bytes[..length]), None, "{length}");
        }
        for index in 0..bytes.len() {
            for value in [0, 0x7f, 0xff, bytes[index] ^ 1] {
                let mut strange = bytes.clone();
                strange[index] = value;
                let Some(mut table) = Table::read(&strange) else { continue };
                let begins = Begins { about: vec![4], callee: Callee(1), needs: 0 };
                let answer = table.call(&Model::default(), begins, 0.99, 4000);
                assert_eq!(answer.attached, None);
                table.answer(&Model::default(), answer.call, 5000);
                let first = table.requests.first().map(|open| open.id).unwrap_or_default();
                table.end(&Model::default(), first, 6000, &mut Vec::new());
                let _ = table.write();
            }
        }
    }
}
