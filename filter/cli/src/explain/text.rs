//! An explanation for people.

use std::io::{self, Write};

use meshweft_core::config::{Infer, ParentPolicy, Trust};
use meshweft_core::correlation::NoKey;
use meshweft_core::model::HeaderEdit;
use meshweft_core::propagation::{Incoming, ParentDecision};
use meshweft_core::sampling::Threshold;

use super::end::Fate;
use super::joins::{Action, Joins, Why};
use super::tried::{Check, Fit, Tried};
use super::{Change, Course, Decided, Explanation, Place, RateOf};

/// Writes the whole explanation.
pub(super) fn write(explanation: &Explanation<'_>, out: &mut impl Write) -> io::Result<()> {
    let request = explanation.request;
    let host = request
        .host
        .as_ref()
        .map_or_else(|| "without a host".to_owned(), |host| format!("host {host}"));
    let place = match explanation.place {
        Place::Listener(direction) => direction.name(),
        Place::Upstream => "a try at an upstream",
    };
    writeln!(out, "{} {}, {host}, {place}", request.method, request.path)?;
    context(explanation, out)?;
    trust(explanation, out)?;
    if let Some(joins) = &explanation.joins {
        writeln!(out, "\nCorrelation")?;
        self::joins(joins, out)?;
    }
    if !explanation.rules.is_empty() {
        writeln!(out, "\nRules")?;
        rules(&explanation.rules, out)?;
    }
    writeln!(out, "\nDecision")?;
    match &explanation.course {
        Course::LeftAlone => {
            writeln!(out, "  none: another instance of the filter was there first")?
        }
        Course::PassedThrough => writeln!(out, "  none: without export nothing is begun")?,
        Course::Unparented => {
            writeln!(out, "  none: a try is recorded as the child of a span that is, and only so")?
        }
        Course::Decided(decided) => decision(decided, out)?,
    }
    writeln!(out, "\nHeaders of the request")?;
    if explanation.stripped {
        writeln!(out, "  No context goes to this host (propagation.egress.strip).")?;
    }
    for (change, name, value) in &explanation.headers {
        let sign = match change {
            Change::Added => '+',
            Change::Kept => ' ',
            Change::Removed => '-',
        };
        writeln!(out, "  {sign} {name}: {value}")?;
    }
    if !explanation.response.is_empty() {
        writeln!(out, "\nHeaders of the response")?;
        for edit in &explanation.response {
            match edit {
                HeaderEdit::Add(name, value) | HeaderEdit::Set(name, value) => {
                    writeln!(out, "  + {name}: {value}")?;
                }
                HeaderEdit::Remove(name) => writeln!(out, "  - {name}")?,
            }
        }
    }
    if let Some(end) = &explanation.end {
        writeln!(out, "\nOutcome")?;
        match end.fate {
            Fate::Kept(reason) => writeln!(out, "  kept, because of {}", reason.name())?,
            Fate::NotConfigured => writeln!(out, "  not kept: there is no sampling.keep")?,
            Fate::NotKept => writeln!(out, "  not kept: no condition holds")?,
            Fate::Sampled => writeln!(out, "  recorded in any case: it was sampled")?,
            Fate::SwitchedOff => writeln!(out, "  not kept: its rule says \"keep\": false")?,
        }
        checks(&end.checks, 4, out)?;
    }
    if !explanation.filter_state.is_empty() {
        writeln!(out, "\nFilter state, for access logs")?;
        for (name, value) in &explanation.filter_state {
            writeln!(out, "  wasm.{name}: {value}")?;
        }
    }
    if let Some(warning) = explanation.warning {
        writeln!(out, "\nWarning\n  {warning}")?;
    }
    Ok(())
}

fn context(explanation: &Explanation<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nContext that came in")?;
    if explanation.formats.is_empty() {
        writeln!(out, "  none: propagation.extract is empty")?;
    }
    let width = explanation.formats.iter().map(|(format, _)| format.name().len()).max();
    let width = width.unwrap_or_default();
    for (format, found) in &explanation.formats {
        let what = match found {
            Ok(Incoming::Absent | Incoming::Invalid) => "absent".to_owned(),
            Ok(Incoming::Decision(decision)) => format!("no ids, {}", parent(*decision)),
            Ok(Incoming::Context(remote)) => {
                let span = remote.parent_id;
                let span = span.map_or_else(|| "no span".to_owned(), |id| format!("span {id}"));
                format!("trace {}, {span}, {}", remote.trace_id, parent(remote.decision))
            }
            Err(why) => format!("not valid: {why}"),
        };
        let use_of = match (explanation.trust, found) {
            _ if explanation.taken != Some(*format) => "",
            (Trust::Continue, _) => "; counts",
            (Trust::Link, Ok(Incoming::Context(_))) => "; the span links to it",
            (Trust::Link | Trust::Restart, _) => "; not trusted",
        };
        writeln!(out, "  {:width$}  {what}{use_of}", format.name())?;
    }
    Ok(())
}

fn trust(explanation: &Explanation<'_>, out: &mut impl Write) -> io::Result<()> {
    let trust = explanation.trust.name();
    if !explanation.trust_rules.is_empty() {
        writeln!(out, "\nTrust: {trust}")?;
        rules(&explanation.trust_rules, out)?;
    }
    Ok(())
}

