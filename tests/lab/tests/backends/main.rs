//! The filter in a real Envoy, before the trace backends that people run: what is read back from
//! them is what went in.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a test says where it broke; counts are far below 2^52"
)]

mod sampling;
mod skywalking;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meshweft_lab::backends::browser::Browser;
use meshweft_lab::backends::jaeger::{Jaeger, Shown};
use meshweft_lab::backends::otelcol::OtelCollector;
use meshweft_lab::backends::otlp::{Whole, hex, shapes, without_schema};
use meshweft_lab::backends::relay::Relay;
use meshweft_lab::backends::shop::{GRPC, HTTP, JSON, SHAPE, Shop, Way, ZIPKIN, delivered};
use meshweft_lab::backends::zipkin::Zipkin;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{cluster, cluster_h2};
use meshweft_lab::envoy::adds_up;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::tls::{Certificates, HOST};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::{Value, json};

const CONNECTIONS: usize = 8;
const PER_CONNECTION: usize = 250;
/// The requests of a flood.
const REQUESTS: usize = CONNECTIONS * PER_CONNECTION;
/// All spans of a flood: 10,000.
const SPANS: usize = REQUESTS * (Shop::SPANS_OF_WEB + Shop::SPANS_OF_STOCK);

/// Sends all requests of a flood and waits until their spans are delivered.
async fn flood(shop: &Shop) {
    shop.flood("/shop", CONNECTIONS, PER_CONNECTION).await;
    delivered(&shop.web, REQUESTS * Shop::SPANS_OF_WEB).await;
    delivered(&shop.stock, REQUESTS * Shop::SPANS_OF_STOCK).await;
}

/// One worker, which is up sooner than two: for where few requests are sent.
fn alone() -> Options {
    Options { workers: 1, ..Options::default() }
}

/// One request of every kind that leaves another kind of span, and a line for each.
async fn every_kind(lab: &Workload) -> Vec<&'static str> {
    let (h1, h2) = (Client::new(Version::H1), Client::new(Version::H2));
    let state: [(&str, &[u8]); 2] = [
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"),
        ("tracestate", b"vendor=\"a,b\",other=1"),
    ];
    let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
    let to = |listener| lab.envoy.listener(listener);
    for listener in ["inbound", "outbound", "gateway"] {
        h1.get(to(listener), "/orders/7?q=1", &[]).await.expect("an answer");
    }
    h1.get(to("inbound"), "/orders/7", &state[..1]).await.expect("an answer");
    h1.get(to("outbound"), "/a/status/404", &[]).await.expect("an answer");
    h1.get(to("inbound"), "/a/status/503", &[]).await.expect("an answer");
    h1.get(to("outbound"), "/a/reset", &[]).await.expect("an answer");
    for method in ["Get", "Fail"] {
        let path = format!("/shop.Orders/{method}");
        let to = to("inbound-h2");
        h2.send("POST", to, &path, &grpc, Bytes::new()).await.expect("an answer");
    }
    vec![
        "kinds CLIENT GET",
        "kinds CLIENT GET error",
        "kinds CLIENT GET error",
        "kinds SERVER GET",
        "kinds SERVER GET",
        "kinds SERVER GET",
        "kinds SERVER GET error",
        "kinds SERVER shop.Orders/Fail error",
        "kinds SERVER shop.Orders/Get",
    ]
}

fn labels(spans: &[Whole]) -> Vec<String> {
    let mut labels: Vec<_> = spans.iter().map(Whole::label).collect();
    labels.sort();
    labels
}

