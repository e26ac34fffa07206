//! A strict reader of objects: each getter takes what the table of fields allows, and notes what
//! is wrong with all else.

use core::time::Duration;
use std::collections::BTreeSet;

use super::Rate;
use super::error::{ConfigError, Problem, nearest, quoted, step};
use super::fields::{Field, Integer, Period, Text};
use super::json::Json;
use super::text::{period, time};
use crate::model::UnixNanos;

/// Errors noted at most: the rest of a hopeless configuration is not news.
const MAX_ERRORS: usize = 100;

/// What is wrong with a configuration, in the order of reading.
#[derive(Debug, Default)]
pub(super) struct Faults {
    errors: Vec<ConfigError>,
    /// What the patterns so far have compiled to, in bytes.
    pub compiled: usize,
    /// How many expressions of CEL there are so far.
    pub expressions: usize,
}

impl Faults {
    pub(super) fn add(&mut self, path: impl Into<String>, problem: Problem) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(ConfigError::new(path, problem));
        }
    }

    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        self.errors
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub path: String,
    pub json: &'a Json,
}

/// The fields of an object; the default has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Object<'a> {
    pub path: String,
    pairs: &'a [(String, Json)],
}

impl<'a> Node<'a> {
    /// Notes that a value of this type is not allowed here.
    pub(super) fn wrong_type(&self, allowed: &str, faults: &mut Faults) {
        let found = self.json.type_name();
        faults.add(&*self.path, Problem::WrongType { found, allowed: allowed.to_owned() });
    }

    /// Notes that `value` is not allowed here.
    pub(super) fn wrong_value(&self, value: String, allowed: &str, faults: &mut Faults) {
        faults.add(&*self.path, Problem::Value { value, allowed: allowed.to_owned() });
    }

    fn out_of_range(&self, value: String, allowed: &str, faults: &mut Faults) {
        faults.add(&*self.path, Problem::OutOfRange { value, allowed: allowed.to_owned() });
    }

