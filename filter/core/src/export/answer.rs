//! What an answer means.

use core::time::Duration;
use std::borrow::Cow;

use super::grpc::{self, Asks};
use super::otlp::Partial;
use super::retry::part;
use super::{Answer, Outcome, otlp, otlp_json};
use crate::config::Protocol;
use crate::model::Metric;
use crate::propagation::percent_decode;

/// Longer words of a collector are cut in the log; so many characters as they stand there.
const SHOWN_CHARS: usize = 200;

/// What becomes of a batch after an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Delivered, apart from as many spans as a partial success says.
    Accept { rejected: usize },
    /// Never to be sent again.
    Refuse,
    /// To be sent again; the collector may say how long to wait at least.
    Retry(Option<Duration>),
}

/// What an outcome means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    /// The failure that it counts as.
    pub(super) failure: Option<Metric>,
    /// What an operator should know, as the rest of a sentence that begins with the export.
    pub(super) trouble: Option<String>,
}

/// What `outcome` means after `elapsed`.
pub(super) fn judge(
    protocol: Protocol,
    outcome: &Outcome<'_>,
    elapsed: Duration,
    timeout: Duration,
) -> Judgement {
    let late = is_timeout(elapsed, timeout);
    match outcome {
        Outcome::Answered(answer) => match (protocol, answer.status) {
            (Protocol::OtlpGrpc, 200) => judge_grpc(answer, late),
            _ => judge_http(protocol, answer, late),
        },
        Outcome::NoAnswer if late => failed(Metric::ExportFailuresTimeout),
        Outcome::NoAnswer => failed(Metric::ExportFailuresReset),
        Outcome::NotSent => {
            let trouble = "could not be sent: is there a cluster of this name?".to_owned();
            Judgement { trouble: Some(trouble), ..failed(Metric::ExportFailuresUnreachable) }
        }
    }
}

/// What may be sent again is exactly what OTLP/HTTP says (section "Failures"): 429, 502, 503,
/// 504, and no answer at all. Zipkin says nothing and is asked again where OTLP would be; gRPC
/// maps a status of HTTP to codes that come to the same.
/// Envoy answers 503 itself where a cluster has no healthy host.
fn judge_http(protocol: Protocol, answer: &Answer<'_>, late: bool) -> Judgement {
    let status = answer.status;
    let failure = match status {
        400..=499 => Some(Metric::ExportFailuresStatus4xx),
        500..=599 => Some(Metric::ExportFailuresStatus5xx),
        _ => None,
    };
    let hosts_own = match status {
        503 => hosts_own(answer.body),
        504 if late => Some(Metric::ExportFailuresTimeout),
        _ => None,
    };
    let verdict = match status {
        200..=299 => {
            return accept(match protocol {
                Protocol::OtlpHttp => otlp::partial_success(answer.body),
                Protocol::OtlpHttpJson => otlp_json::partial_success(answer.body),
                // A status of success that is not 200 is not gRPC's.
                Protocol::OtlpGrpc => return no_grpc(status),
                Protocol::Zipkin => Partial::default(),
            });
        }
        429 | 502 | 503 | 504 => Verdict::Retry(answer.retry_after.and_then(delta_seconds)),
        _ => Verdict::Refuse,
    };
    let trouble = hosts_own.map_or_else(
        || Cow::Owned(format!("was answered with status {status}")),
        |failure| Cow::Borrowed(words_for(failure)),
    );
    Judgement { verdict, failure: hosts_own.or(failure), trouble: Some(trouble.into_owned()) }
}

fn judge_grpc(answer: &Answer<'_>, late: bool) -> Judgement {
    let Some(code) = grpc::code(answer) else { return no_grpc(200) };
    let text = percent_decode(answer.grpc_message.unwrap_or_default());
    let verdict = match grpc::asks(code, answer.grpc_details) {
        Asks::Nothing => return accept(otlp::partial_success(grpc::message(answer.body))),
        Asks::Again(pause) => Verdict::Retry(pause),
        Asks::Never => Verdict::Refuse,
    };
    // Envoy tells its own failures as statuses of gRPC too.
    let hosts_own = match verdict {
        Verdict::Retry(_) if late => Some(Metric::ExportFailuresTimeout),
        Verdict::Retry(_) => hosts_own(&text),
        Verdict::Accept { .. } | Verdict::Refuse => None,
    };
    let trouble = hosts_own.map_or_else(
        || format!("was answered with gRPC status {code} ({}){}", grpc::name(code), quoted(&text)),
        |failure| words_for(failure).to_owned(),
    );
    let failure = hosts_own.or(Some(Metric::ExportFailuresGrpcStatus));
    Judgement { verdict, failure, trouble: Some(trouble) }
}

