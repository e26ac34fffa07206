//! What is told of requests and calls: of which kind they are, and by which context others may
//! refer to them.

use super::model::{Callee, Route};
use crate::config::{CallRule, Match};
use crate::correlation::record::{MAX_STATE, Record};
use crate::matching::Facts;
use crate::model::{MonoNanos, SpanId, TraceFlags, TraceId};
use crate::propagation::{RemoteContext, SpanContext, TraceState};

/// Segments of a path that count for its shape.
const MAX_SEGMENTS: usize = 8;
/// A longer segment is a value.
const MAX_WORD: usize = 32;
/// Room for ids and flags before the state.
const IDS: usize = 26;
/// Bytes of `tracestate` that open requests keep.
const STATE: usize = if MAX_STATE < 512 { MAX_STATE } else { 512 };

/// Of which kind a request is: its method, and its path without values.
#[must_use]
pub fn route(facts: &Facts<'_>) -> Route {
    let mut hash = Hash::new();
    hash.add(facts.operation_method());
    hash.path(facts.path().unwrap_or_default());
    Route(hash.0)
}

/// What is called: host, method, and the path without values.
#[must_use]
pub fn callee(facts: &Facts<'_>) -> Callee {
    let mut hash = Hash::new();
    hash.add(facts.operation_method());
    hash.add(facts.host().unwrap_or_default());
    hash.path(facts.path().unwrap_or_default());
    Callee(hash.0.max(1))
}

/// The positions of those declared calls of which one side fits the request.
#[must_use]
pub fn declared(rules: &[CallRule], side: fn(&CallRule) -> &Match, facts: &Facts<'_>) -> u64 {
    let bits = rules.iter().zip(0_u32..).map(|(rule, position)| {
        if facts.fit(side(rule)) { 1_u64.checked_shl(position).unwrap_or(0) } else { 0 }
    });
    bits.fold(0, |set, bit| set | bit)
}

/// What calls are told of a request: what its headers would tell them.
#[must_use]
pub fn about_request(context: &SpanContext) -> Vec<u8> {
    let mut about = about_call(context.trace_id, context.span_id, context.flags);
    about.push(u8::from(context.debug));
    about.extend_from_slice(context.state.within(STATE).as_str().as_bytes());
    about
}

/// What a request is told of a call.
#[must_use]
pub fn about_call(trace_id: TraceId, span_id: SpanId, flags: TraceFlags) -> Vec<u8> {
    let mut about = Vec::with_capacity(IDS);
    about.extend_from_slice(&trace_id.to_bytes());
    about.extend_from_slice(&span_id.to_bytes());
    about.push(flags.bits());
    about
}

/// Whether it is told of a span in this trace.
#[must_use]
pub fn is_of(about: &[u8], trace_id: TraceId) -> bool {
    about.starts_with(&trace_id.to_bytes())
}

/// What was told, as if headers had; `None` for what we have not written.
#[must_use]
pub fn context(about: &[u8]) -> Option<RemoteContext> {
    let (trace_id, rest) = about.split_first_chunk()?;
    let (span_id, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first()?;
    let (debug, state) = rest.split_first().unwrap_or((&0, &[]));
    let record = Record {
        since: MonoNanos::default(),
        until: MonoNanos::default(),
        trace_id: TraceId::from_bytes(*trace_id)?,
        span_id: SpanId::from_bytes(*span_id)?,
        flags: TraceFlags::from_bits(*flags),
        debug: *debug == 1,
        state: TraceState::parse([state]).unwrap_or_default(),
    };
    Some(record.into_context())
}

/// FNV-1a: what has the same hash is taken for alike, which costs certainty and nothing else.
struct Hash(u32);

impl Hash {
    const fn new() -> Self {
        Self(0x811C_9DC5)
    }

    fn add(&mut self, text: &[u8]) {
        for byte in text.iter().chain(&[0]) {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    /// Adds a path in which segments that look like values count alike.
    fn path(&mut self, path: &[u8]) {
        for segment in path.split(|byte| *byte == b'/').take(MAX_SEGMENTS) {
            let value = segment.len() > MAX_WORD || segment.iter().any(u8::is_ascii_digit);
            self.add(if value { b"*" } else { segment });
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::propagation::ParentDecision;

    fn shape(path: &str) -> u32 {
        let mut hash = Hash::new();
        hash.path(path.as_bytes());
        hash.0
    }

    #[test]
    fn values_in_paths_do_not_count() {
        assert_eq!(shape("/orders/17/items/a9f"), shape("/orders/4711/items/b0c"));
        assert_ne!(shape("/orders/17"), shape("/stock/17"));
        assert_ne!(shape("/orders"), shape("/orders/17"));
    }

    #[test]
    fn a_context_comes_back_as_headers_would_bring_it() {
        let context = SpanContext {
            trace_id: TraceId::from_bytes([1; 16]).unwrap(),
            span_id: SpanId::from_bytes([2; 8]).unwrap(),
            flags: TraceFlags::SAMPLED,
            debug: false,
            state: TraceState::parse([&b"a=1"[..]]).unwrap(),
        };
        let about = about_request(&context);
        assert!(is_of(&about, context.trace_id));
        let expected = RemoteContext {
            trace_id: context.trace_id,
            parent_id: Some(context.span_id),
            decision: ParentDecision::Sample,
            random: false,
            state: context.state.clone(),
        };
        assert_eq!(super::context(&about), Some(expected.clone()));
        let call = about_call(context.trace_id, context.span_id, context.flags);
        let expected = RemoteContext { state: TraceState::default(), ..expected };
        assert_eq!(super::context(&call), Some(expected));
        for strange in [&[][..], &[0; 25], &[1; 10]] {
            assert_eq!(super::context(strange), None, "{strange:?}");
        }
    }
}
