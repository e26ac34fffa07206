//! Two clocks that must not be mixed: wall time for spans, monotonic time for deadlines.

use core::time::Duration;

/// Nanoseconds since the Unix epoch: what spans carry.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct UnixNanos(pub u64);

/// Nanoseconds of a clock that never goes back, from an arbitrary origin: what deadlines use.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct MonoNanos(pub u64);

impl UnixNanos {
    /// This time and `duration`; stays at the last representable time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl MonoNanos {
    /// This time and `duration`; stays at the last representable time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// The time from `earlier` to this one; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn saturates() {
        assert_eq!(UnixNanos(5).after(Duration::from_nanos(7)), UnixNanos(12));
        assert_eq!(MonoNanos(u64::MAX).after(Duration::MAX), MonoNanos(u64::MAX));
        assert_eq!(MonoNanos(3).since(MonoNanos(5)), Duration::ZERO);
    }
}
