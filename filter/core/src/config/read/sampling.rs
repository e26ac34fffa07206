//! From JSON to the rules of sampling.

use super::export::upstream;
use super::matching::matches;
use crate::config::error::{Problem, quoted, step};
use crate::config::fields;
use crate::config::node::{Faults, Node, Object};
use crate::config::{Adaptive, ParentPolicy, Rate, Remote, Rule, Sampling};

pub(super) fn read(object: &Object<'_>, faults: &mut Faults) -> Sampling {
    Sampling {
        parent: parent(object, faults).unwrap_or_default(),
        rate: object.get("rate").and_then(|node| node.rate(faults)).unwrap_or(Rate::ALL),
        limit_per_second: object.get("limit_per_second").and_then(|node| node.above_zero(faults)),
        adaptive: adaptive(object, faults),
        remote: remote(object, faults),
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

fn remote(object: &Object<'_>, faults: &mut Faults) -> Option<Remote> {
    let remote = object.object("remote", fields::REMOTE, faults)?;
    if let Some(adaptive) = object.get("adaptive") {
        let allowed = "is one of the two: each takes the place of sampling.rate";
        adaptive.wrong_value("this beside $.sampling.remote".to_owned(), allowed, faults);
    }
    let path = remote.text("path", &fields::REMOTE_PATH, faults).unwrap_or_default();
    let interval = remote.period("interval", &fields::POLL, faults);
    let needs = "remote needs the cluster of the server that is asked";
    let (cluster, authority) = upstream(&remote, needs, faults)?;
    Some(Remote { cluster, path, authority, interval })
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
    let adaptive = adaptive(object, faults);
    let limit_per_second = object.get("limit_per_second").and_then(|node| node.above_zero(faults));
    let parent = parent(object, faults);
    let until = object.get("until").and_then(|node| node.time(faults));
    let Some(name) = object.get("name") else {
        let reason = "a rule needs a name of its own";
        faults.add(step(&object.path, "name"), Problem::Missing { reason });
        return None;
    };
    let name = name.text(&fields::RULE_NAME, faults)?.to_owned();
    Some(Rule { name, matches, rate, adaptive, limit_per_second, parent, until })
}
