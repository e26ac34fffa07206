//! JSON, written straight into bytes.

use crate::config::Scalar;
use crate::model::hex_digits;

/// Text that is JSON already.
pub(super) fn raw(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

/// A string with its quotes.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    inner(out, text);
    out.push(b'"');
}

/// What stands between the quotes of a string.
pub(super) fn inner(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, after)) = special.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => raw(out, "\\n"),
            _ => {
                raw(out, "\\u00");
                hex(out, &[*byte]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
}

/// Bytes as two digits each.
pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().flat_map(|byte| hex_digits(*byte)));
}

/// A whole number from 0.
pub(super) fn number(out: &mut Vec<u8>, number: u64) {
    let start = out.len();
    let mut rest = number;
    loop {
        out.push(b'0'.wrapping_add((rest % 10) as u8));
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

/// A whole number.
pub(super) fn signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    number(out, value.unsigned_abs());
}

/// A number with a fraction; those that JSON does not know as protobuf's mapping has them.
pub(super) fn double(out: &mut Vec<u8>, number: f64) {
    if number.is_nan() {
        raw(out, "\"NaN\"");
    } else if number.is_infinite() {
        raw(out, if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        raw(out, &format!("{number:?}"));
    }
}

/// A scalar between the quotes of a string.
pub(super) fn scalar_as_text(out: &mut Vec<u8>, value: &Scalar) {
    match value {
        Scalar::String(text) => inner(out, text),
        Scalar::Bool(value) => raw(out, if *value { "true" } else { "false" }),
        Scalar::Int(value) => signed(out, *value),
        Scalar::Double(value) => raw(out, &format!("{value:?}")),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_read_back() {
        let all: String = (0..=0x7f_u8).map(char::from).collect();
        for text in ["", "GET /é", "\"\\\"", "a\nb\u{0}", "\u{7f}\u{2028}💥", &all] {
            let json = written(|out| string(out, text));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text, "{json}");
        }
        assert_eq!(written(|out| string(out, "\"\n\u{1f}")), r#""\"\n\u001f""#);
    }

    #[test]
    fn numbers() {
        for value in [0, 7, 10, -1, i64::MAX, i64::MIN] {
            assert_eq!(written(|out| signed(out, value)), value.to_string());
        }
        assert_eq!(written(|out| number(out, u64::MAX)), u64::MAX.to_string());
        for value in [0.5, -0.0, 1.0, 1e300, f64::MIN_POSITIVE, f64::MAX] {
            let json = written(|out| double(out, value));
            assert_eq!(serde_json::from_str::<f64>(&json).unwrap().to_bits(), value.to_bits());
        }
        assert_eq!(written(|out| double(out, f64::NAN)), "\"NaN\"");
        assert_eq!(written(|out| double(out, f64::NEG_INFINITY)), "\"-Infinity\"");
        assert_eq!(written(|out| double(out, f64::INFINITY)), "\"Infinity\"");
    }

    #[test]
    fn ids_and_scalars() {
        assert_eq!(written(|out| hex(out, &[0x00, 0x9a, 0xff])), "009aff");
        for (value, expected) in [
            (Scalar::String("a\"".into()), "a\\\""),
            (Scalar::Bool(true), "true"),
            (Scalar::Bool(false), "false"),
            (Scalar::Int(-3), "-3"),
            (Scalar::Double(2.0), "2.0"),
        ] {
            assert_eq!(written(|out| scalar_as_text(out, &value)), expected);
        }
    }
}
