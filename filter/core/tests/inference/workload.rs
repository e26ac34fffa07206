//! Applications, simulated: what they do between the requests that come in and the calls that go
//! out. Times are microseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// One thing that an application does for a request.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// It computes or waits for something unseen; the median.
    Think(f64),
    /// It calls all of these at once and waits for all answers.
    Calls(Vec<u32>),
    /// It looks into a cache and skips the next step with this chance.
    Skip(f64),
    /// It repeats the last call with this chance.
    Retry(f64),
}

/// How an application does all of it.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// What each kind of request makes it do.
    pub(crate) routes: Vec<Vec<Step>>,
    /// Calls that nobody asked for, as a part of all calls.
    pub(crate) background: f64,
    /// Connections for calls.
    pub(crate) pool: usize,
    /// All thinking happens on one thread, in order.
    pub(crate) single_threaded: bool,
    /// Calls at once leave one by one, in any order; the median of what that takes.
    pub(crate) spread: f64,
    /// Of a hundred calls, how many say which request made them.
    pub(crate) known: u32,
}

/// Medians of what calls take.
const ANSWERS: [f64; 6] = [0.0, 10_000.0, 20_000.0, 5_000.0, 15_000.0, 8_000.0];
const CPU_ANSWER: f64 = 2_000.0;
const SIGMA: f64 = 0.5;

fn sequence(think: f64, calls: &[u32]) -> Vec<Step> {
    let steps = calls.iter().flat_map(|call| [Step::Think(think), Step::Calls(vec![*call])]);
    steps.chain([Step::Think(think)]).collect()
}

/// The workload of this name; with `/k` behind it, three of ten calls say who made them.
pub(crate) fn workload(name: &str) -> Workload {
    if let Some(name) = name.strip_suffix("/k") {
        return Workload { known: 30, ..workload(name) };
    }
    let plain = |routes| Workload {
        routes,
        background: 0.0,
        pool: usize::MAX,
        single_threaded: false,
        spread: 0.0,
        known: 0,
    };
    let mixed = || {
        vec![
            sequence(1000.0, &[1, 2]),
            sequence(1000.0, &[2, 3, 4]),
            sequence(1000.0, &[3, 1]),
            sequence(1000.0, &[5, 1, 3]),
        ]
    };
    let before = |mut steps: Vec<Step>, at: usize, step: Step| {
        steps.insert(at, step);
        steps
    };
    match name {
        "a" => plain(vec![sequence(1000.0, &[1, 2])]),
        "a3" => plain(vec![sequence(300.0, &[1, 2])]),
        "a1" => plain(vec![sequence(100.0, &[1, 2])]),
        "b" => {
            plain(vec![vec![Step::Think(1000.0), Step::Calls(vec![1, 2, 3]), Step::Think(1000.0)]])
        }
        "p" => Workload { spread: 100.0, ..workload("b") },
        "c" => plain(mixed()),
        "d" => plain(vec![sequence(10_000.0, &[6, 6])]),
        "e" => Workload { background: 0.1, ..plain(vec![sequence(1000.0, &[1, 2])]) },
        "f" => plain(vec![before(sequence(1000.0, &[1, 2]), 1, Step::Skip(0.5))]),
        "g" => plain(vec![before(sequence(1000.0, &[1, 2]), 2, Step::Retry(0.1))]),
        "h" => Workload { pool: 8, ..plain(vec![sequence(1000.0, &[1, 2])]) },
        "n" => Workload { single_threaded: true, ..plain(vec![sequence(100.0, &[1, 2])]) },
        "m" => {
            let mut routes = mixed();
            routes[0].insert(1, Step::Skip(0.5));
            routes[1].insert(2, Step::Retry(0.1));
            Workload { background: 0.1, ..plain(routes) }
        }
        _ => panic!("no workload {name}"),
    }
}

