//! The parser and the schema judge the same configurations.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says where it broke")]

use core::time::Duration;

use meshweft_core::config::{
    AccessLogField, Baggage, Batch, Collector, Compression, Config, Direction, Export, Infer, Keep,
    KeepBaggage, Mode, ParentPolicy, Propagate, Propagation, Protocol, Query, Queue, Rate,
    ResponseHeader, Retry, Scalar, Scheme, Service, Trust, schema,
};
use meshweft_core::model::{Format, ResponseFlags};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const VALID: &str = include_str!("testdata/config/valid.json");
const INVALID: &str = include_str!("testdata/config/invalid.json");
const TEXT: &str = include_str!("testdata/config/text.json");

fn env(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "t0ken".to_owned())
}

fn rows(text: &str) -> Vec<Value> {
    let rows: Value = serde_json::from_str(text).unwrap();
    rows.as_array().unwrap().clone()
}

fn field<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).unwrap().as_str().unwrap()
}

fn parse(config: &Value) -> Result<Config, String> {
    Config::parse(config.to_string().as_bytes(), &env).map_err(|error| error.to_string())
}

#[track_caller]
fn parsed(config: &Value) -> Config {
    parse(config).unwrap_or_else(|error| panic!("{error}"))
}

/// Configurations at their upper bounds, and beyond: `(name, bound, build)`.
type Bound = (&'static str, usize, &'static str, fn(usize) -> Value);

const BOUNDS: [Bound; 14] = [
    ("rules", 1000, "at most 1000 rules", |n| {
        let rules: Vec<_> = (0..n).map(|i| json!({"name": format!("r{i}")})).collect();
        json!({"sampling": {"rules": rules}})
    }),
    ("trust", 1000, "at most 1000 items {match, trust}", |n| {
        let item = json!({"match": {"host": "a"}, "trust": "link"});
        json!({"propagation": {"trust": vec![item; n]}})
    }),
    (
        "hosts",
        1000,
        "at most 1000 hosts",
        |n| json!({"propagation": {"egress": {"strip": vec!["*.example"; n]}}}),
    ),
    ("response", 8, "at most 8 response headers", |n| {
        let headers: Vec<_> = (0..n).map(|i| json!({"header": format!("x-{i}")})).collect();
        json!({"propagation": {"response": headers}, "export": {"cluster": "c"}})
    }),
    ("baggage keys", 64, "at most 64 keys", |n| {
        let keys: Vec<_> = (0..n).map(|i| format!("k{i}")).collect();
        json!({"propagation": {"baggage": {"allow": keys}}})
    }),
    ("key headers", 4, "at most 4 header names", |n| {
        let names: Vec<_> = (0..n).map(|i| format!("x-{i}")).collect();
        json!({"correlation": {"headers": names}})
    }),
    ("any-of", 1000, "at most 1000 matchers", |n| with_match(&json!({"path": vec!["/a"; n]}))),
    ("statuses", 64, "at most 64 statuses", |n| {
        let statuses: Vec<_> = (0..n).map(|i| json!(i.saturating_add(400))).collect();
        json!({"sampling": {"keep": {"status": statuses}}, "export": {"cluster": "c"}})
    }),
    ("pattern", 4096, "1 to 4096 characters", |n| {
        with_match(&json!({"path": {"suffix": "é".repeat(n)}}))
    }),
    ("exact", 4096, "1 to 4096 characters", |n| with_match(&json!({"path": "/".repeat(n)}))),
    ("matched headers", 64, "at most 64 header names", |n| {
        with_match(&json!({"headers": names(n)}))
    }),
    ("attributes", 128, "at most 128 names", |n| json!({"service": {"attributes": names(n)}})),
    ("service name", 1024, "1 to 1024 characters", |n| json!({"service": {"name": "é".repeat(n)}})),
    (
        "header value",
        8192,
        "at most 8192 characters",
        |n| json!({"export": {"cluster": "c", "headers": {"x-a": "x".repeat(n)}}}),
    ),
];

