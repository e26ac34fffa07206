//! The head decision: what is recorded, and why.

use std::borrow::Cow;

use crate::config::Sampling;
use crate::model::{Headers, TraceId};
use crate::propagation::ParentDecision;

/// Whether a span is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Not recorded, not exported; flag 00 goes on.
    Drop,
    /// Recorded, exported; flag 01 goes on.
    RecordAndSample,
}

/// Why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// No rule matched: the default rate.
    Default,
    /// A valid parent decided.
    Parent,
    /// The rule at this index matched and its rate decided.
    Rule(usize),
}

impl Reason {
    /// The reason as an attribute and `explain` show it: `parent`, `default`, `rule:<name>`.
    #[must_use]
    pub fn describe(self, sampling: &Sampling) -> Cow<'static, str> {
        match self {
            Self::Default => "default".into(),
            Self::Parent => "parent".into(),
            Self::Rule(index) => {
                format!("rule:{}", sampling.rules.get(index).map_or("", |rule| &rule.name)).into()
            }
        }
    }
}

/// A decision with its reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether the span is recorded.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The index of the first rule that matched, whatever decided in the end.
    pub rule: Option<usize>,
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// All request headers, `:method`, `:path` and `:authority` among them.
    pub headers: &'a Headers,
}

/// Decides for a request. `parent` is `None` where no valid context and no decision came in.
#[must_use]
pub fn decide(
    sampling: &Sampling,
    request: Request<'_>,
    parent: Option<ParentDecision>,
    trace_id: TraceId,
) -> Decision {
    let _ = (sampling, request, parent, trace_id);
    todo!("sampling helper")
}
