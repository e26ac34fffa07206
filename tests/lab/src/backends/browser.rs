//! A browser without a screen, for the pages of backends.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use super::program;
use crate::paths;
use crate::process::PATIENCE;

/// How long a page may go on by its own clock, which runs ahead when nothing is to be done.
const VIRTUAL_MILLIS: u32 = 20_000;

/// Chromium, started anew for each page.
#[derive(Debug)]
pub struct Browser {
    program: PathBuf,
}

/// What a page has become.
#[derive(Clone, Debug)]
pub struct Page {
    /// The document.
    pub html: String,
    /// What can be read of it.
    pub text: String,
}

impl Browser {
    /// The one that `MESHWEFT_CHROMIUM` names.
    #[must_use]
    pub fn find() -> Self {
        Self { program: program("MESHWEFT_CHROMIUM") }
    }

    /// Opens a page and gives what it shows; a picture of it is kept as
    /// `target/backends/NAME.png`.
    ///
    /// # Panics
    /// If the browser fails, or there is no picture.
    pub async fn open(&self, url: &str, name: &str) -> Page {
        let folder = paths::workspace().join("target/backends");
        fs::create_dir_all(&folder).expect("a folder for pictures");
        let picture = folder.join(format!("{name}.png"));
        let _ = fs::remove_file(&picture);
        self.run(url, &format!("--screenshot={}", picture.display())).await;
        let size = fs::metadata(&picture).expect("a picture").len();
        assert!(size > 5_000, "the picture of {url} is empty");
        let html = self.run(url, "--dump-dom").await;
        Page { text: text(&html), html }
    }

    async fn run(&self, url: &str, what: &str) -> String {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(&self.program);
        command
            // Root has no sandbox, and the page is our own backend's.
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .args(["--window-size=1400,900", what])
            .arg(format!("--virtual-time-budget={VIRTUAL_MILLIS}"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.expect("the browser ends in time").expect("the browser starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the browser: {}\n{errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// What stands between the tags of a document, but for styles and scripts.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        let hidden = ["style", "script"].into_iter().find(|name| tag.starts_with(name));
        let after = match hidden {
            Some(name) => tag.split_once(&format!("</{name}>")),
            None => tag.split_once('>'),
        };
        rest = after.map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_without_tags() {
        let html = "<html><style>.a>b {}</style><p class=\"x\">web:\n <b>get</b></p>\
            <script>if (a<b) {}</script>end<br";
        assert_eq!(text(html), "web: get end");
        assert_eq!(text("plain"), "plain");
    }
}