fn names(n: usize) -> Value {
    (0..n).map(|i| (format!("a{i}"), json!("x"))).collect::<serde_json::Map<_, _>>().into()
}

fn with_match(matches: &Value) -> Value {
    json!({"sampling": {"rules": [{"name": "r", "match": matches}]}})
}

#[test]
fn the_parser_takes_what_is_valid() {
    for row in rows(VALID) {
        let result = parse(row.get("config").unwrap());
        assert!(result.is_ok(), "{}: {}", field(&row, "name"), result.unwrap_err());
    }
}

#[test]
fn the_parser_says_what_is_invalid() {
    for row in rows(INVALID) {
        let error = parse(row.get("config").unwrap()).err();
        let expected = format!("configuration: {}", field(&row, "error"));
        assert_eq!(error, Some(expected), "{}", field(&row, "name"));
    }
    for row in rows(TEXT) {
        let error = Config::parse(field(&row, "text").as_bytes(), &env).err();
        let expected = format!("configuration: {}", field(&row, "error"));
        assert_eq!(error.map(|error| error.to_string()), Some(expected), "{}", field(&row, "name"));
    }
}

#[test]
fn the_parser_keeps_its_bounds() {
    for (name, bound, allowed, build) in BOUNDS {
        assert_eq!(parse(&build(bound)).err(), None, "{name}");
        let error = parse(&build(bound.saturating_add(1))).err().unwrap_or_default();
        assert!(error.contains(allowed), "{name}: {error}");
    }
}

#[test]
fn what_patterns_compile_to_is_bounded_over_all_of_them() {
    let error = parse(&with_match(&json!({"path": vec![json!({"regex": r"\w{9}"}); 1000]}))).err();
    // A compiled regex takes less where addresses do.
    let fitting = if cfg!(target_pointer_width = "64") { 211 } else { 228 };
    let path = format!("$.sampling.rules[0].match.path[{fitting}].regex");
    let allowed = "allowed are patterns that together compile to at most 32 MiB";
    let expected = format!(r#"configuration: {path}: "\\w{{9}}" is not possible: {allowed}"#);
    assert_eq!(error, Some(expected));
}

#[test]
fn check_goes_on_after_an_error() {
    let text = br#"{"mode": 1, "sampling": {"rate": 2, "rules": [{"name": "a", "rate": "x"}]},
        "export": {"timeout": "0s"}}"#;
    let errors = Config::check(text, &env).unwrap_err();
    let paths: Vec<_> = errors.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "$.mode",
            "$.sampling.rate",
            "$.sampling.rules[0].rate",
            "$.export.timeout",
            "$.export.cluster",
        ]
    );
}

#[test]
fn an_empty_configuration_has_the_defaults() {
    for text in ["", " \r\n\t", "{}", r#"{"sampling": {}}"#] {
        let config = Config::parse(text.as_bytes(), &env).unwrap();
        assert_eq!(config.mode, Mode::Auto);
        assert_eq!(config.service, Service::default());
        let propagation = config.propagation;
        assert_eq!(propagation.extract, [Format::TraceContext, Format::B3, Format::B3Multi]);
        assert_eq!(propagation.inject, [Format::TraceContext]);
        assert!(propagation.trust.is_empty() && propagation.strip.is_none());
        assert_eq!(propagation.response, []);
        assert_eq!(propagation.access_log, [AccessLogField::TraceId]);
        assert_eq!(propagation.baggage, Baggage::default());
        let correlation = config.correlation;
        assert_eq!(correlation.headers, ["x-request-id"]);
        assert_eq!((correlation.linger, correlation.capacity), (Duration::from_secs(1), 8192));
        assert_eq!(config.sampling.parent, ParentPolicy::Respect);
        assert_eq!(config.sampling.rate, Rate::ALL);
        assert!(config.sampling.rules.is_empty());
        let spans = config.spans;
        assert!(spans.routes.is_empty() && spans.attributes.is_empty() && spans.redact.is_empty());
        assert_eq!((spans.query, spans.unsafe_names), (Query::Drop, Vec::new()));
        assert_eq!(spans.max_value_length, 256);
        assert_eq!(config.export, None);
    }
}

