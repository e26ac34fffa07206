//! What is compared: an Envoy each, alike but for what traces.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meshweft_core::config::Config;
use serde_json::{Value, json};

use crate::config::{
    COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route, wasm_of,
};
use crate::mesh::merge;
use crate::{native, paths};

/// How many spans native tracers collect at least before they send them, if it is not their own
/// default of 5: as many as the filter's batches have.
const LARGE_FLUSH: u32 = 512;

/// The listener of a mode's Envoy.
pub const LISTENER: &str = "bench";

/// The listener by which the request comes that has caused those of a mode.
pub const CAUSE: &str = "cause";

/// By what they are joined.
const REQUEST_ID: &str = "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10";

/// One Envoy of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Mode {
    /// Its name, also in the JSON.
    pub name: String,
    /// What traces there.
    pub tracer: Tracer,
    /// The `traceparent` of its requests.
    pub parent: Option<&'static str>,
    /// The share of its requests that is recorded.
    pub share: f64,
    /// On which side of a workload its listener is.
    pub side: Direction,
    /// How many workers its Envoy has.
    pub workers: u32,
    /// Whether its requests are calls of a request that is open all the time: all have the id by
    /// which that one is remembered.
    pub caused: bool,
}

/// What traces the requests of an Envoy.
#[derive(Clone, Debug, PartialEq)]
pub enum Tracer {
    /// Nothing.
    Nothing,
    /// A wasm filter that does nothing.
    Empty,
    /// A wasm filter that calls the host as ours does for a request, and does nothing else.
    Crossings {
        /// Whether for one that is recorded.
        sampled: bool,
    },
    /// The filter, with this configuration.
    Meshweft(Value),
    /// Another build of it.
    Other(PathBuf, Value),
    /// Envoy's own OpenTelemetry tracer.
    OpenTelemetry {
        /// Its share of the requests, in percent.
        percent: f64,
        /// How many spans it collects before it sends them.
        flush: Option<u32>,
    },
    /// Envoy's own Zipkin tracer.
    Zipkin {
        /// Its share of the requests, in percent.
        percent: f64,
        /// How many spans it collects before it sends them.
        flush: Option<u32>,
    },
}

/// The modules with which the filter is compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Modules {
    /// That of [`Tracer::Empty`].
    pub empty: PathBuf,
    /// That of [`Tracer::Crossings`].
    pub crossings: PathBuf,
}

impl Modules {
    /// Those that the Makefile has built.
    ///
    /// # Panics
    /// If one is not there.
    #[must_use]
    pub fn built() -> Self {
        Self { empty: paths::empty_module(), crossings: paths::crossings_module() }
    }
}

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// The names of the modes between which the goals are.
pub mod names {
    /// No tracer.
    pub const PLAIN: &str = "plain";
    /// The filter that does nothing.
    pub const EMPTY: &str = "empty wasm filter";
    /// The calls of a filter that records nothing.
    pub const CROSSINGS_OFF: &str = "crossings alone, not sampled";
    /// The calls of a filter that records everything.
    pub const CROSSINGS_ALL: &str = "crossings alone, sampled";
    /// The filter records nothing.
    pub const OFF: &str = "meshweft 0 %";
    /// The filter records everything.
    pub const ALL: &str = "meshweft 100 %";
    /// The same, and remembers every request.
    pub const CORRELATION: &str = "meshweft 0 %, correlation";
    /// The caller says no.
    pub const PARENT_OFF: &str = "meshweft, parent not sampled";
    /// One rule, nothing recorded.
    pub const ONE_RULE: &str = "meshweft 0 %, 1 rule";
    /// A thousand rules, nothing recorded.
    pub const RULES: &str = "meshweft 0 %, 1,000 rules";
    /// The native tracer as it comes.
    pub const OPEN_TELEMETRY: &str = "OpenTelemetry 100 %";
    /// The same with larger batches.
    pub const OPEN_TELEMETRY_LARGE: &str = "OpenTelemetry 100 %, by 512 spans";
    /// The native tracer as it comes.
    pub const ZIPKIN: &str = "Zipkin 100 %";
    /// The same with larger batches.
    pub const ZIPKIN_LARGE: &str = "Zipkin 100 %, by 512 spans";
}

