//! `traceparent` and `tracestate` (Trace Context Level 2, sections 3.2 and 3.3).

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::text::{hex_byte, push_hex, trim_ows};
use super::{
    Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, SpanContext, TraceState,
};
use crate::model::{SpanId, TraceFlags, TraceId};

/// A `tracestate` is none of them: without a `traceparent` it means nothing.
pub(super) const HEADERS: &[Name] = &[Name::Traceparent];

/// Reads `traceparent` alone; see [`state`].
pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let Some(value) = standing.field(Name::Traceparent).once()? else {
        return Ok(Incoming::Absent);
    };
    parse(value).map(Incoming::Context)
}

/// Reads `tracestate`, for a context that came in `traceparent`.
pub(super) fn state(standing: &Standing<'_>) -> TraceState {
    if !standing.has(Name::Tracestate) {
        return TraceState::default();
    }
    // An invalid one goes, and the traceparent stays (section 3.3).
    TraceState::parse(standing.values(Name::Tracestate)).unwrap_or_default()
}

/// Writes both headers.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    edits.set(Name::Traceparent, write(outgoing.context));
    if outgoing.context.state.is_empty() {
        remove_state(edits);
    } else {
        edits.set(Name::Tracestate, outgoing.context.state.as_str().to_owned());
    }
}

/// Removes a `tracestate` that belongs to a trace that ends here, or was no valid list.
pub(super) fn remove_state(edits: &mut Edits<'_>) {
    edits.remove(Name::Tracestate);
}

/// Reads one header value; the state is for the caller to add.
fn parse(value: &[u8]) -> Result<RemoteContext, Malformed> {
    let (version, rest) = field(trim_ows(value), 2)?;
    let version = hex_byte(version)
        .filter(|v| *v != 0xff)
        .ok_or(Malformed::Field("version of traceparent that is not 00 to fe"))?;
    let (trace_id, rest) = field(dash(rest)?, 32)?;
    let trace_id = TraceId::from_hex(trace_id)
        .map_err(|error| Malformed::Id(error, "trace-id of traceparent"))?;
    let (parent_id, rest) = field(dash(rest)?, 16)?;
    let parent_id = SpanId::from_hex(parent_id)
        .map_err(|error| Malformed::Id(error, "parent-id of traceparent"))?;
    let (flags, rest) = field(dash(rest)?, 2)?;
    let flags = hex_byte(flags)
        .ok_or(Malformed::Field("flags of traceparent that are not lower-case hex"))?;
    let flags = TraceFlags::from_bits(flags);
    match (version, rest) {
        // What a later version appends is unknown to us, but it must be a field of its own.
        (_, []) | (1.., [b'-', ..]) => {}
        _ => return Err(Malformed::Field("text after the flags of traceparent")),
    }
    Ok(RemoteContext {
        trace_id,
        parent_id: Some(parent_id),
        decision: if flags.has(TraceFlags::SAMPLED) {
            ParentDecision::Sample
        } else {
            ParentDecision::Drop
        },
        random: flags.has(TraceFlags::RANDOM),
        state: TraceState::default(),
    })
}

/// The header value for `context`, always of version 00, the highest that we know.
pub(super) fn write(context: &SpanContext) -> String {
    let mut out = String::with_capacity(55);
    out.push_str("00-");
    push_hex(&mut out, &context.trace_id.to_bytes());
    out.push('-');
    push_hex(&mut out, &context.span_id.to_bytes());
    out.push('-');
    push_hex(&mut out, &[context.flags.bits()]);
    out
}

fn field(input: &[u8], length: usize) -> Result<(&[u8], &[u8]), Malformed> {
    input.split_at_checked(length).ok_or(TOO_SHORT)
}

fn dash(input: &[u8]) -> Result<&[u8], Malformed> {
    match input {
        [b'-', rest @ ..] => Ok(rest),
        [] => Err(TOO_SHORT),
        _ => Err(Malformed::Field("no dash between two fields of traceparent")),
    }
}

const TOO_SHORT: Malformed = Malformed::Field("traceparent that ends too early");

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03";

    #[test]
    fn every_field_is_read_and_written() {
        let read = parse(VALID.as_bytes()).unwrap();
        assert_eq!(
            read,
            RemoteContext {
                trace_id: TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap(),
                parent_id: SpanId::from_hex(b"b7ad6b7169203331").ok(),
                decision: ParentDecision::Sample,
                random: true,
                state: TraceState::default(),
            }
        );
        let context = SpanContext {
            trace_id: read.trace_id,
            span_id: read.parent_id.unwrap(),
            flags: TraceFlags::SAMPLED.with(TraceFlags::RANDOM),
            debug: false,
            state: TraceState::default(),
        };
        assert_eq!(write(&context), VALID);
    }

    #[test]
    fn errors_say_what_and_where() {
        for (value, message) in [
            ("", "traceparent that ends too early"),
            ("00", "traceparent that ends too early"),
            (&VALID[..54], "traceparent that ends too early"),
            (&VALID[1..], "version of traceparent that is not 00 to fe"),
            ("ff-0af7", "version of traceparent that is not 00 to fe"),
            ("0g-0af7", "version of traceparent that is not 00 to fe"),
            ("000-af7", "no dash between two fields of traceparent"),
            (
                "00-0AF7651916cd43dd8448eb211c80319c-",
                "id with a character other than 0-9a-f as trace-id of traceparent",
            ),
            ("00-00000000000000000000000000000000-", "all-zero id as trace-id of traceparent"),
            (
                "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                "all-zero id as parent-id of traceparent",
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0X",
                "flags of traceparent that are not lower-case hex",
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
                "text after the flags of traceparent",
            ),
            (
                "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.",
                "text after the flags of traceparent",
            ),
        ] {
            assert_eq!(parse(value.as_bytes()).unwrap_err().to_string(), message, "{value:?}");
        }
    }

    #[test]
    fn no_prefix_and_no_changed_byte_is_read_as_another_context() {
        let valid = parse(VALID.as_bytes());
        for end in 0..VALID.len() {
            assert!(parse(&VALID.as_bytes()[..end]).is_err(), "{end}");
        }
        for at in 0..VALID.len() {
            for byte in (0..=u8::MAX).filter(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-')) {
                let mut bytes = VALID.as_bytes().to_vec();
                bytes[at] = byte;
                assert!(parse(&bytes).is_err(), "{at} {byte}");
            }
        }
        assert_eq!(parse(format!("\t {VALID} \t").as_bytes()), valid);
    }
}
