//! HTTP/2 close to the wire: one connection, any header bytes, resets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Answer;

/// How long the peer may take for each step.
const LIMIT: Duration = Duration::from_secs(10);

/// One HTTP/2 connection; dropping it closes it under whatever runs on it.
#[derive(Debug)]
pub struct RawHttp2 {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// A request under way.
#[derive(Debug)]
pub struct RawStream {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

impl RawHttp2 {
    /// Connects with prior knowledge.
    ///
    /// # Errors
    /// If nobody listens or the handshake fails.
    pub async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("connect to {address}: {error}"))?;
        let (sender, connection) =
            h2::client::handshake(stream).await.map_err(|error| format!("handshake: {error}"))?;
        let connection = tokio::spawn(async move {
            // How the connection ends is seen on its streams.
            let _ = connection.await;
        });
        Ok(Self { sender, connection })
    }

    /// Starts a request whose header values are any bytes that HTTP/2 can carry.
    /// With `end` the request ends with its headers; else a body follows by [`RawStream::send`].
    ///
    /// # Errors
    /// If a name is not a token, a value has control characters, or the connection is gone.
    pub async fn start(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &[u8])],
        end: bool,
    ) -> Result<RawStream, String> {
        let what = format!("{method} {path}");
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|e| format!("{what}: {e}"))?;
            let value = HeaderValue::from_bytes(value).map_err(|e| format!("{what}: {e}"))?;
            map.append(name, value);
        }
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://lab{path}"))
            .body(())
            .map_err(|error| format!("{what}: {error}"))?;
        *request.headers_mut() = map;
        let mut sender = self
            .sender
            .clone()
            .ready()
            .await
            .map_err(|error| format!("wait for the connection: {error}"))?;
        let (response, body) =
            sender.send_request(request, end).map_err(|error| format!("{what}: {error}"))?;
        Ok(RawStream { response, body })
    }

    /// One whole exchange without a request body.
    ///
    /// # Errors
    /// If no whole answer comes.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &[u8])]) -> Result<Answer, String> {
        self.start("GET", path, headers, true).await?.finish().await
    }
}

impl Drop for RawHttp2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl RawStream {
    /// Sends a piece of the body.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn send(&mut self, bytes: impl Into<Bytes>, end: bool) -> Result<(), String> {
        self.body.send_data(bytes.into(), end).map_err(|error| format!("send data: {error}"))
    }

    /// Ends the body with trailers.
    ///
    /// # Errors
    /// If the stream is closed.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), String> {
        self.body.send_trailers(trailers).map_err(|error| format!("send trailers: {error}"))
    }

    /// Resets the stream: how an HTTP/2 client aborts one request.
    pub fn reset(mut self, reason: Reason) {
        self.body.send_reset(reason);
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// If the stream is reset or the answer does not end in time.
    pub async fn finish(self) -> Result<Answer, String> {
        let whole = async {
            let response = self.response.await.map_err(|e| format!("answer: {e}"))?;
            let (head, mut stream) = response.into_parts();
            let body = read_body(&mut stream).await?;
            let trailers = stream.trailers().await.map_err(|e| format!("trailers: {e}"))?;
            Ok(Answer {
                status: head.status.as_u16(),
                headers: pairs(&head.headers),
                body,
                trailers: trailers.as_ref().map(pairs).unwrap_or_default(),
            })
        };
        timeout(LIMIT, whole).await.map_err(|_| "no end of the answer in time".to_owned())?
    }
}

async fn read_body(stream: &mut RecvStream) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(|error| format!("body: {error}"))?;
        body.extend_from_slice(&piece);
        stream
            .flow_control()
            .release_capacity(piece.len())
            .map_err(|error| format!("window: {error}"))?;
    }
    Ok(body)
}

fn pairs(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}