/// The traces among `spans`, by id in hex.
fn traces(spans: &[Whole]) -> BTreeMap<String, Vec<Whole>> {
    let mut traces: BTreeMap<String, Vec<Whole>> = BTreeMap::new();
    for span in spans {
        traces.entry(hex(&span.span.trace_id)).or_default().push(span.clone());
    }
    traces
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_every_kind_of_span_as_it_went_in() {
    let collector = OtelCollector::start().await;
    let mut before = 0;
    for way in [HTTP, JSON, GRPC] {
        let relay = way.relay(collector.http(), collector.grpc()).await;
        let lab = way.workload("kinds", relay.address(), json!({}), alone()).await;
        let expected = every_kind(&lab).await;
        delivered(&lab, expected.len()).await;
        before += expected.len();
        let ids: BTreeSet<_> = relay.told().into_iter().map(|span| span.span_id).collect();
        let mut written = collector.written(before).await;
        written.retain(|span| ids.contains(&hex(&span.span.span_id)));
        assert_eq!(written, relay.taken(), "{way:?}");
        assert_eq!(labels(&written), expected);
        for span in &written {
            assert!(span.schema_urls.iter().all(|url| url.starts_with("https://")), "{span:#?}");
        }
        let found = written.iter().find(|span| {
            span.span.kind().as_str_name() == "SPAN_KIND_CLIENT"
                && span.attribute("http.response.status_code") == Some(&Any::IntValue(404))
        });
        let span = found.expect("a number is a number");
        assert_eq!(span.attribute("error.type"), Some(&Any::StringValue("404".to_owned())));
        lab.envoy.stop().await;
    }
    collector.stop().await;
}

/// A flood through `way`: what is written equals what went in.
async fn the_collector_takes_a_flood(way: Way) {
    let collector = OtelCollector::start().await;
    let relay = way.relay(collector.http(), collector.grpc()).await;
    let shop = Shop::open(way, relay.address()).await;
    flood(&shop).await;
    let written = collector.written(SPANS).await;
    assert_eq!(written.len(), SPANS);
    assert!(written == relay.taken(), "what is written differs from what went in");
    assert_eq!(shapes(&written), BTreeMap::from([(SHAPE.to_owned(), REQUESTS)]));
    shop.every_parent_is_in(&written);
    shop.close().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_ten_thousand_spans_in_their_trees() {
    the_collector_takes_a_flood(HTTP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_ten_thousand_spans_of_json() {
    the_collector_takes_a_flood(JSON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_ten_thousand_spans_of_grpc() {
    the_collector_takes_a_flood(GRPC).await;
}

/// Zipkin's receiver makes OTLP of it, so that the two are compared by what both can tell.
#[tokio::test(flavor = "multi_thread")]
async fn the_collector_writes_ten_thousand_spans_of_zipkin() {
    let collector = OtelCollector::start().await;
    let relay = Relay::before(collector.zipkin()).await;
    let shop = Shop::open(ZIPKIN, relay.address()).await;
    flood(&shop).await;
    let written = collector.written(SPANS).await;
    assert_eq!(written.len(), SPANS);
    assert_eq!(shapes(&written), BTreeMap::from([(SHAPE.to_owned(), REQUESTS)]));
    shop.every_parent_is_in(&written);
    let told = relay.told();
    assert_eq!(told.len(), SPANS);
    for (written, told) in written.iter().zip(&told) {
        let span = &written.span;
        assert_eq!(
            (hex(&span.trace_id), hex(&span.span_id), hex(&span.parent_span_id)),
            (told.trace_id.clone(), told.span_id.clone(), told.parent_id.clone())
        );
        assert_eq!(
            (span.start_time_unix_nano, span.end_time_unix_nano, &span.name, &span.trace_state),
            (told.start, told.end, &told.name, &told.trace_state)
        );
        for (name, value) in &told.attributes {
            // What the receiver makes a field of is no attribute any more.
            if ["error", "otel.status_code", "w3c.tracestate"].contains(&name.as_str())
                || name.starts_with("otel.scope.")
            {
                continue;
            }
            let kept = written.attribute(name).or_else(|| written.resource_attribute(name));
            let kept = kept.map(|kept| match kept {
                Any::StringValue(text) => text.clone(),
                Any::IntValue(value) => value.to_string(),
                Any::DoubleValue(value) => value.to_string(),
                Any::BoolValue(value) => value.to_string(),
                other => format!("{other:?}"),
            });
            assert_eq!(kept.as_ref(), Some(value), "{name} {written:#?}");
        }
        let status = written.attribute("http.response.status_code");
        assert!(matches!(status, Some(Any::IntValue(200 | 503))), "{written:#?}");
        assert_eq!(written.scope.name, "meshweft");
    }
    shop.close().await;
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_wants_a_token_gets_it_or_the_spans_are_counted_as_refused() {
    let collector = OtelCollector::changed(|config| {
        config["extensions"]["bearertokenauth"] = json!({"token": "from-the-environment"});
        config["service"]["extensions"] = json!(["health_check", "bearertokenauth"]);
        for protocol in ["http", "grpc"] {
            config["receivers"]["otlp"]["protocols"][protocol]["auth"] =
                json!({"authenticator": "bearertokenauth"});
        }
    })
    .await;
    for (way, refused, taken) in
        [(HTTP, "401", "200"), (JSON, "401", "200"), (GRPC, "200/16", "200/0")]
    {
        let relay = way.relay(collector.http(), collector.grpc()).await;
        for (headers, status, counter) in [
            (json!({}), refused, "dropped_rejected"),
            (json!({"authorization": "Bearer wrong"}), refused, "dropped_rejected"),
            (json!({"authorization": "Bearer ${LAB_TOKEN}"}), taken, "exported"),
        ] {
            let export = json!({"export": {"headers": headers}});
            let lab = way.workload("token", relay.address(), export, alone()).await;
            let client = Client::new(Version::H1);
            let to = lab.envoy.listener("inbound");
            assert_eq!(client.get(to, "/a", &[]).await.expect("an answer").status, 200);
            let metrics =
                lab.envoy.metrics_until(|m| m.get(counter) == Some(&1) && adds_up(m)).await;
            assert_eq!(metrics["export_requests"], 1, "not sent again: {metrics:#?}");
            assert_eq!(relay.statuses().last().map(String::as_str), Some(status));
            lab.envoy.stop().await;
        }
        assert_eq!(relay.statuses(), [refused, refused, taken]);
    }
    assert_eq!(collector.written(3).await.len(), 3);
    collector.stop().await;
}

/// The cluster knows the certificates, and the filter needs to know nothing of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_mutual_tls_gets_its_spans_and_nobody_else_may_send_any() {
    let certificates = Certificates::of(&["collector", "proxy"]);
    let collector = OtelCollector::changed(|config| {
        for protocol in ["http", "grpc"] {
            config["receivers"]["otlp"]["protocols"][protocol]["tls"] = json!({
                "cert_file": certificates.chain("collector"),
                "key_file": certificates.key("collector"),
                "client_ca_file": certificates.chain("proxy"),
            });
        }
    })
    .await;
    let mut served = 0;
    for (protocol, version, mut cluster) in [
        ("otlp/http", Version::H1, cluster("secured", collector.http())),
        ("otlp/grpc", Version::H2, cluster_h2("secured", collector.grpc())),
    ] {
        for own in [Some("proxy"), None] {
            cluster["transport_socket"] = certificates.upstream(own, "collector", version);
            let config = exporting(json!({"export": {
                "cluster": "secured", "authority": HOST, "scheme": "https", "protocol": protocol,
                "retry": {"initial": "100ms", "max": "200ms", "max_elapsed": "1s"},
            }}));
            let clusters = vec![cluster.clone()];
            let options = Options { clusters, workers: 1, ..alone() };
            let lab = Workload::with(&config, options).await;
            let to = lab.envoy.listener("inbound");
            Client::new(Version::H1).get(to, "/a", &[]).await.expect("an answer");
            let counter = if own.is_some() { "exported" } else { "dropped_retries_exhausted" };
            let metrics =
                lab.envoy.metrics_until(|m| m.get(counter) == Some(&1) && adds_up(m)).await;
            served += usize::from(own.is_some());
            let refused = metrics["export_requests"] > 1;
            assert_eq!(refused, own.is_none(), "{protocol}: {metrics:#?}");
            assert_eq!(collector.written(served).await.len(), served);
            lab.envoy.stop().await;
        }
    }
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_out_of_memory_is_asked_again_until_the_patience_ends() {
    let limit = json!({"check_interval": "100ms", "limit_mib": 2, "spike_limit_mib": 1});
    // The extension stands before the receiver and says 429; the processor behind it says 503.
    // In gRPC they say RESOURCE_EXHAUSTED without a pause, which is no reason to come again, and
    // UNAVAILABLE.
    for (way, status, by_extension) in
        [(HTTP, "429", true), (HTTP, "503", false), (GRPC, "200/8", true), (GRPC, "200/14", false)]
    {
        let collector = OtelCollector::changed(|config| {
            if by_extension {
                config["extensions"]["memory_limiter"] = limit.clone();
                config["service"]["extensions"] = json!(["health_check", "memory_limiter"]);
                for protocol in ["http", "grpc"] {
                    config["receivers"]["otlp"]["protocols"][protocol]["middlewares"] =
                        json!([{"id": "memory_limiter"}]);
                }
            } else {
                config["processors"]["memory_limiter"] = limit.clone();
                config["service"]["pipelines"]["traces"]["processors"] = json!(["memory_limiter"]);
            }
        })
        .await;
        let relay = way.relay(collector.http(), collector.grpc()).await;
        let retry = json!({"initial": "100ms", "max": "200ms", "max_elapsed": "1s"});
        let export = json!({"export": {"retry": retry}});
        let lab = way.workload("patient", relay.address(), export, alone()).await;
        let to = lab.envoy.listener("inbound");
        assert_eq!(
            Client::new(Version::H1).get(to, "/a", &[]).await.expect("an answer").status,
            200
        );
        let again = status != "200/8";
        let dropped = if again { "dropped_retries_exhausted" } else { "dropped_rejected" };
        let metrics = lab.envoy.metrics_until(|m| m.get(dropped) == Some(&1) && adds_up(m)).await;
        let statuses = relay.statuses();
        assert!(statuses.iter().all(|s| *s == status), "{statuses:?}");
        assert_eq!(statuses.len() > 1, again, "{statuses:?}");
        let tries = i64::try_from(statuses.len()).expect("few");
        let class = match status {
            "429" => "export_failures_status_4xx",
            "503" => "export_failures_status_5xx",
            _ => "export_failures_grpc_status",
        };
        assert_eq!((metrics["export_requests"], metrics[class]), (tries, tries));
        lab.envoy.stop().await;
        collector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_tells_every_kind_of_span_as_it_went_in() {
    for way in [HTTP, JSON, GRPC] {
        let jaeger = Jaeger::start().await;
        let relay = way.relay(jaeger.http(), jaeger.grpc()).await;
        let lab = way.workload("kinds", relay.address(), json!({}), alone()).await;
        let expected = every_kind(&lab).await;
        delivered(&lab, expected.len()).await;
        let mut stored = Vec::new();
        for (trace_id, spans) in traces(&relay.taken()) {
            let trace = jaeger.trace(&trace_id, spans.len()).await;
            assert_eq!(trace, spans.into_iter().map(without_schema).collect::<Vec<_>>());
            stored.extend(trace);
        }
        assert_eq!(labels(&stored), expected);
        lab.envoy.stop().await;
        jaeger.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_tells_ten_thousand_spans_in_their_trees() {
    jaeger_takes_a_flood(HTTP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_tells_ten_thousand_spans_of_json() {
    jaeger_takes_a_flood(JSON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jaeger_tells_ten_thousand_spans_of_grpc() {
    jaeger_takes_a_flood(GRPC).await;
}

async fn jaeger_takes_a_flood(way: Way) {
    let jaeger = Jaeger::start().await;
    let relay = way.relay(jaeger.http(), jaeger.grpc()).await;
    let shop = Shop::open(way, relay.address()).await;
    flood(&shop).await;
    let taken: Vec<_> = relay.taken().into_iter().map(without_schema).collect();
    let stored = jaeger.traces("web", SPANS).await;
    assert_eq!(stored.len(), SPANS);
    assert!(stored == taken, "what is stored differs from what went in");
    assert_eq!(shapes(&stored), BTreeMap::from([(SHAPE.to_owned(), REQUESTS)]));

    assert_eq!(jaeger.services().await, ["stock", "web"]);
    assert_eq!(jaeger.operations("web").await, ["client GET", "server GET"]);
    assert_eq!(jaeger.operations("stock").await, ["server GET"]);

    let traces = traces(&taken);
    let (trace_id, spans) = traces.first_key_value().expect("a trace");
    let shown = |span: &Whole| {
        let status = span.span.status.clone().unwrap_or_default();
        let shown = Shown {
            parent_id: hex(&span.span.parent_span_id),
            service: span.service().to_owned(),
            operation: "GET".to_owned(),
            error: status.code == 2,
        };
        (hex(&span.span.span_id), shown)
    };
    let expected: BTreeMap<_, _> = spans.iter().map(shown).collect();
    assert_eq!(expected.values().filter(|span| span.error).count(), 2);
    assert_eq!(jaeger.shown(trace_id).await, expected);
    shop.close().await;
    jaeger.stop().await;
}

/// A span as Zipkin stores it: names in lower case.
fn as_zipkin(span: &Span) -> Value {
    let mut stored = json!({
        "traceId": span.trace_id,
        "id": span.span_id,
        "kind": span.kind,
        "name": span.name.to_lowercase(),
        "timestamp": span.start / 1000,
        "duration": (span.end - span.start) / 1000,
        "localEndpoint": {"serviceName": span.service().to_lowercase()},
        "tags": span.attributes,
    });
    if !span.parent_id.is_empty() {
        stored["parentId"] = json!(span.parent_id);
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_tells_ten_thousand_spans_and_shows_a_trace_and_its_dependencies() {
    let zipkin = Zipkin::start().await;
    let relay = Relay::before(zipkin.http()).await;
    let shop = Shop::open(ZIPKIN, relay.address()).await;
    flood(&shop).await;
    let told = relay.told();
    let mut stored = zipkin.traces(REQUESTS + 1, SPANS).await;
    assert_eq!((told.len(), stored.len()), (SPANS, SPANS));
    let key = |span: &Value| (span["traceId"].to_string(), span["id"].to_string());
    stored.sort_by_key(key);
    for (stored, told) in stored.iter_mut().zip(&told) {
        let other = stored.as_object_mut().expect("a span").remove("remoteEndpoint");
        // A client names the service that it calls, and either knows the other's address.
        let other = other.unwrap_or_default();
        assert_eq!(other["ipv4"], "127.0.0.1", "{other} {told:#?}");
        let name = if told.kind == "CLIENT" { json!("stock") } else { Value::Null };
        assert_eq!(other["serviceName"], name, "{other} {told:#?}");
        assert_eq!(*stored, as_zipkin(told));
    }
    let last = told.iter().map(|span| span.end / 1_000_000).max().expect("a span");
    let calls = 2 * REQUESTS;
    assert_eq!(
        zipkin.dependencies(last + 1000).await,
        json!([{"parent": "web", "child": "stock", "callCount": calls, "errorCount": REQUESTS}])
    );

    let mut browser = Browser::start().await;
    let shown = ["Services 2", "Total Spans 5", "web: get", "stock: get"];
    browser.open(&zipkin.trace_page(&told[0].trace_id), &shown).await;
    browser.picture("zipkin-trace").await;
    // The graph is drawn; its names are read from the list beside it.
    browser.open(&zipkin.dependency_page(last + 1000), &["Dependencies"]).await;
    browser.until("document.querySelector('canvas') !== null").await;
    browser.click(".MuiAutocomplete-input", &["web", "stock"]).await;
    browser.picture("zipkin-dependencies").await;
    shop.close().await;
    zipkin.stop().await;
}
