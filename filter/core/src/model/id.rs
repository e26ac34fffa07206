//! Trace and span ids: non-zero by construction (Trace Context Level 2, section 3.2.2).

use core::fmt;
use core::num::{NonZeroU64, NonZeroU128};

use rand::Rng;

/// 16 bytes that identify a trace; never all zero.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TraceId(NonZeroU128);

/// 8 bytes that identify a span; never all zero.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpanId(NonZeroU64);

/// Why bytes are not an id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum IdError {
    /// All bytes are zero.
    AllZero,
    /// A byte other than `0-9a-f`.
    NotLowerHex,
    /// Another number of characters than the id has.
    WrongLength,
}

impl TraceId {
    /// The id with these bytes, in network order; `None` if all are zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }

    /// Parses exactly 32 characters of lower-case hex.
    ///
    /// # Errors
    /// Says what keeps `text` from being a trace id.
    pub fn from_hex(text: &[u8]) -> Result<Self, IdError> {
        NonZeroU128::new(lower_hex(text, 32)?).map(Self).ok_or(IdError::AllZero)
    }

    /// A new id of 16 random bytes: the random flag may be set with it.
    pub fn random(rng: &mut impl Rng) -> Self {
        loop {
            let mut bytes = [0; 16];
            rng.fill_bytes(&mut bytes);
            if let Some(id) = Self::from_bytes(bytes) {
                return id;
            }
        }
    }

    /// The bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// The id in lower-case hex.
    #[must_use]
    pub fn to_hex(self) -> String {
        let mut out = String::new();
        push_hex(&mut out, &self.to_bytes());
        out
    }

    /// The id with these halves; `None` if both are zero.
    #[must_use]
    pub fn from_halves(high: u64, low: u64) -> Option<Self> {
        NonZeroU128::new(u128::from(high) << 64 | u128::from(low)).map(Self)
    }

    /// The high 64 bits; zero in an id that came from a format with short ids.
    #[must_use]
    pub const fn high(self) -> u64 {
        (self.0.get() >> 64) as u64
    }

    /// The low 64 bits, which formats with short ids carry; may be zero.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    pub const fn low(self) -> u64 {
        self.0.get() as u64
    }
}

impl SpanId {
    /// The id with these bytes, in network order; `None` if all are zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(Self)
    }

    /// Parses exactly 16 characters of lower-case hex.
    ///
    /// # Errors
    /// Says what keeps `text` from being a span id.
    pub fn from_hex(text: &[u8]) -> Result<Self, IdError> {
        let value = lower_hex(text, 16)?;
        u64::try_from(value).ok().and_then(NonZeroU64::new).map(Self).ok_or(IdError::AllZero)
    }

    /// A new id of 8 random bytes.
    pub fn random(rng: &mut impl Rng) -> Self {
        loop {
            let mut bytes = [0; 8];
            rng.fill_bytes(&mut bytes);
            if let Some(id) = Self::from_bytes(bytes) {
                return id;
            }
        }
    }

    /// The bytes in network order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// The id in lower-case hex.
    #[must_use]
    pub fn to_hex(self) -> String {
        let mut out = String::new();
        push_hex(&mut out, &self.to_bytes());
        out
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllZero => "all-zero id",
            Self::NotLowerHex => "id with a character other than 0-9a-f",
            Self::WrongLength => "id of the wrong length",
        })
    }
}

impl core::error::Error for IdError {}

/// The one parser of hex ids: `digits` characters, a multiple of eight, lower case, no sign, no
/// blank.
fn lower_hex(text: &[u8], digits: usize) -> Result<u128, IdError> {
    if text.len() != digits {
        return Err(IdError::WrongLength);
    }
    let (eights, _) = text.as_chunks();
    eights.iter().try_fold(0_u128, |value, eight| {
        let word = hex_word(*eight).ok_or(IdError::NotLowerHex)?;
        Ok(value << 32 | u128::from(word))
    })
}

/// Appends `bytes` in lower-case hex. Far cheaper than `format!`, and this runs for every request:
/// as many digits as the longest id has are appended at once.
pub(crate) fn push_hex(out: &mut String, bytes: &[u8]) {
    for bytes in bytes.chunks(16) {
        let mut digits = [0; 32];
        for (eight, four) in digits.chunks_exact_mut(8).zip(bytes.chunks(4)) {
            let mut word = [0; 4];
            word.iter_mut().zip(four).for_each(|(to, from)| *to = *from);
            eight.copy_from_slice(&word_digits(u32::from_be_bytes(word)));
        }
        let digits = digits.get(..bytes.len().saturating_mul(2)).unwrap_or_default();
        out.push_str(str::from_utf8(digits).unwrap_or_default());
    }
}

