//! The end's say: which requests are kept for their outcome, though the head decision dropped
//! them.
//!
//! A fact of the outcome costs a hostcall. So each is asked when the first condition needs it, and
//! not at all where others imply it.

use core::cell::OnceCell;
use core::time::Duration;
use std::borrow::Cow;

use crate::config::{Direction, Keep};
use crate::matching::Side;
use crate::model::{Exchange, Headers, ResponseFlags, is_grpc};
use crate::span::{Outcome, SpanKind, grpc_that_came};

/// Why a request was kept that the head decision had dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeepReason {
    /// Its span is an error.
    Errors,
    /// Its HTTP status.
    Status,
    /// Its gRPC status.
    GrpcStatus,
    /// Envoy's flags.
    ResponseFlags,
    /// The time that it took.
    SlowerThan,
}

impl KeepReason {
    /// All reasons, in the order in which they are asked.
    pub const ALL: [Self; 5] =
        [Self::Errors, Self::Status, Self::GrpcStatus, Self::ResponseFlags, Self::SlowerThan];

    /// The field of `sampling.keep` that it is of.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Status => "status",
            Self::GrpcStatus => "grpc_status",
            Self::ResponseFlags => "response_flags",
            Self::SlowerThan => "slower_than",
        }
    }

    /// The reason of this name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Whether `keep` asks for it.
    #[must_use]
    pub fn is_asked_by(self, keep: &Keep) -> bool {
        match self {
            Self::Errors => keep.errors,
            Self::Status => !keep.status.is_empty(),
            Self::GrpcStatus => !keep.grpc_status.is_empty(),
            Self::ResponseFlags => !keep.response_flags.is_empty(),
            Self::SlowerThan => keep.slower_than.is_some(),
        }
    }

    /// Whether it holds of `ending`, as `keep` has it.
    #[must_use]
    pub fn holds(self, keep: &Keep, ending: &Ending<'_>) -> bool {
        match self {
            Self::Errors => ending.is_error(),
            Self::Status => {
                ending.code().is_some_and(|code| keep.status.iter().any(|of| of.contains(&code)))
            }
            Self::GrpcStatus => ending.grpc().is_some_and(|code| keep.grpc_status.contains(&code)),
            Self::ResponseFlags => ending.flags().any_of(keep.response_flags),
            Self::SlowerThan => {
                keep.slower_than.zip(ending.elapsed()).is_some_and(|(bound, took)| took > bound)
            }
        }
    }
}

/// By whose end a request was kept, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kept {
    /// By that of a hop further down.
    Below(KeepReason),
    /// By its own.
    Here(KeepReason),
}

impl Kept {
    /// Why, wherever it was.
    #[must_use]
    pub const fn reason(self) -> KeepReason {
        match self {
            Self::Below(reason) | Self::Here(reason) => reason,
        }
    }

    /// What stands on the span: the reason's name, with `propagated:` before it where it is that
    /// of a hop further down.
    #[must_use]
    pub fn describe(self) -> Cow<'static, str> {
        match self {
            Self::Below(reason) => format!("propagated:{}", reason.name()).into(),
            Self::Here(reason) => reason.name().into(),
        }
    }
}

/// Why `keep` keeps a request that ended so: the first reason that holds.
#[must_use]
pub fn reason(keep: &Keep, ending: &Ending<'_>) -> Option<KeepReason> {
    let mut asked = KeepReason::ALL.into_iter().filter(|reason| reason.is_asked_by(keep));
    asked.find(|reason| reason.holds(keep, ending))
}

/// When the end of a request is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// The headers of the response come by: the rest is still to come.
    Headers {
        /// How long that took, if somebody has looked at the clock.
        elapsed: Option<Duration>,
    },
    /// Its trailers do.
    Trailers,
    /// All is over.
    End {
        /// Whether the response is known to have come to its end.
        is_whole: bool,
    },
}

/// How a request ended, fact by fact, as far as it is known.
pub struct Ending<'a> {
    exchange: &'a dyn Exchange,
    side: Side,
    is_grpc: bool,
    moment: Moment,
    code: OnceCell<Option<i64>>,
    grpc: OnceCell<Option<i64>>,
    flags: OnceCell<ResponseFlags>,
}

impl<'a> Ending<'a> {
    /// The end of the request with these `headers`, as it is known at this moment.
    #[must_use]
    pub fn new(exchange: &'a dyn Exchange, side: Side, headers: &Headers, moment: Moment) -> Self {
        let is_grpc = headers.get("content-type").is_some_and(is_grpc);
        let (code, grpc, flags) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { exchange, side, is_grpc, moment, code, grpc, flags }
    }

