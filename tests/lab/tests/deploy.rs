//! Every file of `envoy/` and `istio/`: nothing that is shipped goes untried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use meshweft_core::config::Config;
use meshweft_lab::app::App;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::{Collector, Span};
use meshweft_lab::envoy::Envoy;
use meshweft_lab::paths::{module, workspace};
use serde::Deserialize;
use serde_json::{Number, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

/// The configurations that Envoy starts with.
const BOOTSTRAPS: [&str; 5] =
    ["ecds.yaml", "gateway.yaml", "remote-module.yaml", "sidecar.yaml", "upstream.yaml"];

const COLLECTOR: &str = "outbound|4318||otel-collector.observability.svc.cluster.local";

/// All documents of a YAML file.
fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(workspace().join(path)).unwrap();
    serde_norway::Deserializer::from_str(&text)
        .map(|document| {
            Value::deserialize(document).unwrap_or_else(|error| panic!("{path}: {error}"))
        })
        .collect()
}

fn document(path: &str) -> Value {
    let [document] = documents(path).try_into().unwrap_or_else(|_| panic!("{path}: not one"));
    document
}

fn parse_config(json: &[u8]) -> Config {
    Config::parse(json, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

/// The cluster of the only collector.
fn cluster(config: &Config) -> String {
    let [collector] = &*config.export.as_ref().unwrap().collectors else { panic!("{config:?}") };
    collector.cluster.clone()
}

/// The files of a folder, with those of the folders below it.
fn files(folder: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(workspace().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let below = self::files(&format!("{folder}/{name}"));
            files.extend(below.into_iter().map(|file| format!("{name}/{file}")));
        } else {
            files.insert(name);
        }
    }
    files
}

#[test]
fn every_file_is_tried() {
    let mut envoy: BTreeSet<_> = BOOTSTRAPS.map(str::to_owned).into();
    let others = [
        "README.md",
        "ecds/meshweft.yaml",
        "envoy-gateway/envoyextensionpolicy.yaml",
        "envoy-gateway/envoyproxy.yaml",
    ];
    envoy.extend(others.map(str::to_owned));
    assert_eq!(files("envoy"), envoy);
    // `istio_manifests.rs` holds every file of `istio/` against Istio's own definitions.
    let istio = files("istio");
    assert!(manifests().keys().all(|file| istio.contains(file)));
    for folder in ["envoy", "istio"] {
        let readme = std::fs::read_to_string(workspace().join(folder).join("README.md")).unwrap();
        for file in files(folder).iter().filter(|file| *file != "README.md") {
            // By its path, or with the folder that it is in.
            let below = file.rsplit_once('/').map(|(path, _)| format!("`{path}/`"));
            let told = [Some(format!("`{file}`")), below].into_iter().flatten();
            let told = told.filter(|name| readme.contains(name)).count();
            assert!(told > 0, "{folder}/README.md lacks {file}");
        }
    }
}

/// All wasm filters in a configuration of Envoy, in order.
fn filters(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => {
            let kind = fields.get("@type").and_then(Value::as_str).unwrap_or_default();
            if kind.ends_with("filters.http.wasm.v3.Wasm") {
                return vec![&fields["config"]];
            }
            fields.values().flat_map(filters).collect()
        }
        Value::Array(items) => items.iter().flat_map(filters).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn envoy_filters_hold_what_the_readme_promises() {
    let mut found = Vec::new();
    for file in BOOTSTRAPS.into_iter().chain(["ecds/meshweft.yaml"]) {
        let document = document(&format!("envoy/{file}"));
        let filters = filters(&document);
        found.push((file, filters.len()));
        for filter in filters {
            assert_eq!(filter["name"], "meshweft", "{file}");
            assert_eq!(filter["failure_policy"], "FAIL_OPEN", "{file}");
            assert_eq!(filter["vm_config"]["vm_id"], "meshweft", "{file}");
            assert_eq!(filter["vm_config"]["runtime"], "envoy.wasm.runtime.v8", "{file}");
            assert_eq!(
                filter["configuration"]["@type"], "type.googleapis.com/google.protobuf.StringValue",
                "{file}"
            );
            let config =
                parse_config(filter["configuration"]["value"].as_str().unwrap().as_bytes());
            assert_eq!(cluster(&config), "otel-collector", "{file}");
        }
    }
    assert_eq!(
        found,
        [
            ("ecds.yaml", 0),
            ("gateway.yaml", 1),
            ("remote-module.yaml", 1),
            ("sidecar.yaml", 2),
            ("upstream.yaml", 2),
            ("ecds/meshweft.yaml", 1),
        ]
    );
    let sidecar = document("envoy/sidecar.yaml");
    let [inbound, outbound] = filters(&sidecar).try_into().unwrap();
    assert_eq!(inbound, outbound, "one VM for both listeners");
}

/// What stands around an Envoy.
#[derive(Debug)]
struct Stand {
    app: App,
    client: Client,
    collector: Collector,
    modules: SocketAddr,
}

impl Stand {
    async fn start() -> Self {
        let files = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let modules = files.local_addr().unwrap();
        tokio::spawn(serve_module(files));
        Self {
            app: App::start().await,
            client: Client::new(Version::H1),
            collector: Collector::start().await,
            modules,
        }
    }

    /// A configuration as it stands but for its addresses: Envoy's own ports are chosen by the
    /// system, and everything around it is the lab's.
    fn relocated(&self, file: &str) -> Value {
        let mut config = document(&format!("envoy/{file}"));
        self.relocate(&mut config);
        config
    }

    fn relocate(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if let Some(port) = fields.get_mut("port_value") {
                    *port = match port.as_u64() {
                        Some(10000 | 15000 | 15001 | 15006) => json!(0),
                        Some(4318) => json!(self.collector.address().port()),
                        Some(8000) => json!(self.modules.port()),
                        Some(8080 | 8081) => json!(self.app.address().port()),
                        _ => panic!("the test does not know port {port}"),
                    };
                }
                fields.values_mut().for_each(|value| self.relocate(value));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.relocate(item)),
            _ => {}
        }
    }

    /// Sends a request through a listener; it must be the application that answers.
    async fn get(&self, envoy: &Envoy, listener: &str, path: &str) {
        let host: (&str, &[u8]) = ("host", b"backend");
        let answer = self.client.get(envoy.listener(listener), path, &[host]).await.unwrap();
        let answer = (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
        assert_eq!(answer, (200, "ok\n".to_owned()), "{}", envoy.log());
        assert_eq!(self.app.last().path, path);
    }

    /// Sends a request through each listener and holds that its span arrives, that the application
    /// got that span as its parent, and that the access log names the trace.
    async fn each_listener_makes_a_span(
        &self,
        config: &Value,
        envoy: &Envoy,
        listeners: &[(&str, &str)],
    ) {
        let declared = config["static_resources"]["listeners"].as_array().unwrap();
        let names: Vec<_> = declared.iter().map(|listener| &listener["name"]).collect();
        assert_eq!(names, listeners.iter().map(|(name, _)| name).collect::<Vec<_>>());
        for (number, (listener, kind)) in listeners.iter().enumerate() {
            let path = format!("/through/{listener}");
            self.get(envoy, listener, &path).await;
            let spans = self.collector.wait_for(number + 1).await;
            assert_eq!(spans.len(), number + 1);
            let span = spans.last().unwrap();
            assert_eq!((path_of(span), span.kind.as_str()), (path.as_str(), *kind));
            assert_eq!(config["node"]["cluster"], span.service());
            let Span { trace_id, span_id, .. } = span;
            let parent = self.app.last().one("traceparent");
            assert!(parent.starts_with(&format!("00-{trace_id}-{span_id}-")), "{parent}");
            until("the access log", async || {
                envoy.access_log().contains(&format!(" trace_id={trace_id}\n"))
            })
            .await;
        }
    }
}

/// The path of a request: SERVER spans have it by itself, CLIENT spans in the whole URL.
fn path_of(span: &Span) -> &str {
    match span.attribute("url.path") {
        "" => span.attribute("url.full").trim_start_matches("http://backend"),
        path => path,
    }
}

/// Answers every request with the module.
async fn serve_module(files: TcpListener) {
    while let Ok((mut stream, _)) = files.accept().await {
        let module = std::fs::read(module()).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", module.len());
        stream.write_all(&[head.as_bytes(), &module].concat()).await.unwrap();
    }
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if reached().await {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain for: {what}");
}

/// The value at the only place where a key stands.
fn only<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    fn find<'a>(value: &'a mut Value, key: &str, found: &mut Vec<&'a mut Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == key {
                        found.push(value);
                    } else {
                        find(value, key, found);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| find(item, key, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(value, key, &mut found);
    let [only] = <[_; 1]>::try_from(found).unwrap_or_else(|_| panic!("not one `{key}`"));
    only
}

#[tokio::test]
async fn envoy_accepts_the_files_as_they_stand() {
    assert_eq!(module(), workspace().join("target/meshweft.wasm"), "the module that they name");
    for file in BOOTSTRAPS {
        let path = workspace().join("envoy").join(file);
        Envoy::validate(&path).await.unwrap_or_else(|log| panic!("{file}: {log}"));
    }
}

#[tokio::test]
async fn the_sidecar_serves_both_sides() {
    let stand = Stand::start().await;
    let config = stand.relocated("sidecar.yaml");
    // One worker, so that both sides share a VM and must still tell themselves apart.
    let envoy = Envoy::start(&config, 1).await;
    let listeners = [("inbound", "SERVER"), ("outbound", "CLIENT")];
    stand.each_listener_makes_a_span(&config, &envoy, &listeners).await;
}

#[tokio::test]
async fn each_try_has_a_span() {
    let stand = Stand::start().await;
    let config = stand.relocated("upstream.yaml");
    let envoy = Envoy::start(&config, 1).await;
    stand.get(&envoy, "outbound", "/flaky/1").await;
    let spans = stand.collector.wait_for(3).await;
    let request = spans.iter().find(|span| span.parent_id.is_empty()).unwrap();
    let tries: Vec<_> =
        stand.app.seen().iter().map(|seen| seen.one("traceparent")[36..52].to_owned()).collect();
    let mut found: Vec<_> =
        spans.iter().filter(|span| span.parent_id == request.span_id).cloned().collect();
    found.sort_by_key(|span| span.start);
    assert_eq!(found.iter().map(|span| span.span_id.clone()).collect::<Vec<_>>(), tries);
    let codes: Vec<_> =
        found.iter().map(|span| span.attribute("http.response.status_code")).collect();
    assert_eq!(codes, ["503", "200"]);
}

#[tokio::test]
async fn the_gateway_serves_and_drops_health_checks() {
    let stand = Stand::start().await;
    let config = stand.relocated("gateway.yaml");
    let envoy = Envoy::start(&config, 2).await;
    stand.get(&envoy, "edge", "/healthz").await;
    stand.each_listener_makes_a_span(&config, &envoy, &[("edge", "SERVER")]).await;
}

#[tokio::test]
async fn a_new_configuration_by_ecds_needs_no_restart() {
    let (folder, stand) = (tempfile::tempdir().unwrap(), Stand::start().await);
    let mut config = stand.relocated("ecds.yaml");
    let file = folder.path().join("meshweft.yaml");
    let source = only(&mut config, "path_config_source");
    assert_eq!(source, &json!({"path": "envoy/ecds/meshweft.yaml"}));
    *source = json!({"path": file});
    let mut resource = document("envoy/ecds/meshweft.yaml");
    Envoy::replace_file(&file, &resource.to_string());
    let envoy = Envoy::start(&config, 2).await;
    stand.each_listener_makes_a_span(&config, &envoy, &[("inbound", "SERVER")]).await;

    let mut replace = |version: &str, json: Value| {
        resource["version_info"] = version.into();
        only(&mut resource, "configuration")["value"] = json.to_string().into();
        Envoy::replace_file(&file, &resource.to_string());
    };
    let export = json!({"cluster": "otel-collector"});
    replace("2", json!({"service": {"name": "renamed"}, "export": export}));
    until("a span of the new configuration", async || {
        stand.get(&envoy, "inbound", "/again").await;
        stand.collector.spans().iter().any(|span| span.service() == "renamed")
    })
    .await;

    replace("3", json!({"sampling": {"rate": 2}, "export": export}));
    envoy.logged("meshweft: configuration: $.sampling.rate: 2 is out of range").await;
    stand.get(&envoy, "inbound", "/refused").await;
    let refused = |spans: &[Span]| spans.iter().any(|span| path_of(span) == "/refused");
    let spans = stand.collector.wait_until(Duration::from_secs(20), refused).await;
    let span = spans.iter().find(|span| path_of(span) == "/refused").unwrap();
    assert_eq!(span.service(), "renamed");
}

#[tokio::test]
async fn a_bad_configuration_by_ecds_at_the_start_costs_no_request() {
    let (folder, stand) = (tempfile::tempdir().unwrap(), Stand::start().await);
    let mut config = stand.relocated("ecds.yaml");
    let file = folder.path().join("meshweft.yaml");
    *only(&mut config, "path_config_source") = json!({"path": file});
    let mut resource = document("envoy/ecds/meshweft.yaml");
    only(&mut resource, "configuration")["value"] = "{".into();
    Envoy::replace_file(&file, &resource.to_string());
    let envoy = Envoy::start(&config, 1).await;
    stand.get(&envoy, "inbound", "/").await;
    assert_eq!(stand.app.last().one("traceparent"), "", "no filter");
    envoy.logged("meshweft: configuration: ").await;
}

#[tokio::test]
async fn a_module_is_fetched_and_its_sum_is_held() {
    let stand = Stand::start().await;
    let mut config = stand.relocated("remote-module.yaml");
    let sum = std::process::Command::new("sha256sum").arg(module()).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    *only(&mut config, "sha256") = sum.split_whitespace().next().unwrap().into();
    let envoy = Envoy::start(&config, 2).await;
    stand.each_listener_makes_a_span(&config, &envoy, &[("inbound", "SERVER")]).await;
}

#[tokio::test]
async fn without_the_module_requests_are_served() {
    let stand = Stand::start().await;
    let mut config = stand.relocated("remote-module.yaml");
    assert_eq!(*only(&mut config, "sha256"), "0".repeat(64), "the placeholder");
    *only(&mut config, "num_retries") = json!(0);
    let envoy = Envoy::start(&config, 2).await;
    stand.get(&envoy, "inbound", "/").await;
    assert_eq!(stand.app.last().one("traceparent"), "", "no filter");
}

/// A manifest: where it goes and what it says.
#[derive(Debug)]
struct Manifest {
    kind: String,
    namespace: String,
    spec: Value,
}

/// The manifests, by file.
fn manifests() -> BTreeMap<String, Vec<Manifest>> {
    let files = [
        ("collector-external.yaml", vec!["ServiceEntry", "DestinationRule"]),
        ("collector-service.yaml", vec!["Service"]),
        ("base/telemetry-off.yaml", vec!["Telemetry", "Telemetry"]),
        ("trafficextension-gateway.yaml", vec!["TrafficExtension"]),
        ("trafficextension-sidecar.yaml", vec!["TrafficExtension"]),
        ("base/wasmplugin-gateway.yaml", vec!["WasmPlugin"]),
        ("base/wasmplugin-sidecar.yaml", vec!["WasmPlugin"]),
    ];
    files
        .map(|(file, kinds)| {
            let manifests: Vec<_> =
                documents(&format!("istio/{file}")).iter().map(manifest).collect();
            let found: Vec<_> = manifests.iter().map(|manifest| manifest.kind.as_str()).collect();
            assert_eq!(found, kinds, "{file}");
            (file.to_owned(), manifests)
        })
        .into()
}

fn manifest(document: &Value) -> Manifest {
    fields(document, &["apiVersion", "kind", "metadata", "spec"], &[]);
    fields(&document["metadata"], &["name", "namespace"], &[]);
    let kind = text(&document["kind"]);
    let version = match kind.as_str() {
        "DestinationRule" | "ServiceEntry" => "networking.istio.io/v1",
        "Service" => "v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "TrafficExtension" | "WasmPlugin" => "extensions.istio.io/v1alpha1",
        kind => panic!("a manifest of the unknown kind {kind}"),
    };
    assert_eq!(document["apiVersion"], version, "{kind}");
    Manifest {
        kind,
        namespace: text(&document["metadata"]["namespace"]),
        spec: document["spec"].clone(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// Holds that an object has the fields that it must have, and no others than those named.
#[track_caller]
fn fields(object: &Value, required: &[&str], optional: &[&str]) {
    let names: BTreeSet<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let required: BTreeSet<_> = required.iter().copied().collect();
    let known: BTreeSet<_> = required.iter().chain(optional).copied().collect();
    assert!(required.is_subset(&names), "missing: {:?}", required.difference(&names));
    assert!(names.is_subset(&known), "unknown: {:?}", names.difference(&known));
}

/// What the filter receives: Istio keeps `pluginConfig` as a Struct, where numbers are doubles.
fn as_struct(value: &Value) -> Value {
    match value {
        Value::Number(number) => Number::from_f64(number.as_f64().unwrap()).unwrap().into(),
        Value::Array(items) => items.iter().map(as_struct).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), as_struct(value))).collect()
        }
        other => other.clone(),
    }
}

/// The fields of a filter's manifest in the shape of a WasmPlugin.
fn as_wasm_plugin(manifest: &Manifest) -> Value {
    let mut spec = manifest.spec.clone();
    if manifest.kind == "TrafficExtension" {
        fields(&spec, &["phase", "priority", "match", "wasm"], &["selector", "targetRefs"]);
        let fields = spec.as_object_mut().unwrap();
        let Some(Value::Object(wasm)) = fields.remove("wasm") else { panic!("no `wasm`") };
        fields.extend(wasm);
    }
    spec
}

fn filter(file: &str) -> Manifest {
    let [manifest] = manifests().remove(file).unwrap().try_into().unwrap();
    manifest
}

#[test]
fn both_forms_of_the_filter_say_the_same() {
    for (place, namespace, mode) in
        [("sidecar", "shop", "CLIENT_AND_SERVER"), ("gateway", "istio-ingress", "CLIENT")]
    {
        let plugin = filter(&format!("base/wasmplugin-{place}.yaml"));
        let extension = filter(&format!("trafficextension-{place}.yaml"));
        let spec = as_wasm_plugin(&plugin);
        assert_eq!(spec, as_wasm_plugin(&extension), "{place}");
        assert_eq!(
            (plugin.namespace.as_str(), extension.namespace.as_str()),
            (namespace, namespace)
        );

        fields(
            &spec,
            &["failStrategy", "match", "phase", "pluginConfig", "pluginName", "priority", "url"],
            &["selector", "targetRefs", "sha256", "imagePullPolicy", "imagePullSecret", "vmConfig"],
        );
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(spec["url"], format!("oci://registry.example/meshweft:{version}"));
        assert_eq!(spec["pluginName"], "meshweft");
        assert_eq!(spec["failStrategy"], "FAIL_OPEN");
        assert_eq!(spec["phase"], "AUTHN");
        assert!(spec["priority"].as_i64().is_some_and(|priority| i32::try_from(priority).is_ok()));
        assert_eq!(spec["match"], json!([{"mode": mode}]));
        for variable in spec["vmConfig"]["env"].as_array().unwrap() {
            // Istio refuses a value beside HOST.
            fields(variable, &["name", "valueFrom"], &[]);
            assert_eq!(variable["valueFrom"], "HOST");
        }
        selector(&spec, place);

        let json = serde_json::to_vec(&as_struct(&spec["pluginConfig"])).unwrap();
        assert_eq!(cluster(&parse_config(&json)), COLLECTOR, "{place}");
    }
}

#[test]
fn every_plugin_has_a_configuration_that_the_filter_takes() {
    let mut checked = BTreeMap::new();
    for file in [
        "overlays/canary/wasmplugin-canary.yaml",
        "wasmplugin-inbound.yaml",
        "wasmplugin-mesh.yaml",
        "wasmplugin-outbound.yaml",
        "wasmplugin-waypoint.yaml",
        "wasmplugin-workload.yaml",
    ] {
        let [document] = documents(&format!("istio/{file}")).try_into().unwrap();
        let spec = &manifest(&document).spec;
        assert_eq!(spec["failStrategy"], "FAIL_OPEN", "{file}");
        assert_eq!(spec["phase"], "AUTHN", "{file}");
        let json = serde_json::to_vec(&as_struct(&spec["pluginConfig"])).unwrap();
        assert_eq!(cluster(&parse_config(&json)), COLLECTOR, "{file}");
        checked
            .insert(file, (spec["priority"].as_i64().unwrap(), spec["match"][0]["mode"].clone()));
    }
    let expected = [
        ("overlays/canary/wasmplugin-canary.yaml", 1200, "CLIENT_AND_SERVER"),
        ("wasmplugin-inbound.yaml", 1000, "SERVER"),
        ("wasmplugin-mesh.yaml", 1000, "CLIENT_AND_SERVER"),
        ("wasmplugin-outbound.yaml", 1000, "CLIENT"),
        ("wasmplugin-waypoint.yaml", 1000, ""),
        ("wasmplugin-workload.yaml", 1100, "CLIENT_AND_SERVER"),
    ];
    let expected = expected.map(|(file, priority, mode)| {
        let mode = if mode.is_empty() { Value::Null } else { mode.into() };
        (file, (priority, mode))
    });
    assert_eq!(checked, expected.into());
}

#[tokio::test]
async fn envoy_gateway_has_the_cluster_that_the_filter_calls() {
    let [policy] = documents("envoy/envoy-gateway/envoyextensionpolicy.yaml").try_into().unwrap();
    let wasm = only_item(&policy["spec"]["wasm"]);
    assert_eq!(wasm["failOpen"], true);
    let json = serde_json::to_vec(&as_struct(&wasm["config"])).unwrap();
    let called = cluster(&parse_config(&json));
    let [proxy] = documents("envoy/envoy-gateway/envoyproxy.yaml").try_into().unwrap();
    let bootstrap = proxy["spec"]["bootstrap"]["value"].as_str().unwrap();
    let bootstrap: Value = serde_norway::from_str(bootstrap).unwrap();
    assert_eq!(only_item(&bootstrap["static_resources"]["clusters"])["name"], called);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bootstrap.json");
    std::fs::write(&file, bootstrap.to_string()).unwrap();
    Envoy::validate(&file).await.unwrap();
}

/// The blocks of YAML in a document.
fn yaml_blocks(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(workspace().join(path)).unwrap();
    let blocks = text.split("\n```yaml\n").skip(1);
    blocks
        .map(|block| serde_norway::from_str(block.split("\n```").next().unwrap()).unwrap())
        .collect()
}

#[test]
fn what_the_readme_shows_is_possible() {
    let blocks = yaml_blocks("istio/README.md");
    let [edge, format, provider, telemetry] = blocks.as_slice() else { panic!("{blocks:?}") };
    let json = serde_json::to_vec(&as_struct(&edge["pluginConfig"])).unwrap();
    let config = parse_config(&json);
    assert_eq!(cluster(&config), COLLECTOR);

    let text = text(&format["meshConfig"]["accessLogFormat"]);
    let labels = &only_item(&provider["meshConfig"]["extensionProviders"])["envoyFileAccessLog"]["logFormat"]
        ["labels"];
    let told: Vec<_> = config.propagation.access_log.iter().map(|field| field.name()).collect();
    assert_eq!(told, ["trace_id", "span_id", "sampled"]);
    for field in told {
        let state = format!("%FILTER_STATE(wasm.meshweft.{field}:PLAIN)%");
        assert!(text.contains(&format!("{field}={state}")), "{text}");
        assert_eq!(labels[field], state);
    }

    let logging = &telemetry["spec"]["accessLogging"];
    let named = &only_item(&only_item(logging)["providers"])["name"];
    assert_eq!(named, &only_item(&provider["meshConfig"]["extensionProviders"])["name"]);
    let gateway = filter("base/wasmplugin-gateway.yaml");
    assert_eq!(manifest(telemetry).namespace, gateway.namespace);
    assert_eq!(telemetry["spec"]["selector"], gateway.spec["selector"]);
}

fn only_item(list: &Value) -> &Value {
    let [item] = list.as_array().unwrap().as_slice() else { panic!("{list} is not one") };
    item
}

/// The sidecars of a namespace are all of its workloads; a gateway is chosen by its label.
fn selector(spec: &Value, place: &str) {
    let expected = match place {
        "gateway" => json!({"matchLabels": {"istio": "ingressgateway"}}),
        _ => Value::Null,
    };
    assert_eq!(spec["selector"], expected, "{place}");
}

#[test]
fn native_tracing_is_off_where_the_filter_is_on() {
    let telemetry = manifests().remove("base/telemetry-off.yaml").unwrap();
    let places = ["sidecar", "gateway"];
    assert_eq!(telemetry.len(), places.len());
    for (telemetry, place) in telemetry.iter().zip(places) {
        let plugin = filter(&format!("base/wasmplugin-{place}.yaml"));
        fields(&telemetry.spec, &["tracing"], &["selector"]);
        assert_eq!(telemetry.namespace, plugin.namespace);
        assert_eq!(telemetry.spec["selector"], plugin.spec["selector"]);
        assert_eq!(telemetry.spec["tracing"], json!([{"disableSpanReporting": true}]));
    }
}

#[test]
fn the_collectors_are_those_that_the_filter_calls() {
    let mut manifests = manifests();
    let [service] = manifests.remove("collector-service.yaml").unwrap().try_into().unwrap();
    fields(&service.spec, &["ports", "selector"], &[]);
    let [port] = service.spec["ports"].as_array().unwrap().as_slice() else { panic!("one port") };
    fields(port, &["name", "port", "targetPort"], &[]);
    assert!(text(&port["name"]).starts_with("http"));
    let host = format!("otel-collector.{}.svc.cluster.local", service.namespace);
    assert_eq!(format!("outbound|{}||{host}", port["port"]), COLLECTOR);

    let [entry, rule] = manifests.remove("collector-external.yaml").unwrap().try_into().unwrap();
    fields(&entry.spec, &["hosts", "location", "ports", "resolution"], &[]);
    assert_eq!(entry.spec["location"], "MESH_EXTERNAL");
    assert_eq!(entry.spec["resolution"], "DNS");
    assert_eq!(
        entry.spec["ports"],
        json!([{"number": 443, "name": "http-otlp", "protocol": "HTTP"}])
    );
    assert_eq!(entry.spec["hosts"], json!([rule.spec["host"]]));
    fields(&rule.spec, &["host", "trafficPolicy"], &[]);
    let tls = json!({
        "mode": "SIMPLE", "sni": rule.spec["host"], "caCertificates": "system"});
    assert_eq!(rule.spec["trafficPolicy"], json!({"tls": tls}));
    assert_eq!(entry.namespace, rule.namespace);

    // The configuration that the file's own comment gives.
    let text = std::fs::read_to_string(workspace().join("istio/collector-external.yaml")).unwrap();
    let comment = text.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
    let config: Value = serde_norway::from_str(comment).unwrap();
    let json = serde_json::to_vec(&as_struct(&config)).unwrap();
    assert_eq!(cluster(&parse_config(&json)), "outbound|443||otlp.example.com");
}
