//! Properties that hold for any input, tried with seeded random ones: natively only, where
//! thousands of runs cost nothing and a failure can tell its seed.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not exempt"
)]

use meshweft_core::model::{Format, FormatSet, HeaderEdit, Headers, SpanId, TraceFlags, TraceId};
use meshweft_core::propagation::{
    self, Extracted, Incoming, Outgoing, ParentDecision, RemoteContext, SpanContext, Standing,
    TraceState,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const FORMATS: [Format; 3] = [Format::TraceContext, Format::B3, Format::B3Multi];

const NAMES: [&str; 10] = [
    "b3",
    "host",
    "traceparent",
    "tracestate",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-request-id",
];

/// Values near the edges of the grammars, from which hostile ones are made.
const SEEDS: [&str; 14] = [
    "",
    "0",
    "1",
    "d",
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
];

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
fn no_header_panics_and_what_is_written_is_read_back() {
    for_seeds(20_000, |rng| {
        let before = hostile_headers(rng);
        let extracted = extract(&some_formats(rng), &map(&before));
        if let Incoming::Context(context) = &extracted.incoming {
            let state = context.state.as_str();
            assert_eq!(TraceState::parse([state.as_bytes()]).as_ref(), Ok(&context.state));
        }
        if extracted.incoming == Incoming::Invalid {
            assert!(!extracted.invalid.is_empty());
        }
        // Whatever stood there, no format that is read or written tells of another context.
        let (written, read) = (some_formats(rng), some_formats(rng));
        let (context, parent_id) = (some_context(rng), some_parent(rng));
        let after = apply(&before, inject(&written, &read, &map(&before), &context, parent_id));
        for format in FORMATS {
            let found = extract(&[format], &map(&after));
            let stood = before.iter().any(|(name, _)| is_read_from(format, name));
            let expected = if written.contains(&format) || (read.contains(&format) && stood) {
                carried(format, &context)
            } else {
                extract(&[format], &map(&before))
            };
            assert_eq!(found, expected, "{format:?}");
        }
    });
}

#[test]
fn a_second_injection_changes_nothing() {
    for_seeds(2_000, |rng| {
        let before = hostile_headers(rng);
        let (written, read) = (some_formats(rng), some_formats(rng));
        let (context, parent_id) = (some_context(rng), some_parent(rng));
        let once = apply(&before, inject(&written, &read, &map(&before), &context, parent_id));
        let twice = apply(&once, inject(&written, &read, &map(&once), &context, parent_id));
        assert_eq!(once, twice);
    });
}

#[test]
fn a_changed_byte_never_makes_another_id() {
    for_seeds(20_000, |rng| {
        let context = some_context(rng);
        let format = pick(rng, &FORMATS);
        let mut headers = apply(&[], inject(&[format], &[], &Headers::default(), &context, None));
        let at = rng.random_range(0..headers.len());
        let value = &mut headers[at].1;
        let byte = rng.random_range(0..value.len());
        value[byte] = pick(rng, b"GA+.\0\xff");
        if let Incoming::Context(found) = extract(&[format], &map(&headers)).incoming {
            assert_eq!(
                (found.trace_id, found.parent_id),
                (context.trace_id, Some(context.span_id))
            );
        }
    });
}

fn extract(formats: &[Format], headers: &Headers) -> Extracted {
    propagation::extract(formats, &Standing::of(headers))
}

fn inject(
    inject: &[Format],
    extract: &[Format],
    headers: &Headers,
    context: &SpanContext,
    parent_id: Option<SpanId>,
) -> Vec<HeaderEdit> {
    let outgoing = Outgoing { context, parent_id, service: "shop" };
    propagation::inject(inject, extract, &Standing::of(headers), &outgoing)
}

fn is_read_from(format: Format, name: &str) -> bool {
    match format {
        Format::B3 => name == "b3",
        Format::B3Multi => name.starts_with("x-b3-"),
        Format::TraceContext => name == "traceparent",
        _ => false,
    }
}

/// What `format` says when it carries `context`.
fn carried(format: Format, context: &SpanContext) -> Extracted {
    let w3c = format == Format::TraceContext;
    Extracted {
        incoming: Incoming::Context(RemoteContext {
            trace_id: context.trace_id,
            parent_id: Some(context.span_id),
            decision: match (w3c, context.debug, context.flags.has(TraceFlags::SAMPLED)) {
                (false, true, _) => ParentDecision::Debug,
                (_, _, true) => ParentDecision::Sample,
                (_, _, false) => ParentDecision::Drop,
            },
            random: w3c && context.flags.has(TraceFlags::RANDOM),
            state: if w3c { context.state.clone() } else { TraceState::default() },
        }),
        invalid: FormatSet::default(),
    }
}

fn some_context(rng: &mut SmallRng) -> SpanContext {
    SpanContext {
        trace_id: if rng.random_ratio(1, 4) {
            // As from a B3 caller of 64 bits.
            TraceId::from_bytes(u128::from(rng.random::<u64>() | 1).to_be_bytes()).unwrap()
        } else {
            TraceId::random(rng)
        },
        span_id: SpanId::random(rng),
        flags: TraceFlags::from_bits(rng.random()),
        debug: rng.random_ratio(1, 4),
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

fn some_parent(rng: &mut SmallRng) -> Option<SpanId> {
    rng.random::<bool>().then(|| SpanId::random(rng))
}

fn some_formats(rng: &mut SmallRng) -> Vec<Format> {
    (0..rng.random_range(0..=3)).map(|_| pick(rng, &FORMATS)).collect()
}

fn hostile_headers(rng: &mut SmallRng) -> Vec<(String, Vec<u8>)> {
    (0..rng.random_range(0..12))
        .map(|_| (pick(rng, &NAMES).to_owned(), hostile_value(rng)))
        .collect()
}

/// A value that is often almost right: pieces of valid ones, with a few bytes changed, or noise.
fn hostile_value(rng: &mut SmallRng) -> Vec<u8> {
    if rng.random_ratio(1, 8) {
        return (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
    }
    let mut value = pick(rng, &SEEDS).as_bytes().to_vec();
    for _ in 0..rng.random_range(0..3_u8) {
        let at = rng.random_range(0..=value.len());
        match rng.random_range(0..4_u8) {
            0 => value.insert(at, rng.random()),
            1 => value.truncate(at),
            2 => value.extend_from_slice(pick(rng, &SEEDS).as_bytes()),
            _ => {
                if let Some(byte) = value.get_mut(at) {
                    *byte = pick(rng, b"0aF-,=@ \t\0\xff");
                }
            }
        }
    }
    value
}

fn pick<T: Copy>(rng: &mut SmallRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

fn map(headers: &[(String, Vec<u8>)]) -> Headers {
    headers.iter().map(|(name, value)| (name, value)).collect()
}

/// The headers as the host has them after `edits`, sorted by name.
fn apply(before: &[(String, Vec<u8>)], edits: Vec<HeaderEdit>) -> Vec<(String, Vec<u8>)> {
    let mut headers = before.to_vec();
    for edit in edits {
        let (name, value) = match edit {
            HeaderEdit::Add(..) => panic!("{edit:?}"),
            HeaderEdit::Remove(name) => (name, None),
            HeaderEdit::Set(name, value) => (name, Some(value)),
        };
        headers.retain(|(other, _)| *other != name);
        headers.extend(value.map(|value| (name.into_owned(), value.into_bytes())));
    }
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}
