//! Whatever a client sends, an Envoy with the filter answers as one without it, sends the same on
//! to the application, and has a span for each request.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use meshweft_core::model::Format;
use meshweft_lab::app::Seen;
use meshweft_lab::client::{Client, Version, raw};
use meshweft_lab::formats;
use meshweft_lab::mesh::{Options, Workload, exporting};
use serde_json::json;
use tokio::task::JoinSet;

/// Headers that the filter reads beside those of the context formats.
const ALSO_READ: [&str; 3] = ["content-type", "user-agent", "x-request-id"];

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

/// How many requests are open at once.
const OPEN: usize = 16;

/// A request over either version.
#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    target: Vec<u8>,
    /// The authority; `None`: a request without.
    host: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

impl Case {
    fn get(headers: &[(&str, &[u8])]) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), v.to_vec())).collect();
        Self { method: "GET", target: b"/a".to_vec(), host: Some(b"a".to_vec()), headers }
    }

    fn to(target: &[u8]) -> Self {
        Self { target: target.to_vec(), ..Self::get(&[]) }
    }

    /// The request in HTTP/1.1, marked with its number.
    fn bytes(&self, number: usize) -> Vec<u8> {
        let mut out = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        let number = number.to_string().into_bytes();
        let fixed = [("connection", &b"close"[..]), ("x-case", &number)];
        let host = self.host.iter().map(|host| ("host", &**host));
        let own = self.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, value) in host.chain(fixed).chain(own) {
            out.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        out.extend(b"\r\n");
        out
    }
}

/// What comes of a case: the client's status, and what the application saw.
#[derive(Debug, Eq, PartialEq)]
struct Outcome {
    status: Option<u16>,
    seen: Vec<Seen>,
}

fn hostile_values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        &b""[..],
        b"\t",
        b"\xff",
        b"\x80\x81\x82",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98\x80",
        b"a\tb",
        b"2",
        b"-",
        b",,,",
        b"=",
        b"a=\xff",
        b"application/grpc\xff",
        b"00000000-0000-0000-0000-00000000000\xff",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    for end in [&b"\xff"[..], b"-", b"-\xff", b"\xe2\x82"] {
        values.push([PARENT.as_bytes(), end].concat());
    }
    values.push(PARENT.replace('0', "\u{660}").into_bytes());
    values
}

fn headers() -> Vec<Case> {
    let mut cases: Vec<_> = (0x80..=0xff).map(|byte| Case::get(&[("x-any", &[byte])])).collect();
    let values = hostile_values();
    for name in formats::HEADERS.into_iter().chain(ALSO_READ) {
        cases.extend(values.iter().map(|value| Case::get(&[(name, value)])));
        // Beside a valid one, before and behind it.
        let hostile: (&str, &[u8]) = (name, b"\xff\xfe");
        cases.push(Case::get(&[("traceparent", PARENT.as_bytes()), hostile]));
        cases.push(Case::get(&[hostile, ("traceparent", PARENT.as_bytes())]));
    }
    let other = PARENT.replace("0af7", "1af7");
    for second in [PARENT, &other, ""] {
        for (a, b) in [(PARENT, second), (second, PARENT)] {
            cases.push(Case::get(&[("traceparent", a.as_bytes()), ("traceparent", b.as_bytes())]));
        }
    }
    for states in [vec!["a=1", "b=2"], vec!["a=1", "\u{e9}=2"], vec![""; 40], vec!["a=1"; 60]] {
        let mut headers = vec![("traceparent", PARENT.as_bytes())];
        headers.extend(states.iter().map(|state| ("tracestate", state.as_bytes())));
        cases.push(Case::get(&headers));
    }
    for kib in [1, 2, 4, 8, 16, 32, 48, 58, 59, 60, 61, 64] {
        for name in ["x-any", "traceparent", "tracestate", "b3", "user-agent", "content-type"] {
            cases.push(Case::get(&[(name, &vec![b'a'; kib * 1024])]));
        }
        let members = "k=v,".repeat(kib * 256);
        let parent = ("traceparent", PARENT.as_bytes());
        cases.push(Case::get(&[parent, ("tracestate", members.as_bytes())]));
    }
    // Envoy's limit is 100 with those that it adds itself, and a new trace adds two: 93 is the
    // last that leaves room for all of them.
    for count in [40, 90, 93, 99, 100, 101, 150] {
        cases.push(Case::get(&vec![("x-many", &b"1"[..]); count]));
        cases.push(Case::get(&vec![("traceparent", PARENT.as_bytes()); count]));
        cases.push(Case::get(&vec![("b3", &b"\xff"[..]); count]));
    }
    cases
}