    /// The status that the client was sent, if any.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        *self.code.get_or_init(|| {
            // gRPC's OK comes with no other status (gRPC over HTTP2, Responses).
            if self.grpc() == Some(0) {
                return Some(200);
            }
            match self.moment {
                Moment::Headers { .. } | Moment::Trailers => {
                    number(self.exchange.response_header(":status"))
                }
                Moment::End { .. } => {
                    self.exchange.integer(&["response", "code"]).filter(|code| *code != 0)
                }
            }
        })
    }

    /// The gRPC status, of a gRPC request.
    #[must_use]
    pub fn grpc(&self) -> Option<i64> {
        let ask = || match self.moment {
            // Of a response without a body they are the trailers too.
            Moment::Headers { .. } | Moment::Trailers => {
                number(self.exchange.response_header("grpc-status"))
            }
            Moment::End { .. } => {
                let told = self.exchange.integer(&["response", "grpc_status"]);
                grpc_that_came(told, || self.flags().client_left())
            }
        };
        *self.grpc.get_or_init(|| self.is_grpc.then(ask).flatten())
    }

    /// Envoy's flags.
    #[must_use]
    pub fn flags(&self) -> ResponseFlags {
        *self.flags.get_or_init(|| {
            let bits = self.exchange.integer(&["response", "flags"]);
            ResponseFlags::from_bits(bits.unwrap_or(0).cast_unsigned())
        })
    }

    /// How long it took.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        match self.moment {
            Moment::Headers { elapsed } => elapsed,
            Moment::Trailers => None,
            Moment::End { .. } => {
                let nanos = self.exchange.integer(&["request", "duration"])?;
                Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
            }
        }
    }

    /// Whether its span is an error.
    fn is_error(&self) -> bool {
        let is_over = matches!(self.moment, Moment::End { .. });
        // A request has no status in the end if nothing answered it.
        let Some(code) = self.code() else { return is_over };
        // A response that has come to its end was not broken off.
        let may_be_broken = self.moment == Moment::End { is_whole: false } && code < 400;
        let flags = if may_be_broken { self.flags() } else { ResponseFlags::default() };
        let outcome = Outcome { code: Some(code), grpc: self.grpc(), flags, details: None };
        // What a server counts as an error a client does too, and most requests are none to either.
        outcome.is_error(SpanKind::Server)
            || (outcome.is_error(SpanKind::Client)
                && self.side.of(self.exchange) == Direction::Outbound)
    }
}

fn number(text: Option<Vec<u8>>) -> Option<i64> {
    core::str::from_utf8(&text?).ok()?.parse().ok()
}

