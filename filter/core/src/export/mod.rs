//! Delivery: spans become bytes once, wait in bounds, and leave at ticks.

use core::time::Duration;
use std::rc::Rc;

mod answer;
mod collectors;
mod complaint;
mod encoder;
mod exporter;
mod grpc;
mod gzip;
mod handover;
mod json;
mod otlp;
mod otlp_json;
mod queue;
mod retry;
#[cfg(test)]
mod samples;
mod zipkin;

pub use exporter::{Exporter, MAX_IN_FLIGHT, give_up_left};

/// A request that the host shall send to the collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportCall {
    /// Names this attempt towards [`Exporter::outcome`].
    pub id: CallId,
    /// Envoy's name of the cluster.
    pub cluster: String,
    /// Pseudo headers first.
    pub headers: Vec<(String, String)>,
    /// The spans, as the protocol has them.
    pub body: Rc<[u8]>,
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
    Answered(Answer<'a>),
    /// The connection broke or the time was over: the host tells no more.
    NoAnswer,
    /// The host refused to send: no such cluster, or worse.
    NotSent,
}

/// An answer, as raw as it came.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<&'a [u8]>,
    /// `grpc-status`, a trailer, or a header where there are no trailers.
    pub grpc_status: Option<&'a [u8]>,
    /// `grpc-message`, likewise.
    pub grpc_message: Option<&'a [u8]>,
    /// `grpc-status-details-bin`, likewise.
    pub grpc_details: Option<&'a [u8]>,
    /// The body, at most [`MAX_ANSWER`] bytes of it.
    pub body: &'a [u8],
}

/// How many bytes of an answer are worth reading.
pub const MAX_ANSWER: usize = 64 * 1024;
