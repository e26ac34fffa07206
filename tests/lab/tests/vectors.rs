//! Every vector of the context formats as a live request: the project's own, and those collected
//! from other implementations where `MESHWEFT_VECTORS` names a folder of them.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says where it broke, and how much it left out"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use meshweft_core::model::{Format, Headers};
use meshweft_core::propagation::{Incoming, Standing, extract};
use meshweft_lab::app::Seen;
use meshweft_lab::client::raw;
use meshweft_lab::collector::Span;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::{formats, paths};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How many requests are open at once.
const OPEN: usize = 16;

/// A request with these headers, and what must come of it.
#[derive(Clone, Debug)]
struct Case {
    /// Where it is from, and why it is there.
    why: String,
    formats: Vec<Format>,
    headers: Vec<(String, Vec<u8>)>,
    expect: Expect,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{:?} {:?}", self.why, self.formats, self.expect)?;
        let mut headers = self.headers.iter();
        headers.try_for_each(|(name, value)| writeln!(f, "{name}: {}", value.escape_ascii()))
    }
}

/// What a case's headers say. What a vector leaves open is `None`.
#[derive(Clone, Debug)]
enum Expect {
    /// A trace to go on with.
    Continued {
        trace_id: String,
        /// Empty: a trace without a parent span.
        parent_id: Option<String>,
        sampled: bool,
        random: Option<bool>,
        state: Option<String>,
    },
    /// Nothing to go on with but a decision; `None`: the rate decides.
    New { decided: Option<bool> },
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own() {
    let folder = paths::workspace().join("filter/core/tests/testdata");
    let mut cases = Vec::new();
    for file in json_files(&folder) {
        let suite = read(&file);
        let Some(extract) = suite["extract"].as_array() else { continue };
        let default = json!([file.file_stem().and_then(|stem| stem.to_str())]);
        for case in extract {
            // Only what carries trace context has such an expectation.
            let named = if case["formats"].is_null() { &default } else { &case["formats"] };
            cases.push(Case {
                why: format!("{}: {}", file.display(), case["why"]),
                formats: formats_of(named),
                headers: headers_of(&case["headers"]),
                expect: expected(&case["expect"]),
            });
        }
    }
    for format in Format::ALL.iter().filter(|format| **format != Format::Baggage) {
        assert!(cases.iter().any(|case| case.formats == [*format]), "none of {}", format.name());
    }
    check(cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collected() {
    let Some(folder) = std::env::var_os("MESHWEFT_VECTORS") else {
        println!("MESHWEFT_VECTORS is not set: no collected vectors to run");
        return;
    };
    let mut cases = Vec::new();
    for file in json_files(&paths::workspace().join(folder)) {
        let suite = read(&file);
        let name = suite["format"].as_str().expect("a format");
        let listed = match name {
            "b3" => json!(["b3", "b3multi"]),
            "ot" => json!(["ottrace"]),
            "tracestate" => json!(["tracecontext"]),
            name => json!([name]),
        };
        let core = |case: &&Value| {
            let broken = BROKEN.iter().any(|id| case["id"] == *id);
            case["tier"] == "core" && name != "baggage" && !broken
        };
        for case in suite["extract"].as_array().into_iter().flatten().filter(core) {
            let named = if name == "composite" { &case["propagators"] } else { &listed };
            let mut headers = headers_of(&case["headers"]);
            let expect = if name == "tracestate" {
                headers.push(("traceparent".to_owned(), TRACEPARENT.into()));
                state_alone(&case["expect"])
            } else {
                collected_expectation(case)
            };
            let why = format!("{} {}", case["id"], case["name"]);
            cases.push(Case { why, formats: formats_of(named), headers, expect });
        }
    }
    assert!(cases.len() > 200, "only {}", cases.len());
    check(cases).await;
}

/// Collected cases whose bytes were broken when they were collected: both have one too many before
/// the span id.
const BROKEN: [&str; 2] = ["grpc-trace-bin-004", "grpc-trace-bin-005"];

/// Collected cases whose word on the state is not the specification's: one has a valid list and
/// expects none, the other one has 33 members and expects them all.
const OTHER_STATE: [&str; 2] = ["tracecontext-061", "tracecontext-157"];

/// Collected cases that say nothing of what is decided, though a decision is all that B3 says in
/// them.
const DECISIONS: [(&str, bool); 2] = [("b3-048", true), ("b3-068", false)];

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// The state of a new trace that the rate 1 keeps.
const ALL: &str = "ot=th:0";

// === Reading them ===

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension() == Some("json".as_ref())).collect();
    files.sort();
    files
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).expect("a file")).expect("JSON")
}

