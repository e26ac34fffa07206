//! Applications with known behaviour that forward nothing, under load that does not wait for
//! answers: how many of their calls are joined, and how many rightly. The truth travels in a header
//! of which the filter is not told.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::client::{Client, Version};
use crate::collector::{Collector, Span};
use crate::config::{COLLECTOR, Direction, bootstrap, cluster, listener, meshweft, node, route};
use crate::envoy::Envoy;

/// The header in which the truth travels.
const TRUTH: &str = "x-lab-truth";
/// Of background calls.
const NOBODY: &str = "nobody";
/// Medians: an application thinks, and its backends answer, in milliseconds.
const THINK: f64 = 4.0;
const ANSWERS: [(&str, f64); 3] = [("/a", 40.0), ("/b", 80.0), ("/c", 60.0)];
const SIGMA: f64 = 0.4;

/// What an application does for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Behaviour {
    /// It calls `/a`, then `/b`.
    Sequence,
    /// It calls `/a`, `/b` and `/c` at once.
    Parallel,
    /// It has the answer of `/a` half of the time, else it calls `/a`; then `/b`.
    Cached,
    /// As the sequence; besides, one call in ten is made by nobody.
    Background,
    /// As the sequence, over eight connections.
    Pool,
}

impl Behaviour {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Sequence, Self::Parallel, Self::Cached, Self::Background, Self::Pool];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::Parallel => "parallel",
            Self::Cached => "cached",
            Self::Background => "background",
            Self::Pool => "pool of 8",
        }
    }
}

/// How a cell went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Calls that a request caused.
    pub calls: f64,
    /// Calls in the trace of a request.
    pub joined: f64,
    /// Those in the trace of the request that caused them.
    pub right: f64,
    /// Calls that were not joined and link to requests.
    pub linked: f64,
    /// Those that link to the one that caused them.
    pub links_right: f64,
    /// Calls to which the span of a request links.
    pub late: f64,
    /// Those to which the span of the one that caused them links.
    pub late_right: f64,
    /// Calls of the request that came last, or first, of those that were open.
    pub latest: f64,
    /// The same of the first.
    pub oldest: f64,
    /// Microseconds of Envoy's CPU for a request with its calls.
    pub cpu: f64,
}

/// What the application and its backends have seen.
#[derive(Debug, Default)]
struct Seen {
    /// The trace of each request, by its truth.
    requests: HashMap<String, String>,
    /// Trace and span of each call, by its truth.
    calls: Vec<(String, String, String)>,
    /// Requests that are open, in the order in which they came.
    open: Vec<String>,
    latest: f64,
    oldest: f64,
}

impl Seen {
    /// What is written down of a request or a call.
    fn line(&self, span: &Span, since: u64) -> String {
        let (truth, what) = if span.kind == "SERVER" {
            let own = self.requests.iter().find(|(_, trace)| **trace == span.trace_id);
            (own.map(|(truth, _)| &**truth), "in")
        } else {
            let own = self.calls.iter().find(|(.., id)| *id == span.span_id);
            let mut path = ANSWERS.iter().map(|(path, _)| *path);
            let url = span.attributes.get("url.full").map_or("", |url| url);
            let path = path.find(|path| url.ends_with(path)).unwrap_or("?");
            (own.map(|(truth, ..)| &**truth), path)
        };
        let request = truth.and_then(|truth| truth.strip_prefix('r')).unwrap_or("-");
        let (began, took) = ((span.start - since) / 1000, (span.end - span.start) / 1000);
        format!("{began} {took} {request} {what}\n")
    }
}

#[derive(Debug)]
struct App {
    behaviour: Behaviour,
    /// Whether it forwards `x-request-id`.
    forwards: bool,
    client: Client,
    outbound: Mutex<Option<SocketAddr>>,
    connections: Semaphore,
    random: Mutex<u64>,
    seen: Mutex<Seen>,
}

