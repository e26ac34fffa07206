//! Properties that hold for any input: tried with the inputs of the fuzz targets, and with seeded
//! random ones. Natively only, where thousands of runs cost nothing and a failure can tell its
//! seed.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not exempt"
)]

use std::path::Path;

use meshweft_core::config::{Baggage, KeepBaggage, Propagation};
use meshweft_core::model::{Format, SpanId, TraceFlags, TraceId};
use meshweft_core::propagation::{Incoming, SpanContext, TraceState};
use meshweft_core::sampling::{OtMember, Threshold};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The same checks, and the same inputs, as those of `make fuzz`.
#[path = "../../../tests/fuzz/src/lib.rs"]
mod fuzz;

use fuzz::{Case, apply, carries, extract};

/// Headers that some format reads or writes, and two that none does.
const NAMES: &[&str] = &[
    "b3",
    "baggage",
    "grpc-trace-bin",
    "host",
    "jaeger-baggage",
    "jaeger-debug-id",
    "ot-baggage-a",
    "ot-baggage-tenant",
    "ot-tracer-sampled",
    "ot-tracer-spanid",
    "ot-tracer-traceid",
    "sw8",
    "sw8-correlation",
    "sw8-x",
    "traceparent",
    "tracestate",
    "uber-trace-id",
    "uberctx-",
    "uberctx-a",
    "uberctx-user%49d",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-datadog-origin",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "x-datadog-tags",
    "x-datadog-trace-id",
    "x-request-id",
];

/// Values near the edges of the grammars, from which hostile ones are made.
const SEEDS: &[&str] = &[
    "",
    "0",
    "1",
    "d",
    "-1",
    "2",
    "true",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-later",
    "0af7651916cd43dd8448eb211c80319c",
    "8448eb211c80319c",
    "b7ad6b7169203331",
    "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1-00f067aa0ba902b7",
    "8448eb211c80319c-b7ad6b7169203331",
    "a=1,b@c= 2,,\t d=3 ",
    "00000000000000000000000000000000",
    "0af7651916cd43dd8448eb211c80319c:b7ad6b7169203331:0:1",
    "12345%3A54321%3A0%3A3",
    "9532127138774266268",
    "18446744073709551616",
    "_dd.p.tid=0af7651916cd43dd,_dd.p.dm=-4,_dd.p.usr.id=baz64==",
    "dd=s:2;o:rum;t.dm:-4;t.tid:0af7651916cd43dd;p:b7ad6b7169203331,a=1",
    "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1;Lineage=a:1|b:2",
    "Root=1-0af76519-16cd43dd8448eb211c80319c;Sampled=?",
    "0af7651916cd43dd8448eb211c80319c/13235353014750950193;o=1",
    "AAAK92UZFs1D3YRI6yEcgDGcAbetcWkgMzECAQ",
    "AAAK92UZFs1D3YRI6yEcgDGcAbetcWkgMzECAQ==",
    "1-MGFmNzY1MTkxNmNkNDNkZDg0NDhlYjIxMWM4MDMxOWM=-YjdhZDZiNzE2OTIwMzMzMQ==-3-c2hvcA==-aW4=-L2E=-c2hvcDo4MA==",
    "a=1,tenant=%C3%A9;p=1;q , k*=,=,b,a=%zz,\"=1",
    "\u{e9}",
];

/// Values that are no good alone, long enough to meet the limits.
const LONG: [(&str, usize); 4] =
    [("a=1,", 70), ("k*=v;p,", 200), ("tenant=abcdefgh", 600), ("x", 9000)];

/// Runs `property` often, each time from a seed of its own that a failure names.
fn for_seeds(runs: u64, property: impl Fn(&mut SmallRng)) {
    struct Told(u64);
    impl Drop for Told {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with the seed {}", self.0);
            }
        }
    }
    for seed in 0..runs {
        let told = Told(seed);
        property(&mut SmallRng::seed_from_u64(seed));
        drop(told);
    }
}

