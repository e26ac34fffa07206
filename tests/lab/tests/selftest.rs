//! The lab itself, with an Envoy that has no filter.
#![allow(clippy::expect_used, reason = "a test says where it broke")]

use meshweft_lab::app::App;
use meshweft_lab::client::{self, Client, Version};
use meshweft_lab::collector::{Collector, Reply};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, cluster_h2, listener, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::{http2, native, raw};
use opentelemetry_proto::tonic::common::v1::any_value;

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_through_a_plain_envoy() {
    let app = App::start().await;
    let plain = |name, to| listener(name, Direction::Inbound, vec![], vec![route("/", to)], None);
    let envoy = Envoy::start(
        &bootstrap(
            node("plain"),
            vec![plain("h1", "app"), plain("h2", "app-h2")],
            vec![cluster("app", app.address()), cluster_h2("app-h2", app.address())],
        ),
        2,
    )
    .await;

    let h1 = Client::new(Version::H1);
    let answer = h1.get(envoy.listener("h1"), "/x", &[("x-a", b"\xff1")]).await.expect("answer");
    assert_eq!((answer.status, &*answer.body), (200, &b"ok\n"[..]));
    let seen = app.last();
    assert_eq!(
        (seen.path.as_str(), &seen.headers.iter().find(|(n, _)| n == "x-a").expect("x-a").1[..]),
        ("/x", &b"\xff1"[..])
    );

    let h2 = Client::new(Version::H2);
    let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
    let answer = h2
        .send("POST", envoy.listener("h2"), "/shop.Orders/Fail", &grpc, bytes::Bytes::new())
        .await
        .expect("answer");
    assert_eq!(answer.trailers, [("grpc-status".to_owned(), b"14".to_vec())]);

    for (path, status) in
        [("/status/404", 404), ("/reset", 503), ("/flaky/1", 503), ("/flaky/1", 200)]
    {
        let answer = h1.get(envoy.listener("h1"), path, &[]).await.expect("answer");
        assert_eq!(answer.status, status, "{path}");
    }
    h1.get(envoy.listener("h1"), "/half", &[]).await.expect_err("half an answer");

    let raw = b"GET /raw HTTP/1.1\r\nhost: a\r\nx: \xff\r\nconnection: close\r\n\r\n";
    let answer = client::raw(envoy.listener("h1"), raw).await.expect("answer");
    assert_eq!(answer.status, 200);
    envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_of_an_independent_exporter_arrive_whole() {
    let (app, collector) = (App::start().await, Collector::start().await);
    let inbound = listener("inbound", Direction::Inbound, vec![], vec![route("/", "app")], None);
    let envoy = Envoy::start(
        &native::exporting_soon(bootstrap(
            node("native"),
            vec![native::traced(inbound, "native", 100.0)],
            vec![cluster("app", app.address()), cluster(COLLECTOR, collector.address())],
        )),
        2,
    )
    .await;
    let context: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let client = Client::new(Version::H1);
    let sent = [("traceparent", context)];
    client.get(envoy.listener("inbound"), "/x", &sent).await.expect("answer");

    let spans = collector.wait_for(1).await;
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(
        (&*span.trace_id, &*span.parent_id, &*span.kind, span.service()),
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "SERVER", "native")
    );
    let forwarded = format!("00-{}-{}-01", span.trace_id, span.span_id);
    assert_eq!(app.last().one("traceparent"), forwarded);
    let exports = collector.exports();
    assert_eq!(exports.len(), 1);
    let otlp = &exports[0].resource_spans[0].scope_spans[0].spans[0];
    let code = otlp.attributes.iter().find(|pair| pair.key == "http.status_code").expect("a code");
    let code = code.value.as_ref().and_then(|value| value.value.clone());
    // What `Span` cannot show: this exporter sends the status as text.
    assert_eq!(code, Some(any_value::Value::StringValue("200".to_owned())));
    envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_does_as_it_is_told() {
    let mut collector = Collector::start().await;
    let to = collector.address();
    let export = async |path: &str, kind: &str| {
        // One of its own each time: a pool may still hold a connection from before the collector
        // went down.
        let client = Client::new(Version::H1);
        let kind = [("content-type", kind.as_bytes())];
        client.send("POST", to, path, &kind, bytes::Bytes::new()).await.map(|answer| answer.status)
    };
    const KIND: &str = "application/x-protobuf";
    let status = |status| Reply { status, ..Reply::default() };
    collector.reply_with(vec![status(429)]);
    collector.reply_always(status(503));
    assert_eq!(export("/v1/traces", KIND).await, Ok(429));
    assert_eq!(export("/v1/traces", KIND).await, Ok(503));
    collector.reply_always(Reply::default());
    assert_eq!(export("/v1/traces", KIND).await, Ok(200));
    assert_eq!(export("/", KIND).await, Ok(404));
    assert_eq!(export("/v1/traces", "text/plain").await, Ok(415));
    let statuses: Vec<_> = collector.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [429, 503, 200, 404, 415]);

    for _ in 0..3 {
        collector.down().await;
        export("/v1/traces", KIND).await.expect_err("nobody listens");
        collector.up().await;
        assert_eq!(export("/v1/traces", KIND).await, Ok(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_break_off_and_reuse_connections() {
    let app = App::start().await;
    let listener = listener("in", Direction::Inbound, vec![], vec![route("/", "app")], None);
    let clusters = vec![cluster("app", app.address())];
    let envoy = Envoy::start(&bootstrap(node("plain"), vec![listener], clusters), 2).await;
    let to = envoy.listener("in");

    let mut connection = raw::Connection::open(to).await.expect("a connection");
    for path in ["/one", "/status/404"] {
        connection.write(&raw::get(path, &[b"x-odd: a\xff\x80b"])).await.expect("sent");
        let status = connection.read_response().await.expect("an answer").status;
        assert_eq!(status, if path == "/one" { 200 } else { 404 });
        assert!(app.last().headers.contains(&("x-odd".to_owned(), b"a\xff\x80b".to_vec())));
    }
    connection.write(&raw::get("/hang", &[])).await.expect("sent");
    envoy.stats_until(|stats| stats.get("http.in.downstream_rq_active") == Some(&1)).await;
    drop(connection);
    envoy.stats_until(|stats| stats.get("http.in.downstream_rq_active") == Some(&0)).await;

    let mut http2 = http2::RawHttp2::open(to).await.expect("a connection");
    let answer = http2.get("/two", &[("x-odd", b"\xff")]).await.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, &b"ok\n"[..]));
    let stream = http2.start("GET", "/hang", &[], true).await.expect("sent");
    envoy.stats_until(|stats| stats.get("http.in.downstream_rq_active") == Some(&1)).await;
    stream.reset(h2::Reason::CANCEL);
    // Not `downstream_rq_rx_reset`, which counts the connection above as well.
    envoy.stats_until(|stats| stats.get("http2.rx_reset") == Some(&1)).await;
    envoy.stats_until(|stats| stats.get("http.in.downstream_rq_active") == Some(&0)).await;
    envoy.stop().await;
}
