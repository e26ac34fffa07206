//! One configured instance as the host sees it: configuration, ticks, answers, the way out.

use std::cell::RefCell;
use std::rc::Rc;

use meshweft_core::config::{Config, ConfigError};
use meshweft_core::export::{self, Answer, CallId, Outcome};
use meshweft_core::model::{Metric, MetricId, MetricKind};
use meshweft_core::plugin::Plugin;
use meshweft_core::sampling::{self, Poll};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::host::{self, LogLevel};

/// What the requests of an instance share with its root context.
pub(crate) type Instance = Rc<RefCell<Shared>>;

/// An instance and its generator.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plugin: Plugin,
    pub(crate) rng: SmallRng,
}

/// A root context.
#[derive(Debug, Default)]
pub(crate) struct Root {
    instance: Option<Instance>,
    metrics: Vec<(MetricId, MetricKind, u32)>,
    /// The expressions that the host has compiled for the configuration.
    expressions: Vec<u32>,
    /// The host's names of the attempts that are under way.
    calls: Vec<(u32, CallId)>,
    /// The same of the question to the server of remote sampling.
    poll: Option<u32>,
    first_tick_over: bool,
}

impl Root {
    /// What its requests work with, once it is configured.
    pub(crate) fn instance(&self) -> Option<Instance> {
        self.instance.clone()
    }

    pub(crate) fn on_http_call_response(&mut self, token: u32, headers: usize, trailers: usize) {
        let polled = self.poll == Some(token);
        let position = self.calls.iter().position(|(known, _)| *known == token);
        let id = position.map(|position| self.calls.swap_remove(position).1);
        if !polled && id.is_none() {
            return;
        }
        let status = host::answer_header(":status");
        let status = status.and_then(|status| str::from_utf8(&status).ok()?.parse().ok());
        let retry_after = host::answer_header("retry-after");
        // An answer of gRPC without a message has its status among the headers.
        let last = |name| match trailers {
            0 => host::answer_header(name),
            _ => host::answer_trailer(name),
        };
        let grpc_status = last("grpc-status");
        let grpc_message = last("grpc-message");
        let grpc_details = last("grpc-status-details-bin");
        let body =
            host::answer_body(if polled { sampling::MAX_ANSWER } else { export::MAX_ANSWER });
        let outcome = match status {
            Some(status) if headers > 0 => Outcome::Answered(Answer {
                status,
                retry_after: retry_after.as_deref(),
                grpc_status: grpc_status.as_deref(),
                grpc_message: grpc_message.as_deref(),
                grpc_details: grpc_details.as_deref(),
                body: &body,
            }),
            _ => Outcome::NoAnswer,
        };
        match id {
            Some(id) => self.outcome(id, &outcome),
            None => self.polled(&outcome),
        }
    }

    /// Whether the host may forget it at once.
    pub(crate) fn on_done(&mut self) -> bool {
        let done = self
            .shared(|Shared { plugin, .. }| plugin.on_shutdown(host::now(), &host::Proxy))
            .unwrap_or(true);
        self.move_metrics();
        done
    }

    /// Whether the configuration is accepted.
    pub(crate) fn on_configure(&mut self) -> bool {
        match self.read() {
            Ok(config) => {
                self.start(config);
                true
            }
            Err(error) => {
                host::log(LogLevel::Error, &format!("meshweft: {error}"));
                let metric = Metric::ConfigRejected;
                if let Some(handle) = host::define_metric(metric.kind(), metric.name()) {
                    host::move_metric(metric.kind(), handle, 1);
                }
                false
            }
        }
    }

