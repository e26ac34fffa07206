//! The lines of a log: requests as an access log or as OTLP traces tell them.

use std::time::Duration;

use meshweft_core::config::time;
use meshweft_core::model::{TraceId, UnixNanos};
use serde_json::{Map, Value};

use crate::outcome;
use crate::request::Request;

/// A request of the log.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) request: Request,
    pub(super) trace_id: Option<TraceId>,
    pub(super) time: Option<UnixNanos>,
    /// Whether it is told how the request ended.
    pub(super) ended: bool,
}

/// The requests of a line: the one of an access log, or those that begin the traces of an
/// `ExportTraceServiceRequest`.
///
/// # Errors
/// Says what the line lacks.
pub(super) fn entries(line: &[u8]) -> Result<Vec<Entry>, &'static str> {
    let Ok(Value::Object(line)) = serde_json::from_slice(line) else {
        return Err("not a JSON object");
    };
    match line.get("resourceSpans") {
        Some(resources) => Ok(spans(resources).filter_map(begun).collect()),
        None => logged(&line).map(|entry| vec![entry]),
    }
}

/// Text that is there; what is not, Envoy writes as null or a dash.
fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| !matches!(*text, "" | "-"))
}

fn logged(line: &Map<String, Value>) -> Result<Entry, &'static str> {
    let field = |name| text(line.get(name));
    let method = field("method").ok_or("no method")?;
    let path = field("path").ok_or("no path")?;
    let time = match field("time") {
        Some(text) => Some(time(text).ok_or("a time that is none of RFC 3339")?),
        None => None,
    };
    let map = |name| {
        let pairs = line.get(name).and_then(Value::as_object);
        pairs.into_iter().flatten().filter_map(|(name, value)| Some((name, text(Some(value))?)))
    };
    let number = |name| {
        let value = line.get(name);
        text(value).and_then(|text| text.parse().ok()).or_else(|| value?.as_u64())
    };
    let status = number("status").and_then(|code| u16::try_from(code).ok());
    let ending = [
        status.map(outcome::status),
        number("duration").map(|millis| outcome::took(Duration::from_millis(millis))),
        number("grpc_status")
            .and_then(|code| i64::try_from(code).ok())
            .or_else(|| outcome::grpc_code(field("grpc_status")?))
            .map(outcome::grpc_status),
        field("response_flags").and_then(outcome::flags).map(outcome::response_flags),
    ];
    let request = Request {
        expressions: Vec::new(),
        method: method.to_owned(),
        path: path.to_owned(),
        host: field("host").map(str::to_owned),
        headers: map("headers")
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        properties: map("properties")
            .map(|(name, value)| (name.clone(), value.into()))
            .chain(ending.into_iter().flatten())
            .collect(),
    };
    let trace_id = field("trace_id").and_then(|id| TraceId::from_hex(id.as_bytes()).ok());
    Ok(Entry { request, trace_id, time, ended: status.is_some() })
}

/// All spans of `resourceSpans`.
fn spans(resources: &Value) -> impl Iterator<Item = &Value> {
    let resources = items(Some(resources));
    let scopes = resources.flat_map(|resource| items(resource.get("scopeSpans")));
    scopes.flat_map(|scope| items(scope.get("spans")))
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &Value> {
    list.and_then(Value::as_array).into_iter().flatten()
}

/// The request of an HTTP span that begins a trace.
fn begun(span: &Value) -> Option<Entry> {
    if text(span.get("parentSpanId")).is_some() {
        return None;
    }
    let attributes = || {
        let pairs = items(span.get("attributes"));
        pairs.filter_map(|pair| Some((text(pair.get("key"))?, pair.get("value")?)))
    };
    let string = |name: &str| {
        let (_, value) = attributes().find(|(key, _)| *key == name)?;
        text(value.get("stringValue")).map(str::to_owned)
    };
    let headers = attributes().flat_map(|(key, value)| {
        let name = key.strip_prefix("http.request.header.");
        // Of other attributes no value counts.
        let values = items(name.and_then(|_| value.pointer("/arrayValue/values")));
        let values = values.filter_map(|value| text(value.get("stringValue")));
        values.map(move |value| (name.unwrap_or_default().to_owned(), value.to_owned()))
    });
    let request = Request {
        expressions: Vec::new(),
        method: string("http.request.method")?,
        path: string("url.path")?,
        host: string("server.address"),
        headers: headers.collect(),
        properties: Vec::new(),
    };
    let number = |value: Option<&Value>| {
        let value = value?;
        value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64())
    };
    let whole = |name: &str| {
        let (_, value) = attributes().find(|(key, _)| *key == name)?;
        number(value.get("intValue"))
    };
    let begun = number(span.get("startTimeUnixNano"));
    let took = number(span.get("endTimeUnixNano")).zip(begun);
    let status = whole("http.response.status_code").and_then(|code| u16::try_from(code).ok());
    let grpc = whole("rpc.grpc.status_code").and_then(|code| i64::try_from(code).ok());
    let ending = [
        status.map(outcome::status),
        took.map(|(end, begun)| outcome::took(Duration::from_nanos(end.saturating_sub(begun)))),
        grpc.map(outcome::grpc_status),
        string("envoy.response_flags")
            .and_then(|flags| outcome::flags(&flags))
            .map(outcome::response_flags),
    ];
    let request = Request { properties: ending.into_iter().flatten().collect(), ..request };
    let id = text(span.get("traceId")).and_then(|id| TraceId::from_hex(id.as_bytes()).ok());
    let ended = status.is_some();
    Some(Entry { request, trace_id: id, time: begun.map(UnixNanos), ended })
}

