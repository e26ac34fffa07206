//! Zipkin's second format, in JSON, as OpenTelemetry's specification maps spans to it.
//! Every span is an element with a comma behind it, so that a batch can be appended to.

use core::net::IpAddr;

use super::json::{hex, inner, number, raw, scalar_as_text, string};
use super::otlp::SCOPE;
use crate::config::Scalar;
use crate::span::{KeyValue, Link, Resource, Span, SpanKind, Status, Value};

/// Tags that tell what Zipkin has no words for; links are numbered.
const TAKEN_TAGS: [&str; 3] = ["error", "otel.status_code", "w3c.tracestate"];
const LINK_TAG: &str = "otlp.link.";

/// What all spans have in common, encoded once.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The member `localEndpoint`.
    local_endpoint: Vec<u8>,
    /// Tags of the resource and of the scope: the name, and the whole with its comma.
    tags: Vec<(String, Vec<u8>)>,
}

impl Common {
    pub(super) fn new(resource: &Resource) -> Self {
        let mut local_endpoint = Vec::new();
        raw(&mut local_endpoint, r#","localEndpoint":{"serviceName":"#);
        string(&mut local_endpoint, resource.service_name());
        raw(&mut local_endpoint, "}");
        let own = [("otel.scope.name", SCOPE), ("otel.scope.version", env!("CARGO_PKG_VERSION"))];
        let own = own.map(|(key, value)| (key.to_owned(), Scalar::String(value.to_owned())));
        let attributes = resource.attributes.iter().filter(|(key, _)| key != "service.name");
        let tags = attributes.chain(&own).map(|(key, value)| {
            let mut encoded = Vec::new();
            tag(&mut encoded, key, |out| scalar_as_text(out, value));
            (key.clone(), encoded)
        });
        Self { local_endpoint, tags: tags.collect() }
    }

    /// The list of `spans`, a run of [`encode_span`](Self::encode_span)'s elements.
    pub(super) fn wrap(spans: &[u8]) -> Vec<u8> {
        [b"[", spans.strip_suffix(b",").unwrap_or(spans), b"]"].concat()
    }

    /// Appends `span` as one element, and a comma.
    pub(super) fn encode_span(&self, out: &mut Vec<u8>, span: &Span) {
        raw(out, r#"{"traceId":""#);
        hex(out, &span.trace_id.to_bytes());
        raw(out, r#"","id":""#);
        hex(out, &span.span_id.to_bytes());
        if let Some(parent_id) = span.parent_id {
            raw(out, r#"","parentId":""#);
            hex(out, &parent_id.to_bytes());
        }
        raw(out, r#"","kind":""#);
        raw(
            out,
            match span.kind {
                SpanKind::Server => "SERVER",
                SpanKind::Client => "CLIENT",
            },
        );
        raw(out, r#"","name":"#);
        string(out, &span.name);
        // Zero means unknown: a time that is none is left out, and what is shorter than a
        // microsecond takes one.
        let timestamp = span.start.0 / 1000;
        if timestamp > 0 {
            raw(out, r#","timestamp":"#);
            number(out, timestamp);
        }
        raw(out, r#","duration":"#);
        number(out, (span.end.0.saturating_sub(span.start.0) / 1000).max(1));
        out.extend_from_slice(&self.local_endpoint);
        remote_endpoint(out, span);
        raw(out, r#","tags":{"#);
        let empty = out.len();
        self.tags(out, span);
        // The comma behind the last one.
        if out.len() > empty {
            out.pop();
        }
        raw(out, "}},");
    }

    fn tags(&self, out: &mut Vec<u8>, span: &Span) {
        // The names under which this encoding says more than Zipkin has words for stand for that
        // alone. That there is an `error` is what marks a failure, whatever its value.
        let is_taken = |key: &str| TAKEN_TAGS.contains(&key) || key.starts_with(LINK_TAG);
        for KeyValue { key, value } in span.attributes.iter().filter(|own| !is_taken(&own.key)) {
            tag(out, key, |out| match value {
                Value::Scalar(value) => scalar_as_text(out, value),
                Value::Strings(values) => inner(out, &list(values)),
            });
        }
        for (key, encoded) in &self.tags {
            // What the span says itself stands alone: no name twice.
            if span.attributes.iter().all(|own| own.key != key.as_str()) {
                out.extend_from_slice(encoded);
            }
        }
        if !span.trace_state.is_empty() {
            tag(out, "w3c.tracestate", |out| inner(out, &span.trace_state));
        }
        for (index, link) in span.links.iter().enumerate() {
            tag(out, &format!("{LINK_TAG}{index}"), |out| encode_link(out, link));
        }
        if let Status::Error(text) = &span.status {
            tag(out, "otel.status_code", |out| raw(out, "ERROR"));
            tag(out, "error", |out| inner(out, text));
        }
    }
}

/// The other side: a server by its name, where the span says one, and either by its address.
fn remote_endpoint(out: &mut Vec<u8>, span: &Span) {
    let text = |name: &str| match span.attributes.iter().find(|own| own.key == name)?.value {
        Value::Scalar(Scalar::String(ref text)) if !text.is_empty() => Some(text.as_str()),
        _ => None,
    };
    let is_name = |text: &&str| text.parse::<IpAddr>().is_err();
    let (name, host, port) = match span.kind {
        SpanKind::Client => {
            let name = text("peer.service").or_else(|| text("server.address").filter(is_name));
            (name, "network.peer.address", "network.peer.port")
        }
        SpanKind::Server => (None, "client.address", "client.port"),
    };
    let address = text(host).and_then(|text| text.parse::<IpAddr>().ok());
    if name.is_none() && address.is_none() {
        return;
    }
    raw(out, r#","remoteEndpoint":{"#);
    if let Some(name) = name {
        raw(out, r#""serviceName":"#);
        string(out, name);
    }
    if let Some(address) = address {
        raw(out, if name.is_some() { "," } else { "" });
        raw(out, if address.is_ipv4() { r#""ipv4":"# } else { r#""ipv6":"# });
        string(out, &address.to_string());
        let port = span.attributes.iter().find(|own| own.key == port);
        if let Some(KeyValue { value: Value::Scalar(Scalar::Int(port @ 1..=65_535)), .. }) = port {
            raw(out, r#","port":"#);
            number(out, port.unsigned_abs());
        }
    }
    raw(out, "}");
}

/// One tag and a comma; `value` writes between the quotes.
fn tag(out: &mut Vec<u8>, key: &str, value: impl FnOnce(&mut Vec<u8>)) {
    string(out, key);
    raw(out, ":\"");
    value(out);
    raw(out, "\",");
}

/// Strings as a list in JSON.
fn list(values: &[String]) -> String {
    let mut out = b"[".to_vec();
    for (index, value) in values.iter().enumerate() {
        raw(&mut out, if index > 0 { "," } else { "" });
        string(&mut out, value);
    }
    out.push(b']');
    String::from_utf8(out).unwrap_or_default()
}

/// Zipkin has no links: this is how the OpenTelemetry Collector writes them, and reads them back.
fn encode_link(out: &mut Vec<u8>, link: &Link) {
    hex(out, &link.trace_id.to_bytes());
    raw(out, "|");
    hex(out, &link.span_id.to_bytes());
    raw(out, "|");
    inner(out, &link.trace_state);
    raw(out, "|{}|0");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::samples;
    use super::*;
    use crate::model::UnixNanos;

    fn read_back(spans: &[Span]) -> Vec<Json> {
        let common = Common::new(&samples::resource());
        let mut elements = Vec::new();
        for span in spans {
            common.encode_span(&mut elements, span);
        }
        serde_json::from_slice(&Common::wrap(&elements)).unwrap()
    }

    fn one(change: impl FnOnce(&mut Span)) -> Json {
        let mut span = samples::small();
        change(&mut span);
        read_back(&[span]).remove(0)
    }

    fn text(key: &'static str, value: &str) -> KeyValue {
        KeyValue { key: key.into(), value: Value::Scalar(Scalar::String(value.into())) }
    }

    #[test]
    fn golden() {
        let mut out = b"x".to_vec();
        Common::new(&samples::resource()).encode_span(&mut out, &samples::small());
        let expected = concat!(
            r#"x{"traceId":"0af7651916cd43dd8448eb211c80319c","id":"00f067aa0ba902b7","#,
            r#""kind":"CLIENT","name":"GET","duration":72623859790382,"#,
            r#""localEndpoint":{"serviceName":"checkout"},"tags":{"k":"-1","replicas":"3","#,
            r#""otel.scope.name":"meshweft","otel.scope.version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""}},"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn all_that_a_span_can_have() {
        let mut long = "ä".repeat(20_000);
        long.push('"');
        let mut span = samples::full();
        span.start = UnixNanos(1_544_712_660_300_000_900);
        span.end = UnixNanos(1_544_712_660_300_500_800);
        span.attributes.push(text("quoted \"key\"", "a\\b\n"));
        for taken in ["error", "otel.status_code", "w3c.tracestate", "otlp.link.0"] {
            span.attributes.push(text(taken, "a stranger's"));
        }
        let expected = json!({
            "traceId": "0af7651916cd43dd8448eb211c80319c",
            "id": "00f067aa0ba902b7",
            "parentId": "0707070707070707",
            "kind": "SERVER",
            "name": "GET /orders/{id}",
            "timestamp": 1_544_712_660_300_000_u64,
            "duration": 499,
            "localEndpoint": {"serviceName": "checkout"},
            "tags": {
                "bool.false": "false",
                "bool.true": "true",
                "double": "-0.5",
                "int.max": "9223372036854775807",
                "int.zero": "0",
                "string.empty": "",
                "string.long": "ä".repeat(20_000),
                "strings": "[\"a\",\"\"]",
                "strings.none": "[]",
                "quoted \"key\"": "a\\b\n",
                "replicas": "3",
                "otel.scope.name": "meshweft",
                "otel.scope.version": env!("CARGO_PKG_VERSION"),
                "w3c.tracestate": "ot=th:8,vendor=x",
                "otlp.link.0": "08080808080808080808080808080808|0808080808080808|vendor=y|{}|0",
                "otlp.link.1": "09090909090909090909090909090909|0909090909090909||{}|0",
                "otel.status_code": "ERROR",
                "error": "timeout",
            },
        });
        assert_eq!(read_back(&[samples::small(), span.clone()]).get(1), Some(&expected));
        // An object of serde has the last of two members of one name.
        let mut element = Vec::new();
        Common::new(&samples::resource()).encode_span(&mut element, &span);
        let element = String::from_utf8(element).unwrap();
        assert!(!element.contains("a stranger's"), "{element}");
        assert_eq!(read_back(&[]), [] as [Json; 0]);
    }

    #[test]
    fn the_other_side() {
        let port = |key: &'static str| KeyValue {
            key: key.into(),
            value: Value::Scalar(Scalar::Int(8080)),
        };
        let peer = |address| vec![text("network.peer.address", address), port("network.peer.port")];
        let client = |address| vec![text("client.address", address), port("client.port")];
        let named = |name| {
            let mut attributes = peer("10.0.0.7");
            attributes.extend(client("10.0.0.8"));
            attributes.push(text("server.address", name));
            attributes
        };
        for (kind, attributes, expected) in [
            (SpanKind::Client, vec![], Json::Null),
            (SpanKind::Client, peer("10.0.0.7"), json!({"ipv4": "10.0.0.7", "port": 8080})),
            (SpanKind::Server, client("fd00::7"), json!({"ipv6": "fd00::7", "port": 8080})),
            (
                SpanKind::Server,
                vec![text("client.address", "10.0.0.7")],
                json!({"ipv4": "10.0.0.7"}),
            ),
            (SpanKind::Client, peer("/a/socket"), Json::Null),
            (
                SpanKind::Client,
                named("shop"),
                json!({"serviceName": "shop", "ipv4": "10.0.0.7", "port": 8080}),
            ),
            // The own name of a server is not the caller's.
            (SpanKind::Server, named("shop"), json!({"ipv4": "10.0.0.8", "port": 8080})),
            (SpanKind::Client, named("10.0.0.9"), json!({"ipv4": "10.0.0.7", "port": 8080})),
            (
                SpanKind::Client,
                vec![text("peer.service", "a"), text("server.address", "b")],
                json!({"serviceName": "a"}),
            ),
        ] {
            let span = one(|span| {
                span.kind = kind;
                span.attributes = attributes;
            });
            assert_eq!(span["remoteEndpoint"], expected);
        }
    }

    #[test]
    fn a_name_of_the_resource_stands_once() {
        let mut out = Vec::new();
        let span = Span { attributes: vec![text("replicas", "mine")], ..samples::small() };
        Common::new(&samples::resource()).encode_span(&mut out, &span);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.matches("replicas").count(), 1, "{out}");
        assert!(out.contains(r#""replicas":"mine""#), "{out}");
    }

    #[test]
    fn times() {
        let span = one(|span| (span.start, span.end) = (UnixNanos(5_000), UnixNanos(5_999)));
        assert_eq!((&span["timestamp"], &span["duration"]), (&json!(5), &json!(1)));
        let span = one(|span| (span.start, span.end) = (UnixNanos(0), UnixNanos(0)));
        assert_eq!((&span["timestamp"], &span["duration"]), (&Json::Null, &json!(1)));
    }
}
