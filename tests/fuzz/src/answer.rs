//! Any bytes as what a collector answers, as what a server of sampling strategies answers, and as
//! the node that the host describes.

use core::time::Duration;

use meshweft_core::config::Config;
use meshweft_core::export::{Answer, Outcome};
use meshweft_core::model::{
    Exchange, Headers, Local, Metric, MetricId, MonoNanos, Shared, SpanId, TraceFlags, TraceId,
    UnixNanos,
};
use meshweft_core::plugin::Plugin;
use meshweft_core::span::{Span, SpanKind, Status};
use meshweft_core::stream::Stream;
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
    strategy(input);
}

/// Whatever a server says of sampling, or a stranger in the store in its place, a request is
/// decided about, once, and by something that is configured.
fn strategy(input: &[u8]) {
    const CONFIG: &[u8] = br#"{"export": {"cluster": "otel"}, "sampling": {"rate": 0,
        "remote": {"cluster": "jaeger"}}, "correlation": {"headers": []}}"#;
    let config = Config::parse(CONFIG, &|_| None).expect("a configuration");
    for by_a_stranger in [false, true] {
        let mut plugin = Plugin::new(config.clone(), None, &|_| None);
        let mut rng = SmallRng::seed_from_u64(1);
        let shared = Local::default();
        let now = MonoNanos(1_000_000_000);
        shared.clock.set(now);
        let poll = plugin.on_tick(now, UnixNanos(1), &shared).poll;
        assert!(poll.is_some(), "a question at the first tick");
        let told = |body| {
            Outcome::Answered(Answer {
                status: 200,
                retry_after: None,
                grpc_status: None,
                grpc_message: None,
                grpc_details: None,
                body,
            })
        };
        let answer: &[u8] = if by_a_stranger { br#"{"probabilisticSampling": {}}"# } else { input };
        let line = plugin.on_answer(&told(answer), now, &shared);
        assert!(line.is_none_or(|line| line.len() < 1_024 && !line.contains('\n')));
        if by_a_stranger {
            for key in shared.keys() {
                shared.set(&key, input, 0).expect("the store takes it");
            }
            let now = now.after(Duration::from_secs(90));
            shared.clock.set(now);
            plugin.on_tick(now, UnixNanos(2), &shared);
        }
        let mut stream = Stream::default();
        stream.on_request_headers(&mut plugin, &Request, &shared, &mut rng);
        let (_, decision) = stream.course().expect("a decision");
        let reason = decision.reason.describe(&plugin.config().sampling).into_owned();
        assert!(["default", "floor", "remote"].contains(&&*reason), "{reason}");
        stream.on_log(&mut plugin, &Request, &shared, &mut rng);
        assert!(stream.has_ended());
    }
}

struct Request;

impl Exchange for Request {
    fn request_headers(&self) -> Headers {
        [(":method", "GET"), (":path", "/orders/7"), (":authority", "shop")].into_iter().collect()
    }

    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
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
