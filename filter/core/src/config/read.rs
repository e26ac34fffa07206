//! From JSON to a [`Config`].

use super::error::{ConfigError, Problem, quoted, step};
use super::fields::{self, Field};
use super::json::Json;
use super::matcher::{Case, RegexError};
use super::node::{Faults, Node, Object};
use super::text::{header_value, is_header_name};
use super::{
    AccessLogField, Adaptive, Baggage, Batch, Config, Direction, Export, GrpcMatch, KeepBaggage,
    Match, Mode, ParentPolicy, Propagation, Queue, Rate, ResponseHeader, Retry, Rule, Sampling,
    Scalar, Service, Spans, StringMatcher, Trust, TrustRule,
};

use crate::model::Format;

type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads `text`; the errors are never empty.
pub(super) fn config(text: &[u8], env: Env<'_>) -> Result<Config, Vec<ConfigError>> {
    let json = Json::parse(text).map_err(|error| vec![error])?;
    let mut faults = Faults::default();
    let root = Node { path: "$".to_owned(), json: &json };
    let config =
        root.object(fields::CONFIG, &mut faults).map(|object| whole(&object, env, &mut faults));
    let errors = faults.into_errors();
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors),
    }
}

fn whole(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Config {
    // A part that is absent reads like an empty one: defaults stand in one place.
    let mut part = |name, fields: &[Field]| object.object(name, fields, faults).unwrap_or_default();
    let services = part("service", fields::SERVICES);
    let formats = part("propagation", fields::PROPAGATION);
    let samples = part("sampling", fields::SAMPLING);
    let spans = part("spans", fields::SPANS);
    let exports = object.object("export", fields::EXPORT, faults);
    Config {
        mode: object
            .get("mode")
            .and_then(|node| node.word(Mode::NAMES, faults))
            .and_then(Mode::from_name)
            .unwrap_or_default(),
        service: service(&services, faults),
        propagation: propagation(&formats, faults),
        sampling: sampling(&samples, faults),
        spans: Spans {
            max_value_length: spans.integer("max_value_length", &fields::VALUE_LENGTH, faults),
        },
        export: exports.and_then(|object| export(&object, env, faults)),
    }
}

fn service(object: &Object<'_>, faults: &mut Faults) -> Service {
    Service {
        name: object.text("name", &fields::LABEL, faults),
        namespace: object.text("namespace", &fields::LABEL, faults),
        version: object.text("version", &fields::LABEL, faults),
        environment: object.text("environment", &fields::LABEL, faults),
        attributes: object
            .get("attributes")
            .map(|node| attributes(&node, faults))
            .unwrap_or_default(),
    }
}

fn attributes(node: &Node<'_>, faults: &mut Faults) -> Vec<(String, Scalar)> {
    const ALLOWED: &str = "is a map of at most 128 names to strings, numbers, booleans";
    let Some(map) = node.map(ALLOWED, faults) else { return Vec::new() };
    if map.len() > fields::MAX_ATTRIBUTES {
        node.wrong_value(format!("a map of {}", map.len()), ALLOWED, faults);
        return Vec::new();
    }
    let mut attributes = Vec::with_capacity(map.len());
    for (name, node) in map.iter() {
        if fields::OWN_ATTRIBUTES.contains(&name) {
            let allowed = "are names without a field of their own in $.service";
            node.wrong_value(quoted(name), allowed, faults);
        } else if name.is_empty() || name.chars().count() > fields::LABEL.max {
            node.wrong_value(quoted(name), "are names of 1 to 1024 characters", faults);
        } else if let Some(value) = scalar(&node, faults) {
            attributes.push((name.to_owned(), value));
        }
    }
    attributes.sort_by(|(a, _), (b, _)| a.cmp(b));
    attributes
}

fn scalar(node: &Node<'_>, faults: &mut Faults) -> Option<Scalar> {
    match node.json {
        Json::Bool(value) => Some(Scalar::Bool(*value)),
        // A `WasmPlugin` makes a double of every number: only its value can tell them apart.
        Json::Number(number) => {
            let double = number.as_f64()?;
            Some(
                number
                    .as_i64()
                    .or_else(|| whole_number(double))
                    .map_or(Scalar::Double(double), Scalar::Int),
            )
        }
        Json::String(_) => node.text(&fields::LABEL, faults).map(|s| Scalar::String(s.to_owned())),
        Json::Array(_) | Json::Null | Json::Object(_) => {
            node.wrong_type("is a string, a number or a boolean", faults);
            None
        }
    }
}

/// `double` as an integer, if it is one that a double can count to.
fn whole_number(double: f64) -> Option<i64> {
    const COUNTABLE: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within ±2^53")]
    (double.fract() == 0.0 && double.abs() <= COUNTABLE).then_some(double as i64)
}

fn propagation(object: &Object<'_>, faults: &mut Faults) -> Propagation {
    let mut formats = |name| {
        let node = object.get(name)?;
        Some(choices(&node, Format::NAMES, Format::from_name, "formats", faults))
    };
    let extract = formats("extract")
        .unwrap_or_else(|| vec![Format::TraceContext, Format::B3, Format::B3Multi]);
    let inject = formats("inject").unwrap_or_else(|| vec![Format::TraceContext]);
    let trust = object.get("trust").map(|node| trust(&node, faults)).unwrap_or_default();
    let egress = object.object("egress", fields::EGRESS, faults).unwrap_or_default();
    let strip = egress.get("strip").and_then(|node| hosts(&node, faults));
    let response = object.get("response").map(|node| response(&node, faults)).unwrap_or_default();
    let access_log = object.get("access_log").map(|node| {
        choices(&node, AccessLogField::NAMES, AccessLogField::from_name, "fields", faults)
    });
    let access_log = access_log.unwrap_or_else(|| vec![AccessLogField::TraceId]);
    let baggage = object.get("baggage").map(|node| baggage(&node, faults)).unwrap_or_default();
    Propagation { extract, inject, trust, strip, response, access_log, baggage }
}

/// A list of words, each at most once.
fn choices<T: PartialEq>(
    node: &Node<'_>,
    words: &[&str],
    from_name: fn(&str) -> Option<T>,
    what: &str,
    faults: &mut Faults,
) -> Vec<T> {
    let mut choices = Vec::new();
    for item in node.items(words.len(), what, faults) {
        let Some(word) = item.word(words, faults) else { continue };
        let Some(choice) = from_name(word) else { continue };
        push_once(&mut choices, choice, item, word, faults);
    }
    choices
}

/// Adds `value`, which stands at `node` as `text`, to a list that has nothing twice.
fn push_once<T: PartialEq>(
    values: &mut Vec<T>,
    value: T,
    node: Node<'_>,
    text: &str,
    faults: &mut Faults,
) {
    if values.contains(&value) {
        faults.add(node.path, Problem::DuplicateValue { value: quoted(text) });
    } else {
        values.push(value);
    }
}

fn trust(node: &Node<'_>, faults: &mut Faults) -> Vec<TrustRule> {
    match node.json {
        Json::String(_) => match node.word(Trust::NAMES, faults).and_then(Trust::from_name) {
            // What holds without any rule.
            None | Some(Trust::Continue) => Vec::new(),
            Some(trust) => vec![TrustRule { matches: Match::default(), trust }],
        },
        Json::Array(items) => {
            let last = items.len().saturating_sub(1);
            let items = node.items(fields::MAX_RULES, "items {match, trust}", faults);
            let items = items.iter().enumerate();
            items.filter_map(|(index, item)| trust_rule(item, index == last, faults)).collect()
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) => {
            let allowed = format!("are {}, or a list of {{match, trust}}", Trust::NAMES.join(", "));
            node.wrong_type(&allowed, faults);
            Vec::new()
        }
    }
}

fn trust_rule(node: &Node<'_>, last: bool, faults: &mut Faults) -> Option<TrustRule> {
    let object = node.object(fields::TRUST_RULE, faults)?;
    let fields = object.get("match");
    let all = fields.as_ref().is_none_or(|node| *node.json == Json::Object(Vec::new()));
    if all && !last {
        let reason = "an item that compares nothing is for every request and must be the last";
        faults.add(step(&object.path, "match"), Problem::Missing { reason });
    }
    let matches = fields
        .and_then(|node| node.object(fields::MATCH, faults))
        .map(|object| matches(&object, faults))
        .unwrap_or_default();
    let Some(trust) = object.get("trust") else {
        let reason = "what the context is worth: continue, restart or link";
        faults.add(step(&object.path, "trust"), Problem::Missing { reason });
        return None;
    };
    let trust = trust.word(Trust::NAMES, faults).and_then(Trust::from_name)?;
    Some(TrustRule { matches, trust })
}

/// Patterns of hosts, if there are any.
fn hosts(node: &Node<'_>, faults: &mut Faults) -> Option<StringMatcher> {
    let mut globs = Vec::new();
    for item in node.items(fields::MAX_ANY_OF, "hosts", faults) {
        let Some(text) = item.text(&fields::HOST_GLOB, faults) else { continue };
        globs.extend(compiled(&item, text, faults, || StringMatcher::glob(text, Case::Lower)));
    }
    (!globs.is_empty()).then(|| StringMatcher::any_of(globs))
}

fn response(node: &Node<'_>, faults: &mut Faults) -> Vec<ResponseHeader> {
    let mut headers = Vec::new();
    for item in node.items(fields::MAX_RESPONSE, "response headers", faults) {
        let Some((header, name)) = response_header(&item, faults) else { continue };
        push_once(&mut headers, header, item, name, faults);
    }
    headers
}

/// One response header with its name.
fn response_header<'a>(node: &Node<'a>, faults: &mut Faults) -> Option<(ResponseHeader, &'a str)> {
    match node.json {
        Json::String(_) => {
            let word = node.word(fields::RESPONSE_WORDS, faults)?;
            let header = match word {
                "server-timing" => ResponseHeader::ServerTiming,
                _ => ResponseHeader::TraceResponse,
            };
            Some((header, word))
        }
        Json::Object(_) => {
            let object = node.object(fields::RESPONSE, faults)?;
            let Some(node) = object.get("header") else {
                let reason = "the name of the header that tells the trace id";
                faults.add(step(&object.path, "header"), Problem::Missing { reason });
                return None;
            };
            let allowed = "is the name of a header in lower case, but not of one that has a \
                meaning in HTTP or a format of its own";
            let Json::String(name) = node.json else {
                node.wrong_type(allowed, faults);
                return None;
            };
            let taken =
                |name| fields::OWN_HEADERS.contains(name) || fields::RESPONSE_WORDS.contains(name);
            if !is_header_name(name) || taken(&name.as_str()) {
                node.wrong_value(quoted(name), allowed, faults);
                return None;
            }
            Some((ResponseHeader::Id(name.clone()), name))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            let allowed = format!("are {}, {{header: name}}", fields::RESPONSE_WORDS.join(", "));
            node.wrong_type(&allowed, faults);
            None
        }
    }
}

