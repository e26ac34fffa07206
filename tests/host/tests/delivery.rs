//! What a batch costs on its way out, in every protocol: bytes, which are the same with every
//! compiler, and fuel, which is shown.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says where it broke")]

mod common;

use std::time::Duration;

use common::boot_with;
use meshweft_host_tests::{HostEmulator, answer, request};

/// The spans of one batch.
const SPANS: u64 = 128;

const PROTOCOLS: [&str; 4] = ["otlp/http", "otlp/http+json", "otlp/grpc", "zipkin"];

/// What one span takes, on average over a batch.
struct Cost {
    bytes: u64,
    /// Fuel of the whole request that it is of.
    request: u64,
    /// Fuel of its share of the tick in which the batch goes.
    tick: u64,
}

fn cost(protocol: &str, compression: &str) -> Cost {
    let (mut host, root) = boot_with(&format!(
        r#"{{"service": {{"name": "checkout"}}, "export": {{"cluster": "otel-collector",
            "protocol": "{protocol}", "compression": "{compression}"}}}}"#
    ));
    let fuel = |host: &HostEmulator| host.usage().fuel;
    let begun = fuel(&host);
    for _ in 0..SPANS {
        host.serve(root, request()).expect("a request");
    }
    let served = fuel(&host);
    host.advance(Duration::from_secs(2));
    host.tick(root).expect("a tick");
    let ticked = fuel(&host);
    let [callout] = &*host.state().pending() else { panic!("one request") };
    let bytes = u64::try_from(callout.body.len()).expect("a size");
    let cost = Cost {
        bytes: bytes.div_ceil(SPANS),
        request: (served.saturating_sub(begun)).div_ceil(SPANS),
        tick: (ticked.saturating_sub(served)).div_ceil(SPANS),
    };
    eprintln!(
        "{protocol}, {compression}: {} bytes a span, fuel {} a request and {} in the tick",
        cost.bytes, cost.request, cost.tick
    );
    cost
}

#[test]
fn the_bytes_of_a_span() {
    for protocol in PROTOCOLS {
        let plain = cost(protocol, "none");
        let packed = cost(protocol, "gzip");
        let (least, most) = match protocol {
            "otlp/http" | "otlp/grpc" => (400, 700),
            _ => (700, 1_600),
        };
        assert!((least..most).contains(&plain.bytes), "{protocol}: {}", plain.bytes);
        // The ids, which are noise, are 24 of the bytes that are left.
        assert!(packed.bytes.saturating_mul(5) < plain.bytes, "{protocol}: {}", packed.bytes);
        // Requests do not pay for it; the tick does.
        assert!(packed.request < plain.request.saturating_add(plain.request / 20), "{protocol}");
        assert!(packed.tick > plain.tick, "{protocol}");
    }
}

/// Whatever comes as gRPC's status, in headers or in trailers: no trap, and all is counted.
#[test]
fn no_answer_of_grpc_traps() {
    let odd: [&[u8]; 9] =
        [b"", b"0", b"8", b"14", b"99999999999999999999", b"-1", b"\xff", b"%", b"AAAA\0"];
    for status in odd {
        for trailing in [false, true] {
            let (mut host, root) =
                boot_with(r#"{"export": {"cluster": "otel-collector", "protocol": "otlp/grpc"}}"#);
            host.serve(root, request()).expect("a request");
            host.advance(Duration::from_secs(2));
            host.tick(root).expect("a tick");
            let tokens: Vec<u32> =
                host.state().pending().iter().map(|callout| callout.token).collect();
            let [token] = *tokens else { panic!("one request") };
            let names = ["grpc-status", "grpc-message", "grpc-status-details-bin"];
            let pairs = names.map(|name| (name.as_bytes().to_vec(), status.to_vec()));
            let mut reply = answer(&[(":status", "200")], b"\0\xff\xff\xff\xff");
            match trailing {
                true => reply.trailers = Some(pairs.to_vec()),
                false => reply.headers.get_or_insert_default().extend(pairs),
            }
            host.answer(token, reply).expect("no trap");
            host.tick(root).expect("a tick");
            let of = |name: &str| host.state().metric(&format!("meshweft_{name}"));
            let whereabouts =
                of("exported") + of("dropped_rejected") + of("queue_spans") + of("in_flight_spans");
            assert_eq!((of("sampled"), whereabouts), (1, 1), "{status:?} {trailing}");
            assert_eq!(of("exported"), i64::from(status == b"0"), "{status:?} {trailing}");
            assert_eq!(of("queue_spans"), i64::from(status == b"14"), "{status:?} {trailing}");
        }
    }
}
