//! Zipkin's server with its spans in memory, read back through its API.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Backend, GLANCE, PATIENCE, Port, program};

/// A running Zipkin.
#[derive(Debug)]
pub struct Zipkin {
    backend: Backend,
    http: Port,
}

impl Zipkin {
    /// Starts one; it needs some seconds.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start() -> Self {
        let http = Port::any();
        let mut command = Command::new("java");
        command
            .args(["-Xmx256m", "-jar"])
            .arg(program("MESHWEFT_ZIPKIN"))
            // One port on loopback, and nothing else.
            .arg("--armeria.ports[0].ip=127.0.0.1")
            .arg(format!("--armeria.ports[0].port={}", http.address.port()))
            .arg("--armeria.ports[0].protocols[0]=http")
            .envs([("STORAGE_TYPE", "mem"), ("COLLECTOR_GRPC_ENABLED", "false")])
            .env("SELF_TRACING_ENABLED", "false");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let backend = Backend::start(command, dir, (&http, "/health")).await;
        Self { backend, http }
    }

    /// Where it takes spans and shows them.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http.address
    }

    /// Waits until all its traces have this many spans together and gives them, in JSON.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn traces(&self, limit: usize, count: usize) -> Vec<Value> {
        let path = format!("/api/v2/traces?limit={limit}&lookback=86400000");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.backend.json(&self.http, &path).await.expect("traces");
            let traces = answer.as_array().into_iter().flatten();
            let spans: Vec<_> = traces.filter_map(Value::as_array).flatten().cloned().collect();
            if spans.len() >= count {
                return spans;
            }
            let log = || self.backend.log();
            assert!(Instant::now() < deadline, "{} of {count} spans\n{}", spans.len(), log());
            sleep(GLANCE).await;
        }
    }

    /// Which service has called which, in JSON, up to `end` in milliseconds since 1970.
    ///
    /// # Panics
    /// If it does not say.
    pub async fn dependencies(&self, end: u64) -> Value {
        let path = format!("/api/v2/dependencies?endTs={end}");
        self.backend.json(&self.http, &path).await.expect("dependencies")
    }

    /// Its page about a trace.
    #[must_use]
    pub fn trace_page(&self, trace_id: &str) -> String {
        format!("http://{}/zipkin/traces/{trace_id}", self.http.address)
    }

    /// Its page about the dependencies of the day up to `end`, in milliseconds since 1970.
    #[must_use]
    pub fn dependency_page(&self, end: u64) -> String {
        let start = end.saturating_sub(86_400_000);
        format!("http://{}/zipkin/dependency?startTime={start}&endTime={end}", self.http.address)
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.backend.stop().await;
    }
}
