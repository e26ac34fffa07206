//! Charts as SVG, by hand: bars for a run, lines for a series.

use std::fmt::Write as _;

use super::report::{About, Report, Row};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 240.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TOP: f64 = 64.0;

/// Colours of the three kinds of bars, legible on light and dark ground.
const OURS: &str = "#0f8b6d";
const NATIVE: &str = "#c2571a";
const OTHER: &str = "#7a7f87";

/// What each mode adds, as bars with their quartiles.
#[must_use]
pub fn bars(report: &Report) -> String {
    let rows: Vec<&Row> = report.rows.iter().skip(1).collect();
    let longest = rows.iter().map(|row| row.added.quartiles.1).fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - 70.0) / longest;
    let mut body = String::new();
    for (row, at) in rows.iter().zip(steps()) {
        let (low, high) = row.added.quartiles;
        let x = |value: f64| LABELS + value.max(0.0) * scale;
        let middle = at + BAR / 2.0;
        let colour = colour(&row.name);
        let _ = writeln!(
            body,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>
<rect x="{LABELS}" y="{at:.1}" width="{:.1}" height="{BAR}" fill="{colour}"/>
<path d="M{:.1} {middle:.1}H{:.1}" stroke="currentColor" stroke-width="1.5"/>
<text x="{:.1}" y="{:.1}">{:.1}</text>"#,
            LABELS - 8.0,
            middle + 4.0,
            escape(&row.name),
            x(row.added.median) - LABELS,
            x(low),
            x(high),
            x(high) + 6.0,
            middle + 4.0,
            row.added.median,
        );
    }
    let height = TOP + STEP * f64::from(u32::try_from(rows.len()).unwrap_or_default()) + 8.0;
    let title = "CPU added to Envoy per request, microseconds (median, line: quartiles)";
    frame(height, title, &about(&report.about), &body)
}

/// One line of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Where it goes through: how many, and what it costs.
    pub points: Vec<(f64, f64)>,
}

/// How a cost grows: `x` on a logarithmic scale, `y` from zero.
#[must_use]
pub fn lines(title: &str, x_label: &str, y_label: &str, lines: &[Line]) -> String {
    const BOTTOM: f64 = 300.0;
    const LEFT: f64 = 60.0;
    let points = || lines.iter().flat_map(|line| &line.points);
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max).max(f64::MIN_POSITIVE) * 1.1;
    let low = points().map(|(x, _)| *x).fold(f64::MAX, f64::min).max(1.0).ln();
    let high = points().map(|(x, _)| *x).fold(1.0, f64::max).ln().max(low + 0.1);
    let x = |value: f64| LEFT + (value.max(1.0).ln() - low) / (high - low) * (WIDTH - LEFT - 200.0);
    let y = |value: f64| BOTTOM - value / highest * (BOTTOM - TOP);
    let mut body = String::new();
    let _ = writeln!(
        body,
        r#"<path d="M{LEFT} {TOP}V{BOTTOM}H{:.1}" fill="none" stroke="currentColor"/>
<text x="{LEFT}" y="{:.1}">{}</text>
<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
        WIDTH - 200.0,
        TOP - 8.0,
        escape(y_label),
        WIDTH - 200.0,
        BOTTOM + 34.0,
        escape(x_label),
    );
    let mut ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        let at = x(tick);
        let _ = writeln!(
            body,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{tick}</text>"#,
            BOTTOM + 16.0
        );
    }
    const COLOURS: [&str; 6] = [OURS, NATIVE, OTHER, "#3f6fb5", "#9a4fa3", "#b08a00"];
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<_> =
            line.points.iter().map(|(px, py)| format!("{:.1} {:.1}", x(*px), y(*py))).collect();
        let (last_x, last_y) = line.points.last().copied().unwrap_or_default();
        let _ = writeln!(
            body,
            r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"/>
<text x="{:.1}" y="{:.1}" fill="{colour}">{} {last_y:.1}</text>"#,
            path.join("L"),
            x(last_x) + 6.0,
            y(last_y) + 4.0,
            escape(&line.name),
        );
    }
    frame(BOTTOM + 44.0, title, "", &body)
}

fn about(about: &About) -> String {
    let About { date, machine, envoy, .. } = about;
    format!("{date}, Envoy {envoy}, one worker, {machine}; shorter is better")
}

fn colour(name: &str) -> &'static str {
    if name.starts_with("meshweft") {
        OURS
    } else if name.starts_with("Open") || name.starts_with("Zipkin") {
        NATIVE
    } else {
        OTHER
    }
}

fn steps() -> impl Iterator<Item = f64> {
    (0_u32..).map(|row| TOP + STEP * f64::from(row))
}

fn frame(height: f64, title: &str, subtitle: &str, body: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">
<style>svg{{color:#24292f;background:#fff}}text{{fill:currentColor}}@media(prefers-color-scheme:dark){{svg{{color:#d0d7de;background:#0d1117}}}}</style>
<text x="12" y="22" font-size="15">{}</text>
<text x="12" y="42">{}</text>
{body}</svg>
"#,
        escape(title),
        escape(subtitle)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_its_points() {
        let line = Line { name: "a & b".to_owned(), points: vec![(1.0, 5.0), (100.0, 10.0)] };
        let chart = lines("title", "rules", "fuel", &[line]);
        // 10 is at 1/1.1 of the height between 300 and 64, 100 at the right end.
        assert!(chart.contains(r#"<path d="M60.0 192.7L560.0 85.5""#), "{chart}");
        assert!(chart.contains(">a &amp; b 10.0</text>"));
        assert!(chart.contains(r#"text-anchor="middle">100</text>"#));
    }
}
