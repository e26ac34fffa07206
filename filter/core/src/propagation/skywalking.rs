//! Apache SkyWalking's `sw8` (Cross Process Propagation Headers Protocol v3).
//!
//! Its ids are text. They become W3C's as in the OpenTelemetry Collector's SkyWalking receiver, so
//! that spans of SkyWalking's agents and ours join in one backend. `sw8-correlation` and `sw8-x`
//! pass as they stand: they tell of no span.

use base64::Engine as _;

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::text::{BASE64_PADDED, from_base64, hex, push_hex, trim_ows};
use super::{Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, TraceState, ids};
use crate::model::{Headers, IdError, SpanId, TraceFlags, TraceId};

pub(super) const HEADERS: &[Name] = &[Name::Sw8];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let value = standing.field(Name::Sw8).once()?;
    value.map_or(Ok(Incoming::Absent), |value| Ok(Incoming::Context(parse(value)?.context)))
}

/// Writes all eight fields, none empty: SkyWalking's agents take no others.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    let headers = edits.standing.headers();
    // SkyWalking knows the trace by its own text alone.
    let stood = edits.standing.field(Name::Sw8).once().ok().flatten();
    let trace_id = stood
        .and_then(|value| parse(value).ok())
        .filter(|stood| stood.context.trace_id == context.trace_id)
        .map_or_else(|| hex(&context.trace_id.to_bytes()).into_bytes(), |stood| stood.trace_id);
    // With a low half of zeros and the span index 0 it folds to our span id.
    let mut segment_id = hex(&context.span_id.to_bytes());
    push_hex(&mut segment_id, &[0; 8]);
    let service: String = outgoing.service.chars().take(MAX_SERVICE).collect();

    let mut out = String::with_capacity(256);
    out.push(if context.flags.has(TraceFlags::SAMPLED) { '1' } else { '0' });
    push_text(&mut out, &trace_id);
    push_text(&mut out, segment_id.as_bytes());
    out.push_str("-0");
    push_text(&mut out, service.as_bytes());
    // The instance: there is no other name for it here.
    push_text(&mut out, service.as_bytes());
    push_text(&mut out, endpoint(headers));
    push_text(&mut out, address(headers));
    edits.set(Name::Sw8, out);
}

/// What a header says.
struct Carrier {
    context: RemoteContext,
    /// As SkyWalking writes it.
    trace_id: Vec<u8>,
}

/// The last four fields, names for SkyWalking's topology, are counted and not read.
fn parse(value: &[u8]) -> Result<Carrier, Malformed> {
    let mut fields = trim_ows(value).split(|byte| *byte == b'-');
    if fields.clone().count() != 8 {
        return Err(Malformed::Field("sw8 without eight fields"));
    }
    let mut field = || fields.next().unwrap_or_default();
    let decision = match field() {
        b"0" => ParentDecision::Drop,
        b"1" => ParentDecision::Sample,
        _ => return Err(Malformed::Field("sample of sw8 that is neither 0 nor 1")),
    };
    let trace_id =
        from_base64(field()).ok_or(Malformed::Field("trace id of sw8 that is not base64"))?;
    let segment_id =
        from_base64(field()).ok_or(Malformed::Field("segment id of sw8 that is not base64"))?;
    let span_index = ids::decimal(field())
        .and_then(|index| u32::try_from(index).ok())
        .ok_or(Malformed::Field("span index of sw8 that is no number of 32 bits"))?;
    let context = RemoteContext {
        trace_id: w3c_trace_id(&trace_id)
            .map_err(|error| Malformed::Id(error, "trace id of sw8"))?,
        parent_id: Some(
            w3c_span_id(&segment_id, span_index)
                .map_err(|error| Malformed::Id(error, "segment id of sw8"))?,
        ),
        decision,
        random: false,
        state: TraceState::default(),
    };
    Ok(Carrier { context, trace_id })
}

fn w3c_trace_id(text: &[u8]) -> Result<TraceId, IdError> {
    let (high, low) = halves(text)?;
    TraceId::from_halves(high, low).ok_or(IdError::AllZero)
}

/// A segment and the index of a span in it make one id, folded to half its length.
fn w3c_span_id(segment_id: &[u8], span_index: u32) -> Result<SpanId, IdError> {
    let (high, low) = halves(segment_id)?;
    let folded = high ^ (u64::from(span_index.swap_bytes()) << 32) ^ low;
    SpanId::from_bytes(folded.to_be_bytes()).ok_or(IdError::AllZero)
}

/// The two halves of an id, in one of its three forms: 32 digits of hex, a UUID with dashes, or
/// 32 digits, a thread and a sequence between dots.
///
/// A number goes in by exclusive or, its lowest byte first: the thread from byte 4 (of which the
/// low 32 bits count), the sequence from byte 8. A segment id with dashes has no span id in the
/// receiver; here it is read like any other, so that the parent is not lost.
fn halves(text: &[u8]) -> Result<(u64, u64), IdError> {
    let mut parts = text.split(|byte| *byte == b'.');
    let first = parts.next().unwrap_or_default();
    let (thread, sequence) = match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => (0, 0),
        (Some(thread), Some(sequence), None) if first.len() == 32 => {
            let number = |text| ids::decimal(text).ok_or(IdError::NotLowerHex);
            (number(thread)?, number(sequence)?)
        }
        _ => return Err(IdError::WrongLength),
    };
    let uuid = uuid(first)?;
    Ok((uuid.high() ^ (thread.swap_bytes() >> 32), uuid.low() ^ sequence.swap_bytes()))
}

