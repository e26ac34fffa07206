//! What is traced before a backend: workloads whose spans go to it, and a shop of two of them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::otlp::{Whole, hex};
use super::relay::Relay;
use crate::app::Call;
use crate::client::Version;
use crate::config::{cluster, cluster_h2, route};
use crate::envoy::adds_up;
use crate::load::flood;
use crate::mesh::{Options, Workload, exporting, merge};

/// The cluster of the relay before a backend.
const BACKEND: &str = "backend";

/// A protocol of the filter, and the version of HTTP that it needs.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    protocol: &'static str,
    version: Version,
}

/// OTLP over HTTP, as protobuf.
pub const HTTP: Way = Way { protocol: "otlp/http", version: Version::H1 };
/// OTLP over HTTP, as JSON.
pub const JSON: Way = Way { protocol: "otlp/http+json", version: Version::H1 };
/// OTLP as gRPC.
pub const GRPC: Way = Way { protocol: "otlp/grpc", version: Version::H2 };
/// Zipkin's second format.
pub const ZIPKIN: Way = Way { protocol: "zipkin", version: Version::H1 };

impl Way {
    /// A relay before that port of a backend which takes the protocol.
    pub async fn relay(self, http: SocketAddr, grpc: SocketAddr) -> Relay {
        let to = if self.version == Version::H2 { grpc } else { http };
        Relay::speaking(self.version, to).await
    }

    /// A workload of this name that exports to `backend`, with `more` in its configuration.
    pub async fn workload(
        self,
        name: &str,
        backend: SocketAddr,
        more: Value,
        mut options: Options,
    ) -> Workload {
        let mut config = exporting(json!({
            "service": {"name": name, "namespace": "shop"},
            "export": {"cluster": BACKEND, "protocol": self.protocol, "compression": "gzip"},
        }));
        merge(&mut config, more);
        options.clusters.push(match self.version {
            Version::H1 => cluster(BACKEND, backend),
            Version::H2 => cluster_h2(BACKEND, backend),
        });
        Workload::with(&config, options).await
    }
}

/// Waits until a workload has delivered this many spans, and none is anywhere else.
///
/// # Panics
/// If it has recorded another number.
pub async fn delivered(lab: &Workload, spans: usize) {
    let spans = i64::try_from(spans).expect("few");
    let metrics = lab
        .envoy
        .metrics_until(|metrics| {
            let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
            of("exported") >= spans && of("queue_spans") == 0 && adds_up(metrics)
        })
        .await;
    assert_eq!((metrics["sampled"], metrics["exported"]), (spans, spans));
}

/// Two workloads: `web` calls `stock` twice for every request to `/shop`, and the second call
/// fails; for one to `/stocked` it calls it once.
#[derive(Debug)]
pub struct Shop {
    /// What is called from outside.
    pub web: Workload,
    /// What it calls.
    pub stock: Workload,
}

/// The trace of a request to `/shop`, as [`shapes`](super::otlp::shapes) writes it.
pub const SHAPE: &str = "web SERVER GET [\
    web CLIENT GET [stock SERVER GET], \
    web CLIENT GET error [stock SERVER GET error]]";

impl Shop {
    /// What a request to `/shop` leaves at web: its span, and that of two calls.
    pub const SPANS_OF_WEB: usize = 3;
    /// At stock.
    pub const SPANS_OF_STOCK: usize = 2;

    /// Opens one that exports to `backend`.
    pub async fn open(way: Way, backend: SocketAddr) -> Self {
        let stock = way.workload("stock", backend, json!({}), Options::default()).await;
        let options = Options {
            routes: vec![route("/stock/", "stock")],
            clusters: vec![cluster("stock", stock.envoy.listener("inbound"))],
            ..Options::default()
        };
        let web = way.workload("web", backend, json!({}), options).await;
        for (on, path) in
            [("/shop", "/stock/7"), ("/shop", "/stock/status/503"), ("/stocked", "/stock/7")]
        {
            web.app.call(Call {
                on: on.to_owned(),
                to: web.envoy.listener("outbound"),
                host: "stock".to_owned(),
                path: path.to_owned(),
            });
        }
        Self { web, stock }
    }

    /// Sends `each` requests over each of `connections` connections.
    ///
    /// # Panics
    /// If one fails.
    pub async fn flood(&self, path: &str, connections: usize, each: usize) {
        let to = self.web.envoy.listener("inbound");
        let failures = flood(Version::H1, to, path, connections, each).await;
        assert_eq!(failures, Vec::<String>::new());
    }

    /// What the applications saw came from spans that are there.
    ///
    /// # Panics
    /// If it did not.
    pub fn every_parent_is_in(&self, written: &[Whole]) {
        let written: BTreeSet<_> = written.iter().map(|span| hex(&span.span.span_id)).collect();
        for seen in self.web.app.seen().iter().chain(&self.stock.app.seen()) {
            let parent = seen.one("traceparent").split('-').nth(2).unwrap_or_default().to_owned();
            assert!(written.contains(&parent), "{parent} is not a span's id");
        }
    }

    /// Ends both.
    pub async fn close(self) {
        self.web.envoy.stop().await;
        self.stock.envoy.stop().await;
    }
}
