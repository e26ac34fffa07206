//! From JSON to what is done with headers.

use super::matching::{compiled, matches};
use super::spans::no_credential;
use super::{choices, names, push_once};
use crate::config::error::{Problem, quoted, step};
use crate::config::fields;
use crate::config::json::Json;
use crate::config::node::{Faults, Node, Object};
use crate::config::program::Case;
use crate::config::text::is_header_name;
use crate::config::{
    AccessLogField, Baggage, KeepBaggage, Match, Propagation, ResponseHeader, StringMatcher, Trust,
    TrustRule,
};
use crate::model::Format;

pub(super) fn read(
    object: &Object<'_>,
    unsafe_names: &[String],
    faults: &mut Faults,
) -> Propagation {
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
    let baggage = object.get("baggage").map(|node| baggage(&node, unsafe_names, faults));
    let baggage = baggage.unwrap_or_default();
    Propagation { extract, inject, trust, strip, response, access_log, baggage }
}

fn trust(node: &Node<'_>, faults: &mut Faults) -> Vec<TrustRule> {
    const ALLOWED: &str = "are continue, restart, link, or a list of {match, trust}";
    match node.json {
        Json::String(_) => {
            match node.word_or(Trust::NAMES, ALLOWED, faults).and_then(Trust::from_name) {
                // What holds without any rule.
                None | Some(Trust::Continue) => Vec::new(),
                Some(trust) => vec![TrustRule { matches: Match::default(), trust }],
            }
        }
        Json::Array(items) => {
            let last = items.len().saturating_sub(1);
            let items = node.items(fields::MAX_RULES, "items {match, trust}", faults);
            let items = items.iter().enumerate();
            items.filter_map(|(index, item)| trust_rule(item, index == last, faults)).collect()
        }
        Json::Bool(_) | Json::Null | Json::Number(_) | Json::Object(_) => {
            node.wrong_type(ALLOWED, faults);
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
        globs.extend(compiled(
            &item,
            text,
            faults,
            || StringMatcher::glob(text, Case::Lower),
            StringMatcher::bytes,
        ));
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
    const ALLOWED: &str = "are traceresponse, server-timing, {header: name}";
    match node.json {
        Json::String(_) => {
            let word = node.word_or(fields::RESPONSE_WORDS, ALLOWED, faults)?;
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
            let allowed = "is the name of a header in lower case that begins with x- or has trace \
                in it, but not of one that a trace format, Envoy or browsers know";
            let Json::String(name) = node.json else {
                node.wrong_type(allowed, faults);
                return None;
            };
            if !is_header_name(name) || !fields::may_tell_id(name) {
                node.wrong_value(quoted(name), allowed, faults);
                return None;
            }
            Some((ResponseHeader::Id(name.clone()), name))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type(ALLOWED, faults);
            None
        }
    }
}

/// What lists of keys are made of.
const KEYS: (&fields::Text, &str) = (&fields::KEY, "keys");

fn baggage(node: &Node<'_>, unsafe_names: &[String], faults: &mut Faults) -> Baggage {
    const ALLOWED: &str = "are pass, drop, {allow, attributes}";
    match node.json {
        Json::String(_) => match node.word_or(fields::BAGGAGE_WORDS, ALLOWED, faults) {
            Some("drop") => Baggage { keep: KeepBaggage::Only(Vec::new()), attributes: Vec::new() },
            _ => Baggage::default(),
        },
        Json::Object(_) => {
            let object = node.object(fields::BAGGAGE, faults).unwrap_or_default();
            let allow = object.get("allow").map(|node| names(&node, KEYS, |_, _, _| {}, faults));
            let recorded = |key: &str, node: &Node<'_>, faults: &mut Faults| {
                no_credential(key, node, unsafe_names, faults);
            };
            let attributes = object.get("attributes");
            let attributes = attributes.map(|node| names(&node, KEYS, recorded, faults));
            Baggage {
                keep: allow.map_or(KeepBaggage::All, KeepBaggage::Only),
                attributes: attributes.unwrap_or_default(),
            }
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Number(_) => {
            node.wrong_type(ALLOWED, faults);
            Baggage::default()
        }
    }
}
