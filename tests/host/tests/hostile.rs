//! Requests and hosts at their worst: nothing traps, and the application gets its request.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code"
)]

mod common;

use common::{boot_with, collect, traceparent};
use meshweft_host_tests::{Exchange, HostEmulator, MapType, encode_pairs, path, request};

const PROPAGATION_HEADERS: &[&str] = &[
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "baggage",
    "uber-trace-id",
    "jaeger-debug-id",
    "jaeger-baggage",
    "uberctx-k",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-origin",
    "x-datadog-tags",
    "x-amzn-trace-id",
    "ot-tracer-traceid",
    "ot-tracer-spanid",
    "ot-tracer-sampled",
    "ot-baggage-k",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "sw8-correlation",
    ":path",
    ":authority",
    ":method",
    "user-agent",
    "x-request-id",
];

/// A configuration that looks at everything that a request can bring, and tells all.
const CONFIGURATION: &str = r#"{"export": {"cluster": "otel-collector"},
    "propagation": {
        "extract": ["tracecontext", "baggage", "b3", "b3multi", "jaeger", "datadog", "xray",
            "ottrace", "gcp", "grpc-trace-bin", "skywalking"],
        "trust": [
            {"match": {"source": {"suffix": ".9"}, "headers": {"x-a": "b"}}, "trust": "link"},
            {"match": {"direction": "inbound"}, "trust": "continue"}],
        "egress": {"strip": ["*.outside.example"]},
        "response": ["traceresponse", "server-timing", {"header": "x-trace-id"}],
        "access_log": ["trace_id", "span_id", "sampled"],
        "baggage": {"allow": ["k", "l"], "attributes": ["k", "m"]}},
    "sampling": {"rules": [
        {"name": "a", "match": {"path": {"regex": "^/(a+)+$"}}, "rate": 0.5},
        {"name": "b", "match": {"host": {"glob": "*.*.*.example"}}, "rate": 0},
        {"name": "c", "match": {"headers": {"x-a": {"present": true}}}, "rate": 1}]}}"#;

fn boot() -> (HostEmulator, u32) {
    boot_with(CONFIGURATION)
}

fn garbage(seed: &mut u64, longest: usize) -> Vec<u8> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(*seed >> 33).unwrap()
    };
    let len = next() % (longest + 1);
    // Half of the bytes are those that parsers look for.
    let alphabet = b"0123456789abcdef-,;=@ \t\0\xff";
    (0..len)
        .map(|_| match next() % 2 {
            0 => alphabet[next() % alphabet.len()],
            _ => u8::try_from(next() % 256).unwrap(),
        })
        .collect()
}

/// A whole request, after which exactly one traceparent has gone on and the same been told.
fn assert_served(host: &mut HostEmulator, root: u32, exchange: Exchange) {
    let id = host.serve(root, exchange).unwrap();
    let exchange = host.state().exchange(id);
    let values = exchange.request_header("traceparent");
    assert_eq!(values.len(), 1, "{values:?}");
    traceparent(values[0]);
    if exchange.response_headers.is_some() {
        assert_eq!(exchange.response_header("traceresponse"), values);
        assert_eq!(exchange.response_header("server-timing").len(), 1);
    }
}

#[test]
fn header_values_of_any_bytes() {
    let mut seed = 1;
    let (mut host, root) = boot();
    for round in 0..40 {
        let mut exchange = request();
        for name in PROPAGATION_HEADERS {
            exchange = exchange.with_header(name, garbage(&mut seed, 60));
            if round % 4 == 0 {
                exchange = exchange.with_header(name, b"\xff");
            }
        }
        assert_served(&mut host, root, exchange);
    }
    collect(&mut host, root);
    assert_eq!(host.state().metric("meshweft_context_invalid"), 40);
}

