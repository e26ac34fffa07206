//! Vectors collected from other implementations, where a checkout of them is at hand.
//!
//! Every `core` case must hold. Cases on which implementations are `split`, or which are
//! `disputed`, must each have a row in `testdata/choices.json`, and that must hold.

mod otlp;
mod sampling;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use meshweft_core::config::Propagation;
use meshweft_core::propagation::carry_baggage;
use serde_json::Value;

use super::*;

/// The files, with the formats that are read and written in their cases; `composite` names its own.
const FILES: &[(&str, &[Format])] = &[
    ("tracecontext", &[Format::TraceContext]),
    ("tracestate", &[Format::TraceContext]),
    ("b3", &[Format::B3, Format::B3Multi]),
    ("composite", &[]),
    ("jaeger", &[Format::Jaeger]),
    ("datadog", &[Format::Datadog]),
    ("xray", &[Format::XRay]),
    ("ot", &[Format::OtTrace]),
    ("gcp", &[Format::Gcp]),
    ("grpc-trace-bin", &[Format::GrpcTraceBin]),
    ("baggage", &[]),
];

/// What the cases may expect, so that none of it is overlooked. The B3 parent of our parent is
/// not passed on, and notes and reasons are for people.
const EXPECTATIONS: &[&str] = &[
    "baggage",
    "debug",
    "extra_fields",
    "note",
    "origin_any_of",
    "out",
    "parent_span_id",
    "priority",
    "reason",
    "sampled",
    "span_id",
    "tags",
    "trace_flags",
    "trace_id",
    "tracestate",
    "tracestate_in",
    "tracestate_keeps",
    "tracestate_lacks",
    "tracestate_valid",
    "valid",
];

/// Cases whose word on the state is an artefact of how they were collected: 061 has a valid
/// list and expects none, 157 has 33 members, which its source parses and then does not pass
/// on. The rest of them is checked.
const STATE_UNCHECKED: &[&str] = &["tracecontext-061", "tracecontext-157"];

/// Cases whose bytes were broken when they were collected: a zero byte too many stands before the
/// span id, so that its last byte is left over. Their source has them without it; there 005 is of
/// version 2, of which we know nothing.
const BROKEN: &[&str] = &["grpc-trace-bin-004", "grpc-trace-bin-005"];

/// A row of `testdata/choices.json`: what we do where others disagree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    what: String,
    ids: Vec<String>,
    choice: Choice,
    why: String,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    /// The context is valid, with this decision and with the ids of the case.
    Decision(Decision),
    Invalid,
    /// The `tracestate` or `baggage` goes on as it came.
    Kept,
    /// The `tracestate` or `baggage` that goes on.
    List(String),
    /// The case asks to write what cannot come about.
    Never,
}

#[test]
fn each_choice_is_told_once_and_with_a_reason() {
    let mut ids = BTreeSet::new();
    for row in rows() {
        assert!(!row.what.is_empty() && !row.why.is_empty(), "{:?}", row.ids);
        for id in row.ids {
            assert!(ids.insert(id.clone()), "{id} stands twice");
        }
    }
}

#[test]
fn cases() {
    let Some(folder) = folder() else { return };
    let mut choices: BTreeMap<String, Choice> = rows()
        .into_iter()
        .flat_map(|row| row.ids.into_iter().map(move |id| (id, row.choice.clone())))
        .collect();
    let mut failures = Vec::new();
    for (name, formats) in FILES {
        let ran = run(&folder, name, formats, &mut choices, &mut failures);
        let [core, chosen, inject] = ran;
        println!("{name}: {core} collected cases hold, {chosen} by choice, {inject} of writing");
        assert!(core > 0, "no case of {name} ran");
    }
    let stale: Vec<_> = choices.keys().collect();
    assert!(stale.is_empty(), "choices without a case: {stale:?}");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Where the files are, if they are.
fn folder() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("MESHWEFT_VECTORS") else {
        println!("MESHWEFT_VECTORS is not set: no collected vectors to run");
        return None;
    };
    // A relative path is meant from the workspace, where cargo is called, and not from here.
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder))
}

