//! Certificates for proxies without Istio's agent: `istio/istio-1.31/sds`.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::Release;
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
    /// Starts it for the proxies at these addresses, each with an identity, and waits until it
    /// answers all of them.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start(identities: &[(Ipv4Addr, String)]) -> Self {
        let mut command = Command::new(Release::V1_31.file("give-secrets"));
        let of = |(address, identity): &(Ipv4Addr, String)| format!("{address}:{PORT}={identity}");
        command.args(identities.iter().map(of));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut process = Process::spawn(command, dir);
        for (address, ..) in identities {
            let at = SocketAddr::from((*address, PORT));
            process.until(async || TcpStream::connect(at).await.is_ok()).await;
        }
        Self { process }
    }

    /// Tells the proxy at this address where to ask.
    ///
    /// # Panics
    /// If the value is no bootstrap.
    pub fn tell(address: Ipv4Addr, bootstrap: &mut Value) {
        let cluster = cluster_h2("sds-grpc", SocketAddr::from((address, PORT)));
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut();
        clusters.expect("clusters").push(cluster);
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}
