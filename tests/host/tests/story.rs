//! Whole requests and whole lives of instances, in virtual time: what arrives at the collector
//! and what goes on to the application.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

mod common;

use std::time::Duration;

use common::{boot, boot_with, collect, hex, natively_traced, spans_of, traceparent};
use meshweft_host_tests::{
    Answer, CONFIGURATION, EPOCH, HostEmulator, LogLevel, answer, ok_answer, request,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const DROPPED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// Every span is somewhere: delivered, dropped and counted, or waiting.
fn assert_identity(host: &HostEmulator) {
    let metric = |name: &str| host.state().metric(&format!("meshweft_{name}"));
    let causes = ["queue_full", "rejected", "retries_exhausted", "encode", "shutdown"];
    let dropped: i64 = causes.iter().map(|cause| metric(&format!("dropped_{cause}"))).sum();
    assert_eq!(
        metric("sampled") + metric("kept"),
        metric("exported") + dropped + metric("queue_spans") + metric("in_flight_spans"),
        "{:?}",
        host.state().metrics
    );
}

#[test]
fn the_forwarded_parent_id_is_the_exported_span_id() {
    let (mut host, root) = boot();
    let new = host.serve(root, request()).unwrap();
    let continued = host.serve(root, request().with_header("traceparent", PARENT)).unwrap();
    let forwarded = [new, continued].map(|id| {
        let values = host.state().exchange(id).request_header("traceparent");
        assert_eq!(values.len(), 1);
        traceparent(values[0])
    });
    let spans = collect(&mut host, root);
    let exported: Vec<_> =
        spans.iter().map(|span| (hex(&span.trace_id), hex(&span.span_id))).collect();
    assert_eq!(exported, forwarded.clone().map(|(trace_id, span_id, _)| (trace_id, span_id)));
    assert_ne!(forwarded[0].0, TRACE_ID);
    assert_eq!(forwarded[0].2, "03");
    assert_eq!((&*forwarded[1].0, &*forwarded[1].2), (TRACE_ID, "01"));
    assert_eq!(hex(&spans[0].parent_span_id), "");
    assert_eq!(hex(&spans[1].parent_span_id), PARENT_ID);
    // Our decision has a known probability; the parent did not tell of its own.
    assert_eq!(spans.iter().map(|span| &*span.trace_state).collect::<Vec<_>>(), ["ot=th:0", ""]);
    assert_eq!(host.state().exchange(new).request_header("tracestate"), [b"ot=th:0"]);
    assert_eq!(host.state().exchange(continued).request_header("tracestate"), [b""; 0]);
    for span in &spans {
        assert_eq!(span.name, "GET");
        assert_eq!(span.kind(), SpanKind::Server);
        assert_eq!(span.start_time_unix_nano, EPOCH);
        assert_eq!(span.end_time_unix_nano, EPOCH + 5_000_000);
    }
    assert_eq!(host.state().metric("meshweft_exported"), 2);
    assert_eq!(host.state().metric("meshweft_queue_spans"), 0);
    assert_identity(&host);
}

#[test]
fn the_trace_id_is_left_for_access_logs() {
    let (mut host, root) = boot();
    let id = host.serve(root, request().with_header("traceparent", PARENT)).unwrap();
    let state = &host.state().exchange(id).filter_state;
    let expected = (b"meshweft.trace_id".to_vec(), TRACE_ID.as_bytes().to_vec());
    assert_eq!(Vec::from_iter(state.clone()), [expected]);
}

/// A configuration with everything that tells others of a trace.
const TELLING: &str = r#"{"export": {"cluster": "otel-collector"}, "propagation": {
    "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
    "access_log": ["trace_id", "span_id", "sampled"]}}"#;

