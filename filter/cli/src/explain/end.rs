//! What the end of a request makes of it.

use meshweft_core::config::Keep;
use meshweft_core::model::Headers;
use meshweft_core::plugin::Plugin;
use meshweft_core::sampling::{Ending, KeepReason, Moment, Verdict, keep_reason};
use meshweft_core::stream::Stream;
use serde_json::Value;

use super::tried::{Check, at};
use crate::request::Request;

/// What the end makes of a request.
#[derive(Debug)]
pub(super) struct End {
    pub(super) fate: Fate,
    /// The conditions of `sampling.keep`, where they were asked.
    pub(super) checks: Vec<Check>,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// It is kept for this.
    Kept(KeepReason),
    /// Nothing is kept: there is no `sampling.keep`.
    NotConfigured,
    /// No condition holds.
    NotKept,
    /// It was sampled.
    Sampled,
    /// Its rule says that it is not to be kept.
    SwitchedOff,
}

impl Fate {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kept(_) => "kept",
            Self::NotConfigured => "not_configured",
            Self::NotKept => "not_kept",
            Self::Sampled => "sampled",
            Self::SwitchedOff => "switched_off",
        }
    }
}

/// What the end makes of `request`, whose properties tell of it; `None` where nothing was begun.
/// `written` is the text of the configuration.
pub(super) fn end(
    stream: &Stream,
    plugin: &Plugin,
    request: &Request,
    headers: &Headers,
    written: &Value,
) -> Option<End> {
    let (_, decision) = stream.course()?;
    let nothing = |fate| Some(End { fate, checks: Vec::new() });
    if decision.verdict == Verdict::RecordAndSample {
        return nothing(Fate::Sampled);
    }
    if plugin.config().sampling.keep.is_none() {
        return nothing(Fate::NotConfigured);
    }
    let Some(keep) = plugin.sampler.keep(decision) else { return nothing(Fate::SwitchedOff) };
    let moment = Moment::End { is_whole: false };
    let ending = Ending::new(request, plugin.side(), headers, moment);
    let fate = keep_reason(keep, &ending).map_or(Fate::NotKept, Fate::Kept);
    Some(End { fate, checks: checks(keep, &ending, at(written, "/sampling/keep")) })
}

fn checks(keep: &Keep, ending: &Ending<'_>, written: &Value) -> Vec<Check> {
    let asked = KeepReason::ALL.into_iter().filter(|reason| reason.is_asked_by(keep));
    let check = |reason: KeepReason| Check {
        holds: Some(reason.holds(keep, ending)),
        field: reason.name().to_owned(),
        asked: written.get(reason.name()).unwrap_or(&Value::Null).clone(),
        seen: seen(reason, ending),
        within: Vec::new(),
    };
    asked.map(check).collect()
}

/// What a condition was compared with.
fn seen(reason: KeepReason, ending: &Ending<'_>) -> Vec<String> {
    let code = || ending.code().map(|code| code.to_string());
    let grpc = || ending.grpc().map(|code| format!("gRPC {code}"));
    let flags = || Some(ending.flags().letters()).filter(|letters| !letters.is_empty());
    let facts = match reason {
        KeepReason::Errors => [code(), grpc(), flags()],
        KeepReason::Status => [code(), None, None],
        KeepReason::GrpcStatus => [grpc(), None, None],
        KeepReason::ResponseFlags => [flags(), None, None],
        KeepReason::SlowerThan => [ending.elapsed().map(|took| format!("{took:?}")), None, None],
    };
    facts.into_iter().flatten().collect()
}
