//! The filter as Istio attaches it: our manifests in a real Kubernetes API, Istio's own control
//! plane, real Envoys.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::Span;
use meshweft_lab::envoy::adds_up;
use meshweft_lab::istio::istiod::{Dataplane, Istiod};
use meshweft_lab::istio::kube::Kube;
use meshweft_lab::istio::proxy::{Kind, Proxy};
use meshweft_lab::istio::{Before, Block, EXTERNAL, Mesh, Release, hops, manifest, part};
use meshweft_lab::load::paced;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::{paths, tree};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long a change of a manifest may take to be what the proxies do. Istio itself needs a moment
/// to gather changes, and the machine of a test may be busy.
const SECONDS: Duration = Duration::from_secs(10);

/// How long all may take until a change is there and the last span of before is gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pace of traffic.
const PER_SECOND: usize = 20;

const VMS: &str = "wasm.wasm_vm_count";

/// The manifests that attach the filter to everything that a request passes.
fn both() -> [String; 2] {
    ["base/wasmplugin-sidecar.yaml", "base/wasmplugin-gateway.yaml"].map(manifest)
}

async fn mesh(release: Release, manifests: &[String]) -> Mesh {
    Mesh::start(release, &manifests.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// Waits until a request makes these spans and no others, and gives them.
async fn until_hops(mesh: &Mesh, expected: &[&str]) -> Vec<Span> {
    let begin = Instant::now();
    loop {
        let before = mesh.collector.spans().len();
        assert_eq!(mesh.get("/orders/7").await.status, 200);
        let spans = mesh.quiet().await.split_off(before);
        if hops(&spans) == expected {
            return spans;
        }
        let found = hops(&spans);
        assert!(begin.elapsed() < PATIENCE, "{found:#?} instead of {expected:#?}");
    }
}

const ALL: [&str; 4] = [
    "istio-ingressgateway SERVER <- ",
    "web SERVER <- istio-ingressgateway SERVER",
    "web CLIENT <- web SERVER",
    "stock SERVER <- web CLIENT",
];

/// What the resource of a span says, without the filter's own name and version.
fn resource(span: &Span) -> Vec<String> {
    let own = span.resource.iter().filter(|(name, _)| !name.starts_with("telemetry.sdk."));
    own.map(|(name, value)| format!("{name}={value}")).collect()
}

async fn both_forms_join_a_trace(release: Release) {
    let plugins = both();
    let mesh = mesh(release, &plugins).await;
    let spans = until_hops(&mesh, &ALL).await;
    println!("Istio {}, WasmPlugin\n{}", release.version(), tree::render(&spans));
    let of = |service: &str| {
        let span = spans.iter().find(|span| span.service() == service).expect("a span");
        resource(span)
    };
    let common = |namespace: &str, pod: &str| {
        [
            "cloud.availability_zone=eu-1a".to_owned(),
            "cloud.region=eu-1".to_owned(),
            "istio.mesh_id=cluster.local".to_owned(),
            "k8s.cluster.name=Kubernetes".to_owned(),
            format!("k8s.deployment.name={pod}"),
            format!("k8s.namespace.name={namespace}"),
            "k8s.node.name=node-1".to_owned(),
            format!("k8s.pod.name={pod}-0"),
            format!("service.name={pod}"),
            format!("service.namespace={namespace}"),
        ]
    };
    let gateway = common("istio-ingress", "istio-ingressgateway");
    assert_eq!(of("istio-ingressgateway"), gateway);
    for service in ["web", "stock"] {
        let mut expected = common("shop", service).to_vec();
        expected.push("service.version=v1".to_owned());
        assert_eq!(of(service), expected);
    }
    let cluster = "outbound|8081||stock.shop.svc.cluster.local";
    let call = spans.iter().find(|span| span.kind == "CLIENT").expect("a call");
    assert_eq!(call.attribute("envoy.cluster"), cluster);

    for plugin in &plugins {
        mesh.kube.delete(plugin).await;
    }
    until_hops(&mesh, &[]).await;
    for file in ["trafficextension-sidecar.yaml", "trafficextension-gateway.yaml"] {
        mesh.kube.apply(&manifest(file)).await;
    }
    let spans = until_hops(&mesh, &ALL).await;
    println!("Istio {}, TrafficExtension\n{}", release.version(), tree::render(&spans));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_join_a_trace_from_the_gateway_to_the_last_application_in_1_31() {
    both_forms_join_a_trace(Release::V1_31).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_join_a_trace_from_the_gateway_to_the_last_application_in_1_30() {
    both_forms_join_a_trace(Release::V1_30).await;
}

fn ids(spans: &[Span]) -> usize {
    spans.iter().map(|span| &span.span_id).collect::<BTreeSet<_>>().len()
}

/// Waits until nothing waits in any proxy, and holds that each span of each request that was
/// recorded has come, once.
async fn none_is_lost(mesh: &Mesh) {
    let mut taken_over = 0;
    for proxy in mesh.proxies() {
        let of = |metrics: &BTreeMap<String, i64>, name: &str| metrics.get(name).copied();
        let metrics = proxy
            .metrics_until(|metrics| {
                let waiting = ["queue_spans", "in_flight_spans"];
                adds_up(metrics) && waiting.iter().all(|name| of(metrics, name) <= Some(0))
            })
            .await;
        assert_eq!(of(&metrics, "exported"), of(&metrics, "sampled"), "{metrics:#?}");
        taken_over += of(&metrics, "taken_over").unwrap_or(0);
    }
    let spans = mesh.collector.spans();
    println!(
        "{taken_over} of {} spans were taken over from instances that Envoy ended",
        spans.len()
    );
    assert_eq!((spans.len(), ids(&spans)), (mesh.owed(), mesh.owed()));
}

/// Requests at an even pace through the whole mesh for as long as a change takes, and a second
/// more; none may fail.
async fn under_traffic(mesh: &Mesh, change: impl Future<Output = ()>) {
    let changed = AtomicBool::new(false);
    let change = async {
        change.await;
        changed.store(true, Ordering::Relaxed);
    };
    let traffic = async {
        let client = Client::new(Version::H1);
        let second = async || {
            let pace = PER_SECOND as u32;
            let failures = paced(&client, mesh.edge(), "/load", pace, PER_SECOND).await;
            assert_eq!(failures, Vec::<String>::new());
        };
        while !changed.load(Ordering::Relaxed) {
            second().await;
        }
        second().await;
    };
    tokio::join!(traffic, change);
}

/// Waits until requests are recorded, or not; how long that took.
async fn until_recorded(mesh: &Mesh, wanted: bool) -> Duration {
    let begin = Instant::now();
    for probe in 0.. {
        let path = format!("/probe/{probe}");
        assert_eq!(mesh.get(&path).await.status, 200);
        if mesh.recorded(&path) == wanted {
            break;
        }
        assert!(begin.elapsed() < SECONDS, "still not {wanted}: {}", mesh.istiod.log());
        sleep(Duration::from_millis(50)).await;
    }
    begin.elapsed()
}

/// The gateway's manifest with another rate.
fn gateway_with_rate(rate: &str) -> String {
    let text = manifest("base/wasmplugin-gateway.yaml");
    let (before, after) = text.split_once("      rate: 1\n").expect("a rate");
    format!("{before}      rate: {rate}\n{after}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_changes_under_traffic_and_a_bad_one_is_refused() {
    let mesh = mesh(Release::V1_31, &both()).await;
    let change = async {
        assert!(until_recorded(&mesh, true).await < SECONDS);
        for (rate, recorded) in [("0", false), ("1.0", true), ("0", false)] {
            mesh.kube.apply(&gateway_with_rate(rate)).await;
            let took = until_recorded(&mesh, recorded).await;
            println!("sampling.rate {rate}: in force {} ms after kubectl", took.as_millis());
        }
        mesh.kube.apply(&gateway_with_rate("2")).await;
        mesh.gateway.logged("$.sampling.rate: 2 is out of range").await;
        mesh.istiod.logged("Unable to create Wasm plugin istio-ingress.meshweft").await;
        // The old configuration stays, for every request.
        for probe in 0..50 {
            let path = format!("/refused/{probe}");
            assert_eq!(mesh.get(&path).await.status, 200);
            assert!(!mesh.recorded(&path), "{probe}");
        }
        // And a good one gets through afterwards.
        mesh.kube.apply(&gateway_with_rate("1")).await;
        until_recorded(&mesh, true).await;
    };
    under_traffic(&mesh, change).await;
    none_is_lost(&mesh).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_module_and_the_removal_cost_no_request_and_leave_no_vm() {
    let plugins = both();
    let mesh = mesh(Release::V1_31, &plugins).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let other = dir.path().join("other.wasm");
    std::fs::copy(paths::module(), &other).expect("a copy");
    let module = format!("file://{}", paths::module().display());
    let updated = plugins.clone().map(|text| {
        // The same code under another name would be the same VM to Envoy.
        let text = text.replace(&module, &format!("file://{}", other.display()));
        text.replace("  pluginConfig:\n", "  pluginConfig:\n    service: {version: next}\n")
    });
    let change = async {
        sleep(Duration::from_secs(2)).await;
        for plugin in &updated {
            mesh.kube.apply(plugin).await;
        }
        mesh.collector
            .wait_until(PATIENCE, |spans| {
                let next = |span: &&Span| {
                    span.resource.get("service.version").is_some_and(|version| version == "next")
                };
                let services: BTreeSet<_> =
                    spans.iter().filter(next).map(|span| span.service()).collect();
                services.len() == 3
            })
            .await;
        // With the last instance goes what waits in it, so that nothing may be recorded any more:
        // as `istio/README.md` has it.
        for plugin in &updated {
            mesh.kube.apply(&plugin.replacen("      rate: 1\n", "      rate: 0\n", 1)).await;
        }
        until_recorded(&mesh, false).await;
        none_is_lost(&mesh).await;
        for plugin in &updated {
            mesh.kube.delete(plugin).await;
        }
    };
    under_traffic(&mesh, change).await;
    for proxy in mesh.proxies() {
        proxy.stats_until(|stats| stats.get(VMS) == Some(&0)).await;
    }
    let spans = mesh.collector.spans();
    assert_eq!((spans.len(), ids(&spans)), (mesh.owed(), mesh.owed()));
    // After the removal nothing is traced, and nothing fails.
    assert_eq!(mesh.get("/after").await.status, 200);
    let last = mesh.apps[0].last();
    assert_eq!((last.path.as_str(), last.one("traceparent").as_str()), ("/after", ""));
    mesh.stop().await;
}

/// What a manifest attaches the filter to, by the spans of a request.
const SCOPES: [(&str, &[&str]); 6] = [
    ("wasmplugin-mesh.yaml", &ALL),
    ("base/wasmplugin-gateway.yaml", &["istio-ingressgateway SERVER <- "]),
    (
        "base/wasmplugin-sidecar.yaml",
        &["web SERVER <- ", "web CLIENT <- web SERVER", "stock SERVER <- web CLIENT"],
    ),
    // Nothing joins what the application calls: it forwards no trace headers.
    ("wasmplugin-inbound.yaml", &["web SERVER <- ", "stock SERVER <- "]),
    ("wasmplugin-outbound.yaml", &["web CLIENT <- "]),
    ("overlays/canary/wasmplugin-canary.yaml", &["stock SERVER <- "]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_manifest_attaches_where_it_says() {
    let mesh = mesh(Release::V1_30, &[]).await;
    for (file, expected) in SCOPES {
        let text = manifest(file);
        mesh.kube.apply(&text).await;
        until_hops(&mesh, expected).await;
        println!("{file}: {}", expected.join(", "));
        mesh.kube.delete(&text).await;
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_plugins_on_a_workload_the_higher_one_speaks() {
    let canary = manifest("overlays/canary/wasmplugin-canary.yaml");
    let canary =
        canary.replace("  pluginConfig:\n", "  pluginConfig:\n    service: {version: next}\n");
    let plugins =
        [manifest("base/wasmplugin-sidecar.yaml"), manifest("wasmplugin-workload.yaml"), canary];
    let mesh = mesh(Release::V1_31, &plugins).await;
    let (client, total) = (Client::new(Version::H1), 400);
    let failures = paced(&client, mesh.web_inbound(), "/orders", 50, total).await;
    assert_eq!(failures, Vec::<String>::new());
    let spans = mesh.quiet().await;
    // The plugin of the workload keeps one trace in ten, and each of these is whole.
    let traces: BTreeSet<_> = spans.iter().map(|span| &span.trace_id).collect();
    println!("rate 0.1 of the workload kept {} of {total} traces", traces.len());
    assert!((10..=90).contains(&traces.len()), "{}", traces.len());
    assert_eq!((spans.len(), ids(&spans)), (3 * traces.len(), 3 * traces.len()));
    let version = |span: &Span| span.resource.get("service.version").cloned().unwrap_or_default();
    let versions: BTreeSet<_> =
        spans.iter().map(|span| (span.service().to_owned(), version(span))).collect();
    let expected = [("stock", "next"), ("web", "v1")];
    assert_eq!(versions, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    // The other instance on each chain has seen every request, and has left it alone.
    let total = i64::try_from(total).expect("few");
    for (proxy, seen) in [(&mesh.web, 2 * total), (&mesh.stock, total)] {
        proxy
            .metrics_until(|metrics| {
                metrics.get("passive") == Some(&seen) && metrics.get("requests") == Some(&seen)
            })
            .await;
    }
    mesh.stop().await;
}

/// Whether a span is the filter's, and not of Envoy's own tracer.
fn is_ours(span: &Span) -> bool {
    span.resource.get("telemetry.sdk.name").is_some_and(|name| name == "meshweft")
}

/// `PROPAGATION.md` on a native tracer beside the filter, and `base/telemetry-off.yaml`.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_tracer_cuts_the_trace_until_it_is_switched_off() {
    let mesh = mesh(Release::V1_31, &both()).await;
    let off = manifest("base/telemetry-off.yaml");
    mesh.kube.delete(&off).await;
    mesh.kube.apply(&part("telemetry-on.yaml")).await;
    let begin = Instant::now();
    let spans = loop {
        let before = mesh.collector.spans().len();
        assert_eq!(mesh.get("/orders/7").await.status, 200);
        let spans = mesh.quiet().await.split_off(before);
        // Natively a gateway has a span of each side.
        if spans.len() == 2 * ALL.len() + 1 {
            break spans;
        }
        assert!(begin.elapsed() < PATIENCE, "{:#?}\n{}", hops(&spans), mesh.istiod.log());
    };
    println!("with the native tracer\n{}", tree::render(&spans));
    let ours = |service: &str| {
        let is_wanted = |span: &&Span| span.service() == service && span.kind == "SERVER";
        let found = spans.iter().filter(is_wanted).find(|span| is_ours(span));
        found.unwrap_or_else(|| panic!("{spans:#?}"))
    };
    let (gateway, web) = (ours("istio-ingressgateway"), ours("web"));
    assert_eq!(spans.iter().filter(|span| is_ours(span)).count(), ALL.len());
    // What the gateway's filter began ends there; what goes on is the tracer's.
    assert!(spans.iter().all(|span| span.parent_id != gateway.span_id), "{spans:#?}");
    assert_ne!(gateway.trace_id, web.trace_id);
    let parent = spans.iter().find(|span| span.span_id == web.parent_id).expect("a parent");
    assert!(!is_ours(parent) && parent.trace_id == web.trace_id, "{parent:#?}");
    mesh.web.metrics_until(|metrics| metrics.get("native_tracer_seen") > Some(&0)).await;
    assert!(mesh.web.log().contains("native tracer"), "{}", mesh.web.log());

    mesh.kube.apply(&off).await;
    let spans = until_hops(&mesh, &ALL).await;
    println!("and without\n{}", tree::render(&spans));
    assert!(spans.iter().all(is_ours), "{spans:#?}");
    mesh.stop().await;
}

/// Whether there were connections over TLS.
fn shook_hands(stats: &BTreeMap<String, i64>) -> bool {
    stats.iter().any(|(name, count)| name.ends_with(".ssl.handshake") && *count > 0)
}

/// `collector-external.yaml` with an address in place of a name in the DNS, and a port that needs
/// no rights.
#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_collector_outside_the_mesh_over_tls() {
    let external = manifest("collector-external.yaml")
        .replace(
            "  resolution: DNS\n",
            "  resolution: STATIC\n  endpoints:\n  - address: LOOPBACK.13\n",
        )
        .replace("number: 443,", "number: 4318,");
    assert!(external.contains("LOOPBACK") && external.contains("number: 4318"), "{external}");
    let inside =
        "        service: otel-collector.observability.svc.cluster.local\n        port: 4318\n";
    let outside =
        format!("        service: {EXTERNAL}\n        port: 4318\n      authority: {EXTERNAL}\n");
    let [sidecar, gateway] = both().map(|text| text.replace(inside, &outside));
    assert!(sidecar.contains(EXTERNAL) && gateway.contains(EXTERNAL), "{sidecar}{gateway}");
    let manifests = [external.as_str(), &sidecar, &gateway];
    let mesh = Mesh::with(Release::V1_31, &manifests, Before::Server).await;
    let spans = until_hops(&mesh, &ALL).await;
    println!("over TLS to {EXTERNAL}\n{}", tree::render(&spans));
    let (server, at) = mesh.guard(4318).expect("a server");
    server.stats_until(shook_hands).await;
    let plain = Client::new(Version::H1).get(at, "/v1/traces", &[]).await;
    plain.expect_err("plain text is refused");
    mesh.stop().await;
}

/// The collector is a service of the mesh that takes mutual TLS alone.
#[tokio::test(flavor = "multi_thread")]
async fn spans_reach_a_strict_collector_over_mutual_tls() {
    let plugins = both();
    let plugins: Vec<_> = plugins.iter().map(String::as_str).collect();
    let mesh = Mesh::with(Release::V1_31, &plugins, Before::Sidecar).await;
    let (sidecar, at) = mesh.guard(4318).expect("a sidecar");
    let spans = until_hops(&mesh, &ALL).await;
    println!("over mutual TLS\n{}", tree::render(&spans));
    let client = Client::new(Version::H1);
    // Nothing else gets in.
    client.get(at, "/v1/traces", &[]).await.expect_err("plain text is refused");
    sidecar.stats_until(shook_hands).await;

    // What a rule does that says plain text, by the symptom that `istio/README.md` names.
    let rule = part("collector-plaintext.yaml");
    mesh.kube.apply(&rule).await;
    let begin = Instant::now();
    while mesh.web.metric("export_failures_reset").await == 0 {
        assert_eq!(mesh.get("/orders/7").await.status, 200);
        assert!(begin.elapsed() < PATIENCE, "{:#?}", mesh.web.stats().await);
        sleep(Duration::from_millis(100)).await;
    }
    mesh.kube.delete(&rule).await;
    none_is_lost(&mesh).await;
    mesh.stop().await;
}

/// What istiod tells a proxy, which needs certificates that no agent is there to bring.
async fn told(istiod: &Istiod, node: &Value, kind: &str, names: &[&str]) -> Vec<Value> {
    let output = tokio::process::Command::new(Release::V1_31.file("ask-xds"))
        .args([&istiod.address().to_string(), &node.to_string(), kind])
        .args(names)
        .output()
        .await
        .expect("ask-xds runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{}", istiod.log());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waypoint_gets_the_filter_and_makes_server_spans() {
    let (release, block) = (Release::V1_31, Block::any());
    let kube = Kube::start(&block).await;
    for file in ["crds.yaml", "gateway-api.yaml"] {
        kube.install(&release.file(file)).await;
    }
    let labels = [("namespace/shop", "istio.io/use-waypoint=waypoint")];
    for text in [part("namespaces.yaml"), part("waypoint.yaml")] {
        kube.apply(&text).await;
    }
    for (what, label) in labels {
        kube.kubectl(&["label", what, label], "").await.expect("labelled");
    }
    kube.apply(&part("workloads.yaml").replace("LOOPBACK", "127.0.0")).await;
    kube.apply(&manifest("wasmplugin-waypoint.yaml")).await;
    let istiod = {
        let config = part("mesh-config.yaml");
        Istiod::start(release, &block, &kube, Dataplane::Ambient, &config).await
    };
    let proxy = Proxy {
        kind: Kind::Waypoint,
        name: "waypoint",
        namespace: "shop",
        address: block.address(13),
        labels: json!({"gateway.networking.k8s.io/gateway-name": "waypoint"}),
    };
    let node = proxy.bootstrap(release, istiod.address())["node"].take();

    let listeners = told(&istiod, &node, "envoy.config.listener.v3.Listener", &[]).await;
    let main = listeners.iter().find(|listener| listener["name"] == "main_internal");
    let main = main.unwrap_or_else(|| panic!("{listeners:#?}"));
    assert_eq!(main["trafficDirection"], "INBOUND");
    let chains = main["filterChains"].as_array().expect("chains");
    let first = |chain: &Value| {
        let filters = chain["filters"].as_array().cloned().unwrap_or_default();
        let of = |filter: &Value| filter["typedConfig"]["httpFilters"][0]["name"].clone();
        filters.iter().map(of).find(Value::is_string)
    };
    let firsts: Vec<_> = chains.iter().filter_map(first).collect();
    let name =
        "extensions.istio.io/trafficextension/shop.meshweft-waypoint~istio-translated-wasmplugin";
    assert!(!firsts.is_empty() && firsts.iter().all(|first| first == name), "{firsts:?}");
    let kind = "envoy.config.core.v3.TypedExtensionConfig";
    let configs = told(&istiod, &node, kind, &[name]).await;
    let [config] = configs.as_slice() else { panic!("{configs:#?}") };
    let plugin = &config["typedConfig"]["config"];
    assert_eq!(
        (&plugin["rootId"], &plugin["failurePolicy"]),
        (&json!("meshweft"), &json!("FAIL_OPEN"))
    );
    let told: Value =
        serde_json::from_str(plugin["configuration"]["value"].as_str().expect("text"))
            .expect("JSON");
    istiod.stop().await;
    kube.stop().await;

    // What the filter makes of such a node and of what it was told, with the lab's collector.
    let node = Some(node);
    let sampling = json!({"service": {"name": null}, "sampling": told["sampling"]});
    let mut config = exporting(sampling);
    config["service"].as_object_mut().expect("an object").remove("name");
    let lab = Workload::with(&config, Options { node, ..Options::default() }).await;
    let client = Client::new(Version::H1);
    for listener in ["inbound", "gateway"] {
        let answer = client.get(lab.envoy.listener(listener), "/orders/7", &[]).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let spans = lab.settled(2).await;
    for span in &spans {
        assert_eq!((span.kind.as_str(), span.service()), ("SERVER", "waypoint"));
        assert_eq!(span.resource["k8s.namespace.name"], "shop");
    }
    lab.envoy.stop().await;
}
