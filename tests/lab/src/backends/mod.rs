//! The trace backends that people run, as child processes on loopback: started, fed through a
//! [`relay`] that notes what goes in, and read back through their own interfaces.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Version};

pub mod jaeger;
pub mod otelcol;
pub mod otlp;
pub mod relay;
pub mod zipkin;

/// How long a backend may take to come up, to show what it was given, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks at what a backend gives no event for.
const GLANCE: Duration = Duration::from_millis(50);

/// The program of a backend, named by an environment variable.
///
/// # Panics
/// If it names no file: a test that needs a backend fails without it.
fn program(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).unwrap_or_default();
    assert!(path.is_file(), "{variable} names no program: `make test-backends` gets it");
    path
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

/// A backend as a child process; killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    dir: TempDir,
    client: Client,
}

impl Process {
    /// Starts a program of the OpenTelemetry Collector's family with this configuration.
    async fn configured(program: &Path, config: &Value, health: (&Port, &str)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("config.json");
        fs::write(&file, config.to_string()).expect("the configuration is written");
        let mut command = Command::new(program);
        command.arg("--config").arg(file);
        Self::start(command, dir, health).await
    }

    /// Starts a program in a folder of its own and waits until its health check says yes.
    async fn start(mut command: Command, dir: TempDir, health: (&Port, &str)) -> Self {
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the backend starts");
        let mut process = Self { child, dir, client: Client::new(Version::H1) };
        let (port, path) = health;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = process.child.try_wait().expect("the backend's state");
            assert!(ended.is_none(), "the backend ended: {ended:?}\n{}", process.log());
            let answer = process.client.get(port.address, path, &[]).await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return process;
            }
            assert!(Instant::now() < deadline, "the backend is not ready\n{}", process.log());
            sleep(GLANCE).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
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
    async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
