//! What it costs to make bytes of a span, beside the native tracer's span of the same request.
//!
//! Neither tracer's encoder can be watched alone inside Envoy. So a span of each is taken from a
//! real export, and both are encoded here, natively and in one process, in two ways: as the filter
//! does it, straight into the batch, and as messages of protobuf, which are filled and then
//! serialized, as the native tracer does it (prost's messages stand for those of C++). Either way
//! begins with what a tracer has when a request is over, a copy of the span's values, and ends
//! with the body of a request of 512 spans.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use meshweft_core::config::{Config, Scalar};
use meshweft_core::export::{Answer, Outcome};
use meshweft_core::model::{Local, MonoNanos, SpanId, TraceFlags, TraceId, UnixNanos};
use meshweft_core::plugin::Plugin;
use meshweft_core::span::{KeyValue, Span, SpanKind, Status, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1 as otlp;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::load::Connections;
use super::mode::{LISTENER, Mode, Modules, modes, names};
use super::{process, serve, stats};
use crate::collector::Collector;
use crate::envoy::Envoy;

/// Spans of a batch, as by default.
const BATCH: usize = 512;

/// Batches of one measurement.
const BATCHES: usize = 40;

/// Both spans, and what it takes to encode them.
#[derive(Clone, Debug)]
pub struct Encoding {
    rows: Vec<Row>,
    rounds: usize,
}

#[derive(Clone, Debug)]
struct Row {
    tracer: &'static str,
    span: otlp::Span,
    /// Nanoseconds of a span, for each round.
    straight: Vec<f64>,
    messages: Vec<f64>,
}

/// Takes a span of each tracer and encodes both.
///
/// # Panics
/// If a tracer sends none, or what is encoded is not what was sent.
pub async fn run(rounds: usize) -> Encoding {
    let mut exports = Vec::new();
    for (tracer, name) in
        [("Meshweft", names::ALL), ("Envoy's OpenTelemetry tracer", names::OPEN_TELEMETRY)]
    {
        let mode = modes(true).into_iter().find(|mode| mode.name == name).expect("a mode");
        exports.push((tracer, export_of(&mode).await));
    }
    let mut rows = Vec::new();
    for (tracer, export) in &exports {
        let span = first(export).clone();
        let body = Straight::new(&span).batch(1);
        let again = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
        let (found, sent) = (first(&again), &span);
        assert_eq!((&found.name, &found.attributes), (&sent.name, &sent.attributes));
        rows.push(Row { tracer, span, straight: Vec::new(), messages: Vec::new() });
    }
    for round in 0..=rounds {
        for (row, (_, export)) in rows.iter_mut().zip(&exports) {
            let mut straight = Straight::new(&row.span);
            let taken = [
                nanos_of_a_span(|| straight.batch(BATCH).len()),
                nanos_of_a_span(|| messages(export, &row.span).len()),
            ];
            // The first round warms up.
            if round > 0 {
                row.straight.push(taken[0]);
                row.messages.push(taken[1]);
            }
        }
    }
    Encoding { rows, rounds }
}

impl Encoding {
    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "Encoding a span, natively: nanoseconds of processor time, median and quartiles of {} \
             rounds of {BATCHES} batches of {BATCH} spans\n\n\
             {:<30} {:>6} {:>10} {:>22} {:>22} {:>6}",
            self.rounds, "span of", "bytes", "attributes", "straight", "as messages", "ratio"
        );
        let figure = |values: &[f64]| {
            let [low, median, high] = [0.25, 0.5, 0.75].map(|part| stats::quantile(values, part));
            format!("{median:.0} ({low:.0} .. {high:.0})")
        };
        for Row { tracer, span, straight, messages } in &self.rows {
            let ratios: Vec<_> = straight.iter().zip(messages).map(|(a, b)| a / b).collect();
            let _ = writeln!(
                out,
                "{tracer:<30} {:>6} {:>10} {:>22} {:>22} {:>6.2}",
                span.encoded_len(),
                span.attributes.len(),
                figure(straight),
                figure(messages),
                stats::median(&ratios),
            );
        }
        out
    }
}

/// What an Envoy of this mode exports.
async fn export_of(mode: &Mode) -> ExportTraceServiceRequest {
    const REQUESTS: usize = 8;
    let upstream = serve::Server::start().await;
    let collector = Collector::start().await;
    let bootstrap = mode.bootstrap(&Modules::built(), upstream.address(), collector.address());
    let envoy = Envoy::start(&bootstrap, 1).await;
    let mut connections = Connections::open(envoy.listener(LISTENER), 1).await;
    connections.flood(&mode.request(), REQUESTS).await;
    collector.wait_for(1).await;
    let export = collector.exports().swap_remove(0);
    envoy.stop().await;
    export
}