/// What a proxy sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    Begins {
        request: usize,
        route: u32,
    },
    /// `request` is the truth, which the proxy does not see; none: a background call.
    Calls {
        call: usize,
        callee: u32,
        request: Option<usize>,
        /// Whether it says so.
        known: bool,
    },
    Answered {
        call: usize,
    },
    Ends {
        request: usize,
    },
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Arrives,
    Thought(usize),
    Answered(usize),
    Leaves(usize, u32),
    Background,
}

struct Request {
    route: usize,
    step: usize,
    waits: usize,
    last: Vec<u32>,
}

/// A run of a workload.
pub(crate) struct Run<'w> {
    workload: &'w Workload,
    rng: SmallRng,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    requests: Vec<Request>,
    calls: Vec<Option<usize>>,
    busy: u64,
    in_pool: usize,
    queue: VecDeque<(usize, u32)>,
    /// Requests that are still to come one at a time.
    quiet: usize,
    /// Requests that come after that, and the gap between them.
    left: usize,
    gap: f64,
}

impl<'w> Run<'w> {
    /// `quiet` requests one after the other, then `requests` at random with this many in flight.
    pub(crate) fn new(
        workload: &'w Workload,
        seed: u64,
        quiet: usize,
        requests: usize,
        load: f64,
    ) -> Self {
        let mut run = Self {
            workload,
            rng: SmallRng::seed_from_u64(seed),
            now: 1_000_000,
            events: BinaryHeap::new(),
            order: 0,
            requests: Vec::new(),
            calls: Vec::new(),
            busy: 0,
            in_pool: 0,
            queue: VecDeque::new(),
            quiet,
            left: requests,
            gap: workload.duration() / load,
        };
        run.at(0.0, Event::Arrives);
        if workload.background > 0.0 {
            run.at(0.0, Event::Background);
        }
        run
    }

