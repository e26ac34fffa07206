//! Ids that are shorter than W3C's, or written otherwise.
//!
//! The rule for all formats: a trace id of 64 bits is the low half of one of 128, whose high half
//! is zero; a format that carries 64 bits gets the low half. Text without leading zeros is filled
//! up with them.

use crate::model::{IdError, SpanId, TraceId, hex_digit};

/// A trace id of exactly 16 characters of lower-case hex.
pub(super) fn short_trace_id(text: &[u8]) -> Result<TraceId, IdError> {
    let low = u64::from_be_bytes(SpanId::from_hex(text)?.to_bytes());
    TraceId::from_halves(0, low).ok_or(IdError::AllZero)
}

/// A trace id of 1 to 32 characters of hex, in either case.
pub(super) fn trace_id_of_any_length(text: &[u8]) -> Result<TraceId, IdError> {
    let bytes = number(text, 32)?.to_be_bytes();
    TraceId::from_bytes(bytes).ok_or(IdError::AllZero)
}

/// A span id of 1 to 16 characters of hex, in either case.
pub(super) fn span_id_of_any_length(text: &[u8]) -> Result<SpanId, IdError> {
    let low = u64::try_from(number(text, 16)?).map_err(|_| IdError::WrongLength)?;
    SpanId::from_bytes(low.to_be_bytes()).ok_or(IdError::AllZero)
}

/// Whether `id` is `whole`, or all that a format of 64 bits can tell of it.
pub(super) const fn may_be(id: TraceId, whole: TraceId) -> bool {
    id.low() == whole.low() && (id.high() == 0 || id.high() == whole.high())
}

/// A number of 64 bits, in decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// A number of 1 to `max` characters of hex, in either case; `max` is 32 or less.
pub(super) fn number(text: &[u8], max: usize) -> Result<u128, IdError> {
    if text.is_empty() || text.len() > max {
        return Err(IdError::WrongLength);
    }
    text.iter().try_fold(0_u128, |value, byte| {
        let digit = hex_digit(byte.to_ascii_lowercase()).ok_or(IdError::NotLowerHex)?;
        Ok(value << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn short_ids_are_filled_up() {
        for (text, id) in [
            ("1", Ok("00000000000000000000000000000001")),
            ("4D0000000000000016", Ok("000000000000004d0000000000000016")),
            ("0af7651916cd43dd8448eb211c80319c", Ok("0af7651916cd43dd8448eb211c80319c")),
            ("", Err(IdError::WrongLength)),
            ("000000000000000000000000000000001", Err(IdError::WrongLength)),
            ("0", Err(IdError::AllZero)),
            ("0x1", Err(IdError::NotLowerHex)),
        ] {
            let found = trace_id_of_any_length(text.as_bytes());
            assert_eq!(found.map(|id| id.to_string()), id.map(str::to_owned), "{text}");
        }
        for (text, id) in [
            ("17c29", Ok("0000000000017c29")),
            ("ffffffffffffffff", Ok("ffffffffffffffff")),
            ("0ffffffffffffffff", Err(IdError::WrongLength)),
            ("00", Err(IdError::AllZero)),
            ("-1", Err(IdError::NotLowerHex)),
        ] {
            let found = span_id_of_any_length(text.as_bytes());
            assert_eq!(found.map(|id| id.to_string()), id.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_short_trace_id_is_the_low_half() {
        let id = short_trace_id(b"8448eb211c80319c").unwrap();
        assert_eq!((id.high(), id.low()), (0, 0x8448_eb21_1c80_319c));
        assert_eq!(short_trace_id(b"0000000000000000"), Err(IdError::AllZero));
        assert_eq!(short_trace_id(b"8448EB211c80319c"), Err(IdError::NotLowerHex));
    }

    #[test]
    fn decimals_are_digits_of_64_bits() {
        for (text, value) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("007", Some(7)),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1 ", None),
            ("1e3", None),
        ] {
            assert_eq!(decimal(text.as_bytes()), value, "{text}");
        }
    }
}
