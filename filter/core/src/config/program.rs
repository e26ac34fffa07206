//! Regular expressions, compiled once. Lazy DFAs say whether and where there is a match; a
//! simulation of the NFA says so where they give up, and where groups are. Each search is linear in
//! the text; to find all matches may take a search to its end for each.

use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use std::rc::Rc;

use regex_automata::hybrid::dfa::{self, DFA};
use regex_automata::nfa::thompson::pikevm::{self, PikeVM};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::iter::Searcher;
use regex_automata::{Anchored, HalfMatch, Input, Match, MatchError, MatchKind};
use regex_syntax::hir::{Hir, Look};
use regex_syntax::{Error, ParserBuilder};

/// The most that one compiled regex may take, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The least that one counts as.
const MIN_BYTES: usize = 1 << 12;

/// Whether the case of ASCII letters matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Case {
    /// `A` is not `a`. For everything but hosts.
    Exact,
    /// The matcher is lower-cased; the caller lower-cases the values.
    Lower,
}

/// Why a text is not a regex.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RegexError {
    /// Not the syntax of the regex crate.
    Syntax(String),
    /// Compiles to more than a matcher may take.
    TooLarge,
}

/// Which part of a text a regex speaks of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// Any: it is looked for.
    Any,
    /// All of it.
    Whole,
}

/// A compiled regex.
#[derive(Clone, Debug)]
pub(super) struct Program(Rc<Compiled>);

#[derive(Debug)]
struct Compiled {
    bytes: usize,
    ahead: Option<Lazy>,
    /// From the end of a match to its start, where that may be asked for.
    back: Option<Lazy>,
    vm: PikeVM,
    threads: RefCell<Option<pikevm::Cache>>,
}

/// An automaton of which states are made when a text first needs them.
#[derive(Debug)]
struct Lazy {
    dfa: DFA,
    states: RefCell<Option<dfa::Cache>>,
}

/// An automaton gave up: it took too much, or cannot tell where a word ends.
struct GaveUp;

impl Program {
    /// Compiles `pattern`, which speaks of a `part` of a text.
    pub(super) fn new(pattern: &str, part: Part, case: Case) -> Result<Self, RegexError> {
        let hir = ParserBuilder::new()
            .utf8(false)
            .case_insensitive(case == Case::Lower)
            .build()
            .parse(pattern)
            .map_err(|error| RegexError::Syntax(reason(&error)))?;
        let config = thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_BYTES));
        let alone = config.clone().which_captures(WhichCaptures::None);
        let (nfa, back) = match part {
            Part::Any => (compile(config, &hir)?, Some(compile(alone.reverse(true), &hir)?)),
            Part::Whole => {
                let (start, end) = (Hir::look(Look::Start), Hir::look(Look::End));
                (compile(alone, &Hir::concat(vec![start, hir, end]))?, None)
            }
        };
        let size = |nfa: &NFA| nfa.memory_usage().max(MIN_BYTES);
        let bytes = size(&nfa).saturating_add(back.as_ref().map_or(0, size));
        let bytes = bytes.saturating_add(threads_bytes(&nfa));
        let ahead = Lazy::new(&nfa, MatchKind::LeftmostFirst);
        let back = back.and_then(|nfa| Lazy::new(&nfa, MatchKind::All));
        let vm = PikeVM::new_from_nfa(nfa).map_err(|_| RegexError::TooLarge)?;
        let threads = RefCell::default();
        Ok(Self(Rc::new(Compiled { bytes, ahead, back, vm, threads })))
    }

    /// Bytes that it counts as, with those that searches take.
    pub(super) fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Whether there is a match in `text`.
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        let input = Input::new(text).earliest(true);
        match self.end(&input) {
            Ok(end) => end.is_some(),
            Err(GaveUp) => self.threads(|threads| self.0.vm.is_match(threads, input)),
        }
    }

    /// The first group of the first match, or all of that match where there is no group in it.
    pub(super) fn capture(&self, text: &[u8]) -> Option<Range<usize>> {
        let found = self.first(&Input::new(text))?;
        if self.0.vm.get_nfa().group_info().explicit_slot_len() == 0 {
            return Some(found.range());
        }
        let mut groups = self.0.vm.create_captures();
        let input = Input::new(text).span(found.span()).anchored(Anchored::Yes);
        self.threads(|threads| self.0.vm.captures(threads, input, &mut groups));
        groups.get_group(1).map(|span| span.range())
    }

    /// Calls `each` with every match in `text`, until it says that this is enough.
    pub(super) fn find(&self, text: &[u8], mut each: impl FnMut(Match) -> bool) {
        let mut searcher = Searcher::new(Input::new(text));
        while searcher.advance(|input| Ok(self.first(input))).is_some_and(&mut each) {}
    }

    fn first(&self, input: &Input<'_>) -> Option<Match> {
        let found = self.end(input).and_then(|end| {
            let Some(end) = end else { return Ok(None) };
            let back = self.0.back.as_ref().ok_or(GaveUp)?;
            let input = input.clone().range(input.start()..end).anchored(Anchored::Yes);
            let start = back.run(|dfa, states| dfa.try_search_rev(states, &input))?;
            start.map(|start| Match::must(0, start..end)).ok_or(GaveUp).map(Some)
        });
        found
            .unwrap_or_else(|GaveUp| self.threads(|threads| self.0.vm.find(threads, input.clone())))
    }

    /// Where the first match ends.
    fn end(&self, input: &Input<'_>) -> Result<Option<usize>, GaveUp> {
        let ahead = self.0.ahead.as_ref().ok_or(GaveUp)?;
        ahead.run(|dfa, states| dfa.try_search_fwd(states, input))
    }

    fn threads<T>(&self, run: impl FnOnce(&mut pikevm::Cache) -> T) -> T {
        let mut threads = self.0.threads.borrow_mut();
        run(threads.get_or_insert_with(|| self.0.vm.create_cache()))
    }
}

