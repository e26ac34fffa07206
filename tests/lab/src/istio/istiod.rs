//! istiod, as its project builds it.

use std::fs;
use std::net::SocketAddr;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Block, Kube, Release};
use crate::client::{Client, Version};
use crate::process::{GLANCE, PATIENCE, Process};

/// What a mesh on loopback goes without: certificates, the webhooks that need them, and those
/// filters of Istio's own that are in no Envoy but Istio's.
const SETTINGS: [(&str, &str); 8] = [
    ("ENABLE_CA_SERVER", "false"),
    ("PILOT_CERT_PROVIDER", "none"),
    ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
    ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    ("PILOT_ENABLE_ALPN_FILTER", "false"),
    ("PILOT_DEBOUNCE_AFTER", "10ms"),
    ("PILOT_DEBOUNCE_MAX", "200ms"),
];

/// The kind of mesh that it steers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dataplane {
    /// Sidecars and gateways.
    Sidecars,
    /// Waypoints.
    Ambient,
}

impl Dataplane {
    const fn settings(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::Sidecars => {
                [("PILOT_ENABLE_GATEWAY_API", "false"), ("PILOT_ENABLE_AMBIENT", "false")]
            }
            Self::Ambient => {
                [("PILOT_ENABLE_GATEWAY_API", "true"), ("PILOT_ENABLE_AMBIENT", "true")]
            }
        }
    }
}

/// A running istiod.
#[derive(Debug)]
pub struct Istiod {
    process: Process,
    address: SocketAddr,
}

impl Istiod {
    /// Starts one with this configuration of the mesh on the block's second address, and waits
    /// until it serves proxies.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start(
        release: Release,
        block: &Block,
        kube: &Kube,
        dataplane: Dataplane,
        mesh_config: &str,
    ) -> Self {
        let ip = block.address(2);
        let at = |port: u16| SocketAddr::from((ip, port));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("mesh-config.yaml");
        fs::write(&file, mesh_config).expect("the configuration is written");
        let mut command = Command::new(release.file("pilot-discovery"));
        command
            .arg("discovery")
            .arg("--kubeconfig")
            .arg(kube.config())
            .arg("--meshConfig")
            .arg(&file)
            .args(["--networksConfig", "none"])
            .args(["--grpcAddr", &at(15010).to_string()])
            .args(["--httpAddr", &at(8080).to_string()])
            .args(["--monitoringAddr", &at(15014).to_string()])
            .args(["--secureGRPCAddr=", "--httpsAddr="])
            .args(["--ctrlz_address", &ip.to_string()])
            .args(["--domain", "cluster.local"])
            .envs(SETTINGS)
            .envs(dataplane.settings())
            .envs([("POD_NAMESPACE", "istio-system"), ("POD_NAME", "istiod-0")])
            .env("CLUSTER_ID", "Kubernetes")
            .env("HOME", dir.path());
        let client = Client::new(Version::H1);
        let mut process = Process::spawn(command, dir);
        process
            .until(async || {
                let answer = client.get(at(8080), "/ready", &[]).await;
                answer.is_ok_and(|answer| answer.status == 200)
            })
            .await;
        Self { process, address: at(15010) }
    }

    /// Where proxies ask.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until the log has a line with this text.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn logged(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in the log:\n{}", self.log());
            sleep(GLANCE).await;
        }
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}
