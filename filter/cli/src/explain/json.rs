//! An explanation for programs. The keys are public and stable; the README lists them.

use meshweft_core::correlation::NoKey;
use meshweft_core::model::{Format, HeaderEdit};
use meshweft_core::propagation::{Incoming, Malformed, ParentDecision};
use serde_json::{Map, Value, json};

use super::end::{End, Fate};
use super::joins::{Action, Joins};
use super::tried::{Check, Tried};
use super::{Change, Course, Decided, Explanation};

/// The whole explanation.
pub(super) fn value(explanation: &Explanation<'_>) -> Value {
    let request = explanation.request;
    let (outcome, decided) = match &explanation.course {
        Course::LeftAlone => ("left_alone", None),
        Course::PassedThrough => ("passed_through", None),
        Course::Unparented => ("no_parent", None),
        Course::Decided(decided) if decided.sampled => ("sampled", Some(decided)),
        Course::Decided(decided) => ("not_sampled", Some(decided)),
    };
    let filter_state: Map<_, _> = explanation
        .filter_state
        .iter()
        .map(|(name, value)| (format!("wasm.{name}"), json!(value)))
        .collect();
    json!({
        "request": {
            "method": request.method,
            "path": request.path,
            "host": request.host,
            "direction": explanation.place.name(),
        },
        "context": list(&explanation.formats, |(format, found)| {
            context(*format, found, explanation.taken == Some(*format))
        }),
        "trust": {
            "value": explanation.trust.name(),
            "rules": list(&explanation.trust_rules, tried),
        },
        "correlation": explanation.joins.as_ref().map(joins),
        "rules": list(&explanation.rules, tried),
        "outcome": outcome,
        "decision": decided.map(|decided| decision(decided)),
        "stripped": explanation.stripped,
        "headers": list(&explanation.headers, |(change, name, value)| {
            json!({"change": change_name(*change), "name": name, "value": value})
        }),
        "response": list(&explanation.response, edit),
        "keep": explanation.end.as_ref().map(end),
        "filter_state": filter_state,
        "warning": explanation.warning,
    })
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    items.iter().map(value).collect()
}

fn context(format: Format, found: &Result<Incoming, Malformed>, taken: bool) -> Value {
    let format = format.name();
    match found {
        Ok(Incoming::Absent | Incoming::Invalid) => json!({"format": format, "found": "absent"}),
        Ok(Incoming::Decision(decision)) => json!({
            "format": format,
            "found": "decision",
            "decision": decision_name(*decision),
            "taken": taken,
        }),
        Ok(Incoming::Context(remote)) => json!({
            "format": format,
            "found": "context",
            "trace_id": remote.trace_id.to_string(),
            "parent_id": remote.parent_id.map(|id| id.to_string()),
            "decision": decision_name(remote.decision),
            "taken": taken,
        }),
        Err(why) => json!({"format": format, "found": "invalid", "why": why.to_string()}),
    }
}

/// What a parent decided, in a word.
const fn decision_name(decision: ParentDecision) -> &'static str {
    match decision {
        ParentDecision::Debug => "debug",
        ParentDecision::Deferred => "deferred",
        ParentDecision::Drop => "drop",
        ParentDecision::Sample => "sample",
    }
}

const fn change_name(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Kept => "kept",
        Change::Removed => "removed",
    }
}

fn joins(joins: &Joins) -> Value {
    let (action, why) = match joins.action {
        Action::Remembered => ("remembered", None),
        Action::LookedUp => ("looked_up", None),
        Action::Nothing(why) => ("none", Some(why.name())),
    };
    json!({
        "action": action,
        "why": why,
        "headers": list(&joins.headers, |(name, value)| {
            json!({
                "name": name,
                "value": value.as_ref().ok(),
                "why": value.as_ref().err().map(|why| no_key(*why)),
            })
        }),
        "linger": format!("{:?}", joins.linger),
        "infer": joins.infer.name(),
    })
}

const fn no_key(why: NoKey) -> &'static str {
    match why {
        NoKey::Absent => "absent",
        NoKey::Empty => "empty",
        NoKey::Long => "too_long",
        NoKey::Several => "several",
    }
}

fn tried(rule: &Tried) -> Value {
    json!({
        "name": rule.name,
        "result": rule.result.name(),
        "until": rule.until,
        "conditions": list(&rule.checks, check),
    })
}

fn check(check: &Check) -> Value {
    json!({
        "field": check.field,
        "asked": check.asked,
        "seen": check.seen,
        "holds": check.holds,
        "within": list(&check.within, self::check),
    })
}

fn decision(decided: &Decided) -> Value {
    let rate = decided.rate.as_ref();
    json!({
        "reason": decided.reason,
        "rule": decided.rule,
        "parent": decided.parent.map(decision_name),
        "parent_policy": decided.policy.name(),
        "rate": rate.map(|of| json!({
            "value": of.rate.get(),
            "rule": of.rule,
            "adaptive_target_per_second": of.adaptive,
            "remote_cluster": of.remote,
        })),
        "threshold": decided.threshold.map(|threshold| threshold.to_string()),
        "randomness": decided.randomness.to_string(),
        "limits": list(&decided.limits, |(rule, limit)| {
            json!({"rule": rule, "limit_per_second": limit})
        }),
        "trace_id": decided.trace_id.to_string(),
        "continued": decided.continued,
        "span_id": decided.span_id.to_string(),
    })
}

fn end(end: &End) -> Value {
    let reason = match end.fate {
        Fate::Kept(reason) => Some(reason.name()),
        Fate::NotConfigured | Fate::NotKept | Fate::Sampled | Fate::SwitchedOff => None,
    };
    json!({
        "result": end.fate.name(),
        "reason": reason,
        "conditions": list(&end.checks, check),
    })
}

fn edit(edit: &HeaderEdit) -> Value {
    match edit {
        HeaderEdit::Add(name, value) => json!({"edit": "add", "name": name, "value": value}),
        HeaderEdit::Remove(name) => json!({"edit": "remove", "name": name, "value": null}),
        HeaderEdit::Set(name, value) => json!({"edit": "set", "name": name, "value": value}),
    }
}
