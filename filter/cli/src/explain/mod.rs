//! `explain`: what becomes of a request, and why.
//!
//! The decision and the headers are those of the filter's own code, run on one request. What
//! stood behind them is asked of the same rules once more, condition by condition.

mod attempt;
mod end;
mod joins;
mod json;
mod options;
mod text;
mod tried;

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use meshweft_core::config::{Config, Direction, Mode, ParentPolicy, Rate, Rule, Trust};
use meshweft_core::matching::Facts;
use meshweft_core::model::{
    Exchange, Format, HeaderEdit, Headers, Local, SpanId, TraceId, UnixNanos,
};
use meshweft_core::plugin::Plugin;
use meshweft_core::propagation::{
    self, Incoming, Malformed, ParentDecision, RemoteContext, Standing,
};
use meshweft_core::sampling::{Origin, OtMember, Randomness, Reason, Threshold, Verdict};
use meshweft_core::stream::{Stream, TRACE_ID_STATE};
use serde_json::Value;

use crate::input::read_config;
use crate::request::{Draws, Request};
use crate::usage;
use end::End;
use joins::Joins;
use options::Options;
use tried::{Tried, at, tried};

/// Says what becomes of the request that the arguments tell.
pub(crate) fn explain(
    arguments: &[OsString],
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(why) => {
            return usage("explain", &why, err);
        }
    };
    let (config, written) = match read_config(&options.config, err)? {
        Ok(both) => both,
        Err(code) => return Ok(code),
    };
    let mut options = options;
    if let Err(why) = options.evaluate(&config) {
        return usage("explain", &why, err);
    }
    let written = serde_json::from_slice(&written).unwrap_or_default();
    let explanation = match config.mode {
        Mode::Upstream => Explanation::of_attempt(config, &options),
        _ => Explanation::new(config, &written, &options),
    };
    if options.json {
        writeln!(out, "{:#}", json::value(&explanation))?;
    } else {
        text::write(&explanation, out)?;
    }
    Ok(0)
}

/// What becomes of a request, and why.
#[derive(Debug)]
struct Explanation<'a> {
    request: &'a Request,
    place: Place,
    /// What each format says that is looked for.
    formats: Vec<(Format, Result<Incoming, Malformed>)>,
    /// The one of them that is taken, for what `trust` says.
    taken: Option<Format>,
    trust: Trust,
    /// The rules of trust; empty where there was nothing to trust.
    trust_rules: Vec<Tried>,
    /// Whether the host is one to which no context goes.
    stripped: bool,
    /// By what its calls or it can be joined; `None` where nothing is.
    joins: Option<Joins>,
    course: Course,
    /// The sampling rules; empty where nothing was decided.
    rules: Vec<Tried>,
    /// The headers of the request, as they came and as they go on.
    headers: Vec<(Change, String, String)>,
    response: Vec<HeaderEdit>,
    /// What its end makes of it, if that was told.
    end: Option<End>,
    filter_state: Vec<(&'static str, String)>,
    warning: Option<&'static str>,
}

/// Where the filter sees the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Before the router, on this side of a workload.
    Listener(Direction),
    /// Behind it: each try at an upstream.
    Upstream,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Listener(direction) => direction.name(),
            Self::Upstream => "upstream",
        }
    }
}

/// What became of the request.
#[derive(Debug)]
enum Course {
    /// Another instance was there first.
    LeftAlone,
    /// There is no `export`.
    PassedThrough,
    /// It is a try at an upstream without a recorded parent.
    Unparented,
    Decided(Box<Decided>),
}

/// A decision with all that it came of.
#[derive(Debug)]
struct Decided {
    sampled: bool,
    reason: String,
    /// The name of the first rule that matched.
    rule: Option<String>,
    /// What counts of the parent's decision.
    parent: Option<ParentDecision>,
    policy: ParentPolicy,
    /// `None` where the parent decided.
    rate: Option<RateOf>,
    /// What goes on as `th`.
    threshold: Option<Threshold>,
    randomness: Randomness,
    /// Traces per second, of the rule and over all; empty where the parent decided.
    limits: Vec<(Option<String>, f64)>,
    trace_id: TraceId,
    /// Whether the trace came in.
    continued: bool,
    span_id: SpanId,
}