/// An application and its backends behind one Envoy.
#[derive(Debug)]
pub struct Bench {
    envoy: Envoy,
    collector: Collector,
    app: Arc<App>,
    client: Client,
    servers: Vec<JoinHandle<()>>,
    sent: usize,
    /// What Envoy saw, and when the first of it was.
    recorded: Option<(Option<u64>, String)>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

impl Bench {
    /// Starts all of it, with this `correlation` in the configuration.
    ///
    /// # Panics
    /// If no port can be had.
    pub async fn start(behaviour: Behaviour, correlation: &Value, seed: u64) -> Self {
        let collector = Collector::start().await;
        let app = Arc::new(App {
            behaviour,
            forwards: correlation.get("infer").is_none() && correlation.get("headers").is_none(),
            client: Client::new(Version::H1),
            outbound: Mutex::default(),
            connections: Semaphore::new(if behaviour == Behaviour::Pool { 8 } else { 10_000 }),
            random: Mutex::new(seed),
            seen: Mutex::default(),
        });
        let (at_app, serving) = serve(&app, App::request).await;
        let (at_backend, answering) = serve(&app, App::backend).await;
        let filter = json!({
            "service": {"name": "lab"},
            "correlation": correlation,
            "export": {"cluster": COLLECTOR, "batch": {"interval": "100ms"}},
        });
        let http = |name: &str, direction, to: &str| {
            listener(name, direction, vec![meshweft(&filter)], vec![route("/", to)], None)
        };
        let listeners = vec![
            http("inbound", Direction::Inbound, "app"),
            http("outbound", Direction::Outbound, "backend"),
        ];
        let clusters = vec![
            cluster("app", at_app),
            cluster("backend", at_backend),
            cluster(COLLECTOR, collector.address()),
        ];
        let envoy = Envoy::start(&bootstrap(node("lab"), listeners, clusters), 2).await;
        *lock(&app.outbound) = Some(envoy.listener("outbound"));
        let client = Client::new(Version::H1);
        Self {
            envoy,
            collector,
            app,
            client,
            servers: vec![serving, answering],
            sent: 0,
            recorded: None,
        }
    }

    /// Requests one at a time, from which delays can be learned.
    pub async fn quiet(&mut self, requests: usize) {
        for _ in 0..requests {
            self.send().await;
            sleep(Duration::from_millis(2)).await;
        }
        if self.recorded.is_some() {
            self.score(0.0, requests, 0.0).await;
        }
        self.reset();
    }

    /// From now on what Envoy sees is written down.
    pub fn record(&mut self) {
        self.recorded = Some((None, String::new()));
    }

    /// What was written down since [`record`](Self::record). A line `in flight N` begins each load,
    /// 0 being requests one at a time. Each other line is a request or a call: when it began and
    /// how long it took, in microseconds; the request, or which one made the call, `-` being none;
    /// and `in`, or the path of the call.
    #[must_use]
    pub fn recorded(&self) -> &str {
        self.recorded.as_ref().map_or("", |(_, recorded)| recorded)
    }

    /// `requests` at random times, about `load` of them open at once.
    ///
    /// # Panics
    /// If a request fails.
    pub async fn load(&mut self, load: f64, requests: usize) -> Score {
        let gap = self.app.duration() / load;
        let background = (self.app.behaviour == Behaviour::Background)
            .then(|| tokio::spawn(Arc::clone(&self.app).background(gap * 5.0)));
        let cpu = self.cpu();
        let mut open = JoinSet::new();
        let mut next = Instant::now();
        for _ in 0..requests {
            next += millis(self.app.exponential(gap));
            sleep_until(next).await;
            let sent = self.name();
            let to = self.envoy.listener("inbound");
            let client = self.client.clone();
            open.spawn(async move { client.get(to, "/work", &[(TRUTH, sent.as_bytes())]).await });
        }
        while let Some(answer) = open.join_next().await {
            let answer = answer.expect("no panic").expect("an answer");
            assert_eq!(answer.status, 200);
        }
        if let Some(background) = background {
            background.abort();
        }
        let cpu = self.cpu() - cpu;
        self.score(load, requests, cpu).await
    }

