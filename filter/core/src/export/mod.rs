//! Delivery: spans become bytes once, wait in bounds, and leave at ticks.

use core::time::Duration;

use rand::Rng;

use crate::config::Export;
use crate::model::{Metrics, MonoNanos};
use crate::span::{Resource, Span};

/// A request that the host shall send to the collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportCall {
    /// Names this attempt towards [`Exporter::dispatched`].
    pub id: CallId,
    /// Envoy's name of the cluster.
    pub cluster: String,
    /// Pseudo headers first.
    pub headers: Vec<(String, String)>,
    /// The serialized `ExportTraceServiceRequest`.
    pub body: Vec<u8>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// Names an attempt.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CallId(u64);

/// How an attempt ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome<'a> {
    /// The collector (or Envoy on its behalf) answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, raw.
        retry_after: Option<&'a [u8]>,
        /// The body, at most [`MAX_ANSWER`] bytes of it.
        body: &'a [u8],
    },
    /// The connection broke or the time was over: the host tells no more.
    NoAnswer,
    /// The host refused to send: no such cluster, or worse.
    NotSent,
}

/// How many bytes of an answer are worth reading.
pub const MAX_ANSWER: usize = 64 * 1024;

/// The queue and its deliveries, for one worker.
#[derive(Debug)]
pub struct Exporter {}

impl Exporter {
    /// An empty queue.
    #[must_use]
    pub fn new(config: &Export, resource: &Resource) -> Self {
        let _ = (config, resource);
        todo!("export helper")
    }

    /// Encodes `span` and takes it in, or drops and counts it.
    pub fn push(&mut self, span: &Span, now: MonoNanos, metrics: &mut Metrics) {
        let _ = (span, now, metrics);
        todo!("export helper")
    }

    /// What is due. To be called on ticks only.
    pub fn poll(&mut self, now: MonoNanos, metrics: &mut Metrics) -> Vec<ExportCall> {
        let _ = (now, metrics);
        todo!("export helper")
    }

    /// Takes the outcome of an attempt. An unknown id changes nothing.
    pub fn outcome(
        &mut self,
        id: CallId,
        outcome: &Outcome<'_>,
        now: MonoNanos,
        metrics: &mut Metrics,
        rng: &mut impl Rng,
    ) {
        let _ = (id, outcome, now, metrics, rng);
        todo!("export helper")
    }

    /// From now on batches go without waiting for company: the configuration is on its way out.
    pub fn drain(&mut self) {
        todo!("export helper")
    }

    /// Whether nothing waits and nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        todo!("export helper")
    }

    /// Drops and counts what is left: the time to drain is over.
    pub fn abandon(&mut self, metrics: &mut Metrics) {
        let _ = metrics;
        todo!("export helper")
    }
}
