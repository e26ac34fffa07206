//! What is wrong with a configuration, where, and what would be right.

use core::fmt;

use super::expression::CelError;
use super::json::MAX_BYTES;

/// Longer values are cut in messages.
const SHOWN_CHARS: usize = 64;

/// One thing that is wrong with a configuration; its `Display` is one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The JSON path of the place, from `$`.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
    /// How many things more are wrong, where this one stands for all.
    pub others: usize,
}

/// What is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// An expression that the host does not take.
    Cel {
        /// Why.
        reason: CelError,
    },
    /// Two fields that do not go together.
    Conflict {
        /// The value at the path.
        value: String,
        /// The path of the field that bounds it.
        bound: &'static str,
        /// That field's value.
        limit: String,
    },
    /// The key stands twice in one object.
    DuplicateKey,
    /// An earlier item of the list is the same.
    DuplicateValue {
        /// The item.
        value: String,
    },
    /// A value with a character, or a variable's content, that it cannot have. It is not shown,
    /// since it may be a secret.
    Hidden {
        /// What is wrong.
        reason: &'static str,
        /// What would be right.
        allowed: &'static str,
    },
    /// A field that must be given.
    Missing {
        /// Why.
        reason: &'static str,
    },
    /// An environment variable that is not set.
    MissingVariable {
        /// Its name.
        name: String,
    },
    /// A number or a duration beyond its bounds.
    OutOfRange {
        /// The value.
        value: String,
        /// What would be right.
        allowed: String,
    },
    /// An invalid regular expression.
    Regex {
        /// What its parser says.
        reason: String,
    },
    /// A rule's name that metrics cannot tell from an earlier one.
    SameCounter {
        /// The name.
        name: String,
    },
    /// Not JSON.
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the start of a line.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// The text as a whole is too long.
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// A field that does not exist.
    UnknownField {
        /// The field that was perhaps meant.
        nearest: Option<&'static str>,
        /// All fields of this object.
        allowed: String,
    },
    /// A value of the right type that is not allowed.
    Value {
        /// The value, shortened.
        value: String,
        /// What would be right.
        allowed: String,
    },
    /// A value of another type.
    WrongType {
        /// The type that is there.
        found: &'static str,
        /// What would be right.
        allowed: String,
    },
}

impl ConfigError {
    pub(super) fn new(path: impl Into<String>, problem: Problem) -> Self {
        Self { path: path.into(), problem, others: 0 }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Problem::Syntax { .. } = &self.problem {
            return write!(f, "configuration: {}", self.problem);
        }
        write!(f, "configuration: {}: {}", self.path, self.problem)?;
        if self.others > 0 {
            write!(f, " (and {} more: meshweft check FILE lists all)", self.others)?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cel { reason: CelError::NotCompiled } => f.write_str(
                "the expression does not compile: allowed is CEL as Envoy has it (a line \
                 \"expr_create\" of its log says why, at the level info of the logger wasm)",
            ),
            Self::Cel { reason: CelError::Unsupported } => f.write_str(
                "this host evaluates no expressions: allowed is cel where Envoy has the foreign \
                 functions expr_create and expr_evaluate",
            ),
            Self::Conflict { value, bound, limit } => {
                write!(f, "{value} is more than {bound}: allowed is at most {limit}")
            }
            Self::DuplicateKey => f.write_str("duplicate key: allowed is one value"),
            Self::DuplicateValue { value } => {
                write!(f, "{value} is there already: allowed is each value once")
            }
            Self::Hidden { reason, allowed } => write!(f, "{reason}: allowed {allowed}"),
            Self::Missing { reason } => write!(f, "missing: {reason}"),
            Self::MissingVariable { name } => {
                write!(f, "environment variable {name} is not set: allowed is a variable that is")
            }
            Self::OutOfRange { value, allowed } => {
                write!(f, "{value} is out of range: allowed {allowed}")
            }
            Self::Regex { reason } => {
                write!(f, "invalid regex: {reason}: allowed is the syntax of Rust's regex crate")
            }
            Self::SameCounter { name } => write!(
                f,
                "{name} has the same counter as an earlier rule: \
                 allowed are names that differ by more than - and _"
            ),
            Self::Syntax { line, column, reason } => {
                write!(f, "line {line}, column {column}: not JSON: {reason}")
            }
            Self::TooLarge { bytes } => {
                write!(f, "{bytes} bytes are too many: allowed are at most {MAX_BYTES}")
            }
            Self::UnknownField { nearest, allowed } => {
                f.write_str("unknown field")?;
                if let Some(nearest) = nearest {
                    write!(f, " (did you mean {nearest}?)")?;
                }
                write!(f, ": allowed are {allowed}")
            }
            Self::Value { value, allowed } => {
                write!(f, "{value} is not possible: allowed {allowed}")
            }
            Self::WrongType { found, allowed } => {
                write!(f, "{found} is the wrong type: allowed {allowed}")
            }
        }
    }
}

/// `text` in quotes, on one line, shortened.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// The step from an object to its field `name` in a JSON path.
pub(super) fn step(path: &str, name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.len() <= SHOWN_CHARS && name.chars().all(plain) {
        format!("{path}.{name}")
    } else {
        format!("{path}[{}]", quoted(name))
    }
}

/// The name among `names` that is at most two edits away from `typo`, if one is.
pub(super) fn nearest<'a>(typo: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if typo.len() > SHOWN_CHARS {
        return None;
    }
    let (edits, name) = names.map(|name| (distance(typo, name), name)).min()?;
    (edits <= 2 && edits < name.len()).then_some(name)
}

/// Insertions, deletions and replacements of bytes from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, x) in (1_usize..).zip(a.bytes()) {
        let mut left = line;
        let mut diagonal = line.saturating_sub(1);
        if let Some(first) = row.first_mut() {
            *first = line;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal.saturating_add(usize::from(x != y));
            diagonal = *cell;
            *cell = replaced.min(left.saturating_add(1)).min(cell.saturating_add(1));
            left = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn typos() {
        let names = ["parent", "rate", "rules"];
        assert_eq!(nearest("ruls", names.into_iter()), Some("rules"));
        assert_eq!(nearest("Rate", names.into_iter()), Some("rate"));
        assert_eq!(nearest("limit_per_second", names.into_iter()), None);
        assert_eq!(nearest("", names.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn one_line() {
        let hostile = "a\nb\u{1b}[31m".repeat(100);
        let error = ConfigError::new(step("$", &hostile), Problem::DuplicateKey);
        assert!(!error.to_string().contains(char::is_control), "{error}");
        assert!(error.to_string().chars().count() < 200, "{error}");
        assert_eq!(step("$.a", "b-c"), "$.a.b-c");
        assert_eq!(step("$.a", "b.c"), "$.a[\"b.c\"]");
        assert_eq!(quoted("a\nb"), "\"a\\nb\"");
    }
}
