//! `make demo`: edge -> front -> orders and stock, each behind its own Envoy with the filter,
//! and the traces of a little traffic as trees. The applications forward `x-request-id` alone.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program for the terminal that stops with words when a piece is missing"
)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use meshweft_lab::app::{App, Call, Forward};
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route,
};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::tree;
use serde_json::{Value, json};

/// What goes through the mesh: path, and how many spans it leaves.
const TRAFFIC: [(&str, usize); 7] = [
    ("/checkout/ok", 6),
    ("/checkout/ok", 6),
    ("/checkout/slow", 4),
    ("/checkout/fail/status/502", 4),
    ("/healthz", 0),
    ("/healthz", 0),
    ("/healthz", 0),
];

/// How many calls front makes for it.
const CALLS: usize = 6;

#[tokio::main]
async fn main() -> ExitCode {
    let collector = Collector::start().await;
    let exporting = |service: &str| {
        json!({
            "service": {"name": service, "namespace": "demo"},
            "sampling": {"rules": [
                {"name": "health", "match": {"path": {"prefix": "/healthz"}}, "rate": 0}]},
            "export": {"cluster": COLLECTOR, "batch": {"interval": "200ms"}},
        })
    };

    let orders_app = App::start().await;
    let stock_app = App::start().await;
    // It knows nothing of traces: `x-request-id` is all that it copies to its calls.
    let front_app = App::forwarding(Forward::RequestId).await;
    let orders = sidecar("orders", &exporting("orders"), &orders_app, &[], &collector).await;
    let stock = sidecar("stock", &exporting("stock"), &stock_app, &[], &collector).await;
    let backends = [("orders", orders.listener("inbound")), ("stock", stock.listener("inbound"))];
    let front = sidecar("front", &exporting("front"), &front_app, &backends, &collector).await;
    let edge = Envoy::start(
        &bootstrap(
            node("edge"),
            vec![listener(
                "gateway",
                Direction::Unspecified,
                vec![meshweft(&exporting("edge"))],
                vec![route("/", "front")],
                None,
            )],
            vec![
                cluster("front", front.listener("inbound")),
                cluster(COLLECTOR, collector.address()),
            ],
        ),
        1,
    )
    .await;
    for (on, host, path) in [
        ("/checkout/ok", "orders", "/orders/7"),
        ("/checkout/ok", "stock", "/stock/7"),
        ("/checkout/slow", "orders", "/orders/delay/250"),
        ("/checkout/fail", "stock", "/stock/status/503"),
    ] {
        front_app.call(Call {
            on: on.to_owned(),
            to: front.listener("outbound"),
            host: host.to_owned(),
            path: path.to_owned(),
        });
    }

    println!(
        "\nedge -> front -> orders, stock: 4 Envoys with the filter, 3 applications that forward no \
         trace header, only x-request-id\n"
    );
    let client = Client::new(Version::H1);
    for (path, _) in TRAFFIC {
        let host: [(&str, &[u8]); 1] = [("host", b"shop.example")];
        let status = client.get(edge.listener("gateway"), path, &host).await.map(|a| a.status);
        println!("  GET {path:<28} {}", status.map_or_else(|e| e, |status| status.to_string()));
    }
    let expected: usize = TRAFFIC.iter().map(|(_, spans)| spans).sum();
    let spans =
        collector.wait_until(Duration::from_secs(15), |spans| spans.len() >= expected).await;
    println!("\n{}", tree::render(&spans));

    println!("What the samplers decided (from each Envoy's /stats):\n");
    for (name, envoy) in
        [("edge", &edge), ("front", &front), ("orders", &orders), ("stock", &stock)]
    {
        let metrics = envoy
            .metrics_until(|metrics| {
                let at = |name: &str| metrics.get(name).copied().unwrap_or(0);
                at("sampled") > 0 && at("sampled") == at("exported")
            })
            .await;
        let at = |name: &str| metrics.get(name).copied().unwrap_or(0);
        println!(
            "  {name:<7} requests {:>2}, sampled {:>2}, not sampled {:>2} (rule health matched {}), \
             exported {:>2}",
            at("requests"),
            at("sampled"),
            at("not_sampled"),
            at("rule_health"),
            at("exported"),
        );
    }
    for envoy in [edge, front, orders, stock] {
        envoy.stop().await;
    }
    let calls = spans.iter().filter(|span| span.attributes.contains_key("meshweft.correlation"));
    let calls = calls.count();
    println!("\n{calls} calls of front were joined to the requests that had caused them.");
    let whole = spans.len() == expected && calls == CALLS && joined(&spans);
    if !whole {
        println!("\nThat is not what this mesh should show: {expected} joined spans. A bug!");
        return ExitCode::FAILURE;
    }
    println!(
        "\nWhere next:\n  \
         README.md, \"Configuration\": sampling rules, header formats, export\n  \
         envoy/ and istio/: configurations that boot as they stand\n  \
         target/meshweft check config-examples/*.json\n  \
         make test"
    );
    ExitCode::SUCCESS
}

/// An application behind its Envoy; `to` are the services that it may call, by path.
async fn sidecar(
    name: &str,
    config: &Value,
    app: &App,
    to: &[(&str, SocketAddr)],
    collector: &Collector,
) -> Envoy {
    let routes = to.iter().map(|(service, _)| route(&format!("/{service}"), service)).collect();
    let inbound = vec![route("/", "app")];
    let filter = || vec![meshweft(config)];
    let listeners = vec![
        listener("inbound", Direction::Inbound, filter(), inbound, None),
        listener("outbound", Direction::Outbound, filter(), routes, None),
    ];
    let mut clusters = vec![cluster("app", app.address()), cluster(COLLECTOR, collector.address())];
    clusters.extend(to.iter().map(|(service, address)| cluster(service, *address)));
    Envoy::start(&bootstrap(node(name), listeners, clusters), 1).await
}

/// Whether every span but the edge's has its parent among the others.
fn joined(spans: &[Span]) -> bool {
    spans.iter().all(|span| {
        (span.parent_id.is_empty() && span.service() == "edge")
            || spans.iter().any(|p| p.span_id == span.parent_id && p.trace_id == span.trace_id)
    })
}