#[test]
fn requests_without_pseudo_headers() {
    let (mut host, root) = boot();
    for missing in [":authority", ":path", ":method", ":scheme"] {
        let mut exchange = request();
        let headers = exchange.request_headers.as_mut().unwrap();
        headers.retain(|(name, _)| name != missing.as_bytes());
        assert_served(&mut host, root, exchange);
    }
    let bare = Exchange { request_headers: Some(Vec::new()), ..Exchange::default() };
    assert_served(&mut host, root, bare);
    assert_eq!(collect(&mut host, root).len(), 5);
}

#[test]
fn values_four_times_as_long_as_envoy_takes() {
    let (mut host, root) = boot();
    for name in PROPAGATION_HEADERS {
        for byte in [b'a', b'0', b',', b'=', 0xff] {
            assert_served(&mut host, root, request().with_header(name, vec![byte; 1 << 18]));
        }
    }
    let spans = collect(&mut host, root);
    let longest = spans.iter().flat_map(|span| &span.attributes).filter_map(|attribute| {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        match attribute.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.len()),
            _ => None,
        }
    });
    assert!(longest.max().unwrap() <= 256);
}

#[test]
fn many_headers() {
    let (mut host, root) = boot();
    let mut exchange = request();
    for count in 0..10_000 {
        exchange = exchange.with_header(&format!("x-{count}"), "v");
    }
    for _ in 0..1_000 {
        exchange = exchange.with_header("tracestate", "a=b").with_header("traceparent", "00");
    }
    assert_served(&mut host, root, exchange);
}

#[test]
fn header_maps_cut_short_or_made_of_garbage() {
    let (mut host, root) = boot();
    let whole = encode_pairs(&request().request_headers.unwrap());
    let mut seed = 2;
    let mut maps: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
    maps.extend((0..100).map(|_| garbage(&mut seed, 200)));
    maps.push(vec![0xff; 4]);
    maps.push(vec![0xff; 64]);
    maps.push([1_u32, u32::MAX, u32::MAX].map(u32::to_le_bytes).concat());
    maps.push([1_u32, u32::MAX - 1, 0].map(u32::to_le_bytes).concat());
    maps.push([0x2000_0000_u32, 0, 0].map(u32::to_le_bytes).concat());
    for map in maps {
        host.state_mut().garbled_maps.insert(MapType::RequestHeaders, map);
        assert_served(&mut host, root, request());
    }
    collect(&mut host, root);
}

#[test]
fn properties_of_wrong_lengths_and_garbage() {
    let (mut host, root) = boot();
    let mut seed = 3;
    let names: Vec<Vec<u8>> = {
        let exchange = request();
        exchange.properties.keys().chain(exchange.final_properties.keys()).cloned().collect()
    };
    let values = [
        Vec::new(),
        vec![1],
        vec![0xff; 7],
        vec![0xff; 8],
        vec![0x80, 0, 0, 0, 0, 0, 0, 0],
        vec![0, 0, 0, 0, 0, 0, 0, 0x80],
        vec![0xff; 9],
        vec![0xff; 1 << 20],
    ];
    for name in &names {
        for value in &values {
            let mut exchange = request();
            exchange.properties.remove(name);
            exchange.final_properties.insert(name.clone(), value.clone());
            exchange.properties.insert(name.clone(), value.clone());
            assert_served(&mut host, root, exchange);
        }
    }
    for _ in 0..50 {
        let mut exchange = request();
        for name in &names {
            exchange.final_properties.insert(name.clone(), garbage(&mut seed, 40));
        }
        assert_served(&mut host, root, exchange);
    }
    let spans = collect(&mut host, root);
    assert!(spans.iter().all(|span| span.end_time_unix_nano >= span.start_time_unix_nano));
}