fn formats_of(names: &Value) -> Vec<Format> {
    let names = names.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"));
    names.map(|name| Format::from_name(name).unwrap_or_else(|| panic!("format {name}"))).collect()
}

/// In a value each character stands for one byte.
fn headers_of(headers: &Value) -> Vec<(String, Vec<u8>)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let bytes = |text: String| text.chars().map(|c| u8::try_from(c).expect("a byte")).collect();
    let pairs = headers.as_array().expect("a list").iter();
    pairs.map(|pair| (text(&pair[0]), bytes(text(&pair[1])))).collect()
}

/// What the project's vectors expect.
fn expected(expect: &Value) -> Expect {
    let sampled = |decision: &Value| *decision != "drop";
    if let Some(decision) = expect.get("decision") {
        return Expect::New { decided: Some(sampled(decision)) };
    }
    let Some(context) = expect.get("context") else { return Expect::New { decided: None } };
    let text = |name: &str| context[name].as_str().unwrap_or_default().to_owned();
    Expect::Continued {
        trace_id: text("trace_id"),
        parent_id: Some(text("parent_id")),
        sampled: sampled(&context["decision"]),
        random: Some(context["random"] == true),
        state: Some(text("state")),
    }
}

/// What the collected vectors expect. A decision that is left open is to record.
fn collected_expectation(case: &Value) -> Expect {
    let expect = &case["expect"];
    let text = |name: &str| expect[name].as_str().map(str::to_owned);
    let sampled = expect["sampled"].as_bool();
    let trace_id = match text("trace_id") {
        // A trace without a span is not valid to some; it has an id to go on with.
        Some(trace_id) if expect["valid"] == true || sampled.is_some() => trace_id,
        _ => {
            let known = DECISIONS.iter().find(|(id, _)| case["id"] == *id);
            return Expect::New { decided: sampled.or(known.map(|(_, decided)| *decided)) };
        }
    };
    let state = match expect["tracestate_valid"].as_bool() {
        Some(false) => Some(String::new()),
        _ => text("tracestate"),
    };
    Expect::Continued {
        trace_id,
        parent_id: if expect["valid"] == true { text("span_id") } else { Some(String::new()) },
        sampled: sampled.unwrap_or(true),
        random: text("trace_flags")
            .map(|flags| u8::from_str_radix(&flags, 16).expect("flags") & 2 == 2),
        state: state.filter(|_| OTHER_STATE.iter().all(|id| case["id"] != *id)),
    }
}

/// A `tracestate` beside [`TRACEPARENT`].
fn state_alone(expect: &Value) -> Expect {
    Expect::Continued {
        trace_id: TRACEPARENT[3..35].to_owned(),
        parent_id: Some(TRACEPARENT[36..52].to_owned()),
        sampled: true,
        random: Some(false),
        state: Some(expect["out"].as_str().unwrap_or_default().to_owned()),
    }
}

// === Running them ===

/// Whether HTTP/1.1 can carry the values as they are: it ends lines, and trims.
fn can_be_sent(case: &Case) -> bool {
    let mut values = case.headers.iter().map(|(_, value)| value);
    values.all(|v| !v.contains(&b'\r') && !v.contains(&b'\n') && v.trim_ascii() == v)
}

