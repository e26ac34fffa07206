//! From JSON to what requests are compared with.

use core::net::IpAddr;

use crate::config::error::{Problem, nearest, quoted};
use crate::config::fields;
use crate::config::json::Json;
use crate::config::node::{Faults, Node, Object};
use crate::config::program::{Case, RegexError};
use crate::config::text::is_header_name;
use crate::config::{
    Direction, Expression, GrpcMatch, Match, Network, SourceMatcher, StringMatcher,
};

pub(super) fn matches(object: &Object<'_>, faults: &mut Faults) -> Match {
    let mut field =
        |name, subject| object.get(name).and_then(|node| matcher(&node, subject, faults));
    Match {
        host: field("host", Subject::Host),
        path: field("path", Subject::Path),
        method: field("method", Subject::Other),
        route: field("route", Subject::Other),
        cluster: field("cluster", Subject::Other),
        source: object.get("source").map(|node| source(&node, faults)),
        headers: object
            .get("headers")
            .map(|node| header_matchers(&node, faults))
            .unwrap_or_default(),
        direction: object
            .get("direction")
            .and_then(|node| node.word(Direction::NAMES, faults))
            .and_then(Direction::from_name),
        grpc: object.object("grpc", fields::GRPC, faults).map(|object| grpc(&object, faults)),
        not: object.get("not").and_then(|node| not(&node, faults)),
        cel: object.get("cel").and_then(|node| expression(&node, faults)),
    }
}

fn expression(node: &Node<'_>, faults: &mut Faults) -> Option<Expression> {
    let text = node.text(&fields::CEL, faults)?;
    faults.expressions = faults.expressions.saturating_add(1);
    if faults.expressions > fields::MAX_EXPRESSIONS {
        let allowed = "are at most 64 expressions in the whole configuration";
        node.wrong_value(quoted(text), allowed, faults);
        return None;
    }
    Some(Expression { text: text.to_owned(), path: node.path.clone(), token: None })
}

fn grpc(object: &Object<'_>, faults: &mut Faults) -> GrpcMatch {
    let mut field = |name| object.get(name).and_then(|node| matcher(&node, Subject::Other, faults));
    GrpcMatch { service: field("service"), method: field("method") }
}

fn not(node: &Node<'_>, faults: &mut Faults) -> Option<Box<Match>> {
    let object = node.object(fields::MATCH, faults)?;
    if object.len() == 0 {
        let allowed = "is a match that compares something: without, no request is left";
        node.wrong_value("an empty match".to_owned(), allowed, faults);
        return None;
    }
    Some(Box::new(matches(&object, faults)))
}

fn header_matchers(node: &Node<'_>, faults: &mut Faults) -> Vec<(String, StringMatcher)> {
    const ALLOWED: &str = "is a map of at most 64 header names to matchers";
    let Some(map) = node.map(ALLOWED, faults) else { return Vec::new() };
    if map.len() > fields::MAX_HEADERS {
        node.wrong_value(format!("a map of {}", map.len()), ALLOWED, faults);
        return Vec::new();
    }
    let mut matchers = Vec::with_capacity(map.len());
    for (name, node) in map.iter() {
        if !is_header_name(name) || name == "host" {
            let allowed = "are header names in lower case; the host, the path and the method \
                have fields of their own";
            node.wrong_value(quoted(name), allowed, faults);
        } else if let Some(matcher) = matcher(&node, Subject::Other, faults) {
            matchers.push((name.to_owned(), matcher));
        }
    }
    matchers
}

/// What a matcher is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Subject {
    Host,
    Other,
    Path,
    Source,
}

impl Subject {
    const fn forms(self) -> &'static [&'static str] {
        if matches!(self, Self::Source) { fields::SOURCE_FORMS } else { fields::FORMS }
    }
}

fn matcher(node: &Node<'_>, subject: Subject, faults: &mut Faults) -> Option<StringMatcher> {
    let items = alternatives(node, faults);
    any_of(items.iter().filter_map(|item| one_matcher(item, subject, faults)).collect())
}

fn source(node: &Node<'_>, faults: &mut Faults) -> SourceMatcher {
    let (mut texts, mut networks) = (Vec::new(), Vec::new());
    for item in alternatives(node, faults) {
        match network(item.json) {
            Some(network) => networks.push(network),
            None => texts.extend(one_matcher(&item, Subject::Source, faults)),
        }
    }
    SourceMatcher { text: any_of(texts), networks }
}

/// The network that `json` stands for: `cidr`, or an exact address, which has many spellings.
fn network(json: &Json) -> Option<Network> {
    let exact = |text: &str| text.parse().ok().map(Network::of);
    match json {
        Json::String(text) => exact(text),
        Json::Object(pairs) => match pairs.as_slice() {
            [(form, Json::String(text))] if form == "exact" => exact(text),
            [(form, Json::String(text))] if form == "cidr" => Network::parse(text),
            _ => None,
        },
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => None,
    }
}

/// The items of a list, or the one that stands for itself.
fn alternatives<'a>(node: &Node<'a>, faults: &mut Faults) -> Vec<Node<'a>> {
    match node.json {
        Json::Array(items) if !items.is_empty() => {
            node.items(fields::MAX_ANY_OF, "matchers", faults)
        }
        _ => vec![node.clone()],
    }
}

/// One matcher of all; none of none.
fn any_of(mut matchers: Vec<StringMatcher>) -> Option<StringMatcher> {
    if matchers.len() > 1 { Some(StringMatcher::any_of(matchers)) } else { matchers.pop() }
}

