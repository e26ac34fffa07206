//! How often inference is right: simulated applications, whose truth is known, before the engine
//! that runs in the filter.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test, and a table"
)]

mod recorded;
mod workload;

use std::collections::HashMap;

use meshweft_core::correlation::infer::{Call, Callee, Guess, Inference, Method, Request, Route};
use meshweft_core::model::{Local, MonoNanos};
use workload::{Run, Seen, workload};

/// The seeds of simulated applications: one for tuning, and one held back until it was over.
const TUNED: u64 = 1;
const HELD_BACK: u64 = 20_262;

#[derive(Clone, Copy, Debug, Default)]
struct Score {
    calls: f64,
    attached: f64,
    right: f64,
    ambiguous: f64,
    linked: f64,
    late: f64,
    late_right: f64,
}

impl std::ops::Add for Score {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            attached: self.attached + other.attached,
            right: self.right + other.right,
            ambiguous: self.ambiguous + other.ambiguous,
            linked: self.linked + other.linked,
            late: self.late + other.late,
            late_right: self.late_right + other.late_right,
        }
    }
}

fn percent(part: f64, of: f64) -> f64 {
    if of > 0.0 { 100.0 * part / of } else { f64::NAN }
}

/// A proxy that sees what an application does and is told afterwards what was true.
struct Proxy {
    shared: Local,
    inbound: Inference,
    outbound: Inference,
    requests: HashMap<usize, Request>,
    calls: HashMap<usize, Option<Call>>,
    tick: u64,
    score: Score,
}

impl Proxy {
    fn new() -> Self {
        Self {
            shared: Local::default(),
            inbound: Inference::new(Method::Best, 0.99),
            outbound: Inference::new(Method::Best, 0.99),
            requests: HashMap::new(),
            calls: HashMap::new(),
            tick: 0,
            score: Score::default(),
        }
    }

    /// Something happens, at `now` in microseconds.
    fn see(&mut self, now: u64, seen: Seen, counts: bool) {
        let Self { shared, inbound, outbound, score, .. } = self;
        shared.clock.set(MonoNanos(now * 1000));
        if now > self.tick {
            inbound.on_tick(shared);
            outbound.on_tick(shared);
            self.tick = now + 1_000_000;
        }
        match seen {
            Seen::Begins { request, route } => {
                let about = request.to_le_bytes();
                let begun = inbound.begin(Route(route), 0, &about, shared).unwrap();
                self.requests.insert(request, begun);
            }
            Seen::Calls { call, callee, request: Some(request), known: true } => {
                let is = |about: &[u8]| about == request.to_le_bytes();
                self.calls.insert(call, outbound.call_of(Callee(callee), is, shared));
            }
            Seen::Calls { call, callee, request, .. } => {
                // What late links are told: the truth, and whether it is counted.
                let truth = request.unwrap_or(usize::MAX);
                let about = [truth.to_le_bytes(), usize::from(counts).to_le_bytes()].concat();
                let answer = outbound.call(Callee(callee), 0, &about, shared);
                self.calls.insert(call, answer.call);
                let right = |guess: &Guess| request.is_some_and(|r| guess.about == r.to_le_bytes());
                if !counts {
                    return;
                }
                score.calls += 1.0;
                let best = answer.attached.as_ref().or_else(|| answer.candidates.first());
                let best = best.is_some_and(&right);
                if answer.attached.is_some() {
                    score.attached += 1.0;
                    score.right += f64::from(best);
                } else if request.is_some() {
                    score.ambiguous += 1.0;
                    score.linked += f64::from(answer.candidates.iter().any(right));
                }
            }
            Seen::Answered { call } => {
                if let Some(call) = self.calls.remove(&call).flatten() {
                    outbound.answer(call, shared);
                }
            }
            Seen::Ends { request } => {
                for late in inbound.end(self.requests.remove(&request).unwrap(), shared) {
                    if late.about[8] == 1 {
                        score.late += 1.0;
                        score.late_right += f64::from(late.about[..8] == request.to_le_bytes());
                    }
                }
            }
        }
    }
}