    /// The fields of this object, all of which are in `fields`.
    pub(super) fn object(&self, fields: &[Field], faults: &mut Faults) -> Option<Object<'a>> {
        let names: Vec<_> = fields.iter().map(|field| field.name).collect();
        let object = self.map(&format!("is an object of {}", names.join(", ")), faults)?;
        for (name, _) in object.pairs {
            if !names.contains(&name.as_str()) {
                let nearest = nearest(name, names.iter().copied());
                let allowed = names.join(", ");
                faults.add(step(&self.path, name), Problem::UnknownField { nearest, allowed });
            }
        }
        Some(object)
    }

    /// The fields of this object, whatever their names.
    pub(super) fn map(&self, allowed: &str, faults: &mut Faults) -> Option<Object<'a>> {
        let Json::Object(pairs) = self.json else {
            self.wrong_type(allowed, faults);
            return None;
        };
        let (mut once, mut twice) = (BTreeSet::new(), BTreeSet::new());
        for (name, _) in pairs {
            if !once.insert(name.as_bytes()) && twice.insert(name.as_bytes()) {
                faults.add(step(&self.path, name), Problem::DuplicateKey);
            }
        }
        Some(Object { path: self.path.clone(), pairs })
    }

    /// The items of this list.
    pub(super) fn items(&self, max: usize, what: &str, faults: &mut Faults) -> Vec<Self> {
        let allowed = format!("is a list of at most {max} {what}");
        let Json::Array(items) = self.json else {
            self.wrong_type(&allowed, faults);
            return Vec::new();
        };
        if items.len() > max {
            self.wrong_value(format!("a list of {}", items.len()), &allowed, faults);
            return Vec::new();
        }
        let items = items.iter().enumerate();
        items.map(|(i, json)| Self { path: format!("{}[{i}]", self.path), json }).collect()
    }

    /// This text, if `text` allows it.
    pub(super) fn text(&self, text: &Text, faults: &mut Faults) -> Option<&'a str> {
        let value = self.string(text.allowed, faults)?;
        if value.is_empty() || value.chars().count() > text.max || !(text.valid)(value) {
            self.wrong_value(quoted(value), text.allowed, faults);
            return None;
        }
        Some(value)
    }

    /// The one of `words` that this is.
    pub(super) fn word(&self, words: &[&str], faults: &mut Faults) -> Option<&'a str> {
        let allowed = match words {
            [word] => format!("is {word}"),
            _ => format!("are {}", words.join(", ")),
        };
        self.word_or(words, &allowed, faults)
    }

    /// The one of `words` that this is, where something else is `allowed` too.
    pub(super) fn word_or(
        &self,
        words: &[&str],
        allowed: &str,
        faults: &mut Faults,
    ) -> Option<&'a str> {
        let value = self.string(allowed, faults)?;
        if !words.contains(&value) {
            self.wrong_value(quoted(value), allowed, faults);
            return None;
        }
        Some(value)
    }

    /// This whole number, which may be written as a double.
    pub(super) fn integer(&self, range: &Integer, faults: &mut Faults) -> Option<u32> {
        let allowed = format!("is a whole number from {} to {}", range.min, range.max);
        let value = self.number(&allowed, faults, |value| {
            value.fract() == 0.0 && (f64::from(range.min)..=f64::from(range.max)).contains(&value)
        })?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and between two u32"
        )]
        Some(value as u32)
    }

    /// This number.
    pub(super) fn above_zero(&self, faults: &mut Faults) -> Option<f64> {
        self.number("is a number above 0", faults, |value| value > 0.0)
    }

    /// A share of at least a half.
    pub(super) fn confidence(&self, faults: &mut Faults) -> Option<f64> {
        self.number("is a number from 0.5 to 1", faults, |value| (0.5..=1.0).contains(&value))
    }

    /// This share.
    pub(super) fn rate(&self, faults: &mut Faults) -> Option<Rate> {
        let fits = |value| Rate::new(value).is_some();
        self.number("is a number from 0 to 1", faults, fits).and_then(Rate::new)
    }

    fn number(
        &self,
        allowed: &str,
        faults: &mut Faults,
        fits: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        let Json::Number(number) = self.json else {
            self.wrong_type(allowed, faults);
            return None;
        };
        let value = number.as_f64()?;
        if fits(value) {
            return Some(value);
        }
        let whole = number.as_i128().map(|whole| whole.to_string());
        let text = whole.unwrap_or_else(|| format!("{value:?}"));
        self.out_of_range(text, allowed, faults);
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, faults: &mut Faults) -> Option<bool> {
        let Json::Bool(value) = self.json else {
            self.wrong_type("are true and false", faults);
            return None;
        };
        Some(*value)
    }

    /// This duration.
    pub(super) fn period(&self, range: &Period, faults: &mut Faults) -> Option<Duration> {
        let allowed = format!(
            "is a whole number with ms, s, m or h, from {} to {}, such as \"{}\"",
            range.min, range.max, range.default
        );
        let value = self.string(&allowed, faults)?;
        let Some(duration) = period(value) else {
            self.wrong_value(quoted(value), &allowed, faults);
            return None;
        };
        if Some(duration) < period(range.min) || Some(duration) > period(range.max) {
            self.out_of_range(quoted(value), &allowed, faults);
            return None;
        }
        Some(duration)
    }

    /// This time.
    pub(super) fn time(&self, faults: &mut Faults) -> Option<UnixNanos> {
        const ALLOWED: &str = "is a time of RFC 3339 with its offset, such as \
            \"2026-07-01T18:00:00Z\" or \"2026-07-01T20:00:00+02:00\"";
        let value = self.string(ALLOWED, faults)?;
        let time = time(value);
        if time.is_none() {
            self.wrong_value(quoted(value), ALLOWED, faults);
        }
        time
    }

    fn string(&self, allowed: &str, faults: &mut Faults) -> Option<&'a str> {
        if let Json::String(value) = self.json {
            return Some(value);
        }
        self.wrong_type(allowed, faults);
        None
    }
}

