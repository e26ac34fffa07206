//! A sampling rate.

use crate::model::TraceId;

/// 2^56: one more than the largest randomness of a trace id.
const RANGE: u64 = 1 << 56;

/// A share between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// Everything.
    pub const ALL: Self = Self(1.0);

    /// `None` unless `rate` lies in 0..=1.
    #[must_use]
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..=1.0).contains(&rate).then_some(Self(rate))
    }

    /// The share.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// OpenTelemetry's rejection threshold of 56 bits: 0 keeps all, 2^56 keeps nothing.
    ///
    /// Taken from the top, because `1 - rate` has no room for rates below 2^-53.
    #[must_use]
    pub fn threshold(self) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "2^56 is a power of two")]
        let kept = (self.0 * RANGE as f64).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast of a float saturates, and the rate lies in 0..=1"
        )]
        RANGE.saturating_sub(kept as u64)
    }

    /// Whether the trace `id` belongs to this share (OpenTelemetry, TraceState: Probability
    /// Sampling). The traces of a smaller share all belong to a larger one.
    #[must_use]
    pub fn keeps(self, id: TraceId) -> bool {
        let randomness = id.low() & (RANGE.saturating_sub(1));
        randomness >= self.threshold()
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rate(share: f64) -> Rate {
        Rate::new(share).unwrap()
    }

    fn id(low: u64) -> TraceId {
        TraceId::from_bytes((1_u128 << 64 | u128::from(low)).to_be_bytes()).unwrap()
    }

    #[test]
    fn bounds() {
        assert_eq!(Rate::new(0.25).map(Rate::get), Some(0.25));
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn thresholds() {
        for (share, threshold) in [
            (1.0, 0),
            (0.0, RANGE),
            (0.5, 0x80_0000_0000_0000),
            (0.25, 0xc0_0000_0000_0000),
            (0.1, 0xe6_6666_6666_6666),
            (1.0 / 3.0, 0xaa_aaaa_aaaa_aaac),
            (2.0_f64.powi(-56), RANGE - 1),
            (2.0_f64.powi(-58), RANGE),
        ] {
            assert_eq!(rate(share).threshold(), threshold, "{share}");
        }
    }

    #[test]
    fn only_the_low_56_bits_decide() {
        assert!(rate(0.5).keeps(id(0x0080_0000_0000_0000)));
        assert!(!rate(0.5).keeps(id(0xff7f_ffff_ffff_ffff)));
        assert!(rate(1.0).keeps(id(0)));
        assert!(!rate(0.0).keeps(id(u64::MAX)));
    }
}
