//! A mesh under Istio's own control plane: a Kubernetes API without nodes, istiod, and Envoys that
//! get everything from it. Two applications behind sidecars, a gateway before them, a collector:
//! `gateway -> web -> stock`.
//!
//! `istio/mesh` has what is applied; each mesh has a block of loopback of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::app::{App, Call, Forward};
use crate::client::{Answer, Client, Version};
use crate::collector::{Collector, Span};
use crate::config::{COLLECTOR, Direction, bootstrap, cluster, listener, node, route};
use crate::envoy::Envoy;
use crate::native::exporting_soon;
use crate::paths;
use crate::process::{GLANCE, named};

pub mod istiod;
pub mod kube;
pub mod proxy;
pub mod secrets;

use istiod::{Dataplane, Istiod};
use kube::Kube;
use proxy::{Kind, Proxy};
use secrets::Secrets;

/// A version of Istio, as `make test-istio` has it built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// The first with `TrafficExtension`.
    V1_30,
    /// The one after it.
    V1_31,
}

impl Release {
    /// As proxies name their version.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::V1_30 => "1.30.4",
            Self::V1_31 => "1.31.0",
        }
    }

    /// A file of it: `pilot-discovery`, `istioctl`, `crds.yaml` …
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn file(self, name: &str) -> PathBuf {
        let variable = match self {
            Self::V1_30 => "MESHWEFT_ISTIO_1_30",
            Self::V1_31 => "MESHWEFT_ISTIO_1_31",
        };
        named(variable, "test-istio").join(name)
    }
}

/// 256 addresses on loopback that no other mesh of this machine has.
#[derive(Debug)]
pub struct Block {
    prefix: [u8; 3],
    _held: TcpListener,
}

impl Block {
    /// A free block.
    ///
    /// # Panics
    /// If all are taken.
    #[must_use]
    pub fn any() -> Self {
        let start = std::process::id();
        let block = (0..60_000).find_map(|step| {
            let number = (start + step) % 60_000;
            // Below 127.16 there is what systems use themselves.
            let prefix = [127, 16 + (number / 256) as u8, (number % 256) as u8];
            let held = TcpListener::bind((Ipv4Addr::new(127, prefix[1], prefix[2], 1), 1)).ok()?;
            Some(Self { prefix, _held: held })
        });
        block.expect("a free block of loopback")
    }

    /// An address of it.
    #[must_use]
    pub const fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, host)
    }

    /// Its first three numbers, as in manifests.
    fn text(&self) -> String {
        let [a, b, c] = self.prefix;
        format!("{a}.{b}.{c}")
    }
}

/// One of our manifests, in `istio/`, with the module from this machine.
///
/// # Panics
/// If there is none of that name.
#[must_use]
pub fn manifest(file: &str) -> String {
    let path = paths::workspace().join("istio").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut rest, mut local) = (text.as_str(), String::new());
    while let Some((before, image)) = rest.split_once("oci://registry.example/meshweft:") {
        let version = image.find(char::is_whitespace).unwrap_or(image.len());
        local.push_str(&format!("{before}file://{}", paths::module().display()));
        rest = &image[version..];
    }
    local + rest
}

/// A part of the mesh that the tests run, in `tests/lab/istio/mesh`.
///
/// # Panics
/// If there is none of that name.
#[must_use]
pub fn part(file: &str) -> String {
    let path = paths::workspace().join("tests/lab/istio/mesh").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The mesh, with traffic to send through it.
#[derive(Debug)]
pub struct Mesh {
    /// What the Envoys are told.
    pub istiod: Istiod,
    /// What istiod is told.
    pub kube: Kube,
    /// The gateway, and the sidecars of both applications.
    pub gateway: Envoy,
    /// The sidecar of the first application.
    pub web: Envoy,
    /// The sidecar of the second.
    pub stock: Envoy,
    /// The applications behind them.
    pub apps: [App; 2],
    /// Where spans go.
    pub collector: Collector,
    guard: Option<Guard>,
    client: Client,
    block: Block,
}

/// What stands before the collector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A sidecar that takes mutual TLS of the mesh alone.
    Sidecar,
    /// A server outside the mesh, which takes TLS alone, as [`EXTERNAL`].
    Server,
}

/// The name of the server outside the mesh, as our manifests have it.
pub const EXTERNAL: &str = "otlp.example.com";

/// The proxy before the collector, and whoever gives certificates.
#[derive(Debug)]
struct Guard {
    secrets: Secrets,
    envoy: Envoy,
}

impl Mesh {
    /// Starts everything, with these manifests applied before the first proxy comes.
    ///
    /// # Panics
    /// If a part does not come up; the message has its log.
    pub async fn start(release: Release, manifests: &[&str]) -> Self {
        Self::with(release, manifests, Before::Nothing).await
    }

