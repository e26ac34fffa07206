//! The trace backends that people run, as child processes on loopback: started, fed through a
//! [`relay`] that notes what goes in, and read back through their own interfaces.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::process::Command;

use crate::client::{Client, Version};
use crate::process::{GLANCE, PATIENCE, Process, named};

pub mod browser;
pub mod jaeger;
pub mod otelcol;
pub mod otlp;
pub mod relay;
pub mod shop;
pub mod skywalking;
pub mod zipkin;

/// The program of a backend, named by an environment variable.
fn program(variable: &str) -> PathBuf {
    named(variable, "test-backends")
}

/// A port on loopback that nobody else gets: held by a socket that does not listen, beside which
/// the backend, which reuses addresses as servers do, can.
#[derive(Debug)]
struct Port {
    _held: TcpSocket,
    address: SocketAddr,
}

impl Port {
    fn any() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("an option");
        held.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let address = held.local_addr().expect("an address");
        Self { _held: held, address }
    }

    /// As configurations name it.
    fn text(&self) -> String {
        self.address.to_string()
    }
}

/// A backend as a child process, and a client of its interface; killed when dropped.
#[derive(Debug)]
struct Backend {
    process: Process,
    client: Client,
}

impl Backend {
    /// Starts a program of the OpenTelemetry Collector's family with this configuration.
    async fn configured(program: &Path, config: &Value, health: (&Port, &str)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self::in_folder(dir, program, config, health).await
    }

    /// The same in a folder with files that it needs.
    async fn in_folder(
        dir: TempDir,
        program: &Path,
        config: &Value,
        health: (&Port, &str),
    ) -> Self {
        let file = dir.path().join("config.json");
        fs::write(&file, config.to_string()).expect("the configuration is written");
        let mut command = Command::new(program);
        command.arg("--config").arg(file);
        Self::start(command, dir, health).await
    }

    /// Starts a program in a folder of its own and waits until its health check says yes.
    async fn start(command: Command, dir: TempDir, health: (&Port, &str)) -> Self {
        let (mut process, client) = (Process::spawn(command, dir), Client::new(Version::H1));
        let (port, path) = health;
        process
            .until(async || {
                let answer = client.get(port.address, path, &[]).await;
                answer.is_ok_and(|answer| answer.status == 200)
            })
            .await;
        Self { process, client }
    }

    fn log(&self) -> String {
        self.process.log()
    }

    /// The JSON at a path; `None` if there is nothing yet.
    async fn json(&self, port: &Port, path: &str) -> Option<Value> {
        let answer = self.client.get(port.address, path, &[]).await.expect("an answer");
        let text = String::from_utf8_lossy(&answer.body);
        match answer.status {
            200 => Some(serde_json::from_str(&text).expect("JSON")),
            404 => None,
            status => panic!("{status} at {path}: {text}"),
        }
    }

    /// Ends it as an operator would, and waits.
    async fn stop(self) {
        self.process.stop().await;
    }
}