#[test]
fn what_joins_calls() {
    let correlation = |value: Value| parsed(&json!({"correlation": value})).correlation;
    let whole = json!({"headers": ["x-b", "x-a"], "linger": "250ms", "capacity": 64});
    let read = correlation(whole);
    assert_eq!(read.headers, ["x-b", "x-a"]);
    assert_eq!((read.linger, read.capacity), (Duration::from_millis(250), 64));
    assert_eq!((read.infer, read.confidence, read.calls.len()), (Infer::Off, 0.99, 0));
    let inferred = json!({"infer": "best", "confidence": 0.9, "calls": [
        {"from": {"path": "/checkout"}, "to": {"host": "stock"}}]});
    let read = correlation(inferred);
    assert_eq!((read.infer, read.confidence, read.calls.len()), (Infer::Best, 0.9, 1));
    assert_eq!(correlation(json!({"headers": []})).headers, [""; 0]);
}

fn propagation(value: &Value) -> Propagation {
    parsed(&json!({"propagation": value})).propagation
}

#[test]
fn trust_is_a_word_or_a_list() {
    for (trust, expected) in [
        (json!("continue"), &[][..]),
        (json!("restart"), &[(Trust::Restart, None)]),
        (json!("link"), &[(Trust::Link, None)]),
        (
            json!([
                {"match": {"direction": "outbound"}, "trust": "continue"},
                {"match": {"direction": "inbound"}, "trust": "link"},
                {"trust": "restart"},
            ]),
            &[
                (Trust::Continue, Some(Direction::Outbound)),
                (Trust::Link, Some(Direction::Inbound)),
                (Trust::Restart, None),
            ],
        ),
    ] {
        let rules = propagation(&json!({"trust": trust})).trust;
        let rules: Vec<_> = rules.iter().map(|rule| (rule.trust, rule.matches.direction)).collect();
        assert_eq!(rules, expected, "{trust}");
    }
}

#[test]
fn stripped_hosts_are_globs_of_hosts() {
    let hosts = json!(["*.Example.com", "partner.test", "10.1.*", "[2001:db8:*]", "v?.test"]);
    let strip = propagation(&json!({"egress": {"strip": hosts}})).strip.unwrap();
    for (host, stripped) in [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        ("badexample.com", false),
        ("a.example.com.evil", false),
        ("partner.test", true),
        ("a.partner.test", false),
        ("10.1.2.3", true),
        ("10.10.2.3", false),
        ("[2001:db8::7]", true),
        ("[2001:db9::7]", false),
        ("v1.test", true),
        ("v12.test", false),
    ] {
        assert_eq!(strip.matches(Some(host.as_bytes())), stripped, "{host}");
    }
    assert!(!strip.matches(None));
    assert!(propagation(&json!({"egress": {"strip": []}})).strip.is_none());
}

#[test]
fn what_others_are_told_is_read_in_order() {
    let told = parsed(&json!({"export": {"cluster": "c"}, "propagation": {
        "response": [{"header": "x-trace-id"}, "server-timing", "traceresponse"],
        "access_log": ["sampled", "span_id"],
    }}));
    let told = told.propagation;
    assert_eq!(
        told.response,
        [
            ResponseHeader::Id("x-trace-id".to_owned()),
            ResponseHeader::ServerTiming,
            ResponseHeader::TraceResponse,
        ]
    );
    assert_eq!(told.access_log, [AccessLogField::Sampled, AccessLogField::SpanId]);
    assert_eq!(propagation(&json!({"access_log": []})).access_log, []);
}

