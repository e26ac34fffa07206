//! What the configuration makes of spans, and what never leaves the proxy, through a real Envoy.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use meshweft_lab::app::App;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route,
};
use meshweft_lab::ends::{all_ways_to_end, filter};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::story::Story;
use meshweft_lab::strategies::Strategies;
use meshweft_lab::tls::Certificates;
use prost::Message;
use serde_json::{Value, json};

/// What is planted in requests and answers begins like this, and nothing else does.
const SECRET: &str = "5ecret";

/// A route whose answers carry headers that the application knows nothing of.
fn telling(prefix: &str, headers: &[(&str, &str)]) -> Value {
    let mut route = route(prefix, "app");
    let headers: Vec<_> = headers
        .iter()
        .map(|(key, value)| json!({"header": {"key": key, "value": value}}))
        .collect();
    route["response_headers_to_add"] = json!(headers);
    route
}

/// Every place that a span can be told to look at.
fn everything() -> Value {
    let mut attributes = vec![
        json!({"name": "a.path", "request_header": ":path"}),
        json!({"name": "a.host", "request_header": "host"}),
        json!({"name": "a.referer", "request_header": "referer"}),
        json!({"name": "a.note", "request_header": "x-note"}),
        json!({"name": "a.location", "response_header": "location"}),
        json!({"name": "a.said", "response_header": "x-said"}),
        json!({"name": "a.region", "response_header": "x-region"}),
    ];
    for property in [
        "request.path",
        "request.query",
        "request.host",
        "request.referer",
        "request.headers.referer",
    ] {
        attributes.push(json!({"name": format!("p.{property}"), "property": property}));
    }
    json!({
        "propagation": {"baggage": {"attributes": ["tenant"]}},
        "spans": {
            "query": "keep",
            "attributes": attributes,
            "redact": [{"pattern": "5ecret-[a-z]+@[a-z.]+", "with": "<mail>"},
                {"pattern": "[0-9]{4}( ?[0-9]{4}){3}", "with": "<card>"}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaves_in_any_byte() {
    let named = json!({"spans": {
        "unsafe_names": ["x-api-key", "token"],
        "query": {"allow": ["token"]},
        "attributes": [{"name": "key", "request_header": "x-api-key"}],
    }});
    let said = [
        ("set-cookie", "id=5ecret-set-cookie"),
        ("location", "https://u:5ecret-there@a.test/b?code=5ecret-code&page=2"),
        ("x-said", "ask 5ecret-who@example.test or 4111 1111 1111 1111"),
    ];
    let options = Options {
        routes: vec![telling("/told", &said)],
        listeners: vec![("named".to_owned(), exporting(named))],
        ..Options::default()
    };
    let lab = Workload::with(&exporting(everything()), options).await;
    let mut story = Story::new(&lab);
    let headers = [
        ("authorization", "Bearer 5ecret-bearer"),
        ("proxy-authorization", "Basic 5ecret-basic"),
        ("cookie", "session=5ecret-cookie"),
        ("x-api-key", "5ecret-key"),
        ("x-note", "card 4111111111111111, mail 5ecret-me@example.test"),
        // Envoy itself drops one with user information.
        ("referer", "https://b.test/x?access_token=5ecret-referer&page=3"),
        ("baggage", "tenant=5ecret-you@example.test,session=5ecret-session"),
    ];
    let target =
        "/told/4111111111111111?token=5ecret-token&%74oken=5ecret-percent;sig=5ecret-sig&page=4";
    for (listener, version) in [
        ("inbound", Version::H1),
        ("outbound", Version::H1),
        ("inbound-h2", Version::H2),
        ("outbound-h2", Version::H2),
    ] {
        story.send(version, "GET", listener, target, &headers).await;
    }
    for listener in ["inbound", "outbound"] {
        let request = "GET /told?token=5ecret-raw HTTP/1.1\r\nhost: user:5ecret-pass@shop.test\r\n\
            {} 5ecret-agent@example.test\r\nconnection: close\r\n\r\n";
        story.raw(listener, request).await;
    }
    let grpc = [("content-type", "application/grpc"), ("x-api-key", "5ecret-key")];
    story.send(Version::H2, "POST", "inbound-h2", "/shop.Orders/Told", &grpc).await;
    let spans = story.spans().await;
    for export in lab.collector.exports() {
        let bytes = String::from_utf8_lossy(&export.encode_to_vec()).into_owned();
        assert!(!bytes.contains(SECRET) && !bytes.contains("4111"), "{export:#?}");
    }
    // What is left is what was asked for.
    let of = |span: &Span, prefix: &str| {
        let named = span.attributes.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
    };
    let query = "?token=REDACTED&%74oken=REDACTED&sig=REDACTED&page=4";
    let [first, ..] = &*spans else { panic!("no span") };
    let mut custom = of(first, "a.");
    let host = first.attribute("a.host").to_owned();
    custom.retain(|line| !line.starts_with("a.host"));
    assert_eq!(
        custom,
        [
            "a.location=https://a.test/b?code=REDACTED&page=2".to_owned(),
            "a.note=card <card>, mail <mail>".to_owned(),
            format!("a.path=/told/<card>{query}"),
            "a.referer=https://b.test/x?access_token=REDACTED&page=3".to_owned(),
            "a.said=ask <mail> or <card>".to_owned(),
        ]
    );
    assert_eq!(host, lab.envoy.listener("inbound").to_string());
    assert_eq!(
        of(first, "p."),
        [
            "p.request.headers.referer=https://b.test/x?access_token=REDACTED&page=3".to_owned(),
            format!("p.request.host={host}"),
            format!("p.request.path=/told/<card>{query}"),
            format!("p.request.query={}", query.trim_start_matches('?')),
            "p.request.referer=https://b.test/x?access_token=REDACTED&page=3".to_owned(),
        ]
    );
    assert_eq!(
        of(first, "url."),
        [
            "url.path=/told/<card>".to_owned(),
            format!("url.query={}", query.trim_start_matches('?')),
            "url.scheme=http".to_owned(),
        ]
    );
    assert_eq!(first.attribute("tenant"), "<mail>");
    let grpc = spans.last().expect("a span");
    assert_eq!(grpc.attribute("a.region"), "eu-1");

    // The same values go out where they are named, so the search above can find them.
    lab.collector.clear();
    story.send(Version::H1, "GET", "named", target, &headers).await;
    let spans = lab.collector.wait_for(1).await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    assert_eq!(span.attribute("key"), "5ecret-key");
    assert_eq!(span.attribute("url.query"), "token=5ecret-token&%74oken=5ecret-percent");
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_from_every_source_are_typed() {
    let fields = json!({"team": "red", "weight": 2.5, "shards": 3, "on": true, "deep": {"x": "y"}});
    let metadata = |key: &str| json!({"filter_metadata": {key: fields}});
    let mut described = route("/described", "described");
    described["metadata"] = metadata("lab.route");
    let mut own = cluster("described", SocketAddr::from(([127, 0, 0, 1], 1)));
    own["metadata"] = metadata("lab.cluster");
    let dynamic = filter(
        "set",
        "set_metadata.v3.Config",
        &json!({"metadata": [{"metadata_namespace": "lab.request", "value": fields}]}),
    );
    let mut attributes = vec![
        json!({"name": "literal", "value": 7}),
        json!({"name": "token.kind", "environment": "LAB_KIND"}),
        json!({"name": "http.request.header.x-many", "request_header": "x-many"}),
        json!({"name": "order", "request_header": "x-order", "pattern": "^o-([0-9]+)$", "as": "int"}),
        json!({"name": "status", "response_header": ":status", "as": "int"}),
        json!({"name": "port", "property": "destination.port"}),
        json!({"name": "mtls", "property": "connection.mtls"}),
        json!({"name": "vhost", "property": "xds.virtual_host_name"}),
        json!({"name": "node", "property": "xds.node.cluster"}),
    ];
    for (kind, key) in
        [("route", "lab.route"), ("cluster", "lab.cluster"), ("request", "lab.request")]
    {
        for (path, as_type) in [
            (vec!["team"], "string"),
            (vec!["weight"], "double"),
            (vec!["shards"], "int"),
            (vec!["on"], "bool"),
            (vec!["deep", "x"], "string"),
            (vec!["deep"], "string"),
            (vec!["none"], "string"),
        ] {
            let name = format!("{kind}.{}", path.join("."));
            let metadata = json!({"kind": kind, "key": key, "path": path});
            attributes.push(json!({"name": name, "metadata": metadata, "as": as_type}));
        }
    }
    let config = exporting(json!({"spans": {"attributes": attributes}}));
    let options = Options {
        routes: vec![described],
        after: vec![dynamic],
        clusters: vec![own],
        ..Options::default()
    };
    let lab = Workload::with(&config, options).await;
    let mut story = Story::new(&lab);
    let headers = [("x-many", "a"), ("x-many", "b"), ("x-order", "o-17")];
    story.get("inbound", "/described", &headers).await;
    let spans = story.spans().await;
    let [span] = &*spans else { panic!("{spans:#?}") };
    let port = lab.envoy.listener("inbound").port().to_string();
    let mut expected: BTreeMap<String, String> = [
        ("literal", "7"),
        ("http.request.header.x-many", "a,b"),
        ("order", "17"),
        ("status", "503"),
        ("port", &port),
        ("mtls", "false"),
        ("vhost", "all"),
        ("node", "lab"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for kind in ["route", "cluster", "request"] {
        for (path, value) in
            [("team", "red"), ("weight", "2.5"), ("shards", "3"), ("on", "true"), ("deep.x", "y")]
        {
            expected.insert(format!("{kind}.{path}"), value.to_owned());
        }
    }
    let asked = |name: &str| attributes_asked(&config).iter().any(|asked| asked == name);
    let mut found = span.attributes.clone();
    found.retain(|name, _| asked(name));
    assert_eq!(found, expected);
    lab.envoy.stop().await;
}

/// The names of the attributes that `config` asks for.
fn attributes_asked(config: &Value) -> Vec<String> {
    let list = config["spans"]["attributes"].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_name_spans_of_both_sides() {
    let templates = json!(["/orders/{id}", "/orders/new", "/files/{path...}"]);
    let lab = Workload::start(&exporting(json!({"spans": {"routes": templates}}))).await;
    let mut story = Story::new(&lab);
    for listener in ["inbound", "outbound"] {
        for path in ["/orders/7?a=/orders/new", "/orders/new", "/orders/7/", "/files/a/b", "/o/7"] {
            story.get(listener, path, &[]).await;
        }
    }
    let line = |span: &Span| {
        format!(
            "{}: {} {}",
            span.name,
            span.attribute("http.route"),
            span.attribute("url.template")
        )
    };
    let lines: Vec<_> = story.spans().await.iter().map(line).collect();
    assert_eq!(
        lines,
        [
            "GET /orders/{id}: /orders/{id} ",
            "GET /orders/new: /orders/new ",
            "GET /orders/{id}: /orders/{id} ",
            "GET /files/{path...}: /files/{path...} ",
            "GET:  ",
            "GET /orders/{id}:  /orders/{id}",
            "GET /orders/new:  /orders/new",
            "GET /orders/{id}:  /orders/{id}",
            "GET /files/{path...}:  /files/{path...}",
            "GET:  ",
        ]
    );
    lab.envoy.stop().await;
}

/// A client may call anything gRPC, with any path; what a server of plain HTTP answers names no span.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_looks_like_grpc_names_a_span_only_if_grpc_answered() {
    let plain = Strategies::start(200, "ok").await;
    let options = Options {
        routes: vec![route("/plain.", "plain")],
        clusters: vec![cluster("plain", plain.address())],
        ..Options::default()
    };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let mut story = Story::new(&lab);
    let grpc = [("content-type", "application/grpc")];
    for path in ["/plain.Users/4711", "/shop.Orders/Get"] {
        for listener in ["inbound-h2", "outbound-h2"] {
            story.send(Version::H2, "POST", listener, path, &grpc).await;
        }
    }
    let spans = story.spans().await;
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["POST", "POST", "shop.Orders/Get", "shop.Orders/Get"]);
    lab.envoy.stop().await;
}

/// The values of some attributes of a span.
fn facts(span: &Span, names: &[&str]) -> String {
    let facts = names
        .iter()
        .filter_map(|name| span.attributes.get(*name).map(|value| format!("{name}={value}")));
    facts.collect::<Vec<_>>().join(" ")
}

/// The cluster's tries through the module too, with this configuration.
fn with_tries(mut cluster: Value, config: &Value) -> Value {
    let codec = json!({"@type":
        "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"});
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "http_filters": [
                meshweft(config),
                {"name": "envoy.filters.http.upstream_codec", "typed_config": codec},
            ],
        }
    });
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_a_child_of_the_request() {
    let app = App::start().await;
    let tries = exporting(json!({"mode": "upstream", "spans": {"routes": ["/retried/{rest...}"]}}));
    let closed = SocketAddr::from(([127, 0, 0, 1], 1));
    let retried = |prefix: &str, to: &str, more: Value| {
        let mut route = route(prefix, to);
        route["route"]["retry_policy"] = json!({"retry_on": "5xx,reset,connect-failure",
            "num_retries": 2, "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            route["route"][key] = value.clone();
        }
        route
    };
    let mut hedged = retried(
        "/hedged",
        "tried",
        json!({
        "hedge_policy": {"hedge_on_per_try_timeout": true}}),
    );
    hedged["route"]["retry_policy"]["per_try_timeout"] = json!("0.2s");
    let options = Options {
        routes: vec![
            retried("/retried", "tried", json!({})),
            hedged,
            retried("/closed", "closed", json!({})),
            route("/once", "tried"),
        ],
        clusters: vec![
            with_tries(cluster("tried", app.address()), &tries),
            with_tries(cluster("closed", closed), &tries),
        ],
        ..Options::default()
    };
    let lab = Workload::with(&exporting(json!({})), options).await;
    let client = Client::new(Version::H1);
    let names = [
        "http.response.status_code",
        "error.type",
        "http.request.resend_count",
        "envoy.attempt.kind",
        "envoy.attempt.outcome",
    ];
    let dropped = format!("00-{}-{}-00", "1".repeat(32), "2".repeat(16));
    for (path, headers, status, expected) in [
        ("/once", &[][..], 200, &["GET http.response.status_code=200"][..]),
        ("/once", &[("traceparent", dropped.as_bytes())], 200, &[]),
        (
            "/retried/flaky/1",
            &[],
            200,
            &[
                "GET /retried/{rest...} http.response.status_code=503 error.type=503",
                "GET /retried/{rest...} http.response.status_code=200 http.request.resend_count=1 \
                 envoy.attempt.kind=retry",
            ],
        ),
        (
            "/retried/reset",
            &[],
            503,
            &[
                "GET /retried/{rest...} error.type=no_response",
                "GET /retried/{rest...} error.type=no_response http.request.resend_count=1 \
                 envoy.attempt.kind=retry",
                "GET /retried/{rest...} error.type=no_response http.request.resend_count=2 \
                 envoy.attempt.kind=retry",
            ],
        ),
        (
            "/closed",
            &[],
            503,
            &[
                "GET error.type=connection_failure",
                "GET error.type=connection_failure http.request.resend_count=1 \
                 envoy.attempt.kind=retry",
                "GET error.type=connection_failure http.request.resend_count=2 \
                 envoy.attempt.kind=retry",
            ],
        ),
        (
            "/hedged/slow/1",
            &[],
            200,
            &[
                "GET envoy.attempt.outcome=superseded",
                "GET http.response.status_code=200 http.request.resend_count=1 \
                 envoy.attempt.kind=hedge",
            ],
        ),
    ] {
        lab.collector.clear();
        let seen = app.seen().len();
        let answer = client.get(lab.envoy.listener("outbound"), path, headers).await;
        assert_eq!(answer.expect("an answer").status, status, "{path}");
        if expected.is_empty() {
            // The next one's spans would come behind any of this.
            continue;
        }
        let spans = lab.collector.wait_for(expected.len() + 1).await;
        assert_eq!(spans.len(), expected.len() + 1, "{path} {spans:#?}");
        let request = spans.iter().find(|span| span.parent_id.is_empty()).expect("the request");
        let mut tried: Vec<_> =
            spans.iter().filter(|span| span.parent_id == request.span_id).collect();
        tried.sort_by_key(|span| span.start);
        let lines: Vec<_> =
            tried.iter().map(|span| format!("{} {}", span.name, facts(span, &names))).collect();
        assert_eq!(lines, expected, "{path}");
        for span in &tried {
            assert_eq!((&span.trace_id, &*span.kind), (&request.trace_id, "CLIENT"));
            assert!(request.start <= span.start + 1_000_000 && span.start <= span.end);
        }
        // The application's parents are the tries that reached it.
        let all = app.seen();
        for seen in all.iter().skip(seen) {
            let parent = seen.one("traceparent");
            let matching = tried
                .iter()
                .filter(|span| parent == format!("00-{}-{}-03", span.trace_id, span.span_id));
            assert_eq!(matching.count(), 1, "{parent} {spans:#?}");
        }
    }
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_tell_of_tls_and_of_whom_they_met() {
    let certificates = Certificates::of(&["server", "client"]);
    let (app, collector) = (App::start().await, Collector::start().await);
    let config = exporting(json!({"spans": {"facts": ["tls"]}}));
    let start = |direction, to: SocketAddr, socket: Option<Value>, secured: bool| {
        let mut listener =
            listener("main", direction, vec![meshweft(&config)], vec![route("/", "next")], None);
        let mut next = cluster("next", to);
        match socket {
            Some(socket) if secured => {
                listener["filter_chains"][0]["transport_socket"] = socket;
                // It reads the name that the client asks for, before the handshake.
                listener["listener_filters"] = json!([{
                    "name": "envoy.filters.listener.tls_inspector",
                    "typed_config": {"@type": "type.googleapis.com/\
                        envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
                }]);
            }
            Some(socket) => next["transport_socket"] = socket,
            None => {}
        }
        let clusters = vec![next, cluster(COLLECTOR, collector.address())];
        bootstrap(node("lab"), vec![listener], clusters)
    };
    let socket = certificates.downstream("server", "client");
    let inbound =
        Envoy::start(&start(Direction::Inbound, app.address(), Some(socket), true), 1).await;
    let socket = certificates.upstream(Some("client"), "server", Version::H1);
    let to = inbound.listener("main");
    let outbound = Envoy::start(&start(Direction::Outbound, to, Some(socket), false), 1).await;
    let answer = Client::new(Version::H1).get(outbound.listener("main"), "/", &[]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    let spans = collector.wait_for(2).await;
    let names = [
        "tls.protocol.name",
        "tls.protocol.version",
        "tls.client.server_name",
        "envoy.peer_identity",
    ];
    let line = |kind: &str| {
        let span = spans.iter().find(|span| span.kind == kind).expect("a span");
        facts(span, &names)
    };
    // Envoy's upstreams stay with TLS 1.2 unless they are told otherwise.
    assert_eq!(
        line("SERVER"),
        "tls.protocol.name=tls tls.protocol.version=1.2 tls.client.server_name=app.test \
         envoy.peer_identity=spiffe://lab/client"
    );
    assert_eq!(
        line("CLIENT"),
        "tls.protocol.name=tls tls.protocol.version=1.2 envoy.peer_identity=spiffe://lab/server"
    );
    outbound.stop().await;
    inbound.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_says_why_in_plain_words() {
    let mut full = cluster("full", SocketAddr::from(([127, 0, 0, 1], 1)));
    full["circuit_breakers"] = json!({"thresholds": [{"max_requests": 0, "max_pending_requests": 0, "max_connections": 0}]});
    let mut options = all_ways_to_end();
    options.routes.push(route("/full", "full"));
    options.clusters.push(full);
    let lab = Workload::with(&exporting(json!({})), options).await;
    let mut story = Story::new(&lab);
    for path in ["/full", "/empty", "/brief/hang", "/closed", "/retried/status/503", "/nowhere"] {
        story.get("inbound", path, &[]).await;
    }
    story.get("inbound", "/limited", &[]).await;
    story.get("inbound", "/limited", &[]).await;
    let spans = story.spans().await;
    let exports = lab.collector.exports();
    let messages: BTreeMap<_, _> = exports
        .iter()
        .flat_map(|export| &export.resource_spans)
        .flat_map(|spans| &spans.scope_spans)
        .flat_map(|spans| &spans.spans)
        .map(|span| (span.span_id.clone(), span.status.clone().unwrap_or_default().message))
        .collect();
    let line = |span: &Span| {
        let message =
            messages.iter().find(|(id, _)| hex::encode(id) == span.span_id).expect("a span").1;
        let (flags, text) =
            (span.attribute("envoy.response_flags"), span.attribute("envoy.response_flags_text"));
        format!("{flags}: {text}: {message}")
    };
    assert_eq!(
        spans.iter().map(line).collect::<Vec<_>>(),
        [
            "UO: circuit breaker open: circuit breaker open",
            "UH: no healthy upstream: no healthy upstream",
            "UT: upstream timeout: upstream timeout",
            "UF: no connection to the upstream: no connection to the upstream",
            "URX: no retry left: no retry left, after 3 attempts",
            "NC: no such cluster: no such cluster",
            ": : ",
            "RL: rate limited: ",
        ]
    );
    lab.envoy.stop().await;
}
