//! From JSON to what spans look like.

use std::collections::BTreeMap;

use super::matching::compiled;
use super::{Env, choices, names, push_once, scalar};
use crate::config::error::{Problem, quoted, step};
use crate::config::fields;
use crate::config::json::Json;
use crate::config::node::{Faults, Node, Object};
use crate::config::spans::{METADATA, may_record};
use crate::config::{
    AttributeSource, AttributeType, Fact, Pattern, Query, Redaction, Scalar, Segment,
    SpanAttribute, Spans, Template,
};

/// What is wrong with the name of a credential.
pub(super) const NO_CREDENTIAL: &str =
    "are names that carry no credentials, and those of $.spans.unsafe_names";

pub(super) fn read(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Spans {
    let unsafe_names = object
        .get("unsafe_names")
        .map(|node| names(&node, (&fields::UNSAFE_NAME, "names"), |_, _, _| {}, faults));
    let unsafe_names = unsafe_names.unwrap_or_default();
    let attributes = object.get("attributes").map(|node| {
        let read = Attributes { unsafe_names: &unsafe_names, env };
        read.list(&node, faults)
    });
    let query = object.get("query").map(|node| query(&node, &unsafe_names, faults));
    Spans {
        routes: object.get("routes").map(|node| routes(&node, faults)).unwrap_or_default(),
        attributes: attributes.unwrap_or_default(),
        query: query.unwrap_or_default(),
        redact: object.get("redact").map(|node| redact(&node, faults)).unwrap_or_default(),
        unsafe_names,
        facts: object
            .get("facts")
            .map(|node| choices(&node, Fact::NAMES, Fact::from_name, "facts", faults))
            .unwrap_or_default(),
        open_after: object
            .get("open_after")
            .and_then(|node| node.period(&fields::OPEN_AFTER, faults)),
        max_value_length: object.integer("max_value_length", &fields::VALUE_LENGTH, faults),
    }
}

fn routes(node: &Node<'_>, faults: &mut Faults) -> Vec<Template> {
    let mut routes = Vec::new();
    let mut shapes = BTreeMap::new();
    for item in node.items(fields::MAX_ROUTES, "templates", faults) {
        let Some(text) = item.text(&fields::TEMPLATE, faults) else { continue };
        let Some(template) = Template::parse(text) else { continue };
        match shapes.insert(shape(&template), text) {
            Some(earlier) if earlier != text => {
                let allowed = format!(
                    "are templates that do not match the same paths as an earlier one; {} does",
                    quoted(earlier)
                );
                item.wrong_value(quoted(text), &allowed, faults);
            }
            _ => push_once(&mut routes, template, item, text, faults),
        }
    }
    routes
}

/// What two templates that match the same paths have in common: all but the names.
fn shape(template: &Template) -> String {
    let segments = template.segments().iter().map(|segment| match segment {
        Segment::Literal(text) => text.as_str(),
        Segment::Parameter => "{}",
        Segment::Rest => "{...}",
    });
    segments.collect::<Vec<_>>().join("/")
}

fn query(node: &Node<'_>, unsafe_names: &[String], faults: &mut Faults) -> Query {
    const ALLOWED: &str = "are drop, keep, {allow}";
    match node.json {
        Json::String(_) => match node.word_or(fields::QUERY_WORDS, ALLOWED, faults) {
            Some("keep") => Query::Keep,
            _ => Query::Drop,
        },
        Json::Object(_) => {
            let object = node.object(fields::QUERY, faults).unwrap_or_default();
            let Some(allow) = object.get("allow") else {
                let reason = "the names of the parameters that are recorded";
                faults.add(step(&node.path, "allow"), Problem::Missing { reason });
                return Query::Drop;
            };
            let recorded = |name: &str, node: &Node<'_>, faults: &mut Faults| {
                no_credential(name, node, unsafe_names, faults);
            };
            Query::Allow(names(&allow, (&fields::PARAMETER, "names"), recorded, faults))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type(ALLOWED, faults);
            Query::Drop
        }
    }
}

/// Refuses the name of a credential.
pub(super) fn no_credential(
    name: &str,
    node: &Node<'_>,
    unsafe_names: &[String],
    faults: &mut Faults,
) {
    if !may_record(name, unsafe_names) {
        node.wrong_value(quoted(name), NO_CREDENTIAL, faults);
    }
}

fn redact(node: &Node<'_>, faults: &mut Faults) -> Vec<Redaction> {
    let items = node.items(fields::MAX_REDACTIONS, "items {pattern, with}", faults);
    items.iter().filter_map(|item| redaction(item, faults)).collect()
}

fn redaction(node: &Node<'_>, faults: &mut Faults) -> Option<Redaction> {
    let object = node.object(fields::REDACTION, faults)?;
    let with = object.text("with", &fields::REPLACEMENT, faults).unwrap_or_default();
    let Some(node) = object.get("pattern") else {
        let reason = "the regular expression of what goes";
        faults.add(step(&object.path, "pattern"), Problem::Missing { reason });
        return None;
    };
    let pattern = pattern(&node, faults)?;
    if pattern.matches_nothing() {
        let allowed = "is a pattern that does not match an empty text";
        node.wrong_value(quoted(node.text(&fields::PATTERN, faults)?), allowed, faults);
        return None;
    }
    Some(Redaction { pattern, with })
}

