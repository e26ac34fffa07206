//! Any bytes as what a collector answers, and as the node that the host describes.

use core::time::Duration;

use meshweft_core::config::Config;
use meshweft_core::export::{Answer, Outcome};
use meshweft_core::model::{
    Local, Metric, MetricId, MonoNanos, SpanId, TraceFlags, TraceId, UnixNanos,
};
use meshweft_core::plugin::Plugin;
use meshweft_core::span::{Span, SpanKind, Status};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const CONFIGS: [&[u8]; 4] = [
    br#"{"export": {"cluster": "otel"}}"#,
    br#"{"export": {"cluster": "otel", "protocol": "otlp/http+json"}}"#,
    br#"{"export": {"cluster": "otel", "protocol": "otlp/grpc"}}"#,
    br#"{"export": {"cluster": "otel", "protocol": "zipkin"}}"#,
];
const SPANS: u64 = 3;

/// Whatever is answered, in whichever protocol, each span is exported, dropped, waiting or under
/// way.
///
/// The input is a status in two bytes, a line for `Retry-After` and the details of gRPC, and the
/// body, which is also gRPC's message; the status of gRPC is the second byte.
pub fn answer(input: &[u8]) {
    for config in CONFIGS {
        answer_to(config, input);
    }
}

fn answer_to(config: &[u8], input: &[u8]) {
    // As a node it may name the service, and nothing else comes of it.
    let config = Config::parse(config, &|_| None).expect("a configuration");
    let mut plugin = Plugin::new(config, Some(input), &|_| None);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut now = MonoNanos(1);
    for id in 1..=SPANS {
        plugin.record(&span(id), now);
    }
    let (head, rest) = input.split_at(input.len().min(2));
    let status = head.iter().fold(0, |status, byte| status << 8 | u16::from(*byte));
    let code = head.last().map(u8::to_string).unwrap_or_default();
    let mut lines = rest.splitn(2, |byte| *byte == b'\n');
    let retry_after = lines.next().filter(|line| !line.is_empty());
    let body = lines.next().unwrap_or_default();
    let mut counts = [0_i64; Metric::ALL.len()];
    for _ in 0..4 {
        now = now.after(Duration::from_secs(40));
        for call in plugin.on_tick(now, UnixNanos(now.0), &Local::default()).calls {
            let outcome = Outcome::Answered(Answer {
                status,
                retry_after,
                grpc_status: Some(code.as_bytes()),
                grpc_message: Some(body),
                grpc_details: retry_after,
                body,
            });
            let told = plugin.on_outcome(call.id, &outcome, now, &Local::default(), &mut rng);
            assert!(told.is_none_or(|line| line.len() < 1_024 && !line.contains('\n')));
        }
        for update in plugin.metrics.take() {
            if let MetricId::Fixed(metric) = update.metric {
                counts[metric as usize] += update.value;
            }
        }
        let told: i64 = WHEREABOUTS.iter().map(|metric| counts[*metric as usize]).sum();
        assert_eq!(told, i64::try_from(SPANS).unwrap(), "{counts:?}");
        assert!(counts.iter().all(|count| *count >= 0), "{counts:?}");
    }
}

/// Where a span can be.
const WHEREABOUTS: &[Metric] = &[
    Metric::Exported,
    Metric::DroppedQueueFull,
    Metric::DroppedRejected,
    Metric::DroppedRetriesExhausted,
    Metric::DroppedEncode,
    Metric::DroppedShutdown,
    Metric::QueueSpans,
    Metric::InFlightSpans,
];

fn span(id: u64) -> Span {
    Span {
        trace_id: TraceId::from_bytes([9; 16]).expect("an id"),
        span_id: SpanId::from_bytes(id.to_be_bytes()).expect("an id"),
        parent_id: None,
        trace_state: String::new(),
        flags: TraceFlags::SAMPLED,
        name: "GET".into(),
        kind: SpanKind::Server,
        start: UnixNanos(1),
        end: UnixNanos(2),
        status: Status::Unset,
        attributes: vec![],
        links: vec![],
    }
}
