//! What is kept for its outcome, on real Envoys: the whole path from the edge to the cause, through
//! applications that know nothing of it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_precision_loss,
    reason = "a test says where it broke; counts are far below 2^52"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use meshweft_lab::app::{App, Call, Forward};
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, cluster_h2, listener, meshweft, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// How long the slow ones take, and what is slow: far from what a busy machine makes of the others.
const DELAY: u64 = 3500;
const SLOWER_THAN: &str = "3s";

const QUESTION: &str = "x-meshweft";
const ANSWER: &str = "x-meshweft-keep";

fn config(service: &str, rate: f64) -> Value {
    json!({
        "service": {"name": service},
        "sampling": {"rate": rate, "keep": {
            "errors": true, "slower_than": SLOWER_THAN, "propagate": true,
            "secret": "${LAB_TOKEN}"}},
        "export": {"cluster": COLLECTOR, "batch": {"interval": "100ms"}},
    })
}

/// A service: its application behind its Envoy, with two workers.
struct Service {
    envoy: Envoy,
    app: App,
}

impl Service {
    async fn start(name: &str, rate: f64, next: Option<SocketAddr>, collector: &Collector) -> Self {
        let app = App::forwarding(Forward::RequestId).await;
        let filter = || vec![meshweft(&config(name, rate))];
        let next = next.unwrap_or_else(|| app.address());
        let listeners = vec![
            listener("inbound", Direction::Inbound, filter(), vec![route("/", "app")], None),
            listener("outbound", Direction::Outbound, filter(), vec![route("/", "next")], None),
        ];
        let clusters = vec![
            cluster("app", app.address()),
            cluster("next", next),
            cluster(COLLECTOR, collector.address()),
        ];
        let envoy = Envoy::start(&bootstrap(node(name), listeners, clusters), 2).await;
        Self { envoy, app }
    }
}

/// edge -> a -> b -> c -> d, of which the applications forward nothing but `x-request-id`.
struct Mesh {
    edge: Envoy,
    services: Vec<Service>,
    collector: Collector,
}

impl Mesh {
    async fn start(rate: f64) -> Self {
        let collector = Collector::start().await;
        let mut services: Vec<Service> = Vec::new();
        for name in ["d", "c", "b", "a"] {
            let next = services.last().map(|next| next.envoy.listener("inbound"));
            services.push(Service::start(name, rate, next, &collector).await);
        }
        services.reverse();
        // What the last one fails at, and what the second one takes its time for, is in the path.
        let slow = format!("/slow/delay/{DELAY}");
        for (place, on, path) in [
            (0, "/ok", "/ok"),
            (1, "/ok", "/ok"),
            (2, "/ok", "/ok"),
            (0, "/fail", "/fail"),
            (1, "/fail", "/fail"),
            (2, "/fail", "/fail/status/503"),
            (0, "/slow", &*slow),
            (1, "/slow", "/slow"),
            (2, "/slow", "/slow"),
        ] {
            let Service { envoy, app } = &services[place];
            let to = envoy.listener("outbound");
            let (on, path) = (on.to_owned(), path.to_owned());
            app.call(Call { on, to, host: "next".to_owned(), path });
        }
        let filters = vec![meshweft(&config("edge", rate))];
        let routes = vec![route("/", "a")];
        let edge = Envoy::start(
            &bootstrap(
                node("edge"),
                vec![listener("gateway", Direction::Unspecified, filters, routes, None)],
                vec![
                    cluster("a", services[0].envoy.listener("inbound")),
                    cluster(COLLECTOR, collector.address()),
                ],
            ),
            2,
        )
        .await;
        Self { edge, services, collector }
    }

    fn envoys(&self) -> impl Iterator<Item = &Envoy> {
        self.services.iter().map(|service| &service.envoy).chain([&self.edge])
    }

    /// Sends 1,000 requests, of which 20 fail at the last service and 10 are slow at the second.
    async fn thousand(&self) {
        let to = self.edge.listener("gateway");
        let mut connections = JoinSet::new();
        for connection in 0..10 {
            connections.spawn(async move {
                let client = Client::new(Version::H1);
                for number in 0..100 {
                    let path = match number {
                        30 | 70 => "/fail",
                        50 => "/slow",
                        _ => "/ok",
                    };
                    let forged: [(&str, &[u8]); 1] = [(QUESTION, b"1")];
                    let answer = client.get(to, path, &forged).await.expect("an answer");
                    assert_eq!(answer.status, 200, "{connection} {number}");
                    assert_eq!(answer.header(ANSWER), None, "clients are told no verdict");
                }
            });
        }
        connections.join_all().await;
    }

