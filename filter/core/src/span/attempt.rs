//! How a try at an upstream ended: what is told of it alone, not of the request as a whole.

use std::collections::BTreeMap;

use super::Status;
use super::ending::Ending;
use super::outcome::Outcome;
use crate::model::{Exchange, Headers, ResponseFlags, SpanId, UnixNanos, is_grpc};

/// What is known of a try so far.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnding {
    /// Whether it is a gRPC request.
    pub is_grpc: bool,
    /// The status of its response.
    pub code: Option<i64>,
    /// The gRPC status of its response.
    pub grpc: Option<i64>,
    start: UnixNanos,
    upstream: Option<String>,
    number: i64,
    hedged: bool,
}

/// Which try at the upstream a span tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Attempted {
    /// Which one, from 1.
    pub(super) number: i64,
    hedged: bool,
    failure: Option<Failure>,
}

/// Why there was no response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failure {
    NoConnection,
    NoResponse,
    /// Another try gave the answer.
    Superseded,
}

impl AttemptEnding {
    /// A try that begins at `wall`; `hedged` if another one is under way.
    #[must_use]
    pub fn new(wall: UnixNanos, headers: &Headers, exchange: &impl Exchange, hedged: bool) -> Self {
        Self {
            is_grpc: headers.get("content-type").is_some_and(is_grpc),
            code: None,
            grpc: None,
            start: wall,
            // A later try overwrites it, so it is read now.
            upstream: exchange.text(&["upstream", "address"]),
            number: exchange.integer(&["upstream", "request_attempt_count"]).unwrap_or(1).max(1),
            hedged,
        }
    }

    /// What is known of it when it ends at `wall`.
    pub(super) fn ended(self, wall: UnixNanos, exchange: &impl Exchange) -> Ending {
        let mut message = None;
        let mut flags = ResponseFlags::default();
        let failure = if self.code.is_some() {
            // Of the response as a whole, which is this one's unless it is tried again.
            flags = exchange
                .integer(&["response", "flags"])
                .map_or(flags, |bits| ResponseFlags::from_bits(bits.cast_unsigned()));
            None
        } else if exchange.integer(&["response", "code"]).is_some_and(|code| code != 0) {
            Some(Failure::Superseded)
        } else {
            message = exchange.text(&["upstream", "transport_failure_reason"]);
            Some(if message.is_some() { Failure::NoConnection } else { Failure::NoResponse })
        };
        Ending {
            start: self.start,
            end: wall.max(self.start),
            outcome: Outcome { code: self.code, grpc: self.grpc, flags, details: None },
            spoke_grpc: self.grpc.is_some(),
            cluster: exchange.text(&["xds", "cluster_name"]),
            upstream: self.upstream,
            attempt: Some(Attempted { number: self.number, hedged: self.hedged, failure }),
            message,
            ..Ending::default()
        }
    }
}

impl Attempted {
    /// What kind of a further try it is.
    pub(super) const fn kind(self) -> Option<&'static str> {
        match (self.number, self.hedged) {
            (..=1, _) => None,
            (_, false) => Some("retry"),
            (_, true) => Some("hedge"),
        }
    }

    /// What became of one that is not told by its status.
    pub(super) const fn outcome(self) -> Option<&'static str> {
        match self.failure {
            Some(Failure::Superseded) => Some("superseded"),
            Some(Failure::NoConnection | Failure::NoResponse) | None => None,
        }
    }

    /// The status of a span without a response.
    pub(super) fn status(self, message: Option<&str>) -> Option<(Status, Option<String>)> {
        let error = |kind: &str, message: Option<&str>| {
            let status = Status::Error(message.unwrap_or_default().to_owned());
            (status, Some(kind.to_owned()))
        };
        Some(match self.failure? {
            Failure::NoConnection => error("connection_failure", message),
            Failure::NoResponse => error("no_response", Some("no response from the upstream")),
            Failure::Superseded => (Status::Unset, None),
        })
    }
}

/// Spans that have tries under way, and how many.
#[derive(Clone, Debug, Default)]
pub struct Tries(BTreeMap<SpanId, u32>);

impl Tries {
    /// One more try of a child of `parent`; whether others are under way.
    pub fn begin(&mut self, parent: SpanId) -> bool {
        let open = self.0.entry(parent).or_default();
        *open = open.saturating_add(1);
        *open > 1
    }

    /// A try is over.
    pub fn end(&mut self, parent: SpanId) {
        if let Some(open) = self.0.get_mut(&parent) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                self.0.remove(&parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn tries_that_overlap_are_hedged() {
        let mut tries = Tries::default();
        let [a, b] = [1, 2].map(|byte| SpanId::from_bytes([byte; 8]).unwrap());
        assert_eq!([tries.begin(a), tries.begin(b), tries.begin(a)], [false, false, true]);
        tries.end(a);
        assert!(tries.begin(a));
        tries.end(a);
        tries.end(a);
        tries.end(a);
        assert!(!tries.begin(a));
        tries.end(b);
        tries.end(a);
        assert_eq!(tries.0.len(), 0);
    }

    #[test]
    fn kinds() {
        let kind = |number, hedged| Attempted { number, hedged, failure: None }.kind();
        assert_eq!(
            [kind(1, false), kind(1, true), kind(2, false), kind(3, true)],
            [None, None, Some("retry"), Some("hedge")]
        );
    }
}
