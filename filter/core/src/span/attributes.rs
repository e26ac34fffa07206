//! The attributes of a span while it is described: typed, their texts tidy.

use std::borrow::Cow;

use super::texts::{MAX_WORK, Texts};
use super::{KeyValue, Value};
use crate::config::Scalar;

/// A list of attributes, in the order in which they came.
#[derive(Debug)]
pub(super) struct Attributes<'a> {
    list: Vec<KeyValue>,
    texts: &'a Texts,
    /// What patterns may still read for this span.
    work: usize,
}

impl<'a> Attributes<'a> {
    /// No attributes yet.
    pub(super) fn new(texts: &'a Texts) -> Self {
        Self { list: Vec::with_capacity(24), texts, work: MAX_WORK }
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    /// Makes room for so many more at once.
    pub(super) fn reserve(&mut self, more: usize) {
        self.list.reserve(more);
    }

    pub(super) fn into_list(self) -> Vec<KeyValue> {
        self.list
    }

    /// A text, if there is one.
    pub(super) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            let value = Scalar::String(self.texts.tidy(value, &mut self.work));
            self.push(key.into(), Value::Scalar(value));
        }
    }

    /// A whole number, if there is one.
    pub(super) fn int(&mut self, key: &'static str, value: Option<i64>) {
        if let Some(value) = value {
            self.push(key.into(), Value::Scalar(Scalar::Int(value)));
        }
    }

    /// A number.
    pub(super) fn double(&mut self, key: &'static str, value: f64) {
        self.push(key.into(), Value::Scalar(Scalar::Double(value)));
    }

    /// A duration of so many nanoseconds in milliseconds, if there is one.
    pub(super) fn millis(&mut self, key: &'static str, nanos: Option<i64>) {
        if let Some(nanos) = nanos {
            #[expect(clippy::cast_precision_loss, reason = "exact for three months")]
            let millis = nanos as f64 / 1e6;
            self.double(key, millis);
        }
    }

    /// A value under a name that is not ours: it never takes the place of one that is there.
    pub(super) fn foreign(&mut self, key: &str, value: &str) {
        if self.list.iter().all(|there| there.key != key) {
            let value = Scalar::String(self.texts.tidy(value, &mut self.work));
            self.push(key.to_owned().into(), Value::Scalar(value));
        }
    }

    /// A value that the configuration asks for: it takes the place of one that is there. Only the
    /// first `told` may have its name, since the configuration has no name twice.
    pub(super) fn own(&mut self, key: &str, value: Value, told: usize) {
        let mut tidy = |text: String| self.texts.tidy(&text, &mut self.work);
        let value = match value {
            Value::Scalar(Scalar::String(text)) => Value::Scalar(Scalar::String(tidy(text))),
            Value::Scalar(other) => Value::Scalar(other),
            Value::Strings(texts) => Value::Strings(texts.into_iter().map(tidy).collect()),
        };
        match self.list.iter_mut().take(told).find(|there| there.key == key) {
            Some(there) => there.value = value,
            None => self.push(key.to_owned().into(), value),
        }
    }

    /// A text that is no attribute, without what no text may have.
    pub(super) fn redacted(&mut self, text: &str) -> String {
        self.texts.redact(text, &mut self.work).into_owned()
    }

    fn push(&mut self, key: Cow<'static, str>, value: Value) {
        self.list.push(KeyValue { key, value });
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn no_name_twice() {
        let texts = Texts::new(Vec::new(), 3);
        let mut attributes = Attributes::new(&texts);
        attributes.text("a", Some("abcd"));
        attributes.text("b", None);
        attributes.int("c", Some(7));
        attributes.foreign("a", "other");
        attributes.foreign("d", "defg");
        let told = attributes.len();
        attributes.own("c", Value::Scalar(Scalar::Bool(true)), told);
        attributes.own("e", Value::Strings(vec!["efgh".to_owned(), String::new()]), told);
        let texts = attributes.into_list().into_iter();
        let texts: Vec<_> = texts.map(|a| format!("{}={:?}", a.key, a.value)).collect();
        assert_eq!(
            texts,
            [
                r#"a=Scalar(String("abc"))"#,
                "c=Scalar(Bool(true))",
                r#"d=Scalar(String("def"))"#,
                r#"e=Strings(["efg", ""])"#,
            ]
        );
    }
}
