//! From JSON to what spans look like.

use std::collections::BTreeMap;

use super::push_once;
use crate::config::error::quoted;
use crate::config::fields;
use crate::config::node::{Faults, Node, Object};
use crate::config::{Segment, Spans, Template};

pub(super) fn read(object: &Object<'_>, faults: &mut Faults) -> Spans {
    Spans {
        routes: object.get("routes").map(|node| routes(&node, faults)).unwrap_or_default(),
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
