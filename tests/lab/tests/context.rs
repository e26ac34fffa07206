//! What goes on to the application: the context in its headers, and nothing stale beside it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeSet;

use meshweft_lab::app::Seen;
use meshweft_lab::client::{Client, Version, raw};
use meshweft_lab::collector::Span;
use meshweft_lab::formats;
use meshweft_lab::mesh::{Workload, exporting};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";
/// The state of a new trace that the rate 1 keeps.
const ALL: &str = "ot=th:0";

/// A proxy, and what has gone through it.
struct Story {
    lab: Workload,
    passed: Vec<Seen>,
}

impl Story {
    async fn new(config: Value) -> Self {
        Self { lab: Workload::start(&config).await, passed: Vec::new() }
    }

    /// Sends exactly these headers; gives the trace context that the application saw, by header.
    async fn pass(&mut self, headers: &[(&str, &str)]) -> Vec<(String, String)> {
        let seen = through(&self.lab, "inbound", headers).await;
        self.passed.push(seen.clone());
        let text = |value| String::from_utf8(value).expect("text");
        let ours = seen.headers.into_iter().filter(|(name, _)| formats::carries_context(name));
        let mut ours: Vec<_> = ours.map(|(name, value)| (name, text(value))).collect();
        ours.sort();
        ours
    }

    /// The spans of all requests so far, in their order; `None`: dropped.
    async fn spans(&self) -> Vec<Option<Span>> {
        let spans = self.lab.settled(i64::try_from(self.passed.len()).expect("few")).await;
        let of = |seen: &Seen| {
            let own = |span: &&Span| seen.one("traceparent").contains(&span.span_id);
            spans.iter().find(own).cloned()
        };
        let of_all: Vec<_> = self.passed.iter().map(of).collect();
        // The parent id that went on is the id of the span: none is left over.
        assert_eq!(of_all.iter().flatten().count(), spans.len());
        of_all
    }
}

async fn through(lab: &Workload, listener: &str, headers: &[(&str, &str)]) -> Seen {
    let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let request = format!("GET /a HTTP/1.1\r\nhost: a\r\n{lines}connection: close\r\n\r\n");
    let answer = raw(lab.envoy.listener(listener), request.as_bytes()).await;
    assert_eq!(answer.map(|answer| answer.status), Some(200), "{headers:?}");
    lab.app.last()
}

fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn traceparent(span: &Span, flags: &str) -> String {
    format!("00-{}-{}-{flags}", span.trace_id, span.span_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_traceparent_restarts_and_one_goes_on() {
    let mut story = Story::new(exporting(json!({}))).await;
    let other = SAMPLED.replace("0af7", "1af7");
    let upper = SAMPLED.to_uppercase();
    let zero_trace = SAMPLED.replace(TRACE, &"0".repeat(32));
    let zero_parent = SAMPLED.replace(PARENT, &"0".repeat(16));
    let [longer, field, dot] = ["0", "-what", "."].map(|end| format!("{SAMPLED}{end}"));
    let invalid_version = SAMPLED.replacen("00", "ff", 1);
    let future_glued = SAMPLED.replacen("00", "cc", 1) + ".what";
    let commas = format!("{SAMPLED},{SAMPLED}");
    let kinds: [&[&str]; 20] = [
        &[""],
        &["garbage"],
        &["-"],
        &[&SAMPLED[..54]],
        &[&SAMPLED[1..]],
        &[&SAMPLED[..52]],
        &[&upper],
        &[&zero_trace],
        &[&zero_parent],
        &[&longer],
        &[&field],
        &[&dot],
        &[&invalid_version],
        &[&future_glued],
        &[&commas],
        &["00_0af7651916cd43dd8448eb211c80319c_00f067aa0ba902b7_01"],
        // Two: the same, others, and a valid one beside an empty one.
        &[SAMPLED, SAMPLED],
        &[SAMPLED, &other],
        &[SAMPLED, ""],
        &["", SAMPLED],
    ];
    let mut forwarded = Vec::new();
    for values in kinds {
        let mut headers: Vec<_> = values.iter().map(|value| ("traceparent", *value)).collect();
        headers.push(("tracestate", "a=1"));
        let ours = story.pass(&headers).await;
        let [(name, value), state] = &*ours else { panic!("{values:?}: {ours:?}") };
        assert_eq!(name, "traceparent");
        assert_eq!(state, &("tracestate".to_owned(), ALL.to_owned()));
        forwarded.push(value.clone());
    }
    let spans = story.spans().await;
    let expected: Vec<_> =
        spans.iter().map(|span| traceparent(span.as_ref().expect("a span"), "03")).collect();
    assert_eq!(forwarded, expected);
    for span in spans.iter().flatten() {
        assert_eq!((&*span.parent_id, &*span.trace_state), ("", ALL));
    }
    let traces: BTreeSet<_> = spans.iter().flatten().map(|span| &span.trace_id).collect();
    assert_eq!((traces.len(), traces.contains(&TRACE.to_owned())), (kinds.len(), false));
    let metrics = story.lab.envoy.metrics_until(|m| m.get("requests") == Some(&20)).await;
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    let counts = ["continued", "missing", "invalid", "restarted"];
    assert_eq!(counts.map(|name| of(&format!("context_{name}"))), [0, 0, 20, 20]);
    story.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_traceparent_goes_on_with_its_state() {
    let mut story = Story::new(exporting(json!({}))).await;
    let members = |count: usize| {
        (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",")
    };
    let [full, too_many] = [members(32), members(33)];
    let [future, future_field] = ["", "-what"].map(|end| SAMPLED.replacen("00", "cc", 1) + end);
    let random = SAMPLED.replace("-01", "-03");
    let all_flags = SAMPLED.replace("-01", "-ff");
    let cases: [(&str, &[&str], &str, &str); 15] = [
        (SAMPLED, &[], "", "01"),
        (SAMPLED, &["a=1"], "a=1", "01"),
        (SAMPLED, &["a=1", "b=2", "c=3,d=4"], "a=1,b=2,c=3,d=4", "01"),
        (SAMPLED, &["c=3", "", "a=1 , b=2"], "c=3,a=1,b=2", "01"),
        (SAMPLED, &["a=1", "b=2", "a=3"], "a=1,b=2", "01"),
        (SAMPLED, &[""], "", "01"),
        (SAMPLED, &["a=1", "Not Valid"], "", "01"),
        (SAMPLED, &[&full], &full, "01"),
        (SAMPLED, &[&too_many], "", "01"),
        (SAMPLED, &[&full, "z=1"], "", "01"),
        (&future, &["a=1"], "a=1", "01"),
        (&future_field, &["a=1"], "a=1", "01"),
        (&random, &["a=1"], "a=1", "03"),
        // Only the flags that we know go on.
        (&all_flags, &[], "", "03"),
        (UNSAMPLED, &["a=1"], "a=1", "00"),
    ];
    let mut forwarded = Vec::new();
    for (parent, states, state, _) in cases {
        let mut headers = vec![("traceparent", parent)];
        headers.extend(states.iter().map(|state| ("tracestate", *state)));
        let mut ours = story.pass(&headers).await;
        if !state.is_empty() {
            let last = ours.pop();
            assert_eq!(last, Some(("tracestate".to_owned(), state.to_owned())), "{states:?}");
        }
        let [(_, value)] = &*ours else { panic!("{states:?}: {ours:?}") };
        forwarded.push(value.clone());
    }
    let spans = story.spans().await;
    for (((_, _, state, flags), forwarded), span) in cases.into_iter().zip(&forwarded).zip(&spans) {
        if flags == "00" {
            assert_eq!(span, &None);
            assert_eq!((&forwarded[..36], &forwarded[52..]), (&UNSAMPLED[..36], "-00"));
            assert_ne!(&forwarded[36..52], PARENT);
            continue;
        }
        let span = span.as_ref().expect("a span");
        assert_eq!(forwarded, &traceparent(span, flags));
        let context = (&*span.trace_id, &*span.parent_id, &*span.trace_state);
        assert_eq!(context, (TRACE, PARENT, state));
    }
    story.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_is_continued_and_rewritten() {
    let mut story = Story::new(exporting(json!({}))).await;
    let low = "8448eb211c80319c";
    let padded = format!("{:0>32}", low);
    let single = |trace: &str, rest: &str| format!("{trace}-{PARENT}{rest}");
    let [sampled, denied, debug, deferred] =
        ["-1", "-0", "-d", ""].map(|state| single(TRACE, state));
    let grandparent = single(TRACE, "-1-05e3ac9a4f6e3b90");
    let short = single(low, "-1");
    // What comes in, the trace that goes on, the decision that goes on.
    let cases = [
        (&*sampled, Some(TRACE), "1"),
        (&grandparent, Some(TRACE), "1"),
        (&short, Some(&*padded), "1"),
        (&deferred, Some(TRACE), "1"),
        (&debug, Some(TRACE), "d"),
        (&denied, Some(TRACE), "0"),
        ("0", None, "0"),
        ("1", None, "1"),
        ("d", None, "d"),
        ("garbage", None, "1"),
    ];
    for (value, trace, state) in cases {
        let mut ours = story.pass(&[("b3", value), ("tracestate", "a=1")]).await;
        if value == "garbage" {
            // Nobody but the rate has decided.
            assert_eq!(ours.pop(), Some(("tracestate".to_owned(), ALL.to_owned())));
        }
        let [(_, b3), (_, parent)] = &*ours else { panic!("{value}: {ours:?}") };
        let ids = parent.get(3..52).expect("ids");
        let end = trace.map_or_else(String::new, |_| format!("-{PARENT}"));
        assert_eq!(b3, &format!("{ids}-{state}{end}"), "{value}");
        assert_eq!(trace.unwrap_or(&ids[..32]), &ids[..32], "{value}");
        // Only a trace of our own is known to be random.
        let flags = u8::from(state != "0") | if trace.is_some() { 0 } else { 2 };
        assert_eq!(parent, &format!("00-{ids}-0{flags}"), "{value}");
    }
    for (state, extra) in
        [("1", ("x-b3-sampled", "1")), ("0", ("x-b3-sampled", "0")), ("d", ("x-b3-flags", "1"))]
    {
        let ours = story
            .pass(&[
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", PARENT),
                ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
                extra,
            ])
            .await;
        let parent = story.passed.last().expect("passed").one("traceparent");
        let span_id = &parent[36..52];
        let flags = if state == "0" { "00" } else { "01" };
        let mut expected = pairs(&[
            ("traceparent", &format!("00-{TRACE}-{span_id}-{flags}")),
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", span_id),
            ("x-b3-parentspanid", PARENT),
            extra,
        ]);
        expected.sort();
        assert_eq!(ours, expected);
    }
    let kept = story.spans().await.iter().map(Option::is_some).collect::<Vec<_>>();
    let mut expected = cases.map(|(_, _, state)| state != "0").to_vec();
    expected.extend([true, false, true]);
    assert_eq!(kept, expected);
    story.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_drops_and_another_ignores_the_parent() {
    let config = exporting(json!({"sampling": {"rate": 1, "rules": [
        {"name": "none", "match": {"headers": {"x-rule": "none"}}, "rate": 0},
        {"name": "all", "match": {"headers": {"x-rule": "all"}}, "parent": "ignore"},
        {"name": "off", "match": {"headers": {"x-rule": "off"}}, "parent": "ignore", "rate": 0},
    ]}}));
    let mut story = Story::new(config).await;
    // The rule, the parent; the flags and the state that go on, the reason.
    let cases: [(&str, &str, &str, &str, Option<&str>); 8] = [
        ("", "", "-03", ALL, Some("default")),
        ("none", "", "-02", "", None),
        // A parent decides before a rate does.
        ("none", SAMPLED, "-01", "", Some("parent")),
        ("", UNSAMPLED, "-00", "", None),
        // To a trace of others no member is added.
        ("all", UNSAMPLED, "-01", "", Some("rule:all")),
        ("all", "", "-03", ALL, Some("rule:all")),
        ("off", SAMPLED, "-00", "", None),
        ("off", "", "-02", "", None),
    ];
    for (rule, parent, flags, state, _) in cases {
        let mut headers = vec![("x-rule", rule)];
        headers.extend((!parent.is_empty()).then_some(("traceparent", parent)));
        let mut ours = story.pass(&headers).await;
        if !state.is_empty() {
            assert_eq!(ours.pop(), Some(("tracestate".to_owned(), state.to_owned())));
        }
        let [(_, value)] = &*ours else { panic!("{rule} {parent}: {ours:?}") };
        assert_eq!(&value[52..], flags, "{rule} {parent}");
        assert_eq!(value[3..35] == *TRACE, !parent.is_empty());
    }
    let said = |span: Span| {
        (span.attribute("meshweft.sampling.reason").to_owned(), span.trace_state.clone())
    };
    assert_eq!(
        story.spans().await.into_iter().map(|span| span.map(said)).collect::<Vec<_>>(),
        cases.map(|(.., state, reason)| Some((reason?.to_owned(), state.to_owned())))
    );
    let metrics =
        story.lab.envoy.metrics_until(|metrics| metrics.get("requests") == Some(&8)).await;
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    assert_eq!(
        ["sampled", "not_sampled", "rule_none", "rule_all", "rule_off"].map(of),
        [4, 4, 2, 2, 2]
    );
    story.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_side_by_side_never_mix() {
    const ROUNDS: usize = 4;
    const REQUESTS: usize = 50;
    let lab = Workload::start(&exporting(json!({}))).await;
    let ids = |number: usize| (format!("{number:032x}"), format!("{number:016x}"));
    // Every third request brings no context.
    let brings = |number: usize| !number.is_multiple_of(3);
    let clients = [("inbound", Version::H1), ("outbound-h2", Version::H2)]
        .map(|(listener, version)| (Client::new(version), lab.envoy.listener(listener)));
    for round in 0..ROUNDS {
        let mut open = JoinSet::new();
        for number in round * REQUESTS + 1..=(round + 1) * REQUESTS {
            for (client, to) in clients.clone() {
                open.spawn(async move {
                    let (trace_id, parent_id) = ids(number);
                    let parent = format!("00-{trace_id}-{parent_id}-01");
                    let headers = [("traceparent", parent.as_bytes())];
                    let headers = if brings(number) { &headers[..] } else { &[] };
                    let path = format!("/delay/{}/{number}", 20 + number % 7);
                    client.get(to, &path, headers).await.map(|answer| answer.status)
                });
            }
        }
        for status in open.join_all().await {
            assert_eq!(status, Ok(200));
        }
    }
    let spans = lab.settled(2 * 4 * 50).await;
    assert_eq!(spans.len(), 2 * ROUNDS * REQUESTS);
    let mut begun = BTreeSet::new();
    for seen in lab.app.seen() {
        let number: usize =
            seen.path.rsplit('/').next().and_then(|n| n.parse().ok()).expect("a number");
        let parent = seen.one("traceparent");
        let span = spans.iter().find(|span| parent.contains(&span.span_id)).expect("its span");
        assert_eq!(parent, traceparent(span, if brings(number) { "01" } else { "03" }));
        if brings(number) {
            let (trace_id, parent_id) = ids(number);
            assert_eq!((&span.trace_id, &span.parent_id), (&trace_id, &parent_id));
            assert_eq!((&*span.trace_state, &*seen.one("tracestate")), ("", ""));
        } else {
            assert_eq!(span.parent_id, "");
            assert_eq!((&*span.trace_state, &*seen.one("tracestate")), (ALL, ALL));
            assert!(begun.insert(span.trace_id.clone()), "a trace of two requests");
        }
        let path = span.attribute("url.path").to_owned() + span.attribute("url.full");
        assert!(path.ends_with(&seen.path), "{path} {}", seen.path);
    }
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_configuration_changes_no_byte() {
    let lab = Workload::start(&json!({})).await;
    let state: [(&str, &str); 5] = [
        ("traceparent", SAMPLED),
        ("tracestate", "a=1"),
        ("tracestate", " b=2,,c=3"),
        ("b3", "0"),
        ("x-b3-traceid", "garbage"),
    ];
    let id = ("x-request-id", "11111111-2222-4333-8444-555555555555");
    for headers in [&state[..], &[], &[("traceparent", "x"), ("traceparent", SAMPLED)]] {
        let mut headers = headers.to_vec();
        headers.push(id);
        let plain = through(&lab, "plain", &headers).await;
        assert_eq!(through(&lab, "inbound", &headers).await, plain);
    }
    let metrics = lab.envoy.metrics_until(|metrics| metrics.get("requests") == Some(&3)).await;
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    assert_eq!(
        ["context_continued", "context_missing", "context_invalid", "context_restarted"].map(of),
        [1, 1, 2, 0],
        "nothing is begun, so nothing is begun anew"
    );
    assert_eq!(["sampled", "not_sampled"].map(of), [0, 0]);
    assert_eq!(lab.collector.spans(), []);
    lab.envoy.stop().await;
}