fn joins(joins: &Joins, out: &mut impl Write) -> io::Result<()> {
    let width = joins.headers.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in &joins.headers {
        let value = match value {
            Ok(value) => format!("is a key: {value:?}"),
            Err(why) => format!("is no key: {}", no_key(*why)),
        };
        writeln!(out, "  {name:width$}  {value}")?;
    }
    let linger = joins.linger;
    let action = match joins.action {
        Action::Remembered => format!(
            "remembered until {linger:?} after its end: a call with the same and no context is its child"
        ),
        Action::LookedUp => {
            "looked up; what is known there, the proxy alone can say: below is what \
            becomes of a call of which nothing is"
                .to_owned()
        }
        Action::Nothing(Why::Context) => "not looked up: it brings a context".to_owned(),
        Action::Nothing(Why::Gateway) => "none: a listener without a direction is a gateway's \
            (--direction tells of another)"
            .to_owned(),
        Action::Nothing(Why::NoKey) => "none: without a key".to_owned(),
        Action::Nothing(Why::NotTrusted) => {
            "not looked up: what it brings is not trusted".to_owned()
        }
    };
    writeln!(out, "  {action}")?;
    match joins.infer {
        Infer::Off => Ok(()),
        infer => writeln!(
            out,
            "  infer {}: a call without a known key is joined by what the proxy has seen, here nothing",
            infer.name()
        ),
    }
}

const fn no_key(why: NoKey) -> &'static str {
    match why {
        NoKey::Absent => "absent",
        NoKey::Empty => "empty",
        NoKey::Long => "longer than 256 bytes",
        NoKey::Several => "it stands there more than once",
    }
}

fn rules(rules: &[Tried], out: &mut impl Write) -> io::Result<()> {
    for rule in rules {
        let until = rule.until.as_deref().unwrap_or_default();
        let result = match rule.result {
            Fit::Differs => "does not match".to_owned(),
            Fit::Expired => format!("has expired at {until}"),
            Fit::Matches => "matches".to_owned(),
            Fit::NotAsked => "is not asked any more".to_owned(),
        };
        writeln!(out, "  {} {result}", rule.name)?;
        checks(&rule.checks, 4, out)?;
        if rule.checks.is_empty() && rule.result == Fit::Matches {
            writeln!(out, "    it is for every request")?;
        }
    }
    Ok(())
}

fn checks(checks: &[Check], indent: usize, out: &mut impl Write) -> io::Result<()> {
    for check in checks {
        let holds = match check.holds {
            Some(true) => "yes",
            Some(false) => "no ",
            None => "?  ",
        };
        write!(out, "{:indent$}{holds}  {}", "", check.field)?;
        if check.field == "cel" {
            let unknown = if check.holds.is_none() { ": unknown; --cel would say" } else { "" };
            writeln!(out, " {}{unknown}", check.asked)?;
        } else if check.within.is_empty() {
            let seen: Vec<_> = check.seen.iter().map(|value| format!("{value:?}")).collect();
            let seen = if seen.is_empty() { "absent".to_owned() } else { seen.join(" and ") };
            writeln!(out, " {}: is {seen}", check.asked)?;
        } else {
            writeln!(out, ", of which not all may hold:")?;
            self::checks(&check.within, indent.saturating_add(5), out)?;
        }
    }
    Ok(())
}

fn decision(decided: &Decided, out: &mut impl Write) -> io::Result<()> {
    let sampled = if decided.sampled { "sampled" } else { "not sampled" };
    writeln!(out, "  {sampled}, because of {}", decided.reason)?;
    let parent = match (decided.parent, decided.policy) {
        (None, _) => "none".to_owned(),
        (Some(decision), ParentPolicy::Respect) => format!("{}, respected", parent(decision)),
        (Some(decision), ParentPolicy::Ignore) => format!("{}, ignored", parent(decision)),
    };
    writeln!(out, "  parent      {parent}")?;
    if let Some(rate) = &decided.rate {
        writeln!(out, "  rate        {}", rate_of(rate))?;
        match Threshold::of(rate.rate) {
            None => writeln!(out, "  threshold   none is low enough for this rate")?,
            Some(threshold) => {
                let randomness = decided.randomness;
                let side = if threshold.keeps(randomness) { "reached" } else { "not reached" };
                writeln!(out, "  threshold   {threshold}, {side} by the trace's {randomness}")?;
            }
        }
    }
    for (rule, limit) in &decided.limits {
        let whose =
            rule.as_ref().map_or_else(|| "over all".to_owned(), |rule| format!("of rule {rule}"));
        writeln!(out, "  limit       {limit} traces per second, {whose}")?;
    }
    let trace = if decided.continued { "continued" } else { "new" };
    writeln!(out, "  trace       {}, {trace}", decided.trace_id)?;
    let threshold = decided.threshold.map(|threshold| format!(", th:{threshold}"));
    writeln!(out, "  span        {}{}", decided.span_id, threshold.unwrap_or_default())
}

fn rate_of(rate: &RateOf) -> String {
    let share = rate.rate.get();
    let whose = rate.rule.as_ref().map(|rule| format!("of rule {rule}"));
    match (whose, rate.adaptive, &rate.remote) {
        (whose, Some(target), _) => {
            let whose = whose.map(|whose| format!(", {whose}")).unwrap_or_default();
            format!(
                "{share} at the start{whose}; it follows the load, to {target} traces per second"
            )
        }
        (_, None, Some(cluster)) => {
            format!("{share}, until the server in cluster {cluster} says something else")
        }
        (Some(whose), None, None) => format!("{share}, {whose}"),
        (None, None, None) => format!("{share}, the configuration's"),
    }
}

/// What a parent decided, in words.
const fn parent(decision: ParentDecision) -> &'static str {
    match decision {
        ParentDecision::Debug => "debug",
        ParentDecision::Deferred => "left open",
        ParentDecision::Drop => "not sampled",
        ParentDecision::Sample => "sampled",
    }
}