impl Lazy {
    /// None where it would take too much.
    fn new(nfa: &NFA, kind: MatchKind) -> Option<Self> {
        let config = DFA::config()
            .match_kind(kind)
            .unicode_word_boundary(true)
            // This one grows with what clients send.
            .cache_capacity(nfa.memory_usage().max(MIN_BYTES).saturating_mul(4).min(MAX_BYTES))
            // Where states are made anew with every few bytes, the other one is quicker.
            .minimum_cache_clear_count(Some(3))
            .minimum_bytes_per_state(Some(10));
        let dfa = DFA::builder().configure(config).build_from_nfa(nfa.clone()).ok()?;
        Some(Self { dfa, states: RefCell::default() })
    }

    fn run(
        &self,
        search: impl FnOnce(&DFA, &mut dfa::Cache) -> Result<Option<HalfMatch>, MatchError>,
    ) -> Result<Option<usize>, GaveUp> {
        let mut states = self.states.borrow_mut();
        let states = states.get_or_insert_with(|| self.dfa.create_cache());
        search(&self.dfa, states).map(|found| found.map(|half| half.offset())).map_err(|_| GaveUp)
    }
}

/// What a simulation takes: where each group of each thread is, now and after the next byte.
fn threads_bytes(nfa: &NFA) -> usize {
    let slots = nfa.states().len().saturating_mul(nfa.group_info().slot_len());
    slots.saturating_mul(2).saturating_mul(size_of::<usize>())
}

fn compile(config: thompson::Config, hir: &Hir) -> Result<NFA, RegexError> {
    let compiled = thompson::Compiler::new().configure(config).build_from_hir(hir);
    compiled.map_err(|_| RegexError::TooLarge)
}

/// What is wrong, without the pattern around it.
fn reason(error: &Error) -> String {
    match error {
        Error::Parse(error) => error.kind().to_string(),
        Error::Translate(error) => error.kind().to_string(),
        _ => "unknown".to_owned(),
    }
}

impl RegexError {
    /// Bytes that compiling counts as where it failed: a text that is too large took its time too.
    pub(super) const fn bytes(&self) -> usize {
        match self {
            Self::Syntax(_) => 0,
            Self::TooLarge => MAX_BYTES,
        }
    }
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(reason) => f.write_str(reason),
            Self::TooLarge => write!(f, "compiled it takes more than {MAX_BYTES} bytes"),
        }
    }
}

