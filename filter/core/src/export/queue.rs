//! What waits: one open batch that grows, and batches that are ready for an attempt.

use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;

use super::encoder::Encoder;
use super::handover::Mark;
use crate::config::{Batch as Limits, Queue as Bounds};
use crate::model::MonoNanos;

/// Spans, and how many bytes they take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Load {
    pub(super) spans: usize,
    pub(super) bytes: usize,
}

/// Spans that go together, for good.
#[derive(Debug)]
pub(super) struct Batch {
    /// Batches are numbered by age.
    number: u64,
    load: Load,
    content: Content,
    pub(super) first_attempt: Option<MonoNanos>,
    pub(super) failures: u32,
    pub(super) not_before: MonoNanos,
    /// What it was left under, for as long as that stands.
    pub(super) left: Option<Mark>,
}

/// What a batch is made of.
#[derive(Debug)]
enum Content {
    /// The request, from the first attempt on: a retry is the same again.
    Body(Rc<[u8]>),
    /// The spans, encoded one after the other.
    Spans(Vec<u8>),
}

/// Which of the batches that are ready goes first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// The oldest.
    Oldest,
    /// The one that has failed least, and the oldest of those: one batch that always fails must
    /// not hold up the others.
    LeastFailed,
}

/// Why a span was not taken in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// The queue is at one of its bounds.
    Full,
    /// The span alone is larger than a batch may be.
    TooLarge,
}

/// Bounded over all that was pushed and not yet released, wherever it is.
#[derive(Debug)]
pub(super) struct Queue {
    bounds: Bounds,
    limits: Limits,
    /// The elements of the open batch. The buffer is kept: a closed batch is an exact copy, so
    /// that what waits takes no more memory than it is accounted for.
    open: Vec<u8>,
    open_spans: usize,
    open_since: MonoNanos,
    ready: VecDeque<Batch>,
    held: Load,
    next_number: u64,
}

impl Batch {
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// The body of the request that carries it.
    pub(super) fn body(&mut self, encoder: &Encoder) -> Rc<[u8]> {
        let body = match &self.content {
            Content::Body(body) => Rc::clone(body),
            Content::Spans(spans) => encoder.body(spans).into(),
        };
        self.content = Content::Body(Rc::clone(&body));
        body
    }
}

impl Queue {
    pub(super) fn new(bounds: Bounds, limits: Limits) -> Self {
        Self {
            bounds,
            limits,
            open: Vec::new(),
            open_spans: 0,
            open_since: MonoNanos::default(),
            ready: VecDeque::new(),
            held: Load::default(),
            next_number: 0,
        }
    }

