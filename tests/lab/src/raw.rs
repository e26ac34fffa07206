//! HTTP/1.1 by hand, for what [`crate::client::raw`] cannot do: several requests on a connection,
//! a request in pieces, and a client that breaks off.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::Answer;

/// How long one read may take.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A connection on which bytes go out as they are. Dropping it is how a client aborts.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

/// A request for GET with these header lines, given as bytes without line ends.
#[must_use]
pub fn get(path: &str, lines: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("GET {path} HTTP/1.1\r\nhost: lab\r\n").into_bytes();
    for line in lines {
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("connect to {address}: {error}"))?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Sends bytes. A peer that has already answered and closed is no error: its answer can be read.
    ///
    /// # Errors
    /// For every other failure to write.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.stream.write_all(bytes).await {
            Err(error) if !matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                Err(format!("write: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// Reads one answer; what follows it stays for the next call.
    ///
    /// # Errors
    /// If the connection ends or goes silent in the middle, or the answer is not HTTP/1.1.
    pub async fn read_response(&mut self) -> Result<Answer, String> {
        let head = loop {
            let head = self.read_head().await?;
            // An interim answer is not the answer.
            if head.0 >= 200 {
                break head;
            }
        };
        let (status, headers) = head;
        let field = |name: &str| {
            let found = headers.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        let body = if field("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            self.read_chunks().await?
        } else if let Some(length) = field("content-length") {
            let length = length.parse().map_err(|_| unexpected("a length", length.as_bytes()))?;
            self.read_exactly(length).await?
        } else if matches!(status, 204 | 304) {
            Vec::new()
        } else {
            self.read_to_end().await?
        };
        Ok(Answer { status, headers, body, trailers: Vec::new() })
    }

    /// Reads until the peer closes.
    ///
    /// # Errors
    /// If the peer goes silent instead; a reset counts as the end.
    pub async fn read_to_end(&mut self) -> Result<Vec<u8>, String> {
        while self.fill().await? {}
        Ok(core::mem::take(&mut self.pending))
    }

    async fn read_head(&mut self) -> Result<(u16, Vec<(String, Vec<u8>)>), String> {
        let first = self.read_line().await?;
        let status = core::str::from_utf8(&first)
            .ok()
            .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.parse().ok());
        let status = status.ok_or_else(|| unexpected("a status line", &first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                return Err(unexpected("a header", &line));
            };
            let (name, value) = line.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
            headers.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
        }
    }

    async fn read_chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let size = core::str::from_utf8(&line)
                .ok()
                .and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok());
            let size = size.ok_or_else(|| unexpected("a chunk size", &line))?;
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.read_line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_exactly(size).await?);
            self.read_line().await?;
        }
    }

    async fn read_line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.pending.drain(..end).collect();
                self.pending.drain(..2);
                return Ok(line);
            }
            if !self.fill().await? {
                return Err(unexpected("the end of a line", &self.pending));
            }
        }
    }

    async fn read_exactly(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.pending.len() < n {
            if !self.fill().await? {
                let what = format!("{n} bytes of body");
                return Err(unexpected(&what, &self.pending));
            }
        }
        Ok(self.pending.drain(..n).collect())
    }

    async fn fill(&mut self) -> Result<bool, String> {
        let read = timeout(READ_LIMIT, self.stream.read_buf(&mut self.pending)).await;
        match read {
            Ok(Ok(n)) => Ok(n > 0),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Ok(Err(error)) => Err(format!("read: {error}")),
            Err(_) => Err(unexpected("more bytes in time", &self.pending)),
        }
    }
}

fn unexpected(what: &str, bytes: &[u8]) -> String {
    let seen = String::from_utf8_lossy(bytes);
    format!("expected {what}, the connection gave {seen:?}")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answered(bytes: &'static [u8]) -> Result<Answer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(bytes).await.expect("write");
        });
        Connection::open(address).await.expect("connect").read_response().await
    }

    #[tokio::test]
    async fn reads_a_body_of_any_framing() {
        let by_length = answered(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-A:\xff\r\ncontent-length: 2\r\n\r\nhi").await;
        let headers =
            vec![("x-a".into(), b"\xff".to_vec()), ("content-length".into(), b"2".to_vec())];
        assert_eq!(
            by_length.expect("answer"),
            Answer { status: 200, headers, body: b"hi".to_vec(), trailers: Vec::new() }
        );
        let chunked = answered(
            b"HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n",
        );
        assert_eq!(chunked.await.expect("answer").body, b"abc");
        let to_end = answered(b"HTTP/1.1 200 OK\r\n\r\nall of it").await;
        assert_eq!(to_end.expect("answer").body, b"all of it");
    }

    #[tokio::test]
    async fn half_an_answer_is_an_error() {
        let cut = answered(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        assert_eq!(cut.expect_err("cut"), "expected 9 bytes of body, the connection gave \"half\"");
    }
}
