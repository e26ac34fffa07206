//! A real Envoy as a child process.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Version};
use crate::paths;

/// How long an Envoy may take to come up, and an awaited figure to be reached.
const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two looks at what Envoy gives no event for.
const GLANCE: Duration = Duration::from_millis(20);

/// What the names of the filter's metrics begin with in `/stats`.
const FILTER: &str = "wasmcustom.meshweft_";

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    dir: TempDir,
    admin: SocketAddr,
    client: Client,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Envoy {
    /// Starts an Envoy with this many workers and waits until it takes traffic.
    ///
    /// # Panics
    /// If it does not come up; the message has the end of its log.
    pub async fn start(bootstrap: &Value, workers: u32) -> Self {
        Self::draining(bootstrap, workers, 1, "gradual").await
    }

    /// The same, with so many seconds for the connections of a listener that changes, and Envoy's
    /// name of how it ends them.
    ///
    /// # Panics
    /// If it does not come up; the message has the end of its log.
    pub async fn draining(bootstrap: &Value, workers: u32, drain: u32, strategy: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("envoy.json");
        fs::write(&config, bootstrap.to_string()).expect("the bootstrap is written");
        let log = fs::File::create(dir.path().join("envoy.log")).expect("a log file");
        let access_log = fs::File::create(dir.path().join("access.log")).expect("a log file");
        let admin_file = dir.path().join("admin");
        let mut child = Command::new(paths::envoy())
            .arg("-c")
            .arg(&config)
            .arg("--admin-address-path")
            .arg(&admin_file)
            .args(["--concurrency", &workers.to_string()])
            .args(["--disable-hot-restart", "--log-level", "warning"])
            .args(["--component-log-level", "wasm:info"])
            .args(["--drain-time-s", &drain.to_string(), "--drain-strategy", strategy])
            .args(["--parent-shutdown-time-s", &(drain + 1).to_string()])
            .args(["--file-flush-interval-msec", "50"])
            .current_dir(paths::workspace())
            .stdin(Stdio::null())
            .stdout(access_log)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("Envoy starts");
        let deadline = Instant::now() + PATIENCE;
        let mut envoy = loop {
            let ended = child.try_wait().expect("Envoy's state");
            let log = || tail(&dir.path().join("envoy.log"));
            assert!(ended.is_none(), "Envoy ended: {ended:?}\n{}", log());
            assert!(Instant::now() < deadline, "Envoy did not come up\n{}", log());
            if let Ok(Ok(admin)) = fs::read_to_string(&admin_file).map(|text| text.trim().parse()) {
                let client = Client::new(Version::H1);
                break Self { child, dir, admin, client, listeners: BTreeMap::new() };
            }
            sleep(GLANCE).await;
        };
        loop {
            if envoy.admin("/ready").await.is_some_and(|text| text.trim() == "LIVE") {
                break;
            }
            assert!(Instant::now() < deadline, "Envoy is not ready\n{}", envoy.log());
            sleep(GLANCE).await;
        }
        let text = envoy.admin("/listeners?format=json").await.expect("the listeners");
        let json: Value = serde_json::from_str(&text).expect("JSON of the listeners");
        for listener in json["listener_statuses"].as_array().into_iter().flatten() {
            let name = listener["name"].as_str().expect("a name").to_owned();
            let address = &listener["local_address"]["socket_address"];
            let port = address["port_value"].as_u64().expect("a port");
            let address = format!("{}:{port}", address["address"].as_str().expect("an address"));
            envoy.listeners.insert(name, address.parse().expect("an address"));
        }
        envoy
    }

    /// Whether Envoy accepts a configuration file, and what it says if not.
    ///
    /// # Errors
    /// Envoy's own words.
    pub async fn validate(config: &Path) -> Result<(), String> {
        let output = Command::new(paths::envoy())
            .args(["--mode", "validate", "--disable-hot-restart", "-c"])
            .arg(config)
            .current_dir(paths::workspace())
            .stdin(Stdio::null())
            .output()
            .await
            .expect("Envoy starts");
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Where a listener listens.
    ///
    /// # Panics
    /// If there is no listener of this name.
    #[must_use]
    pub fn listener(&self, name: &str) -> SocketAddr {
        *self.listeners.get(name).unwrap_or_else(|| panic!("no listener {name}"))
    }

    /// A folder of this Envoy's own, gone with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("envoy.log")).unwrap_or_default()
    }

    /// What access loggers have written to the standard output.
    #[must_use]
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }

    /// The sorted lines of an access log in a file, when there are as many as wanted.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn access_log_lines(&self, log: &Path, wanted: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(log).unwrap_or_default();
            if text.lines().count() >= wanted {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                return lines;
            }
            let log = || self.log();
            assert!(Instant::now() < deadline, "not {wanted} lines in\n{text}\n{}", log());
            sleep(GLANCE).await;
        }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All counters and gauges.
    pub async fn stats(&self) -> BTreeMap<String, i64> {
        let text = self.admin("/stats").await.unwrap_or_default();
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(pair).collect()
    }

    /// Waits until Envoy's figures are as wanted and gives them.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn stats_until(
        &self,
        wanted: impl Fn(&BTreeMap<String, i64>) -> bool,
    ) -> BTreeMap<String, i64> {
        self.figures_until(PATIENCE, "", wanted).await
    }

    /// A metric of the filter, without its prefix; 0 if it is not there.
    pub async fn metric(&self, name: &str) -> i64 {
        let stats = self.stats().await;
        stats.get(&format!("{FILTER}{name}")).copied().unwrap_or(0)
    }

    /// Waits until the filter's metrics are as wanted and gives them, without their prefix.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn metrics_until(
        &self,
        wanted: impl Fn(&BTreeMap<String, i64>) -> bool,
    ) -> BTreeMap<String, i64> {
        self.metrics_within(PATIENCE, wanted).await
    }

    /// The same with a patience of one's own.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn metrics_within(
        &self,
        patience: Duration,
        wanted: impl Fn(&BTreeMap<String, i64>) -> bool,
    ) -> BTreeMap<String, i64> {
        self.figures_until(patience, FILTER, wanted).await
    }

    /// Waits until the figures whose names begin with `prefix` are as wanted, and gives them
    /// without it.
    async fn figures_until(
        &self,
        patience: Duration,
        prefix: &str,
        wanted: impl Fn(&BTreeMap<String, i64>) -> bool,
    ) -> BTreeMap<String, i64> {
        let deadline = Instant::now() + patience;
        loop {
            let stats = self.stats().await.into_iter();
            let figures = stats
                .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value)))
                .collect();
            if wanted(&figures) {
                return figures;
            }
            assert!(Instant::now() < deadline, "figures stayed at {figures:#?}\n{}", self.log());
            sleep(GLANCE).await;
        }
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

    /// The answer of the admin interface, if it is 200.
    pub async fn admin(&self, path: &str) -> Option<String> {
        let answer = self.client.get(self.admin, path, &[]).await.ok()?;
        (answer.status == 200).then(|| String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Lets a component of Envoy log more, or less.
    ///
    /// # Panics
    /// If Envoy knows no such component or level.
    pub async fn log_at(&self, component: &str, level: &str) {
        let path = format!("/logging?{component}={level}");
        let answer = self.client.send("POST", self.admin, &path, &[], Bytes::new()).await;
        assert_eq!(answer.expect("an answer").status, 200, "{path}");
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

    /// Writes a file at once, as Envoy's watch of moved files wants it.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn replace_file(path: &Path, text: &str) {
        let new: PathBuf = path.with_extension("new");
        fs::write(&new, text).expect("written");
        fs::rename(&new, path).expect("moved");
    }
}

/// Whether every span is accounted for: delivered, dropped by cause, or still here.
/// It holds for the filter's metrics, without their prefix, while no request is open.
#[must_use]
pub fn adds_up(metrics: &BTreeMap<String, i64>) -> bool {
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    let dropped = metrics.iter().filter(|(name, _)| name.starts_with("dropped_"));
    let dropped: i64 = dropped.map(|(_, count)| count).sum();
    of("sampled") + of("kept")
        == of("exported") + dropped + of("queue_spans") + of("in_flight_spans")
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
