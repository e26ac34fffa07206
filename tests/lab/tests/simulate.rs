//! What `meshweft simulate` says of a real Envoy's access log, against what the filter has done.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use bytes::Bytes;
use meshweft_lab::client::{Client, Version};
use meshweft_lab::load::flood;
use meshweft_lab::mesh::{Options, Workload, exporting};
use meshweft_lab::paths;
use serde_json::{Value, json};

/// The access log's format that the README shows.
fn format() -> Value {
    let readme = fs::read_to_string(paths::workspace().join("README.md")).expect("the README");
    let (_, block) = readme.split_once("```yaml\njson_format:").expect("the format");
    let (block, _) = block.split_once("```").expect("its end");
    let yaml: Value = serde_norway::from_str(&format!("json_format:{block}")).expect("YAML");
    yaml["json_format"].clone()
}

/// Requests and those that were kept, by rule.
type Counts = BTreeMap<String, (i64, i64)>;

fn counts(table: &str) -> Counts {
    let row = |line: &str| {
        // Only names in brackets have a space.
        let line = line.replace("(no rule)", "(none)");
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, (words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
    };
    table.lines().skip(1).map_while(row).collect()
}

/// With the trace's own id in the log the same traces are kept, rate or no rate.
#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_of_a_log_keeps_what_the_filter_has_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, file) = (folder.path().join("access.log"), folder.path().join("config.json"));
    let config = exporting(json!({"sampling": {
        "rate": 0.25,
        "rules": [
            {"name": "health", "match": {"path": {"prefix": "/healthz"}}, "rate": 0, "keep": false},
            {"name": "red", "match": {"headers": {"x-team": "red"}}, "rate": 0.5},
            {"name": "named", "match": {"route": "lab-named"}},
        ],
        "keep": {"errors": true, "slower_than": "300ms", "response_flags": ["UC"]},
    }}));
    fs::write(&file, config.to_string()).expect("the configuration is written");
    let mut format = format();
    format["headers"]["content-type"] = json!("%REQ(CONTENT-TYPE)%");
    let manager = json!({"access_log": [{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": log,
        "log_format": {"json_format": format},
    }}]});
    let mut named = meshweft_lab::config::route("/named", "app");
    named["name"] = json!("lab-named");
    let options = Options { manager, routes: vec![named], ..Options::default() };
    let lab = Workload::with(&config, options).await;

    let (to, to_h2) = (lab.envoy.listener("inbound"), lab.envoy.listener("inbound-h2"));
    let (h1, h2) = (Client::new(Version::H1), Client::new(Version::H2));
    assert_eq!(flood(Version::H1, to, "/orders/7?a=b", 4, 50).await, Vec::<String>::new());
    assert_eq!(flood(Version::H1, to, "/named", 2, 10).await, Vec::<String>::new());
    let mut requests = 220;
    for _ in 0..20 {
        for path in ["/orders/7", "/status/503"] {
            h1.get(to, path, &[("x-team", b"red")]).await.expect("an answer");
        }
        for path in ["/healthz", "/healthz/status/503", "/status/404", "/status/500"] {
            h1.get(to, path, &[]).await.expect("an answer");
        }
        for method in ["Get", "Fail"] {
            let grpc: [(&str, &[u8]); 1] = [("content-type", b"application/grpc")];
            let path = format!("/shop.Orders/{method}");
            h2.send("POST", to_h2, &path, &grpc, Bytes::new()).await.expect("an answer");
        }
        requests += 8;
    }
    for path in ["/delay/400", "/reset"] {
        h1.get(to, path, &[]).await.expect("an answer");
        requests += 1;
    }
    lab.settled(requests).await;
    let metrics = lab.envoy.metrics_until(|metrics| metrics.contains_key("kept")).await;
    assert!(metrics["kept"] > 15 && metrics["sampled"] > 50, "{metrics:#?}");
    let lines = usize::try_from(requests).expect("few");
    lab.envoy.access_log_lines(&log, lines).await;

    let output = Command::new(paths::tool())
        .args(["simulate", "--config"])
        .args([&file, &log])
        .output()
        .expect("the tool runs");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{out}{err}");
    let mut simulated = counts(&out);
    let all = simulated.remove("(all)");
    assert_eq!(all, Some((requests, metrics["sampled"] + metrics["kept"])), "{out}");
    let without = simulated.remove("(none)").map(|(requests, _)| requests);
    let asked: BTreeMap<_, _> = simulated.iter().map(|(name, of)| (name.as_str(), of.0)).collect();
    let counted = ["health", "red", "named"].map(|name| (name, metrics[&format!("rule_{name}")]));
    assert_eq!(asked, counted.into());
    assert_eq!(without, Some(requests - counted.iter().map(|(_, count)| count).sum::<i64>()));
    assert_eq!(simulated["health"].1, 0, "{out}");
    lab.envoy.stop().await;
}
