//! Envoy's response flags: bits of `response.flags`, named by the letters of its access log.

/// The letters by bit, in the order of Envoy's `CoreResponseFlag`.
pub(crate) const LETTERS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO",
];

/// Flags which mean that an answer already begun was broken off by the upstream or by Envoy.
/// A client that leaves (DC, DR) is not among them: long-lived streams end like that.
const BROKEN: [&str; 8] = ["UT", "LR", "UR", "UC", "UPE", "SI", "UMSDR", "DT"];

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
    pub(crate) fn from_letters<'a>(letters: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |letters| (0_u32..).zip(LETTERS).find(|(_, known)| *known == letters);
        let bits = letters.into_iter().filter_map(bit).map(|(bit, _)| 1 << bit);
        Self(bits.fold(0, |all, bit: u64| all | bit))
    }

    /// Whether there is no flag, known or not.
    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `others` is among them.
    pub(crate) const fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The letters of the access log, comma-separated; empty without a flag.
    /// Bits that this version does not know are left out.
    #[must_use]
    pub fn letters(self) -> String {
        self.names().collect::<Vec<_>>().join(",")
    }

    /// Whether an answer already begun was broken off.
    #[must_use]
    pub fn broken_off(self) -> bool {
        self.names().any(|name| BROKEN.contains(&name))
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        (0_u32..).zip(LETTERS).filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| name)
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