#[test]
fn access_logs_find_ids_and_verdict() {
    let (mut host, root) = boot_with(TELLING);
    for (parent, sampled) in [(PARENT, "true"), (DROPPED_PARENT, "false")] {
        let id = host.serve(root, request().with_header("traceparent", parent)).unwrap();
        let exchange = host.state().exchange(id);
        let (_, span_id, _) = traceparent(exchange.request_header("traceparent")[0]);
        let expected = [("sampled", sampled), ("span_id", &*span_id), ("trace_id", TRACE_ID)]
            .map(|(name, value)| (format!("meshweft.{name}").into_bytes(), value.into()));
        assert_eq!(Vec::from_iter(exchange.filter_state.clone()), expected);
    }
    // Where the header callbacks never ran it is set before the access loggers come.
    let id = host.exchange(request().with_header("traceparent", PARENT));
    let stream = host.create_stream(root, id).unwrap();
    host.log(stream).unwrap();
    let state = host.state().exchange(id).filter_state.clone();
    let exported = collect(&mut host, root).pop().map(|span| hex(&span.span_id));
    assert_eq!(state.get(&b"meshweft.span_id"[..]).cloned(), exported.map(String::into_bytes));
    assert_eq!(state.len(), 3);
}

#[test]
fn the_caller_is_told_of_the_trace() {
    let (mut host, root) = boot_with(TELLING);
    for parent in [PARENT, DROPPED_PARENT] {
        let mut exchange = request().with_header("traceparent", parent);
        // The application has told of traces too, and has timings of its own.
        let answered = exchange.response_headers.as_mut().unwrap();
        for (name, value) in [
            ("traceresponse", "00-1-2-01"),
            ("traceresponse", "00-3-4-01"),
            ("server-timing", "db;dur=53"),
            ("x-trace-id", "7"),
        ] {
            answered.push((name.into(), value.into()));
        }
        let id = host.serve(root, exchange).unwrap();
        let exchange = host.state().exchange(id);
        let forwarded = exchange.request_header("traceparent")[0];
        assert_eq!(exchange.response_header("traceresponse"), [forwarded]);
        let timing = format!("traceparent;desc=\"{}\"", String::from_utf8_lossy(forwarded));
        assert_eq!(exchange.response_header("server-timing"), [b"db;dur=53", timing.as_bytes()]);
        assert_eq!(exchange.response_header("x-trace-id"), [TRACE_ID.as_bytes()]);
        assert_eq!(exchange.response_header(":status"), [b"200"]);
    }
}

#[test]
fn only_the_instance_that_traces_tells_the_caller() {
    let (mut host, first) = boot_with(TELLING);
    let mut roots = vec![first];
    for configuration in [TELLING, "{}"] {
        let root = host.create_root().unwrap();
        assert!(host.configure(root, configuration).unwrap());
        roots.push(root);
    }
    let id = host.exchange(request());
    let streams = Vec::from_iter(roots.iter().map(|root| host.create_stream(*root, id).unwrap()));
    for stream in &streams {
        host.request_headers(*stream).unwrap();
    }
    // Responses pass the filters in the other order.
    for stream in streams.iter().rev() {
        host.response_headers(*stream).unwrap();
    }
    let told = host.state().exchange(id).clone();
    let forwarded = told.request_header("traceparent");
    assert_eq!(told.response_header("traceresponse"), forwarded);
    assert_eq!(told.response_header("server-timing").len(), 1);
    for stream in streams {
        host.finish(stream).unwrap();
    }
    assert_eq!(host.state().exchange(id).response_headers, told.response_headers);
}

#[test]
fn what_is_not_trusted_is_linked_to() {
    let configuration = r#"{"export": {"cluster": "otel-collector"},
        "propagation": {"trust": [
            {"match": {"source": {"prefix": "127."}}, "trust": "link"},
            {"trust": "restart"}]}}"#;
    let (mut host, root) = boot_with(configuration);
    let incoming = || request().with_header("traceparent", PARENT).with_header("tracestate", "a=1");
    let outside = incoming().with_property(&["source", "address"], "192.0.2.1:40000");
    for exchange in [incoming(), outside] {
        let id = host.serve(root, exchange).unwrap();
        let exchange = host.state().exchange(id);
        let (trace_id, _, flags) = traceparent(exchange.request_header("traceparent")[0]);
        assert_ne!(trace_id, TRACE_ID);
        assert_eq!(flags, "03");
        assert_eq!(exchange.request_header("tracestate"), [b"ot=th:0"]);
    }
    let spans = collect(&mut host, root);
    let links = Vec::from_iter(spans.iter().map(|span| {
        assert_eq!(hex(&span.parent_span_id), "");
        let links = span.links.iter();
        links
            .map(|link| {
                let ids = (hex(&link.trace_id), hex(&link.span_id));
                (ids, link.trace_state.clone(), link.flags)
            })
            .collect::<Vec<_>>()
    }));
    let link = ((TRACE_ID.to_owned(), PARENT_ID.to_owned()), "a=1".to_owned(), 0x301);
    assert_eq!(links, [vec![link], vec![]]);
    assert_eq!(host.state().metric("meshweft_context_restarted"), 2);
}