    /// The same with something before the collector.
    ///
    /// # Panics
    /// If a part does not come up; the message has its log.
    pub async fn with(release: Release, manifests: &[&str], before: Before) -> Self {
        let block = Block::any();
        let collector = Collector::start().await;
        let apps = [App::forwarding(FORWARD).await, App::forwarding(FORWARD).await];
        let kube = Kube::start(&block).await;
        kube.install(&release.file("crds.yaml")).await;
        let is_strict = before == Before::Sidecar;
        let place = if is_strict { "collector-strict.yaml" } else { "collector.yaml" };
        for file in ["namespaces.yaml", "workloads.yaml", "traffic.yaml", place] {
            let text = part(file)
                .replace("LOOPBACK", &block.text())
                .replace("WEB_PORT", &apps[0].address().port().to_string())
                .replace("STOCK_PORT", &apps[1].address().port().to_string())
                .replace("COLLECTOR_PORT", &collector.address().port().to_string());
            kube.apply(&text).await;
        }
        for file in ["collector-service.yaml", "base/telemetry-off.yaml"] {
            kube.apply(&manifest(file)).await;
        }
        for text in manifests {
            kube.apply(&text.replace("LOOPBACK", &block.text())).await;
        }
        let mut config = part("mesh-config.yaml");
        if is_strict {
            config = config.replace("enableAutoMtls: false", "enableAutoMtls: true");
        }
        let istiod = Istiod::start(release, &block, &kube, Dataplane::Sidecars, &config).await;
        let has_secrets = before != Before::Nothing;
        let secrets = if has_secrets { Some(secrets(&block, before).await) } else { None };
        let start = async |proxy: Proxy<'_>| {
            let mut bootstrap = exporting_soon(proxy.bootstrap(release, istiod.address()));
            if has_secrets {
                Secrets::tell(proxy.address, &mut bootstrap);
            }
            Envoy::draining(&bootstrap, 2, DRAIN, "immediate").await
        };
        let gateway = start(Proxy {
            kind: Kind::Router,
            name: "istio-ingressgateway",
            namespace: "istio-ingress",
            address: block.address(10),
            labels: json!({"istio": "ingressgateway"}),
        })
        .await;
        let sidecar = |name, host, stage| Proxy {
            kind: Kind::Sidecar,
            name,
            namespace: "shop",
            address: block.address(host),
            labels: json!({"app": name, "version": "v1", "meshweft": stage}),
        };
        let web = start(sidecar("web", 11, "stable")).await;
        let stock = start(sidecar("stock", 12, "canary")).await;
        apps[0].call(Call {
            on: "/".to_owned(),
            to: SocketAddr::from((block.address(11), 8081)),
            host: "stock.shop.svc.cluster.local:8081".to_owned(),
            path: "/items".to_owned(),
        });
        let guard = match (secrets, before) {
            (Some(secrets), Before::Sidecar) => {
                let proxy = Proxy {
                    kind: Kind::Sidecar,
                    name: "otel-collector",
                    namespace: "observability",
                    address: block.address(GUARD),
                    labels: json!({"app": "otel-collector"}),
                };
                Some(Guard { secrets, envoy: start(proxy).await })
            }
            (Some(secrets), _) => {
                let server = server(block.address(GUARD), collector.address());
                Some(Guard { secrets, envoy: Envoy::start(&server, 1).await })
            }
            (None, _) => None,
        };
        let client = Client::new(Version::H1);
        Self { istiod, kube, gateway, web, stock, apps, collector, guard, client, block }
    }

    /// Where the gateway listens.
    #[must_use]
    pub fn edge(&self) -> SocketAddr {
        SocketAddr::from((self.block.address(10), 8080))
    }

    /// Where the sidecar of the first application takes what is for it.
    #[must_use]
    pub fn web_inbound(&self) -> SocketAddr {
        SocketAddr::from((self.block.address(11), 15080))
    }

    /// What stands before the collector, and where it takes spans on this port.
    #[must_use]
    pub fn guard(&self, port: u16) -> Option<(&Envoy, SocketAddr)> {
        let guard = self.guard.as_ref()?;
        Some((&guard.envoy, SocketAddr::from((self.block.address(GUARD), port))))
    }

    /// Sends a request through the whole mesh.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        let headers: [(&str, &[u8]); 1] = [("host", b"shop.example")];
        self.client.get(self.edge(), path, &headers).await.expect("an answer")
    }

    /// Whether the first application got a request to this path as one that is recorded.
    ///
    /// # Panics
    /// If it did not get it, or without a `traceparent`.
    #[must_use]
    pub fn recorded(&self, path: &str) -> bool {
        let seen = self.apps[0].seen();
        let request = seen.iter().rev().find(|seen| seen.path == path).expect("a request");
        let traceparent = request.one("traceparent");
        assert_eq!(traceparent.len(), 55, "{traceparent:?}");
        traceparent.ends_with(RECORDED)
    }

    /// How many spans the proxies owe, by what the applications were told.
    #[must_use]
    pub fn owed(&self) -> usize {
        let [web, stock] = self.apps.each_ref().map(|app| {
            let seen = app.seen();
            seen.iter().filter(|seen| seen.one("traceparent").ends_with(RECORDED)).count()
        });
        // The gateway, the sidecar on the way in, and on the way out; then the next one.
        3 * web + stock
    }

    /// Waits until no more spans come, and gives all.
    pub async fn quiet(&self) -> Vec<Span> {
        let mut last = (usize::MAX, Instant::now());
        loop {
            let spans = self.collector.spans();
            if spans.len() != last.0 {
                last = (spans.len(), Instant::now());
            }
            if last.1.elapsed() > SILENCE {
                return spans;
            }
            sleep(GLANCE).await;
        }
    }

    /// The three proxies, in the order of a request.
    #[must_use]
    pub const fn proxies(&self) -> [&Envoy; 3] {
        [&self.gateway, &self.web, &self.stock]
    }

    /// Ends everything.
    pub async fn stop(self) {
        for envoy in [self.gateway, self.web, self.stock] {
            envoy.stop().await;
        }
        if let Some(Guard { secrets, envoy }) = self.guard {
            envoy.stop().await;
            secrets.stop().await;
        }
        self.istiod.stop().await;
        self.kube.stop().await;
    }
}

