//! What MESHES.md says of proxies without the filter: what crosses them, and what does not.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::fs;

use meshweft_core::config::Config;
use meshweft_lab::app::App;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::mesh::merge;
use meshweft_lab::{native, paths};
use serde_json::{Value, json};

/// What stands between `open` and `close` for the first time below a heading of MESHES.md.
fn below(heading: &str, open: &str, close: &str) -> String {
    let text = fs::read_to_string(paths::workspace().join("MESHES.md")).expect("MESHES.md");
    let (_, section) = text.split_once(&format!("## {heading}\n")).expect("a heading");
    let (_, rest) = section.split_once(open).expect("an opening");
    rest.split_once(close).expect("an end").0.to_owned()
}

/// A proxy that knows nothing of the filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Between {
    /// Passes headers on.
    Passes,
    /// Takes part by B3, as Envoys with a Zipkin tracer do.
    TracesByB3,
    /// Removes what it does not know.
    Strips,
}

/// `edge -> between -> inside -> application`; spans by service, as far as there are any.
async fn across(between: Between, extract: Value) -> [Vec<Span>; 3] {
    let (app, collector) = (App::start().await, Collector::start().await);
    let config = |service: &str| {
        let text = below("Linkerd", "```json\n", "```");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        let lab = json!({
            "service": {"name": service},
            "export": {"cluster": COLLECTOR, "batch": {"interval": "100ms"}},
        });
        merge(&mut config, lab);
        config
    };
    let spans = cluster(COLLECTOR, collector.address());
    let mut config_inside = config("inside");
    if extract.is_array() {
        config_inside["propagation"]["extract"] = extract;
    }
    let to_app = vec![route("/", "next")];
    let http = listener("http", Direction::Inbound, vec![meshweft(&config_inside)], to_app, None);
    let clusters = vec![cluster("next", app.address()), spans.clone()];
    let inside = Envoy::start(&bootstrap(node("inside"), vec![http], clusters), 1).await;

    let mut on = route("/", "next");
    if between == Between::Strips {
        on["request_headers_to_remove"] =
            json!(["traceparent", "tracestate", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]);
    }
    let mut http = listener("http", Direction::Outbound, vec![], vec![on], None);
    if between == Between::TracesByB3 {
        http = native::traced_by_zipkin(http, 100.0);
    }
    let clusters = vec![cluster("next", inside.listener("http")), spans.clone()];
    let proxy = bootstrap(node("between"), vec![http], clusters);
    let proxy = Envoy::start(&native::exporting_soon(proxy), 1).await;

    let filters = vec![meshweft(&config("edge"))];
    let http = listener("http", Direction::Inbound, filters, vec![route("/", "next")], None);
    let clusters = vec![cluster("next", proxy.listener("http")), spans];
    let edge = Envoy::start(&bootstrap(node("edge"), vec![http], clusters), 1).await;

    let answer = Client::new(Version::H1).get(edge.listener("http"), "/orders/7", &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    let expected = if between == Between::TracesByB3 { 3 } else { 2 };
    let spans = collector.wait_for(expected).await;
    assert_eq!(spans.len(), expected, "{spans:#?}");
    for envoy in [edge, proxy, inside] {
        envoy.stop().await;
    }
    ["edge", "between", "inside"]
        .map(|service| spans.iter().filter(|span| span.service() == service).cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_passes_headers_on_leaves_the_trace_whole() {
    let [edge, between, inside] = across(Between::Passes, Value::Null).await;
    let ([edge], [], [inside]) = (&*edge, &*between, &*inside) else { panic!("{edge:#?}") };
    assert_eq!((&inside.trace_id, &inside.parent_id), (&edge.trace_id, &edge.span_id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_traces_by_b3_takes_part() {
    for (extract, is_parent) in [(Value::Null, false), (json!(["b3multi", "tracecontext"]), true)] {
        let [edge, between, inside] = across(Between::TracesByB3, extract).await;
        let ([edge], [between], [inside]) = (&*edge, &*between, &*inside) else {
            panic!("{edge:#?}{between:#?}{inside:#?}")
        };
        assert_eq!((&between.trace_id, &between.parent_id), (&edge.trace_id, &edge.span_id));
        let parent = if is_parent { between } else { edge };
        assert_eq!((&inside.trace_id, &inside.parent_id), (&edge.trace_id, &parent.span_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_strips_headers_ends_the_trace() {
    let [edge, _, inside] = across(Between::Strips, Value::Null).await;
    let ([edge], [inside]) = (&*edge, &*inside) else { panic!("{edge:#?}{inside:#?}") };
    assert_ne!(inside.trace_id, edge.trace_id);
    assert_eq!(inside.parent_id, "");
}

#[test]
fn the_configuration_for_consul_is_one() {
    let text = below("Consul", "<<-JSON\n", "JSON\n");
    let config = Config::parse(text.as_bytes(), &|_| None).expect("a configuration");
    assert_eq!(config.service.name.as_deref(), Some("web"));
}