#[test]
fn to_a_host_outside_goes_no_context() {
    let configuration = r#"{"export": {"cluster": "otel-collector"},
        "propagation": {"egress": {"strip": ["*.example"]}}}"#;
    let (mut host, root) = boot_with(configuration);
    let exchange = request()
        .with_header("traceparent", PARENT)
        .with_header("tracestate", "a=1")
        .with_header("baggage", "k=v")
        .with_header("uberctx-k", "v");
    let id = host.serve(root, exchange).unwrap();
    assert_eq!(host.state().exchange(id).request_headers, request().request_headers);
    assert_eq!(hex(&collect(&mut host, root)[0].parent_span_id), PARENT_ID);
}

#[test]
fn a_native_tracer_is_spoken_of_once() {
    let (mut host, root) = boot();
    for _ in 0..3 {
        host.serve(root, natively_traced()).unwrap();
    }
    host.serve(root, request()).unwrap();
    host.tick(root).unwrap();
    let logged = host.state().logged(LogLevel::Warn);
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(logged[0].starts_with("meshweft: an x-request-id carries"), "{logged:?}");
    assert_eq!(host.state().metric("meshweft_native_tracer_seen"), 3);
}

#[test]
fn what_is_not_sampled_is_not_exported() {
    let (mut host, root) = boot();
    let id = host.serve(root, request().with_header("traceparent", DROPPED_PARENT)).unwrap();
    let values = host.state().exchange(id).request_header("traceparent");
    let (trace_id, parent_id, flags) = traceparent(values[0]);
    assert_eq!((values.len(), &*trace_id, &*flags), (1, TRACE_ID, "00"));
    assert_ne!(parent_id, "0000000000000000");
    assert_eq!(collect(&mut host, root), []);
    assert_eq!(host.state().callouts, []);
    assert_eq!(host.state().metric("meshweft_requests"), 1);
    assert_eq!(host.state().metric("meshweft_not_sampled"), 1);
    assert_identity(&host);
}

#[test]
fn a_request_that_was_only_logged_has_a_span() {
    let (mut host, root) = boot();
    let exchange = request().with_header("traceparent", PARENT);
    let id = host.exchange(exchange.clone());
    let stream = host.create_stream(root, id).unwrap();
    host.finish(stream).unwrap();
    let spans = collect(&mut host, root);
    assert_eq!(spans.len(), 1);
    assert_eq!((&*hex(&spans[0].trace_id), &*hex(&spans[0].parent_span_id)), (TRACE_ID, PARENT_ID));
    assert_eq!(spans[0].end_time_unix_nano, EPOCH + 5_000_000);
    // Nothing was left to change.
    assert_eq!(host.state().exchange(id).request_headers, exchange.request_headers);
}

#[test]
fn a_codec_error_without_any_headers_has_a_span() {
    let (mut host, root) = boot();
    let mut exchange = request();
    (exchange.request_headers, exchange.response_headers) = (None, None);
    let id = host.exchange(exchange);
    let stream = host.create_stream(root, id).unwrap();
    host.finish(stream).unwrap();
    assert_eq!(collect(&mut host, root).len(), 1);
    assert_identity(&host);
}

#[test]
fn the_second_instance_on_a_request_stays_passive() {
    let (mut host, first) = boot();
    let second = host.create_root().unwrap();
    assert!(host.configure(second, CONFIGURATION).unwrap());
    let id = host.exchange(request());
    let streams = [first, second].map(|root| host.create_stream(root, id).unwrap());
    host.request_headers(streams[0]).unwrap();
    let after_first = host.state().exchange(id).clone();
    host.request_headers(streams[1]).unwrap();
    assert_eq!(host.state().exchange(id), &after_first);
    for stream in streams {
        host.finish(stream).unwrap();
    }
    assert_eq!(collect(&mut host, first).len(), 1);
    assert_eq!(collect(&mut host, second), []);
    assert_eq!(host.state().metric("meshweft_passive"), 1);
    assert_eq!(host.state().metric("meshweft_requests"), 1);
    assert_identity(&host);
}

