//! What stands around an Envoy: one server that is application, collector and file server at once,
//! a client, and the Envoy itself. Everything is on loopback and ends with the test.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use prost::Message;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A span as it arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Arrived {
    pub(crate) service: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) kind: i32,
    pub(crate) path: String,
}

/// A request as the application saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) traceparent: String,
}

/// Application, collector and file server.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) port: u16,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    spans: Vec<Arrived>,
    seen: Vec<Seen>,
}

impl Stand {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Mutex::new(Shared::default()));
        tokio::spawn(serve(listener, shared.clone()));
        Self { port, shared }
    }

    /// The spans, once there are so many of them.
    pub(crate) async fn spans(&self, at_least: usize) -> Vec<Arrived> {
        until("spans at the collector", async || {
            let spans = self.shared.lock().unwrap().spans.clone();
            (spans.len() >= at_least).then_some(spans)
        })
        .await
    }

    /// What the application has seen.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.lock().unwrap().seen.clone()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Mutex<Shared>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let service = service_fn(move |request| {
            let shared = shared.clone();
            async move { Ok::<_, Infallible>(answer(request, &shared).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(request: Request<Incoming>, shared: &Mutex<Shared>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let traceparent = request.headers().get("traceparent").cloned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    match path.as_str() {
        "/v1/traces" => {
            let export = ExportTraceServiceRequest::decode(body).unwrap();
            shared.lock().unwrap().spans.extend(arrived(&export));
            Response::new(Full::default())
        }
        "/meshweft.wasm" => Response::new(std::fs::read(module()).unwrap().into()),
        _ => {
            let traceparent = traceparent.map(|value| value.to_str().unwrap().to_owned());
            let traceparent = traceparent.unwrap_or_default();
            shared.lock().unwrap().seen.push(Seen { path, traceparent });
            Response::new(Bytes::from_static(b"from the application\n").into())
        }
    }
}

fn arrived(export: &ExportTraceServiceRequest) -> Vec<Arrived> {
    let mut spans = Vec::new();
    for of_resource in &export.resource_spans {
        let resource = of_resource.resource.as_ref().unwrap();
        for span in of_resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            spans.push(Arrived {
                service: attribute(&resource.attributes, "service.name"),
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                kind: span.kind,
                path: attribute(&span.attributes, "url.path"),
            });
        }
    }
    spans
}

fn attribute(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key);
    match value.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn module() -> PathBuf {
    let module = crate::root().join("target/meshweft.wasm");
    assert!(module.is_file(), "no {}: run `make build`", module.display());
    module
}

/// An Envoy that runs a configuration.
#[derive(Debug)]
pub(crate) struct Envoy {
    _process: Child,
    admin: String,
    log: PathBuf,
    access_log: PathBuf,
}

/// A command that starts Envoy from the root of the repository.
pub(crate) fn envoy() -> Command {
    let path = std::env::var_os("MESHWEFT_ENVOY").map(PathBuf::from).unwrap_or_else(|| {
        let home = PathBuf::from(std::env::var_os("HOME").unwrap());
        home.join(".cache/meshweft/envoy/1.40.0/envoy")
    });
    assert!(path.is_file(), "no {}: run `make envoy`", path.display());
    let mut command = Command::new(path);
    command.current_dir(crate::root()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Envoy {
    /// Starts Envoy and waits until its listeners are open.
    pub(crate) async fn start(folder: &Path, config: &Value) -> Self {
        let file = folder.join("envoy.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let (log, access_log) = (folder.join("log"), folder.join("access.log"));
        let address = folder.join("admin");
        let process = envoy()
            .args(["--use-dynamic-base-id", "--concurrency", "2", "--log-level", "info"])
            .args(["--file-flush-interval-msec", "50"])
            .arg("-c")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&address)
            .stdout(std::fs::File::create(&access_log).unwrap())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let admin = until("Envoy's admin address", async || {
            std::fs::read_to_string(&address).ok().filter(|address| address.contains(':'))
        })
        .await;
        let envoy = Self { _process: process, admin, log, access_log };
        until("Envoy to be ready", async || {
            let (status, _) = get(&envoy.admin, "admin", "/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        envoy
    }

    /// The addresses of the listeners, in the order of their names.
    pub(crate) async fn listeners(&self) -> Vec<(String, String)> {
        let (_, body) = get(&self.admin, "admin", "/listeners?format=json").await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        let mut listeners: Vec<_> = body["listener_statuses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|listener| {
                let port = &listener["local_address"]["socket_address"]["port_value"];
                (listener["name"].as_str().unwrap().to_owned(), format!("127.0.0.1:{port}"))
            })
            .collect();
        listeners.sort();
        listeners
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for a line of the access log that holds a text.
    pub(crate) async fn access_logged(&self, text: &str) {
        until(text, async || {
            std::fs::read_to_string(&self.access_log).unwrap().contains(text).then_some(())
        })
        .await;
    }

    /// Waits for a line of Envoy's own log that holds a text.
    pub(crate) async fn logged(&self, text: &str) {
        until(text, async || self.log().contains(text).then_some(())).await;
    }
}

/// Status and body of an answer; nothing where there is none.
pub(crate) async fn get(address: &str, host: &str, path: &str) -> Option<(u16, String)> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let uri = format!("http://{address}{path}");
    let request = Request::get(uri).header("host", host).body(Full::default()).unwrap();
    let response = client.request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8(body.into()).unwrap()))
}

/// Asks again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(now() < deadline, "waited in vain for: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a test against real processes waits in real time")]
fn now() -> Instant {
    Instant::now()
}
