//! Pieces of text that the formats share.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::model::hex_digit;

/// Base64 (RFC 4648, section 4), written without padding and read with or without it.
pub(super) const BASE64_UNPADDED: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, UNPADDED);

/// The same, written with padding.
pub(super) const BASE64_PADDED: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, UNPADDED.with_encode_padding(true));

const UNPADDED: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// What base64 stands for, padded or not.
pub(super) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    BASE64_UNPADDED.decode(text).ok()
}

/// `value` without the optional whitespace that HTTP allows around it (RFC 9110, section 5.5).
pub(super) fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The byte that two characters of lower-case hex stand for.
pub(super) fn hex_byte(text: &[u8]) -> Option<u8> {
    let [high, low] = text else { return None };
    Some(hex_digit(*high)? << 4 | hex_digit(*low)?)
}

/// Appends `bytes` in lower-case hex. Far cheaper than `format!`, and this runs for every request.
pub(super) fn push_hex(out: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        out.push(hex_char(byte >> 4));
        out.push(hex_char(byte & 0x0f));
    }
}

fn hex_char(nibble: u8) -> char {
    let first = if nibble < 10 { b'0' } else { b'a'.wrapping_sub(10) };
    char::from(first.wrapping_add(nibble))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn only_spaces_and_tabs_are_trimmed() {
        for (value, trimmed) in [
            (&b""[..], &b""[..]),
            (b" \t ", b""),
            (b"\t a b \t", b"a b"),
            (b"a\r", b"a\r"),
            (b"\x0ba", b"\x0ba"),
            (b"\xa0a", b"\xa0a"),
        ] {
            assert_eq!(trim_ows(value), trimmed);
        }
    }

    #[test]
    fn base64_with_and_without_padding() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("YQ==", Some(b"a")),
            ("YQ", Some(b"a")),
            ("+/8=", Some(b"\xfb\xff")),
            ("-_8=", None),
            // Bits are left over.
            ("YR==", None),
            ("YQ==,YQ==", None),
            ("Y", None),
            ("YQ =", None),
        ] {
            assert_eq!(from_base64(text.as_bytes()).as_deref(), bytes, "{text}");
        }
        assert_eq!(
            (BASE64_UNPADDED.encode("a"), BASE64_PADDED.encode("a")),
            ("YQ".into(), "YQ==".into())
        );
    }

    #[test]
    fn hex_of_every_byte_round_trips() {
        for byte in 0..=u8::MAX {
            let mut text = String::new();
            push_hex(&mut text, &[byte]);
            assert_eq!(text, format!("{byte:02x}"));
            assert_eq!(hex_byte(text.as_bytes()), Some(byte));
        }
        for bad in ["", "0", "000", "0A", "F0", "+1", " 1", "0x"] {
            assert_eq!(hex_byte(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