#[test]
fn baggage_goes_on_or_not() {
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    for (baggage, keep, attributes) in [
        (json!("pass"), KeepBaggage::All, &[][..]),
        (json!("drop"), KeepBaggage::Only(keys(&[])), &[]),
        (json!({}), KeepBaggage::All, &[]),
        (json!({"attributes": ["a"]}), KeepBaggage::All, &["a"]),
        (json!({"allow": []}), KeepBaggage::Only(keys(&[])), &[]),
        (
            json!({"allow": ["b", "a"], "attributes": ["a", "c"]}),
            KeepBaggage::Only(keys(&["b", "a"])),
            &["a", "c"],
        ),
    ] {
        assert_eq!(
            propagation(&json!({"baggage": baggage})).baggage,
            Baggage { keep, attributes: keys(attributes) },
            "{baggage}"
        );
    }
}

fn collector(cluster: &str, authority: &str) -> Collector {
    Collector { cluster: cluster.to_owned(), authority: authority.to_owned() }
}

#[test]
fn what_is_kept_is_read_in_full() {
    let config = rows(VALID).into_iter().find(|row| field(row, "name") == "keep").unwrap();
    let sampling = parsed(config.get("config").unwrap()).sampling;
    assert_eq!(
        sampling.keep,
        Some(Keep {
            errors: true,
            status: vec![500..=599, 429..=429, 404..=404],
            grpc_status: vec![14, 0],
            response_flags: ResponseFlags::from_bits(1 << 5 | 1 << 7),
            slower_than: Some(Duration::from_millis(500)),
            propagate: None,
        })
    );
    let config = rows(VALID).into_iter().find(|row| field(row, "name") == "keep with a secret");
    let told = parsed(config.unwrap().get("config").unwrap()).sampling.keep.unwrap().propagate;
    let secret = Some("t0ken-and-more-of-it".to_owned());
    assert_eq!(told, Some(Propagate { secret }));
    assert_eq!(sampling.rules.iter().map(|rule| rule.keep).collect::<Vec<_>>(), [false, true]);
    let nothing = json!({"errors": false, "status": [], "grpc_status": [], "response_flags": []});
    let config = json!({"sampling": {"keep": nothing}, "export": {"cluster": "c"}});
    assert_eq!(parsed(&config).sampling.keep, None);
}

#[test]
fn an_export_has_defaults() {
    assert_eq!(
        parsed(&json!({"export": {"cluster": "otel"}})).export,
        Some(Export {
            protocol: Protocol::OtlpHttp,
            collectors: vec![collector("otel", "otel")],
            path: "/v1/traces".to_owned(),
            scheme: Scheme::Http,
            headers: Vec::new(),
            timeout: Duration::from_secs(5),
            compression: Compression::None,
            batch: Batch { max_spans: 512, max_bytes: 1 << 20, interval: Duration::from_secs(1) },
            queue: Queue { max_spans: 8192, max_bytes: 16 << 20 },
            retry: Retry {
                initial: Duration::from_millis(500),
                max: Duration::from_secs(30),
                max_elapsed: Duration::from_mins(5),
            },
        })
    );
}