impl<'a> Object<'a> {
    /// The value of the field `name`.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let (_, json) = self.pairs.iter().find(|(key, _)| key == name)?;
        Some(Node { path: step(&self.path, name), json })
    }

    /// All names with their values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.pairs
            .iter()
            .map(|(name, json)| (name.as_str(), Node { path: step(&self.path, name), json }))
    }

    /// How many fields there are.
    pub(super) const fn len(&self) -> usize {
        self.pairs.len()
    }

    /// The object in the field `name`.
    pub(super) fn object(&self, name: &str, fields: &[Field], faults: &mut Faults) -> Option<Self> {
        self.get(name)?.object(fields, faults)
    }

    /// The whole number in the field `name`, or its default.
    pub(super) fn integer(&self, name: &str, range: &Integer, faults: &mut Faults) -> usize {
        let value = self.get(name).and_then(|node| node.integer(range, faults)).or(range.default);
        value.and_then(|value| usize::try_from(value).ok()).unwrap_or_default()
    }

    /// The duration in the field `name`, or its default.
    pub(super) fn period(&self, name: &str, range: &Period, faults: &mut Faults) -> Duration {
        let value = self.get(name).and_then(|node| node.period(range, faults));
        value.or_else(|| period(range.default)).unwrap_or_default()
    }

    /// What is in the field `name`: `true`, `false`, or the default.
    pub(super) fn boolean(&self, name: &str, default: bool, faults: &mut Faults) -> bool {
        self.get(name).and_then(|node| node.boolean(faults)).unwrap_or(default)
    }

    /// The text in the field `name`, or its default.
    pub(super) fn text(&self, name: &str, text: &Text, faults: &mut Faults) -> Option<String> {
        let value = self.get(name).and_then(|node| node.text(text, faults)).or(text.default);
        value.map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::fields::{INTERVAL, LABEL, PORT, RETRY};
    use super::*;

    fn read<T>(
        text: &str,
        read: impl Fn(&Node<'_>, &mut Faults) -> Option<T>,
    ) -> Result<T, String> {
        let json = Json::parse(text.as_bytes()).unwrap();
        let mut faults = Faults::default();
        let value = read(&Node { path: "$.x".to_owned(), json: &json }, &mut faults);
        let errors = faults.into_errors();
        match (value, errors.as_slice()) {
            (Some(value), []) => Ok(value),
            (_, [error, ..]) => Err(error.to_string()),
            (None, []) => panic!("refused without an error: {text}"),
        }
    }

    #[test]
    fn integers_may_be_doubles() {
        let port = |text| read(text, |node, faults| node.integer(&PORT, faults));
        for (text, value) in [("1", 1), ("65535", 65535), ("4318.0", 4318), ("4.318e3", 4318)] {
            assert_eq!(port(text), Ok(value), "{text}");
        }
        let allowed = "allowed is a whole number from 1 to 65535";
        for (text, wrong) in [
            ("0", "0 is out of range"),
            ("-1", "-1 is out of range"),
            ("65536", "65536 is out of range"),
            ("1.5", "1.5 is out of range"),
            ("1e300", "1e300 is out of range"),
            ("18446744073709551615", "18446744073709551615 is out of range"),
            ("\"1\"", "a string is the wrong type"),
            ("null", "null is the wrong type"),
            ("true", "a boolean is the wrong type"),
        ] {
            let error = format!("configuration: $.x: {wrong}: {allowed}");
            assert_eq!(port(text), Err(error), "{text}");
        }
    }

    #[test]
    fn texts_are_bounded() {
        let text =
            |text: &str| read(text, |node, faults| node.text(&LABEL, faults).map(str::to_owned));
        assert_eq!(text("\"é\""), Ok("é".to_owned()));
        assert_eq!(text(&format!("\"{}\"", "é".repeat(1024))), Ok("é".repeat(1024)));
        assert!(text(&format!("\"{}\"", "é".repeat(1025))).is_err());
        assert!(text("\"\"").is_err());
    }

    #[test]
    fn periods_are_bounded() {
        let period = |text: &str| read(text, |node, faults| node.period(&INTERVAL, faults));
        assert_eq!(period("\"10ms\""), Ok(Duration::from_millis(10)));
        assert_eq!(period("\"1m\""), Ok(Duration::from_secs(60)));
        let allowed =
            "allowed is a whole number with ms, s, m or h, from 10ms to 1m, such as \"1s\"";
        for (text, wrong) in [
            ("\"9ms\"", "\"9ms\" is out of range"),
            ("\"61s\"", "\"61s\" is out of range"),
            ("\"2m\"", "\"2m\" is out of range"),
            ("\"0s\"", "\"0s\" is out of range"),
            ("5", "a number is the wrong type"),
            ("\"\"", "\"\" is not possible"),
            ("\"5\"", "\"5\" is not possible"),
            ("\"1.5s\"", "\"1.5s\" is not possible"),
            ("\"1m30s\"", "\"1m30s\" is not possible"),
        ] {
            let error = format!("configuration: $.x: {wrong}: {allowed}");
            assert_eq!(period(text), Err(error), "{text}");
        }
    }

    #[test]
    fn objects_are_strict() {
        let json = Json::parse(br#"{"max": 1, "maxx": 2, "max": 3, "max": 4}"#).unwrap();
        let mut faults = Faults::default();
        Node { path: "$".to_owned(), json: &json }.object(RETRY, &mut faults);
        let errors: Vec<_> = faults.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "configuration: $.max: duplicate key: allowed is one value",
                "configuration: $.maxx: unknown field (did you mean max?): \
             allowed are initial, max, max_elapsed",
            ]
        );
    }

    #[test]
    fn errors_are_bounded() {
        let mut faults = Faults::default();
        for _ in 0..1000 {
            faults.add("$", Problem::DuplicateKey);
        }
        assert_eq!(faults.into_errors().len(), MAX_ERRORS);
    }
}
