//! Which rules a request may fit, found without asking the others.
//!
//! Each rule stands under facts of which a request that fits has at least one: what its path
//! begins with or is, what its host ends with or is, a header that it has. Looking these up costs
//! the same for one rule and for a thousand. Rules without such a fact are asked of every request.

use core::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::config::{Anchor, End, GrpcMatch, Match};
use crate::matching::Facts;

/// Rules by what they need, each as its number in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    paths: Affixes,
    /// Texts are turned round: hosts are told apart by their ends.
    hosts: Affixes,
    /// Names, each whole.
    headers: Affixes,
    others: Vec<usize>,
}

/// A fact about a request.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    place: Place,
    text: Vec<u8>,
    whole: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Place {
    Header,
    Host,
    Path,
}

impl Index {
    /// An index of rules for the requests that `matches` tell, in order.
    pub(super) fn new<'a>(matches: impl Iterator<Item = &'a Match>) -> Self {
        let rules: Vec<_> = matches.map(ways).collect();
        let mut entries = BTreeMap::<&Key, Vec<(usize, usize)>>::new();
        for (rule, ways) in rules.iter().enumerate() {
            for (way, keys) in ways.iter().enumerate() {
                for key in keys {
                    let sharing = entries.entry(key).or_default();
                    if sharing.last() != Some(&(rule, way)) {
                        sharing.push((rule, way));
                    }
                }
            }
        }
        let sharing = |key: &Key| entries.get(key).map_or(0, Vec::len);
        // A thousand rules may have a path in common and differ by their hosts.
        let best = |ways: &Vec<Vec<Key>>| {
            let ways = ways.iter().map(|keys| keys.iter().map(sharing).max());
            ways.enumerate().min_by_key(|(_, sharing)| *sharing).map(|(way, _)| way)
        };
        let best: Vec<_> = rules.iter().map(best).collect();
        let mut index = Self::default();
        for (key, sharing) in entries {
            let affixes = match key.place {
                Place::Header => &mut index.headers,
                Place::Host => &mut index.hosts,
                Place::Path => &mut index.paths,
            };
            for (rule, way) in sharing {
                if best.get(rule) == Some(&Some(way)) {
                    affixes.add(&key.text, key.whole, rule);
                }
            }
        }
        let rest = best.iter().enumerate().filter(|(_, way)| way.is_none());
        index.others = rest.map(|(rule, _)| rule).collect();
        index
    }

    /// The first rule in the order of the configuration that `fits`, which is asked only of rules
    /// that a request with these `facts` may fit.
    pub(super) fn first(&self, facts: &Facts<'_>, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut lists = BinaryHeap::new();
        push(&mut lists, &self.others);
        if !self.paths.is_empty()
            && let Some(path) = facts.path()
        {
            self.paths.find(path, &mut lists);
        }
        if !self.hosts.is_empty()
            && let Some(host) = facts.host()
        {
            self.hosts.find(&turned(host), &mut lists);
        }
        if !self.headers.is_empty() {
            facts.headers().iter().for_each(|(name, _)| self.headers.find(name, &mut lists));
        }
        let mut asked = None;
        while let Some(Reverse(list)) = lists.pop() {
            let Some((&rule, rest)) = list.split_first() else { continue };
            if asked.replace(rule) != Some(rule) && fits(rule) {
                return Some(rule);
            }
            push(&mut lists, rest);
        }
        None
    }
}

/// Lists of rules, each in order; the one whose next rule is the first of all is on top.
type Lists<'a> = BinaryHeap<Reverse<&'a [usize]>>;

fn push<'a>(lists: &mut Lists<'a>, list: &'a [usize]) {
    if !list.is_empty() {
        lists.push(Reverse(list));
    }
}

/// The ways to find `matches`: each a list of facts of which one must be given.
fn ways(matches: &Match) -> Vec<Vec<Key>> {
    let path = matches.path.as_ref().and_then(|matcher| matcher.anchors(End::Head));
    let path = path.map(|anchors| anchors.iter().map(|a| path_key(a.text, a.whole)).collect());
    let host = matches.host.as_ref().and_then(|matcher| matcher.anchors(End::Tail));
    let host = host.map(|anchors| anchors.iter().map(host_key).collect());
    let required = matches.headers.iter().filter(|(_, matcher)| !matcher.matches(None));
    let headers = required.map(|(name, _)| vec![header_key(name)]);
    let grpc = matches.grpc.as_ref();
    let ways = [path, grpc.and_then(grpc_keys), host].into_iter().flatten();
    ways.chain(headers).chain(grpc.map(|_| vec![header_key("content-type")])).collect()
}

fn path_key(text: impl Into<Vec<u8>>, whole: bool) -> Key {
    Key { place: Place::Path, text: text.into(), whole }
}

