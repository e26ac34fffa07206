//! A browser without a screen, for the pages of backends. It is told what to do over a pair of
//! pipes, in the DevTools protocol: messages in JSON with a zero byte behind each.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use super::program;
use crate::paths;
use crate::process::{GLANCE, PATIENCE};

/// The browser reads messages from descriptor 3 and writes them to 4.
const WITH_PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// Chromium with one page; killed when dropped.
#[derive(Debug)]
pub struct Browser {
    _child: Child,
    _profile: TempDir,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The page's session, once there is one.
    session: Option<String>,
    messages: u64,
}

impl Browser {
    /// Starts the one that `MESHWEFT_CHROMIUM` names.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut child = Command::new("sh")
            .args(["-c", WITH_PIPES, "sh"])
            .arg(program("MESHWEFT_CHROMIUM"))
            // Root has no sandbox, and the pages are those of our own backends.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--window-size=1400,900", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut browser =
            Self { _child: child, _profile: profile, input, output, session: None, messages: 0 };
        let page = browser.ask("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let session = browser.ask("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        browser
    }

    /// Opens a page and waits until what it shows has all of `wanted` in it.
    ///
    /// # Panics
    /// If that does not come; the message has what it shows.
    pub async fn open(&mut self, url: &str, wanted: &[&str]) {
        self.ask("Page.navigate", json!({"url": url})).await;
        self.shows(wanted).await;
    }

    /// Clicks into the middle of the first element of this selector, and waits until what the
    /// page shows has all of `wanted` in it.
    ///
    /// # Panics
    /// If there is no such element, or what is wanted does not come.
    pub async fn click(&mut self, selector: &str, wanted: &[&str]) {
        let middle = format!(
            "(() => {{ const box = document.querySelector({selector:?}).getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let middle = self.value(&middle).await;
        for event in ["mousePressed", "mouseReleased"] {
            let (x, y) = (&middle[0], &middle[1]);
            let click = json!({"type": event, "x": x, "y": y, "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", click).await;
        }
        self.shows(wanted).await;
    }

    /// Keeps a picture of the page as `target/backends/NAME.png`.
    ///
    /// # Panics
    /// If there is none.
    pub async fn picture(&mut self, name: &str) {
        let picture = self.ask("Page.captureScreenshot", json!({"format": "png"})).await;
        let bytes = STANDARD.decode(picture["data"].as_str().expect("a picture"));
        let folder = paths::workspace().join("target/backends");
        fs::create_dir_all(&folder).expect("a folder for pictures");
        let file: PathBuf = folder.join(format!("{name}.png"));
        fs::write(file, bytes.expect("base64")).expect("the picture is written");
    }

    /// Waits until the value of a script is `true`.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn until(&mut self, script: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.value(script).await != true {
            assert!(Instant::now() < deadline, "never true: {script}");
            sleep(GLANCE).await;
        }
    }

    async fn shows(&mut self, wanted: &[&str]) {
        const TEXT: &str = "document.body ? document.body.innerText.replace(/\\s+/g, ' ') : ''";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.value(TEXT).await;
            let text = text.as_str().unwrap_or_default();
            let missing: Vec<_> = wanted.iter().filter(|wanted| !text.contains(**wanted)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "no {missing:?} in the page: {text}");
            sleep(GLANCE).await;
        }
    }

    /// What a script in the page gives.
    async fn value(&mut self, script: &str) -> Value {
        let script = json!({"expression": script, "returnByValue": true});
        let mut answer = self.ask("Runtime.evaluate", script).await;
        answer["result"]["value"].take()
    }

    /// Sends a message and gives the result, past all that happens meanwhile.
    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.messages += 1;
        let mut message = json!({"id": self.messages, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.write_all(&bytes).await.expect("the browser reads");
        let answer = timeout(PATIENCE, async {
            loop {
                let mut bytes = Vec::new();
                let read = self.output.read_until(0, &mut bytes).await.expect("the browser writes");
                assert!(read > 0, "the browser ended");
                bytes.pop();
                let message: Value = serde_json::from_slice(&bytes).expect("JSON");
                if message["id"] == self.messages {
                    return message;
                }
            }
        });
        let mut answer = answer.await.expect("an answer of the browser in time");
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].take()
    }
}
