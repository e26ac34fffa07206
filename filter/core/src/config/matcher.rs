//! String matchers, compiled once.

use super::program::{Case, Part, Program, RegexError};

/// Says of a value, which may be absent, whether it matches.
///
/// All forms look at bytes, so that a value that is not UTF-8 is no special case.
/// `glob` and `regex` must match the whole value, as Envoy's `safe_regex` does.
#[derive(Clone, Debug)]
pub struct StringMatcher(Form);

/// One of the ends of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// Its first bytes.
    Head,
    /// Its last bytes.
    Tail,
}

/// What a value has at one end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Anchor<'a> {
    /// The text there.
    pub text: &'a [u8],
    /// Whether it is the whole value.
    pub whole: bool,
}

#[derive(Clone, Debug)]
enum Form {
    AnyOf(Vec<StringMatcher>),
    Contains(Program),
    Exact(Vec<u8>),
    Glob {
        program: Program,
        /// What stands before the first wildcard.
        head: Vec<u8>,
        /// What stands behind the last.
        tail: Vec<u8>,
    },
    Prefix(Vec<u8>),
    Present(bool),
    Suffix(Vec<u8>),
    Whole(Program),
}

impl StringMatcher {
    /// Matches what one of `matchers` matches.
    #[must_use]
    pub const fn any_of(matchers: Vec<Self>) -> Self {
        Self(Form::AnyOf(matchers))
    }

    /// Matches values with `text` in them.
    ///
    /// # Errors
    /// `text` is too long to compile. It is compiled because that keeps the search linear.
    pub fn contains(text: &str, case: Case) -> Result<Self, RegexError> {
        let pattern = regex_syntax::escape(&folded(text, case));
        Program::new(&pattern, Part::Any, Case::Exact).map(Form::Contains).map(Self)
    }

    /// Matches `text` alone.
    #[must_use]
    pub fn exact(text: &str, case: Case) -> Self {
        Self(Form::Exact(folded(text, case).into_bytes()))
    }

    /// Matches whole values by a pattern: `*` is any run of bytes without `/`, `**` any run of
    /// bytes, `?` one character other than `/`; runs may be empty. All else, also `[`, `{` and
    /// the backslash, stands for itself.
    ///
    /// # Errors
    /// `pattern` is too long to compile.
    pub fn glob(pattern: &str, case: Case) -> Result<Self, RegexError> {
        let pattern = folded(pattern, case);
        let mut regex = String::with_capacity(pattern.len());
        let mut literal = [0; 4];
        let mut rest = pattern.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '*' if rest.peek() == Some(&'*') => {
                    while rest.next_if_eq(&'*').is_some() {}
                    regex.push_str("(?s-u:.*)");
                }
                '*' => regex.push_str("(?-u:[^/]*)"),
                '?' => regex.push_str("[^/]"),
                _ => regex.push_str(&regex_syntax::escape(c.encode_utf8(&mut literal))),
            }
        }
        let mut texts = pattern.split(['*', '?']);
        let head = texts.next().unwrap_or_default();
        let tail = texts.next_back().unwrap_or(head);
        let program = Program::new(&regex, Part::Whole, Case::Exact)?;
        Ok(Self(Form::Glob { program, head: head.into(), tail: tail.into() }))
    }

    /// Matches values that begin with `text`.
    #[must_use]
    pub fn prefix(text: &str, case: Case) -> Self {
        Self(Form::Prefix(folded(text, case).into_bytes()))
    }

    /// Matches any value, even an empty one; or else the absence of a value.
    #[must_use]
    pub const fn present(present: bool) -> Self {
        Self(Form::Present(present))
    }

    /// Matches whole values by a regular expression.
    ///
    /// # Errors
    /// `pattern` is not a regex, or one that is too large.
    pub fn regex(pattern: &str, case: Case) -> Result<Self, RegexError> {
        Program::new(pattern, Part::Whole, case).map(Form::Whole).map(Self)
    }

    /// Matches values that end with `text`.
    #[must_use]
    pub fn suffix(text: &str, case: Case) -> Self {
        Self(Form::Suffix(folded(text, case).into_bytes()))
    }

    /// Bytes that the compiled form counts as.
    pub(super) fn bytes(&self) -> usize {
        match &self.0 {
            Form::Contains(program) | Form::Glob { program, .. } | Form::Whole(program) => {
                program.bytes()
            }
            _ => 0,
        }
    }

    /// Texts of which every value that matches has one at this `end`; `None` where it need have
    /// none, or be there at all.
    #[must_use]
    pub fn anchors(&self, end: End) -> Option<Vec<Anchor<'_>>> {
        let (text, whole) = match (&self.0, end) {
            (Form::AnyOf(matchers), _) => {
                let anchors: Option<Vec<_>> =
                    matchers.iter().map(|matcher| matcher.anchors(end)).collect();
                return anchors.map(|anchors| anchors.concat());
            }
            (Form::Exact(text), _) => (text, true),
            (Form::Prefix(text) | Form::Glob { head: text, .. }, End::Head)
            | (Form::Suffix(text) | Form::Glob { tail: text, .. }, End::Tail) => (text, false),
            (Form::Contains(_) | Form::Present(_) | Form::Whole(_), _)
            | (Form::Prefix(_), End::Tail)
            | (Form::Suffix(_), End::Head) => return None,
        };
        (whole || !text.is_empty()).then(|| vec![Anchor { text, whole }])
    }

    /// Whether `value` matches; an absent one matches `present: false` only.
    #[must_use]
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        match (&self.0, value) {
            (Form::AnyOf(matchers), _) => matchers.iter().any(|matcher| matcher.matches(value)),
            (Form::Present(present), _) => *present == value.is_some(),
            (_, None) => false,
            (
                Form::Contains(program) | Form::Glob { program, .. } | Form::Whole(program),
                Some(value),
            ) => program.is_match(value),
            (Form::Exact(text), Some(value)) => text == value,
            (Form::Prefix(text), Some(value)) => value.starts_with(text),
            (Form::Suffix(text), Some(value)) => value.ends_with(text),
        }
    }
}