fn cell(name: &str, load: f64, seed: u64, quiet: usize, burn: usize, n: usize) -> Score {
    let mut proxy = Proxy::new();
    let mut begun = 0;
    Run::new(&workload(name), seed, quiet, burn + n, load).run(|now, seen| {
        proxy.see(now, seen, begun > quiet + burn);
        begun += usize::from(matches!(seen, Seen::Begins { .. }));
    });
    proxy.score
}

/// `MESHWEFT_SIMULATION`: the names of workloads, for a table by load; `make simulate-correlation`.
#[test]
fn by_load() {
    let Ok(names) = std::env::var("MESHWEFT_SIMULATION") else { return };
    for name in names.split(' ') {
        for load in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
            row(name, load, cell(name, load, HELD_BACK, 400, 2000, 5000));
        }
    }
}

fn row(name: &str, load: f64, score: Score) {
    println!(
        "{name:3} {load:3} joined {:5.1} rightly {:6.2} linked {:5.1} late {:5.1}",
        percent(score.attached, score.calls),
        percent(score.right, score.attached),
        percent(score.linked, score.ambiguous),
        percent(score.late_right, score.late),
    );
}

/// A small size of what the table shows: name, load, requests, and of the calls that count, in
/// percent, those that are joined at least, and of the links from ends those that are right.
#[test]
fn calls_are_joined_rightly_or_not_at_all() {
    for (name, load, requests, joined, late) in [
        ("a", 4.0, 500, 60.0, 85.0),
        ("a1", 8.0, 500, 80.0, 85.0),
        ("c", 4.0, 500, 65.0, 80.0),
        ("p", 8.0, 1000, 50.0, 85.0),
        ("a/k", 16.0, 500, 40.0, 85.0),
        ("h", 12.0, 150, 0.0, 0.0),
    ] {
        let score = cell(name, load, TUNED, 300, 200, requests);
        let seen = format!("{name} {load}: {score:?}");
        assert!(percent(score.attached, score.calls) >= joined, "{seen}");
        // One in a hundred, and three standard deviations of chance.
        let wrong = score.attached - score.right;
        assert!(wrong <= 0.01f64.mul_add(score.attached, 0.3 * score.attached.sqrt()), "{seen}");
        assert!(joined > 0.0 || score.attached == 0.0, "{seen}");
        assert!(late <= 0.0 || percent(score.late_right, score.late) >= late, "{seen}");
    }
}

/// What a real Envoy saw of real applications: of the calls under load, those that are joined at
/// least, and of the links from ends those that are right, in percent.
#[test]
fn what_a_real_envoy_has_seen_is_joined_rightly_or_not_at_all() {
    for (name, text, joined, late) in [
        ("parallel", include_str!("recorded/parallel.txt"), 60.0, 85.0),
        ("sequence", include_str!("recorded/sequence.txt"), 60.0, 85.0),
    ] {
        let score = replay(text).into_iter().fold(Score::default(), |all, (_, score)| all + score);
        let seen = format!("{name}: {score:?}");
        assert!(percent(score.attached, score.calls) >= joined, "{seen}");
        assert!(score.attached - score.right <= 0.01 * score.attached, "{seen}");
        assert!(percent(score.late_right, score.late) >= late, "{seen}");
    }
}

/// `MESHWEFT_RECORDED`: files that `make bench-correlation` has written, for a table by load.
#[test]
fn recorded_by_load() {
    let Ok(files) = std::env::var("MESHWEFT_RECORDED") else { return };
    for file in files.split(' ') {
        let text = std::fs::read_to_string(file).unwrap();
        for (load, score) in replay(&text).into_iter().skip(1) {
            row(file, f64::from(load), score);
        }
    }
}

/// The score of each load, the first of which is that of requests one at a time.
fn replay(text: &str) -> Vec<(u32, Score)> {
    let mut proxy = Proxy::new();
    let mut scores = Vec::new();
    for (load, events) in recorded::read(text) {
        for (now, seen) in events {
            proxy.see(now, seen, load > 0);
        }
        scores.push((load, std::mem::take(&mut proxy.score)));
    }
    scores
}