#[test]
fn all_that_holds_for_any_headers_holds_for_hostile_ones() {
    for_seeds(3_000, |rng| {
        let mut case = some_case(rng);
        case.check();
        // The same where the caller is trusted.
        case.go_on();
        case.check();
    });
}

#[test]
fn what_is_written_is_read_back() {
    for_seeds(2_000, |rng| {
        let context = some_context(rng);
        for format in Format::ALL {
            let Some(carries) = carries(*format) else { continue };
            carries.check(&extract(&[*format], &written(*format, &context)), &context);
        }
    });
}

#[test]
fn a_changed_byte_never_makes_another_id_of_a_hex_one() {
    // In decimals and base64 a changed byte is another id, and nothing can tell.
    let formats = [
        Format::TraceContext,
        Format::B3,
        Format::B3Multi,
        Format::Jaeger,
        Format::XRay,
        Format::OtTrace,
    ];
    for_seeds(5_000, |rng| {
        // An id that every format can write.
        let context = SpanContext { trace_id: TraceId::random(rng), ..some_context(rng) };
        let format = pick(rng, &formats);
        let mut headers = written(format, &context);
        let at = rng.random_range(0..headers.len());
        let value = &mut headers[at].1;
        let byte = rng.random_range(0..value.len());
        value[byte] = pick(rng, b"G+.\0\xff");
        if let Incoming::Context(found) = extract(&[format], &headers).incoming {
            let bits = if format == Format::OtTrace { u64::MAX.into() } else { u128::MAX };
            let told = u128::from_be_bytes(context.trace_id.to_bytes()) & bits;
            assert_eq!(u128::from_be_bytes(found.trace_id.to_bytes()), told, "{headers:?}");
            assert!(found.parent_id.is_none_or(|id| id == context.span_id), "{headers:?}");
        }
    });
}

#[test]
fn no_header_is_left_out() {
    let names = include_str!("../src/propagation/standing.rs")
        .split_once("names! {")
        .and_then(|(_, list)| list.split_once("\n}\n"))
        .map_or("", |(list, _)| list);
    let names: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(NAMES.contains(&name), "{name}");
    }
}

#[test]
fn a_threshold_of_old_is_never_read_again() {
    let pieces =
        ["th:8", "th", "rv:6e6d1a75832a2f", "rv", ":", ";", ";", "p:1", "0", "A", " ", ",a=1"];
    for_seeds(20_000, |rng| {
        let noise: String = (0..rng.random_range(0..30)).map(|_| pick(rng, &pieces)).collect();
        // What is no list is none.
        let before = TraceState::parse([format!("ot={noise}").as_bytes()]).unwrap_or_default();
        let member = OtMember::of(&before).unwrap_or_default();
        let new = Threshold::from_hex(pick(rng, &["0", "ffbe77", "00000000000001"]));
        let threshold = new.filter(|_| rng.random());
        let after = member.write(&before, threshold);
        assert_eq!(TraceState::parse([after.as_str().as_bytes()]).as_ref(), Ok(&after), "{noise}");
        let Some(again) = OtMember::of(&after) else { return };
        assert!(again.threshold.is_none() || again.threshold == threshold, "{noise}: {after:?}");
        assert!(again.randomness.is_none() || again.randomness == member.randomness, "{noise}");
        assert_eq!(again.write(&after, threshold), after, "a second time: {noise}");
    });
}

/// Runs what `make fuzz` begins with, and what it has found.
#[test]
fn the_inputs_of_the_fuzz_targets_hold() {
    type Target = fn(&[u8]);
    let targets: [(&str, Target); 4] = [
        ("answer", fuzz::answer),
        ("config", fuzz::config),
        ("headers", fuzz::headers),
        ("keep", fuzz::keep),
    ];
    for (name, target) in targets {
        let mut inputs: u32 = 0;
        for folder in ["corpus", "regressions"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../tests/fuzz")
                .join(folder)
                .join(name);
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                // Said only where the test fails.
                println!("{}", path.display());
                target(&std::fs::read(path).unwrap());
                inputs = inputs.saturating_add(1);
            }
        }
        assert!(inputs > 10, "{name}: {inputs} inputs");
    }
}