    /// `requests` one after the other, counted.
    pub async fn one_by_one(&mut self, requests: usize) -> Score {
        let cpu = self.cpu();
        for _ in 0..requests {
            self.send().await;
            // The proxy ends a request a moment after its answer has come.
            sleep(Duration::from_millis(20)).await;
        }
        let cpu = self.cpu() - cpu;
        self.score(0.0, requests, cpu).await
    }

    async fn score(&mut self, load: f64, requests: usize, cpu: f64) -> Score {
        let calls = lock(&self.app.seen).calls.len();
        let spans = self
            .collector
            .wait_until(Duration::from_secs(20), |spans| spans.len() >= requests + calls)
            .await;
        if let Some((since, recorded)) = &mut self.recorded {
            let _ = writeln!(recorded, "in flight {load}");
            let first = spans.iter().map(|span| span.start).min().unwrap_or_default();
            let since = *since.get_or_insert(first);
            let seen = lock(&self.app.seen);
            recorded.extend(spans.iter().map(|span| seen.line(span, since)));
        }
        let links: BTreeMap<&str, &[(String, String)]> =
            spans.iter().map(|span| (&*span.span_id, &*span.links)).collect();
        let servers = spans.iter().filter(|span| span.kind == "SERVER");
        let mut late: HashMap<&str, Vec<&str>> = HashMap::new();
        for span in servers {
            for (_, call) in &span.links {
                late.entry(call).or_default().push(&span.trace_id);
            }
        }
        let mut score = Score::default();
        {
            let seen = lock(&self.app.seen);
            let traces: HashMap<&str, &str> =
                seen.requests.iter().map(|(truth, trace)| (&**trace, &**truth)).collect();
            for (truth, trace, span) in &seen.calls {
                let joined = traces.get(&**trace);
                let own = seen.requests.get(truth).map(String::as_str);
                score.calls += f64::from(truth != NOBODY);
                score.joined += f64::from(joined.is_some());
                score.right += f64::from(joined.is_some_and(|joined| joined == truth));
                if joined.is_some() || own.is_none() {
                    continue;
                }
                let candidates = links.get(&**span).copied().unwrap_or_default();
                score.linked += f64::from(!candidates.is_empty());
                let is_own = |trace: &str| Some(trace) == own;
                score.links_right += f64::from(candidates.iter().any(|(trace, _)| is_own(trace)));
                let told = late.get(&**span).map(Vec::as_slice).unwrap_or_default();
                score.late += f64::from(!told.is_empty());
                score.late_right += f64::from(told.first().is_some_and(|trace| is_own(trace)));
            }
            score.latest = seen.latest;
            score.oldest = seen.oldest;
            score.cpu = cpu / f64::from(u32::try_from(requests).expect("not so many"));
        }
        self.reset();
        score
    }

    fn reset(&self) {
        self.collector.clear();
        *lock(&self.app.seen) = Seen::default();
    }

    fn name(&mut self) -> String {
        self.sent += 1;
        format!("r{}", self.sent)
    }

    async fn send(&mut self) {
        let name = self.name();
        let to = self.envoy.listener("inbound");
        let answer = self.client.get(to, "/work", &[(TRUTH, name.as_bytes())]).await;
        assert_eq!(answer.expect("an answer").status, 200);
    }

    /// CPU that Envoy has used, in microseconds.
    fn cpu(&self) -> f64 {
        const TICK: f64 = 10_000.0;
        let pid = self.envoy.pid().expect("Envoy runs");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) * TICK
    }
}