/// All modes, or those of the goals alone.
#[must_use]
pub fn modes(quick: bool) -> Vec<Mode> {
    use names::{
        ALL, CORRELATION, CROSSINGS_ALL, CROSSINGS_OFF, EMPTY, OFF, ONE_RULE, OPEN_TELEMETRY,
        OPEN_TELEMETRY_LARGE, PARENT_OFF, PLAIN, RULES, ZIPKIN, ZIPKIN_LARGE,
    };
    let rate = |rate: f64| json!({"sampling": {"rate": rate}});
    let with_rules = |numbers| json!({"sampling": {"rate": 0, "rules": rules(numbers)}});
    let otel = |name: &str, percent, flush| {
        mode(name, Tracer::OpenTelemetry { percent, flush }, percent / 100.0)
    };
    let zipkin =
        |name: &str, percent, flush| mode(name, Tracer::Zipkin { percent, flush }, percent / 100.0);
    let mut all = vec![
        mode(PLAIN, Tracer::Nothing, 0.0),
        mode(EMPTY, Tracer::Empty, 0.0),
        mode(CROSSINGS_OFF, Tracer::Crossings { sampled: false }, 0.0),
        mode(CROSSINGS_ALL, Tracer::Crossings { sampled: true }, 0.0),
        ours(OFF, 0.0, rate(0.0)),
        Mode { parent: Some(NOT_SAMPLED), ..ours(PARENT_OFF, 0.0, rate(1.0)) },
        ours(ALL, 1.0, rate(1.0)),
        otel(OPEN_TELEMETRY, 100.0, None),
        otel(OPEN_TELEMETRY_LARGE, 100.0, Some(LARGE_FLUSH)),
        zipkin(ZIPKIN, 100.0, None),
    ];
    if quick {
        return all;
    }
    all.extend([
        zipkin(ZIPKIN_LARGE, 100.0, Some(LARGE_FLUSH)),
        ours("meshweft 1 %", 0.01, rate(0.01)),
        ours("meshweft 10 %", 0.1, rate(0.1)),
        Mode { parent: Some(SAMPLED), ..ours("meshweft, parent sampled", 1.0, rate(0.0)) },
        ours(ONE_RULE, 0.0, with_rules(999..1_000)),
        ours(RULES, 0.0, with_rules(0..1_000)),
        otel("OpenTelemetry 0 %", 0.0, None),
        otel("OpenTelemetry 1 %", 1.0, None),
        otel("OpenTelemetry 10 %", 10.0, None),
        zipkin("Zipkin 0 %", 0.0, None),
        zipkin("Zipkin 1 %", 1.0, None),
        zipkin("Zipkin 10 %", 10.0, None),
    ]);
    // What a build may not have yet; the modes above go without correlation.
    let correlation = joined();
    let one_rule = |matches: Value| json!({"sampling": {"rate": 0, "rules": [{"name": "one", "match": matches, "rate": 1}]}});
    for (name, share, more) in [
        // The same condition by our own matcher and by Envoy's expressions.
        ("meshweft 0 %, a header", 0.0, one_rule(json!({"headers": {"x-tenant": "initech"}}))),
        (
            "meshweft 0 %, a header by CEL",
            0.0,
            one_rule(json!({"cel": "request.headers['x-tenant'] == 'initech'"})),
        ),
        ("meshweft 0 %, keep", 0.0, json!({"sampling": {"rate": 0, "keep": {"errors": true}}})),
        (CORRELATION, 0.0, json!({"sampling": {"rate": 0}, "correlation": correlation})),
        ("meshweft 100 %, correlation", 1.0, json!({"correlation": correlation})),
    ] {
        if accepted(&configuration(more.clone())) {
            all.push(ours(name, share, more));
        }
    }
    // Requests without a context: with an id that Envoy makes, each is looked up and not found.
    let looked_up = json!({"sampling": {"rate": 0}, "correlation": correlation});
    if accepted(&configuration(looked_up.clone())) {
        let outbound = |name, caused| {
            let mode = ours(name, 0.0, looked_up.clone());
            Mode { side: Direction::Outbound, caused, ..mode }
        };
        all.push(outbound("meshweft 0 %, correlation, outbound", false));
        all.push(outbound("meshweft 0 %, correlation, outbound, found", true));
    }
    all
}

