//! B3 in one header or in several (openzipkin/b3-propagation).

use super::edits::Edits;
use super::ids;
use super::standing::{Name, Standing};
use super::text::{hex, push_hex, trim_ows};
use super::{
    Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, SpanContext, TraceState,
};
use crate::model::{SpanId, TraceFlags, TraceId};

pub(super) const SINGLE_HEADERS: &[Name] = &[Name::B3];

pub(super) const MULTI_HEADERS: &[Name] =
    &[Name::XB3TraceId, Name::XB3SpanId, Name::XB3ParentSpanId, Name::XB3Sampled, Name::XB3Flags];

/// The values of `x-b3-traceid`, `-spanid`, `-sampled` and `-flags`.
///
/// `x-b3-parentspanid` is not among them: nothing is made of it, so that what stands there (some
/// proxies write an empty one for a root) breaks no trace.
#[derive(Clone, Copy, Debug, Default)]
struct Multi<'a> {
    trace_id: Option<&'a [u8]>,
    span_id: Option<&'a [u8]>,
    sampled: Option<&'a [u8]>,
    flags: Option<&'a [u8]>,
}

pub(super) fn extract_single(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    standing.field(Name::B3).once()?.map_or(Ok(Incoming::Absent), parse_single)
}

pub(super) fn extract_multi(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    parse_multi(Multi {
        trace_id: standing.field(Name::XB3TraceId).once()?,
        span_id: standing.field(Name::XB3SpanId).once()?,
        // Of these two the first value counts, as B3 says of its state headers.
        sampled: standing.field(Name::XB3Sampled).first(),
        flags: standing.field(Name::XB3Flags).first(),
    })
}

pub(super) fn inject_single(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    edits.set(Name::B3, write_single(outgoing.context, outgoing.parent_id));
}

/// Leaves `x-b3-*` saying what `outgoing` says, and no more.
pub(super) fn inject_multi(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    edits.set(Name::XB3TraceId, hex(&context.trace_id.to_bytes()));
    edits.set(Name::XB3SpanId, hex(&context.span_id.to_bytes()));
    if let Some(parent) = outgoing.parent_id {
        edits.set(Name::XB3ParentSpanId, hex(&parent.to_bytes()));
    } else {
        edits.remove(Name::XB3ParentSpanId);
    }
    if context.debug {
        // Debug implies an accept; B3 asks not to send both.
        edits.set(Name::XB3Flags, "1".to_owned());
        edits.remove(Name::XB3Sampled);
    } else {
        edits.set(Name::XB3Sampled, sampled(context).to_owned());
        edits.remove(Name::XB3Flags);
    }
}

/// Reads the header `b3`: a sampling state, or ids with or without one.
fn parse_single(value: &[u8]) -> Result<Incoming, Malformed> {
    let value = trim_ows(value);
    if let [state] = value {
        return sampling_state(&[*state]).map(Incoming::Decision);
    }
    // No split is lazy here: a fifth field must be an error, not left unread.
    let mut fields = value.split(|byte| *byte == b'-');
    let trace_id = trace_id(fields.next().unwrap_or_default())?;
    let span_id = fields.next().ok_or(Malformed::Field("b3 that ends after the trace id"))?;
    let parent_id = span_id_of(span_id)?;
    let decision = fields.next().map_or(Ok(ParentDecision::Deferred), sampling_state)?;
    if let Some(parent) = fields.next() {
        SpanId::from_hex(parent).map_err(|error| Malformed::Id(error, "parent span id of b3"))?;
    }
    if fields.next().is_some() {
        return Err(Malformed::Field("text after the parent span id of b3"));
    }
    Ok(context(trace_id, parent_id, decision))
}