fn host_key(anchor: &Anchor<'_>) -> Key {
    Key { place: Place::Host, text: turned(anchor.text), whole: anchor.whole }
}

fn header_key(name: &str) -> Key {
    Key { place: Place::Header, text: name.into(), whole: true }
}

/// What the path `/{service}/{method}` begins with or is.
fn grpc_keys(grpc: &GrpcMatch) -> Option<Vec<Key>> {
    let services = grpc.service.as_ref()?.anchors(End::Head)?;
    let methods = grpc.method.as_ref().and_then(|matcher| matcher.anchors(End::Head));
    Some(match (services.as_slice(), methods) {
        // Of several services and methods there would be too many pairs.
        ([Anchor { text, whole: true }], Some(methods)) => {
            let path = |method| [b"/", *text, b"/", method].concat();
            methods.iter().map(|method| path_key(path(method.text), method.whole)).collect()
        }
        _ => {
            let end = |whole| if whole { &b"/"[..] } else { b"" };
            let path = |service: &Anchor<'_>| [b"/", service.text, end(service.whole)].concat();
            services.iter().map(|service| path_key(path(service), false)).collect()
        }
    })
}

fn turned(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

/// Rules by the text that a value is or begins with, in the order of the texts.
#[derive(Clone, Debug, Default)]
struct Affixes(Vec<Affix>);

#[derive(Clone, Debug)]
struct Affix {
    text: Vec<u8>,
    /// Rules for this text alone.
    whole: Vec<usize>,
    /// Rules for all that begins with it.
    open: Vec<usize>,
    /// The next shorter text with which this one begins and for which there are open rules.
    within: Option<usize>,
}

impl Affixes {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a rule; texts come in order, and the rules of each.
    fn add(&mut self, text: &[u8], whole: bool, rule: usize) {
        if self.0.last().is_none_or(|last| last.text != text) {
            let mut within = self.0.len().checked_sub(1);
            while let Some(affix) = within.and_then(|at| self.0.get(at)) {
                if !affix.open.is_empty() && text.starts_with(&affix.text) {
                    break;
                }
                within = affix.within;
            }
            let text = text.to_vec();
            self.0.push(Affix { text, whole: Vec::new(), open: Vec::new(), within });
        }
        if let Some(last) = self.0.last_mut() {
            let rules = if whole { &mut last.whole } else { &mut last.open };
            rules.push(rule);
        }
    }

    /// Adds the lists of rules for `value`.
    ///
    /// A text with which `value` begins stands before `value`, and whatever stands between the
    /// two begins with it too. So all of them are found from the last one before `value`.
    fn find<'a>(&'a self, value: &[u8], lists: &mut Lists<'a>) {
        let before = self.0.partition_point(|affix| affix.text.as_slice() <= value);
        let mut next = before.checked_sub(1).and_then(|at| self.0.get(at));
        let Some(nearest) = next else { return };
        if nearest.text == value {
            push(lists, &nearest.whole);
        }
        let common = nearest.text.iter().zip(value).take_while(|(ours, its)| ours == its).count();
        while let Some(affix) = next {
            if affix.text.len() <= common {
                push(lists, &affix.open);
            }
            next = affix.within.and_then(|at| self.0.get(at));
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use core::cell::RefCell;

    use rand::rngs::SmallRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::config::{Config, Direction};
    use crate::matching::Side;
    use crate::model::{Exchange, Headers};

    struct Routes;

    impl Exchange for Routes {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            (path == ["xds", "route_name"]).then(|| b"default".to_vec())
        }
    }

    fn matches(rules: &[impl AsRef<str>]) -> Vec<Match> {
        let rules: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(number, rule)| format!(r#"{{"name": "r{number}", "match": {}}}"#, rule.as_ref()))
            .collect();
        let json = format!(r#"{{"sampling": {{"rules": [{}]}}}}"#, rules.join(","));
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap();
        config.sampling.rules.into_iter().map(|rule| rule.matches).collect()
    }

    /// The first rule that fits, and those that were asked.
    fn found(index: &Index, matches: &[Match], facts: &Facts<'_>) -> (Option<usize>, Vec<usize>) {
        let asked = RefCell::new(Vec::new());
        let rule = index.first(facts, |rule| {
            asked.borrow_mut().push(rule);
            facts.fit(matches.get(rule).unwrap())
        });
        (rule, asked.take())
    }

    const SIDE: Side = Side::Always(Direction::Inbound);

    /// The headers of a request, the rule that is found, the rules that are asked.
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<usize>, &'a [usize]);

    #[track_caller]
    fn check(rules: &[&str], cases: &[Case<'_>]) {
        let matches = matches(rules);
        let index = Index::new(matches.iter());
        for (headers, rule, asked) in cases {
            let headers: Headers = headers.iter().copied().collect();
            let facts = Facts::new(&headers, &Routes, SIDE);
            assert_eq!(found(&index, &matches, &facts), (*rule, asked.to_vec()), "{headers:?}");
        }
    }

    #[test]
    fn only_rules_that_may_fit_are_asked() {
        check(
            &[
                r#"{"path": "/a"}"#,
                r#"{"path": {"prefix": "/a/b/"}}"#,
                r#"{"path": {"prefix": "/a"}, "method": "POST"}"#,
                r#"{"path": ["/a/b/c", {"glob": "/z*/y"}]}"#,
                r#"{"path": {"prefix": "/a/b/"}}"#,
                r#"{"path": {"prefix": "/"}}"#,
            ],
            &[
                (&[(":path", "/a?q")], Some(0), &[0]),
                (&[(":path", "/a/b/c")], Some(1), &[1]),
                (&[(":path", "/a/b")], Some(5), &[2, 5]),
                (&[(":path", "/a/b"), (":method", "POST")], Some(2), &[2]),
                (&[(":path", "/zz/y")], Some(3), &[3]),
                (&[(":path", "/zz/")], Some(5), &[3, 5]),
                (&[(":path", "/b")], Some(5), &[5]),
                (&[(":path", "*")], None, &[]),
                (&[], None, &[]),
            ],
        );
        check(
            &[
                r#"{"host": {"glob": "*.a.test"}}"#,
                r#"{"host": ["a.test", {"suffix": "b.test"}]}"#,
                r#"{"host": {"glob": "**"}}"#,
                r#"{"host": {"glob": "*.test"}}"#,
            ],
            &[
                (&[(":authority", "X.a.test:80")], Some(0), &[0]),
                (&[(":authority", "a.test")], Some(1), &[1]),
                (&[(":authority", "xb.test")], Some(1), &[1]),
                (&[(":authority", "c.test")], Some(2), &[2]),
                (&[], None, &[2]),
            ],
        );
    }

    #[test]
    fn absent_headers_cost_nothing() {
        check(
            &[
                r#"{"headers": {"x-a": {"present": true}}}"#,
                r#"{"headers": {"x-b": "1", "x-none": {"present": false}}}"#,
                r#"{"headers": {"x-none": [{"present": false}, "x"]}, "method": "PUT"}"#,
                r#"{"grpc": {}}"#,
            ],
            &[
                (&[], None, &[2]),
                (&[("x-b", "2")], None, &[1, 2]),
                (&[("x-b", "1"), ("x-b", "1")], None, &[1, 2]),
                (&[("x-b", "1"), ("x-a", "")], Some(0), &[0]),
                (&[("content-type", "application/grpc")], Some(3), &[2, 3]),
            ],
        );
    }

    #[test]
    fn grpc_is_found_by_its_path() {
        let grpc = ("content-type", "application/grpc");
        check(
            &[
                r#"{"grpc": {"service": "a.A", "method": ["X", {"prefix": "Get"}]}}"#,
                r#"{"grpc": {"service": ["a.A", {"prefix": "b."}], "method": "Y"}}"#,
                r#"{"grpc": {"service": "a.A"}}"#,
            ],
            &[
                (&[grpc, (":path", "/a.A/X")], Some(0), &[0]),
                (&[grpc, (":path", "/a.A/GetIt")], Some(0), &[0]),
                (&[grpc, (":path", "/b.C/Y")], Some(1), &[1]),
                (&[grpc, (":path", "/b.C/X")], None, &[1]),
                (&[grpc, (":path", "/a.A/Z")], Some(2), &[1, 2]),
                (&[(":path", "/a.A/X")], None, &[0, 1, 2]),
                (&[grpc, (":path", "/a.AB/X")], None, &[]),
            ],
        );
    }

    #[test]
    fn a_rule_stands_where_the_fewest_others_are() {
        let rules: Vec<_> = (0..100)
            .map(|number| match number % 2 {
                0 => format!(r#"{{"path": "/healthz", "host": "h{number}"}}"#),
                _ => {
                    format!(r#"{{"path": {{"prefix": "/p{number}/"}}, "host": {{"suffix": "t"}}}}"#)
                }
            })
            .collect();
        let matches = matches(&rules);
        let index = Index::new(matches.iter());
        for (path, host, rule) in [("/healthz", "h98", Some(98)), ("/p7/x", "test", Some(7))] {
            let headers: Headers = [(":path", path), (":authority", host)].into_iter().collect();
            let facts = Facts::new(&headers, &Routes, SIDE);
            assert_eq!(found(&index, &matches, &facts), (rule, Vec::from_iter(rule)), "{path}");
        }
    }

    const PIECES: [&str; 6] = ["a", "b", "ab", "/", ".", "a/b"];

    fn text(rng: &mut SmallRng) -> String {
        (0..rng.random_range(1..4)).filter_map(|_| PIECES.choose(rng)).copied().collect()
    }

    /// A matcher of a field; `head` is with what all its exact texts and prefixes begin.
    fn matcher(rng: &mut SmallRng, head: &str) -> String {
        let text = text(rng);
        match rng.random_range(0..11) {
            0..3 => format!(r#""{head}{text}""#),
            3..5 => format!(r#"{{"prefix": "{head}{text}"}}"#),
            5 => format!(r#"{{"suffix": "{text}"}}"#),
            6 => format!(r#"{{"glob": "{text}*{text}"}}"#),
            7 => format!(r#"{{"glob": "*{text}a"}}"#),
            8 => format!(r#"{{"regex": "{head}{text}.*"}}"#),
            9 => format!(r#"{{"present": {}}}"#, rng.random_bool(0.5)),
            _ => format!(r#"{{"contains": "{text}"}}"#),
        }
    }

    fn field(rng: &mut SmallRng, head: &str) -> String {
        if rng.random_bool(0.3) {
            let matchers: Vec<_> =
                (0..rng.random_range(1..4)).map(|_| matcher(rng, head)).collect();
            return format!("[{}]", matchers.join(","));
        }
        matcher(rng, head)
    }

    fn rule(rng: &mut SmallRng, depth: u32) -> String {
        let mut fields = Vec::new();
        let mut add = |name: &str, value: String| fields.push(format!(r#""{name}": {value}"#));
        if rng.random_bool(0.5) {
            add("path", field(rng, "/"));
        }
        if rng.random_bool(0.3) {
            add("host", field(rng, "h"));
        }
        if rng.random_bool(0.1) {
            add("method", r#"["GET", "PUT"]"#.to_owned());
        }
        if rng.random_bool(0.2) {
            add("headers", format!(r#"{{"x-a": {}, "x-b": {}}}"#, field(rng, ""), field(rng, "")));
        }
        if rng.random_bool(0.2) {
            add(
                "grpc",
                format!(r#"{{"service": {}, "method": {}}}"#, field(rng, "a"), field(rng, "b")),
            );
        }
        if rng.random_bool(0.1) {
            add("route", field(rng, "d"));
        }
        if depth < 2 && rng.random_bool(0.1) {
            let not = rule(rng, depth.saturating_add(1));
            if not != "{}" {
                add("not", not);
            }
        }
        format!("{{{}}}", fields.join(","))
    }

    fn request(rng: &mut SmallRng) -> Headers {
        let mut pairs = Vec::new();
        let mut add = |name: &'static str, chance: f64, value: String, rng: &mut SmallRng| {
            if rng.random_bool(chance) {
                pairs.push((name, value));
            }
        };
        let (path, service, host) = (text(rng), text(rng), text(rng));
        add(
            ":path",
            0.9,
            if rng.random_bool(0.3) { format!("/a{service}/b{path}") } else { format!("/{path}") },
            rng,
        );
        add(":authority", 0.9, format!("h{host}"), rng);
        add(":method", 0.9, "GET".to_owned(), rng);
        add("content-type", 0.5, "application/grpc".to_owned(), rng);
        for name in ["x-a", "x-b", "x-a"] {
            let value = text(rng);
            add(name, 0.4, value, rng);
        }
        pairs.into_iter().collect()
    }

    /// Whatever the rules and the requests are, the index finds what asking all in order does.
    #[test]
    fn the_index_finds_what_asking_all_in_order_finds() {
        let mut rng = SmallRng::seed_from_u64(5);
        let (mut matched, mut spared) = (0_u32, 0_usize);
        for _ in 0..400 {
            let rules: Vec<_> = (0..rng.random_range(0..40))
                .map(|_| rule(&mut rng, 0))
                .filter(|rule| rule != "{}")
                .collect();
            let matches = matches(&rules);
            let index = Index::new(matches.iter());
            for _ in 0..25 {
                let headers = request(&mut rng);
                let facts = Facts::new(&headers, &Routes, SIDE);
                let expected = matches.iter().position(|matches| facts.fit(matches));
                let (rule, asked) = found(&index, &matches, &facts);
                assert_eq!(rule, expected, "{rules:#?} {headers:?}");
                assert!(asked.is_sorted(), "{asked:?}");
                matched = matched.saturating_add(u32::from(rule.is_some()));
                let linear = expected.map_or(matches.len(), |rule| rule.saturating_add(1));
                spared = spared.saturating_add(linear.saturating_sub(asked.len()));
            }
        }
        // Both outcomes are common, and the index is one.
        assert!((1_000..9_000).contains(&matched), "{matched}");
        assert!(spared > 10_000, "{spared}");
    }
}
