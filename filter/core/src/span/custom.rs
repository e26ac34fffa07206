//! Attributes of the configuration: where their values come from, and what these become.

use std::borrow::Cow;

use super::Value;
use super::attributes::Attributes;
use super::authority::Authority;
use super::urls::Urls;
use crate::config::{AttributeSource, AttributeType, Scalar, SpanAttribute};
use crate::model::{Exchange, Headers};

/// Headers whose values are URLs, or parts of one from the path on.
const URL_HEADERS: [&str; 9] = [
    ":path",
    "content-location",
    "location",
    "referer",
    "x-envoy-original-path",
    "x-forwarded-uri",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// Envoy's attributes that are whole numbers, also times and durations (in nanoseconds).
const WHOLE_NUMBERS: [&str; 17] = [
    "connection.id",
    "destination.port",
    "request.duration",
    "request.size",
    "request.time",
    "request.total_size",
    "response.backend_latency",
    "response.code",
    "response.flags",
    "response.grpc_status",
    "response.size",
    "response.total_size",
    "source.port",
    "upstream.cx_pool_ready_duration",
    "upstream.port",
    "upstream.request_attempt_count",
    "xds.listener_direction",
];

/// Envoy's attributes that are true or false.
const TRUE_OR_FALSE: &str = "connection.mtls";

/// How a value is to be read before it is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Authority,
    Plain,
    Query,
    Url,
}

/// Adds the attributes that `config` asks for and that there are.
pub(super) fn add(
    out: &mut Attributes<'_>,
    config: &[SpanAttribute],
    headers: &Headers,
    exchange: &impl Exchange,
    urls: &Urls,
) {
    let told = out.len();
    out.reserve(config.len());
    for attribute in config {
        if let Some(value) = value(out, attribute, headers, exchange, urls) {
            out.own(&attribute.name, value, told);
        }
    }
}