#[test]
fn a_node_of_garbage() {
    let mut seed = 4;
    let mut nodes: Vec<Vec<u8>> = (0..60).map(|_| garbage(&mut seed, 300)).collect();
    // Messages in messages without end, and sizes beyond the buffer.
    let mut nested = Vec::new();
    for _ in 0..300 {
        let size = u8::try_from(nested.len().min(127)).unwrap();
        nested = [vec![0x1a, size], nested].concat();
    }
    nodes.push(nested);
    nodes.push(vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    nodes.push(vec![0xff; 1 << 16]);
    for node in nodes {
        let mut host = HostEmulator::new(common::module()).unwrap();
        host.state_mut().properties.insert(path(&["xds", "node"]), node);
        let root = host.create_root().unwrap();
        assert!(host.configure(root, CONFIGURATION).unwrap());
        assert_served(&mut host, root, request());
        assert_eq!(collect(&mut host, root).len(), 1);
    }
}

/// Another plugin wrote more than there is room for under each key of ours.
#[test]
fn shared_values_beyond_the_memory() {
    let (mut host, root) = boot_with(
        r#"{"export": {"cluster": "otel-collector"}, "correlation": {"infer": "best"},
            "sampling": {"limit_per_second": 100, "keep": {"errors": true, "propagate": true},
                "adaptive": {"target_per_second": 1, "floor_per_minute": 1},
                "rules": [{"name": "a", "match": {"path": "/a"}, "rate": 1}]}}"#,
    );
    let round = |host: &mut HostEmulator| {
        host.tick(root).unwrap();
        let id = host.serve(root, request()).unwrap();
        assert_eq!(host.state().exchange(id).request_header("traceparent").len(), 1);
        host.advance(std::time::Duration::from_secs(1));
    };
    (0..5).for_each(|_| round(&mut host));
    host.limit_memory(8 << 20);
    let data = &mut host.state_mut().shared_data;
    assert!(data.len() >= 3, "{:?}", data.keys());
    data.values_mut().for_each(|(value, _)| *value = vec![b'['; 64 << 20]);
    (0..5).for_each(|_| round(&mut host));
    assert_eq!(collect(&mut host, root).len(), 10);
}

#[test]
fn callbacks_in_any_order() {
    let (mut host, root) = boot();
    let id = host.exchange(request());
    let stream = host.create_stream(root, id).unwrap();
    let told = |host: &HostEmulator| {
        let exchange = host.state().exchange(id);
        exchange.response_header("server-timing").len()
    };
    host.response_headers(stream).unwrap();
    assert_eq!(told(&host), 0, "there is no trace yet");
    host.request_headers(stream).unwrap();
    host.request_headers(stream).unwrap();
    host.response_headers(stream).unwrap();
    assert_eq!(told(&host), 1);
    host.bodies_and_trailers(stream).unwrap();
    host.log(stream).unwrap();
    host.log(stream).unwrap();
    host.response_headers(stream).unwrap();
    assert_eq!(told(&host), 1, "the end was told");
    host.done(stream).unwrap();
    host.done(stream).unwrap();
    host.delete(stream).unwrap();
    assert_eq!(collect(&mut host, root).len(), 1);
    assert!(host.done(root).unwrap());
    host.tick(root).unwrap();
    host.delete(root).unwrap();
}

#[test]
fn a_response_for_a_request_whose_headers_never_came() {
    let (mut host, root) = boot();
    let exchange = request();
    let id = host.exchange(exchange.clone());
    let stream = host.create_stream(root, id).unwrap();
    host.response_headers(stream).unwrap();
    host.finish(stream).unwrap();
    assert_eq!(host.state().exchange(id).response_headers, exchange.response_headers);
    assert_eq!(collect(&mut host, root).len(), 1);
}

#[test]
fn a_root_that_was_never_configured() {
    let mut host = HostEmulator::new(common::module()).unwrap();
    let root = host.create_root().unwrap();
    let id = host.serve(root, request()).unwrap();
    assert_eq!(host.state().exchange(id).request_headers, request().request_headers);
    host.tick(root).unwrap();
    assert!(host.done(root).unwrap());
    host.delete(root).unwrap();
}
