//! How hops tell one another what they kept (`sampling.keep.propagate`).
//!
//! The proxy that calls asks with a private header of the request, and the one that is called, if
//! it keeps its span, answers with one of the response, or with a trailer where no header can go
//! any more. Between the two sides of one proxy, which an application divides, the verdict stands
//! in shared data under the trace's id.
//!
//! With a secret, question and answer are sealed for the span that asks: whoever sees them learns
//! nothing of the secret, and cannot use them for another call.

use core::hash::Hasher;
use core::time::Duration;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{self, Hasher128};

use super::KeepReason;
use crate::config::Propagate;
use crate::model::slots::{Entry, Slots};
use crate::model::{Shared, SpanId, TraceId};

/// The request header that asks.
pub const QUESTION: &str = "x-meshweft";
/// The response header, or trailer, that answers.
pub const ANSWER: &str = "x-meshweft-keep";

/// What the question says, before its seal.
const ASKING: &str = "1";
/// How long a verdict waits for the other side of the proxy, and the span of a request to the
/// workload for the calls that it causes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Verdicts of a proxy at most, and spans.
const CAPACITY: usize = 4096;

/// What one instance tells others.
#[derive(Clone, Debug)]
pub(crate) struct Relay {
    key: Option<[u8; 16]>,
    verdicts: Slots,
    spans: Slots,
}

impl Relay {
    pub(crate) fn new(propagate: &Propagate) -> Self {
        let key = |secret: &String| {
            let mut hasher = sip128::SipHasher24::new();
            hasher.write(secret.as_bytes());
            hasher.finish128().as_bytes()
        };
        Self {
            key: propagate.secret.as_ref().map(key),
            verdicts: Slots::new("keep", CAPACITY, PATIENCE, 1),
            spans: Slots::new("span", CAPACITY, PATIENCE, 8),
        }
    }

    /// What `asker` writes to ask the next hop.
    pub(crate) fn question(&self, asker: SpanId) -> String {
        self.sealed(ASKING, b'?', asker)
    }

    /// Whether `asker` asks with these values of the header.
    pub(crate) fn asks<'v>(
        &self,
        values: impl IntoIterator<Item = &'v [u8]>,
        asker: SpanId,
    ) -> bool {
        let mut values = values.into_iter();
        let question = values.next().and_then(|value| self.opened(value, b'?', asker));
        // One hop writes one of them.
        question == Some(ASKING) && values.next().is_none()
    }

    /// What `asker` is answered.
    pub(crate) fn answer(&self, asker: SpanId, reason: KeepReason) -> String {
        self.sealed(reason.name(), b'!', asker)
    }

    /// What `value` answers `asker`.
    pub(crate) fn answered(&self, value: &[u8], asker: SpanId) -> Option<KeepReason> {
        KeepReason::from_name(self.opened(value, b'!', asker)?)
    }

    /// Leaves a verdict for the other side of the proxy.
    pub(crate) fn tell(&self, shared: &dyn Shared, trace_id: TraceId, reason: KeepReason) {
        let place = KeepReason::ALL.iter().position(|known| *known == reason);
        let payload = place.and_then(|place| u8::try_from(place).ok()).map(|place| vec![place]);
        put(&self.verdicts, shared, trace_id, payload.unwrap_or_default());
    }

    /// The verdict that the other side of the proxy has left.
    pub(crate) fn told(&self, shared: &dyn Shared, trace_id: TraceId) -> Option<KeepReason> {
        let payload = self.verdicts.get(shared, trace_id.to_bytes(), shared.now())?;
        KeepReason::ALL.get(usize::from(*payload.first()?)).copied()
    }

    /// Remembers the span of a request to the workload.
    pub(crate) fn enters(&self, shared: &dyn Shared, trace_id: TraceId, span_id: SpanId) {
        put(&self.spans, shared, trace_id, span_id.to_bytes().to_vec());
    }

    /// The span of the last request to the workload in this trace.
    pub(crate) fn entered(&self, shared: &dyn Shared, trace_id: TraceId) -> Option<SpanId> {
        let payload = self.spans.get(shared, trace_id.to_bytes(), shared.now())?;
        SpanId::from_bytes(payload.as_slice().try_into().ok()?)
    }

    fn sealed(&self, word: &str, use_of: u8, asker: SpanId) -> String {
        match self.seal(word, use_of, asker) {
            Some(seal) => format!("{word};{seal:016x}"),
            None => word.to_owned(),
        }
    }

    /// The word in `value`, if its seal is right.
    fn opened<'v>(&self, value: &'v [u8], use_of: u8, asker: SpanId) -> Option<&'v str> {
        let value = core::str::from_utf8(value).ok()?;
        let word = value.split(';').next()?;
        (self.sealed(word, use_of, asker) == value).then_some(word)
    }

    fn seal(&self, word: &str, use_of: u8, asker: SpanId) -> Option<u64> {
        let mut hasher = SipHasher24::new_with_key(self.key.as_ref()?);
        hasher.write(&[use_of]);
        hasher.write(&asker.to_bytes());
        hasher.write(word.as_bytes());
        Some(hasher.finish())
    }
}