fn value(
    out: &mut Attributes<'_>,
    attribute: &SpanAttribute,
    headers: &Headers,
    exchange: &impl Exchange,
    urls: &Urls,
) -> Option<Value> {
    let whole = attribute.pattern.is_none() && attribute.r#as.is_none();
    let read =
        |name: &str, text: &[u8]| formed(header_form(name), str::from_utf8(text).ok()?, urls);
    let found = match &attribute.source {
        AttributeSource::Metadata(steps) => {
            number_of_metadata(&property(steps, exchange)?, attribute.r#as)?
        }
        AttributeSource::Property(steps) => {
            let name = steps.join(".");
            match typed(&name, &property(steps, exchange)?, attribute.r#as)? {
                Scalar::String(text) => Scalar::String(formed(property_form(&name), &text, urls)?),
                other => other,
            }
        }
        AttributeSource::RequestHeader(name) => {
            let values: Vec<_> =
                headers.get_all(name).filter_map(|value| read(name, value)).collect();
            if values.is_empty() {
                return None;
            }
            if whole && attribute.name.starts_with("http.request.header.") {
                return Some(Value::Strings(values));
            }
            Scalar::String(values.join(","))
        }
        AttributeSource::ResponseHeader(name) => {
            let value = read(name, &exchange.response_header(name)?)?;
            if whole && attribute.name.starts_with("http.response.header.") {
                return Some(Value::Strings(vec![value]));
            }
            Scalar::String(value)
        }
        AttributeSource::Value(value) => value.clone(),
    };
    let part = match &attribute.pattern {
        Some(pattern) => Scalar::String(pattern.capture(&text(&found))?.to_owned()),
        None => found,
    };
    let part = match (part, attribute.r#as) {
        // What becomes a text is redacted as such; what does not was one until now.
        (
            Scalar::String(text),
            Some(AttributeType::Bool | AttributeType::Double | AttributeType::Int),
        ) => Scalar::String(out.redacted(&text)),
        (part, _) => part,
    };
    Some(Value::Scalar(cast(part, attribute.r#as)?))
}

fn property(steps: &[String], exchange: &impl Exchange) -> Option<Vec<u8>> {
    let steps: Vec<_> = steps.iter().map(String::as_str).collect();
    exchange.property(&steps).filter(|bytes| !bytes.is_empty())
}

/// A text as it may be recorded.
fn formed(form: Form, text: &str, urls: &Urls) -> Option<String> {
    match form {
        Form::Authority => Some(Authority::split(text).text.to_owned()),
        Form::Plain => Some(text.to_owned()),
        Form::Query => urls.query(text),
        Form::Url => Some(urls.url(text)),
    }
}

fn header_form(name: &str) -> Form {
    match name {
        ":authority" | "x-envoy-original-host" | "x-forwarded-host" => Form::Authority,
        _ if URL_HEADERS.contains(&name) => Form::Url,
        _ => Form::Plain,
    }
}

fn property_form(name: &str) -> Form {
    match name {
        "request.host" => Form::Authority,
        "request.path" | "request.referer" => Form::Url,
        "request.query" => Form::Query,
        _ => ["request.headers.", "response.headers.", "response.trailers."]
            .iter()
            .find_map(|map| name.strip_prefix(map))
            .map_or(Form::Plain, header_form),
    }
}

/// A property by what Envoy's documentation says of its type; of others what is asked for says it.
fn typed(name: &str, bytes: &[u8], r#as: Option<AttributeType>) -> Option<Scalar> {
    if WHOLE_NUMBERS.contains(&name) {
        return Some(Scalar::Int(i64::from_le_bytes(bytes.try_into().ok()?)));
    }
    if name == TRUE_OR_FALSE {
        return boolean(bytes).map(Scalar::Bool);
    }
    match r#as {
        Some(AttributeType::Int | AttributeType::Double)
            if bytes.len() == 8 && !is_number(bytes) =>
        {
            Some(Scalar::Int(i64::from_le_bytes(bytes.try_into().ok()?)))
        }
        _ => other(bytes, r#as),
    }
}

/// A value of metadata: a number is a double there, and nothing but what is asked for tells it
/// from a text of eight bytes.
fn number_of_metadata(bytes: &[u8], r#as: Option<AttributeType>) -> Option<Scalar> {
    match r#as {
        Some(AttributeType::Int | AttributeType::Double)
            if bytes.len() == 8 && !is_number(bytes) =>
        {
            Some(Scalar::Double(f64::from_le_bytes(bytes.try_into().ok()?)))
        }
        _ => other(bytes, r#as),
    }
}

fn other(bytes: &[u8], r#as: Option<AttributeType>) -> Option<Scalar> {
    if r#as == Some(AttributeType::Bool)
        && let Some(value) = boolean(bytes)
    {
        return Some(Scalar::Bool(value));
    }
    // A whole map comes as a list of names and values with zeros between them, and a message as
    // protobuf, with the numbers of its fields: more than was asked for, and past all names.
    if bytes.iter().any(|byte| *byte < b' ' && *byte != b'\t') {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok().map(Scalar::String)
}

const fn boolean(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

fn is_number(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| text.trim().parse::<f64>().is_ok())
}

fn text(value: &Scalar) -> Cow<'_, str> {
    match value {
        Scalar::Bool(value) => Cow::Owned(value.to_string()),
        Scalar::Double(value) => Cow::Owned(value.to_string()),
        Scalar::Int(value) => Cow::Owned(value.to_string()),
        Scalar::String(value) => Cow::Borrowed(value),
    }
}

/// `value` as what is asked for; `None` if it cannot be that.
fn cast(value: Scalar, r#as: Option<AttributeType>) -> Option<Scalar> {
    Some(match (r#as, value) {
        (None, value)
        | (Some(AttributeType::Bool), value @ Scalar::Bool(_))
        | (Some(AttributeType::Double), value @ Scalar::Double(_))
        | (Some(AttributeType::Int), value @ Scalar::Int(_)) => value,
        (Some(AttributeType::String), value) => Scalar::String(text(&value).into_owned()),
        (Some(AttributeType::Bool), Scalar::String(text)) => match text.trim() {
            "1" | "true" => Scalar::Bool(true),
            "0" | "false" => Scalar::Bool(false),
            _ => return None,
        },
        (Some(AttributeType::Double), Scalar::String(text)) => {
            Scalar::Double(text.trim().parse().ok().filter(|number: &f64| number.is_finite())?)
        }
        #[expect(clippy::cast_precision_loss, reason = "that is what a double is")]
        (Some(AttributeType::Double), Scalar::Int(number)) => Scalar::Double(number as f64),
        (Some(AttributeType::Int), Scalar::String(text)) => Scalar::Int(text.trim().parse().ok()?),
        (Some(AttributeType::Int), Scalar::Double(number)) => Scalar::Int(Scalar::whole(number)?),
        (Some(AttributeType::Bool | AttributeType::Double | AttributeType::Int), _) => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;
    use crate::span::texts::Texts;

    struct Host(BTreeMap<&'static str, Vec<u8>>);

    impl Exchange for Host {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
            self.0.get(&*path.join(".")).cloned()
        }
        fn response_header(&self, name: &str) -> Option<Vec<u8>> {
            self.0.get(&*format!("< {name}")).cloned()
        }
    }

    fn host() -> Host {
        let number = |number: i64| number.to_le_bytes().to_vec();
        Host(BTreeMap::from([
            ("upstream.port", number(8080)),
            ("connection.mtls", vec![1]),
            ("connection.tls_version", b"TLSv1.3".to_vec()),
            ("request.path", b"/a?token=x&page=2".to_vec()),
            ("request.query", b"token=x&page=2".to_vec()),
            ("request.host", b"u:p@shop".to_vec()),
            ("request.headers.referer", b"https://u:p@a/b?c".to_vec()),
            ("filter_state.count", number(7)),
            ("filter_state.text", b"eight by".to_vec()),
            ("metadata.filter_metadata.my.ns.weight", 2.0_f64.to_le_bytes().to_vec()),
            ("metadata.filter_metadata.my.ns.on", vec![0]),
            ("metadata.filter_metadata.my.ns.text", b"12345678".to_vec()),
            ("xds.route_metadata.filter_metadata.envoy.lb.team", b"red".to_vec()),
            ("empty", Vec::new()),
            ("bytes", b"\xff".to_vec()),
            ("message", b"\x0a\x09\x0a\x03sub\x12\x02me".to_vec()),
            ("map", b"\x01\0\0\0\x01\0\0\0\x01\0\0\0x\0y\0".to_vec()),
            ("< location", b"/b?code=x&page=3".to_vec()),
            ("< x-cost", b" 12.5 ".to_vec()),
        ]))
    }

    /// The one attribute that `fields` give.
    #[track_caller]
    fn check(fields: &str, expected: Option<&str>) {
        let json = format!(
            r#"{{"spans": {{"query": {{"allow": ["page"]}},
                "attributes": [{{"name": "http.request.header.x", {fields}}}]}}}}"#
        );
        let env = |name: &str| (name == "REGION").then(|| "eu-1".to_owned());
        let config = Config::parse(json.as_bytes(), &env).unwrap().spans;
        let headers: Headers = [
            (":path", "/a?token=x&page=2"),
            (":authority", "u:p@shop:81"),
            ("x-id", "order-17"),
            ("x-many", "a"),
            ("x-many", "b"),
        ]
        .into_iter()
        .collect();
        let texts = Texts::new(Vec::new(), 100);
        let mut out = Attributes::new(&texts);
        add(&mut out, &config.attributes, &headers, &host(), &Urls::new(&config));
        let found = out.into_list().pop().map(|attribute| match attribute.value {
            Value::Scalar(value) => format!("{value:?}"),
            Value::Strings(values) => format!("{values:?}"),
        });
        assert_eq!(found.as_deref(), expected, "{fields}");
    }

    #[test]
    fn every_source() {
        let string = |text: &str| format!("String({text:?})");
        check(r#""value": "red""#, Some(&string("red")));
        check(r#""value": 3"#, Some("Int(3)"));
        check(r#""value": 3.0, "as": "string""#, Some(&string("3")));
        check(r#""environment": "REGION""#, Some(&string("eu-1")));
        check(r#""environment": "REGION", "pattern": "[0-9]", "as": "int""#, Some("Int(1)"));
        check(r#""environment": "NONE""#, None);
        // The conventions have a list here.
        check(r#""request_header": "x-many""#, Some(r#"["a", "b"]"#));
        check(r#""request_header": "x-many", "as": "string""#, Some(&string("a,b")));
        check(r#""request_header": "x-none""#, None);
        check(r#""request_header": ":path", "as": "string""#, Some(&string("/a?page=2")));
        check(r#""request_header": "host", "as": "string""#, Some(&string("shop:81")));
        check(r#""request_header": "x-id", "pattern": "^order-([0-9]+)$""#, Some(&string("17")));
        check(r#""request_header": "x-id", "pattern": "[0-9]+", "as": "int""#, Some("Int(17)"));
        check(r#""request_header": "x-id", "as": "int""#, None);
        check(r#""request_header": "x-id", "pattern": "z""#, None);
        check(r#""response_header": "location""#, Some(&string("/b?page=3")));
        check(r#""response_header": "x-cost", "as": "double""#, Some("Double(12.5)"));
        check(r#""response_header": "x-none""#, None);
        check(r#""property": "upstream.port""#, Some("Int(8080)"));
        check(r#""property": "upstream.port", "as": "string""#, Some(&string("8080")));
        check(r#""property": "upstream.port", "as": "double""#, Some("Double(8080.0)"));
        check(r#""property": "upstream.port", "as": "bool""#, None);
        check(r#""property": "connection.mtls""#, Some("Bool(true)"));
        check(r#""property": "connection.tls_version""#, Some(&string("TLSv1.3")));
        check(r#""property": "request.path""#, Some(&string("/a?page=2")));
        check(r#""property": "request.query""#, Some(&string("page=2")));
        check(r#""property": "request.host""#, Some(&string("shop")));
        check(r#""property": "request.headers.referer""#, Some(&string("https://a/b")));
        check(r#""property": "filter_state.count", "as": "int""#, Some("Int(7)"));
        check(r#""property": "filter_state.text""#, Some(&string("eight by")));
        check(r#""property": "empty""#, None);
        check(r#""property": "bytes""#, None);
        check(r#""property": "map""#, None);
        check(r#""property": "message""#, None);
        let metadata = |kind: &str, key: &str, path: &str| {
            format!(r#""metadata": {{"kind": "{kind}", "key": "{key}", "path": ["{path}"]}}"#)
        };
        let ours = |path: &str, r#as: &str| {
            metadata("request", "my.ns", path) + &format!(r#", "as": "{as}""#)
        };
        check(&ours("weight", "double"), Some("Double(2.0)"));
        check(&ours("weight", "int"), Some("Int(2)"));
        check(&ours("on", "bool"), Some("Bool(false)"));
        check(&ours("text", "int"), Some("Int(12345678)"));
        check(&ours("text", "string"), Some(&string("12345678")));
        check(&ours("none", "string"), None);
        check(&metadata("route", "envoy.lb", "team"), Some(&string("red")));
        check(&metadata("cluster", "envoy.lb", "team"), None);
    }

    #[test]
    fn redacted_before_it_is_a_number() {
        let json = r#"{"spans": {"redact": [{"pattern": "[0-9]{16}"}], "attributes": [
            {"name": "card", "request_header": "x-card", "as": "int"},
            {"name": "cards", "request_header": "x-card", "as": "double"},
            {"name": "id", "request_header": "x-id", "as": "int"}
        ]}}"#;
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap().spans;
        let headers = [("x-card", "4111111111111111"), ("x-id", "17")].into_iter().collect();
        let texts = Texts::new(config.redact.clone(), 100);
        let mut out = Attributes::new(&texts);
        add(&mut out, &config.attributes, &headers, &host(), &Urls::new(&config));
        let found: Vec<_> = out.into_list().into_iter().map(|a| (a.key, a.value)).collect();
        assert_eq!(found, [("id".into(), Value::Scalar(Scalar::Int(17)))]);
    }

    #[test]
    fn what_cannot_be_is_no_attribute() {
        for (text, r#as, expected) in [
            ("true", AttributeType::Bool, Some(Scalar::Bool(true))),
            ("0", AttributeType::Bool, Some(Scalar::Bool(false))),
            ("yes", AttributeType::Bool, None),
            ("1e400", AttributeType::Double, None),
            ("NaN", AttributeType::Double, None),
            ("9223372036854775808", AttributeType::Int, None),
            ("1.0", AttributeType::Int, None),
        ] {
            assert_eq!(cast(Scalar::String(text.to_owned()), Some(r#as)), expected, "{text}");
        }
        assert_eq!(cast(Scalar::Double(1.5), Some(AttributeType::Int)), None);
        assert_eq!(cast(Scalar::Bool(true), Some(AttributeType::Int)), None);
    }
}
