//! What the host tells of an exchange beside the headers of the request, read once each.

use super::attempt::Attempted;
use super::outcome::{GRPC_UNKNOWN, Outcome, grpc_that_came};
use super::{SpanKind, Status};
use crate::config::Fact;
use crate::model::{self, Exchange, ResponseFlags, UnixNanos};

/// Envoy's response code details where the upstream answered, and not Envoy itself.
const FROM_UPSTREAM: &str = "via_upstream";

/// What is known of an exchange when its span is described.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ending {
    /// When it began.
    pub(super) start: UnixNanos,
    /// When it ended; of an open one, up to when it is described.
    pub(super) end: UnixNanos,
    pub(super) outcome: Outcome,
    /// Whether the response was one of gRPC: with a status of its own, or by its type.
    pub(super) spoke_grpc: bool,
    /// Envoy's names of the route and of the upstream cluster.
    pub(super) route: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) protocol: Option<String>,
    /// The client's address with its port.
    pub(super) client: Option<String>,
    /// The upstream host's address with its port.
    pub(super) upstream: Option<String>,
    pub(super) attempts: Option<i64>,
    /// What of a stream it tells.
    pub(super) part: Part,
    pub(super) attempt: Option<Attempted>,
    /// What the host says of a failure beside all this.
    pub(super) message: Option<String>,
    pub(super) facts: Facts,
}

/// Which part of an exchange a span tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// What there is of it so far.
    Open,
    /// All of it, after a span told that it was open.
    Finished,
}

/// Facts that cost calls to the host and are told where the configuration lists them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) request_size: Option<i64>,
    pub(super) response_size: Option<i64>,
    /// Nanoseconds each.
    pub(super) connect: Option<i64>,
    pub(super) backend_latency: Option<i64>,
    pub(super) first_byte: Option<i64>,
    pub(super) tls: Option<Tls>,
}

/// What is known of a connection with TLS, to the client of a server's span, to the upstream of a
/// client's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Tls {
    /// Such as `TLSv1.3`.
    pub(super) version: String,
    pub(super) server_name: Option<String>,
    /// The first URI in the peer's certificate.
    pub(super) identity: Option<String>,
    /// The subject of the peer's certificate.
    pub(super) subject: Option<String>,
}

impl Ending {
    /// What the host tells at the end of an exchange.
    pub(super) fn read(
        kind: SpanKind,
        is_grpc: bool,
        facts: &[Fact],
        first_byte: Option<UnixNanos>,
        exchange: &impl Exchange,
    ) -> Self {
        let integer = |path: &[&str]| exchange.integer(path);
        let start = integer(&["request", "time"]).map_or(0, i64::cast_unsigned);
        let duration = integer(&["request", "duration"]).unwrap_or(0).max(0).cast_unsigned();
        let flags = integer(&["response", "flags"]).unwrap_or(0).cast_unsigned();
        let flags = ResponseFlags::from_bits(flags);
        let grpc = is_grpc.then(|| integer(&["response", "grpc_status"])).flatten();
        // UNKNOWN is also what Envoy makes of an answer that knows nothing of gRPC.
        let content_type = || exchange.response_header("content-type");
        let spoke_grpc = grpc.is_some_and(|status| {
            status != GRPC_UNKNOWN || content_type().is_some_and(|value| model::is_grpc(&value))
        });
        let outcome = Outcome {
            code: integer(&["response", "code"]).filter(|code| *code != 0),
            grpc: grpc_that_came(grpc, || flags.client_left()),
            flags,
            details: exchange.text(&["response", "code_details"]),
        };
        let client = match kind {
            SpanKind::Server => exchange.text(&["source", "address"]),
            SpanKind::Client => None,
        };
        let attempts = integer(&["upstream", "request_attempt_count"]);
        let first_byte = first_byte.map(|at| at.0.saturating_sub(start).cast_signed());
        Self {
            start: UnixNanos(start),
            end: UnixNanos(start.saturating_add(duration)),
            outcome,
            spoke_grpc,
            route: exchange.text(&["xds", "route_name"]),
            cluster: exchange.text(&["xds", "cluster_name"]),
            protocol: exchange.text(&["request", "protocol"]),
            client,
            upstream: exchange.text(&["upstream", "address"]),
            // Zero where Envoy answered by itself: there was no upstream to count for.
            attempts: attempts.filter(|count| *count > 0),
            part: Part::Whole,
            attempt: None,
            message: None,
            facts: Facts { first_byte, ..Facts::read(kind, facts, exchange) },
        }
    }

    /// What is known of an exchange that goes on.
    pub(super) fn open(start: UnixNanos, end: UnixNanos) -> Self {
        Self { start, end, part: Part::Open, ..Self::default() }
    }

    /// The span's status and, for an error, its `error.type`.
    pub(super) fn status(&self, kind: SpanKind) -> (Status, Option<String>) {
        if self.part == Part::Open {
            return (Status::Unset, None);
        }
        if let Some(told) = self.attempt.and_then(|attempt| attempt.status(self.message.as_deref()))
        {
            return told;
        }
        match self.outcome.status(kind) {
            (Status::Error(_), error) => (Status::Error(self.sentence()), error),
            (Status::Unset, error) => (Status::Unset, error),
        }
    }

    /// What the flags say of a failure; empty where they say nothing.
    fn sentence(&self) -> String {
        let mut sentence = self.outcome.flags.sentence();
        if let Some(attempts) = self.attempts.filter(|count| *count > 1 && !sentence.is_empty()) {
            sentence.push_str(&format!(", after {attempts} attempts"));
        }
        sentence
    }

    /// Whether the upstream answered, and not Envoy itself.
    pub(super) fn is_from_upstream(&self) -> bool {
        match self.attempt {
            Some(_) => self.outcome.code.is_some(),
            None => self.outcome.details.as_deref() == Some(FROM_UPSTREAM),
        }
    }
}

impl Facts {
    fn read(kind: SpanKind, wanted: &[Fact], exchange: &impl Exchange) -> Self {
        let mut facts = Self::default();
        for fact in wanted {
            match fact {
                Fact::Sizes => {
                    facts.request_size = exchange.integer(&["request", "size"]);
                    facts.response_size = exchange.integer(&["response", "size"]);
                }
                Fact::Timing => {
                    facts.connect = exchange.integer(&["upstream", "cx_pool_ready_duration"]);
                    facts.backend_latency = exchange.integer(&["response", "backend_latency"]);
                }
                Fact::Tls => facts.tls = Tls::read(kind, exchange),
            }
        }
        facts
    }
}

impl Tls {
    /// `None` after one call where there is no TLS.
    fn read(kind: SpanKind, exchange: &impl Exchange) -> Option<Self> {
        let side = match kind {
            SpanKind::Server => "connection",
            SpanKind::Client => "upstream",
        };
        let version = exchange.text(&[side, "tls_version"])?;
        let identity = exchange.text(&[side, "uri_san_peer_certificate"]);
        Some(Self {
            version,
            server_name: match kind {
                SpanKind::Server => exchange.text(&[side, "requested_server_name"]),
                SpanKind::Client => None,
            },
            subject: match identity {
                Some(_) => None,
                None => exchange.text(&[side, "subject_peer_certificate"]),
            },
            identity,
        })
    }
}
