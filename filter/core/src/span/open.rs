//! Streams that go on and on: told of once while they are open, and again when they have ended.

use std::collections::{BTreeMap, BTreeSet};

use super::{Correlated, Link, SpanKind, Subject};
use crate::model::{Headers, MonoNanos, SpanId, UnixNanos};
use crate::propagation::SpanContext;

/// What is known of a stream from its request.
#[derive(Clone, Debug)]
pub struct OpenStream {
    /// Its span, as it was sent on.
    pub context: SpanContext,
    /// The caller's span.
    pub parent_id: Option<SpanId>,
    /// Which side of the call.
    pub kind: SpanKind,
    /// The headers of its request.
    pub headers: Headers,
    /// Why it is recorded.
    pub reason: String,
    /// How it was joined to another one.
    pub correlation: Option<Correlated>,
    /// Values of the caller's baggage.
    pub baggage: Vec<(String, String)>,
    /// What it has to do with beside its parent.
    pub links: Vec<Link>,
    /// When it began.
    pub start: UnixNanos,
}

impl OpenStream {
    /// What its span is about.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            context: &self.context,
            parent_id: self.parent_id,
            kind: self.kind,
            headers: &self.headers,
            reason: &self.reason,
            correlation: self.correlation,
            keep: None,
            baggage: &self.baggage,
            links: &self.links,
        }
    }
}

/// The open streams of an instance that are recorded, as many as the host has open.
#[derive(Clone, Debug, Default)]
pub struct OpenStreams {
    last: u64,
    /// In the order in which they began.
    waiting: BTreeMap<u64, (MonoNanos, OpenStream)>,
    told: BTreeSet<u64>,
}

impl OpenStreams {
    /// Takes in a stream that began at `now`; gives the key by which it ends.
    pub fn begin(&mut self, stream: OpenStream, now: MonoNanos) -> u64 {
        self.last = self.last.saturating_add(1);
        self.waiting.insert(self.last, (now, stream));
        self.last
    }

    /// Streams that are due: `is_due` says so of the time at which one began.
    pub fn due(&mut self, is_due: impl Fn(MonoNanos) -> bool) -> Vec<OpenStream> {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry()
            && is_due(first.get().0)
        {
            let (key, (_, stream)) = first.remove_entry();
            self.told.insert(key);
            due.push(stream);
        }
        due
    }

    /// Forgets a stream that has ended; whether it was due before.
    pub fn end(&mut self, key: u64) -> bool {
        self.waiting.remove(&key);
        self.told.remove(&key)
    }
}
