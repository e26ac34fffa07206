//! What becomes of a text before it is recorded: it is rid of what the configuration says, and cut.

use std::borrow::Cow;

use crate::config::Redaction;

/// Patterns see so many bytes of a text beyond those that are kept, so that what they look for is
/// found whole where the cut goes through it.
const BEYOND: usize = 8192;

/// Bytes that patterns may read for one span, each pattern counted: clients choose texts.
pub(super) const MAX_WORK: usize = 1 << 20;

/// What stands for a text that would have taken more.
const UNREAD: &str = "REDACTED";

/// What is done to texts.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    redact: Vec<Redaction>,
    max: usize,
}

impl Texts {
    /// Texts without what `redact` says, of at most `max` bytes.
    pub(super) const fn new(redact: Vec<Redaction>, max: usize) -> Self {
        Self { redact, max }
    }

    /// `text` as it is recorded. What patterns read is taken from `work`.
    pub(super) fn tidy(&self, text: &str, work: &mut usize) -> String {
        cut(&self.redact(text, work), self.max).to_owned()
    }

    /// `text` without what is to go; cut only where there are patterns, to what they can see.
    pub(super) fn redact<'t>(&self, text: &'t str, work: &mut usize) -> Cow<'t, str> {
        let mut redacted = Cow::Borrowed(text);
        let window = self.max.saturating_add(BEYOND);
        for Redaction { pattern, with } in &self.redact {
            let seen = cut(&redacted, window);
            let Some(left) = work.checked_sub(seen.len()) else {
                return Cow::Borrowed(UNREAD);
            };
            *work = left;
            let replaced = match pattern.replace(seen, with, window) {
                Cow::Owned(replaced) => Some(replaced),
                Cow::Borrowed(seen) => (seen.len() < redacted.len()).then(|| seen.to_owned()),
            };
            if let Some(replaced) = replaced {
                redacted = Cow::Owned(replaced);
            }
        }
        redacted
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
    use crate::config::Pattern;

    fn texts(patterns: &[(&str, &str)], max: usize) -> Texts {
        let redact = patterns.iter().map(|(pattern, with)| Redaction {
            pattern: Pattern::new(pattern).unwrap(),
            with: (*with).to_owned(),
        });
        Texts::new(redact.collect(), max)
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("é", 1), "");
    }

    #[test]
    fn patterns_hold_one_after_the_other_and_before_the_cut() {
        let mut work = MAX_WORK;
        let texts = texts(&[("[0-9]{4,}", "#"), ("user-#", "user")], 10);
        for (text, expected) in [
            ("user-1234 did it", "user did i"),
            ("abcdefgh12345678", "abcdefgh#"),
            ("abcdefgh123", "abcdefgh12"),
            ("", ""),
        ] {
            assert_eq!(texts.tidy(text, &mut work), expected);
        }
        let long = format!("secret-{}", "x".repeat(BEYOND));
        let whole = self::texts(&[("secret-x+", "#")], 20);
        assert_eq!(whole.tidy(&long, &mut work), "#");
    }

    #[test]
    fn work_is_bounded_and_what_is_not_read_is_not_shown() {
        let mut work = 25;
        let texts = texts(&[("a", "b"), ("b", "c")], 100);
        assert_eq!(texts.tidy("aaaaa", &mut work), "ccccc");
        assert_eq!(texts.tidy("xxxxxxxxxx", &mut work), "REDACTED");
        assert_eq!(texts.tidy("aa", &mut work), "cc");
        assert_eq!(work, 1);
        let grows = self::texts(&[("x", &"y".repeat(256)), ("y", &"z".repeat(256))], 100);
        assert!(grows.redact(&"x".repeat(60_000), &mut MAX_WORK.clone()).len() < 10_000);
    }
}
