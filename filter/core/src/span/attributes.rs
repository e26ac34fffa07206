//! The attributes of a span while it is described: typed, their texts cut.

use std::borrow::Cow;

use super::{KeyValue, Value};
use crate::config::Scalar;

/// A list of attributes, in the order in which they came.
#[derive(Debug)]
pub(super) struct Attributes {
    list: Vec<KeyValue>,
    max: usize,
}

impl Attributes {
    /// No attributes yet; texts will be cut to `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { list: Vec::with_capacity(24), max }
    }

    pub(super) fn into_list(self) -> Vec<KeyValue> {
        self.list
    }

    /// A text, if there is one.
    pub(super) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.push(key.into(), Scalar::String(cut(value, self.max).to_owned()));
        }
    }

    /// A whole number, if there is one.
    pub(super) fn int(&mut self, key: &'static str, value: Option<i64>) {
        if let Some(value) = value {
            self.push(key.into(), Scalar::Int(value));
        }
    }

    /// A value under a name that is not ours: it never takes the place of one that is there.
    pub(super) fn foreign(&mut self, key: &str, value: &str) {
        if self.list.iter().all(|there| there.key != key) {
            let value = Scalar::String(cut(value, self.max).to_owned());
            self.push(key.to_owned().into(), value);
        }
    }

    fn push(&mut self, key: Cow<'static, str>, value: Scalar) {
        self.list.push(KeyValue { key, value: Value::Scalar(value) });
    }
}

/// The longest start of `text` that has at most `max` bytes and ends between characters.
pub(super) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("é", 1), "");
        let mut attributes = Attributes::new(3);
        attributes.text("a", Some("abcd"));
        attributes.text("b", None);
        attributes.int("c", Some(7));
        attributes.foreign("a", "other");
        attributes.foreign("d", "defg");
        let texts = attributes.into_list().into_iter();
        let texts: Vec<_> = texts.map(|a| format!("{}={:?}", a.key, a.value)).collect();
        assert_eq!(
            texts,
            [r#"a=Scalar(String("abc"))"#, "c=Scalar(Int(7))", r#"d=Scalar(String("def"))"#]
        );
    }
}
