//! Pieces of text that the formats share.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;

pub(super) use crate::model::push_hex;
use crate::model::{hex_digit, hex_digits};

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

/// `text` with each `%` and two characters of hex, in either case, as the byte that they stand for
/// (RFC 3986, section 2.1). A `%` that begins no such triple stands for itself.
pub(crate) fn percent_decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        if let [b'%', high, low, behind @ ..] = rest
            && let Some(decoded) = hex_byte(&[high.to_ascii_lowercase(), low.to_ascii_lowercase()])
        {
            out.push(decoded);
            rest = behind;
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    Cow::Owned(out)
}

/// Appends `text` with all but the unreserved characters of RFC 3986 percent-encoded: what every
/// format with encoded values reads back.
pub(super) fn push_percent_encoded(out: &mut String, text: &str) {
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(hex_digits(byte).map(|digit| char::from(digit.to_ascii_uppercase())));
        }
    }
}

/// Whether `text` is a token (RFC 9110, section 5.6.2): the name of a header, a key of baggage.
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// `bytes` in lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    push_hex(&mut out, bytes);
    out
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
    #[test]
    fn percent_decoding_leaves_what_is_not_encoded() {
        for (text, decoded) in [
            (&b""[..], &b""[..]),
            (b"a+b", b"a+b"),
            (b"1%3A2%3a3", b"1:2:3"),
            (b"%41%C3%a9", b"A\xc3\xa9"),
            (b"%2541", b"%41"),
            (b"%%41%4", b"%A%4"),
            (b"100%", b"100%"),
            (b"%zz%+1%\xff0", b"%zz%+1%\xff0"),
        ] {
            assert_eq!(percent_decode(text), decoded);
        }
    }

    #[test]
    fn percent_encoding_is_undone_by_decoding() {
        for (text, encoded) in [
            ("", ""),
            ("azAZ09-._~", "azAZ09-._~"),
            ("a b+c%;,=/\n", "a%20b%2Bc%25%3B%2C%3D%2F%0A"),
            ("Am\u{e9}lie", "Am%C3%A9lie"),
        ] {
            let mut out = String::new();
            push_percent_encoded(&mut out, text);
            assert_eq!(out, encoded);
            assert_eq!(percent_decode(out.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn tokens_byte_by_byte() {
        assert!(!is_token(b""));
        for byte in 0..=u8::MAX {
            let separator = b"\"(),/:;<=>?@[\\]{} ".contains(&byte);
            assert_eq!(is_token(&[b'a', byte]), byte.is_ascii_graphic() && !separator, "{byte:#x}");
        }
    }
}
