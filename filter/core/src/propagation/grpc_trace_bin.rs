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