fn first(export: &ExportTraceServiceRequest) -> &otlp::Span {
    &export.resource_spans[0].scope_spans[0].spans[0]
}

fn nanos_of_a_span(mut batch: impl FnMut() -> usize) -> f64 {
    let before = cpu_nanos();
    for _ in 0..BATCHES {
        assert!(std::hint::black_box(batch()) > 0, "a body");
    }
    let taken = cpu_nanos().saturating_sub(before);
    taken as f64 / (BATCHES * BATCH) as f64
}

/// What this process has run for. The kernel books what runs at its ticks, milliseconds apart, and
/// at once where a thread stops running: so it sleeps.
fn cpu_nanos() -> u64 {
    std::thread::sleep(Duration::from_millis(1));
    process::cpu_nanos(std::process::id())
}

/// The filter's way, with its queue.
struct Straight {
    plugin: Plugin,
    span: Span,
    now: MonoNanos,
    rng: SmallRng,
}

impl Straight {
    fn new(span: &otlp::Span) -> Self {
        let config = Config::parse(br#"{"export": {"cluster": "c"}}"#, &|_| None);
        Self {
            plugin: Plugin::new(config.expect("a configuration"), None, &|_| None),
            span: ours(span),
            now: MonoNanos(1),
            rng: SmallRng::seed_from_u64(1),
        }
    }

    /// The body of a request with so many copies.
    fn batch(&mut self, count: usize) -> Rc<[u8]> {
        for _ in 0..count {
            let span = self.span.clone();
            self.plugin.record(&span, self.now);
        }
        self.now = self.now.after(Duration::from_secs(2));
        let wall = UnixNanos(self.now.0);
        let mut tick = self.plugin.on_tick(self.now, wall, &Local::default());
        let call = tick.calls.pop().expect("a request");
        assert!(tick.calls.is_empty(), "one request for a batch");
        let taken = Outcome::Answered(Answer {
            status: 200,
            retry_after: None,
            grpc_status: None,
            grpc_message: None,
            grpc_details: None,
            body: &[],
        });
        self.plugin.on_outcome(call.id, &taken, self.now, &Local::default(), &mut self.rng);
        call.body
    }
}

/// The way of messages: as many as the batch has spans, filled and then serialized.
fn messages(export: &ExportTraceServiceRequest, span: &otlp::Span) -> Vec<u8> {
    let resource = &export.resource_spans[0];
    let scope = &resource.scope_spans[0];
    let spans = (0..BATCH).map(|_| span.clone()).collect();
    let scope_spans = vec![otlp::ScopeSpans {
        scope: scope.scope.clone(),
        spans,
        schema_url: scope.schema_url.clone(),
    }];
    let resource_spans = otlp::ResourceSpans {
        resource: resource.resource.clone(),
        scope_spans,
        schema_url: resource.schema_url.clone(),
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// A span as the filter has it before it is encoded: keys are constants there.
fn ours(span: &otlp::Span) -> Span {
    let id = |bytes: &[u8]| SpanId::from_bytes(bytes.try_into().ok()?);
    let attribute = |pair: &opentelemetry_proto::tonic::common::v1::KeyValue| KeyValue {
        key: Cow::Borrowed(String::leak(pair.key.clone())),
        value: Value::Scalar(match pair.value.clone().and_then(|value| value.value) {
            Some(any_value::Value::StringValue(text)) => Scalar::String(text),
            Some(any_value::Value::IntValue(value)) => Scalar::Int(value),
            Some(any_value::Value::DoubleValue(value)) => Scalar::Double(value),
            Some(any_value::Value::BoolValue(value)) => Scalar::Bool(value),
            other => panic!("no tracer here sends {other:?}"),
        }),
    };
    let trace_id = span.trace_id.as_slice().try_into().ok().and_then(TraceId::from_bytes);
    Span {
        trace_id: trace_id.expect("a trace id"),
        span_id: id(&span.span_id).expect("a span id"),
        parent_id: id(&span.parent_span_id),
        trace_state: span.trace_state.clone(),
        flags: TraceFlags::SAMPLED,
        name: span.name.clone(),
        kind: SpanKind::Server,
        start: UnixNanos(span.start_time_unix_nano),
        end: UnixNanos(span.end_time_unix_nano),
        status: Status::Unset,
        attributes: span.attributes.iter().map(attribute).collect(),
        links: Vec::new(),
    }
}