fn pattern(node: &Node<'_>, faults: &mut Faults) -> Option<Pattern> {
    let text = node.text(&fields::PATTERN, faults)?;
    compiled(node, text, faults, || Pattern::new(text), Pattern::bytes)
}

/// What the attributes of the configuration are read with.
struct Attributes<'a> {
    unsafe_names: &'a [String],
    env: Env<'a>,
}

impl Attributes<'_> {
    fn list(&self, node: &Node<'_>, faults: &mut Faults) -> Vec<SpanAttribute> {
        let mut attributes: Vec<SpanAttribute> = Vec::new();
        for item in node.items(fields::MAX_SPAN_ATTRIBUTES, "attributes", faults) {
            let Some(attribute) = self.one(&item, faults) else { continue };
            if attributes.iter().any(|earlier| earlier.name == attribute.name) {
                let value = quoted(&attribute.name);
                faults.add(step(&item.path, "name"), Problem::DuplicateValue { value });
            } else {
                attributes.push(attribute);
            }
        }
        attributes
    }

    fn one(&self, node: &Node<'_>, faults: &mut Faults) -> Option<SpanAttribute> {
        let object = node.object(fields::SPAN_ATTRIBUTE, faults)?;
        let name = object.text("name", &fields::LABEL, faults);
        if object.get("name").is_none() {
            let reason = "the name of the attribute";
            faults.add(step(&node.path, "name"), Problem::Missing { reason });
        }
        let pattern = object.get("pattern").map(|node| pattern(&node, faults));
        let r#as = object
            .get("as")
            .and_then(|node| node.word(AttributeType::NAMES, faults))
            .and_then(AttributeType::from_name);
        let given: Vec<_> = fields::ATTRIBUTE_SOURCES
            .iter()
            .filter_map(|name| object.get(name).map(|node| (*name, node)))
            .collect();
        let [(source, from)] = given.as_slice() else {
            let value = match given.as_slice() {
                [] => "an attribute without a source".to_owned(),
                several => format!("an attribute with {} sources", several.len()),
            };
            let allowed = format!("is exactly one of {}", fields::ATTRIBUTE_SOURCES.join(", "));
            node.wrong_value(value, &allowed, faults);
            return None;
        };
        let source = self.source(source, from, faults)?;
        // A pattern that was refused takes the attribute with it.
        let pattern = pattern.map_or(Some(None), |pattern| pattern.map(Some))?;
        Some(SpanAttribute { name: name?, source, pattern, r#as })
    }

    /// Where a value comes from; `None` also of a variable that is not set.
    fn source(
        &self,
        source: &str,
        node: &Node<'_>,
        faults: &mut Faults,
    ) -> Option<AttributeSource> {
        let named = |name: &str, faults: &mut Faults| {
            no_credential(name, node, self.unsafe_names, faults);
        };
        match source {
            "environment" => {
                let name = node.text(&fields::VARIABLE, faults)?;
                named(name, faults);
                let value = (self.env)(name).filter(|value| !value.is_empty())?;
                Some(AttributeSource::Value(Scalar::String(value)))
            }
            "metadata" => self.metadata(node, faults),
            "property" => {
                let text = node.text(&fields::PROPERTY, faults)?;
                let steps: Vec<_> = text.split('.').map(str::to_owned).collect();
                if fields::WHOLE_PROPERTIES.contains(&text) {
                    let allowed = "are properties with one value; for headers there are \
                        request_header and response_header, for metadata there is metadata";
                    node.wrong_value(quoted(text), allowed, faults);
                }
                steps.iter().for_each(|step| named(step, faults));
                Some(AttributeSource::Property(steps))
            }
            "request_header" | "response_header" => {
                let name = node.text(&fields::HEADER_NAME, faults)?;
                named(name, faults);
                // Envoy knows the host under this name alone.
                let name = if name == "host" { ":authority" } else { name }.to_owned();
                Some(match source {
                    "request_header" => AttributeSource::RequestHeader(name),
                    _ => AttributeSource::ResponseHeader(name),
                })
            }
            _ => scalar(node, faults).map(AttributeSource::Value),
        }
    }

    fn metadata(&self, node: &Node<'_>, faults: &mut Faults) -> Option<AttributeSource> {
        let object = node.object(fields::METADATA, faults)?;
        for (name, reason) in [
            ("kind", "whose metadata it is: request, route, cluster or host"),
            ("key", "the name under which the metadata stands, such as envoy.lb"),
            ("path", "the steps to the value within the metadata"),
        ] {
            if object.get(name).is_none() {
                faults.add(step(&node.path, name), Problem::Missing { reason });
            }
        }
        let kind = object.get("kind")?.word(fields::METADATA_KINDS, faults)?;
        let (_, property) = METADATA.iter().find(|(name, _)| *name == kind)?;
        let mut steps: Vec<_> = property.iter().map(|step| (*step).to_owned()).collect();
        steps.push("filter_metadata".to_owned());
        steps.push(object.text("key", &fields::METADATA_STEP, faults)?);
        let path = object.get("path")?;
        let items = path.items(fields::MAX_STEPS, "steps", faults);
        if items.is_empty() {
            path.wrong_value("no step".to_owned(), "is a list of at least one step", faults);
        }
        for item in items {
            let text = item.text(&fields::METADATA_STEP, faults)?;
            no_credential(text, &item, self.unsafe_names, faults);
            steps.push(text.to_owned());
        }
        Some(AttributeSource::Metadata(steps))
    }
}
