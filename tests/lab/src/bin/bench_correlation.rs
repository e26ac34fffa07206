//! `make bench-correlation`: how many calls of applications that forward nothing are joined, and
//! how many rightly, by load.
#![allow(
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a program for the terminal"
)]

use meshweft_lab::inference::{Behaviour, Bench, Score};
use serde_json::{Value, json};

/// Requests one at a time, before the load.
const QUIET: usize = 200;
/// The seed of all delays, on which nothing is tuned: that was done with 7, and with 20,261, of
/// which the recordings are that the core's tests join.
const SEED: u64 = 20_264;

#[tokio::main]
async fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let chosen = |name: &str, value: &str| {
        std::env::var(name).map_or(true, |chosen| chosen.split(',').any(|one| one == value))
    };
    let requests = number("REQUESTS", 1000);
    let most = number("MAX_LOAD", 64);
    let modes: [(&str, Value); 4] = [
        ("off", json!({"headers": []})),
        ("header", json!({})),
        ("single", json!({"headers": [], "infer": "single"})),
        ("best", json!({"headers": [], "infer": "best"})),
    ];
    println!(
        "{:11} {:7} {:>4} {:>8} {:>10} {:>6} {:>6} {:>7} {:>7} {:>7}",
        "behaviour",
        "mode",
        "load",
        "joined %",
        "rightly %",
        "links",
        "late",
        "latest",
        "oldest",
        "cpu µs"
    );
    for behaviour in Behaviour::ALL {
        for (mode, correlation) in &modes {
            if !chosen("BEHAVIOURS", behaviour.name()) || !chosen("MODES", mode) {
                continue;
            }
            let mut bench = Bench::start(behaviour, correlation, SEED).await;
            let record = std::env::var("RECORD").ok();
            if record.is_some() {
                bench.record();
            }
            bench.quiet(if *mode == "best" { QUIET } else { 10 }).await;
            for load in [1_u32, 2, 4, 8, 16, 32, 64] {
                if usize::try_from(load).is_ok_and(|load| load > most) {
                    continue;
                }
                row(behaviour, mode, load, &bench.load(f64::from(load), requests).await);
            }
            if let Some(folder) = record {
                let file = format!("{folder}/{}-{mode}.txt", behaviour.name().replace(' ', "-"));
                std::fs::write(&file, bench.recorded())
                    .unwrap_or_else(|error| panic!("{file}: {error}"));
            }
        }
    }
}

fn row(behaviour: Behaviour, mode: &str, load: u32, score: &Score) {
    let percent = |part: f64, of: f64| {
        if of > 0.0 { format!("{:.1}", 100.0 * part / of) } else { "-".to_owned() }
    };
    println!(
        "{:11} {mode:7} {load:4} {:>8} {:>10} {:>6} {:>6} {:>7} {:>7} {:>7.0}",
        behaviour.name(),
        percent(score.joined, score.calls),
        percent(score.right, score.joined),
        percent(score.links_right, score.linked),
        percent(score.late_right, score.late),
        percent(score.latest, score.calls),
        percent(score.oldest, score.calls),
        score.cpu,
    );
}
