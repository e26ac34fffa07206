//! From JSON to how calls are joined.

use super::matching::matches;
use super::push_once;
use crate::config::error::{Problem, step};
use crate::config::node::{Faults, Node, Object};
use crate::config::{CallRule, Correlation, Infer, fields};

pub(super) fn read(object: &Object<'_>, faults: &mut Faults) -> Correlation {
    let default = || fields::KEY_HEADERS.iter().map(|&name| name.to_owned()).collect();
    let headers = object.get("headers").map(|node| headers(&node, faults));
    Correlation {
        headers: headers.unwrap_or_else(default),
        linger: object.period("linger", &fields::LINGER, faults),
        capacity: object.integer("capacity", &fields::CAPACITY, faults),
        infer: object
            .get("infer")
            .and_then(|node| node.word(Infer::NAMES, faults))
            .and_then(Infer::from_name)
            .unwrap_or_default(),
        confidence: object
            .get("confidence")
            .and_then(|node| node.confidence(faults))
            .unwrap_or(fields::CONFIDENCE),
        calls: object.get("calls").map(|node| calls(&node, faults)).unwrap_or_default(),
    }
}

fn calls(node: &Node<'_>, faults: &mut Faults) -> Vec<CallRule> {
    let items = node.items(fields::MAX_CALL_RULES, "items {from, to}", faults);
    items.iter().filter_map(|item| call_rule(item, faults)).collect()
}

fn call_rule(node: &Node<'_>, faults: &mut Faults) -> Option<CallRule> {
    let object = node.object(fields::CALL_RULE, faults)?;
    let mut side = |name: &'static str, reason| {
        let Some(side) = object.get(name) else {
            faults.add(step(&object.path, name), Problem::Missing { reason });
            return None;
        };
        let side = side.object(fields::MATCH, faults)?;
        Some(matches(&side, faults))
    };
    let from = side("from", "which requests come in");
    let to = side("to", "which calls they make");
    Some(CallRule { from: from?, to: to? })
}

fn headers(node: &Node<'_>, faults: &mut Faults) -> Vec<String> {
    let mut headers = Vec::new();
    for item in node.items(fields::MAX_KEY_HEADERS, "header names", faults) {
        let Some(name) = item.text(&fields::KEY_HEADER, faults) else { continue };
        push_once(&mut headers, name.to_owned(), item, name, faults);
    }
    headers
}
