//! What the Trace Context specification asks of a participant, as a service behind the filter
//! shows it to the next one: with an application that copies the trace headers, and with one that
//! forwards `x-request-id` alone.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::BTreeSet;

use meshweft_lab::app::{Call, Forward, Seen};
use meshweft_lab::client::raw;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::json;

const TRACE: &str = "12345678901234567890123456789012";
const PARENT: &str = "1234567890123456";

/// What must go on.
#[derive(Clone, Debug)]
enum Onward {
    /// The trace, with this `tracestate`.
    Trace(String),
    /// A new trace.
    New,
}

use Onward::{New, Trace};

/// A requirement with the header lines of a request.
type Case = (&'static str, Vec<String>, Onward);

fn parent(value: &str) -> String {
    format!("traceparent: {value}")
}

fn valid() -> String {
    parent(&format!("00-{TRACE}-{PARENT}-01"))
}

/// A `traceparent` of these four fields.
fn fields(version: &str, trace: &str, span: &str, flags: &str) -> Vec<String> {
    vec![parent(&format!("{version}-{trace}-{span}-{flags}"))]
}

fn with_state(states: &[&str]) -> Vec<String> {
    let states = states.iter().map(|state| format!("tracestate: {state}"));
    std::iter::once(valid()).chain(states).collect()
}

fn trace(state: &str) -> Onward {
    Trace(state.to_owned())
}

fn traceparents() -> Vec<Case> {
    let zero = |length| "0".repeat(length);
    let ends =
        |version: &str, tail: &str| vec![parent(&format!("{version}-{TRACE}-{PARENT}-01{tail}"))];
    vec![
        ("nothing comes", vec![], New),
        ("no tracestate", vec![valid()], trace("")),
        ("traceparent twice, alike", vec![valid(), valid()], New),
        (
            "traceparent twice, different",
            vec![valid(), fields("00", &TRACE.replace('9', "8"), PARENT, "01").remove(0)],
            New,
        ),
        ("a name with a hyphen", vec![valid().replace("traceparent", "trace-parent")], New),
        ("a name with a dot", vec![valid().replace("traceparent", "trace.parent")], New),
        ("a name in capitals", vec![valid().replace("traceparent", "TRACEPARENT")], trace("")),
        ("a name in mixed case", vec![valid().replace("traceparent", "TraceParent")], trace("")),
        ("version 00 with an end", ends("00", "."), New),
        ("version 00 with a field more", ends("00", "-what-the-future-will-be-like"), New),
        ("a future version", ends("cc", ""), trace("")),
        (
            "a future version with a field more",
            ends("cc", "-what-the-future-will-be-like"),
            trace(""),
        ),
        ("a future version with an end", ends("cc", ".what"), New),
        ("version ff", ends("ff", ""), New),
        ("a version with a dot", ends(".0", ""), New),
        ("a version with a dot behind", ends("0.", ""), New),
        ("a version too long", ends("000", ""), New),
        ("a version much too long", ends("0000", ""), New),
        ("a version too short", ends("0", ""), New),
        ("a trace id of zeros", fields("00", &zero(32), PARENT, "01"), New),
        ("a trace id with a dot", fields("00", &TRACE.replacen('1', ".", 1), PARENT, "01"), New),
        ("a trace id in capitals", fields("00", &TRACE.replace('1', "A"), PARENT, "01"), New),
        ("a trace id too long", fields("00", &format!("{TRACE}3"), PARENT, "01"), New),
        ("a trace id too short", fields("00", &TRACE[1..], PARENT, "01"), New),
        ("a parent id of zeros", fields("00", TRACE, &zero(16), "01"), New),
        ("a parent id with a dot", fields("00", TRACE, &PARENT.replacen('1', ".", 1), "01"), New),
        ("a parent id too long", fields("00", TRACE, &format!("{PARENT}7"), "01"), New),
        ("a parent id too short", fields("00", TRACE, &PARENT[1..], "01"), New),
        ("flags with a dot", fields("00", TRACE, PARENT, ".0"), New),
        ("flags with a dot behind", fields("00", TRACE, PARENT, "0."), New),
        ("flags too long", fields("00", TRACE, PARENT, "001"), New),
        ("flags too short", fields("00", TRACE, PARENT, "1"), New),
        ("blanks around", vec![format!("traceparent:  \t 00-{TRACE}-{PARENT}-01 \t ")], trace("")),
    ]
}

fn tracestates() -> Vec<Case> {
    let members =
        |count: usize| -> Vec<_> { (1..=count).map(|n| format!("bar{n:02}={n:02}")).collect() };
    let (full, more) = (members(32).join(","), members(33).join(","));
    let key = |length| format!("{}=1", "z".repeat(length));
    let tenant = |tenant, system| format!("{}@{}=1", "t".repeat(tenant), "v".repeat(system));
    let letters = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let printable: String = (' '..='~').filter(|c| !matches!(c, ',' | '=')).collect();
    let allowed = format!("{letters}={}", printable.trim_start());
    let value = |length| format!("a={}", "x".repeat(length));
    let mut cases = vec![
        ("tracestate alone", vec!["tracestate: foo=1".to_owned()], New),
        ("tracestate beside it", with_state(&["foo=1,bar=2"]), trace("foo=1,bar=2")),
        ("a state's name with a hyphen", vec![valid(), "trace-state: foo=1".to_owned()], trace("")),
        (
            "a state's name in capitals",
            vec![valid(), "TRACESTATE: foo=1".to_owned()],
            trace("foo=1"),
        ),
        (
            "a state's name in mixed case",
            vec![valid(), "TraceState: foo=1".to_owned()],
            trace("foo=1"),
        ),
        ("an empty state", with_state(&[""]), trace("")),
        ("an empty state and one", with_state(&["", "foo=1"]), trace("foo=1")),
        ("one and an empty state", with_state(&["foo=1", ""]), trace("foo=1")),
        (
            "several states",
            with_state(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]),
            trace("foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ),
        ("a key twice, alike", with_state(&["foo=1,foo=1"]), trace("foo=1")),
        ("a key twice, different", with_state(&["foo=1,foo=2"]), trace("foo=1")),
        ("a key twice in two headers", with_state(&["foo=1", "foo=2"]), trace("foo=1")),
        (
            "blanks around members",
            with_state(&["foo=1 \t , \t bar=2, \t baz=3"]),
            trace("foo=1,bar=2,baz=3"),
        ),
        ("blanks around the list", with_state(&["\t foo=1\t ", " bar=2 \t"]), trace("foo=1,bar=2")),
        ("keys with illegal letters", with_state(&["foo =1"]), trace("")),
        ("a key in capitals", with_state(&["FOO=1"]), trace("")),
        ("a key with a dot", with_state(&["foo.bar=1"]), trace("")),
        // Level 2 gives the at sign no meaning of its own.
        ("a tenant without a system", with_state(&["foo@=1,bar=2"]), trace("foo@=1,bar=2")),
        ("a system without a tenant", with_state(&["@foo=1,bar=2"]), trace("")),
        ("two tenants", with_state(&["foo@@bar=1,bar=2"]), trace("foo@@bar=1,bar=2")),
        ("three parts", with_state(&["foo@bar@baz=1,bar=2"]), trace("foo@bar@baz=1,bar=2")),
        ("a value with an equals sign", with_state(&["foo=bar=baz"]), trace("")),
        ("no value, of two", with_state(&["foo=,bar=3"]), trace("")),
    ];
    for (name, state, holds) in [
        ("32 members", full, true),
        ("33 members", more, false),
        ("all that is allowed", allowed, true),
        ("a key of 256", key(256), true),
        ("a key of 257", key(257), false),
        ("a tenant of 241 and a system of 14", tenant(241, 14), true),
        ("a tenant of 242", tenant(242, 14), false),
        ("a system of 15", tenant(241, 15), false),
        ("a value of 256", value(256), true),
        ("a value of 257", value(257), false),
    ] {
        let onward = if holds { Trace(state.clone()) } else { trace("") };
        cases.push((name, with_state(&[&state]), onward));
    }
    cases
}

async fn service(forward: Forward) -> Workload {
    let lab =
        Workload::with(&exporting(json!({})), Options { forward, ..Options::default() }).await;
    for path in ["/next/1", "/next/2", "/next/3"] {
        lab.app.call(Call {
            on: "/serve".to_owned(),
            to: lab.envoy.listener("outbound"),
            host: "next".to_owned(),
            path: path.to_owned(),
        });
    }
    lab
}

/// Sends these lines; gives what came to the application, and what its three calls brought on.
async fn pass(lab: &Workload, lines: &[String]) -> Vec<Seen> {
    lab.app.take_seen();
    let lines = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
    let request = format!("GET /serve HTTP/1.1\r\nhost: a\r\n{lines}connection: close\r\n\r\n");
    let answer = raw(lab.envoy.listener("inbound"), request.as_bytes()).await;
    assert_eq!(answer.map(|answer| answer.status), Some(200), "{lines}");
    let seen = lab.app.take_seen();
    assert_eq!(seen.len(), 4, "{seen:#?}");
    seen
}

/// What is wrong with a request on its way to the next service.
fn fault(seen: &Seen, sent: &[String], onward: &Onward) -> Option<String> {
    let (traceparent, states) = (seen.all("traceparent"), seen.all("tracestate"));
    let [traceparent] = &*traceparent else { return Some(format!("traceparents {traceparent:?}")) };
    let fields: Vec<_> = traceparent.split('-').collect();
    let hex = |text: &str, length| {
        text.len() == length
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && text.bytes().any(|b| b != b'0')
    };
    let ["00", trace_id, span_id, "01" | "03"] = *fields else { return Some(traceparent.clone()) };
    if !hex(trace_id, 32) || !hex(span_id, 16) || span_id == PARENT {
        return Some(traceparent.clone());
    }
    let wrong = match onward {
        Trace(state) => {
            let expected: Vec<_> =
                Some(state.clone()).filter(|s| !s.is_empty()).into_iter().collect();
            trace_id != TRACE || states != expected
        }
        // Nothing of the old one may come along.
        New => sent.iter().any(|line| line.contains(trace_id)) || states != ["ot=th:0"],
    };
    wrong.then(|| format!("{traceparent} {states:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_specification_asks_for() {
    for forward in [Forward::TraceContext, Forward::RequestId] {
        let lab = service(forward).await;
        let mut faults = Vec::new();
        let cases = [traceparents(), tracestates()].concat();
        for (name, lines, onward) in &cases {
            let seen = pass(&lab, lines).await;
            for seen in &seen {
                let fault = fault(seen, lines, onward);
                faults.extend(fault.map(|fault| format!("{name}, {}: {fault}", seen.path)));
            }
            // One trace for all calls, and a span of its own for each.
            let of = |part: std::ops::Range<usize>| -> BTreeSet<String> {
                seen.iter().map(|seen| seen.one("traceparent")[part.clone()].to_owned()).collect()
            };
            if (of(3..35).len(), of(36..52).len()) != (1, 4) {
                faults.push(format!("{name}: {seen:#?}"));
            }
        }
        assert_eq!(faults, Vec::<String>::new(), "{forward:?}");
        println!("{forward:?}: {} cases", cases.len());
        lab.envoy.stop().await;
    }
}

/// Requests that come together, with traces of their own, with one between them, or with none.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_together() {
    for forward in [Forward::TraceContext, Forward::RequestId] {
        let lab = service(forward).await;
        let to = lab.envoy.listener("inbound");
        for (lines, traces) in [(valid(), 1), (String::new(), 3), (parent("00-x"), 3)] {
            lab.app.take_seen();
            let request = format!(
                "GET /serve HTTP/1.1\r\nhost: a\r\n{lines}{}connection: close\r\n\r\n",
                if lines.is_empty() { "" } else { "\r\n" }
            );
            let send = || raw(to, request.as_bytes());
            let (one, two, three) = tokio::join!(send(), send(), send());
            for answer in [one, two, three] {
                assert_eq!(answer.map(|answer| answer.status), Some(200));
            }
            let seen = lab.app.take_seen();
            let of = |part: std::ops::Range<usize>| -> BTreeSet<String> {
                seen.iter().map(|seen| seen.one("traceparent")[part.clone()].to_owned()).collect()
            };
            assert_eq!((of(3..35).len(), of(36..52).len()), (traces, 12), "{lines}");
        }
        lab.envoy.stop().await;
    }
}