/// The rate that was asked.
#[derive(Debug)]
struct RateOf {
    rate: Rate,
    /// The rule that it is of; else the configuration.
    rule: Option<String>,
    /// The traces per second at which it aims: it is the highest one, at the start.
    adaptive: Option<f64>,
    /// The cluster of the server of remote sampling: it holds until that has answered.
    remote: Option<String>,
}

/// What becomes of a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Change {
    Added,
    Kept,
    Removed,
}

impl<'a> Explanation<'a> {
    /// Runs the filter on the request; `written` is the text of `config`.
    fn new(config: Config, written: &Value, options: &'a Options) -> Self {
        let request = &options.request;
        let now = options.now.unwrap_or_else(clock);
        let mut plugin = Plugin::new(config, None, &|_| None);
        // What it says of rules that have expired is said of each of them.
        plugin.on_start(now);
        let mut stream = Stream::default();
        let mut draws = Draws::new(options.trace_id);
        let effects =
            stream.on_request_headers(&mut plugin, request, &Local::default(), &mut draws);
        let counted = plugin.metrics.take();

        let headers = request.request_headers();
        let standing = Standing::of(&headers);
        let facts = Facts::new(&headers, request, plugin.side());
        let propagation = &plugin.config().propagation;
        let extracted = propagation::extract(&propagation.extract, &standing);
        let formats: Vec<_> = propagation::extract_each(&propagation.extract, &standing).collect();
        let asked = if standing.is_empty() { &[][..] } else { &propagation.trust };
        let trust = facts.trust(asked);
        let matched = asked.iter().position(|rule| facts.fit(&rule.matches));
        let trusting = asked.iter();
        let trusting = trusting.map(|rule| (rule.trust.name().to_owned(), &rule.matches, false));
        let trust_rules = tried(trusting, matched, &facts, at(written, "/propagation/trust"));

        let came_alone = !matches!(extracted.incoming, Incoming::Context(_));
        let joins = Joins::new(&plugin, request, came_alone, trust, &counted);
        let course = course(&stream, &plugin, request, trust, &extracted.incoming);
        let end = end::end(&stream, &plugin, request, &headers, written);
        let sampling = &plugin.config().sampling;
        let rules = stream.course().map(|(_, decision)| {
            let rules = sampling.rules.iter();
            let rules = rules.map(|rule| (rule.name.clone(), &rule.matches, rule.has_expired(now)));
            tried(rules, decision.rule, &facts, at(written, "/sampling/rules"))
        });
        Self {
            request,
            place: Place::Listener(plugin.side().of(request)),
            taken: taken(&formats),
            formats,
            trust,
            trust_rules,
            stripped: propagation.strip.as_ref().is_some_and(|hosts| facts.host_fits(hosts)),
            rules: rules.unwrap_or_default(),
            headers: changed(&headers, effects.edits),
            response: stream.on_response_headers(
                &plugin,
                request,
                &Local::default(),
                UnixNanos::default,
            ),
            end: if options.ended { end } else { None },
            filter_state: effects.filter_state,
            warning: effects.warning,
            joins: joins.filter(|_| matches!(course, Course::Decided(_))),
            course,
        }
    }
}

