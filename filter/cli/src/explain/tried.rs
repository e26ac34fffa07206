//! Rules as they were tried on a request, condition by condition.

use meshweft_core::config::Match;
use meshweft_core::matching::{Condition, Facts, conditions};
use serde_json::{Value, json};

/// A rule, and what became of it.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) name: String,
    pub(super) result: Fit,
    /// When it has expired or expires, as the configuration says it.
    pub(super) until: Option<String>,
    pub(super) checks: Vec<Check>,
}

/// What became of a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fit {
    /// It is for other requests.
    Differs,
    /// It is void.
    Expired,
    /// It is for this request.
    Matches,
    /// A rule before it matched.
    NotAsked,
}

/// A condition, and whether it holds.
#[derive(Debug)]
pub(super) struct Check {
    /// `None` where an expression is unknown.
    pub(super) holds: Option<bool>,
    /// The field of `match`, with dots.
    pub(super) field: String,
    /// What the configuration asks for.
    pub(super) asked: Value,
    /// What the request has.
    pub(super) seen: Vec<String>,
    /// For `not`, the conditions of which one must not hold.
    pub(super) within: Vec<Self>,
}

impl Fit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Expired => "expired",
            Self::Matches => "matches",
            Self::NotAsked => "not_asked",
        }
    }
}

/// Tells of each rule (its name, what it is for, whether it has expired) what became of it, where
/// the one at `matched` was the first to match. `written` are the rules as JSON.
pub(super) fn tried<'m>(
    rules: impl Iterator<Item = (String, &'m Match, bool)>,
    matched: Option<usize>,
    facts: &Facts<'_>,
    written: &Value,
) -> Vec<Tried> {
    let one = |(index, (name, matches, expired)): (usize, (String, &Match, bool))| {
        let written = written.get(index).unwrap_or(&Value::Null);
        let result = match matched {
            Some(matched) if index > matched => Fit::NotAsked,
            Some(matched) if index == matched => Fit::Matches,
            _ if expired => Fit::Expired,
            _ => Fit::Differs,
        };
        let until = at(written, "/until").as_str().map(str::to_owned);
        let asked = matches!(result, Fit::Matches | Fit::Differs);
        let checks = if asked { checks(matches, facts, at(written, "/match")) } else { Vec::new() };
        Tried { name, result, until, checks }
    };
    rules.enumerate().map(one).collect()
}

fn checks(matches: &Match, facts: &Facts<'_>, written: &Value) -> Vec<Check> {
    let check = |condition| {
        let (field, asked) = wording(condition, written);
        let within = match condition {
            Condition::Not(not) => checks(not, facts, asked),
            _ => Vec::new(),
        };
        let text = |value: &_| String::from_utf8_lossy(value).into_owned();
        Check {
            holds: facts.holds(condition),
            field,
            // That it is gRPC is all that this one asks for.
            asked: if matches!(condition, Condition::Grpc) { json!({}) } else { asked.clone() },
            seen: facts.seen(condition).iter().map(|value| text(&**value)).collect(),
            within,
        }
    };
    conditions(matches).map(check).collect()
}

/// The name of a condition, and where the configuration has it.
fn wording<'w>(condition: Condition<'_>, written: &'w Value) -> (String, &'w Value) {
    let none = &Value::Null;
    let field = match condition {
        Condition::Cel(_) => "cel",
        Condition::Cluster(_) => "cluster",
        Condition::Direction(_) => "direction",
        Condition::Grpc => "grpc",
        Condition::GrpcMethod(_) => {
            return ("grpc.method".to_owned(), at(written, "/grpc/method"));
        }
        Condition::GrpcService(_) => {
            return ("grpc.service".to_owned(), at(written, "/grpc/service"));
        }
        Condition::Header(name, _) => {
            let asked = at(written, "/headers").get(name).unwrap_or(none);
            return (format!("headers.{name}"), asked);
        }
        Condition::Host(_) => "host",
        Condition::Method(_) => "method",
        Condition::Not(_) => "not",
        Condition::Path(_) => "path",
        Condition::Route(_) => "route",
        Condition::Source(_) => "source",
    };
    (field.to_owned(), written.get(field).unwrap_or(none))
}

/// What stands in `json` under a JSON pointer (RFC 6901); null if nothing does.
pub(super) fn at<'v>(json: &'v Value, pointer: &str) -> &'v Value {
    json.pointer(pointer).unwrap_or(&Value::Null)
}