fn suite(folder: &Path, name: &str) -> Value {
    let file = folder.join(name).with_extension("json");
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap()
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../testdata/choices.json")).unwrap()
}

/// Runs a file; gives how many cases of extraction held as they stand, how many by our choice, and
/// how many there were of injection.
fn run(
    folder: &Path,
    name: &str,
    formats: &[Format],
    choices: &mut BTreeMap<String, Choice>,
    failures: &mut Vec<String>,
) -> [usize; 3] {
    let suite = suite(folder, name);
    let mut ran = [0_usize; 3];
    for (part, check) in
        [("extract", extracts as Check), ("inject", injects), ("tracestate_dd", members)]
    {
        for case in suite.get(part).map_or(&[][..], |cases| cases.as_array().expect("a list")) {
            let id = case["id"].as_str().expect("an id");
            if BROKEN.contains(&id) {
                continue;
            }
            let choice = choices.remove(id);
            let which = match (part, &choice) {
                ("extract", None) => 0,
                ("extract", Some(_)) => 1,
                _ => 2,
            };
            ran[which] = ran[which].saturating_add(1);
            let case = Case { suite: name, formats, case };
            if let Err(wrong) = check(&case, choice.as_ref()) {
                failures.push(format!("{id}: {wrong}"));
            }
        }
    }
    ran
}

type Check = fn(&Case<'_>, Option<&Choice>) -> Result<(), String>;

struct Case<'a> {
    suite: &'a str,
    formats: &'a [Format],
    case: &'a Value,
}

impl Case<'_> {
    fn formats(&self) -> Vec<Format> {
        match self.case.get("propagators") {
            Some(names) => formats(&serde_json::from_value::<Vec<String>>(names.clone()).unwrap()),
            None => self.formats.to_vec(),
        }
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> =
            serde_json::from_value(self.case["headers"].clone()).unwrap();
        // The host gives names in lower case.
        headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
        if self.suite == "tracestate" {
            headers.push(("traceparent".to_owned(), TRACEPARENT.to_owned()));
        }
        headers
    }
}

fn extracts(case: &Case<'_>, choice: Option<&Choice>) -> Result<(), String> {
    let expect = case.case["expect"].as_object().expect("expectations");
    for name in expect.keys() {
        same(name, EXPECTATIONS.contains(&name.as_str()), true)?;
    }
    let expect = &case.case["expect"];
    match (case.case["tier"].as_str(), choice) {
        (Some("core"), None) => match case.suite {
            "baggage" => carries(case, expect),
            "tracestate" => state_is(case, expect["out"].as_str().unwrap_or_default()),
            _ => says(case, expect),
        },
        (Some("core"), Some(_)) => Err("of tier core, and yet among the choices".to_owned()),
        (_, None) => Err("not among the choices".to_owned()),
        (_, Some(Choice::List(list))) => list_is(case, list),
        (_, Some(Choice::Kept)) => {
            let name = if case.suite == "tracestate" { "tracestate" } else { "baggage" };
            list_is(case, value_of(&case.headers(), name).unwrap())
        }
        (_, Some(Choice::Invalid)) => says(case, &serde_json::json!({"valid": false})),
        (_, Some(Choice::Decision(found))) => {
            // The ids are those of a reading that has some.
            let readings = [expect, &case.case["python"]];
            let mut expect = readings
                .into_iter()
                .find(|reading| reading["valid"] == true)
                .map_or_else(|| serde_json::json!({"valid": true}), Value::clone);
            expect["sampled"] = sampled(decision(*found)).into();
            expect["debug"] = matches!(found, Decision::Debug).into();
            says(case, &expect)
        }
        (_, Some(Choice::Never)) => Err("a choice for writing".to_owned()),
    }
}

