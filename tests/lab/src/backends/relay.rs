//! A relay before a backend: notes every export and how it was answered, and passes both on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::otlp::{Whole, spans};
use crate::client::{Answer, Client, Version};
use crate::collector::{Span, decode};

/// What the backend must see of a request, and the exporter of an answer.
const PASSED: [&str; 9] = [
    "content-type",
    "content-encoding",
    "authorization",
    "retry-after",
    "te",
    "grpc-encoding",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
];

/// An export, and how it was answered.
#[derive(Debug)]
struct Passed {
    status: u16,
    /// The status of gRPC, where it is spoken.
    code: Option<String>,
    spans: Vec<Span>,
    /// The same in the official types, where it was OTLP.
    export: Option<ExportTraceServiceRequest>,
}

impl Passed {
    fn was_taken(&self) -> bool {
        (200..300).contains(&self.status) && self.code.as_deref().is_none_or(|code| code == "0")
    }
}

/// A relay; it stops when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    passed: Arc<Mutex<Vec<Passed>>>,
    server: JoinHandle<()>,
}

impl Relay {
    /// A relay before this address, which speaks HTTP/1.1.
    pub async fn before(backend: SocketAddr) -> Self {
        Self::speaking(Version::H1, backend).await
    }

    /// A relay before this address, which speaks this version.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn speaking(version: Version, backend: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let passed = Arc::default();
        let client = Client::new(version);
        let server = tokio::spawn(serve(listener, client, backend, Arc::clone(&passed)));
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
        let passed = lock(&self.passed);
        let taken = passed.iter().filter(|passed| passed.was_taken());
        spans(taken.filter_map(|passed| passed.export.clone()).collect())
    }

    /// The same as every protocol can tell it.
    #[must_use]
    pub fn told(&self) -> Vec<Span> {
        let passed = lock(&self.passed);
        let taken = passed.iter().filter(|passed| passed.was_taken());
        let mut spans: Vec<_> = taken.flat_map(|passed| passed.spans.clone()).collect();
        spans.sort_by(|a, b| (&a.trace_id, &a.span_id).cmp(&(&b.trace_id, &b.span_id)));
        spans
    }

    /// What the backend has answered so far, a status of gRPC after that of HTTP.
    #[must_use]
    pub fn statuses(&self) -> Vec<String> {
        let status = |passed: &Passed| match &passed.code {
            Some(code) => format!("{}/{code}", passed.status),
            None => passed.status.to_string(),
        };
        lock(&self.passed).iter().map(status).collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(passed: &Mutex<Vec<Passed>>) -> MutexGuard<'_, Vec<Passed>> {
    passed.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: TcpListener,
    client: Client,
    backend: SocketAddr,
    passed: Arc<Mutex<Vec<Passed>>>,
) {
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
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (_, decoded) = decode::request(&parts, &body).expect("an export");
    let header = |name| Some((name, parts.headers.get(name)?.as_bytes()));
    let headers: Vec<_> = PASSED.into_iter().filter_map(header).collect();
    let sent = client.send(parts.method.as_str(), backend, parts.uri.path(), &headers, body);
    // A backend that is gone looks so to the exporter.
    let mut answer = sent.await.unwrap_or_default();
    answer.status = if answer.status == 0 { 502 } else { answer.status };
    let Answer { status, headers, body, trailers } = answer;
    let all = headers.iter().chain(&trailers);
    let code = all.clone().find(|(name, _)| name == "grpc-status");
    let code = code.map(|(_, code)| String::from_utf8_lossy(code).into_owned());
    lock(passed).push(Passed { status, code, spans: decoded.spans, export: decoded.export });
    let mut response = Response::new(());
    *response.status_mut() = status.try_into().expect("a status");
    *response.headers_mut() = map(&headers);
    let trailers = (!trailers.is_empty()).then(|| Ok(map(&trailers)));
    let body = Full::new(Bytes::from(body)).with_trailers(async move { trailers });
    response.map(|()| body.boxed_unsync())
}

/// Those of `pairs` that are passed on.
fn map(pairs: &[(String, Vec<u8>)]) -> HeaderMap {
    let passed = pairs.iter().filter(|(name, _)| PASSED.contains(&name.as_str()));
    let pair = |(name, value): &(String, Vec<u8>)| {
        let name = HeaderName::try_from(name).expect("a name");
        (name, HeaderValue::from_bytes(value).expect("a value"))
    };
    passed.map(pair).collect()
}
