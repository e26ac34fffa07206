//! Applications that forward `x-request-id` alone: their calls join the traces they belong to.
//!
//! The truth travels in `x-truth`, which applications forward too and of which the filter is not
//! told: the trace that a request came with.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;

use bytes::Bytes;
use meshweft_lab::app::{Call, Forward, Seen};
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{cluster, ecds_resource, meshweft_by_ecds};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::native;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A service whose application forwards `x-request-id` alone. For a path below `/one` it makes
/// one call, for one below `/two` two; they go to `/called/…`, to itself.
async fn service(config: Value, options: Options) -> Workload {
    let lab = Workload::with(&config, Options { forward: Forward::RequestId, ..options }).await;
    for (on, path) in
        [("/one", "/called/once"), ("/two", "/called/first"), ("/two", "/called/second")]
    {
        call(&lab, on, path);
    }
    lab
}

fn call(lab: &Workload, on: &str, path: &str) {
    lab.app.call(Call {
        on: on.to_owned(),
        to: lab.envoy.listener("outbound"),
        host: "called".to_owned(),
        path: path.to_owned(),
    });
}

fn trace(number: usize) -> String {
    format!("{:032x}", 0x0af7_6519_0000_0000_0000_0000_0000_0000_u128 + number as u128)
}

/// An id as Envoy makes one.
fn uuid(number: usize) -> String {
    format!("6f9d2c1e-0c33-4f7a-9a53-{number:012x}")
}

/// A request from outside, of the trace of this number.
struct From<'a> {
    path: &'a str,
    trace: usize,
    key: &'a str,
    flags: &'a str,
    state: &'a str,
}

impl From<'_> {
    async fn send(&self, client: &Client, to: SocketAddr) {
        let trace = trace(self.trace);
        let traceparent = format!("00-{trace}-00f067aa0ba902b7-{}", self.flags);
        let headers = [
            ("traceparent", traceparent.as_bytes()),
            ("tracestate", self.state.as_bytes()),
            ("x-request-id", self.key.as_bytes()),
            ("x-truth", trace.as_bytes()),
        ];
        let answer = client.get(to, self.path, &headers).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(200), "{}", self.path);
    }
}

/// A request with a trace and a key of its own.
async fn send(client: &Client, lab: &Workload, path: &str, number: usize) {
    let (to, key) = (lab.envoy.listener("inbound"), uuid(number));
    From { path, trace: number, key: &key, flags: "01", state: "" }.send(client, to).await;
}

/// What the application's calls carried on their way to the next service.
fn called(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter().filter(|seen| seen.path.starts_with("/called")).collect()
}

fn trace_of(seen: &Seen) -> String {
    seen.one("traceparent")[3..35].to_owned()
}

/// How many calls joined the trace that they belong to, and how many began one; panics where one
/// joined another's.
fn judge(seen: &[Seen]) -> (usize, usize) {
    let truths: BTreeSet<_> = seen.iter().map(|seen| seen.one("x-truth")).collect();
    let (mut joined, mut begun) = (0, 0);
    for call in called(seen) {
        let (trace, truth) = (trace_of(call), call.one("x-truth"));
        if trace == truth {
            joined += 1;
        } else {
            assert!(!truths.contains(&trace), "{truth} joined {trace}: {call:?}");
            begun += 1;
        }
    }
    (joined, begun)
}

fn clients(spans: &[Span]) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == "CLIENT").collect()
}

fn server<'a>(spans: &'a [Span], of: &Span) -> &'a Span {
    let mut servers =
        spans.iter().filter(|span| span.kind == "SERVER" && span.trace_id == of.trace_id);
    let found = servers.next().expect("a server's span in the trace");
    assert!(servers.next().is_none(), "one server's span in the trace");
    found
}

fn how(span: &Span) -> [&str; 2] {
    [span.attribute("meshweft.correlation"), span.attribute("meshweft.correlation.confidence")]
}

async fn outcome(lab: &Workload) -> [i64; 4] {
    let metrics = lab.envoy.metrics_until(|_| true).await;
    let names =
        ["context_correlated", "context_ambiguous", "correlation_unmatched", "correlation_evicted"];
    names.map(|name| metrics.get(name).copied().unwrap_or(0))
}

