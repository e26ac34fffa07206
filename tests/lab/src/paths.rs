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
    let path = env::var_os("MESHWEFT_WASM")
        .map_or_else(|| workspace().join("target/meshweft.wasm"), PathBuf::from);
    assert!(path.is_file(), "no module at {}: `make build` makes it", path.display());
    path
}

/// The native tool: `MESHWEFT_TOOL`, else `target/meshweft`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn tool() -> PathBuf {
    let path = env::var_os("MESHWEFT_TOOL")
        .map_or_else(|| workspace().join("target/meshweft"), PathBuf::from);
    assert!(path.is_file(), "no tool at {}: `make build` makes it", path.display());
    path
}

/// The module of the filter that does nothing, with which the benchmark compares:
/// `MESHWEFT_EMPTY_WASM`, else `target/empty.wasm`.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn empty_module() -> PathBuf {
    let path = env::var_os("MESHWEFT_EMPTY_WASM")
        .map_or_else(|| workspace().join("target/empty.wasm"), PathBuf::from);
    assert!(path.is_file(), "no module at {}: `make bench` makes it", path.display());
    path
}
