//! A new configuration while traffic runs: no request fails and no span is lost.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test says where it broke"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meshweft_lab::client::{Client, Version};
use meshweft_lab::collector::Span;
use meshweft_lab::config::{ecds_resource, meshweft_by_ecds};
use meshweft_lab::envoy::{Envoy, adds_up};
use meshweft_lab::load::paced;
use meshweft_lab::mesh::{Options, Workload, exporting, merge};
use meshweft_lab::paths;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

const ACTIVE_VMS: &str = "wasm.envoy.wasm.runtime.v8.active";

fn of(metrics: &BTreeMap<String, i64>, name: &str) -> i64 {
    metrics.get(name).copied().unwrap_or(0)
}

/// Whether all that was sampled is gone from the queues, old and new, and accounted for.
fn settled(metrics: &BTreeMap<String, i64>, sampled: i64) -> bool {
    let gone = of(metrics, "queue_spans") == 0 && of(metrics, "in_flight_spans") == 0;
    of(metrics, "sampled") == sampled && gone && adds_up(metrics)
}

fn ids(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|span| &*span.span_id).collect()
}

/// A configuration that can be told by the name of the service.
fn named(service: &str) -> Value {
    exporting(json!({"service": {"name": service}, "export": {"retry": {"max": "1s"}}}))
}

/// A workload whose filter reads its configuration from a file.
struct Reloading {
    lab: Workload,
    file: PathBuf,
    client: Client,
    _dir: TempDir,
}

impl Reloading {
    async fn start(config: &Value) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("meshweft.json");
        Envoy::replace_file(&file, &ecds_resource(config, "first").to_string());
        let filter = Some(meshweft_by_ecds(&file));
        let lab = Workload::with(config, Options { filter, ..Options::default() }).await;
        Self { lab, file, client: Client::new(Version::H1), _dir: dir }
    }

    fn replace(&self, config: &Value) {
        Envoy::replace_file(&self.file, &ecds_resource(config, "next").to_string());
    }

    /// The same in a VM of its own, so that Envoy ends the old one: `change` makes that of the
    /// VM's configuration.
    fn replace_vm(&self, config: &Value, change: impl FnOnce(&mut Value)) {
        let mut resource = ecds_resource(config, "next");
        change(&mut resource["resources"][0]["typed_config"]["config"]["vm_config"]);
        Envoy::replace_file(&self.file, &resource.to_string());
    }

    async fn send(&self, path: &str, total: usize) {
        let to = self.lab.envoy.listener("inbound");
        assert_eq!(paced(&self.client, to, path, 100, total).await, Vec::<String>::new());
    }

    /// Sends requests until one is traced under this name of the service; how many.
    async fn until_traced_as(&self, service: &str) -> usize {
        for sent in (10..).step_by(10) {
            assert!(sent < 1000, "{service} does not come\n{}", self.lab.envoy.log());
            self.send("/until", 10).await;
            if self.lab.collector.spans().iter().any(|span| span.service() == service) {
                return sent;
            }
        }
        0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_traffic_loses_no_request_and_no_span() {
    let on = Reloading::start(&named("before")).await;
    // Open while the configuration changes, over two connections.
    let open = async {
        let slow = on.client.get(on.lab.envoy.listener("inbound"), "/delay/1500", &[]).await;
        assert_eq!(slow.expect("an answer").status, 200);
    };
    let change = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        on.replace(&named("after"));
    };
    tokio::join!(on.send("/a", 300), open, change);
    let total = 301 + on.until_traced_as("after").await;
    let metrics = on.lab.envoy.metrics_until(|m| settled(m, total as i64)).await;
    assert_eq!(of(&metrics, "exported"), total as i64, "{metrics:#?}");
    let spans = on.lab.collector.spans();
    assert_eq!((spans.len(), ids(&spans).len()), (total, total));
    let (before, after): (Vec<_>, Vec<_>) =
        spans.iter().partition(|span| span.service() == "before");
    assert!(!before.is_empty() && !after.is_empty(), "{} {}", before.len(), after.len());
    assert!(after.iter().all(|span| span.service() == "after"), "{after:#?}");
    // Envoy keeps the old configuration for as long as a request that it began is open.
    let slow: Vec<_> =
        spans.iter().filter(|span| span.attribute("url.path") == "/delay/1500").collect();
    let [slow] = &*slow else { panic!("{slow:#?}") };
    assert_eq!(slow.service(), "before");
    assert!(after.iter().any(|span| span.end < slow.end), "the change came too late");
    on.lab.envoy.stop().await;
}