fn course(
    stream: &Stream,
    plugin: &Plugin,
    request: &Request,
    trust: Trust,
    incoming: &Incoming,
) -> Course {
    let Some((context, decision)) = stream.course() else {
        let first = request.property(&[TRACE_ID_STATE]).is_none_or(|id| id.is_empty());
        return if first { Course::PassedThrough } else { Course::LeftAlone };
    };
    let sampling = &plugin.config().sampling;
    let (remote, parent): (Option<&RemoteContext>, _) = match (trust, incoming) {
        (Trust::Continue, Incoming::Context(remote)) => (Some(remote), Some(remote.decision)),
        (Trust::Continue, Incoming::Decision(decision)) => (None, Some(*decision)),
        _ => (None, None),
    };
    let ot = remote.and_then(|remote| OtMember::of(&remote.state));
    let rule = decision.rule.and_then(|rule| sampling.rules.get(rule));
    let by_parent = decision.reason == Reason::Parent;
    let own = rule.and_then(|rule| Some((Some(rule.name.clone()), rule.limit_per_second?)));
    let all = sampling.limit_per_second.map(|limit| (None, limit));
    Course::Decided(Box::new(Decided {
        sampled: decision.verdict == Verdict::RecordAndSample,
        reason: decision.reason.describe(sampling).into_owned(),
        rule: rule.map(|rule| rule.name.clone()),
        parent,
        policy: rule.and_then(|rule| rule.parent).unwrap_or(sampling.parent),
        rate: (!by_parent).then(|| rate(plugin.config(), rule)),
        threshold: decision.threshold,
        randomness: Origin::new(context.trace_id, parent, ot.as_ref()).randomness,
        limits: if by_parent { Vec::new() } else { own.into_iter().chain(all).collect() },
        trace_id: context.trace_id,
        continued: remote.is_some(),
        span_id: context.span_id,
    }))
}

fn rate(config: &Config, rule: Option<&Rule>) -> RateOf {
    let sampling = &config.sampling;
    let own = rule.filter(|rule| rule.rate.is_some() || rule.adaptive.is_some());
    let (rate, adaptive, remote) = match own {
        Some(rule) => (rule.rate.unwrap_or(Rate::ALL), rule.adaptive, None),
        None => (sampling.rate, sampling.adaptive, sampling.remote.as_ref()),
    };
    RateOf {
        rate,
        rule: own.map(|rule| rule.name.clone()),
        adaptive: adaptive.map(|adaptive| adaptive.target_per_second),
        remote: remote.map(|remote| remote.cluster.clone()),
    }
}

/// The first format with a context; without any, the first with a decision.
fn taken(formats: &[(Format, Result<Incoming, Malformed>)]) -> Option<Format> {
    let first = |wanted: fn(&Incoming) -> bool| {
        formats.iter().find(|(_, found)| found.as_ref().is_ok_and(wanted))
    };
    let context = first(|found| matches!(found, Incoming::Context(_)));
    let found = context.or_else(|| first(|found| matches!(found, Incoming::Decision(_))));
    found.map(|(format, _)| *format)
}

/// `headers` and what `edits` make of them.
fn changed(headers: &Headers, edits: Vec<HeaderEdit>) -> Vec<(Change, String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| (Change::Kept, text(name), text(value))).collect();
    let remove = |lines: &mut Vec<(Change, String, String)>, name: &str| {
        lines.retain(|(change, line, _)| *change != Change::Added || line != name);
        for (change, line, _) in lines {
            if line == name {
                *change = Change::Removed;
            }
        }
    };
    for edit in edits {
        match edit {
            HeaderEdit::Add(name, value) => lines.push((Change::Added, name.into(), value)),
            HeaderEdit::Remove(name) => remove(&mut lines, &name),
            HeaderEdit::Set(name, value) => {
                remove(&mut lines, &name);
                lines.push((Change::Added, name.into(), value));
            }
        }
    }
    lines
}

#[expect(clippy::disallowed_methods, reason = "the core has no clock, the tool has")]
fn clock() -> UnixNanos {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixNanos::default().after(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_applied_in_order() {
        let headers: Headers =
            [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")].into_iter().collect();
        let edits = vec![
            HeaderEdit::Set("a".into(), "5".to_owned()),
            HeaderEdit::Set("a".into(), "6".to_owned()),
            HeaderEdit::Remove("b".into()),
            HeaderEdit::Add("c".into(), "7".to_owned()),
        ];
        let lines = changed(&headers, edits);
        let lines: Vec<_> =
            lines.iter().map(|(c, name, value)| (*c, name.as_str(), value.as_str())).collect();
        assert_eq!(
            lines,
            [
                (Change::Removed, "a", "1"),
                (Change::Removed, "a", "2"),
                (Change::Removed, "b", "3"),
                (Change::Kept, "c", "4"),
                (Change::Added, "a", "6"),
                (Change::Added, "c", "7"),
            ]
        );
    }
}
