//! Trace flags (Trace Context Level 2, section 3.2.2.5).

/// The 8-bit `trace-flags` field; unknown bits are dropped, never passed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TraceFlags(u8);

impl TraceFlags {
    /// The caller may have recorded this trace.
    pub const SAMPLED: Self = Self(0x01);
    /// The low 7 bytes of the trace id are random.
    pub const RANDOM: Self = Self(0x02);

    /// The known bits of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & (Self::SAMPLED.0 | Self::RANDOM.0))
    }

    /// The bits as they stand in a header.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// These flags and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn unknown_bits_go() {
        assert_eq!(TraceFlags::from_bits(0xff).bits(), 0x03);
        assert_eq!(TraceFlags::SAMPLED.with(TraceFlags::RANDOM).bits(), 0x03);
        assert!(!TraceFlags::RANDOM.has(TraceFlags::SAMPLED));
    }
}
