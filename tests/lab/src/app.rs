//! A plain application that knows nothing of tracing. What it does follows from the path:
//!
//! | path contains | behaviour |
//! |---|---|
//! | `/status/N` | answers with that status |
//! | `/delay/N` | answers after N milliseconds |
//! | `/reset` | closes the connection without an answer |
//! | `/half` | begins an answer and closes the connection |
//! | `/hang` | never answers |
//! | `/late/N` | makes its calls after N milliseconds |
//! | `/parallel` | makes its calls at once |
//! | `/background` | answers before it makes its calls |
//! | `/flaky/N` | 503 to the first N requests of this path, then 200 |
//! | `/slow/N` | takes two seconds for the first N requests of this path |
//! | `/stream` | answers in pieces, without a length |
//! | `/verdict` | answers as if it were a hop that has kept its span |
//! | `/timed` | answers with a `server-timing` and a `traceresponse` of its own |
//!
//! Its calls are as the request that causes them: over HTTP/2 for one that came so, and gRPC for gRPC.
//!
//! A request with a gRPC content type gets a gRPC answer with `grpc-status` in the trailers: 14
//! for a method named `Fail`, 12 for `Unknown`, else 0; for `Told` with the trailers of [`TOLD`]
//! besides. Methods of the service [`CHAT`] are streams: each message comes back as it comes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::StreamExt;

use crate::client::{Client, Version};

/// Which headers an application copies from a request to the calls that it makes for it, beside
/// `x-truth`, in which tests say what belongs together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Forward {
    /// `traceparent` and `tracestate`, as a well-behaved application does.
    #[default]
    TraceContext,
    /// `x-request-id` alone.
    RequestId,
}

/// A call that an application makes for every request whose path begins with `on`.
#[derive(Clone, Debug)]
pub struct Call {
    /// The path that causes it.
    pub on: String,
    /// Where it goes: the application's own outbound listener.
    pub to: SocketAddr,
    /// The authority.
    pub host: String,
    /// The path.
    pub path: String,
}

/// A request as it arrived.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Seen {
    /// All values of a header, as text.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The only value of a header; empty if there is none.
    ///
    /// # Panics
    /// If there are several.
    #[must_use]
    pub fn one(&self, name: &str) -> String {
        let mut all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.pop().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    seen: Mutex<Vec<Seen>>,
    tries: Mutex<BTreeMap<String, u32>>,
}

/// A running application; it stops when dropped.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl App {
    /// An application that calls nobody.
    pub async fn start() -> Self {
        Self::forwarding(Forward::TraceContext).await
    }

    /// An application that copies these headers to its calls; see [`call`](Self::call).
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn forwarding(forward: Forward) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let behaviour = Arc::new(Behaviour {
            forward,
            client: Client::new(Version::H1),
            client_h2: Client::new(Version::H2),
            shared: Arc::clone(&shared),
        });
        let server = tokio::spawn(serve(listener, behaviour));
        Self { address, shared, server }
    }

    /// From now on the application makes this call too: its own outbound listener is known only
    /// when the proxy runs that has to know the application first.
    pub fn call(&self, call: Call) {
        lock(&self.shared.calls).push(call);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// All requests so far, which are then forgotten.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *lock(&self.shared.seen))
    }

    /// The last request.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request has arrived")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug)]
