//! Figures of a run: a table to read, and JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::mode::names;
use super::{Measured, PACE, Plan, stats};

/// Where and of what the figures are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct About {
    /// The day.
    pub date: String,
    /// The machine.
    pub machine: String,
    /// Envoy's version.
    pub envoy: String,
    /// Bytes of the module.
    pub module: u64,
}

/// A figure with its quartiles and the bounds of its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The median of the rounds.
    pub median: f64,
    /// The quartiles of the rounds.
    pub quartiles: (f64, f64),
    /// In which the median lies, with 95 %.
    pub interval: (f64, f64),
}

/// What one mode costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The mode.
    pub name: String,
    /// Microseconds of processor time per request above the plain Envoy.
    pub added: Figure,
    /// Microseconds of processor time per request in all.
    pub total: f64,
    /// Requests per second at saturation.
    pub throughput: f64,
    /// Bytes of export per span; `None` without spans.
    pub bytes_per_span: Option<f64>,
    /// Requests of export per thousand spans.
    pub exports: Option<f64>,
    /// MiB of memory above the plain Envoy.
    pub resident: f64,
    /// Milliseconds at 50, 99 and 99.9 %, at a fixed rate; empty where it was not measured.
    pub latency: Vec<f64>,
    /// Milliseconds until Envoy was ready.
    pub start: f64,
}

/// How two modes compare, and the project's goal for it, if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// What is compared.
    pub what: String,
    /// The ratio.
    pub ratio: f64,
    /// In which it lies, with 95 %.
    pub interval: (f64, f64),
    /// What it should be at most.
    pub at_most: Option<f64>,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where and of what.
    pub about: About,
    /// How much was measured.
    pub plan: Plan,
    /// A row for each mode.
    pub rows: Vec<Row>,
    /// Those ratios of which the run has both sides.
    pub ratios: Vec<Ratio>,
}

/// The native tracer as it comes, and with batches as large as ours.
const OPEN_TELEMETRY: &[&str] = &[names::OPEN_TELEMETRY, names::OPEN_TELEMETRY_LARGE];
const ZIPKIN: &[&str] = &[names::ZIPKIN, names::ZIPKIN_LARGE];

/// What, the mode, the modes of which the cheapest is the measure, the goal. Those without a goal
/// say how much of it is spent before a filter has done anything.
const RATIOS: [(&str, &str, &[&str], Option<f64>); 9] = [
    ("every request sampled / native OpenTelemetry", names::ALL, OPEN_TELEMETRY, Some(0.75)),
    ("every request sampled / native Zipkin", names::ALL, ZIPKIN, Some(0.4)),
    ("not sampled / empty wasm filter", names::OFF, &[names::EMPTY], Some(1.5)),
    ("parent not sampled / empty wasm filter", names::PARENT_OFF, &[names::EMPTY], Some(1.5)),
    ("1,000 rules / 1 rule", names::RULES, &[names::ONE_RULE], Some(1.2)),
    ("crossings, sampled / native OpenTelemetry", names::CROSSINGS_ALL, OPEN_TELEMETRY, None),
    ("crossings, not sampled / empty wasm filter", names::CROSSINGS_OFF, &[names::EMPTY], None),
    ("every request sampled / its crossings", names::ALL, &[names::CROSSINGS_ALL], None),
    ("not sampled / its crossings", names::OFF, &[names::CROSSINGS_OFF], None),
];

