//! Spans as trees that a person reads.

use std::fmt::Write as _;

use crate::collector::Span;

/// The traces among `spans`, each as a tree in order of time; spans whose parent is not among
/// them stand at the root.
#[must_use]
pub fn render(spans: &[Span]) -> String {
    let mut spans: Vec<&Span> = spans.iter().collect();
    spans.sort_by_key(|span| span.start);
    let mut traces: Vec<&str> = Vec::new();
    for span in &spans {
        if !traces.contains(&&*span.trace_id) {
            traces.push(&span.trace_id);
        }
    }
    let mut out = String::new();
    for trace in traces {
        let of_trace: Vec<&Span> =
            spans.iter().copied().filter(|span| span.trace_id == trace).collect();
        let _ = writeln!(out, "trace {trace}");
        for root in of_trace.iter().filter(|span| parent(span, &of_trace).is_none()) {
            branch(&mut out, root, &of_trace, 1);
        }
        out.push('\n');
    }
    out
}

fn parent<'a>(span: &Span, all: &[&'a Span]) -> Option<&'a Span> {
    all.iter().copied().find(|other| other.span_id == span.parent_id)
}

fn branch(out: &mut String, span: &Span, all: &[&Span], depth: usize) {
    // What a span is about: the path without the query, or the URL that was called.
    let about = [span.attribute("url.path"), span.attribute("url.full")].concat();
    let about = about.strip_prefix("http://").unwrap_or(&about);
    #[expect(clippy::cast_precision_loss, reason = "durations of a demo are short")]
    let millis = span.end.saturating_sub(span.start) as f64 / 1e6;
    let status = match span.attribute("http.response.status_code") {
        "" => span.attribute("error.type"),
        code => code,
    };
    let label = format!("{:indent$}{} {}", "", span.service(), span.kind, indent = depth * 2);
    let _ = writeln!(
        out,
        "{label:<26} {:<5} {about:<40} {millis:>8.1} ms  {status:<4}{:<6} {}",
        span.name,
        if span.error { "ERROR" } else { "" },
        span.attribute("meshweft.sampling.reason"),
    );
    for child in all.iter().filter(|child| child.parent_id == span.span_id) {
        branch(out, child, all, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, start: u64) -> Span {
        let attributes = [("url.path", "/a"), ("http.response.status_code", "200")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Span {
            trace_id: "t".to_owned(),
            span_id: id.to_owned(),
            parent_id: parent.to_owned(),
            name: "GET".to_owned(),
            kind: "SERVER".to_owned(),
            start,
            end: start + 1_500_000,
            error: id == "3",
            attributes: attributes.into_iter().collect(),
            ..Span::default()
        }
    }

    #[test]
    fn children_stand_below_their_parent_in_order_of_time() {
        let text = render(&[span("3", "1", 30), span("2", "1", 20), span("1", "unknown", 10)]);
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "trace t",
                "SERVER GET /a 1.5 ms 200",
                "SERVER GET /a 1.5 ms 200",
                "SERVER GET /a 1.5 ms 200 ERROR",
                "",
            ]
        );
        assert_eq!(text.lines().nth(1).map(|line| line.find('S')), Some(Some(3)));
        assert_eq!(text.lines().nth(2).map(|line| line.find('S')), Some(Some(5)));
    }
}