fn baggage(node: &Node<'_>, faults: &mut Faults) -> Baggage {
    match node.json {
        Json::String(_) => match node.word(fields::BAGGAGE_WORDS, faults) {
            Some("drop") => Baggage { keep: KeepBaggage::Only(Vec::new()), attributes: Vec::new() },
            _ => Baggage::default(),
        },
        Json::Object(_) => {
            let object = node.object(fields::BAGGAGE, faults).unwrap_or_default();
            let mut keys = |name| object.get(name).map(|node| keys(&node, faults));
            Baggage {
                keep: keys("allow").map_or(KeepBaggage::All, KeepBaggage::Only),
                attributes: keys("attributes").unwrap_or_default(),
            }
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            let allowed =
                format!("are {}, {{allow, attributes}}", fields::BAGGAGE_WORDS.join(", "));
            node.wrong_type(&allowed, faults);
            Baggage::default()
        }
    }
}

fn keys(node: &Node<'_>, faults: &mut Faults) -> Vec<String> {
    let mut keys = Vec::new();
    for item in node.items(fields::MAX_KEYS, "keys", faults) {
        let Some(key) = item.text(&fields::KEY, faults) else { continue };
        push_once(&mut keys, key.to_owned(), item, key, faults);
    }
    keys
}

fn sampling(object: &Object<'_>, faults: &mut Faults) -> Sampling {
    Sampling {
        parent: parent(object, faults).unwrap_or_default(),
        rate: object.get("rate").and_then(|node| node.rate(faults)).unwrap_or(Rate::ALL),
        limit_per_second: object.get("limit_per_second").and_then(|node| node.above_zero(faults)),
        adaptive: adaptive(object, faults),
        rules: object.get("rules").map(|node| rules(&node, faults)).unwrap_or_default(),
    }
}

