//! Jaeger 2 with its spans in memory, read back through its query interfaces.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::otlp::{Whole, spans};
use super::{Backend, GLANCE, PATIENCE, Port, program};

/// The file of its sampling strategies, in its own folder.
const STRATEGIES: &str = "strategies.json";

/// How many traces it keeps.
const MAX_TRACES: usize = 10_000;

/// A running Jaeger.
#[derive(Debug)]
pub struct Jaeger {
    backend: Backend,
    http: Port,
    grpc: Port,
    query: Port,
    _query_grpc: Port,
    sampling: Port,
}

/// A span as Jaeger's own page gets it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shown {
    /// The span that it is the child of; empty for a root.
    pub parent_id: String,
    /// The service.
    pub service: String,
    /// The operation.
    pub operation: String,
    /// Whether it is marked as an error.
    pub error: bool,
}

impl Jaeger {
    /// Starts one that takes OTLP over HTTP and in gRPC.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start() -> Self {
        let (http, grpc, health, query, query_grpc, sampling) =
            (Port::any(), Port::any(), Port::any(), Port::any(), Port::any(), Port::any());
        let config = json!({
            "extensions": {
                "healthcheckv2": {"use_v2": true, "http": {"endpoint": health.text()}},
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": MAX_TRACES}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": {"endpoint": query.text()},
                    "grpc": {"endpoint": query_grpc.text()},
                },
                "remote_sampling": {
                    "file": {"path": STRATEGIES, "reload_interval": "100ms"},
                    "http": {"endpoint": sampling.text()},
                },
            },
            "receivers": {"otlp": {"protocols": {
                "http": {"endpoint": http.text()},
                "grpc": {"endpoint": grpc.text()},
            }}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query", "remote_sampling", "healthcheckv2"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {
                    "receivers": ["otlp"],
                    "exporters": ["jaeger_storage_exporter"],
                }},
            },
        });
        let program = program("MESHWEFT_JAEGER");
        let dir = tempfile::tempdir().expect("a temporary folder");
        write_strategies(dir.path(), &json!({}));
        let backend = Backend::in_folder(dir, &program, &config, (&health, "/status")).await;
        Self { backend, http, grpc, query, _query_grpc: query_grpc, sampling }
    }

    /// Where it takes OTLP/HTTP.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http.address
    }

    /// Where it takes OTLP/gRPC.
    #[must_use]
    pub const fn grpc(&self) -> SocketAddr {
        self.grpc.address
    }

    /// Where it tells of sampling strategies.
    #[must_use]
    pub const fn sampling(&self) -> SocketAddr {
        self.sampling.address
    }

    /// What it tells of sampling strategies from some moments on, as its file has them.
    pub fn strategies(&self, strategies: &Value) {
        write_strategies(self.backend.process.dir(), strategies);
    }

    /// The services that it knows.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn services(&self) -> Vec<String> {
        let json = self.backend.json(&self.query, "/api/v3/services").await.expect("services");
        let mut services = texts(&json["services"], |name| name.as_str().map(str::to_owned));
        services.sort();
        services
    }

    /// The operations of a service, as `kind name`.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn operations(&self, service: &str) -> Vec<String> {
        let path = format!("/api/v3/operations?service={service}");
        let json = self.backend.json(&self.query, &path).await.expect("operations");
        let operation = |operation: &Value| {
            Some(format!("{} {}", operation["spanKind"].as_str()?, operation["name"].as_str()?))
        };
        let mut operations = texts(&json["operations"], operation);
        operations.sort();
        operations
    }

    /// Waits until a trace has this many spans and gives them as they were stored, by span id.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn trace(&self, trace_id: &str, count: usize) -> Vec<Whole> {
        self.stored(&format!("/api/v3/traces/{trace_id}?raw_traces=true"), count).await
    }

    /// Waits until the traces of a service have this many spans together and gives them as they
    /// were stored, by trace and span id.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn traces(&self, service: &str, count: usize) -> Vec<Whole> {
        let path = format!(
            "/api/v3/traces?query.service_name={service}&query.num_traces={}\
             &query.start_time_min=2020-01-01T00:00:00Z&query.start_time_max=2100-01-01T00:00:00Z\
             &query.raw_traces=true",
            MAX_TRACES - 1,
        );
        self.stored(&path, count).await
    }

    /// Raw, as both ask for it: without what Jaeger corrects for its page, such as clocks.
    async fn stored(&self, path: &str, count: usize) -> Vec<Whole> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.backend.json(&self.query, path).await;
            let spans = answer.map_or_else(Vec::new, |mut answer| {
                let result = answer["result"].take();
                let export: ExportTraceServiceRequest =
                    serde_json::from_value(result).expect("OTLP in JSON");
                spans(vec![export])
            });
            if spans.len() >= count {
                return spans;
            }
            let log = || self.backend.log();
            assert!(Instant::now() < deadline, "{} of {count} spans\n{}", spans.len(), log());
            sleep(GLANCE).await;
        }
    }

    /// A trace as Jaeger's page shows it, by span id.
    ///
    /// # Panics
    /// If it is not there.
    pub async fn shown(&self, trace_id: &str) -> BTreeMap<String, Shown> {
        let path = format!("/api/traces/{trace_id}");
        let json = self.backend.json(&self.query, &path).await.expect("the trace");
        let trace = &json["data"][0];
        let span = |span: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let process = &trace["processes"][text(&span["processID"])];
            let mut tags = span["tags"].as_array().into_iter().flatten();
            let shown = Shown {
                parent_id: text(&span["references"][0]["spanID"]),
                service: text(&process["serviceName"]),
                operation: text(&span["operationName"]),
                error: tags.any(|tag| tag["key"] == "error" && tag["value"] == true),
            };
            (text(&span["spanID"]), shown)
        };
        trace["spans"].as_array().into_iter().flatten().map(span).collect()
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.backend.stop().await;
    }
}

/// In one piece, since it reads the file when it likes.
fn write_strategies(dir: &Path, strategies: &Value) {
    let new = dir.join("strategies.new");
    fs::write(&new, strategies.to_string()).expect("the strategies are written");
    fs::rename(&new, dir.join(STRATEGIES)).expect("the strategies are laid there");
}

fn texts(array: &Value, text: impl Fn(&Value) -> Option<String>) -> Vec<String> {
    array.as_array().into_iter().flatten().filter_map(text).collect()
}
