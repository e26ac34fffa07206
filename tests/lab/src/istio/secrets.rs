//! Certificates for proxies without Istio's agent: `istio/istio-1.31/sds`.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::Release;
use super::proxy::Proxy;
use crate::config::cluster_h2;
use crate::process::Process;

/// Where a proxy asks for its certificate, on its own address.
const PORT: u16 = 15011;

/// Who gives them; the authority is gone with it.
#[derive(Debug)]
pub struct Secrets {
    process: Process,
}

impl Secrets {
    /// Starts it for the proxies at these addresses and waits until it answers all of them. An
    /// identity is a namespace and a service account.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start(identities: &[(Ipv4Addr, &str, &str)]) -> Self {
        let mut command = Command::new(Release::V1_31.file("give-secrets"));
        command.args(identities.iter().map(|(address, namespace, account)| {
            format!("{address}:{PORT}=spiffe://cluster.local/ns/{namespace}/sa/{account}")
        }));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut process = Process::spawn(command, dir);
        for (address, ..) in identities {
            let at = SocketAddr::from((*address, PORT));
            process.until(async || TcpStream::connect(at).await.is_ok()).await;
        }
        Self { process }
    }

    /// Tells a proxy where to ask.
    ///
    /// # Panics
    /// If the value is no bootstrap.
    pub fn tell(proxy: &Proxy<'_>, bootstrap: &mut Value) {
        let cluster = cluster_h2("sds-grpc", SocketAddr::from((proxy.address, PORT)));
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut();
        clusters.expect("clusters").push(cluster);
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}
