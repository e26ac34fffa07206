//! How an exchange ended: status and `error.type` as the conventions for HTTP and gRPC say.

use super::{SpanKind, Status};
use crate::model::ResponseFlags;

/// gRPC status codes that are the server's fault (conventions for RPC, gRPC, server span).
const GRPC_SERVER_ERRORS: [i64; 6] = [2, 4, 12, 13, 14, 15];

/// The gRPC status that Envoy makes of an HTTP status of 200 where none came.
pub(super) const GRPC_UNKNOWN: i64 = 2;

/// The gRPC status that came, of what the host tells: where the client left there was none, which
/// Envoy tells as UNKNOWN. So end streams that nobody ends otherwise, and they are no error.
pub(crate) fn grpc_that_came(told: Option<i64>, client_left: impl FnOnce() -> bool) -> Option<i64> {
    told.filter(|status| *status != GRPC_UNKNOWN || !client_left())
}

/// What is known of the end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Outcome {
    /// The HTTP status that the client was sent, if any.
    pub(crate) code: Option<i64>,
    /// The gRPC status, if this was a gRPC exchange.
    pub(crate) grpc: Option<i64>,
    /// Envoy's response flags.
    pub(crate) flags: ResponseFlags,
    /// Envoy's response code details.
    pub(crate) details: Option<String>,
}

impl Outcome {
    /// Whether the span is an error.
    pub(crate) fn is_error(&self, kind: SpanKind) -> bool {
        let Some(code) = self.code else { return true };
        (self.flags.broken_off() && code < 400)
            || is_http_error(kind, code)
            || self.grpc.is_some_and(|grpc| is_grpc_error(kind, grpc))
    }

    /// Whether the client left after an answer had begun.
    pub(crate) fn was_left(&self) -> bool {
        self.code == Some(200) && self.flags.client_left()
    }

    /// The span's status and, for an error, its `error.type`, of low cardinality.
    pub(crate) fn status(&self, kind: SpanKind) -> (Status, Option<String>) {
        if !self.is_error(kind) {
            return (Status::Unset, None);
        }
        let word = match (self.code, self.grpc) {
            (Some(code), _) if is_http_error(kind, code) => code.to_string(),
            (Some(code), Some(grpc)) if code >= 400 || !self.flags.broken_off() => grpc.to_string(),
            (Some(_) | None, _) => self.reason(),
        };
        (Status::Error(String::new()), Some(word))
    }

    /// Envoy's word for it without its variable part, which stands in braces.
    fn reason(&self) -> String {
        let details = self.details.as_deref().unwrap_or_default();
        let word = details.split('{').next().unwrap_or_default();
        if !word.is_empty() {
            return word.to_owned();
        }
        let letters = self.flags.letters();
        if letters.is_empty() { "_OTHER".to_owned() } else { letters }
    }
}

const fn is_http_error(kind: SpanKind, code: i64) -> bool {
    match kind {
        SpanKind::Server => code >= 500,
        SpanKind::Client => code >= 400,
    }
}

fn is_grpc_error(kind: SpanKind, status: i64) -> bool {
    match kind {
        SpanKind::Server => GRPC_SERVER_ERRORS.contains(&status),
        SpanKind::Client => status != 0,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[track_caller]
    fn check(kind: SpanKind, outcome: &Outcome, expected: Option<&str>) {
        let status = if expected.is_some() { Status::Error(String::new()) } else { Status::Unset };
        assert_eq!(outcome.status(kind), (status, expected.map(str::to_owned)));
        assert_eq!(outcome.is_error(kind), expected.is_some());
    }

    fn http(code: i64) -> Outcome {
        Outcome { code: Some(code), ..Outcome::default() }
    }

    #[test]
    fn http_status_by_kind() {
        check(SpanKind::Server, &http(200), None);
        check(SpanKind::Server, &http(404), None);
        check(SpanKind::Server, &http(503), Some("503"));
        check(SpanKind::Client, &http(399), None);
        check(SpanKind::Client, &http(404), Some("404"));
        check(SpanKind::Client, &http(500), Some("500"));
    }

    #[test]
    fn grpc_status_by_kind() {
        let grpc = |status| Outcome { grpc: Some(status), ..http(200) };
        check(SpanKind::Server, &grpc(0), None);
        check(SpanKind::Server, &grpc(5), None);
        check(SpanKind::Server, &grpc(14), Some("14"));
        check(SpanKind::Client, &grpc(0), None);
        check(SpanKind::Client, &grpc(5), Some("5"));
    }

    /// What Envoy says of a stream that its client leaves is no status of a server.
    #[test]
    fn a_client_that_leaves_a_stream_makes_no_error() {
        for (letters, told, expected) in [
            ("DC", Some(2), None),
            ("DR", Some(2), None),
            ("", Some(2), Some(2)),
            ("UC", Some(2), Some(2)),
            ("DR", Some(14), Some(14)),
            ("DR", None, None),
        ] {
            let flags = ResponseFlags::from_letters([letters]);
            let grpc = grpc_that_came(told, || flags.client_left());
            assert_eq!(grpc, expected, "{letters} {told:?}");
            let outcome = Outcome { grpc, flags, ..http(200) };
            for kind in [SpanKind::Client, SpanKind::Server] {
                assert_eq!(outcome.is_error(kind), expected.is_some(), "{letters} {told:?}");
            }
        }
    }

    #[test]
    fn no_answer_and_half_an_answer() {
        let details = Some("upstream_reset_after_response_started{connection_termination}");
        let gone = Outcome {
            flags: ResponseFlags::from_bits(1 << 14),
            details: Some("downstream_remote_disconnect".to_owned()),
            ..Outcome::default()
        };
        check(SpanKind::Server, &gone, Some("downstream_remote_disconnect"));
        check(SpanKind::Server, &Outcome { code: Some(200), ..gone }, None);
        let broken = Outcome {
            flags: ResponseFlags::from_bits(1 << 6),
            details: details.map(str::to_owned),
            ..http(200)
        };
        check(SpanKind::Server, &broken, Some("upstream_reset_after_response_started"));
        check(SpanKind::Server, &Outcome { details: None, ..broken }, Some("UC"));
        check(SpanKind::Server, &Outcome::default(), Some("_OTHER"));
    }
}