fn targets() -> Vec<Case> {
    let mut cases: Vec<_> = [
        &b"http://other.example/x?y=1"[..],
        b"http://u:p@other.example:81/x",
        b"/\xff\xfe",
        b"/%ff%00%zz",
        b"/\xe2\x82\xac?\xe2\x82",
        b"//a//b",
        b"/../../etc",
        b"/a?b?c#d",
        b"?",
        b"a",
        b"*",
        b"http://",
        b"http:///",
        b"urn:a",
    ]
    .map(Case::to)
    .to_vec();
    for kib in [1, 8, 32, 59, 61] {
        cases.push(Case::to(&[b"/", &*vec![b'a'; kib * 1024]].concat()));
        cases.push(Case::to(&[b"/?", &*vec![b'\xff'; kib * 1024]].concat()));
    }
    for host in
        [&b""[..], b"u:secret@a", b"@", b"[::1]:1", b"[", b"a:b:c", b"\xff", b"a:99999", b"a b"]
    {
        cases.push(Case { host: Some(host.to_vec()), ..Case::to(b"/a") });
    }
    cases.push(Case { host: None, ..Case::to(b"/a") });
    for method in ["OPTIONS", "CONNECT", "TRACE", "HEAD", "BREW", "get", "PROPFIND", "\u{e9}"] {
        for target in [&b"/a"[..], b"*", b"a:1"] {
            cases.push(Case { method, ..Case::to(target) });
        }
    }
    cases
}

async fn one(
    version: Version,
    client: Client,
    to: SocketAddr,
    case: Case,
    n: usize,
) -> Option<u16> {
    if version == Version::H1 {
        return raw(to, &case.bytes(n)).await.map(|answer| answer.status);
    }
    let path = String::from_utf8(case.target).expect("text");
    let number = n.to_string();
    let mut headers: Vec<(&str, &[u8])> = vec![("x-case", number.as_bytes())];
    headers.extend(case.headers.iter().map(|(name, value)| (&**name, &**value)));
    let answer = client.send(case.method, to, &path, &headers, Bytes::new()).await;
    answer.ok().map(|answer| answer.status)
}

/// Sends all cases to a listener; gives what came of each.
async fn outcomes(
    lab: &Workload,
    version: Version,
    listener: &str,
    cases: &[Case],
) -> BTreeMap<usize, Outcome> {
    let already = lab.app.seen().len();
    let to = lab.envoy.listener(listener);
    let client = Client::new(version);
    let mut outcomes = BTreeMap::new();
    let mut open = JoinSet::new();
    for (number, case) in cases.iter().cloned().enumerate() {
        if open.len() >= OPEN
            && let Some(Ok((number, status))) = open.join_next().await
        {
            outcomes.insert(number, Outcome { status, seen: Vec::new() });
        }
        let client = client.clone();
        open.spawn(async move { (number, one(version, client, to, case, number).await) });
    }
    while let Some(Ok((number, status))) = open.join_next().await {
        outcomes.insert(number, Outcome { status, seen: Vec::new() });
    }
    assert_eq!(outcomes.len(), cases.len());
    for mut seen in lab.app.seen().into_iter().skip(already) {
        let number: usize = seen.one("x-case").parse().expect("a number");
        // Those that a tracing filter is there to change, and Envoy's random one.
        seen.headers.retain(|(name, _)| {
            !formats::carries_context(name) && name != "x-request-id" && name != "host"
        });
        outcomes.get_mut(&number).expect("a case").seen.push(seen);
    }
    outcomes
}

async fn same_with_and_without(version: Version, cases: &[Case]) {
    let manager = json!({"delayed_close_timeout": "0.05s"});
    let options = Options { manager, ..Options::default() };
    // Every parser meets every value.
    let all: Vec<_> = Format::NAMES.iter().filter(|name| **name != "baggage").collect();
    let baggage = json!({"allow": ["a"], "attributes": ["a", "b"]});
    let config = exporting(json!({"propagation": {"extract": all, "baggage": baggage}}));
    let lab = Workload::with(&config, options).await;
    let machines = || async {
        let stats = lab.envoy.stats().await;
        stats.get("wasm.envoy.wasm.runtime.v8.active").copied().expect("a figure")
    };
    let before = machines().await;
    let plain = outcomes(&lab, version, "plain", cases).await;
    let filtered = outcomes(&lab, version, "inbound", cases).await;
    for (number, case) in cases.iter().enumerate() {
        assert_eq!(filtered.get(&number), plain.get(&number), "{number}: {case:?}");
    }
    let passed = plain.values().filter(|outcome| outcome.status == Some(200)).count();
    assert!(passed > cases.len() / 4, "only {passed} of {}", cases.len());

    // The machines live: each request that was answered has been counted and has its span, and
    // the receiver could decode all of them. A stream of HTTP/2 whose headers are too large is
    // reset before it has any filters.
    let answered = filtered.values().filter(|outcome| outcome.status.is_some()).count();
    if version == Version::H1 {
        assert_eq!(answered, cases.len());
    }
    let spans = lab.settled(i64::try_from(answered).expect("few")).await;
    assert_eq!(spans.len(), answered);
    assert_eq!(machines().await, before);
    let log = lab.envoy.log();
    for word in ["proxy_on_", "panicked", "Wasm VM failed", "fail-open", "fail open"] {
        assert!(!log.contains(word), "{word:?} in the log:\n{log}");
    }
    for span in &spans {
        assert!(!format!("{span:?}").contains("secret"), "{span:#?}");
    }
    lab.envoy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_headers_over_http1() {
    same_with_and_without(Version::H1, &headers()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_targets_over_http1() {
    same_with_and_without(Version::H1, &targets()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_headers_over_http2() {
    same_with_and_without(Version::H2, &headers()).await;
}