/// What is compared for each number of workers: the plain Envoy, and the filter as it comes, which
/// remembers every request in what the workers share.
#[must_use]
pub fn with_workers(workers: u32) -> [Mode; 3] {
    let joined = |rate: f64| json!({"sampling": {"rate": rate}, "correlation": joined()});
    [
        mode(names::PLAIN, Tracer::Nothing, 0.0),
        ours("not sampled", 0.0, joined(0.0)),
        ours("sampled", 1.0, joined(1.0)),
    ]
    .map(|mode| Mode { workers, ..mode })
}

/// Calls are joined by the header that Envoy gives every request.
fn joined() -> Value {
    json!({"headers": ["x-request-id"]})
}

/// Another build of the filter: nothing recorded, everything, and what correlation adds.
#[must_use]
pub fn others(module: &Path) -> [Mode; 3] {
    let stem = module.file_stem().unwrap_or_default().to_string_lossy();
    let other = |name: &str, rate: u8, correlation: Value| {
        let config = configuration(json!({"sampling": {"rate": rate}, "correlation": correlation}));
        let tracer = Tracer::Other(module.to_owned(), config);
        mode(&format!("{name}, {stem}"), tracer, rate.into())
    };
    let off = json!({"headers": []});
    [
        other(names::OFF, 0, off.clone()),
        other(names::ALL, 1, off),
        other(names::CORRELATION, 0, joined()),
    ]
}

/// A configuration with all defaults but for these fields, and without correlation.
#[must_use]
pub fn configuration(more: Value) -> Value {
    let mut config = json!({"service": {"name": "bench"}, "export": {"cluster": COLLECTOR}});
    let without = json!({"correlation": {"headers": []}});
    let mut probe = config.clone();
    merge(&mut probe, without.clone());
    if accepted(&probe) {
        merge(&mut config, without);
    }
    merge(&mut config, more);
    config
}

fn accepted(config: &Value) -> bool {
    Config::parse(config.to_string().as_bytes(), &|_| None).is_ok()
}

fn ours(name: &str, share: f64, more: Value) -> Mode {
    mode(name, Tracer::Meshweft(configuration(more)), share)
}

fn mode(name: &str, tracer: Tracer, share: f64) -> Mode {
    let name = name.to_owned();
    let side = Direction::Inbound;
    Mode { name, tracer, parent: None, share, side, workers: 1, caused: false }
}

/// A thousand of these are a mixed set: exact paths, prefixes and hosts. None matches a request of
/// the benchmark.
pub(super) fn rules(numbers: std::ops::Range<usize>) -> Vec<Value> {
    let rule = |number: usize| {
        let matcher = match number % 3 {
            0 => json!({"path": format!("/api/v1/resource-{number:04}")}),
            1 => json!({"path": {"prefix": format!("/api/v2/resource-{number:04}/")}}),
            _ => json!({"host": format!("s{number:04}.shop.example")}),
        };
        json!({"name": format!("r{number}"), "match": matcher, "rate": 0})
    };
    numbers.map(rule).collect()
}

