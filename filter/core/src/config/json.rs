//! JSON as a tree that keeps what `serde_json::Value` drops: order and duplicate keys.

use core::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::error::{ConfigError, Problem};

/// A larger text is not a configuration.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Array(Vec<Self>),
    Bool(bool),
    Null,
    Number(Number),
    Object(Vec<(String, Self)>),
    String(String),
}

impl Json {
    /// Reads one value; a blank text is an empty object.
    ///
    /// Nesting is bounded by `serde_json`, which refuses more than 128 levels.
    pub(super) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.len() > MAX_BYTES {
            return Err(ConfigError::new("$", Problem::TooLarge { bytes: text.len() }));
        }
        if text.trim_ascii().is_empty() {
            return Ok(Self::Object(Vec::new()));
        }
        serde_json::from_slice(text).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let text = error.to_string();
            let place = format!(" at line {line} column {column}");
            let reason = text.strip_suffix(&place).unwrap_or(&text).to_owned();
            ConfigError::new("$", Problem::Syntax { line, column, reason })
        })
    }

    /// Reads what others wrote, of any size.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// A field of an object; of several with one name the last, as most readers have it.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(pairs) = self else { return None };
        pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The type's name, as errors say it.
    pub(super) const fn type_name(&self) -> &'static str {
        match self {
            Self::Array(_) => "a list",
            Self::Bool(_) => "a boolean",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Object(_) => "an object",
            Self::String(_) => "a string",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Json::Object(pairs))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn keeps_order_and_duplicates() {
        let number = |n: u64| Json::Number(n.into());
        assert_eq!(
            Json::parse(br#"{"b": [1, null], "a": true, "b": "x"}"#).unwrap(),
            Json::Object(vec![
                ("b".to_owned(), Json::Array(vec![number(1), Json::Null])),
                ("a".to_owned(), Json::Bool(true)),
                ("b".to_owned(), Json::String("x".to_owned())),
            ])
        );
        assert_eq!(Json::parse(b" \n").unwrap(), Json::Object(Vec::new()));
    }

    #[test]
    fn errors_have_a_place() {
        for (text, error) in [
            (&b"{"[..], "configuration: line 1, column 1: not JSON: EOF while parsing an object"),
            (
                b"{\n \"a\": 1,,\n}",
                "configuration: line 2, column 9: not JSON: key must be a string",
            ),
            (b"{} {}", "configuration: line 1, column 4: not JSON: trailing characters"),
            (b"{\"a\": 1e999}", "configuration: line 1, column 11: not JSON: number out of range"),
        ] {
            assert_eq!(Json::parse(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn hostile_text_is_refused() {
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(
            Json::parse(&deep).unwrap_err().to_string(),
            "configuration: line 1, column 128: not JSON: recursion limit exceeded"
        );
        assert_eq!(
            Json::parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err().to_string(),
            "configuration: $: 1048577 bytes are too many: allowed are at most 1048576"
        );
        assert!(Json::parse(b"\"\xff\"").is_err());
    }
}
