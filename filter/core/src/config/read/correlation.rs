//! From JSON to how calls are joined.

use super::push_once;
use crate::config::node::{Faults, Node, Object};
use crate::config::{Correlation, fields};

pub(super) fn read(object: &Object<'_>, faults: &mut Faults) -> Correlation {
    let default = || fields::KEY_HEADERS.iter().map(|&name| name.to_owned()).collect();
    let headers = object.get("headers").map(|node| headers(&node, faults));
    Correlation {
        headers: headers.unwrap_or_else(default),
        linger: object.period("linger", &fields::LINGER, faults),
        capacity: object.integer("capacity", &fields::CAPACITY, faults),
    }
}

fn headers(node: &Node<'_>, faults: &mut Faults) -> Vec<String> {
    let mut headers = Vec::new();
    for item in node.items(fields::MAX_KEY_HEADERS, "header names", faults) {
        let Some(name) = item.text(&fields::KEY_HEADER, faults) else { continue };
        push_once(&mut headers, name.to_owned(), item, name, faults);
    }
    headers
}