fn put(slots: &Slots, shared: &dyn Shared, trace_id: TraceId, payload: Vec<u8>) {
    let now = shared.now();
    let entry = || Entry { until: now.after(PATIENCE), payload: payload.clone() };
    // What cannot be written is a path that is not whole, which nobody waits for.
    let _ = slots.update(shared, trace_id.to_bytes(), now, |_| Some(entry()));
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::MonoNanos;
    use crate::model::shared::fake::Store;

    fn relay(secret: Option<&str>) -> Relay {
        Relay::new(&Propagate { secret: secret.map(str::to_owned) })
    }

    fn span(byte: u8) -> SpanId {
        SpanId::from_bytes([byte; 8]).unwrap()
    }

    fn trace(byte: u8) -> TraceId {
        TraceId::from_bytes([byte; 16]).unwrap()
    }

    fn asks(relay: &Relay, value: &str, asker: SpanId) -> bool {
        relay.asks([value.as_bytes()], asker)
    }

    #[test]
    fn without_a_secret_words_are_plain() {
        let relay = relay(None);
        assert_eq!(relay.question(span(1)), "1");
        assert_eq!(relay.answer(span(1), KeepReason::SlowerThan), "slower_than");
        assert!(asks(&relay, "1", span(2)));
        for value in ["", "0", "11", "1;", " 1", "1;0123456789abcdef", "errors"] {
            assert!(!asks(&relay, value, span(2)), "{value}");
        }
        assert!(!relay.asks([&b"1"[..], b"1"], span(2)), "twice");
        assert!(!relay.asks([], span(2)));
        for reason in KeepReason::ALL {
            assert_eq!(relay.answered(reason.name().as_bytes(), span(3)), Some(reason));
        }
        for value in [&b""[..], b"1", b"Errors", b"errors,errors", b"errors;", b"\xff"] {
            assert_eq!(relay.answered(value, span(3)), None, "{value:?}");
        }
    }

    #[test]
    fn with_a_secret_nothing_counts_but_what_was_sealed_for_this_call() {
        let (ours, theirs) = (relay(Some("0123456789abcdef")), relay(Some("0123456789abcdeg")));
        let question = ours.question(span(1));
        assert_eq!((question.len(), &question[..2]), (18, "1;"));
        assert!(!question.contains("0123456789abcdef"));
        assert!(asks(&ours, &question, span(1)));
        assert!(!asks(&ours, &question, span(2)), "another call");
        assert!(!asks(&theirs, &question, span(1)), "another secret");
        assert!(!asks(&ours, "1", span(1)), "no seal");
        let answer = ours.answer(span(1), KeepReason::Errors);
        assert_eq!(ours.answered(answer.as_bytes(), span(1)), Some(KeepReason::Errors));
        assert_eq!(ours.answered(answer.as_bytes(), span(2)), None, "another call");
        assert_eq!(theirs.answered(answer.as_bytes(), span(1)), None, "another secret");
        assert_eq!(ours.answered(b"errors", span(1)), None, "no seal");
        let other = answer.replace("errors", "status");
        assert_eq!(ours.answered(other.as_bytes(), span(1)), None, "another reason");
        // A question is no answer.
        assert_eq!(ours.answered(question.as_bytes(), span(1)), None);
        assert!(!asks(&ours, &answer, span(1)));
    }

    #[test]
    fn the_two_sides_of_a_proxy_meet_by_trace_for_a_minute() {
        let (store, relay) = (Store::default(), relay(None));
        store.local.clock.set(MonoNanos(7));
        assert_eq!(relay.told(&store, trace(1)), None);
        assert_eq!(relay.entered(&store, trace(1)), None);
        relay.enters(&store, trace(1), span(4));
        relay.enters(&store, trace(1), span(5));
        relay.tell(&store, trace(1), KeepReason::GrpcStatus);
        assert_eq!(relay.told(&store, trace(1)), Some(KeepReason::GrpcStatus));
        assert_eq!(relay.told(&store, trace(2)), None);
        assert_eq!(relay.entered(&store, trace(1)), Some(span(5)), "the last one");
        store.local.clock.set(MonoNanos(7 + 60_000_000_000));
        assert_eq!(relay.told(&store, trace(1)), None);
        assert_eq!(relay.entered(&store, trace(1)), None);
        assert!(store.keys().iter().all(|key| key.starts_with("meshweft/1/")));
        store.broken.set(true);
        relay.tell(&store, trace(1), KeepReason::Errors);
        assert_eq!(relay.told(&store, trace(1)), None);
    }
}
