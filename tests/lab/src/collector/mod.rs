//! A receiver of spans in every protocol that the filter speaks. OTLP it decodes with the official
//! types: an independent judge of what the filter encodes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub(crate) mod decode;
mod encode;

/// How long spans may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

/// A span as it arrived, ids in hex.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace_id: String,
    /// The span.
    pub span_id: String,
    /// Its parent; empty for a root.
    pub parent_id: String,
    /// `tracestate`.
    pub trace_state: String,
    /// OTLP's flags.
    pub flags: u32,
    /// Its name.
    pub name: String,
    /// `SERVER` or `CLIENT`.
    pub kind: String,
    /// Nanoseconds since the Unix epoch.
    pub start: u64,
    /// Nanoseconds since the Unix epoch.
    pub end: u64,
    /// Whether the status is ERROR.
    pub error: bool,
    /// Trace and span of what it links to.
    pub links: Vec<(String, String)>,
    /// Attributes, values as text.
    pub attributes: BTreeMap<String, String>,
    /// Attributes of the resource, values as text.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute as text; empty if it is not there.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// The name of the service that it is from.
    #[must_use]
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }
}

/// What the receiver answers to a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    /// The status; 0 is the protocol's success.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Spans to call rejected in a partial success.
    pub rejected: i64,
    /// How long to wait before.
    pub delay: Duration,
    /// The status of gRPC, where it is spoken; 0 is success.
    pub grpc_status: u32,
    /// Seconds that gRPC's details ask to wait, in a `RetryInfo`.
    pub grpc_pause: Option<i64>,
    /// What stands in place of the protocol's own answer, without trailers.
    pub garbage: Option<&'static [u8]>,
    /// Whether the connection (or the stream) is broken in place of an answer.
    pub reset: bool,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Received {
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The status that it was answered with.
    pub status: u16,
    /// How many spans it had.
    pub spans: usize,
    /// A hash of its body.
    pub body: u64,
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Span>,
    requests: Vec<Received>,
    /// Accepted exports in the official types, where they were OTLP.
    exports: Vec<ExportTraceServiceRequest>,
    /// Answers to the next requests, then the standing one.
    replies: Vec<Reply>,
    standing: Reply,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver; it stops when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
    /// While it is down: bound, so that nobody else gets the port, and not listening.
    held: Option<TcpSocket>,
}

impl Collector {
    /// Starts on a port of the kernel's choice.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let server = Some(tokio::spawn(serve(listener, Arc::clone(&shared))));
        Self { address, shared, server, held: None }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and closes all connections; the port stays its own.
    ///
    /// # Panics
    /// If the port is gone.
    pub async fn down(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
            let socket = TcpSocket::new_v4().expect("a socket");
            // Connections that were just closed must not keep the port.
            socket.set_reuseaddr(true).expect("an option");
            socket.bind(self.address).expect("the port is free");
            self.held = Some(socket);
        }
    }

    /// Listens on the same port again.
    ///
    /// # Panics
    /// If the port is gone.
    pub async fn up(&mut self) {
        if let Some(socket) = self.held.take() {
            let listener = socket.listen(1024).expect("listening");
            self.server = Some(tokio::spawn(serve(listener, Arc::clone(&self.shared))));
        }
    }

    /// What every request is answered with that has no answer of its own from
    /// [`reply_with`](Self::reply_with).
    pub fn reply_always(&self, reply: Reply) {
        self.shared.state().standing = reply;
    }

    /// The accepted exports as the official types decode them: what [`Span`] leaves out, and the
    /// types of attribute values.
    #[must_use]
    pub fn exports(&self) -> Vec<ExportTraceServiceRequest> {
        self.shared.state().exports.clone()
    }

    /// What the next requests are answered with, in order; later ones get the standing
    /// answer, at first a plain success.
    pub fn reply_with(&self, replies: Vec<Reply>) {
        self.shared.state().replies = replies;
    }

    /// All spans so far, of requests that were answered with success.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.shared.state().spans.clone()
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.shared.state().requests.clone()
    }

    /// Forgets spans and requests.
    pub fn clear(&self) {
        let mut state = self.shared.state();
        state.spans.clear();
        state.requests.clear();
        state.exports.clear();
    }

    /// Waits for at least this many spans and gives all.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn wait_for(&self, spans: usize) -> Vec<Span> {
        self.wait_until(PATIENCE, |all| all.len() >= spans).await
    }

    /// Waits until the spans are as wanted and gives them.
    ///
    /// # Panics
    /// If that does not come.
    pub async fn wait_until(
        &self,
        patience: Duration,
        wanted: impl Fn(&[Span]) -> bool,
    ) -> Vec<Span> {
        let reached = timeout(patience, async {
            loop {
                let changed = self.shared.changed.notified();
                if wanted(&self.shared.state().spans) {
                    return;
                }
                changed.await;
            }
        });
        let reached = reached.await.is_ok();
        let spans = self.spans();
        assert!(reached, "what was waited for did not come; {} spans: {:#?}", spans.len(), {
            spans.iter().take(10).collect::<Vec<_>>()
        });
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropping the set ends all connections with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| receive(request, Arc::clone(&shared)));
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn receive(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let headers = parts.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let mut received = Received {
        path: parts.uri.path().to_owned(),
        headers: headers.collect(),
        ..Received::default()
    };
    let reply = {
        let mut state = shared.state();
        if state.replies.is_empty() { state.standing.clone() } else { state.replies.remove(0) }
    };
    if !reply.delay.is_zero() {
        sleep(reply.delay).await;
    }
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    received.body = hasher.finish();
    let decoded = decode::request(&parts, &body);
    received.status = match (&decoded, reply.status) {
        (Err(status), _) => *status,
        (Ok((speaks, _)), 0) => speaks.success(),
        (Ok(_), status) => status,
    };
    let mut answer = answer(received.status, &reply.headers, Full::new(Bytes::new()));
    if let Ok((speaks, decoded)) = decoded {
        let spans = decoded.spans;
        received.spans = spans.len();
        if received.status == speaks.success() && !reply.reset {
            if reply.grpc_status == 0 && reply.garbage.is_none() {
                let mut state = shared.state();
                state.spans.extend(spans);
                state.exports.extend(decoded.export);
            }
            answer = encode::success(speaks, &reply);
        }
    }
    shared.state().requests.push(received);
    shared.changed.notify_waiters();
    if reply.reset { Err(io::Error::other("as the test wants it")) } else { Ok(answer) }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn answer<B>(status: u16, headers: &[(String, String)], body: B) -> Response<Body>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body.boxed_unsync()).unwrap_or_default()
}
