//! A relay before a backend: notes every export and how it was answered, and passes both on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::otlp::{Whole, spans};
use crate::client::{Client, Version};

/// What the backend must see of a request, and the exporter of an answer.
const PASSED: [&str; 3] = ["content-type", "authorization", "retry-after"];

/// An export and the status that it was answered with.
type Passed = (u16, ExportTraceServiceRequest);

/// A relay; it stops when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<Passed>>>,
    server: JoinHandle<()>,
}

impl Relay {
    /// A relay before this address.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn before(backend: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let passed = Arc::default();
        let server = tokio::spawn(serve(listener, backend, Arc::clone(&passed)));
        Self { address, passed, server }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The spans of all exports that the backend has taken, by trace and span id.
    #[must_use]
    pub fn taken(&self) -> Vec<Whole> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        spans(passed.iter().filter(|(status, _)| *status == 200).map(|(_, e)| e.clone()).collect())
    }

    /// What the backend has answered so far.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.iter().map(|(status, _)| *status).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, backend: SocketAddr, passed: Arc<Mutex<Vec<Passed>>>) {
    let client = Client::new(Version::H1);
    // Dropping the set ends all connections with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, passed) = (client.clone(), Arc::clone(&passed));
        let service = service_fn(move |request| {
            let (client, passed) = (client.clone(), Arc::clone(&passed));
            async move { Ok::<_, Infallible>(pass(request, &client, backend, &passed).await) }
        });
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(
    request: Request<Incoming>,
    client: &Client,
    backend: SocketAddr,
    passed: &Mutex<Vec<Passed>>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let export = ExportTraceServiceRequest::decode(body.clone()).expect("an export");
    let header = |name| Some((name, parts.headers.get(name)?.as_bytes()));
    let headers: Vec<_> = PASSED.into_iter().filter_map(header).collect();
    let sent = client.send(parts.method.as_str(), backend, parts.uri.path(), &headers, body);
    // A backend that is gone looks so to the exporter.
    let mut answer = sent.await.unwrap_or_default();
    answer.status = if answer.status == 0 { 502 } else { answer.status };
    let mut response = Response::builder().status(answer.status);
    for name in PASSED {
        if let Some(value) = answer.header(name) {
            response = response.header(name, value);
        }
    }
    passed.lock().unwrap_or_else(PoisonError::into_inner).push((answer.status, export));
    response.body(Full::new(answer.body.into())).unwrap_or_default()
}
