//! One correct span for every kind of exchange, through a real Envoy.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;

use meshweft_lab::client::{Client, Version, raw};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{COLLECTOR, istio_node, meshweft, node};
use meshweft_lab::ends::all_ways_to_end;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::story::{PARENT, Story};
use serde_json::json;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forwarded_parent_id_is_the_exported_span_id() {
    let lab = Workload::start(&exporting(json!({}))).await;
    let client = Client::new(Version::H1);
    let incoming = format!("00-{TRACE}-{PARENT}-01");
    for (listener, kind) in [("inbound", "SERVER"), ("outbound", "CLIENT"), ("gateway", "SERVER")] {
        for headers in [vec![], vec![("traceparent", incoming.as_bytes())]] {
            lab.collector.clear();
            let answer = client.get(lab.envoy.listener(listener), "/a?secret=1", &headers).await;
            assert_eq!(answer.expect("an answer").status, 200);
            let spans = lab.collector.wait_for(1).await;
            let [span] = &*spans else { panic!("{spans:#?}") };
            let forwarded = lab.app.last().one("traceparent");
            let flags = if headers.is_empty() { "03" } else { "01" };
            assert_eq!(forwarded, format!("00-{}-{}-{flags}", span.trace_id, span.span_id));
            assert_eq!((span.kind.as_str(), span.name.as_str(), span.error), (kind, "GET", false));
            if !headers.is_empty() {
                assert_eq!((&*span.trace_id, &*span.parent_id), (TRACE, PARENT));
            }
            assert!(span.start > 1_700_000_000_000_000_000 && span.end > span.start, "{span:#?}");
            assert_eq!(span.attribute("http.response.status_code"), "200");
        }
    }
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_spans_of_both_sides_over_both_versions() {
    let lab = Workload::start(&exporting(json!({}))).await;
    let mut story = Story::new(&lab);
    let mut expected = Vec::new();
    for (listener, version, protocol) in [
        ("inbound", Version::H1, "1.1"),
        ("outbound", Version::H1, "1.1"),
        ("inbound-h2", Version::H2, "2"),
        ("outbound-h2", Version::H2, "2"),
    ] {
        let query = "?token=secret#part";
        story.send(version, "GET", listener, &format!("/orders/7{query}"), &[]).await;
        let port = lab.envoy.listener(listener).port().to_string();
        let (app, app_port) = (lab.app.address().to_string(), lab.app.address().port().to_string());
        let url = format!("http://127.0.0.1:{port}/orders/7");
        let mut attributes = map(&[
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("server.address", "127.0.0.1"),
            ("server.port", &port),
            ("network.protocol.version", protocol),
            ("envoy.cluster", if version == Version::H1 { "app" } else { "app-h2" }),
            ("envoy.response_code_details", "via_upstream"),
            ("envoy.upstream_address", &app),
            ("envoy.attempt_count", "1"),
            ("meshweft.sampling.reason", "parent"),
        ]);
        let kind = if listener.starts_with("inbound") {
            attributes.extend(map(&[
                ("url.scheme", "http"),
                ("url.path", "/orders/7"),
                ("client.address", "127.0.0.1"),
                ("user_agent.original", "lab"),
            ]));
            "SERVER"
        } else {
            attributes.extend(map(&[
                ("url.full", &*url),
                ("network.peer.address", "127.0.0.1"),
                ("network.peer.port", &app_port),
            ]));
            "CLIENT"
        };
        let seen = lab.app.last();
        let traceparent = seen.one("traceparent");
        let span_id = traceparent.split('-').nth(2).unwrap_or_default().to_owned();
        expected.push(Span {
            trace_id: story.sent.last().expect("sent").trace_id.clone(),
            span_id,
            parent_id: PARENT.to_owned(),
            flags: 0x301,
            name: "GET".to_owned(),
            kind: kind.to_owned(),
            attributes,
            resource: map(&[
                ("service.name", "lab"),
                ("telemetry.sdk.name", "meshweft"),
                ("telemetry.sdk.language", "rust"),
                ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
            ]),
            ..Span::default()
        });
        // The query is the application's.
        assert_eq!(seen.path, "/orders/7?token=secret");
    }
    let spans = story.spans().await;
    let timeless = spans.into_iter().map(|span| Span { start: 0, end: 0, ..span });
    assert_eq!(timeless.collect::<Vec<_>>(), expected);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_with_trailers() {
    let lab = Workload::with(&exporting(json!({})), all_ways_to_end()).await;
    let mut story = Story::new(&lab);
    for listener in ["inbound-h2", "outbound-h2"] {
        for method in ["Get", "Fail", "Unknown"] {
            let path = format!("/shop.Orders/{method}");
            let headers = [("content-type", "application/grpc")];
            let answer = story.send(Version::H2, "POST", listener, &path, &headers).await;
            assert_eq!(answer.expect("an answer").trailers.len(), 1);
        }
        // Envoy answers itself, with all in the headers.
        let headers = [("content-type", "application/grpc+proto")];
        let answer = story.send(Version::H2, "POST", listener, "/empty.Orders/Get", &headers).await;
        assert_eq!(answer.expect("an answer").header("grpc-status"), Some(&b"14"[..]));
    }
    let spans = story.spans().await;
    let line = |span: &Span| {
        let of = |name| span.attribute(name);
        format!(
            "{} {} error={} {:?} {:?} {} {}/{} {} {}",
            span.kind,
            span.name,
            span.error,
            of("error.type"),
            of("http.request.method"),
            of("rpc.system"),
            of("rpc.service"),
            of("rpc.method"),
            of("rpc.grpc.status_code"),
            of("http.response.status_code"),
        )
    };
    // A method that the server does not have must not name a span; not to have it is an error.
    assert_eq!(
        spans.iter().map(line).collect::<Vec<_>>(),
        [
            r#"SERVER shop.Orders/Get error=false "" "POST" grpc shop.Orders/Get 0 200"#,
            r#"SERVER shop.Orders/Fail error=true "14" "POST" grpc shop.Orders/Fail 14 200"#,
            r#"SERVER POST error=true "12" "POST" grpc shop.Orders/Unknown 12 200"#,
            r#"SERVER POST error=true "14" "POST" grpc empty.Orders/Get 14 200"#,
            r#"CLIENT shop.Orders/Get error=false "" "POST" grpc shop.Orders/Get 0 200"#,
            r#"CLIENT shop.Orders/Fail error=true "14" "POST" grpc shop.Orders/Fail 14 200"#,
            r#"CLIENT POST error=true "12" "POST" grpc shop.Orders/Unknown 12 200"#,
            r#"CLIENT POST error=true "14" "POST" grpc empty.Orders/Get 14 200"#,
        ]
    );
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_of_an_exchange() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("access.log");
    let options = Options { access_log: Some(log.clone()), ..all_ways_to_end() };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let mut story = Story::new(&lab);
    for listener in ["inbound", "outbound"] {
        for path in [
            "/status/404",
            "/status/500",
            "/direct",
            "/moved",
            "/denied",
            "/closed",
            "/empty",
            "/nowhere",
            "/reset",
            "/brief/hang",
            "/retried/status/503",
        ] {
            story.get(listener, path, &[]).await;
        }
        story.get(listener, &format!("/retried/{listener}/flaky/1"), &[]).await;
        story.get(listener, "/", &[("x-envoy-fault-abort-request", "503")]).await;
        story.get(listener, "/half", &[]).await;
    }
    // One token for all workers and listeners.
    story.get("inbound", "/limited", &[]).await;
    story.get("inbound", "/limited", &[]).await;
    story.raw("inbound", "OPTIONS * HTTP/1.1\r\nhost: a\r\n{}\r\nconnection: close\r\n\r\n").await;
    story.raw("inbound", "GET / HTTP/1.1\r\n{}\r\nconnection: close\r\n\r\n").await;
    story
        .raw(
            "inbound",
            "GET / HTTP/1.1\r\nhost: a\r\n{}\r\nupgrade: h9\r\nconnection: upgrade\r\n\r\n",
        )
        .await;
    story.leave("outbound", "/delay/5000").await;
    // HTTP/2 has no list of methods.
    story.send(Version::H2, "BREW", "inbound-h2", "/", &[]).await;
    let ends = |kind: &str| {
        let client = kind == "CLIENT";
        let error = |code: u16| match code {
            500.. => format!("error type={code}"),
            400.. if client => format!("error type={code}"),
            _ => String::new(),
        };
        let line = |code: u16, rest: &str| {
            let error = error(code);
            let space = if error.is_empty() { "" } else { " " };
            format!("{code}: {kind} GET {error}{space}code={code} {rest}")
        };
        let app = "to=app at=app";
        let reset = "details=upstream_reset_before_response_started";
        let refused = "remote_connection_failure|delayed_connect_error:_Connection_refused";
        let half = "upstream_reset_after_response_started";
        [
            line(404, &format!("details=via_upstream {app} attempts=1")),
            line(500, &format!("details=via_upstream {app} attempts=1")),
            line(418, "details=direct_response"),
            line(301, "details=direct_response"),
            line(403, "details=rbac_access_denied_matched_policy[p] to=app"),
            line(
                503,
                &format!("flags=UF {reset}{{{refused}}} to=closed at=127.0.0.1:1 attempts=1"),
            ),
            line(503, "flags=UH details=no_healthy_upstream to=empty attempts=1"),
            line(503, "flags=NC details=cluster_not_found"),
            line(503, &format!("flags=UC {reset}{{connection_termination}} {app} attempts=1")),
            line(504, &format!("flags=UT details=response_timeout {app} attempts=1")),
            line(503, &format!("flags=URX details=via_upstream {app} attempts=3")),
            line(200, &format!("details=via_upstream {app} attempts=2")),
            line(503, "flags=FI details=fault_filter_abort to=app"),
            format!(
                "-: {kind} GET error type={half} code=200 flags=UPE \
                 details={half}{{protocol_error}} \
                 {app} attempts=1"
            ),
        ]
    };
    let mut expected: Vec<String> = Vec::new();
    expected.extend(ends("SERVER"));
    expected.extend(ends("CLIENT"));
    expected.extend(
        [
            "200: SERVER GET code=200 details=via_upstream to=app at=app attempts=1",
            "429: SERVER GET code=429 flags=RL details=local_rate_limited to=app",
            "404: SERVER OPTIONS code=404 details=absolute_path_rejected",
            "400: SERVER GET code=400 details=missing_host_header",
            "403: SERVER GET code=403 details=upgrade_failed to=app",
            "-: CLIENT GET error type=downstream_remote_disconnect flags=DC \
             details=downstream_remote_disconnect to=app at=app attempts=1",
            "200: SERVER HTTP code=200 details=via_upstream to=app-h2 at=app attempts=1",
        ]
        .map(str::to_owned),
    );
    assert_eq!(story.lines().await, expected);

    // Access logs have the trace of every request, also where the filter saw no headers pass.
    let spans = story.spans().await;
    let or = |text: &str, other: &str| if text.is_empty() { other } else { text }.to_owned();
    let line = |span: &Span| {
        let code = or(span.attribute("http.response.status_code"), "0");
        let flags = or(span.attribute("envoy.response_flags"), "-");
        // Only the trace id, unless more is asked for.
        format!("{} - - {code} {flags}", span.trace_id)
    };
    assert_eq!(
        lab.envoy.access_log_lines(&log, spans.len()).await,
        spans.iter().map(line).collect::<Vec<_>>()
    );
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_codec_refuses_has_a_span_of_its_own_trace() {
    let manager = json!({"delayed_close_timeout": "0.05s"});
    let options = Options { manager, ..Options::default() };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let to = lab.envoy.listener("inbound");
    let brew = format!("BREW / HTTP/1.1\r\nhost: a\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\r\n");
    let refused: [(u16, &[u8]); 4] = [
        (400, brew.as_bytes()),
        (400, b"GET / HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n"),
        (426, b"GET / HTTP/1.0\r\nhost: a\r\n\r\n"),
        (400, b"\x16\x03\x01\x00\x05hello\r\n\r\n"),
    ];
    for (status, bytes) in refused {
        assert_eq!(raw(to, bytes).await.map(|answer| answer.status), Some(status));
    }
    // Envoy has no headers of such a request: on_log runs and knows no more than the outcome.
    let line = |span: &Span| {
        let mut attributes = span.attributes.clone();
        let mut of = |name| attributes.remove(name).unwrap_or_default();
        let outcome = [
            of("http.response.status_code"),
            of("envoy.response_flags"),
            of("envoy.response_code_details"),
        ];
        assert_eq!(of("envoy.response_flags_text"), "the client broke the protocol");
        let rest = map(&[
            ("client.address", "127.0.0.1"),
            ("http.request.method", "_OTHER"),
            ("meshweft.sampling.reason", "default"),
            ("network.protocol.version", "1.1"),
        ]);
        assert_eq!(attributes, rest);
        let (name, parent, error) = (&*span.name, &*span.parent_id, span.error);
        assert_eq!((name, parent, error, span.flags), ("HTTP", "", false, 0x103));
        outcome.join(" ")
    };
    let mut lines: Vec<_> = lab.settled(4).await.iter().map(line).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "400 DPE http1.codec_error",
            "400 DPE http1.codec_error",
            "400 DPE http1.invalid_characters",
            "426 DPE low_version",
        ]
    );
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_instances_is_passive() {
    let config = exporting(json!({}));
    let mut options = all_ways_to_end();
    options.before.push(meshweft(&config));
    let lab = Workload::with(&config, options).await;
    let mut story = Story::new(&lab);
    story.get("inbound", "/", &[]).await;
    story.get("inbound", "/", &[("x-envoy-fault-abort-request", "503")]).await;
    story.get("inbound", "/denied", &[]).await;
    assert_eq!(
        story.lines().await,
        [
            "200: SERVER GET code=200 details=via_upstream to=app at=app attempts=1",
            "503: SERVER GET error type=503 code=503 flags=FI details=fault_filter_abort to=app",
            "403: SERVER GET code=403 details=rbac_access_denied_matched_policy[p] to=app",
        ]
    );
    lab.envoy.metrics_until(|metrics| metrics.get("passive") == Some(&3)).await;
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_describes_the_workload() {
    let config = json!({"export": {"cluster": COLLECTOR, "batch": {"interval": "100ms"}}});
    let options = Options { node: Some(istio_node("reviews", "shop")), ..Options::default() };
    let lab = Workload::with(&config, options).await;
    let mut story = Story::new(&lab);
    story.get("inbound", "/", &[]).await;
    let spans = story.spans().await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    let expected = map(&[
        ("service.name", "reviews"),
        ("service.namespace", "shop"),
        ("k8s.pod.name", "reviews-abc"),
        ("k8s.namespace.name", "shop"),
        ("k8s.cluster.name", "Kubernetes"),
        ("istio.canonical_service", "reviews"),
        ("telemetry.sdk.name", "meshweft"),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ]);
    assert_eq!(span.resource, expected);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_whatever_its_listeners_are() {
    // Istio's gateways have outbound listeners.
    let options = Options { node: Some(node("router~10.0.0.1~edge.a~b")), ..Options::default() };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let mut story = Story::new(&lab);
    for listener in ["inbound", "outbound", "gateway"] {
        story.get(listener, "/", &[]).await;
    }
    let spans = story.spans().await;
    assert_eq!(spans.iter().map(|span| &*span.kind).collect::<Vec<_>>(), ["SERVER"; 3]);
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_recorded_as_envoy_normalizes_them() {
    let manager = json!({
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    });
    let lab =
        Workload::with(&exporting(json!({})), Options { manager, ..Options::default() }).await;
    let mut story = Story::new(&lab);
    for path in ["/a/../b//c%2Fd/./e?q=/../secret", "/%7euser;x=1", "/#fragment"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: u:secret@shop:81\r\n{{}}\r\nconnection: close\r\n\r\n"
        );
        story.raw("inbound", &request).await;
        story.raw("outbound", &request).await;
    }
    let spans = story.spans().await;
    let of = |span: &Span| {
        let path = span.attribute("url.path").to_owned() + span.attribute("url.full");
        let of = |name| span.attribute(name);
        format!(
            "{path} {} {} {}",
            of("server.address"),
            of("server.port"),
            of("http.response.status_code")
        )
    };
    // A fragment is none of a server's business: Envoy refuses it before any filter sees it.
    assert_eq!(
        spans.iter().map(of).collect::<Vec<_>>(),
        [
            "/b/c/d/e shop 81 200",
            "http://shop:81/b/c/d/e shop 81 200",
            "/~user;x=1 shop 81 200",
            "http://shop:81/~user;x=1 shop 81 200",
            "/ shop 81 400",
            " shop 81 400",
        ]
    );
    for span in &spans {
        assert!(!format!("{span:?}").contains("secret"), "{span:#?}");
    }
    lab.envoy.stop().await;
}