/// Checks what is read from the headers, and what of it goes on.
fn says(case: &Case<'_>, expect: &Value) -> Result<(), String> {
    let standing = map(&case.headers());
    let found = match extract(&case.formats(), &Standing::of(&standing)).incoming {
        Incoming::Context(found) => found,
        other => {
            if expect.get("baggage").is_some() {
                carries(case, expect)?;
            }
            same("valid", &expect["valid"], &Value::Bool(false))?;
            same("trace_id", &expect["trace_id"], &Value::Null)?;
            if let (Incoming::Decision(found), Some(expected)) = (other, expect.get("sampled")) {
                same("sampled", sampled(found), expected.as_bool())?;
            }
            return Ok(());
        }
    };
    // Others hold a trace without a parent span for no context.
    same("valid", found.parent_id.is_some(), expect["valid"] == true)?;
    if expect["valid"] == false || expect.get("trace_id").is_some() {
        let trace_id = found.trace_id.to_string();
        same("trace_id", Some(trace_id.as_str()), expect["trace_id"].as_str())?;
    }
    if let Some(span_id) = expect["span_id"].as_str() {
        same("span_id", found.parent_id.map(|id| id.to_string()).as_deref(), Some(span_id))?;
    }
    same("sampled", sampled(found.decision), expect["sampled"].as_bool())?;
    if let Some(debug) = expect["debug"].as_bool() {
        same("debug", found.decision == ParentDecision::Debug, debug)?;
    }
    if let Some(flags) = expect["trace_flags"].as_str() {
        let random = u8::from_str_radix(flags, 16).unwrap() & TraceFlags::RANDOM.bits() != 0;
        same("random", found.random, random)?;
    }
    if !STATE_UNCHECKED.contains(&case.case["id"].as_str().unwrap()) {
        state_says(&found.state, expect)?;
    }
    if expect.get("baggage").is_some() {
        carries(case, expect)?;
    }
    goes_on(case, &found, expect)
}

fn state_says(found: &TraceState, expect: &Value) -> Result<(), String> {
    if let Some(list) = expect["tracestate"].as_str() {
        same("tracestate", found.as_str(), list)?;
    }
    if let Some(kept) = expect["tracestate_keeps"].as_str() {
        same("tracestate keeps", found.as_str().split(',').any(|member| member == kept), true)?;
    }
    if let Some(key) = expect["tracestate_lacks"].as_str() {
        let member = format!("{key}=");
        let has = found.as_str().split(',').any(|other| other.starts_with(&member));
        same("tracestate has what it should lack", has, false)?;
    }
    match expect["tracestate_valid"].as_bool() {
        Some(true) => {
            let list = bytes(expect["tracestate_in"].as_str().unwrap());
            same("tracestate", Ok(found), TraceState::parse([list.as_slice()]).as_ref())
        }
        Some(false) => same("tracestate", found.as_str(), ""),
        None => Ok(()),
    }
}

/// Checks the list that goes on: `tracestate` in the file of that name, elsewhere `baggage`.
fn list_is(case: &Case<'_>, list: &str) -> Result<(), String> {
    if case.suite == "tracestate" {
        return state_is(case, list);
    }
    same("baggage", carried(case).unwrap_or_default().as_str(), list)
}

fn state_is(case: &Case<'_>, list: &str) -> Result<(), String> {
    let standing = map(&case.headers());
    match extract(&case.formats(), &Standing::of(&standing)).incoming {
        Incoming::Context(found) => same("tracestate", found.state.as_str(), list),
        other => Err(format!("the traceparent is valid, and yet {other:?}")),
    }
}

