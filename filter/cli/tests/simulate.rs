//! `meshweft simulate` as its users call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/simulate.json");

fn simulate(arguments: &[&str], log: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshweft"))
        .arg("simulate")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read all, or anything.
    drop(child.stdin.take().unwrap().write_all(log.as_bytes()));
    child.wait_with_output().unwrap()
}

#[track_caller]
fn says(output: &Output, out: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), out);
    assert_eq!(output.status.code(), Some(0));
}

/// Seven requests in each of four seconds.
fn four_seconds() -> String {
    let mut log = String::new();
    for second in 0..4 {
        let paths = ["/pay/1", "/pay/2", "/pay/3", "/pay/4", "/pay/5", "/old", "/x"];
        for (number, path) in paths.iter().enumerate() {
            writeln!(
                log,
                r#"{{"time": "2026-07-01T18:00:0{second}.{number}Z", "method": "GET", "path": "{path}"}}"#
            )
            .unwrap();
        }
    }
    log
}

#[test]
fn limits_and_expiry_in_the_time_of_the_log() {
    let out = "\
rule         requests        kept    share  per second   at most
old                 2           2  100.0 %        0.50         1
pay                20           8   40.0 %        2.00         2
(no rule)           6           0    0.0 %        0.00         0
(all)              28          10   35.7 %        2.50         3

Seconds in the log: 4.
Dropped by limits, though a rate would have kept them: 12.
";
    says(&simulate(&["--config", CONFIG], &four_seconds()), out);
    says(&simulate(&["-", "--config", CONFIG], &four_seconds()), out);
}

#[test]
fn parents_decide_and_what_cannot_be_read_is_told() {
    let log = r#"{"method": "GET", "path": "/x", "headers": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}

127.0.0.1 - GET /x
{"method": "GET", "path": "/pay", "host": "a"}
{"method": "GET"}"#;
    let out = "\
rule         requests        kept    share  per second   at most
old                 0           0        -           -         -
pay                 1           1  100.0 %           -         -
(no rule)           1           1  100.0 %           -         -
(all)               2           2  100.0 %           -         -

Requests without a time, taken at that of the one before: 2.
Of 5 lines 2 could not be read; the first is line 3: not a JSON object.
";
    says(&simulate(&["--config", CONFIG], log), out);
}

#[test]
fn traces_of_a_collector() {
    let span = |path: &str, parent: &str| {
        format!(
            r#"{{"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331",
            "parentSpanId": "{parent}", "startTimeUnixNano": "1782928800000000000",
            "attributes": [{{"key": "http.request.method", "value": {{"stringValue": "GET"}}}},
            {{"key": "url.path", "value": {{"stringValue": "{path}"}}}}]}}"#
        )
        .replace('\n', "")
    };
    let spans = [span("/pay", ""), span("/pay", "00f067aa0ba902b7"), span("/x", "")].join(",");
    let log = format!(r#"{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{spans}]}}]}}]}}"#);
    let out = "\
rule         requests        kept    share  per second   at most
old                 0           0        -        0.00         0
pay                 1           1  100.0 %        1.00         1
(no rule)           1           0    0.0 %        0.00         0
(all)               2           1   50.0 %        1.00         1

Seconds in the log: 1.
";
    says(&simulate(&["--config", CONFIG], &log), out);
}

#[test]
fn a_trace_id_decides_as_in_the_filter() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config-examples/production.json");
    for (id, kept) in [
        ("0af7651916cd43dd84f3320000000000", "(all)               1           0    0.0 %"),
        ("0af7651916cd43dd84f3340000000000", "(all)               1           1  100.0 %"),
    ] {
        let log = format!(r#"{{"method": "GET", "path": "/", "trace_id": "{id}"}}"#);
        let output = simulate(&["--config", config], &log);
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(out.lines().any(|line| line.starts_with(kept)), "{out}");
    }
}

#[test]
fn outcomes_keep_what_was_not_sampled() {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/keep.json");
    let log = r#"{"method": "GET", "path": "/", "status": 200, "duration": 700}
{"method": "GET", "path": "/", "status": "503", "duration": "-"}
{"method": "GET", "path": "/", "status": 200, "duration": 500, "response_flags": "UO"}
{"method": "GET", "path": "/", "status": 200, "duration": 500, "response_flags": "-"}
{"method": "POST", "path": "/a.B/C", "status": 200, "grpc_status": "UNAVAILABLE", "headers": {"content-type": "application/grpc"}}
{"method": "GET", "path": "/"}
{"method": "GET", "path": "/all", "status": 503}
{"method": "GET", "path": "/healthz", "status": 503}
{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "5", "endTimeUnixNano": "9", "attributes": [{"key": "http.request.method", "value": {"stringValue": "GET"}}, {"key": "url.path", "value": {"stringValue": "/"}}, {"key": "http.response.status_code", "value": {"intValue": "502"}}]}]}]}]}"#;
    let out = "\
rule         requests        kept    share  per second   at most
health              1           0    0.0 %        0.00         0
all                 1           1  100.0 %        1.00         1
(no rule)           7           5   71.4 %        5.00         5
(all)               9           6   66.7 %        6.00         6

Seconds in the log: 1.
Kept for their outcome: 5 (errors 3, response_flags 1, slower_than 1).
Not sampled and without a status, so that sampling.keep has no say: 1.
Requests without a time, taken at that of the one before: 8.
";
    says(&simulate(&["--config", config], log), out);
}

#[test]
fn wrong_usage_is_told() {
    let upstream = &*format!("{}/upstream.json", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(upstream, r#"{"mode": "upstream", "export": {"cluster": "c"}}"#).unwrap();
    for (arguments, code, err) in [
        (
            &["x.log"][..],
            2,
            "meshweft simulate: --config FILE is missing\nmeshweft help says what it takes.\n",
        ),
        (
            &["--config", CONFIG, "a", "b"],
            2,
            "meshweft simulate: b: no such option\nmeshweft help says what it takes.\n",
        ),
        (&["--config", "/dev/null"], 1, "/dev/null: without export nothing is recorded\n"),
        (
            &["--config", upstream],
            1,
            &format!(
                "{upstream}: with the mode upstream nothing is decided, so nothing is simulated\n"
            ),
        ),
    ] {
        let output = simulate(arguments, "");
        assert_eq!(String::from_utf8_lossy(&output.stderr), err);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0));
    }
    let output = simulate(&["--config", CONFIG, "/nonexistent/a.log"], "");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(err.starts_with("/nonexistent/a.log: cannot be read: "), "{err}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}