/// Where what stands before the collector is in the block.
const GUARD: u8 = 13;

/// Gives each proxy the certificate of its service account, and a server that of its name.
async fn secrets(block: &Block, before: Before) -> Secrets {
    let account = |host, namespace, name| {
        (block.address(host), format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"))
    };
    let guard = match before {
        Before::Nothing | Before::Sidecar => account(GUARD, "observability", "otel-collector"),
        Before::Server => (block.address(GUARD), EXTERNAL.to_owned()),
    };
    let gateway = account(10, "istio-ingress", "istio-ingressgateway");
    Secrets::start(&[gateway, account(11, "shop", "web"), account(12, "shop", "stock"), guard])
        .await
}

/// A server that takes TLS for its name on port 4318, and hands what comes to the collector.
fn server(address: Ipv4Addr, collector: SocketAddr) -> Value {
    let routes = vec![route("/", COLLECTOR)];
    let mut listener = listener("tls", Direction::Inbound, vec![], routes, None);
    listener["address"]["socket_address"] =
        json!({"address": address.to_string(), "port_value": 4318});
    listener["listener_filters"] = json!([{
        "name": "tls_inspector",
        "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
    }]);
    let chain = &mut listener["filter_chains"][0];
    chain["filter_chain_match"] = json!({"server_names": [EXTERNAL]});
    chain["transport_socket"] = json!({
        "name": "tls",
        "typed_config": {
            "@type":
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{
                "name": "default",
                "sds_config": {
                    "resource_api_version": "V3",
                    "api_config_source": {
                        "api_type": "GRPC",
                        "transport_api_version": "V3",
                        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
                    },
                },
            }]},
        },
    });
    let clusters = vec![cluster(COLLECTOR, collector)];
    let mut bootstrap = bootstrap(node("server"), vec![listener], clusters);
    Secrets::tell(address, &mut bootstrap);
    bootstrap
}

/// Istio gives connections 45 seconds where a listener changes, and asks for an end with the next
/// answer; less for the sake of tests, and not so little that they are cut off.
const DRAIN: u32 = 8;

/// Longer than spans wait before they are sent: a batch of a second, and a tick.
const SILENCE: Duration = Duration::from_secs(3);

/// The flags of a trace that is recorded, whose id is random.
const RECORDED: char = '3';

/// What the applications pass on: no trace headers.
const FORWARD: Forward = Forward::RequestId;

/// The spans of a trace as lines `service KIND <- parent's service KIND`, in the order of time.
#[must_use]
pub fn hops(spans: &[Span]) -> Vec<String> {
    let mut spans: Vec<_> = spans.iter().collect();
    spans.sort_by_key(|span| span.start);
    let label = |span: &Span| format!("{} {}", span.service(), span.kind);
    let hop = |span: &&Span| {
        let parent = spans.iter().find(|other| other.span_id == span.parent_id);
        let parent = parent.map_or_else(|| span.parent_id.clone(), |parent| label(parent));
        format!("{} <- {parent}", label(span))
    };
    spans.iter().map(hop).collect()
}
