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
    /// Nothing to go on with; whether it shall be recorded.
    New { sampled: Option<bool> },
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
        let core = |case: &&Value| case["tier"] == "core" && name != "baggage";
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

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

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
        return Expect::New { sampled: Some(sampled(decision)) };
    }
    let Some(context) = expect.get("context") else { return Expect::New { sampled: Some(true) } };
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
    if expect["valid"] != true {
        return Expect::New { sampled };
    }
    // What is said of the state of these two is not what the specification says: one has a valid
    // list and expects none, the other one has 33 members and expects them all.
    let odd = ["tracecontext-061", "tracecontext-157"].iter().any(|id| case["id"] == **id);
    let state = match expect["tracestate_valid"].as_bool() {
        Some(false) => Some(String::new()),
        _ => text("tracestate"),
    };
    Expect::Continued {
        trace_id: text("trace_id").expect("a trace id"),
        parent_id: text("span_id"),
        sampled: sampled.unwrap_or(true),
        random: text("trace_flags")
            .map(|flags| u8::from_str_radix(&flags, 16).expect("flags") & 2 == 2),
        state: state.filter(|_| !odd),
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
    assert!(statuses.values().all(|status| *status == 200), "{statuses:?}");

    let spans = lab.settled(i64::try_from(statuses.len()).expect("few")).await;
    let mut of_path: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &spans {
        of_path.entry(span.attribute("url.path")).or_default().push(span);
    }
    let seen: BTreeMap<String, Seen> =
        lab.app.seen().into_iter().map(|seen| (seen.path.clone(), seen)).collect();
    let mut ran: usize = 0;
    for (number, case) in passable() {
        ran = ran.saturating_add(1);
        for policy in POLICIES {
            let path = format!("/{}/{number}", listener_of(policy, &case.formats));
            let spans = of_path.get(&*path).cloned().unwrap_or_default();
            one(case, policy == "ignore", &seen[&path], &spans);
        }
    }
    println!("{ran} cases ran; HTTP/1.1 or Envoy does not carry {} more", cases.len() - ran);
    assert!(ran * 10 > cases.len() * 8, "only {ran} of {}", cases.len());
    lab.envoy.stop().await;
}

/// Holds what the application saw, and the spans of the request, against the expectation.
#[track_caller]
fn one(case: &Case, always: bool, seen: &Seen, spans: &[&Span]) {
    let traceparent = seen.one("traceparent");
    let fields: Vec<_> = traceparent.split('-').collect();
    let ["00", trace_id, span_id, flags] = *fields else { panic!("{traceparent:?}: {case}") };
    let flags = u8::from_str_radix(flags, 16).expect("flags");
    let (sampled, random) = (flags & 1 == 1, flags & 2 == 2);
    let parent_id = match &case.expect {
        Expect::New { sampled: wanted } => {
            let wanted = wanted.unwrap_or(sampled);
            assert_eq!((sampled, random), (always || wanted, true), "{case}");
            assert!(!case.headers.iter().any(|(_, value)| contains(value, trace_id)), "{case}");
            assert_eq!(seen.all("tracestate"), Vec::<String>::new(), "{case}");
            Some("")
        }
        Expect::Continued { trace_id: wanted, parent_id, sampled: also, random: told, state } => {
            assert_eq!((trace_id, sampled), (&**wanted, always || *also), "{case}");
            assert_eq!(random, told.unwrap_or(random), "{case}");
            if let Some(state) = state {
                assert_eq!(seen.one("tracestate"), *state, "{case}");
            }
            assert_ne!(Some(span_id), parent_id.as_deref(), "{case}");
            parent_id.as_deref()
        }
    };
    match spans {
        [] => assert!(!sampled, "no span: {case}"),
        [span] => {
            assert!(sampled, "a span: {case}");
            assert_eq!((&*span.trace_id, &*span.span_id), (trace_id, span_id), "{case}");
            assert_eq!(span.parent_id, parent_id.unwrap_or(&span.parent_id), "{case}");
            assert_eq!(span.trace_state, seen.one("tracestate"), "{case}");
        }
        _ => panic!("{} spans: {case}", spans.len()),
    }
    nothing_stale(case, trace_id, span_id, seen);
}

/// What stands on the request in the formats that were read is of this span, or not there.
#[track_caller]
fn nothing_stale(case: &Case, trace_id: &str, span_id: &str, seen: &Seen) {
    let headers: Headers =
        seen.headers.iter().filter(|(name, _)| formats::carries_context(name)).cloned().collect();
    for format in &case.formats {
        match extract(&[*format], &Standing::of(&headers)).incoming {
            Incoming::Absent => {}
            Incoming::Context(context) => {
                let parent_id = context.parent_id.map(|id| id.to_string());
                assert_eq!(parent_id.as_deref(), Some(span_id), "{format:?} {seen:#?} {case}");
                let found = context.trace_id.to_string();
                // Some formats have room for 64 bits only.
                let half = format!("{}{}", "0".repeat(16), &trace_id[16..]);
                assert!([trace_id, &half].contains(&&*found), "{format:?} {seen:#?} {case}");
            }
            other => panic!("{format:?} {other:?}: {seen:#?} {case}"),
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
