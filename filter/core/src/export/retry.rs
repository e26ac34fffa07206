//! What an outcome means, and when to try again.

use core::time::Duration;

use super::{Outcome, otlp};
use crate::config::Retry;
use crate::model::Metric;

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

/// What `outcome` means after `elapsed`, and the failure it counts as.
///
/// What may be sent again is exactly what OTLP/HTTP says (section "Failures"): 429, 502, 503,
/// 504, and no answer at all. Envoy answers 503 itself where a cluster has no healthy host.
pub(super) fn judge(
    outcome: &Outcome<'_>,
    elapsed: Duration,
    timeout: Duration,
) -> (Verdict, Option<Metric>) {
    match *outcome {
        Outcome::Answered { status, retry_after, body } => {
            let failure = match status {
                400..=499 => Some(Metric::ExportFailuresStatus4xx),
                500..=599 => Some(Metric::ExportFailuresStatus5xx),
                _ => None,
            };
            let failure = hosts_own(status, body, elapsed, timeout).or(failure);
            let verdict = match status {
                200..=299 => Verdict::Accept { rejected: otlp::rejected_spans(body) },
                429 | 502 | 503 | 504 => Verdict::Retry(retry_after.and_then(delta_seconds)),
                _ => Verdict::Refuse,
            };
            (verdict, failure)
        }
        Outcome::NoAnswer => {
            let failure = if is_timeout(elapsed, timeout) {
                Metric::ExportFailuresTimeout
            } else {
                Metric::ExportFailuresReset
            };
            (Verdict::Retry(None), Some(failure))
        }
        Outcome::NotSent => (Verdict::Retry(None), Some(Metric::ExportFailuresUnreachable)),
    }
}

/// What Envoy means where it answers in the collector's place: it tells a time-out as 504, and a
/// connection that failed as 503 with its own words in the body. That changes what is counted
/// and nothing else, so a collector that says the same does no harm.
fn hosts_own(status: u16, body: &[u8], elapsed: Duration, timeout: Duration) -> Option<Metric> {
    match status {
        503 if body.starts_with(b"no healthy upstream") => Some(Metric::ExportFailuresUnreachable),
        503 if body.starts_with(b"upstream connect error or disconnect/reset before headers") => {
            let words = b"connection failure";
            let unreachable = body.windows(words.len()).any(|window| window == words);
            Some(if unreachable {
                Metric::ExportFailuresUnreachable
            } else {
                Metric::ExportFailuresReset
            })
        }
        504 if is_timeout(elapsed, timeout) => Some(Metric::ExportFailuresTimeout),
        _ => None,
    }
}

/// The pause after `failures` failures in a row: a value between the half and the whole of
/// `initial * 2^(failures - 1)`, which is at most `max`; `draw` chooses it evenly.
///
/// A longer `asked` takes its place, up to `max`, and up to one `initial` is added to it, so
/// that workers which were told the same do not come back together.
pub(super) fn pause(retry: &Retry, failures: u32, asked: Option<Duration>, draw: u64) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
    let whole = retry.initial.saturating_mul(factor).min(retry.max);
    let half = part(whole, u64::MAX >> 1);
    let own = half.saturating_add(part(whole.saturating_sub(half), draw));
    let asked = asked.map(|asked| asked.saturating_add(part(retry.initial, draw)));
    asked.unwrap_or_default().max(own).min(retry.max)
}

/// The host's timer runs from a time that may be a little before the one we took, so a time-out
/// may seem to come up to a twentieth too early.
fn is_timeout(elapsed: Duration, timeout: Duration) -> bool {
    elapsed >= part(timeout, u64::MAX / 20 * 19)
}

