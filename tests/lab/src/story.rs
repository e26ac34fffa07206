//! Requests that remember what their spans must say.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::client::{Answer, Client, Version, raw};
use crate::collector::Span;
use crate::mesh::Workload;

/// The parent of every span of a [`Story`].
pub const PARENT: &str = "00f067aa0ba902b7";

/// The tail of the client's patience for what Envoy does after the last byte.
const SLACK: u64 = 20_000_000;

/// A request with a context of its own.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its trace.
    pub trace_id: String,
    before: u64,
    after: u64,
    status: Option<u16>,
}

/// Sends requests and remembers what their spans must say.
#[derive(Debug)]
pub struct Story<'a> {
    lab: &'a Workload,
    h1: Client,
    h2: Client,
    /// All requests so far.
    pub sent: Vec<Sent>,
}

impl<'a> Story<'a> {
    /// A story without requests.
    #[must_use]
    pub fn new(lab: &'a Workload) -> Self {
        Self { lab, h1: Client::new(Version::H1), h2: Client::new(Version::H2), sent: Vec::new() }
    }

    fn trace_id(&self) -> String {
        format!("{:032x}", 0x00c0_ffee_0000_0000_u64 + self.sent.len() as u64)
    }

    fn traceparent(&self) -> String {
        format!("00-{}-{PARENT}-01", self.trace_id())
    }

    fn ended(&mut self, before: u64, status: Option<u16>) {
        let trace_id = self.trace_id();
        self.sent.push(Sent { trace_id, before, after: nanos(), status });
    }

    /// Sends a request with a `traceparent` of its own.
    pub async fn send(
        &mut self,
        version: Version,
        method: &str,
        listener: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let traceparent = self.traceparent();
        let mut all = vec![("traceparent", traceparent.as_bytes()), ("user-agent", b"lab")];
        all.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let client = if version == Version::H1 { &self.h1 } else { &self.h2 };
        let to = self.lab.envoy.listener(listener);
        let before = nanos();
        let answer = client.send(method, to, path, &all, Bytes::new()).await.ok();
        self.ended(before, answer.as_ref().map(|answer| answer.status));
        answer
    }

    /// The same, a GET over HTTP/1.1.
    pub async fn get(&mut self, listener: &str, path: &str, headers: &[(&str, &str)]) {
        self.send(Version::H1, "GET", listener, path, headers).await;
    }

    /// Exact bytes; `{}` stands for the trace headers.
    pub async fn raw(&mut self, listener: &str, request: &str) {
        let headers = format!("traceparent: {}\r\nuser-agent: lab", self.traceparent());
        let request = request.replace("{}", &headers);
        let before = nanos();
        let answer = raw(self.lab.envoy.listener(listener), request.as_bytes()).await;
        self.ended(before, answer.map(|answer| answer.status));
    }

    /// Leaves when the application has the request, before the answer.
    ///
    /// # Panics
    /// If Envoy cannot be reached.
    pub async fn leave(&mut self, listener: &str, path: &str) {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\ntraceparent: {}\r\n\r\n",
            self.traceparent()
        );
        let before = nanos();
        let seen = self.lab.app.seen().len();
        let mut stream =
            TcpStream::connect(self.lab.envoy.listener(listener)).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("sent");
        while self.lab.app.seen().len() == seen {
            sleep(Duration::from_millis(5)).await;
        }
        drop(stream);
        self.ended(before, None);
    }

    /// The spans in the order of the requests.
    ///
    /// # Panics
    /// If there is not exactly one each, in its trace and within the client's time.
    pub async fn spans(&self) -> Vec<Span> {
        let requests = i64::try_from(self.sent.len()).expect("few");
        let all = self.lab.settled(requests).await;
        assert_eq!(all.len(), self.sent.len());
        let of = |sent: &Sent| {
            let mut own = all.iter().filter(|span| span.trace_id == sent.trace_id);
            let span = own.next().unwrap_or_else(|| panic!("no span for {sent:?}: {all:#?}"));
            assert!(own.next().is_none(), "two spans for {sent:?}");
            assert_eq!(span.parent_id, PARENT);
            assert!(
                sent.before <= span.start
                    && span.start <= span.end
                    && span.end <= sent.after + SLACK,
                "{sent:?} {span:#?}"
            );
            span.clone()
        };
        self.sent.iter().map(of).collect()
    }

    /// A line for each request: what the client got, and what its span says of it.
    pub async fn lines(&self) -> Vec<String> {
        let spans = self.spans().await;
        let line = |(sent, span): (&Sent, &Span)| {
            let status = sent.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
            let error = if span.error { "error " } else { "" };
            format!("{status}: {} {} {error}{}", span.kind, span.name, self.facts(span))
        };
        self.sent.iter().zip(&spans).map(line).collect()
    }

    fn facts(&self, span: &Span) -> String {
        let facts = [
            ("type", "error.type"),
            ("code", "http.response.status_code"),
            ("flags", "envoy.response_flags"),
            ("details", "envoy.response_code_details"),
            ("to", "envoy.cluster"),
            ("at", "envoy.upstream_address"),
            ("attempts", "envoy.attempt_count"),
        ];
        let fact = |(short, name): (&str, &str)| {
            let value = span.attributes.get(name)?;
            let app = self.lab.app.address().to_string();
            Some(format!("{short}={}", value.replace(&app, "app")))
        };
        facts.into_iter().filter_map(fact).collect::<Vec<_>>().join(" ")
    }
}

#[expect(clippy::disallowed_methods, reason = "the client's clock, to hold the spans against")]
fn nanos() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_nanos()).expect("before 2554")
}
