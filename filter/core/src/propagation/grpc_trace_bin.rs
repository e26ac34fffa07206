//! OpenCensus' `grpc-trace-bin`: its binary format (opencensus-specs, encodings/BinaryEncoding.md)
//! in base64, as gRPC carries what is not text (gRPC over HTTP/2, Custom-Metadata).
//!
//! A version, then fields, each a byte that names it and a value of the length that goes with it.

use base64::Engine as _;

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::text::{BASE64_UNPADDED, from_base64, trim_ows};
use super::{Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, TraceState};
use crate::model::{IdError, SpanId, TraceFlags, TraceId};

pub(super) const HEADERS: &[Name] = &[Name::GrpcTraceBin];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let Some(value) = standing.field(Name::GrpcTraceBin).once()? else {
        return Ok(Incoming::Absent);
    };
    let bytes = from_base64(trim_ows(value))
        .ok_or(Malformed::Field("grpc-trace-bin that is not base64"))?;
    parse(&bytes).map(Incoming::Context)
}

/// Writes base64 without padding, as gRPC asks.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    let mut bytes = Vec::with_capacity(29);
    bytes.extend([VERSION, TRACE_ID]);
    bytes.extend(context.trace_id.to_bytes());
    bytes.push(SPAN_ID);
    bytes.extend(context.span_id.to_bytes());
    bytes.extend([OPTIONS, context.flags.bits() & TraceFlags::SAMPLED.bits()]);
    edits.set(Name::GrpcTraceBin, BASE64_UNPADDED.encode(bytes));
}

/// Reads fields in any order; of one that stands twice the last counts.
fn parse(bytes: &[u8]) -> Result<RemoteContext, Malformed> {
    let [VERSION, fields @ ..] = bytes else {
        return Err(Malformed::Field("version of grpc-trace-bin that is not 0"));
    };
    let mut rest = fields;
    // The default of the options is that nothing is asked for.
    let (mut trace_id, mut span_id, mut options) = ([0; 16], [0; 8], 0);
    loop {
        match rest {
            [TRACE_ID, tail @ ..] => (trace_id, rest) = take(tail)?,
            [SPAN_ID, tail @ ..] => (span_id, rest) = take(tail)?,
            [OPTIONS, tail @ ..] => ([options], rest) = take(tail)?,
            // The end, or a field of later days: none that we know comes after it.
            _ => break,
        }
    }
    Ok(RemoteContext {
        trace_id: TraceId::from_bytes(trace_id)
            .ok_or(Malformed::Id(IdError::AllZero, "trace id of grpc-trace-bin"))?,
        parent_id: Some(
            SpanId::from_bytes(span_id)
                .ok_or(Malformed::Id(IdError::AllZero, "span id of grpc-trace-bin"))?,
        ),
        decision: if TraceFlags::from_bits(options).has(TraceFlags::SAMPLED) {
            ParentDecision::Sample
        } else {
            ParentDecision::Drop
        },
        random: false,
        state: TraceState::default(),
    })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Malformed> {
    let (field, rest) = bytes
        .split_first_chunk()
        .ok_or(Malformed::Field("grpc-trace-bin that ends within a field"))?;
    Ok((*field, rest))
}

const VERSION: u8 = 0;
const TRACE_ID: u8 = 0;
const SPAN_ID: u8 = 1;
const OPTIONS: u8 = 2;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// The example of the specification.
    const VALID: [u8; 29] = [
        0, 0, 75, 249, 47, 53, 119, 179, 77, 166, 163, 206, 146, 157, 0, 14, 71, 54, 1, 52, 240,
        103, 170, 11, 169, 2, 183, 2, 1,
    ];

    fn expected(decision: ParentDecision) -> RemoteContext {
        RemoteContext {
            trace_id: TraceId::from_hex(b"4bf92f3577b34da6a3ce929d000e4736").unwrap(),
            parent_id: SpanId::from_hex(b"34f067aa0ba902b7").ok(),
            decision,
            random: false,
            state: TraceState::default(),
        }
    }

    #[test]
    fn every_prefix_is_an_error_or_has_no_options() {
        assert_eq!(parse(&VALID), Ok(expected(ParentDecision::Sample)));
        for end in 0..VALID.len() {
            let found = parse(&VALID[..end]).map_err(|error| error.to_string());
            let message = match end {
                0 => "version of grpc-trace-bin that is not 0",
                1 => "all-zero id as trace id of grpc-trace-bin",
                18 => "all-zero id as span id of grpc-trace-bin",
                27 => {
                    assert_eq!(found, Ok(expected(ParentDecision::Drop)));
                    continue;
                }
                _ => "grpc-trace-bin that ends within a field",
            };
            assert_eq!(found, Err(message.to_owned()), "{end}");
        }
    }

    #[test]
    fn what_follows_an_unknown_field_is_not_read() {
        for field in 3..=u8::MAX {
            let mut bytes = VALID.to_vec();
            bytes.extend([field, OPTIONS, 0]);
            assert_eq!(parse(&bytes), Ok(expected(ParentDecision::Sample)), "{field}");
        }
        for version in 1..=u8::MAX {
            let mut bytes = VALID;
            bytes[0] = version;
            assert_eq!(
                parse(&bytes).unwrap_err().to_string(),
                "version of grpc-trace-bin that is not 0"
            );
        }
    }
}
