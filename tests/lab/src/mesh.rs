//! One workload behind one Envoy, as most tests want it.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::app::{App, Forward};
use crate::collector::{Collector, Span};
use crate::config::{
    COLLECTOR, COLLECTOR_H2, Direction, bootstrap, cluster, cluster_h2, listener, meshweft, node,
    route,
};
use crate::envoy::Envoy;

/// An application behind an Envoy with the filter, and a collector.
///
/// Listeners: `inbound`, `outbound` and `gateway` reach the application over HTTP/1.1,
/// `inbound-h2` and `outbound-h2` over HTTP/2; `plain` has no filter.
#[derive(Debug)]
pub struct Workload {
    /// The proxy.
    pub envoy: Envoy,
    /// The application.
    pub app: App,
    /// The receiver of its spans.
    pub collector: Collector,
}

/// How a [`Workload`] differs from the plain case.
#[derive(Debug, Default)]
pub struct Options {
    /// Routes before the one of everything to the application.
    pub routes: Vec<Value>,
    /// HTTP filters before ours.
    pub before: Vec<Value>,
    /// HTTP filters after ours.
    pub after: Vec<Value>,
    /// What the application copies from a request to its calls.
    pub forward: Forward,
    /// Fields of the connection managers of single listeners, by their names.
    pub managers: Vec<(String, Value)>,
    /// Fields of every listener's connection manager, merged into the lab's own; `null`: none.
    pub manager: Value,
    /// Listeners beside the lab's own, inbound over HTTP/1.1, each with the filter of this
    /// configuration.
    pub listeners: Vec<(String, Value)>,
    /// What stands in place of the filter with its configuration, such as one that reads it
    /// from a file.
    pub filter: Option<Value>,
    /// Clusters beside the application's and the collector's.
    pub clusters: Vec<Value>,
    /// The node; absent: a plain one.
    pub node: Option<Value>,
    /// Workers; 0 is 2.
    pub workers: u32,
    /// Where each listener with the filter logs a line per request.
    pub access_log: Option<PathBuf>,
}

impl Workload {
    /// Starts all three with this configuration of the filter.
    pub async fn start(config: &Value) -> Self {
        Self::with(config, Options::default()).await
    }

    /// Starts all three.
    pub async fn with(config: &Value, options: Options) -> Self {
        let collector = Collector::start().await;
        let Options {
            forward,
            managers,
            routes,
            before,
            after,
            filter,
            listeners: more,
            manager,
            clusters,
            node: own_node,
            workers,
            access_log,
        } = options;
        let app = App::forwarding(forward).await;
        let filter = filter.unwrap_or_else(|| meshweft(config));
        let http = |name: &str, direction, to: &str, filter: Option<&Value>| {
            let mut routes = routes.clone();
            routes.push(route("/", to));
            let mut filters = before.clone();
            filters.extend(filter.cloned());
            filters.extend(after.clone());
            let log = access_log.as_deref().filter(|_| filter.is_some());
            let mut listener = listener(name, direction, filters, routes, log);
            let own = managers.iter().filter(|(of, _)| of == name).map(|(_, fields)| fields);
            for fields in own.chain([&manager]).filter(|fields| fields.is_object()) {
                let http = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                merge(http, fields.clone());
            }
            listener
        };
        let ours = Some(&filter);
        let mut listeners = vec![
            http("inbound", Direction::Inbound, "app", ours),
            http("outbound", Direction::Outbound, "app", ours),
            http("gateway", Direction::Unspecified, "app", ours),
            http("inbound-h2", Direction::Inbound, "app-h2", ours),
            http("outbound-h2", Direction::Outbound, "app-h2", ours),
            http("plain", Direction::Inbound, "app", None),
        ];
        listeners.extend(
            more.iter().map(|(name, config)| {
                http(name, Direction::Inbound, "app", Some(&meshweft(config)))
            }),
        );
        let mut all = vec![
            cluster("app", app.address()),
            cluster_h2("app-h2", app.address()),
            cluster(COLLECTOR, collector.address()),
            cluster_h2(COLLECTOR_H2, collector.address()),
        ];
        all.extend(clusters);
        let node = own_node.unwrap_or_else(|| node("lab"));
        let workers = if workers == 0 { 2 } else { workers };
        let envoy = Envoy::start(&bootstrap(node, listeners, all), workers).await;
        Self { envoy, app, collector }
    }

    /// Waits until the filter has counted this many requests since the start and has delivered
    /// every span of them, and gives the spans.
    ///
    /// # Panics
    /// If that does not come, or there are more of either.
    pub async fn settled(&self, requests: i64) -> Vec<Span> {
        let metrics = self
            .envoy
            .metrics_until(|metrics| {
                let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
                of("requests") >= requests
                    && of("exported") == of("sampled") + of("kept")
                    && of("queue_spans") + of("in_flight_spans") == 0
            })
            .await;
        let spans = self.collector.spans();
        let recorded = usize::try_from(metrics["sampled"] + metrics["kept"]).unwrap_or(0);
        assert_eq!((metrics["requests"], spans.len()), (requests, recorded), "{spans:#?}");
        spans
    }
}

/// A configuration that exports to the lab's collector every 100 ms, with these fields besides.
#[must_use]
pub fn exporting(more: Value) -> Value {
    let mut config = json!({
        "service": {"name": "lab"},
        "export": {"cluster": COLLECTOR, "batch": {"interval": "100ms"}},
    });
    merge(&mut config, more);
    config
}

/// Puts the fields of `from` into `into`, objects within objects.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