impl Mode {
    /// The bytes of one of its requests: what a browser or a service sends.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let line = |name, value| format!("{name}: {value}\r\n");
        let parent = self.parent.map(|parent| line("traceparent", parent));
        let id = self.caused.then(|| line("x-request-id", REQUEST_ID));
        format!(
            "GET /orders/1729?page=2 HTTP/1.1\r\n\
            host: shop.example\r\n\
            user-agent: bench/1.0 (linux; x86_64)\r\n\
            accept: application/json\r\n\
            accept-language: en-GB,en;q=0.8\r\n\
            accept-encoding: gzip, br\r\n\
            cache-control: no-cache\r\n\
            x-tenant: acme\r\n\
            {}{}\r\n",
            parent.unwrap_or_default(),
            id.unwrap_or_default()
        )
        .into_bytes()
    }

    /// The bytes of a request that stays open, since its body does not come, and that has caused
    /// the others.
    #[must_use]
    pub fn cause() -> Vec<u8> {
        format!(
            "POST /checkout HTTP/1.1\r\nhost: shop.example\r\nx-request-id: {REQUEST_ID}\r\n\
            content-length: 1\r\n\r\n"
        )
        .into_bytes()
    }

    /// The bootstrap of its Envoy.
    #[must_use]
    pub fn bootstrap(
        &self,
        modules: &Modules,
        upstream: SocketAddr,
        collector: SocketAddr,
    ) -> Value {
        let filter = |module: &Path, configuration: &str| {
            vec![json!({"name": "wasm", "typed_config": wasm_of(module, configuration)})]
        };
        let filters = match &self.tracer {
            Tracer::Empty => filter(&modules.empty, ""),
            Tracer::Crossings { sampled: false } => filter(&modules.crossings, "not sampled"),
            Tracer::Crossings { sampled: true } => filter(&modules.crossings, "sampled"),
            Tracer::Meshweft(config) => vec![meshweft(config)],
            Tracer::Other(module, config) => filter(module, &config.to_string()),
            Tracer::Nothing | Tracer::OpenTelemetry { .. } | Tracer::Zipkin { .. } => vec![],
        };
        let cause = self.caused.then(|| {
            let routes = vec![route("/", "app")];
            let mut cause = listener(CAUSE, Direction::Inbound, filters.clone(), routes, None);
            let manager = &mut cause["filter_chains"][0]["filters"][0]["typed_config"];
            // It is idle for as long as the benchmark takes.
            manager["stream_idle_timeout"] = json!("0s");
            cause
        });
        let mut listener = listener(LISTENER, self.side, filters, vec![route("/", "app")], None);
        if self.workers > 1 {
            // As many connections for each worker, and not as the kernel's hash falls.
            listener["connection_balance_config"] = json!({"exact_balance": {}});
        }
        let mut runtime = serde_json::Map::new();
        match self.tracer {
            Tracer::OpenTelemetry { percent, flush } => {
                listener = native::traced(listener, "bench", percent);
                runtime.extend(
                    flush.map(|n| ("tracing.opentelemetry.min_flush_spans".to_owned(), n.into())),
                );
            }
            Tracer::Zipkin { percent, flush } => {
                listener = native::traced_by_zipkin(listener, percent);
                runtime
                    .extend(flush.map(|n| ("tracing.zipkin.min_flush_spans".to_owned(), n.into())));
            }
            Tracer::Nothing
            | Tracer::Empty
            | Tracer::Crossings { .. }
            | Tracer::Meshweft(_)
            | Tracer::Other(..) => {}
        }
        let clusters = vec![cluster("app", upstream), cluster(COLLECTOR, collector)];
        let mut bootstrap =
            bootstrap(node("bench"), [listener].into_iter().chain(cause).collect(), clusters);
        bootstrap["layered_runtime"] =
            json!({"layers": [{"name": "bench", "static_layer": runtime}]});
        // The lab's is for tests that wait for figures; this is Envoy's default.
        bootstrap["stats_flush_interval"] = json!("5s");
        bootstrap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_is_one_that_users_may_have() {
        let all = modes(false);
        let mut names: Vec<_> = all.iter().map(|mode| mode.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for mode in &all {
            if let Tracer::Meshweft(config) = &mode.tracer {
                assert!(accepted(config), "{}", mode.name);
            }
        }
        assert!(modes(true).iter().all(|mode| all.contains(mode)));
    }
}
