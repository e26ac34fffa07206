//! `meshweft-image MODULE FOLDER`: packs the module as OCI images, and says what it is made of.
//!
//! `cargo metadata` on the standard input says what that is; `make image` brings the two together.
#![allow(clippy::indexing_slicing, reason = "a member of JSON that is not there reads as null")]

mod layout;
mod sbom;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use serde_json::Value;
use sha2::{Digest, Sha256};

use layout::{Contents, Variant};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshweft-image: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the answer of a tool")]
fn run(arguments: &[OsString]) -> Result<(), String> {
    let [module, folder] = arguments else {
        return Err("usage: meshweft-image MODULE FOLDER <METADATA".to_owned());
    };
    let (module_path, folder) = (Path::new(module), Path::new(folder));
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    let module = fs::read(module_path).map_err(at(module_path))?;
    let sum = hex::encode(Sha256::digest(&module));
    let metadata: Value = serde_json::from_reader(io::stdin().lock())
        .map_err(|error| format!("the standard input is no metadata of cargo: {error}"))?;
    let sbom = sbom::sbom(&metadata, &sum)
        .ok_or("the standard input is no metadata of cargo for this workspace")?;

    let version = env!("CARGO_PKG_VERSION");
    let sbom_text = format!("{sbom:#}\n");
    let contents = Contents { module: &module, sbom: sbom_text.as_bytes(), version };
    let mut lines = vec![format!("module    {} bytes, sha256:{sum}", module.len())];
    for (name, variant) in [("compat", Variant::Compat), ("artifact", Variant::Artifact)] {
        let to = folder.join(name);
        let digest = layout::write(&to, variant, contents).map_err(at(&to))?;
        lines.push(format!("{name:<9} {digest}  {}", to.display()));
    }
    let file = folder.join("sbom.cdx.json");
    fs::write(&file, &sbom_text).map_err(at(&file))?;
    let parts = sbom["components"].as_array().map_or(0, Vec::len);
    lines.push(format!("sbom      {parts} components  {}", file.display()));
    println!("{}", lines.join("\n"));
    Ok(())
}