impl Report {
    /// The figures of a run whose first mode is the plain Envoy.
    ///
    /// # Panics
    /// If nothing was measured.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes and counts to be read by people")]
    pub fn of(about: About, plan: Plan, all: &[Measured]) -> Self {
        let plain = all.first().expect("the plain Envoy");
        let row = |measured: &Measured| {
            let spans = measured.received.spans as f64;
            let per_span = |count: u64| (spans > 0.0).then(|| count as f64 / spans);
            let quantiles = if measured.latency.is_empty() { &[][..] } else { &[0.5, 0.99, 0.999] };
            Row {
                name: measured.mode.name.clone(),
                added: figure(&added(measured, plain)),
                total: stats::median(&measured.cpu),
                throughput: stats::median(&measured.throughput),
                bytes_per_span: per_span(measured.received.bytes),
                exports: per_span(measured.received.requests).map(|share| share * 1e3),
                resident: (measured.resident as f64 - plain.resident as f64) / f64::from(1 << 20),
                latency: quantiles
                    .iter()
                    .map(|part| stats::quantile(&measured.latency, *part))
                    .collect(),
                start: measured.start,
            }
        };
        let find = |name: &str| all.iter().find(|measured| measured.mode.name == name);
        let ratios = RATIOS.iter().filter_map(|(what, ours, theirs, at_most)| {
            let ours = added(find(ours)?, plain);
            let theirs: Vec<_> =
                theirs.iter().filter_map(|name| Some(added(find(name)?, plain))).collect();
            let cheapest =
                theirs.into_iter().min_by(|a, b| stats::median(a).total_cmp(&stats::median(b)))?;
            let of = |values: &[f64], rounds: &[usize]| {
                stats::median(&rounds.iter().map(|round| values[*round]).collect::<Vec<_>>())
            };
            let ratio = |rounds: &[usize]| of(&ours, rounds) / of(&cheapest, rounds);
            let rounds = ours.len().min(cheapest.len());
            Some(Ratio {
                what: (*what).to_owned(),
                ratio: ratio(&(0..rounds).collect::<Vec<_>>()),
                interval: stats::interval(rounds, ratio),
                at_most: *at_most,
            })
        });
        Self { about, plan, rows: all.iter().map(row).collect(), ratios: ratios.collect() }
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let About { date, machine, envoy, module } = &self.about;
        let Plan { rounds, requests, connections, .. } = self.plan;
        let _ = writeln!(
            out,
            "{date}, {machine}, Envoy {envoy} with one worker, module of {module} bytes\n\
            {rounds} rounds of {requests} requests over {connections} connections for each mode\n\n\
            CPU added per request, microseconds (plain Envoy: {:.1} in all)\n\
            {:<32} {:>7} {:>15} {:>15} {:>8} {:>7} {:>9} {:>8}",
            self.rows.first().map_or(0.0, |row| row.total),
            "mode",
            "median",
            "quartiles",
            "95 %",
            "req/s",
            "B/span",
            "exp/1000",
            "RSS MiB",
        );
        for row in self.rows.iter().skip(1) {
            let Figure { median, quartiles, interval } = row.added;
            let pair = |(low, high): (f64, f64)| format!("{low:.2} .. {high:.2}");
            let optional = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.0}"));
            let _ = writeln!(
                out,
                "{:<32} {median:>7.2} {:>15} {:>15} {:>8.0} {:>7} {:>9} {:>+8.1}",
                row.name,
                pair(quartiles),
                pair(interval),
                row.throughput,
                optional(row.bytes_per_span),
                optional(row.exports),
                row.resident,
            );
        }
        if let Some(plain) = self.rows.first().filter(|row| !row.latency.is_empty()) {
            let _ = writeln!(
                out,
                "\nLatency at {PACE} requests/s, milliseconds at 50, 99, 99.9 % (not gated), and \
                milliseconds until Envoy was ready"
            );
            for row in &self.rows {
                let latency: Vec<_> = row
                    .latency
                    .iter()
                    .zip(&plain.latency)
                    .map(|(ms, plain)| format!("{ms:>7.3} ({:>+7.3})", ms - plain))
                    .collect();
                let _ = writeln!(out, "{:<32} {} {:>7.0}", row.name, latency.join(" "), row.start);
            }
        }
        let _ = writeln!(out, "\nRatios of CPU added, and the goals among them");
        for Ratio { what, ratio, interval: (low, high), at_most } in &self.ratios {
            let goal = at_most.map_or_else(String::new, |most| {
                let verdict = if *ratio <= most { "met" } else { "not met" };
                format!(", at most {most}: {verdict}")
            });
            let _ = writeln!(out, "{what:<46} {ratio:>5.2} (95 %: {low:.2} .. {high:.2}){goal}");
        }
        out
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let Figure { median, quartiles, interval } = row.added;
            json!({
                "mode": row.name,
                "added_us": {"median": median, "quartiles": quartiles, "interval": interval},
                "total_us": row.total,
                "requests_per_second": row.throughput,
                "bytes_per_span": row.bytes_per_span,
                "exports_per_1000_spans": row.exports,
                "resident_added_mib": row.resident,
                "latency_ms": row.latency,
                "start_ms": row.start,
            })
        });
        let ratios = self.ratios.iter().map(|ratio| {
            json!({
                "what": ratio.what,
                "ratio": ratio.ratio,
                "interval": ratio.interval,
                "at_most": ratio.at_most,
            })
        });
        json!({
            "date": self.about.date,
            "machine": self.about.machine,
            "envoy": self.about.envoy,
            "module_bytes": self.about.module,
            "rounds": self.plan.rounds,
            "requests": self.plan.requests,
            "connections": self.plan.connections,
            "modes": rows.collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        })
    }
}

