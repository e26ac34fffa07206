//! Rooms of the core import from left to right only, and the core names no host.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms that it may use.
const ROOMS: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("config", &["model"]),
    ("matching", &["model", "config"]),
    ("propagation", &["model", "config", "matching"]),
    ("correlation", &["model", "config", "matching", "propagation"]),
    ("span", &["model", "config", "matching", "propagation", "correlation"]),
    ("sampling", &["model", "config", "matching", "propagation", "correlation", "span"]),
    ("export", &["model", "config", "matching", "propagation", "sampling", "correlation", "span"]),
    (
        "stream",
        &[
            "model",
            "config",
            "matching",
            "propagation",
            "sampling",
            "correlation",
            "span",
            "export",
            "plugin",
        ],
    ),
    (
        "plugin",
        &[
            "model",
            "config",
            "matching",
            "propagation",
            "sampling",
            "correlation",
            "span",
            "export",
        ],
    ),
    ("attempt", &["model", "config", "matching", "propagation", "span", "plugin", "stream"]),
];

/// What only an adapter may name.
const EFFECTS: [&str; 7] = [
    "proxy_wasm",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "Instant::now",
    "SystemTime::now",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The code of a file without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn room(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

#[test]
fn rooms_import_from_left_to_right() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = Vec::new();
    for path in sources(&src) {
        let room = room(&path, &src);
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            panic!("{} is in no known room", path.display());
        };
        for (index, _) in code(&path).match_indices("crate::") {
            let code = code(&path);
            let rest = code.get(index + "crate::".len()..).unwrap();
            let used: String =
                rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let known = ROOMS.iter().any(|(name, _)| *name == used);
            assert!(
                !known || used == room || allowed.contains(&&*used),
                "{}: {room} may not use {used}",
                path.display()
            );
        }
        seen.push(room);
    }
    for (room, _) in ROOMS {
        assert!(seen.iter().any(|name| name == room), "{room} is gone: update this test");
    }
}

#[test]
fn the_core_has_no_effects() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&src) {
        let code = code(&path);
        for effect in EFFECTS {
            assert!(!code.contains(effect), "{}: {effect}", path.display());
        }
    }
}
