//! Jaeger's `uber-trace-id` (client libraries, "Propagation format").
//!
//! Its baggage in `uberctx-*` is in `baggage.rs`.

use super::edits::Edits;
use super::ids;
use super::standing::{Name, Standing};
use super::text::{percent_decode, push_hex, trim_ows};
use super::{
    Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, SpanContext, TraceState,
};
use crate::model::TraceFlags;

pub(super) const HEADERS: &[Name] = &[Name::UberTraceId, Name::JaegerDebugId];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    if let Some(value) = standing.field(Name::UberTraceId).once()? {
        return parse(value);
    }
    // Where no trace stands, this asks that one begins and is kept, whatever text identifies it.
    match standing.field(Name::JaegerDebugId).first().map(trim_ows) {
        None | Some(b"") => Ok(Incoming::Absent),
        Some(_) => Ok(Incoming::Decision(ParentDecision::Debug)),
    }
}

/// Writes `uber-trace-id`. `jaeger-debug-id` ends here, as in Jaeger's clients: the debug flag
/// carries on what it asked for, and another hop could begin another trace for it.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    edits.set(Name::UberTraceId, write(outgoing.context));
    edits.remove(Name::JaegerDebugId);
}

/// Reads `{trace-id}:{span-id}:{parent-span-id}:{flags}`, which clients may have URL-encoded.
fn parse(value: &[u8]) -> Result<Incoming, Malformed> {
    let value = percent_decode(trim_ows(value));
    let mut fields = value.split(|byte| *byte == b':');
    // The parent is deprecated, and read by nobody.
    let (Some(trace), Some(span), Some(_), Some(flags), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed::Field("uber-trace-id of other than four fields"));
    };
    let trace_id = ids::trace_id_of_any_length(trace)
        .map_err(|error| Malformed::Id(error, "trace id of uber-trace-id"))?;
    let parent_id = ids::span_id_of_any_length(span)
        .map_err(|error| Malformed::Id(error, "span id of uber-trace-id"))?;
    Ok(Incoming::Context(RemoteContext {
        trace_id,
        parent_id: Some(parent_id),
        decision: decision(flags)?,
        // Jaeger has no word for it.
        random: false,
        state: TraceState::default(),
    }))
}

/// One byte in hex; clients differ in how many zeros lead.
fn decision(flags: &[u8]) -> Result<ParentDecision, Malformed> {
    let bits = ids::number(flags, 32)
        .ok()
        .and_then(|bits| u8::try_from(bits).ok())
        .ok_or(Malformed::Field("flags of uber-trace-id that are not a byte in hex"))?;
    Ok(if bits & DEBUG != 0 {
        ParentDecision::Debug
    } else if bits & SAMPLED != 0 {
        ParentDecision::Sample
    } else {
        ParentDecision::Drop
    })
}

fn write(context: &SpanContext) -> String {
    let mut out = String::with_capacity(53);
    push_hex(&mut out, &context.trace_id.to_bytes());
    out.push(':');
    push_hex(&mut out, &context.span_id.to_bytes());
    out.push_str(":0:");
    out.push(if context.debug {
        '3'
    } else if context.flags.has(TraceFlags::SAMPLED) {
        '1'
    } else {
        '0'
    });
    out
}

const SAMPLED: u8 = 0x01;

/// Stands beside the other bit, and implies it where it does not.
const DEBUG: u8 = 0x02;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn errors_say_what_and_where() {
        const FIELDS: &str = "uber-trace-id of other than four fields";
        const FLAGS: &str = "flags of uber-trace-id that are not a byte in hex";
        for (value, message) in [
            ("", FIELDS),
            ("1:2:0", FIELDS),
            ("1:2:0:1:", FIELDS),
            (":2:0:1", "id of the wrong length as trace id of uber-trace-id"),
            ("0:2:0:1", "all-zero id as trace id of uber-trace-id"),
            ("1:00:0:1", "all-zero id as span id of uber-trace-id"),
            ("1:12345678901234567:0:1", "id of the wrong length as span id of uber-trace-id"),
            ("1:2:0:", FLAGS),
            ("1:2:0:0x1", FLAGS),
            ("1:2:0:100", FLAGS),
        ] {
            assert_eq!(parse(value.as_bytes()).unwrap_err().to_string(), message, "{value}");
        }
    }

    #[test]
    fn every_byte_of_flags() {
        for bits in 0..=u8::MAX {
            let expected = match bits & 3 {
                0 => ParentDecision::Drop,
                1 => ParentDecision::Sample,
                _ => ParentDecision::Debug,
            };
            for text in [format!("{bits:x}"), format!("{bits:02X}"), format!("{bits:032x}")] {
                assert_eq!(decision(text.as_bytes()), Ok(expected), "{text}");
            }
        }
    }
}