struct Behaviour {
    forward: Forward,
    client: Client,
    client_h2: Client,
    shared: Arc<Shared>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

async fn serve(listener: TcpListener, behaviour: Arc<Behaviour>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let behaviour = Arc::clone(&behaviour);
        let service = service_fn(move |request| {
            let behaviour = Arc::clone(&behaviour);
            async move { Behaviour::answer(&behaviour, request).await }
        });
        connections.spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Behaviour {
    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let stream = if path.starts_with(CHAT) {
            Some(body)
        } else {
            let _ = body.collect().await;
            None
        };
        let headers = parts.headers.iter();
        lock(&self.shared.seen).push(Seen {
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
            headers: headers.map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec())).collect(),
        });
        if let Some(stream) = stream {
            return Ok(chat(&path, stream));
        }
        let calls = Arc::clone(self).calls(path.clone(), parts.clone());
        if path.contains("/background") {
            tokio::spawn(calls);
        } else {
            calls.await;
        }
        if let Some(millis) = number(&path, "delay") {
            sleep(Duration::from_millis(millis)).await;
        }
        if let Some(slow) = number(&path, "slow")
            && self.flaky(&path, slow) != 200
        {
            sleep(Duration::from_secs(2)).await;
        }
        if path.contains("/hang") {
            std::future::pending::<()>().await;
        }
        if path.contains("/reset") {
            return Err(io::Error::other("reset, as the path asks"));
        }
        if parts.headers.get("content-type").is_some_and(is_grpc) {
            return Ok(grpc(&path));
        }
        let status = match (number(&path, "status"), number(&path, "flaky")) {
            (Some(status), _) => u16::try_from(status).unwrap_or(500),
            (None, Some(failures)) => self.flaky(&path, failures),
            (None, None) => 200,
        };
        let mut response = Response::builder().status(status);
        if path.contains("/timed") {
            response = response.header("server-timing", TIMED.0).header("traceresponse", TIMED.1);
        }
        if path.contains("/verdict") {
            response = response.header("x-meshweft-keep", "errors");
        }
        let body = match &*path {
            path if path.contains("/half") => half(),
            path if path.contains("/stream") => pieces(),
            _ => full("ok\n"),
        };
        Ok(response.body(body).unwrap_or_default())
    }

    /// Makes the calls that a request to `path` causes.
    async fn calls(self: Arc<Self>, path: String, incoming: Parts) {
        let calls = lock(&self.shared.calls).clone();
        let calls: Vec<_> = calls.into_iter().filter(|call| path.starts_with(&call.on)).collect();
        if let Some(millis) = number(&path, "late") {
            sleep(Duration::from_millis(millis)).await;
        }
        let mut open = tokio::task::JoinSet::new();
        for call in calls {
            let (behaviour, incoming) = (Arc::clone(&self), incoming.clone());
            open.spawn(async move { behaviour.call(&call, &incoming).await });
            if !path.contains("/parallel") {
                open.join_next().await;
            }
        }
        open.join_all().await;
    }

    async fn call(&self, call: &Call, incoming: &Parts) {
        let copied: &[&str] = match self.forward {
            Forward::TraceContext => &["traceparent", "tracestate", "x-truth"],
            Forward::RequestId => &["x-request-id", "x-truth"],
        };
        let mut headers: Vec<(&str, &[u8])> = vec![("host", call.host.as_bytes())];
        for name in copied {
            let values = incoming.headers.get_all(*name).iter();
            headers.extend(values.map(|value| (*name, value.as_bytes())));
        }
        let version = incoming.version;
        let client = if version == http::Version::HTTP_2 { &self.client_h2 } else { &self.client };
        let (method, body) = if incoming.headers.get("content-type").is_some_and(is_grpc) {
            headers.extend([("content-type", &b"application/grpc"[..]), ("te", b"trailers")]);
            ("POST", &EMPTY_MESSAGE[..])
        } else {
            ("GET", &[][..])
        };
        // What becomes of a call is the trace's business, not the caller's.
        let body = Bytes::from_static(body);
        let _ = client.send(method, call.to, &call.path, &headers, body).await;
    }

    fn flaky(&self, path: &str, failures: u64) -> u16 {
        let mut tries = lock(&self.shared.tries);
        let tries = tries.entry(path.to_owned()).or_default();
        *tries += 1;
        if u64::from(*tries) <= failures { 503 } else { 200 }
    }
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(infallible).boxed_unsync()
}

/// What stands on the answers to `/timed`.
pub const TIMED: (&str, &str) =
    ("db;dur=53", "00-11111111111111111111111111111111-2222222222222222-01");

fn pieces() -> Body {
    let frames = ["one\n", "two\n", "three\n"].map(|text| Ok(Frame::data(Bytes::from(text))));
    let frames = tokio_stream::iter(frames).then(|frame| async {
        sleep(Duration::from_millis(5)).await;
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}

fn half() -> Body {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"the first half\n"))),
        Err(io::Error::other("half, as the path asks")),
    ];
    // The first half must be on its way before the connection breaks.
    let frames = tokio_stream::iter(frames).then(|frame| async {
        if frame.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Trailers of the gRPC method `Told`.
pub const TOLD: [(&str, &str); 2] = [("x-region", "eu-1"), ("x-session-token", "5ecret-trailer")];

/// Paths of the gRPC service whose methods are streams.
pub const CHAT: &str = "/shop.Chat/";

/// A gRPC message without fields.
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

fn grpc(path: &str) -> Response<Body> {
    let message = Frame::data(Bytes::from_static(&EMPTY_MESSAGE));
    let frames = [Ok::<_, Infallible>(message), Ok(trailers(path))];
    answer_grpc(StreamBody::new(tokio_stream::iter(frames)).map_err(infallible).boxed_unsync())
}

/// Sends back what comes until no more does.
fn chat(path: &str, stream: Incoming) -> Response<Body> {
    let trailers = trailers(path);
    let frames = BodyStream::new(stream).map(|frame| frame.map_err(io::Error::other));
    let frames = frames.filter(|frame| frame.as_ref().is_ok_and(Frame::is_data) || frame.is_err());
    let frames = frames.chain(tokio_stream::iter([Ok(trailers)]));
    answer_grpc(StreamBody::new(frames).boxed_unsync())
}

fn answer_grpc(body: Body) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(body).unwrap_or_default()
}

fn trailers(path: &str) -> Frame<Bytes> {
    let status = match path.rsplit('/').next() {
        Some("Fail") => "14",
        Some("Unknown") => "12",
        _ => "0",
    };
    let mut trailers = HeaderMap::new();
    if path.ends_with("/Told") {
        for (name, value) in TOLD {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    let name = HeaderName::from_static("grpc-status");
    trailers.insert(name, HeaderValue::from_static(status));
    Frame::trailers(trailers)
}

fn infallible(never: Infallible) -> io::Error {
    match never {}
}

fn is_grpc(value: &HeaderValue) -> bool {
    value.as_bytes().starts_with(b"application/grpc")
}

/// The number behind a segment: `number("/delay/20", "delay")` is 20.
fn number(path: &str, segment: &str) -> Option<u64> {
    let mut segments = path.split('/');
    segments.find(|found| *found == segment)?;
    segments.next()?.parse().ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
