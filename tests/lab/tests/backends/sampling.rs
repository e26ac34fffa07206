//! Sampling that a backend has a say in: Jaeger as the server of strategies, and the Collector's
//! samplers behind the filter's.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meshweft_lab::backends::jaeger::Jaeger;
use meshweft_lab::backends::otelcol::OtelCollector;
use meshweft_lab::backends::otlp::{Whole, hex, shapes, without_schema};
use meshweft_lab::backends::shop::{HTTP, SHAPE, Shop, delivered};
use meshweft_lab::client::{Client, Version};
use meshweft_lab::config::cluster;
use meshweft_lab::load::{flood, paced};
use meshweft_lab::mesh::{Options, Workload};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Waits until all workers follow what the server has told since now: of three questions to come,
/// the last was asked after the second had been answered, and ticks take in what others were told.
async fn followed(lab: &Workload) {
    let asked = lab.envoy.metric("remote_requests").await;
    let later = asked + 3;
    lab.envoy.metrics_until(|metrics| metrics.get("remote_requests") >= Some(&later)).await;
}

/// Waits until a workload has served this many requests and has delivered the spans of those that
/// it recorded; how many these are.
async fn served(lab: &Workload, requests: usize) -> usize {
    let requests = i64::try_from(requests).expect("few");
    let metrics = lab
        .envoy
        .metrics_until(|metrics| {
            metrics.get("requests") >= Some(&requests) && metrics["exported"] == metrics["sampled"]
        })
        .await;
    assert_eq!(metrics["requests"], requests);
    usize::try_from(metrics["sampled"]).expect("few")
}

/// Four standard deviations of how many of `total` a rate keeps.
fn by_chance(total: f64, rate: f64) -> f64 {
    4.0 * (total * rate * (1.0 - rate)).sqrt()
}

fn reason(span: &Whole) -> Option<&Any> {
    span.attribute("meshweft.sampling.reason")
}