fn one_matcher(node: &Node<'_>, subject: Subject, faults: &mut Faults) -> Option<StringMatcher> {
    let forms = subject.forms();
    let allowed = || format!("is a string, a list, or an object with one of {}", forms.join(", "));
    match node.json {
        Json::String(_) => literal("exact", node, subject, faults),
        Json::Object(_) => {
            let map = node.map(&allowed(), faults)?;
            let mut fields = map.iter();
            let (Some((form, value)), None) = (fields.next(), fields.next()) else {
                node.wrong_value(format!("an object of {}", map.len()), &allowed(), faults);
                return None;
            };
            match (form, value.json) {
                ("present", Json::Bool(present)) => Some(StringMatcher::present(*present)),
                ("present", _) => {
                    value.wrong_type("is true or false", faults);
                    None
                }
                (form, _) if forms.contains(&form) => literal(form, &value, subject, faults),
                _ => {
                    let nearest = nearest(form, forms.iter().copied());
                    let allowed = forms.join(", ");
                    faults.add(value.path, Problem::UnknownField { nearest, allowed });
                    None
                }
            }
        }
        Json::Array(_) => {
            let allowed = "is a list of at least one string or form, not of lists";
            node.wrong_value("this list".to_owned(), allowed, faults);
            None
        }
        Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type(&allowed(), faults);
            None
        }
    }
}

fn literal(
    form: &str,
    node: &Node<'_>,
    subject: Subject,
    faults: &mut Faults,
) -> Option<StringMatcher> {
    const FROM_ROOT: &str = "is a path from /";
    if form == "exact" && *node.json == Json::String(String::new()) && subject != Subject::Source {
        if subject == Subject::Path {
            node.wrong_value(quoted(""), FROM_ROOT, faults);
            return None;
        }
        // The one empty text that means something: a header without a value.
        return Some(StringMatcher::exact("", Case::Exact));
    }
    let text = node.text(&fields::PATTERN, faults)?;
    if subject == Subject::Source
        && let Some(allowed) = no_source(form, text)
    {
        node.wrong_value(quoted(text), allowed, faults);
        return None;
    }
    if form != "regex" && form != "glob" {
        if subject == Subject::Path && text.contains('?') {
            let allowed = "is a path without a query, which is not compared";
            node.wrong_value(quoted(text), allowed, faults);
            return None;
        }
        // `*` is the path of `OPTIONS *`.
        if subject == Subject::Path
            && matches!(form, "exact" | "prefix")
            && !text.starts_with(['/', '*'])
        {
            node.wrong_value(quoted(text), FROM_ROOT, faults);
            return None;
        }
        if subject == Subject::Host && form == "exact" && has_port(text) {
            let allowed = "is a host without its port, which is not compared";
            node.wrong_value(quoted(text), allowed, faults);
            return None;
        }
    }
    let case = if subject == Subject::Host { Case::Lower } else { Case::Exact };
    let compile = || match form {
        "contains" => StringMatcher::contains(text, case),
        "exact" => Ok(StringMatcher::exact(text, case)),
        "glob" => StringMatcher::glob(text, case),
        "prefix" => Ok(StringMatcher::prefix(text, case)),
        "suffix" => Ok(StringMatcher::suffix(text, case)),
        _ => StringMatcher::regex(text, case),
    };
    compiled(node, text, faults, compile, StringMatcher::bytes)
}

/// What would be right, if a `text` of this form is nothing that a source can be: a rule that
/// never matches would leave a stranger to the next one.
fn no_source(form: &str, text: &str) -> Option<&'static str> {
    let network = text.split_once('/').is_some_and(|(ip, _)| ip.parse::<IpAddr>().is_ok());
    let unlike = network || text.starts_with('[');
    let never = match form {
        "cidr" => return Some(fields::CIDR_ALLOWED),
        "regex" => false,
        "glob" => unlike,
        "exact" => unlike || text.contains('*') || !(is_uri(text) || text.starts_with(['/', '@'])),
        _ => unlike || text.contains('*'),
    };
    never.then_some(
        "is a URI, or an address without port and brackets; for a network there is \
            {\"cidr\": \"10.0.0.0/8\"}, for a pattern {\"glob\": \"spiffe://cluster.local/**\"}",
    )
}

/// Whether `text` begins with a scheme (RFC 3986, section 3.1), and is no part of an IPv6 address
/// and no host with a port.
fn is_uri(text: &str) -> bool {
    let part = text.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b));
    !part
        && text.split_once(':').is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
                && !rest.bytes().all(|b| b.is_ascii_digit())
        })
}

/// What `compile` makes of the `text` at `node`, within what all patterns may take together.
pub(super) fn compiled<T>(
    node: &Node<'_>,
    text: &str,
    faults: &mut Faults,
    compile: impl FnOnce() -> Result<T, RegexError>,
    bytes: impl FnOnce(&T) -> usize,
) -> Option<T> {
    if faults.compiled > fields::MAX_COMPILED {
        // Said already, and every further pattern would take its time.
        return None;
    }
    let result = compile();
    let bytes = result.as_ref().map_or_else(RegexError::bytes, bytes);
    faults.compiled = faults.compiled.saturating_add(bytes);
    if faults.compiled > fields::MAX_COMPILED {
        let allowed = "are patterns that together compile to at most 32 MiB";
        node.wrong_value(quoted(text), allowed, faults);
        return None;
    }
    result
        .map_err(|error| {
            faults.add(&*node.path, Problem::Regex { reason: error.to_string() });
        })
        .ok()
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
}
