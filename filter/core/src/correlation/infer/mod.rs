//! Which open request made a call that brings no context: the only one there is, or the one that
//! is likely enough by what was learned of delays.
//!
//! A request and its calls are served by whichever workers, so what is open stands in shared data
//! as one value, which every event reads, changes and writes (compare-and-swap). What was learned
//! of delays stands in another; each worker adds what it has learned at its ticks, and takes over
//! what others have.

mod joint;
mod model;
mod open;
mod order;
pub mod seen;
mod table;
mod trust;
mod wire;

use crate::model::shared::{PREFIX, update_within};
use crate::model::{MonoNanos, Shared};
use model::{Lesson, Model};
use table::{Begins, Begun, Table};

pub use model::{Callee, Route};

/// Attempts to write: a conflict needs another worker within some microseconds.
const ATTEMPTS: u32 = 64;
/// The same where requests are weighed, which may take a millisecond each time.
const WEIGHINGS: u32 = 8;
/// A request that may have made a call is told of if it is at least so likely.
const WORTH_TELLING: f32 = 0.001;

/// Requests that a call may be told to have come from, at most.
pub const MOST_CANDIDATES: usize = 8;

/// How a call is joined to a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// To the one that is most likely by delays, if it is likely enough.
    Best,
    /// To the only one that is open.
    Single,
}

/// A request that is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Request(u32);

/// A call that is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Call(u32);

/// Something that is known of a request or a call, and how likely it is the one that is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Guess {
    /// What was told of it when it began.
    pub about: Vec<u8>,
    /// 0 to 1.
    pub confidence: f32,
}

/// Who made a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The call, if it is followed.
    pub call: Option<Call>,
    /// The request that made it, where that is sure enough.
    pub attached: Option<Guess>,
    /// Who may have made it otherwise, most likely first; eight at most.
    pub candidates: Vec<Guess>,
}

/// What one instance on one worker knows of the open requests of its proxy.
#[derive(Debug)]
pub struct Inference {
    method: Method,
    confidence: f32,
    worker: u32,
    model: Model,
    /// What was learned since the last tick.
    learned: Model,
    lessons: bool,
    /// The number of the model that was read last.
    version: u32,
    /// Requests whose ends could not be written.
    unwritten: Vec<u32>,
}

impl Inference {
    /// Joins with at least this `confidence`.
    #[must_use]
    pub fn new(method: Method, confidence: f32) -> Self {
        Self {
            method,
            confidence,
            worker: 0,
            model: Model::default(),
            learned: Model::default(),
            lessons: false,
            version: 0,
            unwritten: Vec::new(),
        }
    }

    /// Instances are told apart by `worker`.
    pub const fn set_worker(&mut self, worker: u32) {
        self.worker = worker;
    }

    /// How calls are joined.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// A request comes in. `about` is what calls are told of it; `may` the declared calls that it
    /// may make, as a set of their positions.
    pub fn begin(
        &self,
        route: Route,
        may: u64,
        about: &[u8],
        shared: &dyn Shared,
    ) -> Option<Request> {
        if about.len() > wire::MAX_ABOUT {
            return None;
        }
        let now = micros(shared.now());
        change(shared, |table| {
            let about = about.to_vec();
            Request(table.begin(Begun { worker: self.worker, about, route, may }, now))
        })
    }

    /// A call goes out, and nothing says of which request. `about` is what its request is told of
    /// it; `needs` the declared calls that it is one of: none of them, and any request may have
    /// made it.
    pub fn call(&self, callee: Callee, needs: u64, about: &[u8], shared: &dyn Shared) -> Answer {
        if about.len() > wire::MAX_ABOUT {
            return Answer::default();
        }
        let now = micros(shared.now());
        let answer = match self.method {
            Method::Best => change_within(WEIGHINGS, shared, |table| {
                let begins = Begins { about: about.to_vec(), callee, needs };
                let answer = table.call(&self.model, begins, self.confidence, now);
                let guess = |candidate: &table::Candidate| {
                    let about = table.about(candidate.request)?.to_vec();
                    Some(Guess { about, confidence: candidate.confidence })
                };
                let likely = answer.candidates.iter().filter(|c| c.confidence >= WORTH_TELLING);
                Answer {
                    call: Some(Call(answer.call)),
                    attached: answer.attached.as_ref().and_then(guess),
                    candidates: likely.filter_map(guess).take(MOST_CANDIDATES).collect(),
                }
            }),
            Method::Single => look(shared).map(|table| {
                let alone = table.open() == 1;
                let only = || table.requests.first().map(|open| open.about.clone());
                let attached = alone.then(only).flatten();
                let attached = attached.map(|about| Guess { about, confidence: 1.0 });
                Answer { call: None, attached, candidates: Vec::new() }
            }),
        };
        answer.unwrap_or_default()
    }

