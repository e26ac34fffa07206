//! The images of `make image`, read by a standard library and fetched by Istio's own fetcher.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::fs;
use std::process::Command;

use meshweft_lab::istio::Release;
use meshweft_lab::paths;
use serde_json::Value;

fn json(path: &str) -> Value {
    let path = paths::workspace().join("target/image").join(path);
    let text = fs::read(&path).unwrap_or_else(|_| panic!("{}: `make image`", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

fn sha256(path: &std::path::Path) -> String {
    let sum = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    let text = String::from_utf8(sum.stdout).expect("text");
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn both_images_are_what_istio_fetches() {
    let module = sha256(&paths::module());
    for variant in ["compat", "artifact"] {
        let folder = paths::workspace().join("target/image").join(variant);
        let output = Command::new(Release::V1_31.file("pull-image"))
            .arg(&folder)
            .env("HOME", "/nonexistent")
            .output()
            .expect("pull-image runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variant}: {complaint}");
        let digest = &json(&format!("{variant}/index.json"))["manifests"][0]["digest"];
        let digest = digest.as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        let expected = format!("{} {module}", digest.expect("a digest"));
        assert_eq!(said.lines().last(), Some(&*expected), "{variant}");
    }
}

#[test]
fn the_bill_of_materials_is_of_this_module() {
    let bill = json("sbom.cdx.json");
    let module = &bill["metadata"]["component"];
    assert_eq!(module["hashes"][0]["content"], sha256(&paths::module()));
    let mut named = Vec::new();
    for component in bill["components"].as_array().expect("components") {
        let name = component["name"].as_str().expect("a name");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        named.push(name);
    }
    // What the module is, and none of what its tests and builds need.
    for (name, linked) in [
        ("meshweft-core", true),
        ("regex-automata", true),
        ("proptest", false),
        ("regex", false),
        ("tokio", false),
    ] {
        assert_eq!(named.contains(&name), linked, "{name} among {named:?}");
    }
}