/// A file of strategies with one for the service `lab`.
fn strategies(of_lab: &Value) -> Value {
    let mut service = json!({"service": "lab"});
    for (key, value) in of_lab.as_object().into_iter().flatten() {
        service[key] = value.clone();
    }
    json!({
        "default_strategy": {"type": "probabilistic", "param": 0},
        "service_strategies": [service],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn jaegers_strategies_decide_about_new_traces() {
    const RATE: f64 = 0.25;
    const TOTAL: usize = 2_000;
    const PACED: usize = 1_000;
    let jaeger = Jaeger::start().await;
    let relay = HTTP.relay(jaeger.http(), jaeger.grpc()).await;
    jaeger.strategies(&strategies(&json!({"type": "probabilistic", "param": RATE})));
    let config = json!({
        "sampling": {"rate": 0, "remote": {"cluster": "jaeger", "interval": "1s"}},
        "spans": {"routes": ["/orders/{id}"]},
    });
    let clusters = vec![cluster("jaeger", jaeger.sampling())];
    let options = Options { clusters, ..Options::default() };
    let lab = HTTP.workload("lab", relay.address(), config, options).await;
    let (to, to_h2) = (lab.envoy.listener("inbound"), lab.envoy.listener("inbound-h2"));

    // === A share of all traces ===
    followed(&lab).await;
    assert_eq!(flood(Version::H1, to, "/", 10, TOTAL / 10).await, Vec::<String>::new());
    let share = served(&lab, TOTAL).await;
    let off = share as f64 - TOTAL as f64 * RATE;
    assert!(off.abs() <= by_chance(TOTAL as f64, RATE), "{share} of {TOTAL}");
    let told: BTreeSet<_> = relay.told().into_iter().map(|span| span.trace_state).collect();
    assert_eq!(told, BTreeSet::from(["ot=th:c".to_owned()]));

    // === So many traces per second of the whole proxy ===
    const PER_SECOND: usize = 20;
    jaeger.strategies(&strategies(&json!({"type": "ratelimiting", "param": PER_SECOND})));
    followed(&lab).await;
    let begin = Instant::now();
    let failures = paced(&Client::new(Version::H1), to, "/", 200, PACED).await;
    let seconds = begin.elapsed().as_secs_f64();
    assert_eq!(failures, Vec::<String>::new());
    let limited = served(&lab, TOTAL + PACED).await - share;
    let allowed = PER_SECOND as f64 * seconds;
    // A burst is one second's worth.
    let most = (allowed + PER_SECOND as f64).mul_add(1.05, 1.0);
    assert!((allowed * 0.95 - 1.0..=most).contains(&(limited as f64)), "{limited} in {seconds} s");
    let without = relay.taken().iter().filter(|span| span.span.trace_state.is_empty()).count();
    assert_eq!(without, limited, "what a limit kept is of no known probability");

    // === By operation, named as its spans are ===
    let one =
        |operation: &str| json!({"operation": operation, "type": "probabilistic", "param": 1});
    jaeger.strategies(&strategies(&json!({
        "type": "probabilistic",
        "param": 0,
        "operation_strategies": [one("GET /orders/{id}"), one("shop.Orders/Get")],
    })));
    followed(&lab).await;
    let (h1, h2) = (Client::new(Version::H1), Client::new(Version::H2));
    let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
    const ASKED: usize = 6;
    let ask = async || {
        for path in ["/orders/7", "/orders/8?a=b", "/orders", "/other"] {
            h1.get(to, path, &[]).await.expect("an answer");
        }
        for path in ["/shop.Orders/Get", "/shop.Orders/List"] {
            h2.send("POST", to_h2, path, &grpc, Bytes::new()).await.expect("an answer");
        }
    };
    ask().await;
    let expected = ["GET /orders/{id}", "GET /orders/{id}", "shop.Orders/Get"];
    let recorded = served(&lab, TOTAL + PACED + ASKED).await;
    assert_eq!(recorded, share + limited + expected.len());

    // === It is gone: the last answer holds ===
    let spans = relay.taken();
    assert_eq!(spans.len(), recorded);
    jaeger.stop().await;
    let before = lab.envoy.metric("remote_failures").await;
    lab.envoy.metrics_until(|metrics| metrics.get("remote_failures") > Some(&before)).await;
    ask().await;
    let requests = i64::try_from(TOTAL + PACED + 2 * ASKED).expect("few");
    let metrics = lab.envoy.metrics_until(|m| m.get("requests") == Some(&requests)).await;
    assert_eq!(usize::try_from(metrics["sampled"]), Ok(recorded + expected.len()));

    let mut names: Vec<_> = spans.iter().map(|span| span.span.name.clone()).collect();
    names.retain(|name| name != "GET");
    names.sort();
    assert_eq!(names, expected);
    let remote = Any::StringValue("remote".to_owned());
    assert!(spans.iter().all(|span| reason(span) == Some(&remote)));
    lab.envoy.stop().await;
}

/// The 56 bits of a trace id that thresholds are compared with.
fn randomness(span: &Whole) -> u64 {
    let id = hex(&span.span.trace_id);
    u64::from_str_radix(&id[18..], 16).expect("hexadecimal digits")
}

/// The Collector reads the threshold that the filter wrote, keeps by the same bits, and writes its
/// own: what it lets through stands for all requests there were.
#[tokio::test(flavor = "multi_thread")]
async fn the_collectors_sampler_goes_on_from_the_filters_threshold() {
    const TOTAL: usize = 2_000;
    const QUARTER: u64 = 0xc0_0000_0000_0000;
    // To a quarter of all requests, of which the filter keeps half.
    for (mode, percentage) in [("equalizing", 25), ("proportional", 50)] {
        let collector = OtelCollector::changed(|config| {
            config["processors"]["probabilistic_sampler"] =
                json!({"mode": mode, "sampling_percentage": percentage});
            config["service"]["pipelines"]["traces"]["processors"] =
                json!(["probabilistic_sampler"]);
        })
        .await;
        let relay = HTTP.relay(collector.http(), collector.grpc()).await;
        let half = json!({"sampling": {"rate": 0.5}});
        let lab = HTTP.workload("lab", relay.address(), half, Options::default()).await;
        let to = lab.envoy.listener("inbound");
        assert_eq!(flood(Version::H1, to, "/", 10, TOTAL / 10).await, Vec::<String>::new());
        let recorded = served(&lab, TOTAL).await;
        let taken = relay.taken();
        assert_eq!(taken.len(), recorded);
        assert!(taken.iter().all(|span| span.span.trace_state == "ot=th:8"));
        let expected: Vec<_> = taken
            .into_iter()
            .filter(|span| randomness(span) >= QUARTER)
            .map(|mut span| {
                span.span.trace_state = "ot=th:c".to_owned();
                span
            })
            .collect();
        let written = collector.written(expected.len()).await;
        assert_eq!(written, expected, "{mode}");
        let off = 4.0 * written.len() as f64 - TOTAL as f64;
        assert!(off.abs() <= 4.0 * by_chance(TOTAL as f64, 0.25), "they stand for {off} too many");
        lab.envoy.stop().await;
        collector.stop().await;
    }
}

/// Traces of two proxies, whose spans come by different batches, are whole where the Collector
/// decides about them: those with an error stay, all others go.
#[tokio::test(flavor = "multi_thread")]
async fn the_collectors_tail_sampling_keeps_failing_traces_whole() {
    const EACH: usize = 200;
    let collector = OtelCollector::changed(|config| {
        config["processors"]["tail_sampling"] = json!({
            "decision_wait": "5s",
            "policies": [
                {"name": "failures", "type": "status_code",
                    "status_code": {"status_codes": ["ERROR"]}},
            ],
        });
        config["service"]["pipelines"]["traces"]["processors"] = json!(["tail_sampling"]);
    })
    .await;
    let relay = HTTP.relay(collector.http(), collector.grpc()).await;
    let shop = Shop::open(HTTP, relay.address()).await;
    shop.flood("/stocked", 4, EACH / 4).await;
    shop.flood("/shop", 4, EACH / 4).await;
    // One call and one span less at either side for a request that fails nowhere.
    delivered(&shop.web, EACH * (Shop::SPANS_OF_WEB + 2)).await;
    delivered(&shop.stock, EACH * (Shop::SPANS_OF_STOCK + 1)).await;
    let taken = relay.taken();
    let mut failing: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for span in &taken {
        *failing.entry(span.span.trace_id.clone()).or_default() += 1;
    }
    failing.retain(|_, spans| *spans == Shop::SPANS_OF_WEB + Shop::SPANS_OF_STOCK);
    // It keeps no schema URLs, as Jaeger.
    let expected: Vec<_> = taken
        .into_iter()
        .filter(|span| failing.contains_key(&span.span.trace_id))
        .map(without_schema)
        .collect();
    let written = collector.written(expected.len()).await;
    assert!(written == expected, "what is written differs from what went in");
    assert_eq!(shapes(&written), BTreeMap::from([(SHAPE.to_owned(), EACH)]));
    shop.close().await;
    collector.stop().await;
}