fn uuid(text: &[u8]) -> Result<TraceId, IdError> {
    let lengths = || text.split(|byte| *byte == b'-').map(<[u8]>::len);
    if !lengths().eq([32]) && !lengths().eq([8, 4, 4, 4, 12]) {
        return Err(IdError::WrongLength);
    }
    let digits: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'-').collect();
    ids::trace_id_of_any_length(&digits)
}

/// The caller's endpoint is its span's name, which begins with the method; a path may hold what
/// is nobody's business.
fn endpoint(headers: &Headers) -> &[u8] {
    headers
        .get(":method")
        .filter(|method| {
            matches!(method.len(), 1..=16) && method.iter().all(u8::is_ascii_uppercase)
        })
        .unwrap_or(b"HTTP")
}

/// The address that the caller uses, without user information.
fn address(headers: &Headers) -> &[u8] {
    headers
        .get(":authority")
        .and_then(|authority| authority.rsplit(|byte| *byte == b'@').next())
        .filter(|host| matches!(host.len(), 1..=255) && host.iter().all(u8::is_ascii_graphic))
        .unwrap_or(b"unknown")
}

fn push_text(out: &mut String, text: &[u8]) {
    out.push('-');
    BASE64_PADDED.encode_string(text, out);
}

/// Characters that the protocol allows in the name of a service, and in that of an instance.
const MAX_SERVICE: usize = 50;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const UUID: &[u8] = b"de5980b8-fce3-4a37-aab9-b4ac3af7eedd";

    /// The figures are those of the receiver's own tests, but for the segment id with dashes.
    #[test]
    fn ids_map_as_in_the_collector() {
        for (text, id) in [
            (UUID, "de5980b8fce34a37aab9b4ac3af7eedd"),
            (b"de5980b8fce34a37aab9b4ac3af7eedd", "de5980b8fce34a37aab9b4ac3af7eedd"),
            (
                b"de5980b8fce34a37aab9b4ac3af7eedd.1.16563474296430001",
                "de5980b8fde34a371be41bcd5e2fd4dd",
            ),
        ] {
            assert_eq!(w3c_trace_id(text).map(|id| id.to_string()), Ok(id.to_owned()));
        }
        for (text, id) in [
            (&b"4f2f27748b8e44ecaf18fe0347194e86.33.16560607369950066"[..], "e9c455a82542306a"),
            (b"4f2f27748b8e44ecaf18fe0347194e86", "9b37d977cc970a6a"),
            (b"4f2f2774-8b8e-44ec-af18-fe0347194e86", "9b37d977cc970a6a"),
        ] {
            assert_eq!(w3c_span_id(text, 123).map(|id| id.to_string()), Ok(id.to_owned()));
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_ids() {
        for (trace, span) in [
            ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"),
            ("00000000000000000000000000000001", "0000000000000001"),
            ("ffffffffffffffffffffffffffffffff", "ffffffffffffffff"),
        ] {
            let value = format!(
                "1-{}-{}-0----",
                BASE64_PADDED.encode(trace),
                BASE64_PADDED.encode(format!("{span}{:016}", 0))
            );
            let carrier = parse(value.as_bytes()).unwrap();
            assert_eq!(
                carrier.context,
                RemoteContext {
                    trace_id: TraceId::from_hex(trace.as_bytes()).unwrap(),
                    parent_id: SpanId::from_hex(span.as_bytes()).ok(),
                    decision: ParentDecision::Sample,
                    random: false,
                    state: TraceState::default(),
                }
            );
            assert_eq!(carrier.trace_id, trace.as_bytes());
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        let id = BASE64_PADDED.encode(UUID);
        let twin = BASE64_PADDED.encode("0123456789abcdef0123456789abcdef");
        for (value, message) in [
            (String::new(), "sw8 without eight fields"),
            (format!("1-{id}-{id}-0---"), "sw8 without eight fields"),
            (format!("1-{id}-{id}-0-----"), "sw8 without eight fields"),
            (format!("-{id}-{id}-0----"), "sample of sw8 that is neither 0 nor 1"),
            (format!("1-*-{id}-0----"), "trace id of sw8 that is not base64"),
            (format!("1-{id}-*-0----"), "segment id of sw8 that is not base64"),
            (
                format!("1-{id}-{id}-4294967296----"),
                "span index of sw8 that is no number of 32 bits",
            ),
            (format!("1--{id}-0----"), "id of the wrong length as trace id of sw8"),
            (format!("1-{id}--0----"), "id of the wrong length as segment id of sw8"),
            (format!("1-{id}-{twin}-0----"), "all-zero id as segment id of sw8"),
        ] {
            let error = parse(value.as_bytes()).err().map(|error| error.to_string());
            assert_eq!(error.as_deref(), Some(message), "{value:?}");
        }
    }
}
