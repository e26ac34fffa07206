//! What a request costs where several workers serve: they have the memory in common in which
//! requests are remembered, and as many processors as the machine has.

use std::fmt::Write as _;

use serde_json::Value;

use super::chart::{self, Line};
use super::mode::{Mode, with_workers};
use super::report::{About, Report};
use super::{Measured, Plan};

/// How many workers an Envoy has.
pub const COUNTS: [u32; 3] = [1, 2, 4];

/// The plain Envoy and the filter for each number of workers, all in one run.
#[must_use]
pub fn modes() -> Vec<Mode> {
    COUNTS.into_iter().flat_map(with_workers).collect()
}

/// A run's figures for each number of workers, each compared with the plain Envoy of as many.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling(Vec<(u32, Report)>);

impl Scaling {
    /// The figures of a run of [`modes`].
    ///
    /// # Panics
    /// If one of them was not measured.
    #[must_use]
    pub fn of(about: &About, plan: &Plan, all: &[Measured]) -> Self {
        let report = |count: u32| {
            let with = all.iter().filter(|measured| measured.mode.workers == count);
            let with: Vec<_> = with.cloned().collect();
            (count, Report::of(about.clone(), plan.clone(), &with))
        };
        Self(COUNTS.map(report).into())
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Some((_, Report { about, plan, .. })) = self.0.first() else { return out };
        let _ = writeln!(
            out,
            "{}, {}, Envoy {}, {} rounds of {} requests over {} connections for each\n\
            Processor time of a request, microseconds, and what it is above the plain Envoy with \
            as many workers\n\n\
            {:<8} {:<14} {:>7} {:>7} {:>17} {:>17} {:>8}",
            about.date,
            about.machine,
            about.envoy,
            plan.rounds,
            plan.requests,
            plan.connections,
            "workers",
            "mode",
            "all",
            "added",
            "quartiles",
            "95 %",
            "req/s",
        );
        for (count, report) in &self.0 {
            for row in &report.rows {
                let pair = |(low, high): (f64, f64)| format!("{low:.2} .. {high:.2}");
                let _ = writeln!(
                    out,
                    "{count:<8} {:<14} {:>7.1} {:>7.2} {:>17} {:>17} {:>8.0}",
                    row.name,
                    row.total,
                    row.added.median,
                    pair(row.added.quartiles),
                    pair(row.added.interval),
                    row.throughput,
                );
            }
        }
        out
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut all = self.0.first().map(|(_, report)| report.json()).unwrap_or_default();
        let by_count = self.0.iter().map(|(count, report)| {
            (count.to_string(), report.json().get_mut("modes").map(Value::take).unwrap_or_default())
        });
        let by_count: Value = by_count.collect();
        if let Some(all) = all.as_object_mut() {
            all.remove("modes");
            all.remove("ratios");
            all.insert("workers".to_owned(), by_count);
        }
        all
    }

    /// A line for each mode, over the numbers of workers.
    #[must_use]
    pub fn chart(&self) -> String {
        let mut lines: Vec<Line> = Vec::new();
        for (count, row) in
            self.0.iter().flat_map(|(count, report)| report.rows.iter().map(|row| (*count, row)))
        {
            let point = (f64::from(count), row.total);
            match lines.iter_mut().find(|line| line.name == row.name) {
                Some(line) => line.points.push(point),
                None => lines.push(Line { name: row.name.clone(), points: vec![point] }),
            }
        }
        let title = "Processor time of a request by number of Envoy's workers, microseconds";
        let machine = self.0.first().map_or("", |(_, report)| &report.about.machine);
        chart::lines(title, &format!("workers, on {machine}"), "microseconds", &lines)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::mode::Modules;
    use crate::bench::serve::Received;

    #[test]
    fn each_is_compared_with_as_many_workers() {
        // The plain Envoy takes 30 and 1 for each worker; what traces takes ten times its place
        // more, and each worker 2 more of it.
        let measured = |(place, mode): (usize, Mode)| {
            let place = (place % 3) as f64;
            let workers = f64::from(mode.workers);
            Measured {
                mode,
                cpu: vec![30.0 + workers + place * (10.0 + 2.0 * workers); 3],
                throughput: vec![100.0],
                latency: vec![],
                received: Received::default(),
                sent: 10,
                resident: 0,
                start: 1.0,
            }
        };
        let all: Vec<_> = modes().into_iter().enumerate().map(measured).collect();
        let plan = Plan {
            warm_up: 0,
            rounds: 3,
            requests: 10,
            connections: 1,
            paced_rounds: 0,
            modules: Modules { empty: "empty.wasm".into(), crossings: "crossings.wasm".into() },
        };
        let scaling = Scaling::of(&About::default(), &plan, &all);
        let added: Vec<Vec<_>> = scaling
            .0
            .iter()
            .map(|(_, report)| report.rows.iter().map(|row| row.added.median).collect())
            .collect();
        assert_eq!(added, [[0.0, 12.0, 24.0], [0.0, 14.0, 28.0], [0.0, 18.0, 36.0]]);
        let text = scaling.text();
        assert!(text.contains("4        sampled           70.0   36.00"), "{text}");
        let json = scaling.json();
        assert_eq!(json["workers"]["2"][1]["total_us"], json!(46.0));
        assert_eq!(json["rounds"], json!(3));
        let chart = scaling.chart();
        assert!(chart.contains(">sampled 70.0</text>"), "{chart}");
    }
}