/// What each round of a mode cost above the same round of the plain Envoy.
fn added(measured: &Measured, plain: &Measured) -> Vec<f64> {
    measured.cpu.iter().zip(&plain.cpu).map(|(with, without)| with - without).collect()
}

fn figure(values: &[f64]) -> Figure {
    let of = |rounds: &[usize]| {
        stats::median(&rounds.iter().map(|round| values[*round]).collect::<Vec<_>>())
    };
    Figure {
        median: stats::median(values),
        quartiles: (stats::quantile(values, 0.25), stats::quantile(values, 0.75)),
        interval: stats::interval(values.len(), of),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mode::{Modules, modes};
    use crate::bench::serve::Received;

    /// A run in which each mode adds as much as its place in the list, and every round has a
    /// disturbance of its own.
    fn run() -> Vec<Measured> {
        let measured = |(place, mode): (usize, crate::bench::mode::Mode)| {
            let cost = |round: u32| 30.0 + place as f64 + f64::from(round * round);
            Measured {
                mode,
                cpu: (0..9).map(cost).collect(),
                throughput: vec![100.0],
                latency: vec![],
                received: Received { requests: 2, bytes: 1_000, spans: place as u64 * 10 },
                sent: 10,
                resident: (place as u64) << 20,
                start: 1.0,
            }
        };
        modes(true).into_iter().enumerate().map(measured).collect()
    }

    #[test]
    fn differences_are_taken_round_by_round() {
        let plan = Plan {
            warm_up: 0,
            rounds: 9,
            requests: 10,
            connections: 1,
            paced_rounds: 0,
            modules: Modules { empty: "empty.wasm".into(), crossings: "crossings.wasm".into() },
        };
        let report = Report::of(About::default(), plan, &run());
        let added: Vec<_> = report.rows.iter().map(|row| row.added).collect();
        let exact =
            |value| Figure { median: value, quartiles: (value, value), interval: (value, value) };
        assert_eq!(added, (0..10_u8).map(|n| exact(f64::from(n))).collect::<Vec<_>>());
        // The ratios are those of places: sampled is at 6, the cheaper native tracer at 7, and of
        // its crossings, at 3, there is no goal.
        let found = |what: &str| report.ratios.iter().find(|ratio| ratio.what == what);
        let ratio = found("every request sampled / native OpenTelemetry").expect("a ratio");
        assert_eq!((ratio.ratio, ratio.interval), (6.0 / 7.0, (6.0 / 7.0, 6.0 / 7.0)));
        assert_eq!(found("1,000 rules / 1 rule"), None, "neither side was measured");
        assert_eq!(report.rows[6].bytes_per_span, Some(1_000.0 / 60.0));
        let text = report.text();
        let sampled = "native OpenTelemetry    0.86 (95 %: 0.86 .. 0.86), at most 0.75: not met\n";
        assert!(text.contains(sampled), "{text}");
        assert!(text.contains("its crossings           2.00 (95 %: 2.00 .. 2.00)\n"), "{text}");
    }
}
