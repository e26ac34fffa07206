//! What tracing costs: an Envoy for each mode, all driven in turn by the same requests, and the
//! processor time that each of them takes.
//!
//! A round visits every mode for a fraction of a second. What a mode spends is read at each visit
//! from the scheduler's account of the whole process, so that exports after a visit count too, and
//! compared with what the plain Envoy spends in the same round: what disturbs the machine for
//! longer than a round disturbs both.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::envoy::Envoy;

pub mod chart;
pub mod encode;
pub mod load;
pub mod mode;
pub mod process;
pub mod report;
pub mod scale;
pub mod serve;
pub mod stats;
pub mod workers;

use load::Connections;
use mode::{CAUSE, LISTENER, Mode, Modules};
use serve::{Received, Server};

/// How much is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many visits come before the first that counts: V8 compiles again what is called often.
    pub warm_up: usize,
    /// How often each mode is visited.
    pub rounds: usize,
    /// Requests of one visit.
    pub requests: usize,
    /// Connections over which they come.
    pub connections: usize,
    /// Visits at a fixed rate, for latencies; 0: none.
    pub paced_rounds: usize,
    /// What the filter is compared with.
    pub modules: Modules,
}

/// Requests in a second of a paced visit.
pub const PACE: u32 = 1_000;

/// How long a paced visit takes.
const PACED_SECONDS: u32 = 1;

/// How long spans may take to arrive when all is over: longer than the timers of native tracers.
const PATIENCE: Duration = Duration::from_secs(12);

/// What was measured of one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The mode.
    pub mode: Mode,
    /// Microseconds of processor time per request, for each round.
    pub cpu: Vec<f64>,
    /// Requests per second, for each round.
    pub throughput: Vec<f64>,
    /// Milliseconds of every paced request.
    pub latency: Vec<f64>,
    /// All that its collector got.
    pub received: Received,
    /// All requests that its Envoy got.
    pub sent: u64,
    /// Bytes of its Envoy in memory at the end.
    pub resident: u64,
    /// Milliseconds until its Envoy was ready.
    pub start: f64,
}

struct Contestant {
    measured: Measured,
    envoy: Envoy,
    collector: Server,
    connections: Connections,
    request: Vec<u8>,
    /// Its account at the visit before.
    account: Option<u64>,
    /// What its requests are calls of.
    _cause: Option<TcpStream>,
}

/// Measures all modes.
///
/// # Panics
/// If a request fails, or the spans that came are not those of the requests: a figure would be of
/// something else.
pub async fn run(plan: &Plan, modes: Vec<Mode>, mut tell: impl FnMut(&str)) -> Vec<Measured> {
    let upstream = Server::start().await;
    let mut contestants = Vec::new();
    for mode in modes {
        contestants.push(Contestant::start(plan, mode, &upstream).await);
    }
    for turn in 0..plan.warm_up.saturating_add(plan.rounds) {
        if turn % 10 == 0 {
            tell(&format!("round {turn} of {}", plan.warm_up + plan.rounds));
        }
        let count = contestants.len();
        for place in 0..count {
            let contestant = &mut contestants[(place + turn) % count];
            contestant.visit(plan, turn >= plan.warm_up).await;
        }
    }
    // What the last visits left behind leaves within a tick.
    sleep(Duration::from_millis(1_500)).await;
    contestants.iter_mut().for_each(|contestant| contestant.close_account(plan));
    for turn in 0..plan.paced_rounds {
        tell(&format!("paced round {turn} of {}", plan.paced_rounds));
        for contestant in &mut contestants {
            contestant.paced_visit(plan).await;
        }
    }
    let mut all = Vec::new();
    for contestant in contestants {
        all.push(contestant.end().await);
    }
    all
}

impl Contestant {
    async fn start(plan: &Plan, mode: Mode, upstream: &Server) -> Self {
        let collector = Server::start().await;
        let bootstrap = mode.bootstrap(&plan.modules, upstream.address(), collector.address());
        let begin = Instant::now();
        let envoy = Envoy::start(&bootstrap, mode.workers).await;
        let start = begin.elapsed().as_secs_f64() * 1e3;
        let connections = Connections::open(envoy.listener(LISTENER), plan.connections).await;
        let request = mode.request();
        let cause = if mode.caused { Some(cause(&envoy).await) } else { None };
        let measured = Measured {
            mode,
            cpu: Vec::new(),
            throughput: Vec::new(),
            latency: Vec::new(),
            received: Received::default(),
            sent: 0,
            resident: 0,
            start,
        };
        Self { measured, envoy, collector, connections, request, account: None, _cause: cause }
    }

    /// Books what was spent since the visit before, and sends requests.
    async fn visit(&mut self, plan: &Plan, counts: bool) {
        let each = plan.requests / plan.connections;
        self.close_account(plan);
        let begin = Instant::now();
        self.connections.flood(&self.request, each).await;
        let rate = per_visit(plan) / begin.elapsed().as_secs_f64();
        self.measured.sent += (each * plan.connections) as u64;
        if counts {
            self.measured.throughput.push(rate);
        } else {
            // What the warm-up spends is not booked.
            self.account = None;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of some seconds")]
    fn close_account(&mut self, plan: &Plan) {
        let now = process::cpu_nanos(self.pid());
        if let Some(before) = self.account.replace(now) {
            self.measured.cpu.push(now.saturating_sub(before) as f64 / 1e3 / per_visit(plan));
        }
    }

    async fn paced_visit(&mut self, plan: &Plan) {
        let connections = u32::try_from(plan.connections).expect("a few connections");
        let each = PACE * PACED_SECONDS / connections;
        let taken = self.connections.paced(&self.request, each, PACE).await;
        self.measured.sent += taken.len() as u64;
        self.measured.latency.extend(taken.iter().map(|taken| taken.as_secs_f64() * 1e3));
    }

    /// Waits until every span has come.
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand requests")]
    async fn end(mut self) -> Measured {
        let Mode { name, share, .. } = &self.measured.mode;
        let expected = self.measured.sent as f64 * share;
        // Whether chance decides.
        let slack = if share.fract() == 0.0 { 0.0 } else { 6.0 * expected.sqrt() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.collector.received();
            if (received.spans as f64 - expected).abs() <= slack {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: {expected} ± {slack} spans of {} requests should have come: {received:?}",
                self.measured.sent
            );
            sleep(Duration::from_millis(50)).await;
        }
        self.measured.received = self.collector.received();
        if self.measured.mode.caused {
            // Or a figure would be of something else; it comes with a tick.
            let all = i64::try_from(self.measured.sent).expect("some hundred thousand requests");
            let joined =
                |metrics: &BTreeMap<String, i64>| metrics.get("context_correlated") == Some(&all);
            self.envoy.metrics_until(joined).await;
        }
        self.measured.resident = process::resident_bytes(self.pid());
        self.envoy.stop().await;
        self.measured
    }

    fn pid(&self) -> u32 {
        self.envoy.pid().expect("Envoy runs")
    }
}

/// Sends the request that has caused the others, and waits until it is remembered.
async fn cause(envoy: &Envoy) -> TcpStream {
    let mut stream =
        TcpStream::connect(envoy.listener(CAUSE)).await.expect("a connection to Envoy");
    stream.write_all(&Mode::cause()).await.expect("a request is sent");
    envoy.metrics_until(|metrics| metrics.get("correlation_remembered") == Some(&1)).await;
    stream
}

#[expect(clippy::cast_precision_loss, reason = "some thousand requests")]
fn per_visit(plan: &Plan) -> f64 {
    (plan.requests / plan.connections * plan.connections) as f64
}
