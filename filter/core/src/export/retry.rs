//! When to try again.

use core::time::Duration;

use crate::config::Retry;

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

/// `draw / 2^64` of `duration`, to the nearest nanosecond.
pub(super) fn part(duration: Duration, draw: u64) -> Duration {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let scaled = u128::from(nanos).saturating_mul(u128::from(draw)).saturating_add(1 << 63) >> 64;
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
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
