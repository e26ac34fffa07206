//! Streams that last, through a real Envoy: of HTTP, of gRPC, and upgraded connections.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a test says where it broke"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use h2::Reason;
use meshweft_lab::app::CHAT;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{cluster, route};
use meshweft_lab::http2::RawHttp2;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The values of some attributes of a span.
fn facts(span: &Span, names: &[&str]) -> String {
    let facts = names
        .iter()
        .filter_map(|name| span.attributes.get(*name).map(|value| format!("{name}={value}")));
    facts.collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_on_is_told_of_and_told_again() {
    let spans = json!({"open_after": "1s", "facts": ["sizes", "timing"]});
    let lab = Workload::start(&exporting(json!({"spans": spans}))).await;
    let listener = lab.envoy.listener("inbound");
    let mut stream = TcpStream::connect(listener).await.expect("a connection");
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let told = lab.collector.wait_for(1).await;
    let [open] = &*told else { panic!("{told:#?}") };
    assert_eq!(
        facts(open, &["meshweft.stream", "http.request.method"]),
        "meshweft.stream=open http.request.method=GET"
    );
    assert!(open.end - open.start >= 1_000_000_000 && !open.error, "{open:#?}");
    assert_eq!(open.span_id, lab.app.last().one("traceparent")[36..52]);
    drop(stream);
    let told = lab.collector.wait_for(2).await;
    let [_, finished] = &*told else { panic!("{told:#?}") };
    assert_eq!(
        facts(finished, &["meshweft.stream", "envoy.response_flags", "error.type"]),
        "meshweft.stream=finished envoy.response_flags=DC error.type=downstream_remote_disconnect"
    );
    assert_eq!((finished.start, &finished.trace_id), (open.start, &open.trace_id));
    assert!(finished.end > open.end);
    assert_eq!(finished.links, [(open.trace_id.clone(), open.span_id.clone())]);
    assert_eq!((&*finished.parent_id, &*open.parent_id), ("", ""));
    // One that is brief is told of once.
    Client::new(Version::H1).get(listener, "/", &[]).await.expect("an answer");
    let spans = lab.collector.wait_for(3).await;
    let brief = spans.last().expect("a span");
    let of = |name: &str| brief.attribute(name).parse::<f64>().expect("a number");
    assert_eq!(
        facts(brief, &["meshweft.stream", "http.request.body.size", "http.response.body.size"]),
        "http.request.body.size=0 http.response.body.size=3"
    );
    let millis = (brief.end - brief.start) as f64 / 1e6;
    let first = of("envoy.time_to_first_byte_ms");
    assert!(0.0 < of("envoy.backend_latency_ms"), "{brief:#?}");
    assert!(of("envoy.backend_latency_ms") < first && first < millis + 1.0, "{brief:#?}");
    lab.envoy.stop().await;
}

/// A message of gRPC: its length in five bytes before it.
fn message(length: u8) -> Vec<u8> {
    [&[0, 0, 0, 0, length], &*vec![b'm'; usize::from(length)]].concat()
}

/// Long streams of gRPC, on both sides: each is told of while it is open, and at its end with its
/// whole length, the bytes that went either way, and the status that came in the trailers.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_that_goes_on_is_told_of_and_told_again() {
    const OPEN: u64 = 1_000_000_000;
    let spans = json!({"open_after": "1s", "facts": ["sizes", "timing"]});
    let lab = Workload::start(&exporting(json!({"spans": spans}))).await;
    let grpc: [(&str, &[u8]); 2] = [("content-type", b"application/grpc"), ("te", b"trailers")];
    let mut streams = Vec::new();
    for listener in ["inbound-h2", "outbound-h2"] {
        for method in ["Talk", "Fail", "Leave"] {
            let mut connection =
                RawHttp2::open(lab.envoy.listener(listener)).await.expect("a connection");
            let path = format!("{CHAT}{method}");
            let mut stream = connection.start("POST", &path, &grpc, false).await.expect("a stream");
            stream.send(message(20), false).expect("sent");
            streams.push((connection, stream, method));
        }
    }
    let open = lab.collector.wait_for(streams.len()).await;
    for span in &open {
        assert_eq!(
            facts(span, &["meshweft.stream", "rpc.system", "rpc.service", "rpc.grpc.status_code"]),
            "meshweft.stream=open rpc.system=grpc rpc.service=shop.Chat"
        );
        assert!(span.end - span.start >= OPEN && !span.error, "{span:#?}");
    }
    let forwarded: BTreeSet<_> =
        lab.app.seen().iter().map(|seen| seen.one("traceparent")[36..52].to_owned()).collect();
    assert_eq!(forwarded, open.iter().map(|span| span.span_id.clone()).collect());

    let mut connections = Vec::new();
    for (connection, mut stream, method) in streams {
        connections.push(connection);
        if method == "Leave" {
            stream.reset(Reason::CANCEL);
            continue;
        }
        stream.send(message(10), true).expect("sent");
        let answer = stream.finish().await.expect("an answer");
        assert_eq!(answer.body, [message(20), message(10)].concat());
        let status = if method == "Fail" { "14" } else { "0" };
        assert_eq!(answer.trailers, [("grpc-status".to_owned(), status.into())]);
    }
    let all = lab.collector.wait_for(2 * open.len()).await;
    let mut told = BTreeSet::new();
    for span in &all[open.len()..] {
        let first = open.iter().find(|open| open.trace_id == span.trace_id).expect("its first");
        assert_eq!((span.start, &span.kind, &*span.parent_id), (first.start, &first.kind, ""));
        assert!(span.end > first.end, "{span:#?}");
        assert_eq!(span.links, [(first.trace_id.clone(), first.span_id.clone())]);
        assert!(0.0 < span.attribute("envoy.time_to_first_byte_ms").parse().unwrap_or(0.0));
        let more = [
            "meshweft.stream",
            "rpc.grpc.status_code",
            "http.request.body.size",
            "http.response.body.size",
            "envoy.response_flags",
            "error.type",
        ];
        told.insert(format!("{} {} {} {}", span.kind, span.name, span.error, facts(span, &more)));
    }
    let finished = "meshweft.stream=finished";
    let sizes = "http.request.body.size=40 http.response.body.size=40";
    // What the client has left is no error of the server's, and no status came.
    let left = "http.request.body.size=25 http.response.body.size=25 envoy.response_flags=DR";
    let expected = ["CLIENT", "SERVER"].map(|kind| {
        [
            format!("{kind} shop.Chat/Fail true {finished} rpc.grpc.status_code=14 {sizes} error.type=14"),
            format!("{kind} shop.Chat/Leave false {finished} {left}"),
            format!("{kind} shop.Chat/Talk false {finished} rpc.grpc.status_code=0 {sizes}"),
        ]
    });
    assert_eq!(told.into_iter().collect::<Vec<_>>(), expected.concat());
    lab.envoy.stop().await;
}

