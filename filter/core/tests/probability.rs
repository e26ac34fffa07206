//! What is counted from exported spans, and what the hops of a trace decide: statistics over many
//! requests, from fixed seeds. Natively only, where they cost little.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::time::Duration;

use meshweft_core::Exchange;
use meshweft_core::config::Config;
use meshweft_core::export::{Answer, Outcome};
use meshweft_core::model::{HeaderEdit, Headers, Local, MonoNanos, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::stream::Stream;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Header names and values.
type Pairs = Vec<(String, String)>;

struct Request(Headers);

impl Exchange for Request {
    fn request_headers(&self) -> Headers {
        self.0.clone()
    }
    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let value: i64 = match path {
            ["request", "time"] => 1_700_000_000_000_000_000,
            ["request", "duration"] => 5_000_000,
            ["response", "code"] => 200,
            _ => return None,
        };
        Some(value.to_le_bytes().to_vec())
    }
}

/// A proxy with a collector that takes everything.
struct Hop {
    plugin: Plugin,
    rng: SmallRng,
    now: MonoNanos,
    shared: Local,
}

impl Hop {
    fn new(seed: u64, sampling: &str) -> Self {
        let config = format!(r#"{{"export": {{"cluster": "c"}}, "sampling": {sampling}}}"#);
        let config = Config::parse(config.as_bytes(), &|_| None).unwrap();
        Self {
            plugin: Plugin::new(config, None, &|_| None),
            rng: SmallRng::seed_from_u64(seed),
            now: MonoNanos(1),
            shared: Local::default(),
        }
    }

    /// Serves a request; gives its headers as they go on.
    fn serve(&mut self, mut headers: Pairs) -> Pairs {
        let request = Request(headers.iter().map(|(name, value)| (&**name, &**value)).collect());
        let mut stream = Stream::default();
        self.shared.clock.set(self.now);
        let effects =
            stream.on_request_headers(&mut self.plugin, &request, &self.shared, &mut self.rng);
        stream.on_log(&mut self.plugin, &request, &self.shared, &mut self.rng);
        for edit in effects.edits {
            let (name, value) = match edit {
                HeaderEdit::Add(name, _) => panic!("{name} added"),
                HeaderEdit::Remove(name) => (name, None),
                HeaderEdit::Set(name, value) => (name, Some(value)),
            };
            headers.retain(|(other, _)| *other != name);
            headers.extend(value.map(|value| (name.into_owned(), value)));
        }
        headers
    }

    /// What the collector gets.
    fn export(&mut self) -> Vec<Span> {
        let mut spans = Vec::new();
        self.now = self.now.after(Duration::from_secs(1));
        for call in self.plugin.on_tick(self.now, UnixNanos::default(), &self.shared).calls {
            let outcome = Outcome::Answered(Answer { status: 200, ..Answer::default() });
            self.plugin.on_outcome(call.id, &outcome, self.now, &self.shared, &mut self.rng);
            let body = ExportTraceServiceRequest::decode(&*call.body).unwrap();
            let scopes = body.resource_spans.into_iter().flat_map(|spans| spans.scope_spans);
            spans.extend(scopes.flat_map(|scope| scope.spans));
        }
        spans
    }
}

fn get(path: &str) -> Pairs {
    [(":method", "GET"), (":path", path), (":authority", "shop"), (":scheme", "http")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

fn path(span: &Span) -> String {
    let path = span.attributes.iter().find(|attribute| attribute.key == "url.path").unwrap();
    match path.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(path)) => path.clone(),
        other => panic!("{other:?}"),
    }
}

/// How many requests a span stands for, as a backend counts.
fn adjusted_count(span: &Span) -> f64 {
    let th = span.trace_state.strip_prefix("ot=th:").unwrap();
    // 14 digits are 56 bits, of which a float has 53; the others are zeros here.
    let [high, low] = [0..7, 7..14].map(|digits| {
        f64::from(u32::from_str_radix(format!("{th:0<14}").get(digits).unwrap(), 16).unwrap())
    });
    let half = 2.0_f64.powi(28);
    half.powi(2) / (half.powi(2) - high * half - low)
}

#[test]
fn requests_are_counted_from_the_spans_of_every_hop() {
    /// Paths with their rates, and how many of 100 requests go there.
    const PATHS: [(&str, f64, u32); 4] =
        [("/all", 1.0, 5), ("/tenth", 0.1, 50), ("/hundredth", 0.01, 30), ("/other", 0.3, 15)];
    const REQUESTS: u32 = 100_000;
    let mut edge = Hop::new(
        1,
        r#"{"rate": 0.3, "rules": [
            {"name": "all", "match": {"path": "/all"}, "rate": 1},
            {"name": "tenth", "match": {"path": "/tenth"}, "rate": 0.1},
            {"name": "hundredth", "match": {"path": "/hundredth"}, "rate": 0.01}]}"#,
    );
    let mut inner = Hop::new(2, r#"{"rate": 0}"#);
    let mut counted = [BTreeMap::<String, f64>::new(), BTreeMap::new()];
    for _ in 0..REQUESTS / 1_000 {
        for _ in 0..10 {
            for (path, _, share) in PATHS {
                for _ in 0..share {
                    let forwarded = edge.serve(get(path));
                    inner.serve(forwarded);
                }
            }
        }
        for (hop, counted) in [&mut edge, &mut inner].into_iter().zip(&mut counted) {
            for span in hop.export() {
                *counted.entry(path(&span)).or_default() += adjusted_count(&span);
            }
        }
    }
    let [at_the_edge, inside] = counted;
    assert_eq!(at_the_edge, inside);
    let mut variances = 0.0;
    for (path, rate, share) in PATHS {
        let requests = f64::from(share) * f64::from(REQUESTS) / 100.0;
        let variance = requests * (1.0 - rate) / rate;
        let found = at_the_edge.get(path).copied().unwrap();
        assert!((found - requests).abs() <= 3.0 * variance.sqrt(), "{path}: {found}");
        variances += variance;
    }
    let found: f64 = at_the_edge.values().sum();
    assert!((found - f64::from(REQUESTS)).abs() <= 3.0 * variances.sqrt(), "{found}");
}

#[test]
fn a_trace_is_decided_alike_at_every_hop() {
    let sampled = |headers: &Pairs| {
        let traceparent = headers.iter().find(|(name, _)| name == "traceparent");
        traceparent.unwrap().1.ends_with("03")
    };
    // Each decides for itself.
    let rates = ["0.1", "0.1", "0.4", "0.4", "0.9"];
    let mut hops =
        rates.map(|rate| Hop::new(3, &format!(r#"{{"parent": "ignore", "rate": {rate}}}"#)));
    let mut seen = BTreeMap::<Vec<bool>, u32>::new();
    for _ in 0..5_000 {
        let mut headers = get("/");
        let mut decided = Vec::new();
        for hop in &mut hops {
            headers = hop.serve(headers);
            decided.push(sampled(&headers));
        }
        *seen.entry(decided).or_default() += 1;
    }
    // Who keeps more keeps all that the others keep, and nothing else comes about.
    let kept = |from: usize| (0..rates.len()).map(|hop| hop >= from).collect::<Vec<_>>();
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), [5, 4, 2, 0].map(kept));
}
