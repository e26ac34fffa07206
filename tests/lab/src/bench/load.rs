//! A client that costs little: the processors are for Envoy.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Connections to one Envoy, kept open from round to round.
#[derive(Debug)]
pub struct Connections(Vec<Connection>);

impl Connections {
    /// Opens so many.
    ///
    /// # Panics
    /// If nobody listens there.
    pub async fn open(to: SocketAddr, count: usize) -> Self {
        let mut connections = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(to).await.expect("a connection to Envoy");
            stream.set_nodelay(true).expect("an option");
            connections.push(Connection { stream, buffer: vec![0; 16 << 10] });
        }
        Self(connections)
    }

    /// Sends `each` requests over each connection, one after the other.
    ///
    /// # Panics
    /// If one is not answered with 200.
    pub async fn flood(&mut self, request: &[u8], each: usize) {
        self.each(|mut connection| {
            let request = request.to_vec();
            async move {
                for _ in 0..each {
                    connection.exchange(&request).await;
                }
                (connection, Vec::new())
            }
        })
        .await;
    }

    /// Sends `each` requests over each connection at an even pace over all of them, and gives how
    /// long each took, counted from when it was due: a queue shows, also in the client.
    ///
    /// # Panics
    /// If one is not answered with 200.
    pub async fn paced(&mut self, request: &[u8], each: u32, per_second: u32) -> Vec<Duration> {
        let count = u32::try_from(self.0.len()).expect("a few connections");
        let gap = Duration::from_secs(1) / per_second;
        let begin = Instant::now() + Duration::from_millis(5);
        let mut number = 0;
        self.each(|mut connection| {
            let request = request.to_vec();
            let first = begin + gap * number;
            number += 1;
            async move {
                let mut taken = Vec::new();
                for turn in 0..each {
                    let due = first + gap * count * turn;
                    sleep_until(due).await;
                    connection.exchange(&request).await;
                    taken.push(due.elapsed());
                }
                (connection, taken)
            }
        })
        .await
    }

    /// Runs `task` for all connections at once; gives what they gave.
    async fn each<F>(&mut self, mut task: impl FnMut(Connection) -> F) -> Vec<Duration>
    where
        F: Future<Output = (Connection, Vec<Duration>)> + Send + 'static,
    {
        let mut tasks: JoinSet<_> = self.0.drain(..).map(&mut task).collect();
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let (connection, some) = ended.expect("every request is answered");
            self.0.push(connection);
            all.extend(some);
        }
        all
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn exchange(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("a request is sent");
        let mut filled = 0;
        loop {
            let free = self.buffer.get_mut(filled..).unwrap_or_default();
            let read = self.stream.read(free).await.expect("an answer");
            assert!(read > 0, "Envoy closed the connection");
            filled += read;
            let so_far = &self.buffer[..filled];
            if let Some(message) = Message::parse(so_far) {
                let line = String::from_utf8_lossy(&so_far[..message.head]);
                assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
                assert_eq!(message.whole, filled, "one answer to one request");
                return;
            }
        }
    }
}

/// A whole message of HTTP/1.1 at the front of some bytes: where its head and it end, and its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    pub(super) head: usize,
    pub(super) whole: usize,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// `None` as long as it is not whole. Without a length, and not in chunks, there is no body.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let field = |name: &[u8]| {
            bytes[..head].split(|byte| *byte == b'\n').find_map(|line| {
                let (found, value) = line.split_at_checked(name.len())?;
                found.eq_ignore_ascii_case(name).then(|| str::from_utf8(value).map(str::trim))?.ok()
            })
        };
        if field(b"transfer-encoding:") == Some("chunked") {
            return Self::chunks(bytes, head);
        }
        let length: usize = field(b"content-length:").map_or(Some(0), |text| text.parse().ok())?;
        let body = bytes.get(head..head + length)?.to_vec();
        Some(Self { head, whole: head + length, body })
    }

    fn chunks(bytes: &[u8], head: usize) -> Option<Self> {
        let mut body = Vec::new();
        let mut at = head;
        loop {
            let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
            let size = str::from_utf8(&bytes[at..at + line]).ok()?;
            let size = usize::from_str_radix(size, 16).ok()?;
            let start = at + line + 2;
            body.extend_from_slice(bytes.get(start..start + size)?);
            at = start + size + 2;
            bytes.get(..at)?;
            if size == 0 {
                return Some(Self { head, whole: at, body });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_they_say() {
        let parse = |text: &str| Message::parse(text.as_bytes());
        assert_eq!(parse("GET / HTTP/1.1\r\nhost: a\r\n"), None);
        let message =
            |head, whole, body: &str| Some(Message { head, whole, body: body.as_bytes().to_vec() });
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), message(18, 18, ""));
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n and more";
        assert_eq!(parse(text), message(38, 41, "ok\n"));
        assert_eq!(parse(&text[..40]), None);
        let chunks = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\nabc\r\nb\r\n01234567890\r\n0\r\n\r\n";
        assert_eq!(parse(chunks), message(47, 76, "abc01234567890"));
        assert_eq!(parse(&chunks[..75]), None);
    }
}
