//! The Kubernetes API, without nodes and controllers, and `kubectl`: `istio/istio-1.31/kube`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Block, Release};
use crate::process::Process;

/// A running API.
#[derive(Debug)]
pub struct Kube {
    process: Process,
    program: PathBuf,
}

impl Kube {
    /// Starts one on the block's first address and waits until it is ready.
    ///
    /// # Panics
    /// If it does not come up; the message has its log.
    pub async fn start(block: &Block) -> Self {
        let program = Release::V1_31.file("kube-api");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(&program);
        command.arg("serve").arg(block.address(1).to_string()).arg(dir.path());
        let mut kube = Self { process: Process::spawn(command, dir), program };
        let (config, program) = (kube.config(), kube.program.clone());
        kube.process
            .until(async || {
                let ready = kubectl(&program, &config, &["get", "--raw", "/readyz"], "").await;
                ready.is_ok_and(|answer| answer == "ok")
            })
            .await;
        kube
    }

    /// The kubeconfig of a user who may do anything.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.process.dir().join("kubeconfig")
    }

    /// Runs kubectl, with this text as its input.
    ///
    /// # Errors
    /// What it says.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        kubectl(&self.program, &self.config(), arguments, input).await
    }

    /// Installs definitions of resources and waits until they are served.
    ///
    /// # Panics
    /// If that fails.
    pub async fn install(&self, definitions: &Path) {
        let file = definitions.display().to_string();
        self.done(&["create", "-f", &file], "").await;
        self.done(&["wait", "--for", "condition=established", "crd", "--all"], "").await;
    }

    /// Applies manifests; what is not quite right in them is refused.
    ///
    /// # Panics
    /// If they are refused.
    pub async fn apply(&self, manifests: &str) {
        self.done(&["apply", "--validate=strict", "-f", "-"], manifests).await;
    }

    /// Deletes what manifests describe.
    ///
    /// # Panics
    /// If that fails.
    pub async fn delete(&self, manifests: &str) {
        self.done(&["delete", "-f", "-"], manifests).await;
    }

    async fn done(&self, arguments: &[&str], input: &str) {
        if let Err(said) = self.kubectl(arguments, input).await {
            panic!("kubectl {}: {said}\n{input}", arguments.join(" "));
        }
    }

    /// Ends it and waits.
    pub async fn stop(self) {
        self.process.stop().await;
    }
}

async fn kubectl(
    program: &Path,
    config: &Path,
    arguments: &[&str],
    input: &str,
) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", config)
        // Nothing of the user's is read or written.
        .env("HOME", config.parent().unwrap_or(config))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