/// Checks what the next hop gets of a format's extras.
fn goes_on(case: &Case<'_>, found: &RemoteContext, expect: &Value) -> Result<(), String> {
    let after = forwarded(case, &case.formats(), found);
    if let Some(priority) = expect.get("priority") {
        let written = value_of(&after, "x-datadog-sampling-priority");
        same("priority", written, Some(priority.to_string().as_str()))?;
    }
    if let Some(origins) = expect.get("origin_any_of") {
        one_of("origin", value_of(&after, "x-datadog-origin"), origins)?;
    }
    if let Some(tags) = expect["tags"].as_object() {
        for (key, value) in tags {
            let tag = format!("{key}={}", value.as_str().unwrap());
            same("tags", value_of(&after, "x-datadog-tags").unwrap_or("").contains(&tag), true)?;
        }
    }
    if let Some(extras) = expect["extra_fields"].as_str() {
        // Their source lowers the keys. `Self` is a load balancer's word on its own hop, and ends here.
        let written = value_of(&after, "x-amzn-trace-id").unwrap_or_default().to_lowercase();
        for extra in extras.to_lowercase().split(',').filter(|extra| !extra.starts_with("self=")) {
            same(extra, written.split(';').any(|field| field == extra), true)?;
        }
    }
    for (name, rule) in case.case["propagate"].as_object().into_iter().flatten() {
        let written = value_of(&after, name);
        if let Some(value) = rule.as_str() {
            same(name, written, Some(value))?;
        } else if let Some(part) = rule["contains"].as_str() {
            same(name, written.unwrap_or_default().contains(part), true)?;
        } else if let Some(part) = rule["lacks"].as_str() {
            same(name, written.unwrap_or_default().contains(part), false)?;
        } else {
            let other = rule["not"].as_str().expect("a rule");
            same(name, written.is_some_and(|written| written != other), true)?;
        }
    }
    Ok(())
}