/// How much further from its digit a letter is than a number: `a` - 10 - `0`.
const LETTER: u64 = 0x27;

/// A word of this byte alone.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The eight digits of a word in lower-case hex, all at once: ids are random, and a processor that
/// asks of each digit whether it is a letter guesses wrong as often as not.
const fn word_digits(word: u32) -> [u8; 8] {
    // A digit in each byte: none of what follows carries into the next.
    let mut digits = word as u64;
    digits = (digits << 16 | digits) & 0x0000_ffff_0000_ffff;
    digits = (digits << 8 | digits) & 0x00ff_00ff_00ff_00ff;
    digits = (digits << 4 | digits) & each(0x0f);
    let letters = digits.wrapping_add(each(6)) >> 4 & each(1);
    digits.wrapping_add(each(b'0')).wrapping_add(letters.wrapping_mul(LETTER)).to_be_bytes()
}

/// The word that is written with these digits of lower-case hex; `None` if none is.
fn hex_word(text: [u8; 8]) -> Option<u32> {
    let written = u64::from_be_bytes(text);
    let letters = written >> 6 & each(1);
    let mut digits = (written & each(0x0f)).wrapping_add(letters.wrapping_mul(9));
    digits &= each(0x0f);
    digits = (digits | digits >> 4) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits >> 8) & 0x0000_ffff_0000_ffff;
    let word = u32::try_from((digits | digits >> 16) & 0xffff_ffff).ok()?;
    // Whatever else was there would be written otherwise.
    (word_digits(word) == text).then_some(word)
}

/// The two digits of a byte in lower-case hex.
pub(crate) const fn hex_digits(byte: u8) -> [u8; 2] {
    const fn digit(value: u8) -> u8 {
        let zero = if value < 10 { b'0' } else { b'a'.wrapping_sub(10) };
        zero.wrapping_add(value)
    }
    [digit(byte >> 4), digit(byte & 0xf)]
}

/// The value of a digit of lower-case hex.
pub(crate) const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn eight_digits_are_one_word_whatever_else_stands_for_one() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut text = *b"09af5c3e";
                text[place] = byte;
                let expected = match byte {
                    b'0'..=b'9' | b'a'..=b'f' => {
                        u32::from_str_radix(str::from_utf8(&text).unwrap(), 16).ok()
                    }
                    _ => None,
                };
                assert_eq!(hex_word(text), expected, "{byte} at {place}");
            }
        }
        for word in [0, 1, 0x0123_4567, 0x89ab_cdef, 0xffff_ffff, 0x9a9a_a9a9] {
            assert_eq!(word_digits(word), *format!("{word:08x}").as_bytes());
        }
    }

    #[test]
    fn hex_round_trip() {
        let hex = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(TraceId::from_hex(hex.as_bytes()).unwrap().to_string(), hex);
        assert_eq!(SpanId::from_hex(b"00f067aa0ba902b7").unwrap().to_string(), "00f067aa0ba902b7");
    }

    #[test]
    fn strict() {
        for (text, error) in [
            ("", IdError::WrongLength),
            ("00f067aa0ba902b", IdError::WrongLength),
            ("00f067aa0ba902b70", IdError::WrongLength),
            ("0000000000000000", IdError::AllZero),
            ("00F067aa0ba902b7", IdError::NotLowerHex),
            ("+0f067aa0ba902b7", IdError::NotLowerHex),
            ("00f067aa0ba902b ", IdError::NotLowerHex),
        ] {
            assert_eq!(SpanId::from_hex(text.as_bytes()), Err(error), "{text:?}");
        }
        assert_eq!(TraceId::from_hex(&[b'0'; 32]), Err(IdError::AllZero));
        assert_eq!(TraceId::from_bytes([0; 16]), None);
        assert_eq!(SpanId::from_bytes([0; 8]), None);
    }

    #[test]
    fn low_half() {
        let id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap();
        assert_eq!(id.low(), 0x8448_eb21_1c80_319c);
    }
}
