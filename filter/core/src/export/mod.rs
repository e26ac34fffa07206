//! Delivery: spans become bytes once, wait in bounds, and leave at ticks.

use core::time::Duration;

mod complaint;
mod exporter;
mod otlp;
mod queue;
mod retry;

pub use exporter::{Exporter, MAX_IN_FLIGHT};

/// A request that the host shall send to the collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportCall {
    /// Names this attempt towards [`Exporter::outcome`].
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
