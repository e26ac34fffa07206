//! Envoy's response flags: bits of `response.flags`, named by the letters of its access log.

/// The letters by bit, in the order of Envoy's `CoreResponseFlag`.
pub(crate) const LETTERS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO",
];

/// What they mean, in the same order.
const MEANINGS: [&str; 30] = [
    "this host failed its health check",
    "no healthy upstream",
    "upstream timeout",
    "reset by the proxy",
    "reset by the upstream",
    "no connection to the upstream",
    "the upstream closed the connection",
    "circuit breaker open",
    "no route",
    "delayed by fault injection",
    "aborted by fault injection",
    "rate limited",
    "denied by external authorization",
    "the rate limit service failed",
    "the client left",
    "no retry left",
    "idle for too long",
    "a header that is not allowed",
    "the client broke the protocol",
    "the upstream took longer than a stream may",
    "answered from a cache",
    "nothing from a cache",
    "the request took longer than it may",
    "the upstream broke the protocol",
    "no such cluster",
    "the proxy is overloaded",
    "no address of the upstream",
    "dropped for overload of the upstream",
    "reset by the client",
    "all requests to the upstream are dropped",
];

/// Flags which mean that an answer already begun was broken off by the upstream or by Envoy.
/// A client that leaves (DC, DR) is not among them: long-lived streams end like that.
const BROKEN: [&str; 8] = ["UT", "LR", "UR", "UC", "UPE", "SI", "UMSDR", "DT"];

/// Flags of a client that left: that closed its connection, or reset its stream.
const LEFT: [&str; 2] = ["DC", "DR"];

/// Why the proxy answered itself, or how the stream broke.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ResponseFlags(u64);

impl ResponseFlags {
    /// The flags in this bit vector.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The flags of these letters; letters that this version does not know are left out.
    #[must_use]
    pub fn from_letters<'a>(letters: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |letters| (0_u32..).zip(LETTERS).find(|(_, known)| *known == letters);
        let bits = letters.into_iter().filter_map(bit).map(|(bit, _)| 1 << bit);
        Self(bits.fold(0, |all, bit: u64| all | bit))
    }

    /// Whether there is no flag, known or not.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `others` is among them.
    pub(crate) const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The bit vector.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The letters of the access log, comma-separated; empty without a flag.
    /// Bits that this version does not know are left out.
    #[must_use]
    pub fn letters(self) -> String {
        self.names().collect::<Vec<_>>().join(",")
    }

    /// What they mean, in plain words; empty without a flag.
    #[must_use]
    pub fn sentence(self) -> String {
        self.of(MEANINGS).collect::<Vec<_>>().join("; ")
    }

    /// Whether an answer already begun was broken off.
    #[must_use]
    pub fn broken_off(self) -> bool {
        self.names().any(|name| BROKEN.contains(&name))
    }

    /// Whether the client left before the end.
    #[must_use]
    pub fn client_left(self) -> bool {
        self.names().any(|name| LEFT.contains(&name))
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        self.of(LETTERS)
    }

    /// Those of `words`, one for each flag, whose flags are there.
    fn of(self, words: [&'static str; 30]) -> impl Iterator<Item = &'static str> {
        (0_u32..).zip(words).filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, word)| word)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn letters_in_order() {
        assert_eq!(ResponseFlags::from_bits(0).letters(), "");
        assert_eq!(ResponseFlags::from_bits(1 << 5 | 1 << 15).letters(), "UF,URX");
        assert_eq!(
            ResponseFlags::from_bits(1 << 7 | 1 << 15).sentence(),
            "circuit breaker open; no retry left"
        );
        assert_eq!(ResponseFlags::from_bits(0).sentence(), "");
        assert_eq!(ResponseFlags::from_bits(1 << 63).letters(), "");
        assert_eq!(ResponseFlags::from_bits(u64::MAX).letters().split(',').count(), 30);
    }

    #[test]
    fn from_letters() {
        let flags = ResponseFlags::from_letters(["URX", "UF", "no such"]);
        assert_eq!(flags, ResponseFlags::from_bits(1 << 5 | 1 << 15));
        assert!(flags.any_of(ResponseFlags::from_bits(1 << 5)));
        assert!(!flags.any_of(ResponseFlags::from_bits(1 << 6)));
        assert_eq!(ResponseFlags::from_letters(LETTERS).letters(), LETTERS.join(","));
        assert!(ResponseFlags::from_letters([]).is_empty() && !flags.is_empty());
    }

    #[test]
    fn leaving_clients_do_not_break_an_answer() {
        assert!(ResponseFlags::from_bits(1 << 4).broken_off());
        assert!(!ResponseFlags::from_bits(1 << 14).broken_off());
        assert!(!ResponseFlags::from_bits(1 << 28).broken_off());
    }
}