fn folded(text: &str, case: Case) -> String {
    match case {
        Case::Exact => text.to_owned(),
        Case::Lower => text.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[track_caller]
    fn check(matcher: &StringMatcher, good: &[&[u8]], bad: &[&[u8]]) {
        for value in good {
            assert!(matcher.matches(Some(value)), "{matcher:?} {}", value.escape_ascii());
        }
        for value in bad {
            assert!(!matcher.matches(Some(value)), "{matcher:?} {}", value.escape_ascii());
        }
    }

    #[test]
    fn literals() {
        let case = Case::Exact;
        check(&StringMatcher::exact("/a", case), &[b"/a"], &[b"", b"/A", b"/a/", b"\xff"]);
        check(&StringMatcher::prefix("/a", case), &[b"/a", b"/ab\xff"], &[b"", b"/", b"b/a"]);
        check(&StringMatcher::suffix("a", case), &[b"a", b"\xffa"], &[b"", b"ab"]);
        let contains = StringMatcher::contains("a.b", case).unwrap();
        check(&contains, &[b"a.b", b"\xffa.b\n"], &[b"", b"axb", b"a."]);
        let any = StringMatcher::any_of(vec![
            StringMatcher::exact("GET", case),
            StringMatcher::prefix("P", case),
        ]);
        check(&any, &[b"GET", b"POST"], &[b"get", b"HEAD"]);
    }

    #[test]
    fn absence() {
        assert!(StringMatcher::present(true).matches(Some(b"")));
        assert!(!StringMatcher::present(true).matches(None));
        assert!(StringMatcher::present(false).matches(None));
        assert!(!StringMatcher::present(false).matches(Some(b"x")));
        assert!(!StringMatcher::regex(".*", Case::Exact).unwrap().matches(None));
        assert!(!StringMatcher::exact("", Case::Exact).matches(None));
    }

    #[test]
    fn globs() {
        for (pattern, good, bad) in [
            ("/a/*", &["/a/", "/a/b", "/a/b.c"][..], &["/a", "/a/b/c", "/a/b/", "x/a/b"][..]),
            ("/a/**", &["/a/", "/a/b", "/a/b/c/"], &["/a", "/ab"]),
            ("/**/x", &["//x", "/a/x", "/a/b/x"], &["/x", "/a/xy"]),
            ("/orders/*/pay", &["/orders/7/pay", "/orders//pay"], &["/orders/7/8/pay"]),
            ("/?", &["/a", "/é"], &["/", "//", "/ab"]),
            ("*.example.com", &["a.example.com", "a.b.example.com"], &["example.com"]),
            ("a***b", &["ab", "a/b"], &["a"]),
            (r"[a]{b}\(c)", &[r"[a]{b}\(c)"], &["a"]),
            ("", &[""], &["a"]),
        ] {
            let matcher = StringMatcher::glob(pattern, Case::Exact).unwrap();
            let bytes = |values: &[&'static str]| -> Vec<&[u8]> {
                values.iter().map(|value| value.as_bytes()).collect()
            };
            check(&matcher, &bytes(good), &bytes(bad));
        }
        let matcher = StringMatcher::glob("/*", Case::Exact).unwrap();
        check(&matcher, &[b"/\xff\n"], &[b"/\xff/"]);
        let matcher = StringMatcher::glob("**", Case::Exact).unwrap();
        check(&matcher, &[b"", b"\xff/\n"], &[]);
    }

    #[test]
    fn anchors_are_what_every_match_has() {
        let case = Case::Exact;
        let glob = |pattern| StringMatcher::glob(pattern, case).unwrap();
        let part = |text| Some((text, false));
        let whole = |text| Some((text, true));
        for (matcher, head, tail) in [
            (StringMatcher::exact("/a", case), whole("/a"), whole("/a")),
            (StringMatcher::exact("", case), whole(""), whole("")),
            (StringMatcher::prefix("/a", case), part("/a"), None),
            (StringMatcher::suffix("/a", case), None, part("/a")),
            (StringMatcher::contains("/a", case).unwrap(), None, None),
            (StringMatcher::regex("/a.*", case).unwrap(), None, None),
            (StringMatcher::present(true), None, None),
            (glob("/a/*/b?/c"), part("/a/"), part("/c")),
            (glob("*.example"), None, part(".example")),
            (glob("/é**"), part("/é"), None),
            (glob("/a"), part("/a"), part("/a")),
            (glob("**"), None, None),
        ] {
            for (end, expected) in [(End::Head, head), (End::Tail, tail)] {
                let expected =
                    expected.map(|(text, whole)| vec![Anchor { text: text.as_bytes(), whole }]);
                assert_eq!(matcher.anchors(end), expected, "{matcher:?} {end:?}");
            }
        }
        let any =
            |pattern| StringMatcher::any_of(vec![StringMatcher::exact("/a", case), glob(pattern)]);
        assert_eq!(
            any("/b*").anchors(End::Head),
            Some(vec![Anchor { text: b"/a", whole: true }, Anchor { text: b"/b", whole: false }])
        );
        assert_eq!(any("*b").anchors(End::Head), None);
    }

    #[test]
    fn regexes_match_the_whole_value() {
        let matcher = StringMatcher::regex("/a|/b+", Case::Exact).unwrap();
        check(&matcher, &[b"/a", b"/bb"], &[b"/ab", b"x/a", b"/a\n", b"/A"]);
        let matcher = StringMatcher::regex("(?i)/[a-z]+", Case::Exact).unwrap();
        check(&matcher, &[b"/aB"], &[b"/1"]);
        let matcher = StringMatcher::regex(r"/\w+/\d+", Case::Exact).unwrap();
        check(&matcher, &["/é/7".as_bytes()], &[b"/\xff/7"]);
    }

    #[test]
    fn regexes_are_bounded_and_errors_are_one_line() {
        for (pattern, error) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("(?<n>a)\\k", "unrecognized escape sequence"),
            (r"(\w{100}){1000}", "compiled it takes more than 1048576 bytes"),
        ] {
            let result = StringMatcher::regex(pattern, Case::Exact);
            assert_eq!(result.unwrap_err().to_string(), error, "{pattern}");
        }
    }

    #[test]
    fn hosts_ignore_case() {
        let lower = Case::Lower;
        check(&StringMatcher::exact("Shop.Example", lower), &[b"shop.example"], &[b"shop"]);
        check(&StringMatcher::suffix(".Example", lower), &[b"shop.example"], &[]);
        check(&StringMatcher::glob("*.Example", lower).unwrap(), &[b"shop.example"], &[]);
        check(&StringMatcher::regex(r"Shop\S+", lower).unwrap(), &[b"shop.example"], &[]);
        check(&StringMatcher::contains("P.e", lower).unwrap(), &[b"shop.example"], &[]);
    }
}