/// The headers of `format` alone, from `context`.
fn written(format: Format, context: &SpanContext) -> Vec<(String, Vec<u8>)> {
    let config = Propagation { inject: vec![format], ..Propagation::default() };
    let case = Case { headers: vec![], config, context: context.clone(), parent_id: None };
    apply(&[], case.inject(&[]))
}

fn some_case(rng: &mut SmallRng) -> Case {
    Case {
        headers: hostile_headers(rng),
        config: Propagation {
            extract: some_formats(rng),
            inject: some_formats(rng),
            baggage: Baggage {
                keep: if rng.random() {
                    KeepBaggage::All
                } else {
                    KeepBaggage::Only(some_keys(rng))
                },
                attributes: some_keys(rng),
            },
            ..Propagation::default()
        },
        context: some_context(rng),
        parent_id: rng.random::<bool>().then(|| SpanId::random(rng)),
    }
}

fn some_keys(rng: &mut SmallRng) -> Vec<String> {
    ["a", "tenant", "userId", "k*"]
        .into_iter()
        .filter(|_| rng.random())
        .map(str::to_owned)
        .collect()
}

fn some_context(rng: &mut SmallRng) -> SpanContext {
    let debug = rng.random_ratio(1, 4);
    SpanContext {
        trace_id: match rng.random_range(0..16_u8) {
            // As from a B3 caller of 64 bits.
            0..4 => TraceId::from_halves(0, rng.random::<u64>() | 1).unwrap(),
            4 => TraceId::from_halves(rng.random::<u64>() | 1, 0).unwrap(),
            _ => TraceId::random(rng),
        },
        span_id: SpanId::random(rng),
        // Debug asks for a sample.
        flags: TraceFlags::from_bits(rng.random::<u8>() | u8::from(debug)),
        debug,
        state: if rng.random() {
            TraceState::default()
        } else {
            let members: Vec<String> = (0..rng.random_range(1..=32))
                .map(|i| format!("k{i}@t= {}", rng.random::<u64>()))
                .collect();
            TraceState::parse([members.join(",").as_bytes()]).unwrap()
        },
    }
}

/// Often the few of an ordinary configuration, sometimes more.
fn some_formats(rng: &mut SmallRng) -> Vec<Format> {
    let most = if rng.random() { 3 } else { 12 };
    (0..rng.random_range(0..=most)).map(|_| pick(rng, Format::ALL)).collect()
}

fn hostile_headers(rng: &mut SmallRng) -> Vec<(String, Vec<u8>)> {
    (0..rng.random_range(0..12))
        .map(|_| (pick(rng, NAMES).to_owned(), hostile_value(rng)))
        .collect()
}

/// A value that is often almost right: pieces of valid ones, with a few bytes changed, or noise.
fn hostile_value(rng: &mut SmallRng) -> Vec<u8> {
    match rng.random_range(0..32_u8) {
        0..4 => return (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
        4 => {
            let (part, most) = pick(rng, &LONG);
            return part.repeat(rng.random_range(0..most)).into_bytes();
        }
        _ => {}
    }
    let mut value = pick(rng, SEEDS).as_bytes().to_vec();
    for _ in 0..rng.random_range(0..3_u8) {
        let at = rng.random_range(0..=value.len());
        match rng.random_range(0..4_u8) {
            0 => value.insert(at, rng.random()),
            1 => value.truncate(at),
            2 => value.extend_from_slice(pick(rng, SEEDS).as_bytes()),
            _ => {
                if let Some(byte) = value.get_mut(at) {
                    *byte = pick(rng, b"0aF-,=@;:%/ \t\0\xff");
                }
            }
        }
    }
    value
}

fn pick<T: Copy>(rng: &mut SmallRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}
