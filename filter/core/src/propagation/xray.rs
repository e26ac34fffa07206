//! AWS X-Ray's `x-amzn-trace-id` (X-Ray's tracing header; request tracing of load balancers).
//!
//! Fields `Key=Value` in any order, between `;`. The names of the keys are case-sensitive, as in
//! AWS' own readers.

use super::edits::Edits;
use super::standing::{Name, Standing};
use super::text::{push_hex, trim_ows};
use super::{Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, TraceState};
use crate::model::{IdError, SpanId, TraceFlags, TraceId};

pub(super) const HEADERS: &[Name] = &[Name::XAmznTraceId];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let value = standing.field(Name::XAmznTraceId).once()?;
    value.map_or(Ok(Incoming::Absent), |value| parse(value).map(Incoming::Context))
}

/// Writes our fields, and behind them those of others that stood with the same trace.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    let [a, b, c, d, rest @ ..] = context.trace_id.to_bytes();
    let mut out = String::with_capacity(MAX_LENGTH);
    out.push_str("Root=1-");
    push_hex(&mut out, &[a, b, c, d]);
    out.push('-');
    push_hex(&mut out, &rest);
    out.push_str(";Parent=");
    push_hex(&mut out, &context.span_id.to_bytes());
    out.push_str(";Sampled=");
    out.push(if context.flags.has(TraceFlags::SAMPLED) { '1' } else { '0' });
    if let Ok(Some(value)) = edits.standing.field(Name::XAmznTraceId).once()
        && parse(value).is_ok_and(|stood| stood.trace_id == context.trace_id)
    {
        others(value).for_each(|field| push_field(&mut out, field));
    }
    edits.set(Name::XAmznTraceId, out);
}

fn parse(value: &[u8]) -> Result<RemoteContext, Malformed> {
    let (mut root, mut parent, mut sampled) = (None, None, None);
    for field in fields(value) {
        let (key, value) = key_and_value(field)
            .ok_or(Malformed::Field("field of x-amzn-trace-id without an equals sign"))?;
        let found = match key {
            b"Root" => &mut root,
            b"Parent" => &mut parent,
            b"Sampled" => &mut sampled,
            _ => continue,
        };
        if found.replace(value).is_some() {
            return Err(Malformed::Field("field that x-amzn-trace-id has twice"));
        }
    }
    let root = root.ok_or(Malformed::Field("x-amzn-trace-id without Root"))?;
    let trace_id =
        trace_id(root).map_err(|error| Malformed::Id(error, "Root of x-amzn-trace-id"))?;
    // Load balancers send no spans, so they name no parent.
    let parent_id = parent
        .map(SpanId::from_hex)
        .transpose()
        .map_err(|error| Malformed::Id(error, "Parent of x-amzn-trace-id"))?;
    Ok(RemoteContext {
        trace_id,
        parent_id,
        decision: match sampled {
            Some(b"0") => ParentDecision::Drop,
            Some(b"1") => ParentDecision::Sample,
            // A question mark asks the receiver to decide; what else may stand says nothing.
            _ => ParentDecision::Deferred,
        },
        random: false,
        state: TraceState::default(),
    })
}

fn fields(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b';').map(trim_ows).filter(|field| !field.is_empty())
}

fn key_and_value(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = field.splitn(2, |byte| *byte == b'=');
    Some((parts.next()?, parts.next()?))
}

/// The fields that are neither ours to write nor a load balancer's word on its own hop (`Self`,
/// which AWS' own readers drop as well).
fn others(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    fields(value).filter(|field| {
        key_and_value(field)
            .is_some_and(|(key, _)| !matches!(key, b"Root" | b"Parent" | b"Sampled" | b"Self"))
    })
}

/// Appends `field` where it fits and is text that any reader takes.
fn push_field(out: &mut String, field: &[u8]) {
    let Ok(text) = core::str::from_utf8(field) else { return };
    let length = out.len().saturating_add(text.len()).saturating_add(1);
    if length <= MAX_LENGTH && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        out.push(';');
        out.push_str(text);
    }
}

/// A version, 8 digits of time and 24 more: the two together are the 32 of W3C.
fn trace_id(root: &[u8]) -> Result<TraceId, IdError> {
    let mut parts = root.split(|byte| *byte == b'-');
    let (Some(b"1"), Some(time), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(IdError::WrongLength);
    };
    if time.len() != 8 || rest.len() != 24 {
        return Err(IdError::WrongLength);
    }
    let mut hex = [0; 32];
    hex.iter_mut().zip(time.iter().chain(rest)).for_each(|(digit, byte)| *digit = *byte);
    TraceId::from_hex(&hex)
}

/// Characters in the header at most: what others put in must not grow from hop to hop.
const MAX_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const ROOT: &str = "Root=1-0af76519-16cd43dd8448eb211c80319c";

    #[test]
    fn fields_in_any_order_with_and_without_a_parent() {
        let trace_id = TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap();
        let parent_id = SpanId::from_hex(b"53995c3f42cd8ad8").ok();
        for (value, parent_id, decision) in [
            (ROOT.to_owned(), None, ParentDecision::Deferred),
            (format!("Self=x;{ROOT};Sampled=1"), None, ParentDecision::Sample),
            (
                format!("Sampled=0; Parent=53995c3f42cd8ad8 ;{ROOT};"),
                parent_id,
                ParentDecision::Drop,
            ),
            (
                format!("{ROOT};Parent=53995c3f42cd8ad8;Sampled=?"),
                parent_id,
                ParentDecision::Deferred,
            ),
        ] {
            let state = TraceState::default();
            let expected = RemoteContext { trace_id, parent_id, decision, random: false, state };
            assert_eq!(parse(value.as_bytes()), Ok(expected), "{value}");
        }
    }

    #[test]
    fn errors_say_what_and_where() {
        for (value, message) in [
            (String::new(), "x-amzn-trace-id without Root"),
            ("Sampled=1".to_owned(), "x-amzn-trace-id without Root"),
            (format!("{ROOT};x"), "field of x-amzn-trace-id without an equals sign"),
            (format!("{ROOT};{ROOT}"), "field that x-amzn-trace-id has twice"),
            ("Root=1-0-0".to_owned(), "id of the wrong length as Root of x-amzn-trace-id"),
            (format!("{ROOT}-"), "id of the wrong length as Root of x-amzn-trace-id"),
            (
                ROOT.replace('a', "A"),
                "id with a character other than 0-9a-f as Root of x-amzn-trace-id",
            ),
            (format!("{ROOT};Parent=0000000000000000"), "all-zero id as Parent of x-amzn-trace-id"),
        ] {
            assert_eq!(parse(value.as_bytes()).unwrap_err().to_string(), message, "{value:?}");
        }
    }

    #[test]
    fn only_fields_of_others_are_kept() {
        let value = format!("{ROOT};Parent=;Sampled=;Self=x; a = 1 ;=;Rootless=2");
        assert_eq!(
            others(value.as_bytes()).collect::<Vec<_>>(),
            [&b"a = 1"[..], b"=", b"Rootless=2"]
        );
        let full = "x".repeat(MAX_LENGTH.saturating_sub(2));
        let mut out = full.clone();
        push_field(&mut out, b"yz");
        push_field(&mut out, b"\t");
        assert_eq!(out, full);
        push_field(&mut out, b"y");
        assert_eq!(out, format!("{full};y"));
    }
}
