//! Every file of `istio/` against Istio's own definitions: what a real API server says of it, its
//! CEL rules included, and what `istioctl` says. And that each of them finds what is wrong.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says where it broke"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use meshweft_lab::istio::kube::Kube;
use meshweft_lab::istio::{Block, Release};
use meshweft_lab::paths;
use meshweft_lab::process::named;

const RELEASES: [Release; 2] = [Release::V1_30, Release::V1_31];

/// The folder of the manifests.
fn folder() -> PathBuf {
    paths::workspace().join("istio")
}

/// All manifests, by their path below it.
fn manifests() -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "yaml")
                && !path.ends_with("kustomization.yaml")
            {
                let name = path.strip_prefix(self::folder()).expect("below").display().to_string();
                found.insert(name, std::fs::read_to_string(&path).expect("a manifest"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&folder(), &mut found);
    found
}

/// An API with the definitions of a release, and the namespaces of the manifests.
async fn api(release: Release) -> (Kube, Block) {
    let block = Block::any();
    let kube = Kube::start(&block).await;
    kube.install(&release.file("crds.yaml")).await;
    for namespace in ["istio-system", "istio-ingress", "shop", "observability"] {
        kube.kubectl(&["create", "namespace", namespace], "").await.expect("a namespace");
    }
    (kube, block)
}

/// What the API would say to a manifest.
async fn dry_run(kube: &Kube, text: &str) -> Result<String, String> {
    kube.kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", "-"], text).await
}

/// What `istioctl` says to a file or folder.
fn istioctl(release: Release, arguments: &[&str], path: &Path) -> Result<String, String> {
    let home = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(release.file("istioctl"))
        .args(arguments)
        .arg(path)
        .env("HOME", home.path())
        .env_remove("KUBECONFIG")
        .output()
        .expect("istioctl runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_is_taken() {
    let manifests = manifests();
    assert!(manifests.len() > 10, "{manifests:?}");
    for release in RELEASES {
        let (kube, _block) = api(release).await;
        for (name, text) in &manifests {
            let said = dry_run(&kube, text).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(said.lines().count(), text.matches("\nkind: ").count(), "{name}: {said}");
            let path = folder().join(name);
            let valid = istioctl(release, &["validate", "-f"], &path);
            assert!(valid.as_ref().is_ok_and(|said| said.contains("is valid")), "{valid:?}");
        }
        kube.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kustomize_puts_them_together() {
    let (kube, _block) = api(Release::V1_31).await;
    for (overlay, expected) in [
        ("base", "WasmPlugin/meshweft WasmPlugin/meshweft Telemetry Telemetry"),
        ("overlays/production", "WasmPlugin/meshweft WasmPlugin/meshweft Telemetry Telemetry"),
        (
            "overlays/canary",
            "WasmPlugin/meshweft WasmPlugin/meshweft WasmPlugin/meshweft-canary Telemetry Telemetry",
        ),
    ] {
        let path = folder().join(overlay).display().to_string();
        let built = kube.kubectl(&["kustomize", &path], "").await.expect("kustomize");
        dry_run(&kube, &built).await.unwrap_or_else(|error| panic!("{overlay}: {error}"));
        let mut kinds = Vec::new();
        for document in built.split("---\n") {
            let of = |prefix: &str| {
                let line = document.lines().find_map(|line| line.strip_prefix(prefix));
                line.unwrap_or_default().to_owned()
            };
            let kind = of("kind: ");
            kinds.push(if kind == "WasmPlugin" {
                format!("{kind}/{}", of("  name: "))
            } else {
                kind
            });
        }
        kinds.sort_by_key(|kind| !kind.starts_with("WasmPlugin"));
        assert_eq!(kinds.join(" "), expected, "{overlay}");
        let rate = if overlay.ends_with("production") { "rate: 0.05" } else { "rate: 1" };
        assert_eq!(built.matches(rate).count(), built.matches("kind: WasmPlugin").count());
    }
    kube.stop().await;
}

#[test]
fn an_analysis_of_all_finds_nothing_and_what_is_seeded_is_found() {
    let analyze = ["analyze", "--use-kube=false", "--all-namespaces"];
    for release in RELEASES {
        let clean = istioctl(release, &analyze, &folder());
        let clean = clean.unwrap_or_else(|said| panic!("{said}"));
        assert!(clean.contains("No validation issues found"), "{clean}");
        // What the definitions allow, and still is wrong.
        let dir = tempfile::tempdir().expect("a temporary folder");
        let external = &manifests()["collector-external.yaml"];
        let blind = external.replace("      caCertificates: system\n", "");
        std::fs::write(dir.path().join("blind.yaml"), blind).expect("written");
        let said = istioctl(release, &analyze, dir.path()).unwrap_or_else(|said| said);
        assert!(said.contains("[IST0128]"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gateway_takes_its_manifests_and_finds_what_is_wrong() {
    let block = Block::any();
    let kube = Kube::start(&block).await;
    kube.install(&Release::V1_31.file("gateway-api.yaml")).await;
    kube.install(&named("MESHWEFT_ENVOY_GATEWAY", "test-istio").join("crds.yaml")).await;
    kube.kubectl(&["create", "namespace", "envoy-gateway-system"], "").await.expect("a namespace");
    let read = |file: &str| {
        let path = paths::workspace().join("envoy/envoy-gateway").join(file);
        std::fs::read_to_string(path).expect("a manifest")
    };
    let policy = read("envoyextensionpolicy.yaml");
    for text in [&policy, &read("envoyproxy.yaml")] {
        dry_run(&kube, text).await.unwrap_or_else(|error| panic!("{error}"));
    }
    for (from, to, words) in [
        ("failOpen: true", "failOpen: maybe", "failOpen in body must be of type boolean"),
        ("type: Image", "type: HTTP", "If type is HTTP, http field needs to be set."),
        ("kind: Gateway\n", "kind: Service\n", "this policy can only have a targetRefs[*].kind of"),
        ("rootID:", "root:", "unknown field \"spec.wasm[0].root\""),
    ] {
        let seeded = policy.replacen(from, to, 1);
        assert_ne!(seeded, policy, "it has {from}");
        refused(dry_run(&kube, &seeded).await, words, to);
    }
    kube.stop().await;
}

/// A fault in a manifest: what it changes, what the API says, and what istioctl says; nothing
/// where it does not look.
type Fault = (&'static str, &'static str, &'static str, &'static str, &'static str);

const FAULTS: [Fault; 14] = [
    (
        "base/wasmplugin-sidecar.yaml",
        "FAIL_OPEN\n",
        "FAIL_OPENED\n",
        "spec.failStrategy: Unsupported value: \"FAIL_OPENED\"",
        "unknown value \"\\\"FAIL_OPENED\\\"\" for enum",
    ),
    (
        "base/wasmplugin-sidecar.yaml",
        "phase: AUTHN",
        "phase: FIRST",
        "spec.phase: Unsupported value: \"FIRST\"",
        "unknown value \"\\\"FIRST\\\"\" for enum",
    ),
    (
        "base/wasmplugin-gateway.yaml",
        "mode: CLIENT",
        "mode: GATEWAY",
        "spec.match[0].mode: Unsupported value: \"GATEWAY\"",
        "unknown value \"\\\"GATEWAY\\\"\" for enum",
    ),
    (
        "base/wasmplugin-sidecar.yaml",
        "pluginName:",
        "pluginNames:",
        "unknown field \"spec.pluginNames\"",
        "unknown field \"pluginNames\"",
    ),
    (
        "base/wasmplugin-sidecar.yaml",
        "priority: 1000",
        "priority: first",
        "spec.priority in body must be of type integer",
        "cannot parse proto message",
    ),
    (
        "base/wasmplugin-sidecar.yaml",
        "url: oci:",
        "url: ftp:",
        "url must have schema one of [http, https, file, oci]",
        "url contains unsupported scheme: ftp",
    ),
    (
        "base/wasmplugin-sidecar.yaml",
        "      valueFrom: HOST\n",
        "      valueFrom: HOST\n      value: shop\n",
        "value may only be set when valueFrom is INLINE",
        "value may only be set when valueFrom is INLINE",
    ),
    (
        "wasmplugin-workload.yaml",
        "app: web",
        "app: \"*\"",
        "wildcard not allowed in label value match",
        "wildcard is not supported in selector",
    ),
    (
        "trafficextension-gateway.yaml",
        "  wasm:\n",
        "  lua: {inlineCode: x}\n  wasm:\n",
        "exactly one of wasm or lua must be set",
        "",
    ),
    (
        "base/telemetry-off.yaml",
        "disableSpanReporting:",
        "disableSpans:",
        "unknown field \"spec.tracing[0].disableSpans\"",
        "unknown field \"disableSpans\"",
    ),
    (
        "collector-external.yaml",
        "number: 443",
        "number: 70000",
        "port must be between 1-65535",
        "port number 70000 must be in the range 1..65535",
    ),
    (
        "collector-external.yaml",
        "mode: SIMPLE",
        "mode: TLS",
        "spec.trafficPolicy.tls.mode: Unsupported value: \"TLS\"",
        "unknown value \"\\\"TLS\\\"\" for enum",
    ),
    (
        "collector-egress.yaml",
        "\"observability/*\"",
        "observability",
        "",
        "host must be of form namespace/dnsName",
    ),
    (
        "collector-service.yaml",
        "port: 4318\n",
        "port: 70000\n",
        "spec.ports[0].port: Invalid value: 70000",
        "",
    ),
];

/// Holds that `answer` is a refusal with these words; no words: not one.
#[track_caller]
fn refused(answer: Result<String, String>, words: &str, about: &str) {
    match answer {
        Ok(said) => assert!(words.is_empty(), "{about} passes: {said}"),
        Err(said) => {
            // The API's answer to a patch has the patch in it, with its quotes escaped.
            let said = said.replace("\\\"", "\"");
            let words = words.replace("\\\"", "\"");
            assert!(!words.is_empty() && said.contains(&words), "{about}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found() {
    let manifests = manifests();
    let release = Release::V1_31;
    let (kube, _block) = api(release).await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("seeded.yaml");
    for (name, from, to, api_says, istioctl_says) in FAULTS {
        let seeded = manifests[name].replacen(from, to, 1);
        assert_ne!(seeded, manifests[name], "{name} has {from}");
        let about = format!("{name}: {to}");
        refused(dry_run(&kube, &seeded).await, api_says, &about);
        std::fs::write(&path, &seeded).expect("written");
        refused(istioctl(release, &["validate", "-f"], &path), istioctl_says, &about);
    }
    kube.stop().await;
}
