//! Programs as child processes, each in a folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a program may take to come up, to show what it was given, and to end.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The pause between two looks at what a program gives no event for.
pub const GLANCE: Duration = Duration::from_millis(50);

/// The file or folder that an environment variable names.
///
/// # Panics
/// If it names nothing that is there: a test that needs it fails without it.
#[must_use]
pub fn named(variable: &str, target: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).unwrap_or_default();
    assert!(path.exists(), "{variable} names nothing that is there: `make {target}` gets it");
    path
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    dir: TempDir,
}

impl Process {
    /// Starts a program in its folder, where it also logs.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(mut command: Command, dir: TempDir) -> Self {
        let log = fs::File::create(dir.path().join("log")).expect("a log file");
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, dir }
    }

    /// Waits until the program is ready.
    ///
    /// # Panics
    /// If it ends, or does not become ready; the message has its log.
    pub async fn until(&mut self, ready: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready().await {
            let ended = self.child.try_wait().expect("the state of the program");
            assert!(ended.is_none(), "the program ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < deadline, "the program is not ready\n{}", self.log());
            sleep(GLANCE).await;
        }
    }

    /// Its folder, gone with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Ends it as an operator would, and waits.
    pub async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
