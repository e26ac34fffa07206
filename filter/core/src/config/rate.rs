//! A sampling rate.

/// A share between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// Everything.
    pub const ALL: Self = Self(1.0);

    /// Nothing.
    pub const NONE: Self = Self(0.0);

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
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(Rate::new(0.25).map(Rate::get), Some(0.25));
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Rate::new(bad), None, "{bad}");
        }
    }
}