// === The context, to the letter ===

const CALLER_STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_carries_what_a_forwarded_header_would_have_brought() {
    let lab = service(exporting(json!({})), Options::default()).await;
    let client = Client::new(Version::H1);
    let to = lab.envoy.listener("inbound");
    let mut sent = 0;
    for flags in ["00", "01", "02", "03"] {
        for path in ["/one", "/two", "/two/parallel", "/one/background"] {
            let key = uuid(sent);
            From { path, trace: sent, key: &key, flags, state: CALLER_STATE }
                .send(&client, to)
                .await;
            sent += 1;
        }
    }
    // Four paths make six calls, by way of the outbound listener each.
    let spans = lab.settled(4 * (4 + 6)).await;
    let seen = lab.app.seen();
    assert_eq!(judge(&seen), (24, 0));
    for seen in &seen {
        let number = (0..sent).find(|n| trace(*n) == seen.one("x-truth")).expect("a trace");
        assert_eq!(seen.one("tracestate"), CALLER_STATE);
        assert_eq!(seen.one("traceparent")[53..], *["00", "01", "02", "03"][number / 4]);
    }
    // What the caller dropped is dropped on both sides.
    assert_eq!((spans.len(), clients(&spans).len()), (20, 12));
    for span in clients(&spans) {
        assert_eq!(span.parent_id, server(&spans, span).span_id);
        assert_eq!((how(span), &*span.trace_state), (["header", "1"], CALLER_STATE));
        assert_eq!(span.attributes.get("meshweft.correlation.candidates"), None);
    }
    assert_eq!(outcome(&lab).await, [24, 0, 0, 0]);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_and_a_new_trace_join_too() {
    let routes = vec![json!({"match": {"prefix": "/called/flaky"}, "route": {
        "cluster": "app", "retry_policy": {"retry_on": "5xx", "num_retries": 2}}})];
    let lab = service(exporting(json!({})), Options { routes, ..Options::default() }).await;
    call(&lab, "/retried", "/called/flaky/2");
    let client = Client::new(Version::H1);
    let to = lab.envoy.listener("inbound");
    // Without anything from outside: Envoy makes the id, and the filter the trace.
    let answer = client.get(to, "/retried", &[]).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let spans = lab.settled(2).await;
    let [client] = *clients(&spans) else { panic!("{spans:#?}") };
    assert_eq!(client.parent_id, server(&spans, client).span_id);
    assert_eq!(client.attribute("envoy.attempt_count"), "3");
    let seen = lab.app.seen();
    let attempts: BTreeSet<_> = called(&seen).iter().map(|seen| seen.one("traceparent")).collect();
    assert_eq!(attempts, [format!("00-{}-{}-03", client.trace_id, client.span_id)].into());
    assert!(seen.iter().all(|seen| seen.one("tracestate") == "ot=th:0"), "{seen:#?}");
    lab.envoy.stop().await;
}

// === Over HTTP/2 ===

/// What is sent over HTTP/2: method, path and headers beside those of the trace.
type Sent = (&'static str, &'static str, &'static [(&'static str, &'static [u8])]);

/// An application to which HTTP/2 is spoken, and which speaks it: it calls this path for each
/// request, of which there are twelve at once on one connection. Gives the spans.
async fn over_http_2((method, path, more): Sent, called_path: &str) -> Vec<Span> {
    let lab = service(exporting(json!({})), Options { workers: 4, ..Options::default() }).await;
    lab.app.call(Call {
        on: path.to_owned(),
        to: lab.envoy.listener("outbound-h2"),
        host: "called".to_owned(),
        path: called_path.to_owned(),
    });
    let (client, to) = (Client::new(Version::H2), lab.envoy.listener("inbound-h2"));
    let one = |number: usize| {
        let client = client.clone();
        async move {
            let (trace, key) = (trace(number), uuid(number));
            let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
            let headers: [(&str, &[u8]); 4] = [
                ("traceparent", traceparent.as_bytes()),
                ("tracestate", CALLER_STATE.as_bytes()),
                ("x-request-id", key.as_bytes()),
                ("x-truth", trace.as_bytes()),
            ];
            let headers = [&headers[..], more].concat();
            let answer = client.send(method, to, path, &headers, Bytes::new()).await;
            assert_eq!(answer.map(|answer| answer.status), Ok(200));
        }
    };
    // The first makes the connection.
    one(0).await;
    (1..13).map(one).collect::<JoinSet<_>>().join_all().await;
    let spans = lab.settled(2 * 13).await;
    let seen = lab.app.seen();
    assert_eq!(judge(&seen), (13, 0));
    let clients = clients(&spans);
    assert_eq!((clients.len(), spans.len()), (13, 26));
    for span in clients {
        let parent = server(&spans, span);
        assert_eq!((&span.parent_id, how(span)), (&parent.span_id, ["header", "1"]));
        for span in [span, parent] {
            assert_eq!(span.attribute("network.protocol.version"), "2");
            assert_eq!(span.trace_state, CALLER_STATE);
        }
        // What went on says so too.
        let (trace_id, span_id) = (&span.trace_id, &span.span_id);
        let traceparent = format!("00-{trace_id}-{span_id}-01");
        let seen: Vec<_> =
            seen.iter().filter(|seen| seen.one("traceparent") == traceparent).collect();
        let [seen] = *seen else { panic!("{traceparent}: {seen:#?}") };
        assert_eq!((&*seen.path, &*seen.method), (called_path, method));
        assert_eq!(seen.one("tracestate"), CALLER_STATE);
    }
    assert_eq!(outcome(&lab).await, [13, 0, 0, 0]);
    lab.envoy.stop().await;
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_http_2_join() {
    over_http_2(("GET", "/h2", &[]), "/called/over-h2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_join() {
    const GRPC: Sent =
        ("POST", "/shop.Orders/Get", &[("content-type", b"application/grpc"), ("te", b"trailers")]);
    let spans = over_http_2(GRPC, "/called.Stock/Get").await;
    for span in &spans {
        let name = if span.kind == "CLIENT" { "called.Stock/Get" } else { "shop.Orders/Get" };
        assert_eq!((&*span.name, span.attribute("rpc.grpc.status_code")), (name, "0"));
    }
}

// === Time ===

/// A request is remembered while it is open, however long, and for a while after.
#[tokio::test(flavor = "multi_thread")]
async fn open_for_long_over_for_a_moment_and_over_for_long() {
    let config = exporting(json!({"correlation": {"linger": "500ms"}}));
    let patient =
        json!({"match": {"prefix": "/one"}, "route": {"cluster": "app", "timeout": "0s"}});
    let lab = service(config, Options { routes: vec![patient], ..Options::default() }).await;
    let client = Client::new(Version::H1);
    tokio::join!(
        send(&client, &lab, "/one/late/6000", 1),
        send(&client, &lab, "/one/background/late/300", 2),
        send(&client, &lab, "/one/background/late/5000", 3),
    );
    lab.settled(6).await;
    let seen = lab.app.seen();
    assert_eq!(judge(&seen), (2, 1));
    let begun = called(&seen).into_iter().find(|seen| trace_of(seen) != seen.one("x-truth"));
    assert_eq!(begun.map(|seen| seen.one("x-truth")), Some(trace(3)));
    assert_eq!(outcome(&lab).await, [2, 0, 1, 0]);
    // The key of what is forgotten is as good as new.
    let key = uuid(3);
    let again = From { path: "/one", trace: 4, key: &key, flags: "01", state: "" };
    again.send(&client, lab.envoy.listener("inbound")).await;
    assert_eq!(judge(&lab.app.seen()), (3, 1));
    lab.envoy.stop().await;
}

/// Envoy keeps the old configuration, and its ticks, for as long as a request is open that began
/// under it: what is remembered of that is renewed, and its calls, which are served by the new one,
/// join.
#[tokio::test(flavor = "multi_thread")]
async fn open_for_long_while_the_configuration_changes() {
    let config = |service: &str| {
        exporting(json!({"service": {"name": service}, "correlation": {"linger": "500ms"}}))
    };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("meshweft.json");
    Envoy::replace_file(&file, &ecds_resource(&config("before"), "first").to_string());
    let patient =
        json!({"match": {"prefix": "/one"}, "route": {"cluster": "app", "timeout": "0s"}});
    let filter = Some(meshweft_by_ecds(&file));
    let options = Options { routes: vec![patient], filter, ..Options::default() };
    let lab = service(config("before"), options).await;
    let client = Client::new(Version::H1);
    let change = async {
        lab.envoy.metrics_until(|metrics| metrics.get("correlation_remembered") == Some(&1)).await;
        Envoy::replace_file(&file, &ecds_resource(&config("after"), "next").to_string());
    };
    tokio::join!(send(&client, &lab, "/one/late/8000", 1), change);
    let spans = lab.settled(2).await;
    assert_eq!(judge(&lab.app.seen()), (1, 0));
    let [span] = *clients(&spans) else { panic!("{spans:#?}") };
    let parent = server(&spans, span);
    assert_eq!((&span.parent_id, how(span)), (&parent.span_id, ["header", "1"]));
    assert_eq!([parent.service(), span.service()], ["before", "after"]);
    lab.envoy.stop().await;
}

// === Keys that several requests share ===

/// A client that retries, or hedges: one trace, one key, two requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_one_trace_shares() {
    let lab = service(exporting(json!({})), Options::default()).await;
    let client = Client::new(Version::H1);
    let to = lab.envoy.listener("inbound");
    let twice = |path| From { path, trace: 1, key: "shared", flags: "01", state: "a=1" };
    twice("/none").send(&client, to).await;
    twice("/one").send(&client, to).await;
    let spans = lab.settled(3).await;
    assert_eq!(judge(&lab.app.seen()), (1, 0));
    let [span] = *clients(&spans) else { panic!("{spans:#?}") };
    let of = |path: &str| {
        let own =
            spans.iter().find(|span| span.attributes.get("url.path").is_some_and(|p| p == path));
        own.map(|span| span.span_id.clone()).expect("a span of this path")
    };
    assert_eq!(span.parent_id, of("/one"));
    assert_eq!(
        span.links.iter().map(|l| (&*l.0, &*l.1)).collect::<Vec<_>>(),
        [(&*trace(1), &*of("/none"))]
    );
    assert_eq!(how(span), ["header", "0.5"]);
    assert_eq!(span.attribute("meshweft.correlation.candidates"), "2");
    lab.envoy.stop().await;
}

/// The application calls a service that calls it back, and then makes another call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_back() {
    let detour = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let back = detour.local_addr().expect("an address");
    let options = Options {
        routes: vec![json!({"match": {"prefix": "/detour"},
            "route": {"cluster": "back", "prefix_rewrite": "/inner"}})],
        clusters: vec![cluster("back", back)],
        ..Options::default()
    };
    let lab = service(exporting(json!({})), options).await;
    call(&lab, "/outer", "/detour");
    call(&lab, "/outer", "/called/after");
    call(&lab, "/inner", "/called/inside");
    let home = lab.envoy.listener("inbound");
    let relay = tokio::spawn(async move {
        while let Ok((mut from, _)) = detour.accept().await {
            let mut to = tokio::net::TcpStream::connect(home).await.expect("the listener");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    send(&Client::new(Version::H1), &lab, "/outer", 1).await;
    // outer in, inner out and in, called inside, called after
    let spans = lab.settled(5).await;
    assert_eq!(judge(&lab.app.seen()), (2, 0));
    assert!(spans.iter().all(|span| span.trace_id == trace(1)), "{spans:#?}");
    let by = |what: &str| {
        let ends = |span: &&Span| {
            let url = span.attributes.get("url.path").or_else(|| span.attributes.get("url.full"));
            url.is_some_and(|url| url.ends_with(what))
        };
        spans.iter().filter(ends).collect::<Vec<_>>()
    };
    let parent =
        |span: &Span| spans.iter().find(|p| p.span_id == span.parent_id).map(|p| p.kind.clone());
    let [inside] = *by("/called/inside") else { panic!("{spans:#?}") };
    // The newest request is the inner one, whose caller is ours.
    let inner = by("/inner");
    let inner_in = inner.iter().find(|span| span.kind == "SERVER").expect("the inner request");
    assert_eq!(inside.parent_id, inner_in.span_id);
    assert_eq!(parent(inner_in).as_deref(), Some("CLIENT"));
    let [after] = *by("/called/after") else { panic!("{spans:#?}") };
    assert_eq!(parent(after).as_deref(), Some("SERVER"));
    assert_eq!((how(after), after.links.len()), (["header", "0.5"], 1));
    relay.abort();
    lab.envoy.stop().await;
}

/// A client that sends one constant, in requests of many traces at once and one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_traces_share_joins_none_and_links_all() {
    let lab = service(exporting(json!({})), Options::default()).await;
    let client = Client::new(Version::H1);
    let to = lab.envoy.listener("inbound");
    // The first has the key alone; the second while the first is remembered.
    for number in 0..2 {
        From { path: "/one", trace: number, key: "test", flags: "01", state: "" }
            .send(&client, to)
            .await;
    }
    let seen = lab.app.seen();
    assert_eq!(judge(&seen), (1, 1));
    let mut open = JoinSet::new();
    for number in 2..14 {
        let client = client.clone();
        open.spawn(async move {
            From { path: "/one/late/300", trace: number, key: "test", flags: "01", state: "" }
                .send(&client, to)
                .await;
        });
    }
    open.join_all().await;
    let spans = lab.settled(28).await;
    assert_eq!(judge(&lab.app.seen()), (1, 13));
    let ambiguous: Vec<_> =
        clients(&spans).into_iter().filter(|span| how(span)[0] == "ambiguous").collect();
    assert_eq!(ambiguous.len(), 13);
    let truths: BTreeSet<_> = (0..14).map(trace).collect();
    let mut full = 0;
    for span in ambiguous {
        assert_eq!(span.parent_id, "");
        assert!(!truths.contains(&span.trace_id));
        let links: BTreeSet<_> = span.links.iter().map(|link| link.0.clone()).collect();
        assert_eq!(links.len(), span.links.len());
        assert!(links.is_subset(&truths), "{links:?}");
        full += usize::from(links.len() == 8);
        assert!((2..=8).contains(&links.len()), "{links:?}");
    }
    assert_eq!(full, 12);
    assert_eq!(outcome(&lab).await, [1, 13, 0, 0]);
    lab.envoy.stop().await;
}

// === What else stands in the proxy ===

/// Envoy's native tracer writes its trace status into the id, here on the application's side only.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_tracer_on_one_side_does_not_part_the_keys() {
    let config = exporting(json!({}));
    for direction in ["inbound", "outbound"] {
        let manager = json!({"tracing": native::tracing("native", 100.0)});
        let managers = vec![(direction.to_owned(), manager)];
        let lab = service(config.clone(), Options { managers, ..Options::default() }).await;
        send(&Client::new(Version::H1), &lab, "/one", 1).await;
        lab.envoy.metrics_until(|metrics| metrics.get("exported") == Some(&2)).await;
        let mut spans = lab.collector.spans();
        spans.retain(|span| span.service() == "lab");
        let [span] = *clients(&spans) else { panic!("{spans:#?}") };
        assert_eq!(span.parent_id, server(&spans, span).span_id, "{direction}");
        assert_eq!(how(span), ["header", "1"], "{direction}");
        let ids: BTreeSet<_> = lab.app.seen().iter().map(|seen| seen.one("x-request-id")).collect();
        assert_eq!(ids.len(), if direction == "outbound" { 2 } else { 1 }, "{ids:?}");
        lab.envoy.stop().await;
    }
}

/// A plugin without a VM id of its own, which writes into half of our buckets with each
/// request, before us: bytes of its own, and ours with one byte changed. A bucket that it writes to
/// keeps next to nothing; the other half shows that what it does stays there.
const STRANGER: &str = r#"(module
  (import "env" "proxy_get_shared_data"
    (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data"
    (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 0) "meshweft/1/correlation/0")
  (data (i32.const 2048) "\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\00\00\00\00")
  (global $turn (mut i32) (i32.const 0))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "_initialize"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 131072))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (local $bucket i32) (local $at i32) (local $size i32)
    (global.set $turn (i32.add (global.get $turn) (i32.const 1)))
    (loop $next
      (i32.store8 (i32.const 23) (i32.add (local.get $bucket) (i32.const 48)))
      (if (i32.and (global.get $turn) (i32.const 3))
        (then
          (drop (call $get (i32.const 0) (i32.const 24) (i32.const 1024) (i32.const 1028) (i32.const 1032)))
          (local.set $size (i32.load (i32.const 1028)))
          (if (local.get $size)
            (then
              (local.set $at (i32.add (i32.const 131072)
                (i32.rem_u (i32.mul (global.get $turn) (i32.const 13)) (local.get $size))))
              (i32.store8 (local.get $at) (i32.xor (i32.load8_u (local.get $at)) (i32.const 16)))
              (drop (call $set (i32.const 0) (i32.const 24) (i32.const 131072) (local.get $size) (i32.const 0))))))
        (else
          (drop (call $set (i32.const 0) (i32.const 24) (i32.const 2048)
            (i32.rem_u (global.get $turn) (i32.const 100)) (i32.const 0)))))
      (local.set $bucket (i32.add (local.get $bucket) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $bucket) (i32.const 4))))
    (i32.const 0)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_store_costs_joins_and_nothing_else() {
    const REQUESTS: usize = 400;
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("stranger.wasm");
    fs::write(&module, wat::parse_str(STRANGER).expect("a module")).expect("written");
    let stranger = json!({"name": "stranger", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "config": {"name": "stranger", "root_id": "stranger", "vm_config": {
            "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}}}}}});
    let config = exporting(json!({"correlation": {"capacity": 64}}));
    let options = Options { before: vec![stranger], workers: 2, ..Options::default() };
    let lab = service(config, options).await;
    every(&lab, "/two", 0..REQUESTS, 8).await;
    let (joined, begun) = judge(&lab.app.seen());
    assert_eq!(joined + begun, 2 * REQUESTS);
    // Neither all nor none: it was there, and it was not everywhere.
    assert!(joined > 0 && begun > 0, "{joined} joined, {begun} begun");
    let metrics =
        lab.envoy.metrics_until(|m| m.get("requests") == Some(&(3 * REQUESTS as i64))).await;
    assert_eq!(metrics["context_correlated"], joined as i64);
    assert!(!lab.envoy.log().contains("Function:"), "{}", lab.envoy.log());
    lab.envoy.stop().await;
}

// === Load ===

/// Sends requests with these numbers, so many at once.
async fn every(lab: &Workload, path: &str, numbers: std::ops::Range<usize>, at_once: usize) {
    let to = lab.envoy.listener("inbound");
    let mut all = JoinSet::new();
    for worker in 0..at_once {
        let (path, numbers) = (path.to_owned(), numbers.clone());
        all.spawn(async move {
            // A pool of its own is a connection of its own, so that all workers have some.
            let client = Client::new(Version::H1);
            for number in numbers.skip(worker).step_by(at_once) {
                let key = uuid(number);
                From { path: &path, trace: number, key: &key, flags: "00", state: "a=1" }
                    .send(&client, to)
                    .await;
            }
        });
    }
    all.join_all().await;
}

/// Resident memory in KiB.
fn memory(envoy: &Envoy) -> u64 {
    let pid = envoy.pid().expect("Envoy runs");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a number")
}

/// How many requests [`under_load_every_call_joins`] sends; `LAB_CORRELATED_REQUESTS` says another.
const LOAD: usize = 6_000;

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_call_joins() {
    const ROUND: usize = 1_000;
    let total = std::env::var("LAB_CORRELATED_REQUESTS");
    let total = total.map_or(LOAD, |total| total.parse().expect("a number of requests"));
    // However slow the machine is meanwhile: what counts is where calls belong.
    let patient = json!({"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}});
    let options = Options { routes: vec![patient], workers: 4, ..Options::default() };
    let lab = service(exporting(json!({})), options).await;
    let mut sizes = Vec::new();
    let mut sums = (0, 0);
    for (round, at_once) in (0..total / ROUND).zip([64, 1, 8, 32, 64, 16].into_iter().cycle()) {
        every(&lab, "/two", round * ROUND..(round + 1) * ROUND, at_once).await;
        let (joined, begun) = judge(&lab.app.take_seen());
        sums = (sums.0 + joined, sums.1 + begun);
        sizes.push(memory(&lab.envoy));
    }
    let rounds = total / ROUND;
    println!("{rounds} rounds of {ROUND}: {sums:?} joined and begun; KiB {sizes:?}");
    assert_eq!(sums, (2 * rounds * ROUND, 0));
    let calls = i64::try_from(2 * rounds * ROUND).expect("few");
    let metrics = lab.envoy.metrics_until(|m| m.get("requests") == Some(&(calls / 2 * 3))).await;
    assert_eq!(metrics["context_correlated"], calls);
    assert_eq!(metrics["correlation_remembered"], calls / 2);
    for name in ["context_ambiguous", "correlation_unmatched"] {
        assert_eq!(metrics.get(name).copied().unwrap_or(0), 0, "{name}");
    }
    // The first two rounds fill the store and every pool.
    let (filled, last) = (sizes[1], sizes[sizes.len() - 1]);
    assert!(last <= filled + filled / 10, "memory grew: {sizes:?} KiB");
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_costs_joins_and_says_so() {
    const REQUESTS: usize = 1000;
    let config = exporting(json!({"correlation": {"capacity": 64}}));
    let lab = service(config, Options { workers: 4, ..Options::default() }).await;
    every(&lab, "/two/late/20", 0..REQUESTS, 64).await;
    let (joined, begun) = judge(&lab.app.seen());
    assert_eq!(joined + begun, 2 * REQUESTS);
    assert!(joined > 0 && begun > 0, "{joined} joined, {begun} begun");
    lab.envoy.metrics_until(|m| m.get("requests") == Some(&(3 * REQUESTS as i64))).await;
    let [correlated, ambiguous, unmatched, evicted] = outcome(&lab).await;
    assert_eq!([correlated, ambiguous, unmatched], [joined as i64, 0, begun as i64]);
    assert!(evicted >= (REQUESTS - 64) as i64, "{evicted} evicted");
    lab.envoy.stop().await;
}

// === What an operator sees ===

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_forwards_nothing_is_told_of() {
    let options = Options { workers: 1, ..Options::default() };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let client = Client::new(Version::H1);
    let outbound = lab.envoy.listener("outbound");
    let gauge = "correlation_never_forwarded";
    for _ in 0..100 {
        client.get(lab.envoy.listener("inbound"), "/", &[]).await.expect("an answer");
        client.get(outbound, "/", &[]).await.expect("an answer");
    }
    // The two sides have ticks of their own.
    let told = [(gauge, 1), ("correlation_unmatched", 100), ("correlation_remembered", 100)];
    let all = |m: &BTreeMap<String, i64>| told.iter().all(|(name, n)| m.get(*name) == Some(n));
    lab.envoy.metrics_until(all).await;
    // It learns to.
    client
        .get(
            outbound,
            "/",
            &[("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        )
        .await
        .expect("an answer");
    lab.envoy.metrics_until(|m| m.get(gauge) == Some(&0)).await;
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_joined_where_it_is_switched_off_or_at_a_gateway() {
    let off = exporting(json!({"correlation": {"headers": []}}));
    let gateway = exporting(json!({"mode": "gateway"}));
    for config in [off, gateway] {
        let lab = service(config, Options::default()).await;
        send(&Client::new(Version::H1), &lab, "/two", 1).await;
        lab.settled(3).await;
        assert_eq!(judge(&lab.app.seen()), (0, 2));
        assert_eq!(outcome(&lab).await, [0, 0, 0, 0]);
        lab.envoy.stop().await;
    }
    // Its own header, and only that.
    let own = exporting(json!({"correlation": {"headers": ["x-truth"]}}));
    let lab = service(own, Options::default()).await;
    send(&Client::new(Version::H1), &lab, "/two", 1).await;
    lab.settled(3).await;
    assert_eq!(judge(&lab.app.seen()), (2, 0));
    lab.envoy.stop().await;
}