/// Reads the headers `x-b3-*`.
fn parse_multi(headers: Multi<'_>) -> Result<Incoming, Malformed> {
    let mut decision = match headers.sampled.map(trim_ows) {
        None => ParentDecision::Deferred,
        Some(b"0" | b"false") => ParentDecision::Drop,
        Some(b"1" | b"true") => ParentDecision::Sample,
        Some(_) => return Err(UNKNOWN_STATE),
    };
    // Debug implies an accept, whatever the other header says; no other flag is defined.
    if headers.flags.map(trim_ows) == Some(b"1") {
        decision = ParentDecision::Debug;
    }
    match (headers.trace_id, headers.span_id, decision) {
        (Some(trace), Some(span), _) => {
            let trace_id = trace_id(trim_ows(trace))?;
            Ok(context(trace_id, span_id_of(trim_ows(span))?, decision))
        }
        (Some(_), None, _) | (None, Some(_), _) => {
            Err(Malformed::Field("one of trace id and span id without the other"))
        }
        (None, None, ParentDecision::Deferred) => Ok(Incoming::Absent),
        (None, None, _) => Ok(Incoming::Decision(decision)),
    }
}

/// The value of the header `b3` for `context`.
fn write_single(context: &SpanContext, parent_id: Option<SpanId>) -> String {
    let mut out = String::with_capacity(68);
    push_hex(&mut out, &context.trace_id.to_bytes());
    out.push('-');
    push_hex(&mut out, &context.span_id.to_bytes());
    out.push('-');
    out.push_str(if context.debug { "d" } else { sampled(context) });
    if let Some(parent) = parent_id {
        out.push('-');
        push_hex(&mut out, &parent.to_bytes());
    }
    out
}

fn sampled(context: &SpanContext) -> &'static str {
    if context.flags.has(TraceFlags::SAMPLED) { "1" } else { "0" }
}

fn context(trace_id: TraceId, parent_id: SpanId, decision: ParentDecision) -> Incoming {
    Incoming::Context(RemoteContext {
        trace_id,
        parent_id: Some(parent_id),
        decision,
        // B3 has no word for it.
        random: false,
        state: TraceState::default(),
    })
}

/// 128 bits, or 64 that are the low half.
fn trace_id(text: &[u8]) -> Result<TraceId, Malformed> {
    let read = if text.len() == 16 { ids::short_trace_id(text) } else { TraceId::from_hex(text) };
    read.map_err(|error| Malformed::Id(error, "b3 trace id"))
}

fn span_id_of(text: &[u8]) -> Result<SpanId, Malformed> {
    SpanId::from_hex(text).map_err(|error| Malformed::Id(error, "b3 span id"))
}

fn sampling_state(text: &[u8]) -> Result<ParentDecision, Malformed> {
    match text {
        b"0" => Ok(ParentDecision::Drop),
        b"1" => Ok(ParentDecision::Sample),
        b"d" => Ok(ParentDecision::Debug),
        _ => Err(UNKNOWN_STATE),
    }
}

