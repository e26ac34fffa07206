//! The tool as its users call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const USAGE: i32 = 2;

fn meshweft(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshweft"));
    command.args(arguments).env_remove("MESHWEFT_TEST").stdin(Stdio::null());
    command
}

#[track_caller]
fn says(output: &Output, code: i32, out: &str, err: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), out);
    assert_eq!(String::from_utf8_lossy(&output.stderr), err);
    assert_eq!(output.status.code(), Some(code));
}

/// A file that is gone when the test is.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("{name}-{}.json", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = meshweft(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn valid_files_are_ok() {
    let a = File::new("valid-a", r#"{"mode": "gateway"}"#);
    let b = File::new("valid-b", "");
    let output = meshweft(&["check", a.name(), b.name()]).output().unwrap();
    says(&output, 0, &format!("{}: ok\n{}: ok\n", a.name(), b.name()), "");
}

#[test]
fn what_only_envoy_can_check_is_named() {
    let rules = r#"{"sampling": {"rules": [{"name": "a", "match": {"cel": "a =="}}]}}"#;
    let file = File::new("valid-cel", rules);
    let output = meshweft(&["check", file.name()]).output().unwrap();
    let name = file.name();
    let expected = format!(
        "{name}: ok\n{name}: 1 cel: only Envoy compiles and evaluates it, so that it is not checked \
         here, and unknown where explain is not told of it by --cel\n"
    );
    says(&output, 0, &expected, "");
}

#[test]
fn all_that_is_wrong_is_said() {
    let good = File::new("mixed-good", "{}");
    let bad = File::new("mixed-bad", r#"{"mode": "up", "sampling": {"rate": 1.5, "ruls": []}}"#);
    let output = meshweft(&["check", bad.name(), good.name()]).output().unwrap();
    let (good, bad) = (good.name(), bad.name());
    let expected = format!(
        "{bad}: configuration: $.sampling.ruls: unknown field (did you mean rules?): \
         allowed are parent, rate, limit_per_second, adaptive, remote, rules, keep\n\
         {bad}: configuration: $.mode: \"up\" is not possible: \
         allowed are auto, inbound, outbound, gateway, upstream\n\
         {bad}: configuration: $.sampling.rate: 1.5 is out of range: \
         allowed is a number from 0 to 1\n\
         {good}: ok\n"
    );
    says(&output, 1, &expected, "");
}

#[test]
fn standard_input_is_a_file() {
    says(&with_input(&["check", "-"], "{}"), 0, "-: ok\n", "");
    let error = "-: configuration: line 1, column 1: not JSON: EOF while parsing an object\n";
    says(&with_input(&["check", "-"], "{"), 1, error, "");
}

#[test]
fn of_a_manifest_its_plugin_config_is_checked() {
    let hint = "this seems to be a manifest; only what is under its pluginConfig is checked, \
                as JSON: see meshweft help";
    let yaml = File::new("manifest", "# The gateway.\nspec:\n  pluginConfig:\n    mode: gateway\n");
    let name = yaml.name();
    let expected = format!(
        "{name}: configuration: line 1, column 1: not JSON: expected value\n{name}: {hint}\n"
    );
    says(&meshweft(&["check", name]).output().unwrap(), 1, &expected, "");
    let json = r#"{"spec": {"pluginConfig": {}}}"#;
    let expected = format!(
        "-: configuration: $.spec: unknown field: allowed are mode, service, propagation, correlation, sampling, spans, export\n-: {hint}\n"
    );
    says(&with_input(&["check", "-"], json), 1, &expected, "");
}

#[test]
fn variables_are_assumed_unless_asked_for() {
    let text = r#"{"export": {"cluster": "c", "headers": {"a": "${MESHWEFT_TEST}"}}}"#;
    let file = File::new("variables", text);
    let name = file.name();
    let ok = format!("{name}: ok\n");
    says(&meshweft(&["check", name]).output().unwrap(), 0, &ok, "");
    let error = format!(
        "{name}: configuration: $.export.headers.a: environment variable MESHWEFT_TEST is not \
         set: allowed is a variable that is\n"
    );
    says(&meshweft(&["check", "--env", name]).output().unwrap(), 1, &error, "");
    let output = meshweft(&["check", "--env", name]).env("MESHWEFT_TEST", "x").output().unwrap();
    says(&output, 0, &ok, "");
}

#[test]
fn a_file_that_cannot_be_read_is_no_reason_to_skip_the_next() {
    let file = File::new("beside", "{}");
    let output = meshweft(&["check", "/nonexistent/x.json", file.name()]).output().unwrap();
    assert_eq!(output.status.code(), Some(USAGE));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}: ok\n", file.name()));
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("/nonexistent/x.json: cannot be read: "), "{err}");
}

#[test]
fn the_schema_is_json() {
    let output = meshweft(&["schema"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema, meshweft_core::config::schema());
}

#[test]
fn help_and_version() {
    let help = meshweft(&["help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.starts_with("Usage:\n  meshweft check"), "{text}");
    let version = format!("meshweft {}\n", env!("CARGO_PKG_VERSION"));
    says(&meshweft(&["--version"]).output().unwrap(), 0, &version, "");
    for wrong in [
        &[][..],
        &["check"],
        &["check", "--env"],
        &["check", "--strict", "x"],
        &["schema", "x"],
        &["explain"],
    ] {
        says(&meshweft(wrong).output().unwrap(), USAGE, "", &text);
    }
}
