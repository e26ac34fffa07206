//! A folder in the OCI image layout with one image in it (OCI image specification, image layout).
//!
//! The same module gives the same bytes: nothing is stamped with a time, and the compressor is the
//! one that `Cargo.lock` pins.

use std::path::Path;
use std::{fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// How the module is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Variant {
    /// An image whose one layer holds `plugin.wasm`, as image builders make it; every registry
    /// takes it.
    Compat,
    /// An artifact of the module itself and its bill of materials, with the media types of Wasm.
    /// Istio takes one with two layers, no more and no fewer.
    Artifact,
}

/// What is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    pub(crate) module: &'a [u8],
    pub(crate) sbom: &'a [u8],
    pub(crate) version: &'a str,
}

/// Writes the layout, in place of what is there, and gives the digest of the image.
pub(crate) fn write(folder: &Path, variant: Variant, contents: Contents<'_>) -> io::Result<String> {
    let Contents { module, sbom, version } = contents;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    let blob = |media_type: &str, bytes: &[u8]| -> io::Result<Value> {
        let sum = hex::encode(Sha256::digest(bytes));
        fs::write(folder.join("blobs/sha256").join(&sum), bytes)?;
        let digest = format!("sha256:{sum}");
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    };
    let (config, layers) = match variant {
        Variant::Compat => {
            let tar = tar(module)?;
            let diff = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
            let config = json!({
                "architecture": "wasm",
                "os": "wasip1",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [diff]},
            });
            (
                blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?,
                json!([blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&tar)?)?]),
            )
        }
        Variant::Artifact => (
            blob("application/vnd.module.wasm.config.v1+json", b"{}")?,
            json!([
                blob("application/vnd.module.wasm.content.layer.v1+wasm", module)?,
                blob("application/vnd.cyclonedx+json", sbom)?,
            ]),
        ),
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.title": "meshweft",
            "org.opencontainers.image.description": "A tracing filter for Envoy and Istio",
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    let mut image = blob(MANIFEST, manifest.to_string().as_bytes())?;
    let digest = image["digest"].as_str().unwrap_or_default().to_owned();
    image["annotations"] = json!({"org.opencontainers.image.ref.name": version});
    let index = json!({"schemaVersion": 2, "manifests": [image]});
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(folder.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(digest)
}

/// An archive with the module as the one file that Istio and Envoy Gateway look for.
fn tar(module: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_size(module.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "plugin.wasm", module)?;
    archive.into_inner()
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    io::Write::write_all(&mut encoder, bytes)?;
    encoder.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test says where it broke")]
mod tests {
    use std::io::Read;

    use super::*;

    fn json(folder: &Path, file: &str) -> Value {
        serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
    }

    /// The bytes that a descriptor names, which must be as it says.
    fn blob(folder: &Path, descriptor: &Value) -> Vec<u8> {
        let sum = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = fs::read(folder.join("blobs/sha256").join(sum)).unwrap();
        assert_eq!(hex::encode(Sha256::digest(&bytes)), sum);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    }

    fn manifest(folder: &Path) -> Value {
        assert_eq!(json(folder, "oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json(folder, "index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
        serde_json::from_slice(&blob(folder, &index["manifests"][0])).unwrap()
    }

    fn of(module: &'static [u8]) -> Contents<'static> {
        Contents { module, sbom: b"{}", version: "1.2.3" }
    }

    #[test]
    fn an_image_has_one_layer_with_the_plugin() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("image");
        let digest = write(&folder, Variant::Compat, of(b"\0asm")).unwrap();
        let again = write(&folder, Variant::Compat, of(b"\0asm")).unwrap();
        assert_eq!(digest, again, "the same module, the same image");
        let other = write(&folder, Variant::Compat, of(b"\0asM")).unwrap();
        assert_ne!(digest, other);

        let manifest = manifest(&folder);
        assert_eq!(json(&folder, "index.json")["manifests"][0]["digest"], other);
        let [layer] = manifest["layers"].as_array().unwrap().as_slice() else { panic!() };
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&*blob(&folder, layer)).read_to_end(&mut tar).unwrap();
        let config: Value = serde_json::from_slice(&blob(&folder, &manifest["config"])).unwrap();
        let diff = format!("sha256:{}", hex::encode(Sha256::digest(&tar)));
        assert_eq!(config["rootfs"], serde_json::json!({"type": "layers", "diff_ids": [diff]}));
        let mut archive = tar::Archive::new(&*tar);
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.push((entry.path().unwrap().display().to_string(), bytes));
        }
        assert_eq!(files, [("plugin.wasm".to_owned(), b"\0asM".to_vec())]);
    }

    #[test]
    fn an_artifact_is_the_module_and_its_bill_of_materials() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Variant::Artifact, of(b"\0asm")).unwrap();
        let manifest = manifest(dir.path());
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.module.wasm.config.v1+json");
        let [layer, bill] = manifest["layers"].as_array().unwrap().as_slice() else { panic!() };
        assert_eq!(layer["mediaType"], "application/vnd.module.wasm.content.layer.v1+wasm");
        assert_eq!(blob(dir.path(), layer), b"\0asm");
        assert_eq!(bill["mediaType"], "application/vnd.cyclonedx+json");
        assert_eq!(blob(dir.path(), bill), b"{}");
    }
}
