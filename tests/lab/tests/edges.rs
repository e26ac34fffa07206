//! At the edges of a mesh: whose context is worth what, what goes out, and the baggage.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::net::{IpAddr, Ipv4Addr};

use meshweft_lab::app::Seen;
use meshweft_lab::client::raw_from;
use meshweft_lab::collector::Span;
use meshweft_lab::formats;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00f067aa0ba902b7";
const TRACEPARENT: (&str, &str) =
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01");
const NOT_SAMPLED: (&str, &str) =
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00");
/// The state of a new trace that the rate 1 keeps.
const ALL: &str = "ot=th:0";
const B3: (&str, &str) = ("b3", "0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-1");

/// Where a client is from.
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A proxy with a listener for each of some settings of `propagation`.
struct Edge {
    lab: Workload,
    sent: i64,
}

impl Edge {
    async fn new(settings: &[(&str, Value)]) -> Self {
        let config = |more: &Value| exporting(json!({"propagation": more}));
        let listeners =
            settings.iter().map(|(name, more)| ((*name).to_owned(), config(more))).collect();
        let options = Options { listeners, workers: 1, ..Options::default() };
        Self { lab: Workload::with(&exporting(json!({})), options).await, sent: 0 }
    }

    /// Sends exactly these headers; gives what the application saw, and the span.
    async fn pass(
        &mut self,
        from: IpAddr,
        listener: &str,
        headers: &[(&str, &str)],
    ) -> (Seen, Option<Span>) {
        let lines: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        let host = if lines.contains("host: ") { "" } else { "host: a\r\n" };
        let request = format!("GET /a HTTP/1.1\r\n{host}{lines}connection: close\r\n\r\n");
        let to = self.lab.envoy.listener(listener);
        let answer = raw_from(from, to, request.as_bytes()).await;
        assert_eq!(answer.map(|answer| answer.status), Some(200), "{headers:?}");
        self.sent += 1;
        let before = self.lab.collector.spans().len();
        let spans = self.lab.settled(self.sent).await;
        let [span] = spans.get(before..).unwrap_or_default() else {
            assert_eq!(spans.len(), before, "one span at most");
            return (self.lab.app.last(), None);
        };
        (self.lab.app.last(), Some(span.clone()))
    }
}

/// The headers of tracing, by name.
fn context(seen: &Seen) -> Vec<(String, String)> {
    let text = |value: &Vec<u8>| String::from_utf8(value.clone()).expect("text");
    let ours = seen.headers.iter().filter(|(name, _)| formats::carries_context(name));
    let mut ours: Vec<_> = ours.map(|(name, value)| (name.clone(), text(value))).collect();
    ours.sort();
    ours
}