/// An answer that gRPC does not know counts as its UNKNOWN, which is not to be asked again.
fn no_grpc(status: u16) -> Judgement {
    let trouble = format!("was answered with status {status} and without a gRPC status");
    Judgement {
        verdict: Verdict::Refuse,
        failure: Some(Metric::ExportFailuresGrpcStatus),
        trouble: Some(trouble),
    }
}

fn accept(partial: Partial) -> Judgement {
    let Partial { rejected, message } = partial;
    let words = quoted(message.as_bytes());
    let trouble = if rejected > 0 {
        Some(format!("was accepted but for {rejected} spans{words}"))
    } else if !message.is_empty() {
        Some(format!("was accepted with a warning{words}"))
    } else {
        None
    };
    Judgement { verdict: Verdict::Accept { rejected }, failure: None, trouble }
}

/// An attempt without an answer of the collector's.
fn failed(failure: Metric) -> Judgement {
    let trouble = Some(words_for(failure).to_owned());
    Judgement { verdict: Verdict::Retry(None), failure: Some(failure), trouble }
}

const fn words_for(failure: Metric) -> &'static str {
    match failure {
        Metric::ExportFailuresTimeout => "was not answered in time",
        Metric::ExportFailuresUnreachable => "found no host to connect to",
        _ => "lost its connection",
    }
}

/// What a collector says in its own words, behind a colon: nothing in them can begin a line of
/// its own in the log.
fn quoted(text: &[u8]) -> String {
    if text.is_empty() {
        return String::new();
    }
    let text = String::from_utf8_lossy(text);
    let mut room = SHOWN_CHARS;
    let fits = |char: &char| {
        // What cannot be printed stands as an escape of up to ten characters.
        let left = room.checked_sub(char.escape_debug().count());
        room = left.unwrap_or_default();
        left.is_some()
    };
    let mut shown: String = text.chars().take_while(fits).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!(": {shown:?}")
}

/// What Envoy means where it answers in the collector's place, with its own words. That changes
/// what is counted and nothing else, so a collector that says the same does no harm.
fn hosts_own(text: &[u8]) -> Option<Metric> {
    if text.starts_with(b"no healthy upstream") {
        return Some(Metric::ExportFailuresUnreachable);
    }
    if !text.starts_with(b"upstream connect error or disconnect/reset before headers") {
        return None;
    }
    let words = b"connection failure";
    let unreachable = text.windows(words.len()).any(|window| window == words);
    Some(if unreachable { Metric::ExportFailuresUnreachable } else { Metric::ExportFailuresReset })
}

/// The host's timer runs from a time that may be a little before the one we took, so a time-out
/// may seem to come up to a twentieth too early.
fn is_timeout(elapsed: Duration, timeout: Duration) -> bool {
    elapsed >= part(timeout, u64::MAX / 20 * 19)
}