#[test]
fn what_failed_is_kept() {
    let (mut host, root) = boot_with(
        r#"{"export": {"cluster": "otel-collector"},
            "sampling": {"rate": 0, "keep": {"errors": true, "slower_than": "4ms"}}}"#,
    );
    let ended = |code: i64, millis: i64| {
        request()
            .with_final_property(&["response", "code"], code.to_le_bytes())
            .with_final_property(&["request", "duration"], (millis * 1_000_000).to_le_bytes())
    };
    let kept = [ended(503, 1), ended(200, 5), ended(200, 4)]
        .map(|exchange| host.serve(root, exchange).unwrap());
    let forwarded = kept.map(|id| {
        let values = host.state().exchange(id).request_header("traceparent");
        let (trace_id, span_id, flags) = traceparent(values[0]);
        assert_eq!(flags, "02");
        (trace_id, span_id)
    });
    let spans = collect(&mut host, root);
    let exported: Vec<_> =
        spans.iter().map(|span| (hex(&span.trace_id), hex(&span.span_id))).collect();
    assert_eq!(exported, forwarded[..2]);
    let keep = |span: &Span| {
        let pair = span.attributes.iter().find(|pair| pair.key == "meshweft.keep");
        format!("{:?}", pair.and_then(|pair| pair.value.clone()?.value))
    };
    let reasons: Vec<_> = spans.iter().map(keep).collect();
    assert_eq!(reasons, [r#"Some(StringValue("errors"))"#, r#"Some(StringValue("slower_than"))"#]);
    assert_eq!(
        ["requests", "sampled", "not_sampled", "kept"]
            .map(|name| { host.state().metric(&format!("meshweft_{name}")) }),
        [3, 0, 3, 2]
    );
    assert_identity(&host);
}

#[test]
fn a_bad_configuration_is_refused_with_a_reason() {
    for configuration in [
        &b"{"[..],
        b"[]",
        b"\xff",
        b"{\"no such field\": 1}",
        b"{\"sampling\": {\"rate\": 2}}",
        b"{\"export\": {\"cluster\": \"c\", \"headers\": {\"a\": \"${NOT_SET}\"}}}",
        &[b'['; 100_000],
    ] {
        let mut host = HostEmulator::new(common::module()).unwrap();
        let root = host.create_root().unwrap();
        assert!(host.vm_start(root).unwrap());
        let shown = String::from_utf8_lossy(configuration).chars().take(80).collect::<String>();
        assert!(!host.configure(root, configuration).unwrap(), "{shown}");
        let logged = host.state().logged(LogLevel::Error);
        assert_eq!(logged.len(), 1, "{shown}: {logged:?}");
        assert!(logged[0].starts_with("meshweft: ") && logged[0].len() > 20, "{logged:?}");
        assert_eq!(host.state().metric("meshweft_config_rejected"), 1);
        // Envoy may still let a request through it while it fails over.
        let id = host.serve(root, request()).unwrap();
        assert_eq!(host.state().exchange(id).request_headers, request().request_headers);
        host.tick(root).unwrap();
        assert_eq!(host.state().callouts, []);
        assert!(host.done(root).unwrap());
        host.delete(root).unwrap();
    }
}

#[test]
fn the_environment_fills_in_export_headers() {
    let mut host = HostEmulator::new(common::module()).unwrap();
    let state = host.state_mut();
    state.environment = vec![("TOKEN".to_owned(), "s3cret".to_owned())];
    let root = host.create_root().unwrap();
    let configuration = r#"{"export": {"cluster": "otel-collector",
        "headers": {"authorization": "Bearer ${TOKEN}"}}}"#;
    assert!(host.configure(root, configuration).unwrap());
    host.serve(root, request()).unwrap();
    host.advance(Duration::from_secs(2));
    host.tick(root).unwrap();
    let callout = host.state().pending()[0].clone();
    assert_eq!(callout.header("authorization"), [b"Bearer s3cret"]);
    assert_eq!(callout.header(":method"), [b"POST"]);
    assert_eq!(callout.header(":path"), [b"/v1/traces"]);
    assert_eq!(callout.header(":authority"), [b"otel-collector"]);
    assert_eq!(callout.header("content-type"), [b"application/x-protobuf"]);
    assert_eq!((&*callout.upstream, callout.timeout), ("otel-collector", 5_000));
    let logs = &host.state().logs;
    assert!(logs.iter().all(|line| !line.message.contains("s3cret")), "{logs:?}");
}