fn parent(object: &Object<'_>, faults: &mut Faults) -> Option<ParentPolicy> {
    let word = object.get("parent")?.word(ParentPolicy::NAMES, faults)?;
    ParentPolicy::from_name(word)
}

fn adaptive(object: &Object<'_>, faults: &mut Faults) -> Option<Adaptive> {
    let object = object.object("adaptive", fields::ADAPTIVE, faults)?;
    let mut number = |name| object.get(name).map(|node| node.above_zero(faults));
    let target = number("target_per_second");
    let floor_per_minute = number("floor_per_minute").flatten();
    if target.is_none() {
        let reason = "what the rate shall aim at";
        faults.add(step(&object.path, "target_per_second"), Problem::Missing { reason });
    }
    Some(Adaptive { target_per_second: target.flatten()?, floor_per_minute })
}

fn rules(node: &Node<'_>, faults: &mut Faults) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for item in node.items(fields::MAX_RULES, "rules", faults) {
        let Some(object) = item.object(fields::RULE, faults) else { continue };
        let Some(rule) = rule(&object, faults) else { continue };
        // Prometheus names have no `-`: `a-b` and `a_b` would be one counter there.
        let letter = |b| if b == b'-' { b'_' } else { b };
        let same = |a: &str, b: &str| a.bytes().map(letter).eq(b.bytes().map(letter));
        let name = quoted(&rule.name);
        if rules.iter().any(|other| other.name == rule.name) {
            faults.add(step(&item.path, "name"), Problem::DuplicateValue { value: name });
        } else if rules.iter().any(|other| same(&other.name, &rule.name)) {
            faults.add(step(&item.path, "name"), Problem::SameCounter { name });
        }
        rules.push(rule);
    }
    rules
}