/// What Envoy sees as another VM: other code, and a name that Istio changes with each version of
/// a manifest.
fn other_vm(dir: &Path, change: &str, vm: &mut Value) {
    match change {
        "module" => {
            // A section without meaning makes it another module that does the same.
            let mut code = fs::read(paths::module()).expect("the module");
            code.extend(b"\x00\x05\x04next");
            let file = dir.join("next.wasm");
            fs::write(&file, code).expect("a module");
            vm["code"]["local"]["filename"] = json!(file);
        }
        _ => vm["environment_variables"]["key_values"]["VERSION"] = json!("next"),
    }
}

async fn a_change_that_ends_the_old_vm(change: &str) {
    let batch = json!({"export": {"batch": {"interval": "1s"}}});
    let config = |name: &str| {
        let mut config = named(name);
        merge(&mut config, batch.clone());
        config
    };
    let on = Reloading::start(&config("before")).await;
    let changed = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let dir = on.lab.envoy.dir();
        on.replace_vm(&config("after"), |vm| other_vm(dir, change, vm));
    };
    tokio::join!(on.send("/a", 300), changed);
    let total = 300 + on.until_traced_as("after").await;
    let metrics = on.lab.envoy.metrics_until(|m| settled(m, total as i64)).await;
    println!("{change}: {} of {total} spans were taken over", of(&metrics, "taken_over"));
    assert_eq!(of(&metrics, "exported"), total as i64, "{metrics:#?}");
    if change == "module" {
        assert!(of(&metrics, "taken_over") > 0, "{metrics:#?}");
    }
    let spans = on.lab.collector.spans();
    assert_eq!((spans.len(), ids(&spans).len()), (total, total));
    assert!(spans.iter().any(|span| span.service() == "before"));
    on.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_module_loses_no_span() {
    a_change_that_ends_the_old_vm("module").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_environment_loses_no_span() {
    a_change_that_ends_the_old_vm("environment").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_leaves_the_old_one_in_place() {
    let on = Reloading::start(&named("before")).await;
    on.send("/a", 10).await;
    on.replace(&exporting(json!({"service": {"name": "bad"}, "sampling": {"rate": 2}})));
    on.lab.envoy.logged("$.sampling.rate").await;
    let metrics = on.lab.envoy.metrics_until(|m| of(m, "config_rejected") > 0).await;
    let log = on.lab.envoy.log();
    let mut lines = log.lines().skip_while(|line| !line.contains("meshweft: configuration: "));
    let ours = lines.next().expect("our line");
    assert!(ours.contains("[error]") && ours.contains("$.sampling.rate"), "{ours}");
    let theirs = lines.next().expect("Envoy's line");
    assert!(theirs.contains("Failed to configure"), "{theirs}\n{metrics:#?}");
    on.send("/a", 20).await;
    let spans = on.lab.collector.wait_for(30).await;
    assert_eq!((spans.len(), ids(&spans).len()), (30, 30));
    assert!(spans.iter().all(|span| span.service() == "before"), "{spans:#?}");
    // A good one is taken after that as if nothing had been.
    on.replace(&named("mended"));
    let total = 30 + on.until_traced_as("mended").await;
    on.lab.envoy.metrics_until(|m| settled(m, total as i64)).await;
    on.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_changes_leave_nothing_behind() {
    let on = Reloading::start(&named("first")).await;
    on.send("/a", 10).await;
    let vms = of(&on.lab.envoy.stats().await, ACTIVE_VMS);
    assert!(vms > 0);
    let mut total = 10;
    for change in 0..10 {
        let name = format!("change-{change}");
        on.replace(&named(&name));
        total += on.until_traced_as(&name).await;
    }
    let metrics = on.lab.envoy.metrics_until(|m| settled(m, total as i64)).await;
    assert_eq!(of(&metrics, "exported"), total as i64, "{metrics:#?}");
    assert_eq!(ids(&on.lab.collector.spans()).len(), total);
    let deadline = Instant::now() + Duration::from_secs(10);
    while of(&on.lab.envoy.stats().await, ACTIVE_VMS) != vms {
        assert!(Instant::now() < deadline, "{:#?}", on.lab.envoy.stats().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    on.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_configuration_delivers_what_it_recorded_once_the_collector_is_back() {
    let mut on = Reloading::start(&named("before")).await;
    on.lab.collector.down().await;
    on.send("/a", 50).await;
    on.lab.envoy.metrics_until(|m| of(m, "sampled") == 50 && adds_up(m)).await;
    let off = json!({"service": {"name": "after"}, "sampling": {"rate": 0}});
    on.replace(&exporting(off));
    // The change is there on both workers once a row of requests is not sampled.
    let mut unsampled = 0;
    for round in 0.. {
        assert!(round < 50, "{}", on.lab.envoy.log());
        on.send("/a", 10).await;
        let sent = 50 + 10 * (round + 1);
        let metrics =
            on.lab.envoy.metrics_until(|m| of(m, "sampled") + of(m, "not_sampled") == sent).await;
        let now = of(&metrics, "not_sampled");
        if now >= unsampled + 10 {
            break;
        }
        unsampled = now;
    }
    let waiting = on.lab.envoy.metrics_until(adds_up).await;
    let sampled = of(&waiting, "sampled");
    assert_eq!(of(&waiting, "queue_spans") + of(&waiting, "in_flight_spans"), sampled);
    on.lab.collector.up().await;
    let metrics = on.lab.envoy.metrics_until(|m| settled(m, sampled)).await;
    assert_eq!(of(&metrics, "exported"), sampled, "{metrics:#?}");
    let spans = on.lab.collector.spans();
    assert_eq!((spans.len() as i64, ids(&spans).len() as i64), (sampled, sampled));
    assert!(spans.iter().all(|span| span.service() == "before"), "{spans:#?}");
    on.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_configuration_that_cannot_deliver_counts_what_it_drops() {
    let config = exporting(json!({"export": {"retry": {"max": "5s", "max_elapsed": "2s"}}}));
    let mut on = Reloading::start(&config).await;
    on.lab.collector.down().await;
    on.send("/a", 20).await;
    on.lab.envoy.metrics_until(|m| of(m, "sampled") == 20 && adds_up(m)).await;
    on.replace(&json!({}));
    let metrics = on.lab.envoy.metrics_until(|m| settled(m, 20)).await;
    let dropped = of(&metrics, "dropped_shutdown") + of(&metrics, "dropped_retries_exhausted");
    assert_eq!((dropped, of(&metrics, "exported")), (20, 0), "{metrics:#?}");
    on.lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_ends_promptly_with_spans_waiting() {
    let mut lab = Workload::start(&named("lab")).await;
    lab.collector.down().await;
    let client = Client::new(Version::H1);
    let to = lab.envoy.listener("inbound");
    assert_eq!(paced(&client, to, "/a", 100, 50).await, Vec::<String>::new());
    let waiting = lab.envoy.metrics_until(|m| of(m, "sampled") == 50 && adds_up(m)).await;
    assert_eq!(of(&waiting, "queue_spans") + of(&waiting, "in_flight_spans"), 50);
    let begun = Instant::now();
    lab.envoy.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
