//! Sampling as a server says: who asks, what is done with answers, what is said of bad ones.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::time::Duration;

use common::boot_with;
use meshweft_host_tests::{Answer, Callout, HostEmulator, LogLevel, answer, ok_answer, request};

/// The cluster of the server.
const JAEGER: &str = "jaeger";

const CONFIGURATION: &str = r#"{"service": {"name": "check out"},
    "export": {"cluster": "otel-collector"}, "sampling": {
        "rate": 0, "remote": {"cluster": "jaeger", "authority": "jaeger.test", "interval": "10s"}}}"#;

fn boot() -> (HostEmulator, u32) {
    let (mut host, root) = boot_with(CONFIGURATION);
    host.state_mut().clusters.insert(JAEGER.to_owned());
    (host, root)
}

/// A tick after so many seconds; the question that it brought, if any.
fn tick(host: &mut HostEmulator, root: u32, seconds: u64) -> Option<Callout> {
    host.advance(Duration::from_secs(seconds));
    host.tick(root).unwrap();
    let mut questions = Vec::new();
    let pending: Vec<Callout> = host.state().pending().into_iter().cloned().collect();
    for callout in pending {
        if callout.upstream == JAEGER {
            questions.push(callout);
        } else {
            host.answer(callout.token, ok_answer()).unwrap();
        }
    }
    assert!(questions.len() <= 1, "{questions:?}");
    questions.pop()
}

/// Whether a request is recorded.
fn recorded(host: &mut HostEmulator, root: u32) -> bool {
    let id = host.serve(root, request()).unwrap();
    let forwarded = host.state().exchange(id).request_header("traceparent");
    forwarded.first().unwrap().ends_with(b"-03")
}

fn share(rate: f64) -> Answer {
    let body = format!(
        r#"{{"strategyType": "PROBABILISTIC", "probabilisticSampling": {{"samplingRate": {rate}}}}}"#
    );
    answer(&[(":status", "200"), ("content-type", "application/json")], body.as_bytes())
}

#[test]
fn one_instance_asks_and_others_follow() {
    let (mut host, first) = boot();
    let second = host.create_root().unwrap();
    assert!(host.configure(second, CONFIGURATION).unwrap());
    let question = tick(&mut host, first, 1).unwrap();
    for (name, value) in [
        (":method", "GET"),
        (":path", "/sampling?service=check%20out"),
        (":authority", "jaeger.test"),
        (":scheme", "http"),
        ("accept", "application/json"),
    ] {
        assert_eq!(question.header(name), [value.as_bytes()], "{name}");
    }
    assert_eq!((question.body.len(), question.timeout), (0, 5_000));
    assert!(!recorded(&mut host, first));
    host.answer(question.token, share(1.0)).unwrap();
    assert!(recorded(&mut host, first));
    // The other one hears of it at its tick, and does not ask.
    assert!(!recorded(&mut host, second));
    assert_eq!(tick(&mut host, second, 0), None);
    assert!(recorded(&mut host, second));
    // Whoever ticks first when it is time asks the next time.
    assert_eq!(tick(&mut host, first, 9), None);
    let question = tick(&mut host, second, 1).unwrap();
    host.answer(question.token, share(0.0)).unwrap();
    assert_eq!(tick(&mut host, first, 0), None);
    assert!(!recorded(&mut host, first));
    assert_eq!(tick(&mut host, second, 1), None);
    assert_eq!(host.state().metric("meshweft_remote_requests"), 2);
    assert_eq!(host.state().metric("meshweft_remote_failures"), 0);
    assert_eq!(host.state().logged(LogLevel::Warn), [""; 0]);
}

/// Answers may take five seconds, and the interval may be one.
#[test]
fn an_answer_that_takes_longer_than_the_interval_counts() {
    let (mut host, root) = boot_with(&CONFIGURATION.replace("10s", "1s"));
    host.state_mut().clusters.insert(JAEGER.to_owned());
    for round in 0..3 {
        let question = tick(&mut host, root, 1).unwrap();
        assert_eq!(tick(&mut host, root, 1), Some(question.clone()), "no other one");
        host.advance(Duration::from_millis(200));
        host.answer(question.token, share(f64::from(round % 2))).unwrap();
        assert_eq!(recorded(&mut host, root), round == 1);
        tick(&mut host, root, 0);
        assert_eq!(host.state().metric("meshweft_remote_requests"), i64::from(round) + 1);
    }
    // And the same of a failure.
    let question = tick(&mut host, root, 1).unwrap();
    assert_eq!(tick(&mut host, root, 1), Some(question.clone()));
    host.answer(question.token, answer(&[(":status", "503")], b"")).unwrap();
    tick(&mut host, root, 0);
    assert_eq!(host.state().metric("meshweft_remote_failures"), 1);
}

#[test]
fn what_fails_is_counted_told_once_a_minute_and_changes_nothing() {
    let (mut host, root) = boot();
    let question = tick(&mut host, root, 1).unwrap();
    host.answer(question.token, share(1.0)).unwrap();
    let json: (&str, &str) = ("content-type", "application/json");
    let bad = [
        answer(&[(":status", "503")], b"no healthy upstream"),
        answer(&[(":status", "404")], b"{}"),
        Answer::default(),
        answer(&[(":status", "200"), json], b""),
        answer(&[(":status", "200"), json], b"\xff\xfe"),
        answer(&[(":status", "200"), json], br#"{"probabilisticSampling": {"samplingRate": 7}}"#),
        answer(&[(":status", "200"), json], "[".repeat(600_000).as_bytes()),
        answer(&[(":status", "two hundred")], br#"{"probabilisticSampling": {}}"#),
    ];
    for (round, bad) in bad.into_iter().enumerate() {
        let question = tick(&mut host, root, 10).unwrap();
        host.answer(question.token, bad).unwrap();
        assert!(recorded(&mut host, root), "{round}");
    }
    tick(&mut host, root, 1);
    assert_eq!(host.state().metric("meshweft_remote_requests"), 9);
    assert_eq!(host.state().metric("meshweft_remote_failures"), 8);
    let line = |what: &str| {
        format!(
            "meshweft: remote sampling: cluster \"jaeger\" {what}; its last good answer is kept \
             (further failures are counted only)"
        )
    };
    // At 11 s and at 71 s.
    let long = "gave an answer that is too long";
    assert_eq!(host.state().logged(LogLevel::Warn), [line("answered with status 503"), line(long)]);
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let (mut host, root) = boot_with(CONFIGURATION);
    for _ in 0..12 {
        assert_eq!(tick(&mut host, root, 1), None);
    }
    // Until the first answer it is asked every five seconds.
    assert_eq!(host.state().metric("meshweft_remote_failures"), 3);
    let line = "meshweft: remote sampling: cluster \"jaeger\" could not be asked: is there one of \
        this name?; sampling.rate decides until there is an answer (further failures are counted \
        only)";
    assert_eq!(host.state().logged(LogLevel::Warn), [line]);
}

#[test]
fn a_configuration_on_its_way_out_asks_no_more() {
    let (mut host, root) = boot();
    host.serve(root, request()).unwrap();
    assert!(host.done(root).unwrap() || tick(&mut host, root, 20).is_none());
    assert_eq!(host.state().metric("meshweft_remote_requests"), 0);
    // Nor does one that exports nothing.
    let silent = host.create_root().unwrap();
    let configuration = r#"{"sampling": {"remote": {"cluster": "jaeger"}}}"#;
    assert!(host.configure(silent, configuration).unwrap());
    assert_eq!(tick(&mut host, silent, 20), None);
}
