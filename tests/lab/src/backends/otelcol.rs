//! The OpenTelemetry Collector: it writes every span that it takes to a file, as OTLP in JSON.

use std::fs;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::otlp::{Whole, spans};
use super::{Backend, GLANCE, PATIENCE, Port, program};

/// The file of its spans, in its own folder.
const FILE: &str = "spans.jsonl";

/// A running Collector.
#[derive(Debug)]
pub struct OtelCollector {
    backend: Backend,
    http: Port,
    grpc: Port,
    zipkin: Port,
}

impl OtelCollector {
    /// Starts one that takes everything over OTLP/HTTP, OTLP/gRPC and Zipkin's second format.
    pub async fn start() -> Self {
        Self::changed(|_| {}).await
    }

    /// The same with a configuration that differs.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn changed(change: impl FnOnce(&mut Value)) -> Self {
        let (http, grpc, zipkin, health) = (Port::any(), Port::any(), Port::any(), Port::any());
        let mut config = json!({
            "extensions": {"health_check": {"endpoint": health.text()}},
            "receivers": {
                "otlp": {"protocols": {
                    "http": {"endpoint": http.text()},
                    "grpc": {"endpoint": grpc.text()},
                }},
                // Zipkin's values are texts: those that look like something else become that.
                "zipkin": {"endpoint": zipkin.text(), "parse_string_tags": true},
            },
            "processors": {},
            "exporters": {"file": {"path": FILE, "flush_interval": "100ms"}},
            "service": {
                "extensions": ["health_check"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {
                    "receivers": ["otlp", "zipkin"],
                    "processors": [],
                    "exporters": ["file"],
                }},
            },
        });
        change(&mut config);
        let program = program("MESHWEFT_OTELCOL");
        let backend = Backend::configured(&program, &config, (&health, "/")).await;
        Self { backend, http, grpc, zipkin }
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

    /// Where it takes Zipkin's second format.
    #[must_use]
    pub const fn zipkin(&self) -> SocketAddr {
        self.zipkin.address
    }

    /// Waits until it has written this many spans and gives all.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn written(&self, count: usize) -> Vec<Whole> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans();
            if spans.len() >= count {
                return spans;
            }
            let log = || self.backend.log();
            assert!(Instant::now() < deadline, "{} of {count} spans\n{}", spans.len(), log());
            sleep(GLANCE).await;
        }
    }

    /// What it has written so far.
    ///
    /// # Panics
    /// If that is not OTLP.
    #[must_use]
    pub fn spans(&self) -> Vec<Whole> {
        let text = fs::read_to_string(self.backend.process.dir().join(FILE)).unwrap_or_default();
        // The last line may not be whole yet.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let export =
            |line| serde_json::from_str::<ExportTraceServiceRequest>(line).expect("OTLP in JSON");
        spans(lines.map(export).collect())
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.backend.stop().await;
    }
}
