//! Texts with a syntax of their own: durations, times, header names, header values.

use core::ops::RangeInclusive;
use core::time::Duration;

use super::error::Problem;
use super::fields::MAX_VALUE;
use crate::model::UnixNanos;

/// Reads a whole number with its unit: `500ms`, `5s`, `1m`, `1h`.
#[must_use]
pub fn period(text: &str) -> Option<Duration> {
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

/// Reads a time of RFC 3339 (section 5.6), which must be in capitals and not a leap second.
///
/// What lies before 1970 or beyond what can be represented becomes the nearest that can be.
#[must_use]
pub fn time(text: &str) -> Option<UnixNanos> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.number(4, 0..=9999)?;
    let month = rest.byte(b'-')?.number(2, 1..=12)?;
    let day = rest.byte(b'-')?.number(2, 1..=31)?;
    let hour = rest.byte(b'T')?.number(2, 0..=23)?;
    let minute = rest.byte(b':')?.number(2, 0..=59)?;
    let second = rest.byte(b':')?.number(2, 0..=59)?;
    let fraction = if rest.byte(b'.').is_some() { rest.fraction()? } else { 0 };
    let east = if rest.byte(b'Z').is_some() { 0 } else { rest.offset()? };
    if !rest.0.is_empty() {
        return None;
    }
    let minutes = days(year, month, day)?
        .saturating_mul(24)
        .saturating_add(hour)
        .saturating_mul(60)
        .saturating_add(minute)
        .saturating_sub(east);
    let seconds = u64::try_from(minutes.saturating_mul(60).saturating_add(second)).unwrap_or(0);
    Some(UnixNanos(seconds.saturating_mul(1_000_000_000).saturating_add(fraction)))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; `None` if its month is shorter.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let past = usize::try_from(month).ok()?.checked_sub(1)?;
    if day > *months.get(past)? {
        return None;
    }
    // From the day before 0001-01-01, which is 719163 days before 1970.
    let years = year.saturating_sub(1);
    let leaps = years
        .div_euclid(4)
        .saturating_sub(years.div_euclid(100))
        .saturating_add(years.div_euclid(400));
    let this_year = months.iter().take(past).sum::<i64>().saturating_add(day);
    let all = years.saturating_mul(365).saturating_add(leaps).saturating_add(this_year);
    Some(all.saturating_sub(719_163))
}

/// What is still to be read of a text of fixed form.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Takes `byte`, if it comes next.
    fn byte(&mut self, byte: u8) -> Option<&mut Self> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(self)
    }

    /// Takes a number of so many digits within `range`.
    fn number(&mut self, digits: usize, range: RangeInclusive<i64>) -> Option<i64> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        self.0 = rest;
        if !number.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = str::from_utf8(number).ok()?.parse().ok()?;
        range.contains(&number).then_some(number)
    }

    /// Takes 1 to 9 digits of a second; gives nanoseconds.
    fn fraction(&mut self) -> Option<u64> {
        let digits = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = u64::try_from(self.number(digits, 0..=999_999_999)?).ok()?;
        let missing = u32::try_from(9_usize.checked_sub(digits)?).ok()?;
        Some(number.saturating_mul(10_u64.saturating_pow(missing)))
    }

    /// Takes a numeric offset; gives the minutes east of Greenwich.
    fn offset(&mut self) -> Option<i64> {
        let west = self.byte(b'-').is_some();
        if !west {
            self.byte(b'+')?;
        }
        let hours = self.number(2, 0..=23)?;
        let minutes = self.byte(b':')?.number(2, 0..=59)?;
        let east = hours.saturating_mul(60).saturating_add(minutes);
        Some(if west { east.saturating_neg() } else { east })
    }
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
    fn times() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01.5Z", 1_500_000_000),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:30:00-00:30", 0),
            ("1970-01-02T00:00:00-00:00", 86_400_000_000_000),
            ("1985-04-12T23:20:50.52Z", 482_196_050_520_000_000),
            ("1996-12-19T16:39:57-08:00", 851_042_397_000_000_000),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000_000_000),
            ("2024-03-01T00:00:00Z", 1_709_251_200_000_000_000),
            ("2026-12-31T23:59:59.999999999+23:59", 1_798_675_259_999_999_999),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000_000),
            // Nothing can be represented that is earlier, or later.
            ("1969-12-31T23:59:59Z", 0),
            ("0000-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59Z", u64::MAX),
        ] {
            assert_eq!(time(text), Some(UnixNanos(nanos)), "{text}");
        }
        for bad in [
            "",
            "2026-07-01",
            "2026-07-01T18:00Z",
            "2026-07-01T18:00:00",
            "2026-07-01 18:00:00Z",
            "2026-07-01t18:00:00Z",
            "2026-07-01T18:00:00z",
            "2026-7-1T18:00:00Z",
            "26-07-01T18:00:00Z",
            "+026-07-01T18:00:00Z",
            "2026-07-01T18:00:00.Z",
            "2026-07-01T18:00:00,5Z",
            "2026-07-01T18:00:00.0000000001Z",
            "2026-07-01T18:00:00+2",
            "2026-07-01T18:00:00+0200",
            "2026-07-01T18:00:00+24:00",
            "2026-07-01T18:00:00+02:60",
            "2026-07-01T18:00:00Z ",
            " 2026-07-01T18:00:00Z",
            "2026-07-01T18:00:00ZZ",
            "2026-13-01T18:00:00Z",
            "2026-00-01T18:00:00Z",
            "2026-07-00T18:00:00Z",
            "2026-04-31T18:00:00Z",
            "2026-02-29T18:00:00Z",
            "2100-02-29T18:00:00Z",
            "2026-07-01T24:00:00Z",
            "2026-07-01T18:60:00Z",
            "2016-12-31T23:59:60Z",
            "2026-07-01T18:00:00é",
            "1782928800",
        ] {
            assert_eq!(time(bad), None, "{bad}");
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
