//! From JSON to the rules of sampling.

use core::ops::RangeInclusive;

use super::export::upstream;
use super::matching::matches;
use super::{Env, choices, push_once};
use crate::config::error::{Problem, quoted, step};
use crate::config::fields;
use crate::config::json::Json;
use crate::config::node::{Faults, Node, Object};
use crate::config::text::header_value;
use crate::config::{Adaptive, Keep, ParentPolicy, Propagate, Rate, Remote, Rule, Sampling};
use crate::model::{GRPC_STATUSES, RESPONSE_FLAGS, ResponseFlags};

pub(super) fn read(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Sampling {
    Sampling {
        parent: parent(object, faults).unwrap_or_default(),
        rate: object.get("rate").and_then(|node| node.rate(faults)).unwrap_or(Rate::ALL),
        limit_per_second: object.get("limit_per_second").and_then(|node| node.above_zero(faults)),
        adaptive: adaptive(object, faults),
        remote: remote(object, faults),
        rules: object.get("rules").map(|node| rules(&node, faults)).unwrap_or_default(),
        keep: object
            .object("keep", fields::KEEP, faults)
            .map(|object| keep(&object, env, faults))
            .filter(|keep| *keep != Keep::default()),
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

fn keep(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Keep {
    let words = |name, words: &[&'static str], what, faults: &mut Faults| {
        let find = |word: &str| words.iter().position(|known| *known == word);
        object.get(name).map(|node| choices(&node, words, find, what, faults)).unwrap_or_default()
    };
    let grpc = words("grpc_status", &GRPC_STATUSES, "gRPC statuses", faults);
    let flags = words("response_flags", &RESPONSE_FLAGS, "response flags", faults);
    Keep {
        errors: object.boolean("errors", false, faults),
        status: object.get("status").map(|node| statuses(&node, faults)).unwrap_or_default(),
        grpc_status: grpc.into_iter().filter_map(|code| i64::try_from(code).ok()).collect(),
        response_flags: ResponseFlags::from_letters(
            flags.into_iter().filter_map(|flag| RESPONSE_FLAGS.get(flag).copied()),
        ),
        slower_than: object
            .get("slower_than")
            .and_then(|node| node.period(&fields::SLOWER_THAN, faults)),
        propagate: propagate(object, env, faults),
    }
}

fn propagate(object: &Object<'_>, env: Env<'_>, faults: &mut Faults) -> Option<Propagate> {
    let propagate = object.boolean("propagate", false, faults);
    let secret = object.get("secret").map(|node| secret(&node, env, faults));
    if !propagate && secret.is_some() {
        let reason = "a secret is for hops that tell one another, with true here";
        faults.add(step(&object.path, "propagate"), Problem::Missing { reason });
    }
    propagate.then(|| Propagate { secret: secret.flatten() })
}

fn secret(node: &Node<'_>, env: Env<'_>, faults: &mut Faults) -> Option<String> {
    let Json::String(text) = node.json else {
        node.wrong_type("is a string", faults);
        return None;
    };
    let secret = header_value(text, env).and_then(|secret| {
        let reason = "a secret of fewer than 16 characters";
        let allowed = "are 16 to 8192 characters of printable ASCII";
        let long = secret.len() >= fields::MIN_SECRET;
        long.then_some(secret).ok_or(Problem::Hidden { reason, allowed })
    });
    secret.map_err(|problem| faults.add(&*node.path, problem)).ok()
}

/// HTTP statuses, each a number or a class of them.
fn statuses(node: &Node<'_>, faults: &mut Faults) -> Vec<RangeInclusive<i64>> {
    let mut statuses = Vec::new();
    for item in node.items(fields::MAX_STATUSES, "statuses", faults) {
        if let Some((text, range)) = status(&item, faults) {
            push_once(&mut statuses, range, item, &text, faults);
        }
    }
    statuses
}

fn status(node: &Node<'_>, faults: &mut Faults) -> Option<(String, RangeInclusive<i64>)> {
    const ALLOWED: &str = "are 100 to 599 and \"1xx\" to \"5xx\"";
    match node.json {
        Json::Number(_) => {
            let status = node.integer(&fields::STATUS, faults)?;
            Some((status.to_string(), status.into()..=status.into()))
        }
        Json::String(text) => {
            let class = text.strip_suffix("xx").and_then(|class| match class {
                "1" => Some(100..=199),
                "2" => Some(200..=299),
                "3" => Some(300..=399),
                "4" => Some(400..=499),
                "5" => Some(500..=599),
                _ => None,
            });
            if class.is_none() {
                node.wrong_value(quoted(text), ALLOWED, faults);
            }
            Some((text.clone(), class?))
        }
        Json::Array(_) | Json::Bool(_) | Json::Null | Json::Object(_) => {
            node.wrong_type(ALLOWED, faults);
            None
        }
    }
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
    let keep = object.boolean("keep", true, faults);
    let until = object.get("until").and_then(|node| node.time(faults));
    let Some(name) = object.get("name") else {
        let reason = "a rule needs a name of its own";
        faults.add(step(&object.path, "name"), Problem::Missing { reason });
        return None;
    };
    let name = name.text(&fields::RULE_NAME, faults)?.to_owned();
    Some(Rule { name, matches, rate, adaptive, limit_per_second, parent, keep, until })
}