impl core::error::Error for RegexError {}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn threads_that_remember_many_groups_count() {
        let bytes = |pattern: &str| Program::new(pattern, Part::Any, Case::Exact).unwrap().bytes();
        let groups = |count: usize, times: usize| format!("(?:a{}){{{times}}}", "()".repeat(count));
        assert!(bytes(&groups(1_900, 2)) > 64 << 20);
        assert!(bytes(&groups(20, 20)) < 1 << 20);
        // What people write.
        for pattern in [r"(\w+)@(\w+)\.example", r"(\d{3})-(\d{2})-(\d{4})", r"\b\w{8,16}\b"] {
            assert!(bytes(pattern) < 4 << 20, "{pattern}");
        }
    }

    /// Patterns of all kinds: with groups, without; greedy and not; that can match nothing; that
    /// look around; whose automaton must give up (words beside letters that are not ASCII).
    const PATTERNS: [&str; 27] = [
        "",
        "a",
        "a|ab",
        "ab|a",
        "a*",
        "a*?b",
        "(a+)(b+)?",
        "(?i)ÄB",
        "(?i)k",
        r"\bab\b",
        r"\b",
        r"\B",
        r"\w+",
        r"(\d+)-(\d+)",
        "[^/]+",
        r"\S+@\S+",
        "^b|a$",
        "(?m)^a|b$",
        "(?s).b",
        ".b",
        "(?x) a # b",
        r"(?-u:\xc3)",
        "(?-u:[^a])+",
        "a{2,3}",
        "(?U)a+",
        "(|a)+",
        r"\p{Nd}+",
    ];

    const TEXTS: [&[u8]; 14] = [
        b"",
        b"a",
        b"ab",
        b"xaab ab",
        b"aaaaa",
        "äb É ab".as_bytes(),
        "K\u{212a}k".as_bytes(),
        b"/a/b?c=1-22&d=333-4",
        b"me@example.com, you@example.org",
        b"a\nb\na",
        b"\xffa\xc3b\xff",
        "٣-٤".as_bytes(),
        b"a # b",
        "ab ä".as_bytes(),
    ];

    /// The crate `regex` is the judge.
    #[test]
    fn matches_are_those_of_regex() {
        for pattern in PATTERNS {
            let any = Program::new(pattern, Part::Any, Case::Exact).unwrap();
            let whole = Program::new(pattern, Part::Whole, Case::Exact).unwrap();
            let lower = Program::new(pattern, Part::Whole, Case::Lower).unwrap();
            let judge = |pattern: &str| regex::bytes::Regex::new(pattern).unwrap();
            // A line more, since a comment takes all of its own.
            let all = format!("(?:{pattern}\n)");
            let all = if pattern.starts_with("(?x)") { all } else { format!("(?:{pattern})") };
            let (any_judge, whole_judge) = (judge(pattern), judge(&format!(r"\A{all}\z")));
            let lower_judge = judge(&format!(r"(?i)\A{all}\z"));
            for text in TEXTS {
                let told = format!("{pattern:?} in {}", text.escape_ascii());
                let found = any_judge.captures(text);
                assert_eq!(any.is_match(text), found.is_some(), "{told}");
                assert_eq!(whole.is_match(text), whole_judge.is_match(text), "{told}");
                assert_eq!(lower.is_match(text), lower_judge.is_match(text), "{told}");
                let group = found.and_then(|found| {
                    let group = if found.len() == 1 { found.get(0) } else { found.get(1) };
                    group.map(|group| group.range())
                });
                assert_eq!(any.capture(text), group, "{told}");
                let mut all = vec![];
                any.find(text, |found| {
                    all.push(found.range());
                    true
                });
                let expected: Vec<_> = any_judge.find_iter(text).map(|m| m.range()).collect();
                assert_eq!(all, expected, "{told}");
            }
        }
    }

    #[test]
    fn what_is_enough_ends_the_search() {
        let program = Program::new("a", Part::Any, Case::Exact).unwrap();
        let mut found = 0;
        program.find(b"aaa", |_| {
            found += 1;
            found < 2
        });
        assert_eq!(found, 2);
    }
}