    fn at(&mut self, after: f64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now + after as u64, self.order, event)));
    }

    fn lognormal(&mut self, median: f64) -> f64 {
        median * (SIGMA * normal(&mut self.rng)).exp()
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.rng.random::<f64>()).ln()
    }

    /// Runs to the end and tells `see` what the proxy sees, and when.
    pub(crate) fn run(mut self, mut see: impl FnMut(u64, Seen)) {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrives => self.arrives(&mut see),
                Event::Thought(request) => {
                    self.requests[request].step += 1;
                    self.go_on(request, &mut see);
                }
                Event::Answered(call) => self.answered(call, &mut see),
                Event::Leaves(request, callee) => self.wants(request, callee, &mut see),
                Event::Background => self.background(&mut see),
            }
        }
    }

    fn arrives(&mut self, see: &mut impl FnMut(u64, Seen)) {
        if self.left == 0 {
            return;
        }
        let request = self.requests.len();
        let route = self.rng.random_range(0..self.workload.routes.len());
        self.requests.push(Request { route, step: 0, waits: 0, last: Vec::new() });
        see(self.now, Seen::Begins { request, route: route as u32 + 1 });
        if self.quiet == 0 {
            self.left -= 1;
            let gap = self.exponential(self.gap);
            self.at(gap, Event::Arrives);
        }
        self.go_on(request, see);
    }

    fn go_on(&mut self, request: usize, see: &mut impl FnMut(u64, Seen)) {
        let Request { route, step, .. } = self.requests[request];
        match self.workload.routes[route].get(step).cloned() {
            None => {
                see(self.now, Seen::Ends { request });
                if self.quiet > 0 {
                    self.quiet -= 1;
                    let pause = self.exponential(5_000.0);
                    self.at(pause, Event::Arrives);
                }
            }
            Some(Step::Think(median)) => {
                let time = self.lognormal(median);
                if self.workload.single_threaded {
                    self.busy = self.busy.max(self.now) + time as u64;
                    let after = (self.busy - self.now) as f64;
                    self.at(after, Event::Thought(request));
                } else {
                    self.at(time, Event::Thought(request));
                }
            }
            Some(Step::Calls(callees)) => {
                self.requests[request].waits = callees.len();
                self.requests[request].last.clone_from(&callees);
                for callee in callees {
                    if self.workload.spread > 0.0 {
                        let after = self.lognormal(self.workload.spread);
                        self.at(after, Event::Leaves(request, callee));
                    } else {
                        self.wants(request, callee, see);
                    }
                }
            }
            Some(Step::Skip(chance)) => {
                let skips = self.rng.random::<f64>() < chance;
                self.requests[request].step += if skips { 2 } else { 1 };
                self.go_on(request, see);
            }
            Some(Step::Retry(chance)) => {
                if self.rng.random::<f64>() < chance {
                    let callees = self.requests[request].last.clone();
                    self.requests[request].waits = callees.len();
                    // Back to this step with the answer, for one more chance.
                    self.requests[request].step -= 1;
                    for callee in callees {
                        self.wants(request, callee, see);
                    }
                } else {
                    self.requests[request].step += 1;
                    self.go_on(request, see);
                }
            }
        }
    }

    fn wants(&mut self, request: usize, callee: u32, see: &mut impl FnMut(u64, Seen)) {
        if self.in_pool >= self.workload.pool {
            self.queue.push_back((request, callee));
        } else {
            self.in_pool += 1;
            self.calls(Some(request), callee, see);
        }
    }

    fn calls(&mut self, request: Option<usize>, callee: u32, see: &mut impl FnMut(u64, Seen)) {
        let call = self.calls.len();
        self.calls.push(request);
        let known = self.workload.known > 0 && self.rng.random_range(0..100) < self.workload.known;
        see(self.now, Seen::Calls { call, callee, request, known });
        let median = ANSWERS.get(callee as usize).copied().unwrap_or(CPU_ANSWER);
        let time = self.lognormal(median);
        self.at(time, Event::Answered(call));
    }

    fn answered(&mut self, call: usize, see: &mut impl FnMut(u64, Seen)) {
        see(self.now, Seen::Answered { call });
        let Some(request) = self.calls[call] else { return };
        self.in_pool -= 1;
        if let Some((next, callee)) = self.queue.pop_front() {
            self.in_pool += 1;
            self.calls(Some(next), callee, see);
        }
        self.requests[request].waits -= 1;
        if self.requests[request].waits == 0 {
            self.requests[request].step += 1;
            self.go_on(request, see);
        }
    }

    fn background(&mut self, see: &mut impl FnMut(u64, Seen)) {
        if self.left == 0 {
            return;
        }
        let per_request = 2.0;
        let between = if self.quiet > 0 { self.workload.duration() + 5_000.0 } else { self.gap };
        let mean = between / per_request / self.workload.background;
        let gap = self.exponential(mean);
        let callee = self.rng.random_range(1..=2);
        self.calls(None, callee, see);
        self.at(gap, Event::Background);
    }
}

impl Workload {
    /// About what a request takes, in microseconds.
    fn duration(&self) -> f64 {
        let mean = (SIGMA * SIGMA / 2.0).exp();
        let mut all = 0.0;
        for route in &self.routes {
            let mut weight = 1.0;
            for step in route {
                let answer = |callee: &u32| {
                    ANSWERS.get(*callee as usize).copied().unwrap_or(CPU_ANSWER) * mean
                };
                let time = match step {
                    Step::Think(median) => median * mean,
                    Step::Calls(callees) => callees.iter().map(answer).fold(0.0, f64::max),
                    Step::Skip(chance) => {
                        weight = 1.0 - chance;
                        continue;
                    }
                    Step::Retry(_) => 0.0,
                };
                all += time * weight;
                weight = 1.0;
            }
        }
        all / self.routes.len() as f64
    }
}

/// A number of the normal distribution (Box and Muller).
fn normal(rng: &mut SmallRng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
