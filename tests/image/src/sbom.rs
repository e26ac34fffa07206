//! What the module is made of, in CycloneDX 1.6.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// The crate that becomes the module.
const ROOT: &str = "meshweft";

/// The bill of materials, from what `cargo metadata` says; `None` if it says something else.
///
/// Only what is linked counts: what builds and tests need is left out.
pub(crate) fn sbom(metadata: &Value, module_sha256: &str) -> Option<Value> {
    let by_id = |list: &'static str| -> Option<BTreeMap<&str, &Value>> {
        let list = metadata.pointer(list)?.as_array()?;
        list.iter().map(|item| Some((item["id"].as_str()?, item))).collect()
    };
    let (packages, nodes) = (by_id("/packages")?, by_id("/resolve/nodes")?);
    let root = *packages.iter().find(|(_, package)| package["name"] == ROOT)?.0;

    let mut linked = BTreeSet::from([root]);
    let mut dependencies = Vec::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        let mut direct = Vec::new();
        for dependency in nodes.get(id)?["deps"].as_array()? {
            let kinds = dependency["dep_kinds"].as_array()?;
            // A macro runs in the compiler.
            let to = dependency["pkg"].as_str()?;
            if kinds.iter().any(|kind| kind["kind"].is_null()) && !is_macro(packages.get(to)?) {
                direct.push(reference(packages.get(to)?));
                if linked.insert(to) {
                    open.push(to);
                }
            }
        }
        direct.sort();
        dependencies.push(json!({"ref": reference(packages.get(id)?), "dependsOn": direct}));
    }
    dependencies.sort_by_key(|entry| entry["ref"].to_string());

    let mut components = Vec::new();
    for package in linked.iter().filter(|id| **id != root).filter_map(|id| packages.get(id)) {
        components.push(component(package, "library"));
    }
    components.sort_by_key(|entry| entry["bom-ref"].to_string());
    let mut module = component(packages.get(root)?, "application");
    module["hashes"] = json!([{"alg": "SHA-256", "content": module_sha256}]);
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": module},
        "components": components,
        "dependencies": dependencies,
    }))
}

fn component(package: &Value, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    });
    if let Some(license) = package["license"].as_str() {
        // Older crates write the alternatives of a licence with a stroke.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    component
}

/// The package URL of a crate.
fn reference(package: &Value) -> String {
    let text = |field: &str| package[field].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version"))
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array();
    targets.is_some_and(|all| {
        all.iter().any(|target| {
            let kinds = target["kind"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind == "proc-macro"))
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says where it broke")]
mod tests {
    use super::*;

    fn package(id: &str, kind: &str, license: Option<&str>) -> Value {
        let license = license.map_or(Value::Null, Value::from);
        json!({"id": id, "name": id, "version": "1.0.0", "license": license,
            "targets": [{"kind": [kind]}]})
    }

    fn dependency(to: &str, kind: Value) -> Value {
        json!({"pkg": to, "dep_kinds": [{"kind": kind}]})
    }

    #[test]
    fn what_is_linked_is_named_and_nothing_else() {
        let metadata = json!({
            "packages": [
                package("meshweft", "cdylib", Some("Apache-2.0")),
                package("core", "lib", Some("MIT/Apache-2.0")),
                package("derive", "proc-macro", None),
                package("test", "lib", None),
                package("elsewhere", "lib", None),
            ],
            "resolve": {"nodes": [
                {"id": "meshweft", "deps": [
                    dependency("core", Value::Null),
                    dependency("derive", Value::Null),
                    dependency("test", "dev".into()),
                ]},
                {"id": "core", "deps": []},
                {"id": "elsewhere", "deps": []},
            ]},
        });
        let expected = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"component": {
                "type": "application",
                "bom-ref": "pkg:cargo/meshweft@1.0.0",
                "name": "meshweft",
                "version": "1.0.0",
                "purl": "pkg:cargo/meshweft@1.0.0",
                "licenses": [{"expression": "Apache-2.0"}],
                "hashes": [{"alg": "SHA-256", "content": "abc"}],
            }},
            "components": [{
                "type": "library",
                "bom-ref": "pkg:cargo/core@1.0.0",
                "name": "core",
                "version": "1.0.0",
                "purl": "pkg:cargo/core@1.0.0",
                "licenses": [{"expression": "MIT OR Apache-2.0"}],
            }],
            "dependencies": [
                {"ref": "pkg:cargo/core@1.0.0", "dependsOn": []},
                {"ref": "pkg:cargo/meshweft@1.0.0", "dependsOn": ["pkg:cargo/core@1.0.0"]},
            ],
        });
        assert_eq!(sbom(&metadata, "abc"), Some(expected));
        assert_eq!(sbom(&json!({}), "abc"), None);
    }
}
