//! `traceparent` (Trace Context Level 2, section 3.2).

use core::fmt;

use super::text::{hex_byte, push_hex, trim_ows};
use super::{ParentDecision, RemoteContext, SpanContext, TraceState};
use crate::model::{IdError, SpanId, TraceFlags, TraceId};

/// Why a `traceparent` is not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TraceparentError {
    Delimiter,
    Flags,
    ParentId(IdError),
    TooShort,
    TraceId(IdError),
    Trailing,
    Version,
}

/// Reads one header value; the state is for the caller to add.
pub(super) fn parse(value: &[u8]) -> Result<RemoteContext, TraceparentError> {
    let (version, rest) = field(trim_ows(value), 2)?;
    let version = hex_byte(version).filter(|v| *v != 0xff).ok_or(TraceparentError::Version)?;
    let (trace_id, rest) = field(dash(rest)?, 32)?;
    let trace_id = TraceId::from_hex(trace_id).map_err(TraceparentError::TraceId)?;
    let (parent_id, rest) = field(dash(rest)?, 16)?;
    let parent_id = SpanId::from_hex(parent_id).map_err(TraceparentError::ParentId)?;
    let (flags, rest) = field(dash(rest)?, 2)?;
    let flags = TraceFlags::from_bits(hex_byte(flags).ok_or(TraceparentError::Flags)?);
    match (version, rest) {
        // What a later version appends is unknown to us, but it must be a field of its own.
        (_, []) | (1.., [b'-', ..]) => {}
        _ => return Err(TraceparentError::Trailing),
    }
    Ok(RemoteContext {
        trace_id,
        parent_id,
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

impl fmt::Display for TraceparentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delimiter => f.write_str("no dash between two fields of traceparent"),
            Self::Flags => f.write_str("flags of traceparent that are not lower-case hex"),
            Self::ParentId(error) => write!(f, "{error} as parent-id of traceparent"),
            Self::TooShort => f.write_str("traceparent that ends too early"),
            Self::TraceId(error) => write!(f, "{error} as trace-id of traceparent"),
            Self::Trailing => f.write_str("text after the flags of traceparent"),
            Self::Version => f.write_str("version of traceparent that is not 00 to fe"),
        }
    }
}

impl core::error::Error for TraceparentError {}

fn field(input: &[u8], length: usize) -> Result<(&[u8], &[u8]), TraceparentError> {
    input.split_at_checked(length).ok_or(TraceparentError::TooShort)
}

fn dash(input: &[u8]) -> Result<&[u8], TraceparentError> {
    match input {
        [b'-', rest @ ..] => Ok(rest),
        [] => Err(TraceparentError::TooShort),
        _ => Err(TraceparentError::Delimiter),
    }
}

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
                parent_id: SpanId::from_hex(b"b7ad6b7169203331").unwrap(),
                decision: ParentDecision::Sample,
                random: true,
                state: TraceState::default(),
            }
        );
        let context = SpanContext {
            trace_id: read.trace_id,
            span_id: read.parent_id,
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