    /// All spans, once every Envoy has counted every request and delivered every span.
    async fn settled(&self) -> Vec<Span> {
        let mut recorded = 0;
        for (envoy, requests) in self.envoys().zip([2000, 2000, 2000, 1000, 1000]) {
            let metrics = envoy
                .metrics_until(|metrics| {
                    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
                    of("requests") >= requests && of("exported") == of("sampled") + of("kept")
                })
                .await;
            assert_eq!(metrics["requests"], requests);
            assert_eq!(metrics["requests"], metrics["sampled"] + metrics["not_sampled"]);
            recorded += metrics["exported"];
        }
        let spans = self.collector.spans();
        assert_eq!(i64::try_from(spans.len()), Ok(recorded));
        spans
    }

    /// No application has seen anything of what hops tell one another.
    fn assert_private(&self) {
        for Service { app, .. } in &self.services {
            for seen in app.seen() {
                assert_eq!((seen.one(QUESTION), seen.one(ANSWER)), (String::new(), String::new()));
            }
        }
    }
}

/// A trace as a line: each hop from the root on with what kept it. Whatever is no single path from
/// one root on is told as such.
fn line(trace: &[&Span]) -> String {
    let roots: Vec<_> = trace.iter().filter(|span| span.parent_id.is_empty()).collect();
    let [root] = *roots else { return format!("{} roots: {trace:#?}", roots.len()) };
    let mut hops = Vec::new();
    let mut next = Some(*root);
    while let Some(span) = next {
        let side = if span.kind == "SERVER" { "in" } else { "out" };
        hops.push(format!("{} {side} {}", span.service(), span.attribute("meshweft.keep")));
        next = trace.iter().copied().find(|child| child.parent_id == span.span_id);
    }
    if hops.len() != trace.len() {
        return format!("no single path: {trace:#?}");
    }
    hops.join(", ")
}

/// How many traces there are of each line.
fn lines(spans: &[Span]) -> BTreeMap<String, usize> {
    let mut traces: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.trace_id).or_default().push(span);
    }
    let mut lines = BTreeMap::new();
    for trace in traces.values() {
        *lines.entry(line(trace)).or_insert(0) += 1;
    }
    lines
}

const FAILED: &str = "edge in propagated:errors, a in propagated:errors, a out propagated:errors, \
    b in propagated:errors, b out propagated:errors, c in propagated:errors, c out errors, \
    d in errors";
const SLOW: &str = "edge in slower_than, a in slower_than, a out slower_than, b in slower_than";

#[tokio::test(flavor = "multi_thread")]
async fn at_a_rate_of_zero_each_failure_brings_its_whole_path_and_nothing_else_comes() {
    let mesh = Mesh::start(0.0).await;
    mesh.thousand().await;
    let spans = mesh.settled().await;
    assert_eq!(lines(&spans), [(FAILED.to_owned(), 20), (SLOW.to_owned(), 10)].into());
    for span in &spans {
        // Not sampled, as all were told; and nobody knows how probable an outcome is.
        assert_eq!((span.flags & 0xff, &*span.trace_state), (0x02, ""), "{span:#?}");
    }
    mesh.assert_private();
}