impl App {
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let truth = header(&request, TRUTH);
        let key = header(&request, "x-request-id");
        {
            let mut seen = lock(&self.seen);
            seen.requests.insert(truth.clone(), context(&request).0);
            seen.open.push(truth.clone());
        }
        self.think().await;
        match self.behaviour {
            Behaviour::Parallel => {
                tokio::join!(
                    self.call("/a", &truth, &key),
                    self.call("/b", &truth, &key),
                    self.call("/c", &truth, &key)
                );
            }
            Behaviour::Cached if self.uniform() < 0.5 => self.call("/b", &truth, &key).await,
            Behaviour::Background | Behaviour::Cached | Behaviour::Pool | Behaviour::Sequence => {
                self.call("/a", &truth, &key).await;
                self.think().await;
                self.call("/b", &truth, &key).await;
            }
        }
        self.think().await;
        lock(&self.seen).open.retain(|open| *open != truth);
        Response::new(Full::new(Bytes::from_static(b"done\n")))
    }

    async fn backend(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (trace, span) = context(&request);
        lock(&self.seen).calls.push((header(&request, TRUTH), trace, span));
        let path = request.uri().path();
        let median = ANSWERS.iter().find(|(known, _)| *known == path).map_or(1.0, |(_, ms)| *ms);
        sleep(millis(self.lognormal(median))).await;
        Response::new(Full::new(Bytes::from_static(b"ok\n")))
    }

    async fn call(&self, path: &str, truth: &str, key: &str) {
        let _connection = self.connections.acquire().await;
        if truth != NOBODY {
            let mut seen = lock(&self.seen);
            let latest = seen.open.last().is_some_and(|open| open == truth);
            let oldest = seen.open.first().is_some_and(|open| open == truth);
            seen.latest += f64::from(latest);
            seen.oldest += f64::from(oldest);
        }
        let to = lock(&self.outbound).expect("Envoy runs");
        let mut headers: Vec<(&str, &[u8])> = vec![("host", b"backend"), (TRUTH, truth.as_bytes())];
        if self.forwards {
            headers.push(("x-request-id", key.as_bytes()));
        }
        let answer = self.client.get(to, path, &headers).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }

    async fn background(self: Arc<Self>, gap: f64) {
        loop {
            sleep(millis(self.exponential(gap))).await;
            let app = Arc::clone(&self);
            tokio::spawn(async move { app.call("/a", NOBODY, "").await });
        }
    }

    async fn think(&self) {
        sleep(millis(self.lognormal(THINK))).await;
    }

    /// What a request takes, about.
    fn duration(&self) -> f64 {
        match self.behaviour {
            Behaviour::Parallel => 2.0 * THINK + 85.0,
            Behaviour::Cached => 2.5 * THINK + 105.0,
            Behaviour::Background | Behaviour::Pool | Behaviour::Sequence => 3.0 * THINK + 128.0,
        }
    }

    fn uniform(&self) -> f64 {
        let mut state = lock(&self.random);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are all that is kept")]
        let uniform = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        uniform
    }

    fn exponential(&self, mean: f64) -> f64 {
        -mean * (1.0 - self.uniform()).ln()
    }

    fn lognormal(&self, median: f64) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        median * (SIGMA * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()).exp()
    }
}

async fn serve<F>(
    app: &Arc<App>,
    answer: impl Fn(Arc<App>, Request<Incoming>) -> F + Copy + Send + Sync + 'static,
) -> (SocketAddr, JoinHandle<()>)
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Arc::clone(app);
    let server = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let app = Arc::clone(&app);
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(answer(app, request).await) }
            });
            connections.spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    (address, server)
}

fn header(request: &Request<Incoming>, name: &str) -> String {
    let value = request.headers().get(name).map(http::HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Trace and span of `traceparent`.
fn context(request: &Request<Incoming>) -> (String, String) {
    let value = header(request, "traceparent");
    let mut parts = value.split('-').skip(1).map(str::to_owned);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn millis(millis: f64) -> Duration {
    Duration::from_secs_f64(millis / 1000.0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