#[cfg(test)]
mod tests {
    use meshweft_core::model::ResponseFlags;

    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn lines_of_an_access_log() {
        let line = r#"{"time": "2026-07-01T18:00:00.5Z", "method": "POST", "path": "/pay?x",
            "host": "shop", "headers": {"X-Team": "a", "x-none": null, "x-dash": "-"},
            "properties": {"xds.route_name": "r"}, "status": 200, "duration": "7", "response_flags": "UF,URX", "grpc_status": "-",
            "trace_id": "0af7651916cd43dd8448eb211c80319c"}"#;
        let request = Request {
            expressions: Vec::new(),
            method: "POST".to_owned(),
            path: "/pay?x".to_owned(),
            host: Some("shop".to_owned()),
            headers: owned(&[("x-team", "a")]),
            properties: vec![
                ("xds.route_name".to_owned(), b"r".to_vec()),
                outcome::status(200),
                outcome::took(Duration::from_millis(7)),
                outcome::response_flags(ResponseFlags::from_letters(["UF", "URX"])),
            ],
        };
        let trace_id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").ok();
        let time = Some(UnixNanos(1_782_928_800_500_000_000));
        assert_eq!(
            entries(line.as_bytes()),
            Ok(vec![Entry { request, trace_id, time, ended: true }])
        );
        let bare = Request { method: "GET".to_owned(), path: "/".to_owned(), ..Request::default() };
        let line = r#"{"method": "GET", "path": "/", "host": null, "time": "-", "trace_id": "-"}"#;
        let entry = Entry { request: bare, ..Entry::default() };
        assert_eq!(entries(line.as_bytes()), Ok(vec![entry]));
    }

    #[test]
    fn spans_that_begin_a_trace() {
        let span = |more: &str| {
            format!(
                r#"{{"traceId": "0af7651916cd43dd8448eb211c80319c", "startTimeUnixNano": "7"{more}}}"#
            )
        };
        let http = r#", "attributes": [
            {"key": "http.request.method", "value": {"stringValue": "GET"}},
            {"key": "url.path", "value": {"stringValue": "/a"}},
            {"key": "server.address", "value": {"stringValue": "shop"}},
            {"key": "http.request.header.x-team",
             "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}}]"#;
        let spans =
            [span(http), span(""), span(&format!(r#"{http}, "parentSpanId": "00f067aa0ba902b7""#))];
        let line = format!(
            r#"{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{}]}}]}}]}}"#,
            spans.join(",")
        );
        let request = Request {
            expressions: Vec::new(),
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            host: Some("shop".to_owned()),
            headers: owned(&[("x-team", "a"), ("x-team", "b")]),
            properties: Vec::new(),
        };
        let trace_id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").ok();
        let entry = Entry { request, trace_id, time: Some(UnixNanos(7)), ended: false };
        assert_eq!(entries(line.as_bytes()), Ok(vec![entry]));
        assert_eq!(entries(br#"{"resourceSpans": 7}"#), Ok(vec![]));
    }

    #[test]
    fn what_is_no_line_of_a_log() {
        for (line, why) in [
            ("[]", "not a JSON object"),
            ("GET / HTTP/1.1", "not a JSON object"),
            (r#"{"path": "/"}"#, "no method"),
            (r#"{"method": "GET", "path": null}"#, "no path"),
            (
                r#"{"method": "GET", "path": "/", "time": "today"}"#,
                "a time that is none of RFC 3339",
            ),
        ] {
            assert_eq!(entries(line.as_bytes()), Err(why), "{line}");
        }
    }
}
