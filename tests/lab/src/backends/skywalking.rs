//! What SkyWalking's own agent for Python reads in a context and writes into one.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::program;

/// Reads a header in JSON, or begins a segment of the trace that is given, `null` for a new one,
/// and writes the context of a call that it makes.
const SCRIPT: &str = r#"
import json, sys
from skywalking.trace import ID
from skywalking.trace.carrier import Carrier

asked = json.load(sys.stdin)
if "header" in asked:
    carrier = Carrier()
    carrier.val = asked["header"]
else:
    carrier = Carrier(
        trace_id=asked["trace_id"] or str(ID()), segment_id=str(ID()), span_id="1",
        service="agent", service_instance="agent-1", endpoint="/orders", client_address="shop:80")
json.dump({
    "header": carrier.val,
    "is_valid": carrier.is_valid,
    "trace_id": carrier.trace_id,
    "segment_id": carrier.segment_id,
    "span_id": carrier.span_id,
    "names": [carrier.service, carrier.service_instance, carrier.endpoint, carrier.client_address],
}, sys.stdout)
"#;

/// The agent.
#[derive(Debug)]
pub struct Agent {
    wheel: PathBuf,
}

/// A context as the agent has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Carrier {
    /// `sw8`.
    pub header: String,
    /// Whether the agent goes on from it.
    pub is_valid: bool,
    /// The trace.
    pub trace_id: String,
    /// The segment of the caller.
    pub segment_id: String,
    /// The place of the caller's span in it.
    pub span_id: String,
    /// Service, instance, endpoint, and the address that was called.
    pub names: [String; 4],
}

impl Agent {
    /// The one that `MESHWEFT_SKYWALKING` names.
    #[must_use]
    pub fn new() -> Self {
        Self { wheel: program("MESHWEFT_SKYWALKING") }
    }

    /// What it reads in a header.
    pub async fn reads(&self, header: &str) -> Carrier {
        self.ask(json!({"header": header})).await
    }

    /// What it writes into a call of a segment of its own: of this trace, or of a new one.
    pub async fn writes(&self, trace_id: Option<&str>) -> Carrier {
        self.ask(json!({"trace_id": trace_id})).await
    }

    /// # Panics
    /// If it does not answer.
    async fn ask(&self, asked: Value) -> Carrier {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .env("PYTHONPATH", &self.wheel)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(asked.to_string().as_bytes()).await.expect("it reads");
        drop(input);
        let output = child.wait_with_output().await.expect("it ends");
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        Carrier {
            header: text(&told["header"]),
            is_valid: told["is_valid"] == true,
            trace_id: text(&told["trace_id"]),
            segment_id: text(&told["segment_id"]),
            span_id: text(&told["span_id"]),
            names: [0, 1, 2, 3].map(|place| text(&told["names"][place])),
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}