#[test]
fn an_export_is_read_in_full() {
    let config = rows(VALID).into_iter().find(|row| field(row, "name") == "whole export").unwrap();
    assert_eq!(
        parsed(config.get("config").unwrap()).export,
        Some(Export {
            protocol: Protocol::OtlpHttp,
            collectors: vec![
                collector("otel", "otel.example:443"),
                collector("outbound|4318||otel.obs", "otel.example:443"),
            ],
            path: "/otlp/v1/traces?x=1".to_owned(),
            scheme: Scheme::Https,
            headers: [("authorization", "Bearer t0ken"), ("x-a", "$5 t0kent0ken"), ("x-b", "")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            timeout: Duration::from_secs(3),
            compression: Compression::Gzip,
            batch: Batch {
                max_spans: 100,
                max_bytes: 65_536,
                interval: Duration::from_millis(250)
            },
            queue: Queue { max_spans: 1000, max_bytes: 1 << 20 },
            retry: Retry {
                initial: Duration::from_secs(1),
                max: Duration::from_mins(1),
                max_elapsed: Duration::from_hours(1),
            },
        })
    );
}

#[test]
fn protocols_name_their_path() {
    for (name, protocol, path) in [
        ("otlp/http", Protocol::OtlpHttp, "/v1/traces"),
        ("otlp/http+json", Protocol::OtlpHttpJson, "/v1/traces"),
        (
            "otlp/grpc",
            Protocol::OtlpGrpc,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ),
        ("zipkin", Protocol::Zipkin, "/api/v2/spans"),
    ] {
        let export = parsed(&json!({"export": {"cluster": "c", "protocol": name}})).export.unwrap();
        assert_eq!((export.protocol, export.path.as_str()), (protocol, path));
    }
}

#[test]
fn clusters_name_their_authority() {
    for (cluster, name, authority) in [
        (json!("otel"), "otel", "otel"),
        (json!("outbound|4318||otel.obs"), "outbound|4318||otel.obs", "otel.obs:4318"),
        (
            json!({"service": "otel.obs", "port": 4318.0}),
            "outbound|4318||otel.obs",
            "otel.obs:4318",
        ),
    ] {
        let export = parsed(&json!({"export": {"cluster": cluster}})).export.unwrap();
        assert_eq!(export.collectors, [collector(name, authority)]);
        let list = json!([cluster, "other"]);
        let export = parsed(&json!({"export": {"cluster": list}})).export.unwrap();
        assert_eq!(export.collectors, [collector(name, authority), collector("other", "other")]);
    }
}

#[test]
fn attributes_keep_their_types() {
    let attributes = json!({"d": 0.5, "b": true, "i": 3, "w": 3.0, "big": 1e300, "s": "x"});
    let service = parsed(&json!({"service": {"name": "n", "attributes": attributes}})).service;
    assert_eq!(
        service,
        Service {
            name: Some("n".to_owned()),
            attributes: [
                ("b", Scalar::Bool(true)),
                ("big", Scalar::Double(1e300)),
                ("d", Scalar::Double(0.5)),
                ("i", Scalar::Int(3)),
                ("s", Scalar::String("x".to_owned())),
                ("w", Scalar::Int(3)),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
            ..Service::default()
        }
    );
}

#[test]
fn no_error_tells_a_secret() {
    for headers in [
        json!({"authorization": "s3cret\n"}),
        json!({"authorization": "s3cret$"}),
        json!({"authorization": ["s3cret"]}),
        json!({"authorization": format!("s3cret{}", "x".repeat(9000))}),
    ] {
        let error = parse(&json!({"export": {"cluster": "c", "headers": headers}})).unwrap_err();
        assert!(!error.contains("s3cret"), "{error}");
    }
    let leaky = |_: &str| Some("s3cret\n".to_owned());
    let text = r#"{"export": {"cluster": "c", "headers": {"a": "${A}"}}}"#;
    let error = Config::parse(text.as_bytes(), &leaky).unwrap_err().to_string();
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn damaged_configurations_are_judged_in_one_line_each() {
    let mut rng = SmallRng::seed_from_u64(2);
    let pieces: [&[u8]; 8] = [b"{", b"]", b"\"", b"null", b"\\u0000", b"-1e9", b"\xff", b"\n"];
    let rows = rows(VALID);
    for _ in 0..50 {
        for row in &rows {
            let mut text = row.get("config").unwrap().to_string().into_bytes();
            let at = rng.random_range(0..text.len());
            let to = rng.random_range(at..text.len());
            let piece = pieces.get(rng.random_range(0..pieces.len())).unwrap();
            text.splice(at..to, piece.iter().copied());
            let Err(errors) = Config::check(&text, &env) else { continue };
            assert!(!errors.is_empty());
            for error in errors {
                let error = error.to_string();
                assert!(error.starts_with("configuration: "), "{error}");
                assert!(!error.contains(char::is_control), "{error:?}");
            }
        }
    }
}

/// All properties of the schema with their paths, from `at` on.
fn properties(schema: &Value, at: &[String]) -> Vec<(Vec<String>, Value)> {
    let Some(fields) = schema.get("properties").and_then(Value::as_object) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, field) in fields {
        let mut path = at.to_vec();
        path.push(name.clone());
        all.push((path.clone(), field.clone()));
        all.extend(properties(field, &path));
    }
    all
}

/// The configuration with nothing but `value` at `path`, and a cluster where one is needed.
fn with(path: &[String], value: Value) -> Value {
    let mut config = value;
    for (depth, name) in path.iter().enumerate().rev() {
        config = json!({ name.as_str(): config });
        if depth == 1 && path.first().is_some_and(|part| part == "export") && name != "cluster" {
            config.as_object_mut().unwrap().insert("cluster".to_owned(), json!("c"));
        }
    }
    config
}

#[test]
fn every_field_of_the_schema_is_read() {
    let fields = properties(&schema(), &[]);
    assert!(fields.len() > 25, "{fields:?}");
    for (path, field) in fields {
        let place = format!("$.{}", path.join("."));
        let errors = Config::check(with(&path, Value::Null).to_string().as_bytes(), &env);
        let errors = errors.unwrap_err();
        assert!(
            errors.iter().any(|error| error.path == place && error.to_string().contains("null is")),
            "{place}: {errors:?}"
        );
        let out_of_range = |value: Value| {
            let errors = Config::check(with(&path, value).to_string().as_bytes(), &env);
            let errors = errors.err().unwrap_or_default();
            errors.iter().any(|e| e.path == place && e.to_string().contains("out of range"))
        };
        for (bound, beyond) in [("minimum", -1), ("maximum", 1)] {
            let Some(value) = field.get(bound) else { continue };
            assert!(!out_of_range(value.clone()), "{place}: {value}");
            let value = match value.as_i64() {
                Some(value) => json!(value.saturating_add(beyond)),
                None => json!(value.as_f64().unwrap() + f64::from(i32::try_from(beyond).unwrap())),
            };
            assert!(out_of_range(value.clone()), "{place}: {value}");
        }
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_parser() {
    let mut config = json!({"export": {"cluster": "c"}, "sampling": {"remote": {"cluster": "c"}}});
    let implied = format!("{:?}", parsed(&config));
    let mut defaults = 0_usize;
    for (path, field) in properties(&schema(), &[]) {
        let Some(default) = field.get("default") else { continue };
        let mut place = &mut config;
        for name in &path {
            place = place.as_object_mut().unwrap().entry(name).or_insert_with(|| json!({}));
        }
        *place = default.clone();
        defaults = defaults.saturating_add(1);
    }
    assert!(defaults > 15, "{defaults}");
    assert_eq!(format!("{:?}", parsed(&config)), implied);
}

#[test]
fn there_are_few_expressions() {
    let rules = |count: usize| {
        let rule = |i| json!({"name": format!("r{i}"), "match": {"cel": "a"}});
        json!({"sampling": {"rules": (0..count).map(rule).collect::<Vec<_>>()}})
    };
    assert_eq!(parsed(&rules(64)).expressions().count(), 64);
    assert_eq!(
        parse(&rules(65)).unwrap_err(),
        "configuration: $.sampling.rules[64].match.cel: \"a\" is not possible: allowed are at most \
         64 expressions in the whole configuration"
    );
}

#[cfg(not(target_family = "wasm"))]
#[test]
fn the_schema_agrees_with_the_parser() {
    let schema = schema();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for row in rows(VALID) {
        let errors: Vec<_> = validator
            .iter_errors(row.get("config").unwrap())
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}", field(&row, "name"));
    }
    for row in rows(INVALID) {
        let cannot_say = row.get("schema_cannot_say") == Some(&json!(true));
        let valid = validator.is_valid(row.get("config").unwrap());
        assert_eq!(valid, cannot_say, "{}", field(&row, "name"));
    }
    for (name, bound, _, build) in BOUNDS {
        assert!(validator.is_valid(&build(bound)), "{name}");
        assert!(!validator.is_valid(&build(bound.saturating_add(1))), "{name}");
    }
}