    /// A call goes out of which it is known which request made it: the one of which `is` holds.
    pub fn call_of(
        &self,
        callee: Callee,
        is: impl Fn(&[u8]) -> bool,
        shared: &dyn Shared,
    ) -> Option<Call> {
        let now = micros(shared.now());
        match self.method {
            Method::Single => None,
            Method::Best => change(shared, |table| {
                let request = table.find(&is)?;
                Some(Call(table.call_of(&self.model, callee, request, now)))
            })
            .flatten(),
        }
    }

    /// A call was answered.
    pub fn answer(&self, call: Call, shared: &dyn Shared) {
        let now = micros(shared.now());
        change(shared, |table| table.answer(&self.model, call.0, now));
    }

    /// A request ends. Gives the calls that were joined to none and that it most likely made.
    pub fn end(&mut self, request: Request, shared: &dyn Shared) -> Vec<Guess> {
        let now = micros(shared.now());
        let ended = change_within(WEIGHINGS, shared, |table| {
            let mut lessons: Vec<Lesson> = Vec::new();
            let late = table.end(&self.model, request.0, now, &mut lessons);
            (late, lessons)
        });
        let Some((late, lessons)) = ended else {
            if self.unwritten.len() < table::MAX_OPEN {
                self.unwritten.push(request.0);
            }
            return Vec::new();
        };
        if self.method == Method::Best {
            self.lessons |= !lessons.is_empty();
            lessons.iter().for_each(|lesson| self.learned.learn(lesson));
        }
        let guess = |late: table::Late| Guess { about: late.about, confidence: late.confidence };
        late.into_iter().map(guess).collect()
    }

    /// Says that this worker lives, and learns what others have learned.
    pub fn on_tick(&mut self, shared: &dyn Shared) {
        let now = micros(shared.now());
        let worker = self.worker;
        let unwritten = &self.unwritten;
        let written = change(shared, |table| {
            table.lives(worker, now);
            if !unwritten.is_empty() {
                table.drop(unwritten);
            }
        });
        if written.is_some() {
            self.unwritten.clear();
        }
        if self.method == Method::Single {
            return;
        }
        if core::mem::take(&mut self.lessons) {
            let learned = core::mem::take(&mut self.learned);
            update_within(ATTEMPTS, shared, &model_key(), |stored| {
                let mut model = stored.and_then(Model::read).unwrap_or_default();
                model.merge(&learned);
                model.refresh();
                (Some(model.write()), ())
            });
        }
        if let Some((bytes, version)) = shared.get(&model_key())
            && version != self.version
        {
            self.version = version;
            self.model = Model::read(&bytes).unwrap_or_default();
            self.model.refresh();
        }
    }
}

fn table_key() -> String {
    format!("{PREFIX}infer/open")
}

fn model_key() -> String {
    format!("{PREFIX}infer/learned")
}

fn look(shared: &dyn Shared) -> Option<Table> {
    shared.get(&table_key()).and_then(|(bytes, _)| Table::read(&bytes))
}

/// Changes the table; `None` if other workers were faster each time, or there is no shared data.
fn change<T>(shared: &dyn Shared, with: impl FnMut(&mut Table) -> T) -> Option<T> {
    change_within(ATTEMPTS, shared, with)
}

fn change_within<T>(
    attempts: u32,
    shared: &dyn Shared,
    mut with: impl FnMut(&mut Table) -> T,
) -> Option<T> {
    update_within(attempts, shared, &table_key(), |stored| {
        let mut table = stored.and_then(Table::read).unwrap_or_default();
        let outcome = with(&mut table);
        (Some(table.write()), outcome)
    })
}

const fn micros(now: MonoNanos) -> u64 {
    now.0 / 1000
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::shared::fake::Store;

    #[test]
    fn an_end_that_cannot_be_written_is_written_later() {
        let store = Store::default();
        let mut inference = Inference::new(Method::Best, 0.99);
        let request = inference.begin(Route(1), 0, b"a", &store).unwrap();
        store.conflicts.set(1000);
        assert_eq!(inference.end(request, &store), []);
        inference.on_tick(&store);
        assert_eq!(look(&store).map(|table| table.open()), Some(1));
        store.conflicts.set(0);
        inference.on_tick(&store);
        assert_eq!(look(&store).map(|table| table.open()), Some(0));
    }

    /// Also on a host that compares the number of a key that is not there.
    #[test]
    fn what_was_learned_is_written_down() {
        for conflicts in [0, 1000] {
            let store = Store::default();
            let mut inference = Inference::new(Method::Best, 0.99);
            let request = inference.begin(Route(1), 0, b"a", &store).unwrap();
            let call = inference.call_of(Callee(2), |about| about == b"a", &store).unwrap();
            inference.answer(call, &store);
            inference.end(request, &store);
            store.conflicts.set(conflicts);
            inference.on_tick(&store);
            assert_eq!(store.keys(), ["meshweft/1/infer/learned", "meshweft/1/infer/open"]);
            let learned = Model::read(&store.value(&model_key()).unwrap()).unwrap();
            assert_eq!(learned.write(), inference.model.write());
            assert_ne!(learned.write(), Model::default().write());
        }
    }
}