/// How long the connection stays open after each message.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers an upgrade and then sends back what comes.
async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
            connection: upgrade\r\n\r\n";
        stream.write_all(answer).await.expect("an answer");
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_a_span_as_long_as_its_connection() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = server.local_addr().expect("an address");
    tokio::spawn(echo(server));
    let options = Options {
        routes: vec![route("/socket", "socket")],
        clusters: vec![cluster("socket", address)],
        manager: json!({"upgrade_configs": [{"upgrade_type": "websocket"}]}),
        ..Options::default()
    };
    let config = exporting(json!({"spans": {"facts": ["sizes"]}}));
    let lab = Workload::with(&config, options).await;
    let to = lab.envoy.listener("inbound");
    let mut stream = TcpStream::connect(to).await.expect("a connection");
    let head = b"GET /socket HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\
        connection: upgrade\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(bytes.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&bytes));
    for _ in 0..3 {
        stream.write_all(b"hello").await.expect("sent");
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.expect("an echo");
        assert_eq!(&back, b"hello");
        tokio::time::sleep(PAUSE).await;
    }
    drop(stream);
    let spans = lab.settled(1).await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    assert_eq!(
        (
            &*span.name,
            span.error,
            facts(
                span,
                &["http.response.status_code", "http.request.body.size", "http.response.body.size",]
            )
        ),
        (
            "GET",
            false,
            "http.response.status_code=101 http.request.body.size=15 http.response.body.size=15"
                .to_owned()
        )
    );
    assert!(u128::from(span.end - span.start) >= (PAUSE * 3).as_nanos(), "{span:#?}");
    lab.envoy.stop().await;
}