/// How many requests a span stands for, as its `ot=th:…` says: 1 / (1 - 0.th).
fn adjusted_count(span: &Span) -> Option<f64> {
    let digits = span.trace_state.strip_prefix("ot=th:")?;
    let digit = |(place, digit): (i32, char)| {
        f64::from(digit.to_digit(16).expect("a hexadecimal digit")) / 16_f64.powi(place)
    };
    Some(1.0 / (1.0 - (1..).zip(digits.chars()).map(digit).sum::<f64>()))
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_rate_failures_are_kept_and_what_stands_for_others_says_so() {
    let mesh = Mesh::start(0.1).await;
    mesh.thousand().await;
    let spans = mesh.settled().await;
    let whole = "edge in , a in , a out , b in , b out , c in , c out , d in ";
    let lines = lines(&spans);
    let of = |line: &str| lines.get(line).copied().unwrap_or(0);
    let all: usize = lines.values().sum();
    assert_eq!(of(whole) + of(FAILED) + of(SLOW), all, "{lines:#?}");
    // Of those that failed and those that were slow each has a trace: sampled, or kept.
    let having = |attribute: fn(&Span) -> bool| {
        let spans = spans.iter().filter(|span| attribute(span));
        spans.map(|span| &*span.trace_id).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(having(|span| span.service() == "d" && span.error), 20);
    let millis = |span: &Span| (span.end - span.start) / 1_000_000;
    assert_eq!(
        having(|span| span.service() == "b" && (span.end - span.start) / 1_000_000 > 3000),
        10
    );
    assert!(spans.iter().all(|span| millis(span) < 20_000));
    // A span has a threshold if and only if the rate has kept it.
    for span in &spans {
        let sampled = span.attribute("meshweft.keep").is_empty();
        assert_eq!(span.flags & 0x01 == 0x01, sampled, "{span:#?}");
        assert_eq!(adjusted_count(span).is_some(), sampled, "{span:#?}");
    }
    let edge = spans.iter().filter(|span| span.service() == "edge");
    let stand_for: f64 = edge.filter_map(adjusted_count).sum();
    let by_chance = 4.0 * (1000.0_f64 * 0.1 * 0.9).sqrt() / 0.1;
    assert!((stand_for - 1000.0).abs() <= by_chance, "they stand for {stand_for}");
    mesh.assert_private();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_without_the_secret_asks_or_answers() {
    let lab = Workload::start(&config("lab", 0.0)).await;
    let client = Client::new(Version::H1);
    let traceparent: (&str, &[u8]) =
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    let mut sent = 0;
    // A client that asks, of a service that fails: the span is kept, and the client not told.
    for question in ["1", "1;0000000000000000", "from-the-environment", ""] {
        for listener in ["inbound", "gateway"] {
            let headers = [(QUESTION, question.as_bytes()), traceparent];
            let to = lab.envoy.listener(listener);
            let answer = client.get(to, "/status/503", &headers).await.expect("an answer");
            assert_eq!((answer.status, answer.header(ANSWER)), (503, None));
            // The gateway asks on its own account, with a seal for this one call.
            let seen = lab.app.last().one(QUESTION);
            let asks = seen.strip_prefix("1;").is_some_and(|seal| seal.len() == 16);
            assert_eq!((asks, seen.is_empty()), (listener == "gateway", listener == "inbound"));
            assert_ne!(seen, "1;0000000000000000");
            sent += 1;
        }
    }
    let kept = sent;
    // An upstream that answers as a hop would: it is not believed, and nobody else hears of it.
    for to in ["inbound", "outbound", "gateway"] {
        let to = lab.envoy.listener(to);
        let answer = client.get(to, "/verdict", &[]).await.expect("an answer");
        assert_eq!((answer.status, answer.header(ANSWER)), (200, None));
        sent += 1;
    }
    let spans = lab.settled(sent).await;
    assert_eq!(i64::try_from(spans.len()), Ok(kept));
}

/// gRPC's status comes in the trailers, when no header can carry a verdict any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_about_grpc_comes_in_the_trailers() {
    let keep = |keep: Value| exporting(json!({"sampling": {"rate": 0, "keep": keep}}));
    let failing = json!({"grpc_status": ["UNAVAILABLE"], "propagate": true});
    let server = Workload::start(&keep(failing)).await;
    let options = Options {
        routes: vec![route("/", "server")],
        clusters: vec![cluster_h2("server", server.envoy.listener("inbound-h2"))],
        ..Options::default()
    };
    let caller = Workload::with(&keep(json!({"propagate": true})), options).await;
    let client = Client::new(Version::H2);
    let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
    for (method, status) in [("Get", "0"), ("Fail", "14")] {
        let (to, path) = (caller.envoy.listener("outbound-h2"), format!("/shop.Cart/{method}"));
        let answer = client.send("POST", to, &path, &grpc, Bytes::new()).await.expect("an answer");
        let trailers = [("grpc-status".to_owned(), status.as_bytes().to_vec())];
        assert_eq!((answer.status, &*answer.trailers), (200, &trailers[..]));
        assert_eq!(answer.header(ANSWER), None);
    }
    let (called, served) = (caller.settled(2).await, server.settled(2).await);
    let ([called], [served]) = (&*called, &*served) else { panic!("{called:#?} {served:#?}") };
    assert_eq!(called.attribute("meshweft.keep"), "propagated:grpc_status");
    assert_eq!(served.attribute("meshweft.keep"), "grpc_status");
    assert_eq!((&served.trace_id, &served.parent_id), (&called.trace_id, &called.span_id));
}