#[test]
fn an_empty_configuration_only_passes_context_on() {
    for configuration in ["", "{}"] {
        let (mut host, root) = boot_with(configuration);
        for exchange in [request(), request().with_header("traceparent", PARENT)] {
            let id = host.serve(root, exchange.clone()).unwrap();
            assert_eq!(host.state().exchange(id).request_headers, exchange.request_headers);
        }
        assert_eq!(collect(&mut host, root), []);
        assert_eq!(host.state().callouts, []);
        assert_eq!(host.state().metric("meshweft_requests"), 2);
        assert_eq!(host.state().metric("meshweft_context_continued"), 1);
        assert_eq!(host.state().metric("meshweft_context_missing"), 1);
        assert!(host.done(root).unwrap());
    }
}

#[test]
fn on_a_reload_the_old_instance_empties_its_queue() {
    let (mut host, old) = boot();
    host.serve(old, request()).unwrap();
    assert!(!host.done(old).unwrap(), "a span waits");
    let new = host.create_root().unwrap();
    assert!(host.configure(new, CONFIGURATION).unwrap());
    // A request that was open at the reload still belongs to the old instance.
    let open = host.exchange(request());
    let stream = host.create_stream(old, open).unwrap();
    host.request_headers(stream).unwrap();
    host.finish(stream).unwrap();
    host.tick(old).unwrap();
    // What waited at the reload is a batch of its own: it might have gone to the new instance.
    let callouts: Vec<_> = host.state().pending().into_iter().cloned().collect();
    assert_eq!(callouts.iter().map(|callout| spans_of(callout).len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(host.state().roots[&old].done, 0);
    for callout in callouts {
        host.answer(callout.token, ok_answer()).unwrap();
    }
    host.tick(old).unwrap();
    host.tick(old).unwrap();
    assert_eq!(host.state().roots[&old].done, 1, "said once");
    host.delete(old).unwrap();
    assert_eq!(host.state().metric("meshweft_exported"), 2);
    host.serve(new, request()).unwrap();
    assert_eq!(collect(&mut host, new).len(), 1);
    assert_identity(&host);
}

#[test]
fn what_an_instance_without_ticks_has_is_taken_over() {
    let (mut host, old) = boot();
    host.serve(old, request()).unwrap();
    assert!(!host.done(old).unwrap());
    host.delete(old).unwrap();
    let new = host.create_root().unwrap();
    assert!(host.configure(new, CONFIGURATION).unwrap());
    host.tick(new).unwrap();
    assert_eq!(host.state().pending().len(), 0, "it may wake");
    host.advance(Duration::from_secs(2));
    assert_eq!(collect(&mut host, new).len(), 1);
    assert_eq!(host.state().metric("meshweft_taken_over"), 1);
    assert_eq!(host.state().metric("meshweft_exported"), 1);
    assert_identity(&host);
}

#[test]
fn an_idle_instance_is_done_at_once() {
    let (mut host, root) = boot();
    assert!(host.done(root).unwrap());
    host.delete(root).unwrap();
}

#[test]
fn an_old_instance_does_not_wait_for_ever() {
    let (mut host, root) = boot();
    host.serve(root, request()).unwrap();
    assert!(!host.done(root).unwrap());
    host.tick(root).unwrap();
    host.answer(1, answer(&[(":status", "503")], b"")).unwrap();
    host.advance(Duration::from_secs(299));
    host.tick(root).unwrap();
    assert_eq!(host.state().pending().len(), 1);
    assert_eq!(host.state().roots[&root].done, 0);
    host.advance(Duration::from_secs(2));
    host.tick(root).unwrap();
    assert_eq!(host.state().roots[&root].done, 1);
    host.tick(root).unwrap();
    assert_eq!(host.state().roots[&root].done, 1, "said once");
    host.delete(root).unwrap();
    assert_eq!(host.state().metric("meshweft_dropped_shutdown"), 1);
    assert_identity(&host);
    // The answer comes after all; Envoy drops it with the context.
    host.answer(2, ok_answer()).unwrap();
}

#[test]
fn an_unknown_cluster_is_counted_and_tried_again() {
    let (mut host, root) = boot();
    host.state_mut().clusters.clear();
    host.serve(root, request()).unwrap();
    for _ in 0..3 {
        host.advance(Duration::from_secs(2));
        host.tick(root).unwrap();
    }
    host.tick(root).unwrap();
    assert_eq!(host.state().callouts, []);
    assert!(host.state().metric("meshweft_export_failures_unreachable") > 0);
    assert_eq!(host.state().metric("meshweft_queue_spans"), 1);
    host.state_mut().clusters.insert("otel-collector".to_owned());
    host.advance(Duration::from_secs(60));
    assert_eq!(collect(&mut host, root).len(), 1);
    assert_eq!(host.state().metric("meshweft_exported"), 1);
    assert_identity(&host);
}

#[test]
fn answers_of_any_shape_are_taken() {
    let garbage_header = Answer {
        headers: Some(vec![
            (b":status".to_vec(), b"\xff\xfe".to_vec()),
            (b"retry-after".to_vec(), b"\xff".to_vec()),
        ]),
        body: vec![0xff; 300_000],
        trailers: Some(vec![(b"\xff".to_vec(), b"".to_vec())]),
    };
    let answers = [
        Answer::default(),
        Answer { headers: Some(Vec::new()), ..Answer::default() },
        garbage_header,
        answer(&[(":status", "")], b""),
        answer(&[(":status", "99999999999999999999")], b""),
        answer(&[(":status", "-1")], b""),
        answer(&[(":status", "100")], b""),
        answer(&[(":status", "503"), ("retry-after", "99999999999999999999")], b""),
        answer(&[(":status", "429"), ("retry-after", "-1")], b"\x0a\xff\xff\xff\xff\xff"),
        answer(&[(":status", "200")], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        answer(&[(":status", "200")], b"\x0a\x02\x08\x01"),
        answer(&[(":status", "404")], b"\0"),
    ];
    for reply in answers {
        let (mut host, root) = boot();
        host.serve(root, request()).unwrap();
        host.advance(Duration::from_secs(2));
        host.tick(root).unwrap();
        assert_eq!(host.state().pending().len(), 1);
        host.answer(1, reply).unwrap();
        host.tick(root).unwrap();
        assert_eq!(host.state().metric("meshweft_in_flight_spans"), 0);
        assert_identity(&host);
        host.advance(Duration::from_secs(60));
        collect(&mut host, root);
        assert_identity(&host);
    }
}

#[test]
fn answers_out_of_order_reach_the_right_batches() {
    let configuration = r#"{"export": {"cluster": "otel-collector", "batch": {"max_spans": 1}}}"#;
    let (mut host, root) = boot_with(configuration);
    for _ in 0..3 {
        host.serve(root, request()).unwrap();
    }
    host.advance(Duration::from_secs(2));
    host.tick(root).unwrap();
    let mut tokens: Vec<u32> = host.state().pending().iter().map(|call| call.token).collect();
    tokens.reverse();
    for token in tokens {
        host.answer(token, ok_answer()).unwrap();
    }
    host.tick(root).unwrap();
    collect(&mut host, root);
    assert_eq!(host.state().metric("meshweft_exported"), 3);
    assert_identity(&host);
}

#[test]
fn what_the_queue_cannot_hold_is_counted() {
    let configuration = r#"{"export": {"cluster": "otel-collector", "queue": {"max_spans": 10},
        "batch": {"max_spans": 4}}}"#;
    let (mut host, root) = boot_with(configuration);
    for _ in 0..50 {
        host.serve(root, request()).unwrap();
    }
    host.tick(root).unwrap();
    assert_identity(&host);
    assert_eq!(host.state().metric("meshweft_sampled"), 50);
    assert_eq!(host.state().metric("meshweft_dropped_queue_full"), 40);
    collect(&mut host, root);
    assert_identity(&host);
    assert_eq!(host.state().metric("meshweft_exported"), 10);
}