impl core::fmt::Debug for Ending<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ending").field("is_grpc", &self.is_grpc).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;

    /// What the host tells, and what it was asked.
    #[derive(Default)]
    struct Told {
        facts: BTreeMap<&'static str, i64>,
        asked: RefCell<Vec<String>>,
    }

    impl Exchange for Told {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            let path = path.join(".");
            let fact = self.facts.get(path.as_str()).map(|fact| fact.to_le_bytes().to_vec());
            self.asked.borrow_mut().push(path);
            fact
        }
    }

    const CODE: &str = "response.code";
    const FLAGS: &str = "response.flags";
    const GRPC: &str = "response.grpc_status";
    const DURATION: &str = "request.duration";
    const DIRECTION: &str = "xds.listener_direction";
    const OUTBOUND: (&str, i64) = (DIRECTION, 2);

    fn keep(json: &str) -> Keep {
        let config = format!(r#"{{"export": {{"cluster": "c"}}, "sampling": {{"keep": {json}}}}}"#);
        Config::parse(config.as_bytes(), &|_| None).unwrap().sampling.keep.unwrap()
    }

    /// Why a request is kept, and what was asked to know it.
    fn why(
        json: &str,
        [is_grpc, is_whole]: [bool; 2],
        facts: &[(&'static str, i64)],
    ) -> (Option<&'static str>, Vec<String>) {
        let told = Told { facts: facts.iter().copied().collect(), ..Told::default() };
        let grpc = is_grpc.then_some(("content-type", "application/grpc"));
        let headers = grpc.into_iter().collect();
        let ending = Ending::new(&told, Side::OfListener, &headers, Moment::End { is_whole });
        let reason = reason(&keep(json), &ending).map(KeepReason::name);
        (reason, told.asked.into_inner())
    }

    const HTTP: [bool; 2] = [false, true];
    const BROKEN: [bool; 2] = [false, false];
    const RPC: [bool; 2] = [true, true];
    const LEFT: [bool; 2] = [true, false];

    #[test]
    fn errors_by_the_side_of_the_call() {
        let errors = r#"{"errors": true}"#;
        let kept = Some("errors");
        for (kind, facts, reason, asked) in [
            (HTTP, &[(CODE, 200)][..], None, &[CODE][..]),
            (HTTP, &[(CODE, 503)], kept, &[CODE]),
            (HTTP, &[(CODE, 404)], None, &[CODE, DIRECTION]),
            (HTTP, &[(CODE, 404), OUTBOUND], kept, &[CODE, DIRECTION]),
            // No answer; and half of one, by the upstream's fault or by the client's.
            (BROKEN, &[], kept, &[CODE]),
            (BROKEN, &[(CODE, 0)], kept, &[CODE]),
            (BROKEN, &[(CODE, 200), (FLAGS, 1 << 6)], kept, &[CODE, FLAGS]),
            (BROKEN, &[(CODE, 200), (FLAGS, 1 << 14)], None, &[CODE, FLAGS]),
            (BROKEN, &[(CODE, 503), (FLAGS, 1 << 5)], kept, &[CODE]),
            (RPC, &[(CODE, 200), (GRPC, 0)], None, &[GRPC]),
            (RPC, &[(CODE, 200), (GRPC, 14)], kept, &[GRPC, CODE]),
            (RPC, &[(CODE, 200), (GRPC, 5)], None, &[GRPC, CODE, DIRECTION]),
            (RPC, &[(CODE, 200), (GRPC, 5), OUTBOUND], kept, &[GRPC, CODE, DIRECTION]),
            // Of a stream that the client leaves (DR) Envoy tells UNKNOWN, which nobody sent.
            (LEFT, &[(CODE, 200), (GRPC, 2), (FLAGS, 1 << 28)], None, &[GRPC, FLAGS, CODE]),
            (LEFT, &[(CODE, 200), (GRPC, 2)], kept, &[GRPC, FLAGS, CODE]),
            // That of a request that is not gRPC means nothing.
            (HTTP, &[(CODE, 200), (GRPC, 2)], None, &[CODE]),
        ] {
            let (found, was_asked) = why(errors, kind, facts);
            // A fact that is known is not asked again.
            assert_eq!((found, was_asked), (reason, asked.iter().map(|&a| a.to_owned()).collect()));
        }
    }

    #[test]
    fn each_condition_alone() {
        for (json, kind, facts, reason) in [
            (r#"{"status": ["4xx", 503]}"#, HTTP, &[(CODE, 499)][..], Some("status")),
            (r#"{"status": ["4xx", 503]}"#, HTTP, &[(CODE, 503)], Some("status")),
            (r#"{"status": ["4xx", 503]}"#, HTTP, &[(CODE, 500)], None),
            (r#"{"status": ["4xx", 503]}"#, HTTP, &[], None),
            (r#"{"status": [200]}"#, RPC, &[(GRPC, 0)], Some("status")),
            (r#"{"grpc_status": ["NOT_FOUND"]}"#, RPC, &[(GRPC, 5)], Some("grpc_status")),
            (r#"{"grpc_status": ["NOT_FOUND"]}"#, RPC, &[(GRPC, 6)], None),
            (r#"{"grpc_status": ["NOT_FOUND"]}"#, HTTP, &[(GRPC, 5)], None),
            (
                r#"{"response_flags": ["UO"]}"#,
                HTTP,
                &[(FLAGS, 0b1000_0001)],
                Some("response_flags"),
            ),
            (r#"{"response_flags": ["UO"]}"#, HTTP, &[(FLAGS, 1)], None),
            (r#"{"slower_than": "5ms"}"#, HTTP, &[(DURATION, 5_000_001)], Some("slower_than")),
            (r#"{"slower_than": "5ms"}"#, HTTP, &[(DURATION, 5_000_000)], None),
            (r#"{"slower_than": "5ms"}"#, HTTP, &[(DURATION, -1)], None),
            (r#"{"slower_than": "5ms"}"#, HTTP, &[], None),
        ] {
            assert_eq!(why(json, kind, facts).0, reason, "{json} {facts:?}");
        }
    }

    /// The budget of two hostcalls.
    #[test]
    fn what_is_not_kept_was_asked_little() {
        let most = r#"{"errors": true, "status": ["5xx", 429], "grpc_status": ["UNAVAILABLE"],
            "slower_than": "1s"}"#;
        let facts = [(CODE, 200), (GRPC, 0), (DURATION, 5)];
        assert_eq!(why(most, HTTP, &facts), (None, vec![CODE.to_owned(), DURATION.to_owned()]));
        assert_eq!(why(most, RPC, &facts), (None, vec![GRPC.to_owned(), DURATION.to_owned()]));
        let some = r#"{"errors": true, "response_flags": ["UO"]}"#;
        assert_eq!(why(some, HTTP, &facts), (None, vec![CODE.to_owned(), FLAGS.to_owned()]));
    }

    #[test]
    fn the_first_reason_counts() {
        let all = r#"{"errors": true, "status": ["5xx"], "response_flags": ["UF"],
            "slower_than": "1s"}"#;
        let facts = [(CODE, 503), (FLAGS, 1 << 5), (DURATION, 2_000_000_000)];
        assert_eq!(why(all, HTTP, &facts), (Some("errors"), vec![CODE.to_owned()]));
        let names = KeepReason::ALL.map(KeepReason::name);
        assert_eq!(names, ["errors", "status", "grpc_status", "response_flags", "slower_than"]);
    }
}