fn rule(object: &Object<'_>, faults: &mut Faults) -> Option<Rule> {
    let matches = object
        .object("match", fields::MATCH, faults)
        .map(|object| matches(&object, faults))
        .unwrap_or_default();
    let rate = object.get("rate").and_then(|node| node.rate(faults));
    let limit_per_second = object.get("limit_per_second").and_then(|node| node.above_zero(faults));
    let parent = parent(object, faults);
    let until = object.get("until").and_then(|node| node.time(faults));
    let Some(name) = object.get("name") else {
        let reason = "a rule needs a name of its own";
        faults.add(step(&object.path, "name"), Problem::Missing { reason });
        return None;
    };
    let name = name.text(&fields::RULE_NAME, faults)?.to_owned();
    Some(Rule { name, matches, rate, limit_per_second, parent, until })
}

fn matches(object: &Object<'_>, faults: &mut Faults) -> Match {
    let mut field =
        |name, subject| object.get(name).and_then(|node| matcher(&node, subject, faults));
    Match {
        host: field("host", Subject::Host),
        path: field("path", Subject::Path),
        method: field("method", Subject::Other),
        route: field("route", Subject::Other),
        cluster: field("cluster", Subject::Other),
        source: field("source", Subject::Other),
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
    }
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
}

fn matcher(node: &Node<'_>, subject: Subject, faults: &mut Faults) -> Option<StringMatcher> {
    match node.json {
        Json::Array(items) if !items.is_empty() => {
            let items = node.items(fields::MAX_ANY_OF, "matchers", faults);
            let matchers: Vec<_> =
                items.iter().filter_map(|item| one_matcher(item, subject, faults)).collect();
            Some(StringMatcher::any_of(matchers))
        }
        _ => one_matcher(node, subject, faults),
    }
}

