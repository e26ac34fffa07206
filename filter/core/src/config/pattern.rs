//! Regular expressions that look for parts of a text.

use std::borrow::Cow;

use super::program::{Case, Part, Program, RegexError};

/// A pattern that is looked for anywhere in a text, in time that grows with the text alone.
#[derive(Clone, Debug)]
pub struct Pattern(Program);

impl Pattern {
    /// Compiles a regular expression.
    ///
    /// # Errors
    /// It is none, or one that is too large.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        Program::new(pattern, Part::Any, Case::Exact).map(Self)
    }

    /// What it counts as.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Whether there is a match in a text of no length.
    pub(super) fn matches_nothing(&self) -> bool {
        self.0.is_match(b"")
    }

    /// The first group of the first match, or all of that match where there is no group in it.
    #[must_use]
    pub fn capture<'t>(&self, text: &'t str) -> Option<&'t str> {
        text.get(self.0.capture(text.as_bytes())?)
    }

    /// `text` with `with` in place of every match, cut to `max` bytes or a few more.
    #[must_use]
    pub fn replace<'t>(&self, text: &'t str, with: &str, max: usize) -> Cow<'t, str> {
        let mut replaced = String::new();
        let mut at = 0;
        let mut found = false;
        self.0.find(text.as_bytes(), |part| {
            found = true;
            // A pattern of bytes may end within a character.
            if let Some(before) = text.get(at..text.floor_char_boundary(part.start()))
                && !part.is_empty()
            {
                replaced.push_str(before);
                replaced.push_str(with);
                at = text.ceil_char_boundary(part.end());
            }
            replaced.len() <= max
        });
        if !found {
            return Cow::Borrowed(text);
        }
        if replaced.len() <= max {
            replaced.push_str(text.get(at..).unwrap_or_default());
        }
        Cow::Owned(replaced)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn captures() {
        for (regex, text, expected) in [
            ("b+", "abbc", Some("bb")),
            ("^/v([0-9]+)/", "/v12/x", Some("12")),
            ("(a)(b)", "xab", Some("a")),
            ("(?<n>é)$", "aé", Some("é")),
            ("x(a)?", "xb", None),
            ("z", "abc", None),
            (r"(?-u:\xc3)", "é", None),
        ] {
            assert_eq!(pattern(regex).capture(text), expected, "{regex}");
        }
    }

    #[test]
    fn replacements() {
        for (regex, text, expected) in [
            ("[0-9]+", "a1b22", "a#b#"),
            ("z", "abc", "abc"),
            ("é", "éaé", "#a#"),
            (r"\b", "ab", "ab"),
            (r"(?-u:\xc3)", "aéb", "a#b"),
            (r"(?-u:\xc3)|(?-u:\xa9)", "aéb", "a#b"),
            ("(?s).*", "a\nb", "#"),
        ] {
            assert_eq!(pattern(regex).replace(text, "#", 100), expected, "{regex}");
        }
        assert_eq!(pattern("a").replace("aaaaaaaa", "long", 9), "longlonglong");
    }
}