/// `Retry-After` as a number of seconds (RFC 9110, section 10.2.3). A date would need the wall
/// clock of the collector and counts as absent.
fn delta_seconds(value: &[u8]) -> Option<Duration> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = digits.iter().fold(0_u64, |seconds, digit| {
        seconds.saturating_mul(10).saturating_add(u64::from(digit.wrapping_sub(b'0')))
    });
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const HTTP: [Protocol; 3] = [Protocol::OtlpHttp, Protocol::OtlpHttpJson, Protocol::Zipkin];
    const ALL: [Protocol; 4] =
        [Protocol::OtlpHttp, Protocol::OtlpHttpJson, Protocol::Zipkin, Protocol::OtlpGrpc];
    const OK: Answer<'_> = Answer {
        status: 200,
        retry_after: None,
        grpc_status: Some(b"0"),
        grpc_message: None,
        grpc_details: None,
        body: b"",
    };

    fn judged(protocol: Protocol, answer: Answer<'_>) -> (Verdict, Option<Metric>, String) {
        judged_after(protocol, &Outcome::Answered(answer), 0)
    }

    fn judged_after(
        protocol: Protocol,
        outcome: &Outcome<'_>,
        millis: u64,
    ) -> (Verdict, Option<Metric>, String) {
        let judgement = judge(protocol, outcome, Duration::from_millis(millis), TIMEOUT);
        (judgement.verdict, judgement.failure, judgement.trouble.unwrap_or_default())
    }

    #[test]
    fn every_status_of_http() {
        for (protocol, status) in ALL.iter().flat_map(|p| (0..=1000).map(move |s| (*p, s))) {
            if (protocol, status) == (Protocol::OtlpGrpc, 200) {
                continue;
            }
            let (verdict, failure, trouble) = judged(protocol, Answer { status, ..OK });
            let grpc_alone = protocol == Protocol::OtlpGrpc && status / 100 == 2;
            let expected = match status {
                200..=299 if !grpc_alone => Verdict::Accept { rejected: 0 },
                429 | 502..=504 => Verdict::Retry(None),
                _ => Verdict::Refuse,
            };
            assert_eq!(verdict, expected, "{protocol:?} {status}");
            let counted = match status / 100 {
                2 if grpc_alone => Some(Metric::ExportFailuresGrpcStatus),
                4 => Some(Metric::ExportFailuresStatus4xx),
                5 => Some(Metric::ExportFailuresStatus5xx),
                _ => None,
            };
            assert_eq!(failure, counted, "{protocol:?} {status}");
            let words = match status / 100 {
                2 if grpc_alone => {
                    format!("was answered with status {status} and without a gRPC status")
                }
                2 => String::new(),
                _ => format!("was answered with status {status}"),
            };
            assert_eq!(trouble, words);
        }
    }

    #[test]
    fn every_status_of_grpc() {
        for code in 0..20_u32 {
            let status = code.to_string();
            let answer = Answer {
                grpc_status: Some(status.as_bytes()),
                grpc_message: Some(b"why%0anot"),
                ..OK
            };
            let (verdict, failure, trouble) = judged(Protocol::OtlpGrpc, answer);
            let expected = match code {
                0 => Verdict::Accept { rejected: 0 },
                1 | 4 | 10 | 11 | 14 | 15 => Verdict::Retry(None),
                _ => Verdict::Refuse,
            };
            assert_eq!(verdict, expected, "{code}");
            let name = grpc::name(code);
            let (counted, words) = match code {
                0 => (None, String::new()),
                _ => (
                    Some(Metric::ExportFailuresGrpcStatus),
                    format!("was answered with gRPC status {code} ({name}): \"why\\nnot\""),
                ),
            };
            assert_eq!((failure, trouble), (counted, words));
            // Where nobody speaks gRPC its status says nothing.
            let (verdict, ..) = judged(Protocol::OtlpHttp, answer);
            assert_eq!(verdict, Verdict::Accept { rejected: 0 });
        }
    }

    #[test]
    fn an_exhausted_collector_that_names_a_pause_gets_it() {
        // google.rpc.Status{details: [Any{RetryInfo{retry_delay: 7 s}}]}
        let details = b"GjAKKHR5cGUuZ29vZ2xlYXBpcy5jb20vZ29vZ2xlLnJwYy5SZXRyeUluZm8SBAoCCAc";
        let answer = Answer { grpc_status: Some(b"8"), grpc_details: Some(details), ..OK };
        let (verdict, failure, trouble) = judged(Protocol::OtlpGrpc, answer);
        assert_eq!(verdict, Verdict::Retry(Some(Duration::from_secs(7))));
        assert_eq!(failure, Some(Metric::ExportFailuresGrpcStatus));
        assert_eq!(trouble, "was answered with gRPC status 8 (RESOURCE_EXHAUSTED)");
    }

    #[test]
    fn what_is_not_grpc_is_refused() {
        for grpc_status in [None, Some(&b""[..]), Some(b"x"), Some(b"\xff")] {
            let answer = Answer { grpc_status, body: b"<html>", ..OK };
            let trouble = "was answered with status 200 and without a gRPC status".to_owned();
            let counted = Some(Metric::ExportFailuresGrpcStatus);
            assert_eq!(judged(Protocol::OtlpGrpc, answer), (Verdict::Refuse, counted, trouble));
        }
    }

    #[test]
    fn partial_success() {
        let rejected = Verdict::Accept { rejected: 3 };
        let none = Verdict::Accept { rejected: 0 };
        let told = "was accepted but for 3 spans: \"why\"";
        let warned = "was accepted with a warning: \"w\"";
        for (protocol, body, verdict, trouble) in [
            (Protocol::OtlpHttp, &b"\x0a\x07\x08\x03\x12\x03why"[..], rejected, told),
            (Protocol::OtlpHttp, b"\x0a\x03\x12\x01w", none, warned),
            (Protocol::OtlpHttp, b"\xff", none, ""),
            (Protocol::OtlpGrpc, b"\0\0\0\0\x09\x0a\x07\x08\x03\x12\x03why", rejected, told),
            (Protocol::OtlpGrpc, b"\0\0\0\0\x05\x0a\x03\x12\x01w", none, warned),
            (Protocol::OtlpGrpc, b"\0\0", none, ""),
            (
                Protocol::OtlpHttpJson,
                br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"why"}}"#,
                rejected,
                told,
            ),
            (Protocol::OtlpHttpJson, br#"{"partialSuccess":{"errorMessage":"w"}}"#, none, warned),
            (Protocol::OtlpHttpJson, b"\x0a\x02\x08\x03", none, ""),
            (Protocol::Zipkin, b"\x0a\x02\x08\x03", none, ""),
        ] {
            let (actual, failure, words) = judged(protocol, Answer { body, ..OK });
            assert_eq!((actual, failure, &*words), (verdict, None, trouble), "{protocol:?}");
        }
    }

    #[test]
    fn without_an_answer() {
        let nowhere = "could not be sent: is there a cluster of this name?";
        for (outcome, millis, failure, trouble) in [
            (Outcome::NoAnswer, 0, Metric::ExportFailuresReset, "lost its connection"),
            (Outcome::NoAnswer, 4_700, Metric::ExportFailuresReset, "lost its connection"),
            (Outcome::NoAnswer, 4_999, Metric::ExportFailuresTimeout, "was not answered in time"),
            (Outcome::NotSent, 5_000, Metric::ExportFailuresUnreachable, nowhere),
        ] {
            for protocol in ALL {
                assert_eq!(
                    judged_after(protocol, &outcome, millis),
                    (Verdict::Retry(None), Some(failure), trouble.to_owned()),
                );
            }
        }
    }

    #[test]
    fn what_the_host_answers_itself_is_a_failure_to_reach() {
        let broken = "upstream connect error or disconnect/reset before headers. reset reason: ";
        let refused = format!("{broken}remote connection failure, transport failure reason: x");
        let reset = format!("{broken}connection termination");
        let nobody = Metric::ExportFailuresUnreachable;
        let late = "upstream request timeout";
        for (status, text, millis, failure) in [
            (503, "no healthy upstream", 0, nobody),
            (503, &*refused, 0, nobody),
            (503, &*reset, 0, Metric::ExportFailuresReset),
            (503, "busy: connection failure", 5_000, Metric::ExportFailuresStatus5xx),
            (504, late, 5_000, Metric::ExportFailuresTimeout),
            (504, late, 100, Metric::ExportFailuresStatus5xx),
        ] {
            for protocol in HTTP {
                let answer = Answer { status, body: text.as_bytes(), ..OK };
                let (verdict, counted, _) =
                    judged_after(protocol, &Outcome::Answered(answer), millis);
                assert_eq!((verdict, counted), (Verdict::Retry(None), Some(failure)), "{text}");
            }
        }
        for (code, text, millis, failure) in [
            ("14", "no healthy upstream", 0, nobody),
            ("14", &*refused, 0, nobody),
            ("14", &*reset, 0, Metric::ExportFailuresReset),
            ("14", "busy", 0, Metric::ExportFailuresGrpcStatus),
            ("4", late, 5_000, Metric::ExportFailuresTimeout),
            ("14", late, 5_000, Metric::ExportFailuresTimeout),
            ("4", late, 100, Metric::ExportFailuresGrpcStatus),
        ] {
            let (code, text) = (Some(code.as_bytes()), Some(text.as_bytes()));
            let answer = Answer { grpc_status: code, grpc_message: text, ..OK };
            let (verdict, counted, _) =
                judged_after(Protocol::OtlpGrpc, &Outcome::Answered(answer), millis);
            assert_eq!((verdict, counted), (Verdict::Retry(None), Some(failure)), "{text:?}");
        }
    }

    #[test]
    fn retry_after() {
        for (value, expected) in [
            (&b"0"[..], Some(Duration::ZERO)),
            (b"7", Some(Duration::from_secs(7))),
            (b" 120\t", Some(Duration::from_secs(120))),
            (b"99999999999999999999999", Some(Duration::from_secs(u64::MAX))),
            (b"", None),
            (b"+1", None),
            (b"-1", None),
            (b"1.5", None),
            (b"1 2", None),
            (b"\xff", None),
            (b"Fri, 07 Aug 2026 12:00:00 GMT", None),
        ] {
            for protocol in ALL {
                let answer = Answer { status: 503, retry_after: Some(value), ..OK };
                assert_eq!(judged(protocol, answer).0, Verdict::Retry(expected), "{value:?}");
            }
        }
    }

    #[test]
    fn words_of_a_collector_stay_on_their_line() {
        assert_eq!(quoted(b""), "");
        assert_eq!(quoted(b"a\n\x1b[31m\xff\""), ": \"a\\n\\u{1b}[31m\u{fffd}\\\"\"");
        assert_eq!(quoted(&[b'x'; 999]), format!(": \"{}\u{2026}\"", "x".repeat(200)));
    }

    #[test]
    fn words_of_a_collector_are_cut_as_they_stand_in_the_log() {
        assert_eq!(quoted(b""), "");
        assert_eq!(quoted("no \"ü\"\n".as_bytes()), r#": "no \"ü\"\n""#);
        for (char, times) in [("a", 200), ("\n", 100), ("\u{1b}", 33), ("\u{10ffff}", 20)] {
            let shown = quoted(char.repeat(1_000).as_bytes());
            assert_eq!(shown, format!(": {:?}", format!("{}…", char.repeat(times))));
            assert_eq!(quoted(char.repeat(times).as_bytes()), shown.replace('…', ""));
        }
    }
}