    /// Takes a span in, which `encode` appends, and tells how many bytes it takes.
    pub(super) fn push(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>),
        now: MonoNanos,
    ) -> Result<usize, Refused> {
        // A full queue is no reason to encode.
        if self.held.spans >= self.bounds.max_spans {
            return Err(Refused::Full);
        }
        let start = self.open.len();
        encode(&mut self.open);
        let bytes = self.open.len().saturating_sub(start);
        let held = self.held.bytes.saturating_add(bytes);
        let refused = if bytes > self.limits.max_bytes {
            Some(Refused::TooLarge)
        } else if held > self.bounds.max_bytes {
            Some(Refused::Full)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.open.truncate(start);
            return Err(refused);
        }
        if self.open.len() > self.limits.max_bytes {
            self.close(start);
        }
        if self.open_spans == 0 {
            self.open_since = now;
        }
        self.open_spans = self.open_spans.saturating_add(1);
        self.held = Load { spans: self.held.spans.saturating_add(1), bytes: held };
        if self.open_spans >= self.limits.max_spans || self.open.len() >= self.limits.max_bytes {
            self.close(self.open.len());
        }
        Ok(bytes)
    }

    /// From now on an open batch does not wait for company.
    pub(super) fn hurry(&mut self) {
        self.limits.interval = Duration::ZERO;
    }

    /// The next batch whose time has come.
    pub(super) fn take(&mut self, now: MonoNanos, turn: Turn) -> Option<Batch> {
        if self.open_spans > 0 && now.since(self.open_since) >= self.limits.interval {
            self.close(self.open.len());
        }
        let rank = |batch: &Batch| match turn {
            Turn::Oldest => (0, batch.number),
            Turn::LeastFailed => (batch.failures, batch.number),
        };
        let (index, _) = self
            .ready
            .iter()
            .enumerate()
            .filter(|(_, batch)| batch.not_before <= now)
            .min_by_key(|(_, batch)| rank(batch))?;
        self.ready.remove(index)
    }

    /// Takes `batch` back in after a failure.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.ready.push_back(batch);
    }

    /// Takes the request of an instance that is gone in, as the newest batch.
    pub(super) fn take_over(&mut self, load: Load, body: Rc<[u8]>) {
        self.held.spans = self.held.spans.saturating_add(load.spans);
        self.held.bytes = self.held.bytes.saturating_add(load.bytes);
        self.add(load, Content::Body(body));
    }

    /// How much more there is room for.
    pub(super) fn room(&self) -> Load {
        Load {
            spans: self.bounds.max_spans.saturating_sub(self.held.spans),
            bytes: self.bounds.max_bytes.saturating_sub(self.held.bytes),
        }
    }

    /// All that waits, as batches that grow no more; those that have failed come last.
    pub(super) fn waiting(&mut self) -> impl Iterator<Item = &mut Batch> {
        if self.open_spans > 0 {
            self.close(self.open.len());
        }
        self.ready.iter_mut()
    }

    /// Forgets those of the batches that wait for which `is_gone` holds: they are somebody else's.
    pub(super) fn forget(&mut self, is_gone: impl Fn(&Batch) -> bool) {
        let (gone, ready) = self.ready.drain(..).partition(|batch| is_gone(batch));
        self.ready = ready;
        let gone: VecDeque<Batch> = gone;
        gone.iter().for_each(|batch| self.release(batch.load));
    }

    /// Makes room: what `load` stands for is delivered or given up.
    pub(super) fn release(&mut self, load: Load) {
        self.held.spans = self.held.spans.saturating_sub(load.spans);
        self.held.bytes = self.held.bytes.saturating_sub(load.bytes);
    }

    /// Gives up all that waits and tells how much it was.
    pub(super) fn clear(&mut self) -> Load {
        let mut load = Load { spans: self.open_spans, bytes: self.open.len() };
        for batch in self.ready.drain(..) {
            load.spans = load.spans.saturating_add(batch.load.spans);
            load.bytes = load.bytes.saturating_add(batch.load.bytes);
        }
        self.open = Vec::new();
        self.open_spans = 0;
        self.release(load);
        load
    }

    /// Whether all that was pushed is released.
    pub(super) fn is_empty(&self) -> bool {
        self.held == Load::default()
    }

    /// Makes a batch of the open spans, which end at `end`; what follows stays open.
    fn close(&mut self, end: usize) {
        let bytes: Vec<u8> = self.open.get(..end).unwrap_or_default().to_vec();
        self.open.drain(..bytes.len());
        let load = Load { spans: core::mem::take(&mut self.open_spans), bytes: bytes.len() };
        self.add(load, Content::Spans(bytes));
    }

    fn add(&mut self, load: Load, content: Content) {
        self.ready.push_back(Batch {
            number: self.next_number,
            load,
            content,
            first_attempt: None,
            failures: 0,
            not_before: MonoNanos::default(),
            left: None,
        });
        self.next_number = self.next_number.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// Encodes a span of so many bytes.
    fn span(bytes: usize) -> impl Fn(&mut Vec<u8>) {
        move |out| out.extend(vec![b's'; bytes])
    }

    fn queue(max_spans: usize, max_bytes: usize) -> Queue {
        let limits = Limits { max_spans: 3, max_bytes: 250, interval: Duration::from_nanos(10) };
        Queue::new(Bounds { max_spans, max_bytes }, limits)
    }

    fn take(queue: &mut Queue, now: u64, turn: Turn) -> Option<(u64, usize, usize)> {
        let batch = queue.take(MonoNanos(now), turn)?;
        let Content::Spans(spans) = &batch.content else { panic!("{batch:?}") };
        assert_eq!(batch.load.bytes, spans.len());
        Some((batch.number, batch.load.spans, spans.len()))
    }

    #[test]
    fn by_count_by_bytes_by_age() {
        let mut queue = queue(100, 10_000);
        for bytes in [80, 80, 80, 100, 100, 100, 250] {
            assert_eq!(queue.push(span(bytes), MonoNanos(5)), Ok(bytes));
        }
        assert_eq!(queue.push(span(80), MonoNanos(7)), Ok(80));
        assert_eq!(queue.push(span(80), MonoNanos(9)), Ok(80));
        for expected in [(0, 3, 240), (1, 2, 200), (2, 1, 100), (3, 1, 250)] {
            assert_eq!(take(&mut queue, 16, Turn::Oldest), Some(expected));
        }
        assert_eq!(take(&mut queue, 16, Turn::Oldest), None);
        assert_eq!(take(&mut queue, 17, Turn::Oldest), Some((4, 2, 160)));
        queue.release(Load { spans: 9, bytes: 950 });
        assert!(queue.is_empty());
    }

    #[test]
    fn hurry_waits_for_nobody() {
        let mut queue = queue(100, 10_000);
        queue.push(span(80), MonoNanos(5)).unwrap();
        queue.hurry();
        assert_eq!(take(&mut queue, 5, Turn::Oldest), Some((0, 1, 80)));
    }

    #[test]
    fn bounds_hold_until_release() {
        let mut queue = queue(2, 10_000);
        assert_eq!(queue.push(span(251), MonoNanos(0)), Err(Refused::TooLarge));
        assert!(queue.is_empty());
        queue.push(span(80), MonoNanos(0)).unwrap();
        queue.push(span(80), MonoNanos(0)).unwrap();
        let batch = queue.take(MonoNanos(10), Turn::Oldest).unwrap();
        assert_eq!(queue.push(span(80), MonoNanos(0)), Err(Refused::Full));
        queue.release(batch.load());
        assert_eq!(queue.push(span(80), MonoNanos(0)), Ok(80));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let mut queue = queue(100, 300);
        assert_eq!(queue.push(span(200), MonoNanos(0)), Ok(200));
        assert_eq!(queue.push(span(101), MonoNanos(0)), Err(Refused::Full));
        assert_eq!(queue.push(span(100), MonoNanos(0)), Ok(100));
        assert_eq!(queue.clear(), Load { spans: 2, bytes: 300 });
        assert!(queue.is_empty());
        assert_eq!(take(&mut queue, 99, Turn::Oldest), None);
    }

    #[test]
    fn turns() {
        let mut queue = queue(100, 10_000);
        for _ in 0..3 {
            queue.push(span(250), MonoNanos(0)).unwrap();
        }
        let mut first = queue.take(MonoNanos(0), Turn::Oldest).unwrap();
        first.failures = 1;
        first.not_before = MonoNanos(8);
        queue.put_back(first);
        assert_eq!(take(&mut queue, 7, Turn::Oldest), Some((1, 1, 250)));
        assert_eq!(take(&mut queue, 8, Turn::LeastFailed), Some((2, 1, 250)));
        assert_eq!(take(&mut queue, 7, Turn::LeastFailed), None);
        assert_eq!(take(&mut queue, 8, Turn::LeastFailed), Some((0, 1, 250)));
    }

    #[test]
    fn memory_stays_near_the_account() {
        let limits = Limits { max_spans: 512, max_bytes: 1 << 16, interval: Duration::ZERO };
        let bounds = Bounds { max_spans: 100_000, max_bytes: 1 << 20 };
        let mut queue = Queue::new(bounds, limits);
        let span = span(400);
        let mut refused = 0;
        for _ in 0..10_000 {
            refused += usize::from(queue.push(&span, MonoNanos(0)) == Err(Refused::Full));
        }
        assert_eq!(refused, 10_000 - (1 << 20) / 400);
        let capacity = |batch: &Batch| match &batch.content {
            Content::Spans(spans) => spans.capacity(),
            Content::Body(body) => body.len(),
        };
        let ready: usize = queue.ready.iter().map(capacity).sum();
        assert!(ready <= 1 << 20, "{ready}");
        assert!(queue.open.capacity() <= 3 << 16, "{}", queue.open.capacity());
    }
}
