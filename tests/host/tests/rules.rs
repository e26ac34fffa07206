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

/// What Envoy gives for `true` and `false`.
const BOOLEANS: [[u8; 1]; 2] = [[0], [1]];

const BY_EXPRESSION: &str = r#"{"export": {"cluster": "otel-collector"}, "sampling": {"rate": 0, "rules": [
    {"name": "gold", "match": {"cel": "tenant == 'gold'"}, "rate": 1},
    {"name": "quick", "match": {"path": {"prefix": "/orders"}, "not": {"cel": "size(body) > 7"}}, "rate": 1}]}}"#;

#[test]
fn expressions_are_the_hosts() {
    let (mut host, root) = boot_with(BY_EXPRESSION);
    let compiled: Vec<_> = host.state().expressions.values().cloned().collect();
    assert_eq!(compiled, ["tenant == 'gold'", "size(body) > 7"]);
    let [no, yes] = BOOLEANS;
    for (gold, large, recorded, failures) in [
        (Some(&yes[..]), None, true, 0),
        (Some(&no), Some(&no[..]), true, 0),
        (Some(&no), Some(&yes), false, 0),
        // What fails is for no request; nor is a string, an integer, or nothing.
        (None, None, false, 2),
        (Some(b"true"), Some(b""), false, 2),
        (Some(&[1, 0, 0, 0, 0, 0, 0, 0]), Some(b"\x02"), false, 2),
    ] {
        let mut exchange = request();
        for (text, value) in [("tenant == 'gold'", gold), ("size(body) > 7", large)] {
            if let Some(value) = value {
                exchange = exchange.with_expression(text, value);
            }
        }
        let before = host.state().metric("meshweft_cel_failed");
        host.serve(root, exchange).unwrap();
        assert_eq!(!collect(&mut host, root).is_empty(), recorded, "{gold:?} {large:?}");
        let after = host.state().metric("meshweft_cel_failed");
        assert_eq!(after - before, failures, "{gold:?} {large:?}");
    }
    // Another configuration in its place has its own.
    let other = r#"{"sampling": {"rules": [{"name": "a", "match": {"cel": "a"}}]}}"#;
    assert!(host.configure(root, other).unwrap());
    let compiled: Vec<_> = host.state().expressions.values().cloned().collect();
    assert_eq!(compiled, ["a"]);
}

#[test]
fn an_expression_that_the_host_refuses_is_refused_at_configuration() {
    let configuration = r#"{"sampling": {"rules": [
        {"name": "a", "match": {"cel": "a"}}, {"name": "b", "match": {"cel": "size("}}]}}"#;
    let (mut host, root) = boot_with(BY_EXPRESSION);
    assert!(!host.configure(root, configuration).unwrap());
    let compile = "meshweft: configuration: $.sampling.rules[1].match.cel: the expression does not \
        compile: allowed is CEL as Envoy has it (a line \"expr_create\" of its log says why, at \
        the level info of the logger wasm)";
    assert_eq!(host.state().logged(LogLevel::Error), [compile]);
    // What was compiled of it is forgotten, and what was there before is not.
    assert_eq!(host.state().expressions.len(), 2);
    let gold = request().with_expression("tenant == 'gold'", BOOLEANS[1]);
    host.serve(root, gold).unwrap();
    assert_eq!(collect(&mut host, root).len(), 1);

    // A host without expressions.
    const NOT_FOUND: u32 = 1;
    host.fault("proxy_call_foreign_function", NOT_FOUND);
    assert!(!host.configure(root, BY_EXPRESSION).unwrap());
    let lacking = "meshweft: configuration: $.sampling.rules[0].match.cel: this host evaluates no \
        expressions: allowed is cel where Envoy has the foreign functions expr_create and \
        expr_evaluate";
    assert_eq!(host.state().logged(LogLevel::Error).last(), Some(&lacking));
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