fn request(path: &str, headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n");
    let mut bytes = head.into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

/// The listener whose filter reads these formats.
fn listener_of(policy: &str, listed: &[Format]) -> String {
    let names: Vec<_> = listed.iter().map(|format| format.name()).collect();
    format!("{policy}-{}", names.join("-"))
}

/// Sends each request to a listener, under the path `/{listener}/{number}`; gives the statuses.
async fn send(
    lab: &Workload,
    requests: impl Iterator<Item = (usize, String, &Case)>,
) -> BTreeMap<(usize, String), u16> {
    let mut statuses = BTreeMap::new();
    let mut open = JoinSet::new();
    for (number, listener, case) in requests {
        if open.len() >= OPEN
            && let Some(Ok((key, status))) = open.join_next().await
        {
            statuses.insert(key, status);
        }
        let bytes = request(&format!("/{listener}/{number}"), &case.headers);
        let to = lab.envoy.listener(&listener);
        open.spawn(async move {
            let status = raw(to, &bytes).await.map_or(0, |answer| answer.status);
            ((number, listener), status)
        });
    }
    statuses.extend(open.join_all().await);
    statuses
}

/// Runs all cases, each as it is and with a filter that decides itself, so that there is a span
/// also of those that say not to record.
async fn check(cases: Vec<Case>) {
    const POLICIES: [&str; 2] = ["respect", "ignore"];
    let mut lists: Vec<_> = cases.iter().map(|case| case.formats.clone()).collect();
    lists.sort_by_key(|list| listener_of("", list));
    lists.dedup();
    let config = |policy: &str, list: &[Format]| {
        let names: Vec<_> = list.iter().map(|format| format.name()).collect();
        let propagation = json!({"extract": names, "inject": ["tracecontext"]});
        exporting(json!({"propagation": propagation, "sampling": {"parent": policy}}))
    };
    let of_list = |list: &Vec<Format>| {
        POLICIES.map(|policy| (listener_of(policy, list), config(policy, list)))
    };
    let listeners = lists.iter().flat_map(of_list).collect();
    let options = Options { listeners, workers: 1, ..Options::default() };
    let lab = Workload::with(&exporting(json!({})), options).await;

    // What plain Envoy refuses is not ours to judge.
    let sendable = || cases.iter().enumerate().filter(|(_, case)| can_be_sent(case));
    let plain = sendable().map(|(number, case)| (number, "plain".to_owned(), case));
    let mut plain = send(&lab, plain).await;
    plain.retain(|_, status| *status == 200);
    let passable =
        || sendable().filter(|(number, _)| plain.contains_key(&(*number, "plain".to_owned())));
    let both = passable().flat_map(|(number, case)| {
        POLICIES.map(|policy| (number, listener_of(policy, &case.formats), case))
    });
    let statuses = send(&lab, both).await;
    let failed: Vec<_> = statuses.iter().filter(|(_, status)| **status != 200).collect();
    assert!(failed.is_empty(), "{failed:?}");

    let spans = lab.settled(i64::try_from(statuses.len()).expect("few")).await;
    let mut of_path: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &spans {
        of_path.entry(span.attribute("url.path")).or_default().push(span);
    }
    let seen: BTreeMap<String, Seen> =
        lab.app.seen().into_iter().map(|seen| (seen.path.clone(), seen)).collect();
    let mut wrong = Vec::new();
    for (number, case) in passable() {
        for policy in POLICIES {
            let path = format!("/{}/{number}", listener_of(policy, &case.formats));
            let spans = of_path.get(&*path).cloned().unwrap_or_default();
            if let Err(what) = one(case, policy == "ignore", &seen[&path], &spans) {
                wrong.push(format!("{policy}: {what}\n{case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let ran = passable().count();
    println!("{ran} cases ran; HTTP/1.1 or Envoy does not carry {} more", cases.len() - ran);
    assert!(ran * 10 > cases.len() * 8, "only {ran} of {}", cases.len());
    lab.envoy.stop().await;
}

/// Holds what the application saw, and the spans of the request, against the expectation.
fn one(case: &Case, always: bool, seen: &Seen, spans: &[&Span]) -> Result<(), String> {
    let traceparent = seen.one("traceparent");
    let fields: Vec<_> = traceparent.split('-').collect();
    let ["00", trace_id, span_id, flags] = *fields else {
        return Err(format!("traceparent {traceparent:?}"));
    };
    let (sampled, random) = match flags {
        "00" => (false, false),
        "01" => (true, false),
        "02" => (false, true),
        "03" => (true, true),
        _ => return Err(format!("flags {flags:?}")),
    };
    let state = seen.all("tracestate").join("|");
    let parent_id = match &case.expect {
        Expect::New { decided } => {
            let decided = decided.filter(|_| !always);
            let repeated = case.headers.iter().any(|(_, value)| contains(value, trace_id));
            same("repeats an id", &repeated, &false)?;
            same("sampled", &sampled, &decided.unwrap_or(true))?;
            same("random", &random, &true)?;
            same("state", &*state, if decided.is_some() { "" } else { ALL })?;
            Some("")
        }
        Expect::Continued {
            trace_id: wanted,
            parent_id,
            sampled: asked,
            random: told,
            state: wanted_state,
        } => {
            same("trace id", trace_id, wanted)?;
            same("sampled", &sampled, &(always || *asked))?;
            same("random", &random, &told.unwrap_or(random))?;
            if let Some(wanted) = wanted_state {
                same_state(case, &state, wanted, span_id)?;
            }
            same("our own id", &(Some(span_id) == parent_id.as_deref()), &false)?;
            parent_id.as_deref()
        }
    };
    same("spans", &spans.len(), &usize::from(sampled))?;
    if let [span] = spans {
        same("exported trace id", &*span.trace_id, trace_id)?;
        same("exported span id", &*span.span_id, span_id)?;
        same("exported parent id", &*span.parent_id, parent_id.unwrap_or(&span.parent_id))?;
        same("exported state", &span.trace_state, &state)?;
    }
    nothing_stale(case, trace_id, span_id, seen)
}

/// Where `datadog` is read its member is written anew, with our own span.
fn same_state(case: &Case, found: &str, wanted: &str, span_id: &str) -> Result<(), String> {
    if !case.formats.contains(&Format::Datadog) {
        return same("state", found, wanted);
    }
    let dd = |member: &&str| member.starts_with("dd=");
    let split = |state| -> (Vec<_>, Vec<_>) { str::split(state, ',').partition(dd) };
    let ((ours, others), (theirs, wanted)) = (split(found), split(wanted));
    same("state", &others, &wanted)?;
    same("members of datadog", &ours.len(), &theirs.len())?;
    let last = format!("p:{span_id}");
    let span = ours.iter().flat_map(|member| member[3..].split(';')).find(|f| f.starts_with("p:"));
    same("datadog's last span", span.unwrap_or(&last), &*last)
}

fn same<T: fmt::Debug + PartialEq + ?Sized>(
    what: &str,
    found: &T,
    wanted: &T,
) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?}, not {wanted:?}")) }
}

/// What stands on the request in the formats that were read is of this span, or not there.
fn nothing_stale(case: &Case, trace_id: &str, span_id: &str, seen: &Seen) -> Result<(), String> {
    let ours = seen.headers.iter().filter(|(name, _)| formats::carries_context(name));
    let headers: Headers = ours.cloned().collect();
    for format in &case.formats {
        let found = match extract(&[*format], &Standing::of(&headers)).incoming {
            Incoming::Absent => continue,
            Incoming::Context(context) => context,
            other => return Err(format!("{format:?} goes on as {other:?}: {headers:?}")),
        };
        let parent_id = found.parent_id.map(|id| id.to_string());
        same(&format!("{format:?}'s span id"), parent_id.as_deref().unwrap_or_default(), span_id)?;
        // Some formats have room for 64 bits only.
        let half = format!("{}{}", "0".repeat(16), &trace_id[16..]);
        let found = found.trace_id.to_string();
        if found != half {
            same(&format!("{format:?}'s trace id"), &*found, trace_id)?;
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

// === Writing ===

/// What each format says of a span, by name and value of its headers.
fn written(
    trace_id: &str,
    span_id: &str,
    parent_id: &str,
    flags: &str,
) -> BTreeMap<String, String> {
    let half = |text: &str| u64::from_str_radix(text, 16).expect("hex");
    let (high, low) = trace_id.split_at(16);
    let (decimal, span) = (half(low).to_string(), half(span_id).to_string());
    let recorded = ["01", "03"].contains(&flags);
    let bit = if recorded { "1" } else { "0" };
    let word = if recorded { "true" } else { "false" };
    let grandparent = if parent_id.is_empty() { "" } else { "-" };
    let (epoch, rest) = trace_id.split_at(8);
    let binary = format!("0000{trace_id}01{span_id}020{bit}");
    let binary = hex::decode(binary).expect("hex");
    let text = |text: &str| STANDARD.encode(text);
    let sw8 = [
        bit,
        &text(trace_id),
        &text(&format!("{span_id}0000000000000000")),
        "0",
        &text("lab"),
        &text("lab"),
        &text("GET"),
        &text("a"),
    ];
    [
        ("traceparent", format!("00-{trace_id}-{span_id}-{flags}")),
        ("b3", format!("{trace_id}-{span_id}-{bit}{grandparent}{parent_id}")),
        ("x-b3-traceid", trace_id.to_owned()),
        ("x-b3-spanid", span_id.to_owned()),
        ("x-b3-parentspanid", parent_id.to_owned()),
        ("x-b3-sampled", bit.to_owned()),
        ("uber-trace-id", format!("{trace_id}:{span_id}:0:{bit}")),
        ("x-datadog-trace-id", decimal),
        ("x-datadog-parent-id", span.clone()),
        ("x-datadog-sampling-priority", bit.to_owned()),
        ("x-datadog-tags", format!("_dd.p.tid={high}")),
        ("x-amzn-trace-id", format!("Root=1-{epoch}-{rest};Parent={span_id};Sampled={bit}")),
        ("ot-tracer-traceid", low.to_owned()),
        ("ot-tracer-spanid", span_id.to_owned()),
        ("ot-tracer-sampled", word.to_owned()),
        ("x-cloud-trace-context", format!("{trace_id}/{span};o={bit}")),
        ("grpc-trace-bin", STANDARD_NO_PAD.encode(binary)),
        ("sw8", sw8.join("-")),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_formats_at_once_tell_the_same() {
    const B3: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0";
    // Of all that may stand, the first of the list wins, and nothing is left of the rest.
    let mut stale: Vec<_> = formats::HEADERS.iter().map(|name| (*name, "1")).collect();
    stale.retain(|(name, _)| !["traceparent", "tracestate", "baggage"].contains(name));
    let with = |first: &[(&'static str, &'static str)]| [first, &*stale].concat();
    let not_ours = ["x-datadog-origin", "jaeger-baggage", "sw8-correlation", "sw8-x"];
    let list: Vec<_> = Format::NAMES.iter().filter(|name| **name != "baggage").collect();
    let config = exporting(json!({"propagation": {"extract": list, "inject": list}}));
    let lab = Workload::start(&config).await;
    let (trace, parent) = (&TRACEPARENT[3..35], &TRACEPARENT[36..52]);
    for (headers, trace_id, parent_id, flags, state) in [
        (vec![], "", "", "03", ALL),
        (vec![("traceparent", TRACEPARENT)], trace, parent, "01", ""),
        (vec![("b3", B3)], &B3[..32], &B3[33..49], "00", ""),
        (with(&[("traceparent", TRACEPARENT)]), trace, parent, "01", ""),
        (vec![("b3", "0")], "", "", "02", ""),
    ] {
        let owned: Vec<_> =
            headers.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        let answer = raw(lab.envoy.listener("inbound"), &request("/a", &owned)).await;
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{headers:?}");
        let seen = lab.app.last();
        let traceparent = seen.one("traceparent");
        let (found, span_id) = (&traceparent[3..35], &traceparent[36..52]);
        if !trace_id.is_empty() {
            assert_eq!(found, trace_id, "{headers:?}");
        }
        let ours = seen
            .headers
            .iter()
            .filter(|(name, _)| formats::carries_context(name) && !not_ours.contains(&&**name));
        let ours: BTreeMap<_, _> =
            ours.map(|(n, v)| (n.clone(), String::from_utf8_lossy(v).into_owned())).collect();
        let mut expected = written(found, span_id, parent_id, flags);
        expected.extend((!state.is_empty()).then(|| ("tracestate".to_owned(), state.to_owned())));
        assert_eq!(ours, expected, "{headers:?}");
    }
    lab.envoy.stop().await;
}