fn pairs(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Whether the trace went on; if not, a new one has begun, and nothing of the old one is left.
#[track_caller]
fn continued(seen: &Seen, span: Option<&Span>) -> bool {
    let span = span.expect("a span");
    let traceparent = seen.one("traceparent");
    if span.trace_id == TRACE {
        assert_eq!(traceparent, format!("00-{TRACE}-{}-01", span.span_id));
        assert_eq!((&*span.parent_id, &*span.trace_state), (PARENT, "a=1"));
        assert_eq!(seen.one("tracestate"), "a=1");
        assert_eq!(seen.one("b3"), format!("{TRACE}-{}-1-{PARENT}", span.span_id));
        return true;
    }
    let expected = [
        ("b3", &*format!("{}-{}-1", span.trace_id, span.span_id)),
        ("traceparent", &format!("00-{}-{}-03", span.trace_id, span.span_id)),
        ("tracestate", ALL),
    ];
    assert_eq!(context(seen), pairs(&expected));
    assert_eq!((&*span.parent_id, &*span.trace_state), ("", ALL));
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_is_continued_restarted_or_linked() {
    let mut edge = Edge::new(&[
        ("continue", json!({"trust": "continue"})),
        ("restart", json!({"trust": "restart"})),
        ("link", json!({"trust": "link"})),
    ])
    .await;
    let state = ("tracestate", "a=1");
    let link = vec![(TRACE.to_owned(), PARENT.to_owned())];
    for (listener, goes_on, links) in
        [("continue", true, vec![]), ("restart", false, vec![]), ("link", false, link)]
    {
        let (seen, span) = edge.pass(INSIDE, listener, &[TRACEPARENT, state, B3]).await;
        assert_eq!(continued(&seen, span.as_ref()), goes_on, "{listener}");
        assert_eq!(span.map(|span| span.links), Some(links.clone()), "{listener}");

        // Without trust the caller's decision counts as little as its ids.
        let (seen, span) = edge.pass(INSIDE, listener, &[NOT_SAMPLED]).await;
        assert_eq!(span.is_some(), !goes_on, "{listener}");
        assert_eq!(seen.one("traceparent").contains(TRACE), goes_on, "{listener}");
        assert_eq!(span.map(|span| span.links), (!goes_on).then_some(links), "{listener}");

        // There is nothing to link to.
        for headers in [&[][..], &[("traceparent", "garbage")], &[("b3", "1")]] {
            let (_, span) = edge.pass(INSIDE, listener, headers).await;
            let span = span.expect("a span");
            assert_eq!((&*span.parent_id, span.links), ("", vec![]), "{listener} {headers:?}");
        }
    }
    let metrics = edge.lab.envoy.metrics_until(|m| m.get("requests") == Some(&15)).await;
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    let counts = ["continued", "missing", "invalid", "restarted"];
    assert_eq!(counts.map(|name| of(&format!("context_{name}"))), [2, 6, 3, 7]);
    edge.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_trusts_only_what_is_inside() {
    let rules = json!([
        {"match": {"source": "127.0.0.1"}, "trust": "continue"},
        {"match": {"headers": {"x-partner": {"present": true}}}, "trust": "link"},
        {"trust": "restart"},
    ]);
    let mut edge = Edge::new(&[("edge", json!({"trust": rules}))]).await;
    let all = [TRACEPARENT, ("tracestate", "a=1"), B3];
    let partner = [&all[..], &[("x-partner", "1")]].concat();
    let link = vec![(TRACE.to_owned(), PARENT.to_owned())];
    for (from, headers, goes_on, links) in [
        (INSIDE, &all[..], true, vec![]),
        (OUTSIDE, &all, false, vec![]),
        (INSIDE, &partner, true, vec![]),
        (OUTSIDE, &partner, false, link),
    ] {
        let (seen, span) = edge.pass(from, "edge", headers).await;
        assert_eq!(continued(&seen, span.as_ref()), goes_on, "{from}");
        assert_eq!(span.map(|span| span.links), Some(links), "{from}");
    }
    edge.lab.envoy.stop().await;
}

/// The source is what Envoy takes for the client: where it does not use the address of the
/// connection, a client says itself where it is from.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_is_what_envoy_takes_for_it() {
    let rules = json!([
        {"match": {"source": "127.0.0.1"}, "trust": "continue"},
        {"trust": "restart"},
    ]);
    let claims = ("x-forwarded-for", "127.0.0.1");
    for (connection, believed) in [(true, false), (false, true)] {
        let config = exporting(json!({"propagation": {"trust": rules}}));
        let manager = json!({"use_remote_address": connection});
        let options = Options { manager, workers: 1, ..Options::default() };
        let mut edge = Edge { lab: Workload::with(&config, options).await, sent: 0 };
        let all = [TRACEPARENT, ("tracestate", "a=1"), B3, claims];
        let (seen, span) = edge.pass(OUTSIDE, "inbound", &all).await;
        assert_eq!(continued(&seen, span.as_ref()), believed, "{connection}");
        edge.lab.envoy.stop().await;
    }
}

/// Something in each header of each format, valid or not.
fn everything() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = formats::HEADERS.iter().map(|name| (*name, "1")).collect();
    all.retain(|(name, _)| !["traceparent", "baggage"].contains(name));
    all.extend([TRACEPARENT, ("baggage", "a=1"), ("uberctx-a", "1"), ("ot-baggage-a", "1")]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_leaves_no_header_of_any_format() {
    let mut edge =
        Edge::new(&[("restart", json!({"trust": "restart"})), ("link", json!({"trust": "link"}))])
            .await;
    for listener in ["restart", "link"] {
        // Formats that are read here, and those that somebody behind may read.
        let (seen, span) = edge.pass(INSIDE, listener, &everything()).await;
        let span = span.expect("a span");
        assert_ne!(span.trace_id, TRACE);
        let expected = pairs(&[
            ("b3", &format!("{}-{}-1", span.trace_id, span.span_id)),
            ("baggage", "a=1"),
            ("jaeger-baggage", "1"),
            ("ot-baggage-a", "1"),
            ("sw8-correlation", "1"),
            ("traceparent", &format!("00-{}-{}-03", span.trace_id, span.span_id)),
            ("tracestate", ALL),
            ("uberctx-a", "1"),
            ("x-b3-sampled", "1"),
            ("x-b3-spanid", &span.span_id),
            ("x-b3-traceid", &span.trace_id),
        ]);
        assert_eq!(context(&seen), expected, "{listener}");

        let foreign = [("uber-trace-id", "1:2:0:1"), ("x-amzn-trace-id", "1"), ("sw8", "")];
        let (seen, span) = edge.pass(INSIDE, listener, &foreign).await;
        let span = span.expect("a span");
        let alone = format!("00-{}-{}-03", span.trace_id, span.span_id);
        let expected = pairs(&[("traceparent", &alone), ("tracestate", ALL)]);
        assert_eq!(context(&seen), expected, "{listener}");
    }
    edge.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_context_goes_to_a_host_outside() {
    let strip = json!({"egress": {"strip": ["*.example.com", "api.example.org"]}});
    let mut edge = Edge::new(&[("egress", strip)]).await;
    for (host, outside) in [
        ("api.example.com", true),
        ("a.b.example.com", true),
        ("API.Example.COM:8443", true),
        ("api.example.org:443", true),
        ("example.com", false),
        ("api.example.com.shop.local", false),
        ("www.example.org", false),
        ("shop", false),
    ] {
        let headers = [&everything()[..], &[("host", host)]].concat();
        let (seen, span) = edge.pass(INSIDE, "egress", &headers).await;
        let span = span.expect("a span");
        assert_eq!((&*span.trace_id, &*span.parent_id), (TRACE, PARENT), "{host}");
        if outside {
            assert_eq!(context(&seen), [], "{host}");
        } else {
            let onward = format!("00-{TRACE}-{}-01", span.span_id);
            assert_eq!(seen.one("traceparent"), onward, "{host}");
            assert_eq!(seen.one("baggage"), "a=1", "{host}");
        }
        // What is not of tracing goes on.
        assert_eq!(seen.one("host"), host);
    }
    edge.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn baggage_passes_is_dropped_or_is_chosen() {
    let mut edge = Edge::new(&[
        ("pass", json!({})),
        ("drop", json!({"baggage": "drop"})),
        ("allow", json!({"baggage": {"allow": ["tenant"], "attributes": ["tenant", "user"]}})),
    ])
    .await;
    let sent = [
        ("baggage", "tenant=a%20b;p=1, user=u"),
        ("baggage", "x=1"),
        ("ot-baggage-user", "o"),
        ("uberctx-tenant", "j"),
    ];
    let all = [("baggage", "tenant=a%20b;p=1,user=u,x=1"), sent[2], sent[3]];
    let chosen = [("baggage", "tenant=a%20b;p=1"), sent[3]];
    for (listener, expected, attributes) in [
        ("pass", &all[..], ["", ""]),
        ("drop", &[], ["", ""]),
        // What the span says need not go on.
        ("allow", &chosen, ["a b", "u"]),
    ] {
        let (seen, span) = edge.pass(INSIDE, listener, &sent).await;
        let mut onward = context(&seen);
        onward.retain(|(name, _)| name.contains("baggage") || name.contains("uberctx"));
        let (lists, keyed): (Vec<_>, Vec<_>) =
            onward.into_iter().partition(|(name, _)| name == "baggage");
        // One list, in however many headers.
        let members = lists.iter().flat_map(|(_, list)| list.split(','));
        let list = members.map(str::trim).collect::<Vec<_>>().join(",");
        let list = (!list.is_empty()).then(|| ("baggage".to_owned(), list));
        assert_eq!(
            list.into_iter().chain(keyed).collect::<Vec<_>>(),
            pairs(expected),
            "{listener}"
        );
        let span = span.expect("a span");
        assert_eq!(["tenant", "user"].map(|key| span.attribute(key)), attributes, "{listener}");
    }
    edge.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn baggage_stays_within_its_limits() {
    let mut edge = Edge::new(&[("pass", json!({}))]).await;
    let members = |count: usize| {
        (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",")
    };
    let [most, too_many] = [members(64), members(65)];
    let [longest, too_long] = [8192, 8193].map(|length| format!("k={}", "v".repeat(length - 2)));
    for (baggage, expected) in
        [(&most, &*most), (&too_many, &most), (&longest, &longest), (&too_long, "")]
    {
        let (seen, _) = edge.pass(INSIDE, "pass", &[("baggage", baggage)]).await;
        let onward = seen.one("baggage");
        assert!(onward == expected, "{baggage:.20} {} {}", baggage.len(), onward.len());
    }
    edge.lab.envoy.stop().await;
}