/// `draw / 2^64` of `duration`, to the nearest nanosecond.
fn part(duration: Duration, draw: u64) -> Duration {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let scaled = u128::from(nanos).saturating_mul(u128::from(draw)).saturating_add(1 << 63) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
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

    const RETRY: Retry = Retry {
        initial: Duration::from_millis(500),
        max: Duration::from_secs(30),
        max_elapsed: Duration::from_secs(300),
    };

    fn answered(status: u16) -> Outcome<'static> {
        Outcome::Answered { status, retry_after: None, body: b"" }
    }

    #[test]
    fn every_status() {
        for status in 0..=u16::MAX {
            let (verdict, failure) =
                judge(&answered(status), Duration::ZERO, Duration::from_secs(5));
            assert_eq!(
                verdict,
                match status {
                    200..=299 => Verdict::Accept { rejected: 0 },
                    429 | 502..=504 => Verdict::Retry(None),
                    _ => Verdict::Refuse,
                },
                "{status}"
            );
            assert_eq!(
                failure,
                match status / 100 {
                    4 => Some(Metric::ExportFailuresStatus4xx),
                    5 => Some(Metric::ExportFailuresStatus5xx),
                    _ => None,
                },
                "{status}"
            );
        }
    }

    #[test]
    fn without_an_answer() {
        let timeout = Duration::from_secs(5);
        for (outcome, millis, failure) in [
            (Outcome::NoAnswer, 0, Metric::ExportFailuresReset),
            (Outcome::NoAnswer, 4_700, Metric::ExportFailuresReset),
            (Outcome::NoAnswer, 4_999, Metric::ExportFailuresTimeout),
            (Outcome::NoAnswer, 5_000, Metric::ExportFailuresTimeout),
            (Outcome::NotSent, 5_000, Metric::ExportFailuresUnreachable),
        ] {
            assert_eq!(
                judge(&outcome, Duration::from_millis(millis), timeout),
                (Verdict::Retry(None), Some(failure)),
                "{outcome:?} {millis}"
            );
        }
    }

    #[test]
    fn what_the_host_answers_itself_is_a_failure_to_reach() {
        let timeout = Duration::from_secs(5);
        let broken = "upstream connect error or disconnect/reset before headers. reset reason: ";
        let refused = format!("{broken}remote connection failure, transport failure reason: x");
        let reset = format!("{broken}connection termination");
        for (status, body, millis, failure) in [
            (503, "no healthy upstream", 0, Metric::ExportFailuresUnreachable),
            (503, &refused, 0, Metric::ExportFailuresUnreachable),
            (503, &reset, 0, Metric::ExportFailuresReset),
            (503, "busy: connection failure", 5_000, Metric::ExportFailuresStatus5xx),
            (504, "upstream request timeout", 5_000, Metric::ExportFailuresTimeout),
            (504, "upstream request timeout", 100, Metric::ExportFailuresStatus5xx),
        ] {
            let outcome = Outcome::Answered { status, retry_after: None, body: body.as_bytes() };
            assert_eq!(
                judge(&outcome, Duration::from_millis(millis), timeout),
                (Verdict::Retry(None), Some(failure)),
                "{status} {body}"
            );
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
            let outcome = Outcome::Answered { status: 503, retry_after: Some(value), body: b"" };
            assert_eq!(
                judge(&outcome, Duration::ZERO, Duration::ZERO).0,
                Verdict::Retry(expected),
                "{value:?}"
            );
        }
    }

    #[test]
    fn pauses_double_between_half_and_whole() {
        for (failures, whole) in [
            (0, 500),
            (1, 500),
            (2, 1_000),
            (3, 2_000),
            (6, 16_000),
            (7, 30_000),
            (u32::MAX, 30_000),
        ] {
            let whole = Duration::from_millis(whole);
            assert_eq!(pause(&RETRY, failures, None, 0), whole / 2, "{failures}");
            assert_eq!(pause(&RETRY, failures, None, u64::MAX), whole, "{failures}");
            assert_eq!(pause(&RETRY, failures, None, 1 << 63), whole * 3 / 4, "{failures}");
        }
    }

    #[test]
    fn asked_pauses_are_kept_and_bounded() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let millis = Duration::from_millis;
        for (failures, asked, draw, expected) in [
            (1, seconds(7), 0, millis(7_000)),
            (1, seconds(7), u64::MAX, millis(7_500)),
            (1, seconds(3_600), 0, millis(30_000)),
            (1, seconds(u64::MAX), u64::MAX, millis(30_000)),
            // One's own pause when it is the longer one.
            (5, seconds(1), 0, millis(4_000)),
            (1, seconds(0), 0, millis(250)),
        ] {
            assert_eq!(pause(&RETRY, failures, asked, draw), expected, "{failures} {asked:?}");
        }
    }

    #[test]
    fn absurd_durations_do_not_overflow() {
        let retry =
            Retry { initial: Duration::MAX, max: Duration::MAX, max_elapsed: Duration::MAX };
        assert_eq!(pause(&retry, u32::MAX, Some(Duration::MAX), u64::MAX), Duration::MAX);
        let never = Retry { initial: Duration::ZERO, max: Duration::ZERO, ..retry };
        assert_eq!(pause(&never, 9, Some(Duration::MAX), u64::MAX), Duration::ZERO);
    }
}
