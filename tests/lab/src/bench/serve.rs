//! What stands behind the proxies: an application that answers at once, and a collector that
//! counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::load::Message;

/// A server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

/// What came to a server so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Received {
    /// Requests.
    pub requests: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Spans in them.
    pub spans: u64,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    bytes: AtomicU64,
    spans: AtomicU64,
}

impl Server {
    /// Answers every request with 200 and, if it is one of a tracer, counts its spans.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&counts)));
        Self { address, counts, _tasks: tasks }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What came so far.
    #[must_use]
    pub fn received(&self) -> Received {
        let Counts { requests, bytes, spans } = &*self.counts;
        let [requests, bytes, spans] =
            [requests, bytes, spans].map(|count| count.load(Ordering::Relaxed));
        Received { requests, bytes, spans }
    }
}

async fn accept(listener: TcpListener, counts: Arc<Counts>) {
    // Dropping the set ends all connections with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream, Arc::clone(&counts)));
    }
}

async fn serve(mut stream: TcpStream, counts: Arc<Counts>) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\nok\n";
    let mut bytes = Vec::new();
    loop {
        while let Some(message) = Message::parse(&bytes) {
            let (head, body) = (&bytes[..message.head], &message.body);
            counts.requests.fetch_add(1, Ordering::Relaxed);
            counts.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            counts.spans.fetch_add(spans(head, body), Ordering::Relaxed);
            bytes.drain(..message.whole);
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

/// How many spans a request brings: none, if it is not one of a tracer.
fn spans(head: &[u8], body: &[u8]) -> u64 {
    let count = if head.starts_with(b"POST /v1/traces ") {
        let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
        let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.map(|scope| scope.spans.len()).sum()
    } else if head.starts_with(b"POST /api/v2/spans ") {
        let list: Vec<Value> = serde_json::from_slice(body).expect("Zipkin's JSON");
        list.len()
    } else {
        0
    };
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn counts_what_comes() {
        let server = Server::start().await;
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let zipkin = "POST /api/v2/spans HTTP/1.1\r\ncontent-length: 8\r\n\r\n[{}, {}]";
        for request in ["GET / HTTP/1.1\r\n\r\n", zipkin] {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 100];
            let read = stream.read(&mut answer).await.unwrap();
            assert!(answer[..read].ends_with(b"\r\n\r\nok\n"));
        }
        assert_eq!(server.received(), Received { requests: 2, bytes: 8, spans: 2 });
    }
}