const UNKNOWN_STATE: Malformed = Malformed::Field("unknown b3 sampling state");

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";
    const PARENT: &str = "00f067aa0ba902b7";

    fn expected(trace: &str, decision: ParentDecision) -> Incoming {
        context(
            TraceId::from_hex(trace.as_bytes()).unwrap(),
            SpanId::from_hex(SPAN.as_bytes()).unwrap(),
            decision,
        )
    }

    #[test]
    fn single_in_all_its_lengths() {
        for (suffix, decision) in [
            ("".to_owned(), ParentDecision::Deferred),
            ("-0".to_owned(), ParentDecision::Drop),
            ("-1".to_owned(), ParentDecision::Sample),
            ("-d".to_owned(), ParentDecision::Debug),
            (format!("-0-{PARENT}"), ParentDecision::Drop),
        ] {
            let long = format!("{TRACE}-{SPAN}{suffix}");
            assert_eq!(parse_single(long.as_bytes()), Ok(expected(TRACE, decision)), "{long}");
            let short = format!("\t{PARENT}-{SPAN}{suffix} ");
            let padded = format!("0000000000000000{PARENT}");
            assert_eq!(parse_single(short.as_bytes()), Ok(expected(&padded, decision)), "{short}");
        }
        assert_eq!(parse_single(b" 0"), Ok(Incoming::Decision(ParentDecision::Drop)));
        assert_eq!(parse_single(b"1"), Ok(Incoming::Decision(ParentDecision::Sample)));
        assert_eq!(parse_single(b"d"), Ok(Incoming::Decision(ParentDecision::Debug)));
    }

    #[test]
    fn single_errors_say_what_and_where() {
        for (value, message) in [
            (String::new(), "id of the wrong length as b3 trace id"),
            ("2".to_owned(), "unknown b3 sampling state"),
            (TRACE.to_owned(), "b3 that ends after the trace id"),
            (format!("{TRACE}-"), "id of the wrong length as b3 span id"),
            (format!("{TRACE}-{SPAN}-"), "unknown b3 sampling state"),
            (format!("{TRACE}-{SPAN}-true"), "unknown b3 sampling state"),
            (format!("{TRACE}-{SPAN}-1-"), "id of the wrong length as parent span id of b3"),
            (format!("{TRACE}-{SPAN}-1-{PARENT}-"), "text after the parent span id of b3"),
            (format!("{}-{SPAN}", "0".repeat(16)), "all-zero id as b3 trace id"),
            (format!("{}-{SPAN}", "0".repeat(32)), "all-zero id as b3 trace id"),
            (
                format!("{}-{SPAN}", TRACE.to_uppercase()),
                "id with a character other than 0-9a-f as b3 trace id",
            ),
        ] {
            assert_eq!(
                parse_single(value.as_bytes()).unwrap_err().to_string(),
                message,
                "{value:?}"
            );
        }
    }

    #[test]
    fn multi_decides_by_flags_then_by_sampled() {
        let ids = Multi {
            trace_id: Some(TRACE.as_bytes()),
            span_id: Some(SPAN.as_bytes()),
            sampled: None,
            flags: None,
        };
        for (sampled, flags, decision) in [
            (None, None, ParentDecision::Deferred),
            (Some(&b"0"[..]), None, ParentDecision::Drop),
            (Some(b"false"), Some(&b"0"[..]), ParentDecision::Drop),
            (Some(b"1"), Some(b"2"), ParentDecision::Sample),
            (Some(b"true "), None, ParentDecision::Sample),
            (Some(b"0"), Some(b"1"), ParentDecision::Debug),
            (None, Some(b"\t1"), ParentDecision::Debug),
        ] {
            let with_ids = Multi { sampled, flags, ..ids };
            assert_eq!(parse_multi(with_ids), Ok(expected(TRACE, decision)));
            let alone = Multi { sampled, flags, ..Multi::default() };
            assert_eq!(
                parse_multi(alone),
                Ok(match decision {
                    ParentDecision::Deferred => Incoming::Absent,
                    decision => Incoming::Decision(decision),
                })
            );
        }
        assert_eq!(
            parse_multi(Multi { trace_id: None, ..ids }).unwrap_err().to_string(),
            "one of trace id and span id without the other"
        );
        assert_eq!(
            parse_multi(Multi { span_id: None, ..ids }),
            Err(Malformed::Field("one of trace id and span id without the other"))
        );
        for sampled in ["", "d", "TRUE", "01"] {
            let headers = Multi { sampled: Some(sampled.as_bytes()), flags: Some(b"1"), ..ids };
            assert_eq!(parse_multi(headers), Err(UNKNOWN_STATE), "{sampled:?}");
        }
    }

    #[test]
    fn writes_the_state_and_the_parent() {
        let mut context = SpanContext {
            trace_id: TraceId::from_hex(TRACE.as_bytes()).unwrap(),
            span_id: SpanId::from_hex(SPAN.as_bytes()).unwrap(),
            flags: TraceFlags::RANDOM,
            debug: false,
            state: TraceState::default(),
        };
        let parent = SpanId::from_hex(PARENT.as_bytes()).unwrap();
        assert_eq!(write_single(&context, None), format!("{TRACE}-{SPAN}-0"));
        context.flags = TraceFlags::SAMPLED;
        assert_eq!(write_single(&context, Some(parent)), format!("{TRACE}-{SPAN}-1-{PARENT}"));
        context.debug = true;
        assert_eq!(write_single(&context, None), format!("{TRACE}-{SPAN}-d"));
    }
}
