//! The propagation formats against data: `testdata/*.json`, each case with its reason.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not exempt"
)]

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[cfg(not(target_family = "wasm"))]
mod collected;

use meshweft_core::config::{Baggage, Config, KeepBaggage, Propagation};
use meshweft_core::model::{
    Exchange, Format, FormatSet, HeaderEdit, Headers, Local, SpanId, TraceFlags, TraceId,
};
use meshweft_core::plugin::Plugin;
use meshweft_core::propagation::{
    Extracted, Incoming, Outgoing, ParentDecision, RemoteContext, SpanContext, Standing,
    TraceState, baggage_attributes, carry_baggage, extract, inject, update_state,
};
use meshweft_core::sampling::OtMember;
use meshweft_core::stream::Stream;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    #[serde(rename = "about")]
    _about: String,
    extract: Vec<ExtractCase>,
    inject: Vec<InjectCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtractCase {
    why: String,
    formats: Option<Vec<String>>,
    headers: Vec<(String, String)>,
    expect: Expect,
    invalid: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectCase {
    why: String,
    inject: Vec<String>,
    extract: Vec<String>,
    before: Vec<(String, String)>,
    context: Ours,
    parent_id: Option<String>,
    after: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListSuite {
    #[serde(rename = "about")]
    _about: String,
    cases: Vec<ListCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListCase {
    why: String,
    headers: Vec<String>,
    list: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BaggageSuite {
    #[serde(rename = "about")]
    _about: String,
    carry: Vec<CarryCase>,
    attributes: Vec<AttributesCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CarryCase {
    why: String,
    inject: Vec<String>,
    extract: Vec<String>,
    only: Option<Vec<String>>,
    before: Vec<(String, String)>,
    after: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttributesCase {
    why: String,
    keys: Vec<String>,
    headers: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProbabilitySuite {
    #[serde(rename = "about")]
    _about: String,
    read: Vec<MemberCase>,
    serve: Vec<ServeCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberCase {
    why: String,
    value: String,
    th: Option<String>,
    rv: Option<String>,
    again: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServeCase {
    why: String,
    sampling: serde_json::Value,
    headers: Vec<(String, String)>,
    sampled: bool,
    state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Absent,
    Context(Theirs),
    Decision(Decision),
    Invalid,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Debug,
    Deferred,
    Drop,
    Sample,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Theirs {
    trace_id: String,
    parent_id: Option<String>,
    decision: Decision,
    #[serde(default)]
    random: bool,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours {
    trace_id: String,
    span_id: String,
    flags: String,
    debug: bool,
    state: String,
}

#[test]
fn tracecontext() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/tracecontext.json")).unwrap();
    check(suite, Format::TraceContext);
}

#[test]
fn b3() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/b3.json")).unwrap();
    check(suite, Format::B3);
}

#[test]
fn jaeger() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/jaeger.json")).unwrap();
    check(suite, Format::Jaeger);
}

#[test]
fn ottrace() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/ottrace.json")).unwrap();
    check(suite, Format::OtTrace);
}

#[test]
fn xray() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/xray.json")).unwrap();
    check(suite, Format::XRay);
}

#[test]
fn gcp() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/gcp.json")).unwrap();
    check(suite, Format::Gcp);
}

#[test]
fn grpc_trace_bin() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/grpc-trace-bin.json")).unwrap();
    check(suite, Format::GrpcTraceBin);
}

#[test]
fn skywalking() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/skywalking.json")).unwrap();
    check(suite, Format::SkyWalking);
}

#[test]
fn baggage() {
    let suite: BaggageSuite = serde_json::from_str(include_str!("testdata/baggage.json")).unwrap();
    for case in suite.carry {
        let keep = case.only.map_or(KeepBaggage::All, KeepBaggage::Only);
        let config = Propagation {
            extract: formats(&case.extract),
            inject: formats(&case.inject),
            baggage: Baggage { keep, attributes: Vec::new() },
            ..Propagation::default()
        };
        let edits = carry_baggage(&config, &Standing::of(&map(&case.before)));
        assert_eq!(after(&case.before, edits), case.after, "{}", case.why);
        let edits = carry_baggage(&config, &Standing::of(&map(&case.after)));
        assert_eq!(edits, [], "a second time: {}", case.why);
    }
    for case in suite.attributes {
        let config = Baggage { attributes: case.keys, ..Baggage::default() };
        let found = baggage_attributes(&config, &Standing::of(&map(&case.headers)));
        assert_eq!(found, case.attributes, "{}", case.why);
    }
}

#[test]
fn datadog() {
    let suite: Suite = serde_json::from_str(include_str!("testdata/datadog.json")).unwrap();
    check(suite, Format::Datadog);
}

#[test]
fn tracestate() {
    let suite: ListSuite = serde_json::from_str(include_str!("testdata/tracestate.json")).unwrap();
    for case in suite.cases {
        let values: Vec<Vec<u8>> = case.headers.iter().map(|value| bytes(value)).collect();
        let parsed = TraceState::parse(values.iter().map(Vec::as_slice));
        let list = parsed.as_ref().map(TraceState::as_str).map_err(ToString::to_string);
        let expected = match (&case.list, &case.error) {
            (Some(list), None) => Ok(list.as_str()),
            (None, Some(error)) => Err(error.clone()),
            _ => panic!("one of list and error: {}", case.why),
        };
        assert_eq!(list, expected, "{}: {:?}", case.why, case.headers);

        // The traceparent stays valid, whatever its state looks like.
        let mut headers = vec![("traceparent".to_owned(), TRACEPARENT.as_bytes().to_vec())];
        headers.extend(values.into_iter().map(|value| ("tracestate".to_owned(), value)));
        let expected = Theirs {
            trace_id: TRACEPARENT[3..35].to_owned(),
            parent_id: Some(TRACEPARENT[36..52].to_owned()),
            decision: Decision::Sample,
            random: false,
            state: case.list.unwrap_or_default(),
        };
        assert_eq!(
            extract(&[Format::TraceContext], &Standing::of(&headers.into_iter().collect())),
            Extracted {
                incoming: Incoming::Context(theirs(&expected)),
                invalid: FormatSet::default(),
            },
            "{}: {:?}",
            case.why,
            case.headers
        );
    }
}

#[test]
fn probability() {
    let suite: ProbabilitySuite =
        serde_json::from_str(include_str!("testdata/probability.json")).unwrap();
    for case in suite.read {
        let member = OtMember::parse(&case.value);
        let [th, rv] = [
            member.threshold.map(|threshold| threshold.to_string()),
            member.randomness.map(|randomness| randomness.to_string()),
        ];
        let found = (th, rv, member.to_string());
        assert_eq!(found, (case.th, case.rv, case.again), "{}: {}", case.why, case.value);
    }
    for case in suite.serve {
        let found = served(&case.sampling, &case.headers);
        assert_eq!(found, (case.sampled, case.state), "{}: {:?}", case.why, case.headers);
    }
}

/// What goes on where every span is exported that `sampling` lets through: whether it is sampled,
/// and its `tracestate`.
fn served(sampling: &serde_json::Value, headers: &[(String, String)]) -> (bool, Option<String>) {
    let config = serde_json::json!({"export": {"cluster": "c"}, "sampling": sampling});
    let config = Config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    let mut plugin = Plugin::new(config, None, &|_| None);
    let mut rng = SmallRng::seed_from_u64(7);
    let (request, shared) = (Requested(map(headers)), Local::default());
    let effects = Stream::default().on_request_headers(&mut plugin, &request, &shared, &mut rng);
    let after = after(headers, effects.edits);
    let value = |name: &str| {
        let mut values = after.iter().filter(|(other, _)| other == name);
        let value = values.next().map(|(_, value)| value.clone());
        assert_eq!(values.next(), None, "{name} stands twice");
        value
    };
    (value("traceparent").unwrap().ends_with(['1', '3']), value("tracestate"))
}

/// A request of which nothing is known but its headers.
struct Requested(Headers);

impl Exchange for Requested {
    fn request_headers(&self) -> Headers {
        self.0.clone()
    }
    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn check(suite: Suite, default: Format) {
    for case in suite.extract {
        let formats = case.formats.map_or_else(|| vec![default], |names| formats(&names));
        let incoming = match &case.expect {
            Expect::Absent => Incoming::Absent,
            Expect::Context(context) => Incoming::Context(theirs(context)),
            Expect::Decision(found) => Incoming::Decision(decision(*found)),
            Expect::Invalid => Incoming::Invalid,
        };
        let found = extract(&formats, &Standing::of(&map(&case.headers)));
        let invalid = case.invalid.unwrap_or(incoming == Incoming::Invalid);
        assert_eq!(found.incoming, incoming, "{}: {:?}", case.why, case.headers);
        assert_eq!(!found.invalid.is_empty(), invalid, "{}: {:?}", case.why, case.headers);
    }
    for case in suite.inject {
        let mut context = SpanContext {
            trace_id: trace_id(&case.context.trace_id),
            span_id: span_id(&case.context.span_id),
            flags: TraceFlags::from_bits(u8::from_str_radix(&case.context.flags, 16).unwrap()),
            debug: case.context.debug,
            state: state(&case.context.state),
        };
        let parent_id = case.parent_id.as_deref().map(span_id);
        let (injected, extracted) = (formats(&case.inject), formats(&case.extract));
        update_state(&mut context, &injected, &extracted);
        let edits = inject(
            &injected,
            &extracted,
            &Standing::of(&map(&case.before)),
            &Outgoing { context: &context, parent_id, service: "shop", alone: false },
        );
        assert_eq!(after(&case.before, edits), case.after, "{}", case.why);
    }
}

/// What `PROPAGATION.md` says of disputed cases is what the tests hold.
#[test]
fn the_page_has_every_choice_and_its_reason() {
    let page = include_str!("../../../PROPAGATION.md");
    let choices: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("testdata/choices.json")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| on the request"));
    let rows: Vec<&str> = rows.skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), choices.len());
    for (row, choice) in rows.iter().zip(choices) {
        let [what, why] = ["what", "why"].map(|key| choice[key].as_str().unwrap());
        assert!(row.starts_with(&format!("| {what} |")), "{row}\n{what}");
        assert!(row.ends_with(&format!("| {why} |")), "{row}\n{why}");
    }
}

/// The headers as the host has them after `edits`, sorted.
fn after(before: &[(String, String)], edits: Vec<HeaderEdit>) -> Vec<(String, String)> {
    let mut headers = before.to_vec();
    for edit in edits {
        let (name, value) = match edit {
            HeaderEdit::Add(name, _) => panic!("{name} added"),
            HeaderEdit::Remove(name) => (name, None),
            HeaderEdit::Set(name, value) => (name, Some(value)),
        };
        let stood = headers.len();
        headers.retain(|(other, _)| *other != name);
        assert!(value.is_some() || headers.len() < stood, "{name} removed, but it did not stand");
        headers.extend(value.map(|value| (name.into_owned(), value)));
    }
    headers.sort();
    headers
}

fn map(headers: &[(String, String)]) -> Headers {
    headers.iter().map(|(name, value)| (name, bytes(value))).collect()
}

/// One byte for each character: JSON has no other way to write bytes that are not UTF-8.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a character up to \\u00ff")).collect()
}

fn formats(names: &[String]) -> Vec<Format> {
    names.iter().map(|name| Format::from_name(name).expect("a format")).collect()
}

fn theirs(context: &Theirs) -> RemoteContext {
    RemoteContext {
        trace_id: trace_id(&context.trace_id),
        parent_id: context.parent_id.as_deref().map(span_id),
        decision: decision(context.decision),
        random: context.random,
        state: state(&context.state),
    }
}

fn decision(decision: Decision) -> ParentDecision {
    match decision {
        Decision::Debug => ParentDecision::Debug,
        Decision::Deferred => ParentDecision::Deferred,
        Decision::Drop => ParentDecision::Drop,
        Decision::Sample => ParentDecision::Sample,
    }
}

fn trace_id(hex: &str) -> TraceId {
    TraceId::from_hex(hex.as_bytes()).unwrap()
}

fn span_id(hex: &str) -> SpanId {
    SpanId::from_hex(hex.as_bytes()).unwrap()
}

fn state(list: &str) -> TraceState {
    let state = TraceState::parse([list.as_bytes()]).unwrap();
    assert_eq!(state.as_str(), list, "a state as it would go on");
    state
}
