//! Clients: one that sends exact bytes, and one that is well-behaved, over HTTP/1.1 or HTTP/2.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// An answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header names, in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body; with [`raw`] as it was framed.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Answer {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

/// Sends exact bytes over a connection of its own and reads until the peer closes it, so the
/// request should say `connection: close`. `None`: no answer.
pub async fn raw(to: SocketAddr, request: &[u8]) -> Option<Answer> {
    raw_from(IpAddr::V4(Ipv4Addr::LOCALHOST), to, request).await
}

/// The same from an address of one's own: all of 127.0.0.0/8 is on loopback.
pub async fn raw_from(from: IpAddr, to: SocketAddr, request: &[u8]) -> Option<Answer> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::new(from, 0)).ok()?;
    let mut stream = socket.connect(to).await.ok()?;
    // Envoy may answer and close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().as_bytes().to_vec()));
    let body = bytes.get(end + 4..)?.to_vec();
    Some(Answer { status, headers: headers.collect(), body, trailers: Vec::new() })
}

/// The version of HTTP that a [`Client`] speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2 without TLS.
    H2,
}

/// A well-behaved client with a pool of connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client for one version.
    #[must_use]
    pub fn new(version: Version) -> Self {
        let mut builder = Pool::builder(TokioExecutor::new());
        if version == Version::H2 {
            builder.http2_only(true);
        }
        Self { pool: builder.build_http() }
    }

    /// Sends a GET.
    ///
    /// # Errors
    /// What broke, in words.
    pub async fn get(
        &self,
        to: SocketAddr,
        path: &str,
        headers: &[(&str, &[u8])],
    ) -> Result<Answer, String> {
        self.send("GET", to, path, headers, Bytes::new()).await
    }

    /// Sends a request. A `host` header becomes the authority.
    ///
    /// # Errors
    /// What broke, in words.
    pub async fn send(
        &self,
        method: &str,
        to: SocketAddr,
        path: &str,
        headers: &[(&str, &[u8])],
        body: Bytes,
    ) -> Result<Answer, String> {
        let uri: Uri = format!("http://{to}{path}").parse().map_err(|e| format!("{e}"))?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|e| format!("{e}"))?;
        let exchange = async {
            let answer = self.pool.request(request).await.map_err(|e| format!("{e:?}"))?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| format!("{e:?}"))?;
            let pairs = |map: &http::HeaderMap| {
                let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    (name.as_str().to_owned(), value.as_bytes().to_vec())
                };
                map.iter().map(pair).collect::<Vec<_>>()
            };
            let trailers = body.trailers().map(pairs).unwrap_or_default();
            let headers = pairs(&parts.headers);
            let status = parts.status.as_u16();
            Ok(Answer { status, headers, trailers, body: body.to_bytes().to_vec() })
        };
        timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?
    }
}
