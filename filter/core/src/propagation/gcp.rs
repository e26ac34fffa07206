//! Google Cloud's `x-cloud-trace-context` (Cloud Trace, legacy header):
//! `TRACE_ID/SPAN_ID;o=OPTIONS`, where all but the trace id may be missing.

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::text::{push_hex, trim_ows};
use super::{Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, TraceState, ids};
use crate::model::{IdError, SpanId, TraceFlags, TraceId};

pub(super) const HEADERS: &[Name] = &[Name::XCloudTraceContext];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let value = standing.field(Name::XCloudTraceContext).once()?;
    value.map_or(Ok(Incoming::Absent), |value| parse(value).map(Incoming::Context))
}

pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    let mut out = String::with_capacity(57);
    push_hex(&mut out, &context.trace_id.to_bytes());
    out.push('/');
    out.push_str(&u64::from_be_bytes(context.span_id.to_bytes()).to_string());
    out.push_str(if context.flags.has(TraceFlags::SAMPLED) { ";o=1" } else { ";o=0" });
    edits.set(Name::XCloudTraceContext, out);
}

fn parse(value: &[u8]) -> Result<RemoteContext, Malformed> {
    let mut parts = trim_ows(value).splitn(2, |byte| *byte == b';');
    let mut ids = parts.next().unwrap_or_default().splitn(2, |byte| *byte == b'/');
    Ok(RemoteContext {
        trace_id: trace_id(ids.next().unwrap_or_default())
            .map_err(|error| Malformed::Id(error, "trace id of x-cloud-trace-context"))?,
        parent_id: ids.next().map_or(Ok(None), span_id)?,
        decision: parts.next().map_or(Ok(ParentDecision::Deferred), options)?,
        random: false,
        state: TraceState::default(),
    })
}

/// Google's documents ask for 32 hexadecimal digits, and not for their case.
fn trace_id(text: &[u8]) -> Result<TraceId, IdError> {
    if text.len() != 32 {
        return Err(IdError::WrongLength);
    }
    ids::trace_id_of_any_length(text)
}

/// None where there is nothing, or zero: what sent it has no span of its own.
fn span_id(text: &[u8]) -> Result<Option<SpanId>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    ids::decimal(text)
        .map(|id| SpanId::from_bytes(id.to_be_bytes()))
        .ok_or(Malformed::Field("span id of x-cloud-trace-context that is no decimal of 64 bits"))
}

/// A mask, of which the lowest bit says that the caller is sampled; it may be left empty.
fn options(text: &[u8]) -> Result<ParentDecision, Malformed> {
    const UNKNOWN: Malformed =
        Malformed::Field("options of x-cloud-trace-context that are not o= and a number");
    let mask = text.strip_prefix(b"o=").ok_or(UNKNOWN)?;
    if mask.is_empty() {
        return Ok(ParentDecision::Deferred);
    }
    let sampled = ids::decimal(mask).ok_or(UNKNOWN)? & 1 == 1;
    Ok(if sampled { ParentDecision::Sample } else { ParentDecision::Drop })
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn all_but_the_trace_id_may_be_missing() {
        let span = SpanId::from_bytes([0, 0, 0, 0, 0, 0, 1, 2]);
        for (rest, parent_id, decision) in [
            ("", None, ParentDecision::Deferred),
            ("/", None, ParentDecision::Deferred),
            ("/0;o=1", None, ParentDecision::Sample),
            ("/258", span, ParentDecision::Deferred),
            ("/258;o=", span, ParentDecision::Deferred),
            ("/258;o=0", span, ParentDecision::Drop),
            ("/258;o=1", span, ParentDecision::Sample),
            (";o=3", None, ParentDecision::Sample),
        ] {
            let expected = RemoteContext {
                trace_id: TraceId::from_hex(TRACE.as_bytes()).unwrap(),
                parent_id,
                decision,
                random: false,
                state: TraceState::default(),
            };
            assert_eq!(parse(format!("{TRACE}{rest}").as_bytes()), Ok(expected), "{rest}");
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        for (value, message) in [
            (String::new(), "id of the wrong length as trace id of x-cloud-trace-context"),
            ("0".repeat(32), "all-zero id as trace id of x-cloud-trace-context"),
            (
                TRACE.replace('a', "x"),
                "id with a character other than 0-9a-f as trace id of x-cloud-trace-context",
            ),
            (
                format!("{TRACE}/a"),
                "span id of x-cloud-trace-context that is no decimal of 64 bits",
            ),
            (
                format!("{TRACE}/1;"),
                "options of x-cloud-trace-context that are not o= and a number",
            ),
            (
                format!("{TRACE}/1;o=+1"),
                "options of x-cloud-trace-context that are not o= and a number",
            ),
        ] {
            assert_eq!(parse(value.as_bytes()).unwrap_err().to_string(), message, "{value:?}");
        }
    }
}