    /// Whether it had asked for time and has finished now.
    pub(crate) fn on_tick(&mut self) -> bool {
        let first = !core::mem::replace(&mut self.first_tick_over, true);
        let Some((tick, period)) = self.shared(|Shared { plugin, .. }| {
            (plugin.on_tick(host::now(), host::wall(), &host::Proxy), plugin.tick_period())
        }) else {
            return false;
        };
        if first {
            host::set_tick_period(period);
        }
        for call in tick.calls {
            match host::dispatch(&call.cluster, &call.headers, &call.body, call.timeout) {
                Some(token) => self.calls.push((token, call.id)),
                None => self.outcome(call.id, &Outcome::NotSent),
            }
        }
        if let Some(Poll { cluster, headers, timeout }) = tick.poll {
            self.poll = host::dispatch(&cluster, &headers, &[], timeout);
            if self.poll.is_none() {
                self.polled(&Outcome::NotSent);
            }
        }
        self.move_metrics();
        if tick.done {
            host::done();
        }
        tick.done
    }

    /// Reads the configuration, and has its expressions compiled in place of those before.
    fn read(&mut self) -> Result<Config, ConfigError> {
        let mut config = Config::parse(&host::configuration(), &host::environment)?;
        let mut compiled = Vec::new();
        let outcome = config.compile(&mut |expression| {
            let token = host::compile(expression)?;
            compiled.push(token);
            Ok(token)
        });
        let unused = match outcome {
            Ok(()) => core::mem::replace(&mut self.expressions, compiled),
            // The instance that is there goes on with its own.
            Err(_) => compiled,
        };
        unused.into_iter().for_each(host::forget);
        outcome.map(|()| config)
    }

    fn start(&mut self, config: Config) {
        self.calls.clear();
        self.poll = None;
        self.first_tick_over = false;
        let node = host::property(&["xds", "node"]);
        let mut plugin = Plugin::new(config, node.as_deref(), &host::environment);
        if let Some(warning) = plugin.on_start(host::wall()) {
            host::log(LogLevel::Warn, &format!("meshweft: {warning}"));
        }
        self.metrics = plugin
            .metric_ids()
            .filter_map(|id| {
                let (kind, name) = (id.kind(), plugin.metric_name(id));
                Some((id, kind, host::define_metric(kind, &name)?))
            })
            .collect();
        let mut rng = generator();
        host::set_tick_period(plugin.first_tick(&mut rng));
        self.instance = Some(Rc::new(RefCell::new(Shared { plugin, rng })));
    }

    fn outcome(&self, id: CallId, outcome: &Outcome<'_>) {
        let complaint = self.shared(|Shared { plugin, rng }| {
            plugin.on_outcome(id, outcome, host::now(), &host::Proxy, rng)
        });
        if let Some(complaint) = complaint.flatten() {
            host::log(LogLevel::Warn, &format!("meshweft: {complaint}"));
        }
    }

    /// The same of a question to the server of remote sampling.
    fn polled(&mut self, outcome: &Outcome<'_>) {
        self.poll = None;
        let complaint = self
            .shared(|Shared { plugin, .. }| plugin.on_answer(outcome, host::now(), &host::Proxy));
        if let Some(complaint) = complaint.flatten() {
            host::log(LogLevel::Warn, &format!("meshweft: {complaint}"));
        }
    }

    /// Hands what has been counted to the host.
    fn move_metrics(&self) {
        let updates = self.shared(|shared| shared.plugin.metrics.take()).unwrap_or_default();
        for update in updates {
            if let Some((_, kind, handle)) =
                self.metrics.iter().find(|(id, ..)| *id == update.metric)
            {
                host::move_metric(*kind, *handle, update.value);
            }
        }
    }

    fn shared<T>(&self, with: impl FnOnce(&mut Shared) -> T) -> Option<T> {
        Some(with(&mut *self.instance.as_ref()?.try_borrow_mut().ok()?))
    }
}

/// A generator of its own for each worker's instance.
fn generator() -> SmallRng {
    let seed = host::entropy().unwrap_or_else(|| {
        host::log(LogLevel::Warn, "meshweft: the host has no entropy; ids begin from the clock");
        let mut seed = [0; 32];
        for (byte, part) in seed.iter_mut().zip(host::now().0.to_le_bytes()) {
            *byte = part;
        }
        seed
    });
    SmallRng::from_seed(seed)
}
