//! From JSON to a [`Config`].

mod correlation;
mod export;
mod matching;
mod propagation;
mod sampling;
mod spans;

use super::error::{ConfigError, Problem, quoted};
use super::fields::{self, Field};
use super::json::Json;
use super::node::{Faults, Node, Object};
use super::{Config, Mode, Scalar, Service};

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
    let keys = part("correlation", fields::CORRELATION);
    let samples = part("sampling", fields::SAMPLING);
    let shapes = part("spans", fields::SPANS);
    let exports = object.object("export", fields::EXPORT, faults);
    let spans = spans::read(&shapes, env, faults);
    let config = Config {
        mode: object
            .get("mode")
            .and_then(|node| node.word(Mode::NAMES, faults))
            .and_then(Mode::from_name)
            .unwrap_or_default(),
        service: service(&services, faults),
        propagation: propagation::read(&formats, &spans.unsafe_names, faults),
        correlation: correlation::read(&keys, faults),
        sampling: sampling::read(&samples, env, faults),
        spans,
        export: exports.and_then(|object| export::read(&object, env, faults)),
    };
    if object.get("export").is_none() {
        nothing_to_tell(&formats, samples.get("keep").is_some(), faults);
    }
    if config.mode == Mode::Upstream {
        decided_before(object, &formats, &shapes, faults);
    }
    config
}

/// Refuses to tell of traces where none begins.
fn nothing_to_tell(formats: &Object<'_>, keeps: bool, faults: &mut Faults) {
    if keeps {
        let reason = "without it no span begins that sampling.keep could keep";
        faults.add("$.export", Problem::Missing { reason });
    }
    for (name, reason) in [
        ("response", "without it no trace begins of which propagation.response could tell"),
        ("access_log", "without it no trace begins of which propagation.access_log could tell"),
    ] {
        let node = formats.get(name);
        if node.is_some_and(|node| matches!(node.json, Json::Array(items) if !items.is_empty())) {
            faults.add("$.export", Problem::Missing { reason });
        }
    }
}

/// Refuses what the filter before the router decides for all tries of a request.
fn decided_before(all: &Object<'_>, formats: &Object<'_>, spans: &Object<'_>, faults: &mut Faults) {
    for (object, names) in [
        (formats, &["trust", "egress", "response", "access_log", "baggage"][..]),
        (all, &["correlation", "sampling"]),
        (spans, &["open_after"]),
    ] {
        for node in names.iter().filter_map(|name| object.get(name)) {
            let allowed = "is what a try decides itself: formats, and what its span says";
            node.wrong_value("this beside mode upstream".to_owned(), allowed, faults);
        }
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
    let mut attributes: Vec<(String, _)> = Vec::with_capacity(map.len());
    for (name, node) in map.iter() {
        if fields::OWN_ATTRIBUTES.contains(&name) {
            let allowed = "are names without a field of their own in $.service";
            node.wrong_value(quoted(name), allowed, faults);
        } else if name.is_empty() || name.chars().count() > fields::LABEL.max {
            node.wrong_value(quoted(name), "are names of 1 to 1024 characters", faults);
        } else if let Some(value) = scalar(&node, faults) {
            let at = attributes.partition_point(|(other, _)| other.as_str() <= name);
            attributes.insert(at, (name.to_owned(), value));
        }
    }
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
                    .or_else(|| Scalar::whole(double))
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

/// A list of words, each at most once.
fn choices<T: PartialEq>(
    node: &Node<'_>,
    words: &[&str],
    from_name: impl Fn(&str) -> Option<T>,
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

/// A list of names, each at most once, of which `check` may refuse more.
fn names(
    node: &Node<'_>,
    (form, what): (&fields::Text, &str),
    check: impl Fn(&str, &Node<'_>, &mut Faults),
    faults: &mut Faults,
) -> Vec<String> {
    let mut names = Vec::new();
    for item in node.items(fields::MAX_KEYS, what, faults) {
        let Some(name) = item.text(form, faults) else { continue };
        check(name, &item, faults);
        push_once(&mut names, name.to_owned(), item, name, faults);
    }
    names
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