/// Checks Datadog's member of `tracestate`: from either format into both.
fn members(case: &Case<'_>, _: Option<&Choice>) -> Result<(), String> {
    let formats = [Format::TraceContext, Format::Datadog];
    let standing = map(&case.headers());
    let Incoming::Context(found) = extract(&formats, &Standing::of(&standing)).incoming else {
        return Err("no context".to_owned());
    };
    let after = forwarded(case, &formats, &found);
    let dd = value_of(&after, "tracestate")
        .and_then(|list| list.split(',').find_map(|member| member.strip_prefix("dd=")))
        .unwrap_or_default();
    let has = |part: &Value| dd.split(';').any(|other| Some(other) == part.as_str());
    for (name, rule) in case.case["propagated"].as_object().expect("rules") {
        match name.as_str() {
            "priority" => {
                same(name, value_of(&after, "x-datadog-sampling-priority"), rule.as_str())?;
            }
            "flags" => {
                let written = value_of(&after, "traceparent").and_then(|value| value.get(53..));
                same(name, written, rule.as_str())?;
            }
            "origin" => same(name, value_of(&after, "x-datadog-origin"), rule.as_str())?,
            "origin_any_of" => one_of(name, value_of(&after, "x-datadog-origin"), rule)?,
            "no_origin" => same(name, value_of(&after, "x-datadog-origin"), None)?,
            "tags_contain" => {
                let tags = value_of(&after, "x-datadog-tags").unwrap_or_default();
                for tag in rule.as_array().unwrap() {
                    let found = tags.split(',').any(|other| Some(other) == tag.as_str());
                    same(&format!("{tag} in {tags}"), found, true)?;
                }
            }
            "dd" => {
                for part in rule.as_array().unwrap() {
                    same(&format!("{part} in {dd}"), has(part), true)?;
                }
            }
            "dd_any_of" => same(dd, rule.as_array().unwrap().iter().any(has), true)?,
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(())
}

/// The headers after our span: the context of the caller, its decision taken over.
fn forwarded(case: &Case<'_>, formats: &[Format], found: &RemoteContext) -> Vec<(String, String)> {
    let sampled = found.decision != ParentDecision::Drop;
    let mut context = SpanContext {
        trace_id: found.trace_id,
        span_id: span_id("00000000000000cd"),
        flags: if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
        debug: found.decision == ParentDecision::Debug,
        state: found.state.clone(),
    };
    update_state(&mut context, formats, formats);
    let outgoing =
        Outgoing { context: &context, parent_id: found.parent_id, service: "shop", alone: false };
    let headers = case.headers();
    after(&headers, inject(formats, formats, &Standing::of(&map(&headers)), &outgoing))
}

/// Checks which baggage goes on: W3C's, from whatever form it came in.
fn carries(case: &Case<'_>, expect: &Value) -> Result<(), String> {
    let expected: BTreeMap<String, String> =
        serde_json::from_value(expect["baggage"].clone()).unwrap();
    let found = carried(case)
        .unwrap_or_default()
        .split(',')
        .filter_map(|member| member.split_once('='))
        .map(|(key, value)| (percent_decoded(key), percent_decoded(value)))
        .collect();
    same("baggage", found, expected)
}

fn carried(case: &Case<'_>) -> Option<String> {
    let mut extract = case.formats();
    extract.push(Format::Baggage);
    let config = Propagation { extract, inject: vec![Format::Baggage], ..Propagation::default() };
    let headers = case.headers();
    let after = after(&headers, carry_baggage(&config, &Standing::of(&map(&headers))));
    value_of(&after, "baggage").map(str::to_owned)
}

fn injects(case: &Case<'_>, choice: Option<&Choice>) -> Result<(), String> {
    let ours = &case.case["context"];
    let id = |name: &str| ours[name].as_str().unwrap_or_default().as_bytes();
    // Our types have no zero ids, and whoever writes has decided.
    let (Ok(trace_id), Ok(span_id), true) = (
        TraceId::from_hex(id("trace_id")),
        SpanId::from_hex(id("span_id")),
        ours.get("sampled").is_none_or(Value::is_boolean),
    ) else {
        return same("among the choices", matches!(choice, Some(Choice::Never)), true);
    };
    let mut flags = ours["trace_flags"]
        .as_str()
        .map_or(0, |flags| u8::from_str_radix(flags, 16).expect("flags"));
    if ours["sampled"] == true {
        flags |= TraceFlags::SAMPLED.bits();
    }
    let context = SpanContext {
        trace_id,
        span_id,
        flags: TraceFlags::from_bits(flags),
        debug: ours["debug"] == true,
        state: state(ours["tracestate"].as_str().unwrap_or_default()),
    };
    let formats = match case.case["mode"].as_str() {
        Some("multi") => vec![Format::B3Multi],
        Some("single") => vec![Format::B3],
        _ => case.formats(),
    };
    let members: Vec<String> = ours["baggage"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
        .collect();
    let before = match members.as_slice() {
        [] => vec![],
        members => vec![("baggage".to_owned(), members.join(","))],
    };
    let headers = map(&before);
    let standing = Standing::of(&headers);
    let outgoing = Outgoing { context: &context, parent_id: None, service: "shop", alone: false };
    let mut edits = inject(&formats, &[], &standing, &outgoing);
    let extract = vec![Format::Baggage];
    let config = Propagation { extract, inject: formats, ..Propagation::default() };
    edits.extend(carry_baggage(&config, &standing));
    let after = after(&before, edits);
    for (name, value) in case.case["headers"].as_object().expect("headers") {
        same(name, value_of(&after, name), value.as_str())?;
    }
    for name in case.case["absent"].as_array().into_iter().flatten() {
        let name = name.as_str().unwrap();
        same(name, value_of(&after, name), None)?;
    }
    same("among the choices", choice.is_some(), false)
}

fn sampled(decision: ParentDecision) -> Option<bool> {
    match decision {
        ParentDecision::Deferred => None,
        ParentDecision::Drop => Some(false),
        ParentDecision::Debug | ParentDecision::Sample => Some(true),
    }
}

fn value_of<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let coded = after.get(..2).and_then(|hex| core::str::from_utf8(hex).ok());
        match coded.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                out.push(decoded);
                rest = &after[2..];
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(out).unwrap()
}

fn one_of(what: &str, found: Option<&str>, expected: &Value) -> Result<(), String> {
    let any = expected.as_array().expect("a list").iter().any(|other| other.as_str() == found);
    if any { Ok(()) } else { Err(format!("{what}: {found:?} is none of {expected}")) }
}

fn same<T: core::fmt::Debug + PartialEq>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?}, expected {expected:?}"))
}
