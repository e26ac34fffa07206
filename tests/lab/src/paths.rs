//! Where the lab finds what it runs.

use std::env;
use std::path::{Path, PathBuf};

/// The version of Envoy that runs unless `MESHWEFT_ENVOY` names a binary.
pub const ENVOY_VERSION: &str = "1.40.0";

/// The root of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The Envoy to run: `MESHWEFT_ENVOY`, else the one that `make envoy` keeps in the user's cache.
///
/// # Panics
/// If it is not there: a test that needs Envoy fails without it.
#[must_use]
pub fn envoy() -> PathBuf {
    let path = env::var_os("MESHWEFT_ENVOY").map_or_else(
        || {
            let cache = env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
                PathBuf::from,
            );
            cache.join("meshweft/envoy").join(ENVOY_VERSION).join("envoy")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "no Envoy at {}: `make envoy` fetches it", path.display());
    path
}

/// The module under test: `MESHWEFT_WASM`, else `target/meshweft.wasm`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn module() -> PathBuf {
    built("MESHWEFT_WASM", "meshweft.wasm", "make build")
}

/// The native tool: `MESHWEFT_TOOL`, else `target/meshweft`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn tool() -> PathBuf {
    built("MESHWEFT_TOOL", "meshweft", "make build")
}

/// The module of the filter that does nothing, with which the benchmark compares:
/// `MESHWEFT_EMPTY_WASM`, else `target/empty.wasm`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn empty_module() -> PathBuf {
    built("MESHWEFT_EMPTY_WASM", "empty.wasm", "make bench")
}

/// The module that calls the host as the filter does, and does nothing else:
/// `MESHWEFT_CROSSINGS_WASM`, else `target/crossings.wasm`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn crossings_module() -> PathBuf {
    built("MESHWEFT_CROSSINGS_WASM", "crossings.wasm", "make target/crossings.wasm")
}

/// What `variable` names, else a file in `target` that `command` makes.
fn built(variable: &str, file: &str, command: &str) -> PathBuf {
    let path =
        env::var_os(variable).map_or_else(|| workspace().join("target").join(file), PathBuf::from);
    assert!(path.is_file(), "no {}: `{command}` makes it", path.display());
    path
}
