//! Rules by what only the host knows, and rules that expire.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::time::Duration;

use common::{boot_with, collect};
use meshweft_host_tests::{HostEmulator, LogLevel, request};

/// What the emulated host routes by: see `request`.
const BY_ROUTE: &str = r#"{"export": {"cluster": "otel-collector"}, "sampling": {"rate": 0, "rules": [
    {"name": "r", "match": {"route": "default", "cluster": {"prefix": "inbound|"}}, "rate": 1}]}}"#;

/// The emulated clock begins with 2026.
const INCIDENT: &str = r#"{"export": {"cluster": "otel-collector"}, "sampling": {"rate": 0, "rules": [
    {"name": "last-year", "rate": 1, "until": "2025-12-31T23:59:59Z"},
    {"name": "incident", "rate": 1, "until": "2026-01-01T01:00:30+01:00"}]}}"#;

/// Whether a request is recorded.
fn recorded(host: &mut HostEmulator, root: u32) -> bool {
    host.serve(root, request()).unwrap();
    !collect(host, root).is_empty()
}

#[test]
fn routes_and_clusters_are_read_from_the_host() {
    let (mut host, root) = boot_with(BY_ROUTE);
    assert!(recorded(&mut host, root));
    let elsewhere = request().with_property(&["xds", "route_name"], "other");
    host.serve(root, elsewhere).unwrap();
    assert_eq!(collect(&mut host, root), []);
}

#[test]
fn an_expired_rule_is_named_once_and_a_rule_expires_at_a_tick() {
    let (mut host, root) = boot_with(INCIDENT);
    assert!(recorded(&mut host, root));
    host.advance(Duration::from_secs(31));
    // Until the next tick the rule goes on.
    host.serve(root, request()).unwrap();
    assert_eq!(collect(&mut host, root).len(), 1);
    assert!(!recorded(&mut host, root));
    let warnings = host.state().logged(LogLevel::Warn);
    assert_eq!(warnings, ["meshweft: sampling rules that have expired are ignored: last-year"]);
}

/// As deep as JSON may go: reading, indexing and asking fit the stack of the VM.
#[test]
fn what_is_not_not_goes_deep() {
    const DEPTH: usize = 120;
    let [open, close] = [r#"{"not": "#, "}"].map(|part| part.repeat(DEPTH));
    let matches = format!(r#"{open}{{"method": "GET"}}{close}"#);
    let (mut host, root) = boot_with(&format!(
        r#"{{"export": {{"cluster": "otel-collector"}}, "sampling": {{"rate": 0, "rules": [
            {{"name": "r", "match": {matches}, "rate": 1}}]}}}}"#
    ));
    assert!(recorded(&mut host, root));
}