fn one_matcher(node: &Node<'_>, subject: Subject, faults: &mut Faults) -> Option<StringMatcher> {
    match node.json {
        Json::String(_) => literal("exact", node, subject, faults),
        Json::Object(_) => {
            let map = node.map(fields::MATCHER_ALLOWED, faults)?;
            let mut fields = map.iter();
            let (Some((form, value)), None) = (fields.next(), fields.next()) else {
                let found = format!("an object of {}", map.len());
                node.wrong_value(found, fields::MATCHER_ALLOWED, faults);
                return None;
            };
            match (form, value.json) {
                ("present", Json::Bool(present)) => Some(StringMatcher::present(*present)),
                ("present", _) => {
                    value.wrong_type("is true or false", faults);
                    None
                }
                (form, _) if fields::FORMS.contains(&form) => {
                    literal(form, &value, subject, faults)
                }
                _ => {
                    let forms = || fields::FORMS.iter().copied().chain(["present"]);
                    let allowed = forms().collect::<Vec<_>>().join(", ");
                    let nearest = super::error::nearest(form, forms());
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
            node.wrong_type(fields::MATCHER_ALLOWED, faults);
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
    if form == "exact" && *node.json == Json::String(String::new()) {
        if subject == Subject::Path {
            node.wrong_value(quoted(""), FROM_ROOT, faults);
            return None;
        }
        // The one empty text that means something: a header without a value.
        return Some(StringMatcher::exact("", Case::Exact));
    }
    let text = node.text(&fields::PATTERN, faults)?;
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
    compiled(node, text, faults, || match form {
        "contains" => StringMatcher::contains(text, case),
        "exact" => Ok(StringMatcher::exact(text, case)),
        "glob" => StringMatcher::glob(text, case),
        "prefix" => Ok(StringMatcher::prefix(text, case)),
        "suffix" => Ok(StringMatcher::suffix(text, case)),
        _ => StringMatcher::regex(text, case),
    })
}

/// What `compile` makes of the `text` at `node`, within what all patterns may take together.
fn compiled(
    node: &Node<'_>,
    text: &str,
    faults: &mut Faults,
    compile: impl FnOnce() -> Result<StringMatcher, RegexError>,
) -> Option<StringMatcher> {
    if faults.compiled > fields::MAX_COMPILED {
        // Said already, and every further pattern would take its time.
        return None;
    }
    let result = compile();
    faults.compiled = faults.compiled.saturating_add(StringMatcher::compiled(&result));
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

fn export(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Option<Export> {
    let protocol = object.get("protocol");
    protocol.and_then(|node| node.word(&[fields::OTLP_HTTP], faults));
    let path = object.text("path", &fields::PATH, faults).unwrap_or_default();
    let authority = object.text("authority", &fields::AUTHORITY, faults);
    let headers = object.get("headers").map(|node| headers(&node, env, faults)).unwrap_or_default();
    let timeout = object.period("timeout", &fields::TIMEOUT, faults);
    let batch = batch(&object.object("batch", fields::BATCH, faults).unwrap_or_default(), faults);
    let queue = queue(&object.object("queue", fields::QUEUE, faults).unwrap_or_default(), faults);
    let retry = retry(&object.object("retry", fields::RETRY, faults).unwrap_or_default(), faults);
    cross_checks(&batch, &queue, &retry, faults);
    let Some(node) = object.get("cluster") else {
        let reason = "export needs the cluster that spans go to";
        faults.add(step(&object.path, "cluster"), Problem::Missing { reason });
        return None;
    };
    let (cluster, derived) = cluster(&node, faults)?;
    let Some(authority) = authority.or(derived) else {
        if object.get("authority").is_none() {
            let reason = "the name of the cluster cannot stand for the authority of a request";
            faults.add(step(&object.path, "authority"), Problem::Missing { reason });
        }
        return None;
    };
    Some(Export { cluster, path, authority, headers, timeout, batch, queue, retry })
}

/// The cluster's name, and the authority that follows from it.
fn cluster(node: &Node<'_>, faults: &mut Faults) -> Option<(String, Option<String>)> {
    match node.json {
        Json::String(_) => {
            let name = node.text(&fields::CLUSTER, faults)?;
            if name.contains("://") {
                let allowed = "is the name of an Envoy cluster, not an address";
                node.wrong_value(quoted(name), allowed, faults);
                return None;
            }
            let authority = match name.split('|').collect::<Vec<_>>().as_slice() {
                // Istio: direction, port, subset, host.
                [_, port, _, host] => format!("{host}:{port}"),
                _ => name.to_owned(),
            };
            let valid = authority.chars().count() <= fields::AUTHORITY.max
                && (fields::AUTHORITY.valid)(&authority);
            Some((name.to_owned(), valid.then_some(authority)))
        }
        Json::Object(_) => {
            let object = node.object(fields::TARGET, faults)?;
            let mut need = |name, reason| {
                let value = object.get(name);
                if value.is_none() {
                    faults.add(step(&object.path, name), Problem::Missing { reason });
                }
                value
            };
            let service = need("service", "the host of the collector");
            let port = need("port", "the port of the collector");
            let service = service.and_then(|node| node.text(&fields::SERVICE, faults));
            let port = port.and_then(|node| node.integer(&fields::PORT, faults));
            let (service, port) = (service?, port?);
            Some((format!("outbound|{port}||{service}"), Some(format!("{service}:{port}"))))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type("is the name of a cluster, or {service, port}", faults);
            None
        }
    }
}

fn headers(node: &Node<'_>, env: Env<'_>, faults: &mut Faults) -> Vec<(String, String)> {
    const ALLOWED: &str = "is a map of at most 64 header names to strings";
    let Some(map) = node.map(ALLOWED, faults) else { return Vec::new() };
    if map.len() > fields::MAX_HEADERS {
        node.wrong_value(format!("a map of {}", map.len()), ALLOWED, faults);
        return Vec::new();
    }
    let mut headers = Vec::with_capacity(map.len());
    for (name, node) in map.iter() {
        if !is_header_name(name) || fields::OWN_HEADERS.contains(&name) {
            let allowed = "are header names in lower case, but not those that the export itself \
                or the connection sets";
            node.wrong_value(quoted(name), allowed, faults);
            continue;
        }
        let Json::String(value) = node.json else {
            node.wrong_type("is a string", faults);
            continue;
        };
        match header_value(value, env) {
            Ok(value) => headers.push((name.to_owned(), value)),
            Err(problem) => faults.add(node.path, problem),
        }
    }
    headers
}

fn batch(object: &Object<'_>, faults: &mut Faults) -> Batch {
    Batch {
        max_spans: object.integer("max_spans", &fields::BATCH_SPANS, faults),
        max_bytes: object.integer("max_bytes", &fields::BATCH_BYTES, faults),
        interval: object.period("interval", &fields::INTERVAL, faults),
    }
}

fn queue(object: &Object<'_>, faults: &mut Faults) -> Queue {
    Queue {
        max_spans: object.integer("max_spans", &fields::QUEUE_SPANS, faults),
        max_bytes: object.integer("max_bytes", &fields::QUEUE_BYTES, faults),
    }
}

fn retry(object: &Object<'_>, faults: &mut Faults) -> Retry {
    Retry {
        initial: object.period("initial", &fields::RETRY_INITIAL, faults),
        max: object.period("max", &fields::RETRY_MAX, faults),
        max_elapsed: object.period("max_elapsed", &fields::RETRY_ELAPSED, faults),
    }
}

/// Fields that bound one another, defaults included.
fn cross_checks(batch: &Batch, queue: &Queue, retry: &Retry, faults: &mut Faults) {
    let mut at_most = |path: &str, value: String, bound, limit: String, holds: bool| {
        if !holds {
            faults.add(path, Problem::Conflict { value, bound, limit });
        }
    };
    at_most(
        "$.export.batch.max_spans",
        batch.max_spans.to_string(),
        "$.export.queue.max_spans",
        queue.max_spans.to_string(),
        batch.max_spans <= queue.max_spans,
    );
    at_most(
        "$.export.batch.max_bytes",
        batch.max_bytes.to_string(),
        "$.export.queue.max_bytes",
        queue.max_bytes.to_string(),
        batch.max_bytes <= queue.max_bytes,
    );
    at_most(
        "$.export.retry.initial",
        format!("{:?}", retry.initial),
        "$.export.retry.max",
        format!("{:?}", retry.max),
        retry.initial <= retry.max,
    );
}
