//! Texts with a syntax of their own: durations, header names, header values.

use core::time::Duration;

use super::error::Problem;
use super::fields::MAX_VALUE;

/// Reads a whole number with its unit: `500ms`, `5s`, `1m`, `1h`.
pub(super) fn period(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    if number.is_empty() || (number.len() > 1 && number.starts_with('0')) {
        return None;
    }
    // Digits alone can only be too many: that is a duration, beyond every bound.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.saturating_mul(millis)))
}

/// Whether `name` can name a header, in the lower case of HTTP/2 (RFC 9110, section 5.6.2).
pub(super) fn is_header_name(name: &str) -> bool {
    let token = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+.^_`|~-".contains(&b);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(token)
}

/// Characters of a header name at most.
pub(super) const MAX_NAME: usize = 256;

/// The same for the schema.
pub(super) const NAME_PATTERN: &str = "^[a-z0-9!#$%&'*+.^_`|~-]{1,256}$";

/// Whether `key` can be a key of baggage (W3C Baggage, section 3.3: an RFC 7230 token). Case
/// matters.
pub(super) fn is_key(key: &str) -> bool {
    key.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b))
}

/// The same for the schema.
pub(super) const KEY_PATTERN: &str = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$";

/// Fills in `${NAME}` by `env`; `$$` is a dollar sign.
///
/// What comes out is checked too: a variable may hold anything.
pub(super) fn header_value(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Problem> {
    const ALLOWED: &str = "are printable ASCII, blanks and tabs, at most 8192 characters";
    let hidden = |reason| Problem::Hidden { reason, allowed: ALLOWED };
    let mut value = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        check_value(before).map_err(hidden)?;
        value.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            value.push('$');
            rest = after;
            continue;
        }
        let (name, after) = variable(after).ok_or(Problem::Hidden {
            reason: "a dollar sign that begins no variable",
            allowed: "are ${NAME} for an environment variable and $$ for a dollar sign",
        })?;
        let content =
            env(name).ok_or_else(|| Problem::MissingVariable { name: name.to_owned() })?;
        check_value(&content).map_err(|_| Problem::Hidden {
            reason: "a variable whose content no header can carry (a line feed at its end?)",
            allowed: ALLOWED,
        })?;
        value.push_str(&content);
        rest = after;
    }
    check_value(rest).map_err(hidden)?;
    value.push_str(rest);
    if text.len() > MAX_VALUE || value.len() > MAX_VALUE {
        return Err(hidden("a header value that is too long"));
    }
    Ok(value)
}

/// The name in `{NAME}` at the head of `text`, and what follows.
fn variable(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('{')?.split_once('}')?;
    let (first, others) = name.as_bytes().split_first()?;
    let letter = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    (letter(first) && others.iter().all(|b| letter(b) || b.is_ascii_digit()))
        .then_some((name, rest))
}

fn check_value(text: &str) -> Result<(), &'static str> {
    if text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~')) {
        Ok(())
    } else {
        Err("a character that a header value cannot carry")
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn periods() {
        for (text, millis) in [
            ("500ms", 500),
            ("5s", 5000),
            ("1m", 60_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("999999999h", 3_599_999_996_400_000),
            ("1000000000s", 1_000_000_000_000),
            ("99999999999999999999ms", u64::MAX),
            ("99999999999999999999h", u64::MAX),
        ] {
            assert_eq!(period(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "5", "s", "-5s", "+5s", "1.5s", "5 s", " 5s", "5S", "05s", "5us", "1m30s", "é"]
        {
            assert_eq!(period(bad), None, "{bad}");
        }
    }

    #[test]
    fn header_names() {
        for (name, valid) in [("x-team", true), ("a.b_c", true), ("", false), ("X", false)] {
            assert_eq!(is_header_name(name), valid, "{name}");
        }
        for bad in [":path", "a b", "a:", "é", "a\n"] {
            assert!(!is_header_name(bad), "{bad}");
        }
        assert!(!is_header_name(&"a".repeat(257)));
    }

    #[test]
    fn variables() {
        let env = |name: &str| match name {
            "TOKEN" => Some("s3cret$x".to_owned()),
            "EMPTY" => Some(String::new()),
            "LINE" => Some("s3cret\n".to_owned()),
            "LONG" => Some("x".repeat(MAX_VALUE)),
            _ => None,
        };
        for (text, value) in [
            ("plain", "plain"),
            ("Bearer ${TOKEN}", "Bearer s3cret$x"),
            ("${EMPTY}$${TOKEN}$$", "${TOKEN}$"),
            ("${TOKEN}${TOKEN}", "s3cret$xs3cret$x"),
            ("", ""),
        ] {
            assert_eq!(header_value(text, &env), Ok(value.to_owned()), "{text}");
        }
        for (text, start) in [
            ("${NONE}", "environment variable NONE is not set"),
            ("$TOKEN", "a dollar sign that begins no variable"),
            ("${TOKEN", "a dollar sign that begins no variable"),
            ("${1}", "a dollar sign that begins no variable"),
            ("${}", "a dollar sign that begins no variable"),
            ("a$", "a dollar sign that begins no variable"),
            ("${LINE}", "a variable whose content no header can carry"),
            ("a${LONG}", "a header value that is too long"),
            ("s3cret\r\n", "a character that a header value cannot carry"),
            ("é${TOKEN}", "a character that a header value cannot carry"),
        ] {
            let error = header_value(text, &env).unwrap_err().to_string();
            assert!(error.starts_with(start), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
