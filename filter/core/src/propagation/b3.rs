//! B3 in one header or in several (openzipkin/b3-propagation).

use core::fmt;

use super::standing::Standing;
use super::text::{push_hex, trim_ows};
use super::{
    Incoming, ParentDecision, RemoteContext, SpanContext, TraceState, X_B3_FLAGS,
    X_B3_PARENTSPANID, X_B3_SAMPLED, X_B3_SPANID, X_B3_TRACEID,
};
use crate::model::{HeaderEdit, IdError, SpanId, TraceFlags, TraceId};

/// Why B3 headers are not valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum B3Error {
    IdWithoutOther,
    ParentSpanId(IdError),
    Sampling,
    SpanId(IdError),
    TooShort,
    TraceId(IdError),
    Trailing,
}

/// The values of `x-b3-traceid`, `-spanid`, `-sampled` and `-flags`.
///
/// `x-b3-parentspanid` is not among them: nothing is made of it, so that what stands there (some
/// proxies write an empty one for a root) breaks no trace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Multi<'a> {
    pub(super) trace_id: Option<&'a [u8]>,
    pub(super) span_id: Option<&'a [u8]>,
    pub(super) sampled: Option<&'a [u8]>,
    pub(super) flags: Option<&'a [u8]>,
}

/// Reads the header `b3`: a sampling state, or ids with or without one.
pub(super) fn parse_single(value: &[u8]) -> Result<Incoming, B3Error> {
    let value = trim_ows(value);
    if let [state] = value {
        return sampling_state(&[*state]).map(Incoming::Decision);
    }
    // No split is lazy here: a fifth field must be an error, not left unread.
    let mut fields = value.split(|byte| *byte == b'-');
    let trace_id = trace_id(fields.next().unwrap_or_default())?;
    let span_id = fields.next().ok_or(B3Error::TooShort)?;
    let parent_id = SpanId::from_hex(span_id).map_err(B3Error::SpanId)?;
    let decision = fields.next().map_or(Ok(ParentDecision::Deferred), sampling_state)?;
    if let Some(parent) = fields.next() {
        SpanId::from_hex(parent).map_err(B3Error::ParentSpanId)?;
    }
    if fields.next().is_some() {
        return Err(B3Error::Trailing);
    }
    Ok(context(trace_id, parent_id, decision))
}

/// Reads the headers `x-b3-*`.
pub(super) fn parse_multi(headers: Multi<'_>) -> Result<Incoming, B3Error> {
    let mut decision = match headers.sampled.map(trim_ows) {
        None => ParentDecision::Deferred,
        Some(b"0" | b"false") => ParentDecision::Drop,
        Some(b"1" | b"true") => ParentDecision::Sample,
        Some(_) => return Err(B3Error::Sampling),
    };
    // Debug implies an accept, whatever the other header says; no other flag is defined.
    if headers.flags.map(trim_ows) == Some(b"1") {
        decision = ParentDecision::Debug;
    }
    match (headers.trace_id, headers.span_id, decision) {
        (Some(trace), Some(span), _) => {
            let trace_id = trace_id(trim_ows(trace))?;
            let parent_id = SpanId::from_hex(trim_ows(span)).map_err(B3Error::SpanId)?;
            Ok(context(trace_id, parent_id, decision))
        }
        (Some(_), None, _) | (None, Some(_), _) => Err(B3Error::IdWithoutOther),
        (None, None, ParentDecision::Deferred) => Ok(Incoming::Absent),
        (None, None, _) => Ok(Incoming::Decision(decision)),
    }
}

/// The value of the header `b3` for `context`.
pub(super) fn write_single(context: &SpanContext, parent_id: Option<SpanId>) -> String {
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

/// The edits that leave `x-b3-*` saying what `context` says, and no more.
pub(super) fn write_multi(
    edits: &mut Vec<HeaderEdit>,
    standing: &Standing<'_>,
    context: &SpanContext,
    parent_id: Option<SpanId>,
) {
    edits.push(HeaderEdit::Set(X_B3_TRACEID, hex(&context.trace_id.to_bytes())));
    edits.push(HeaderEdit::Set(X_B3_SPANID, hex(&context.span_id.to_bytes())));
    if let Some(parent) = parent_id {
        edits.push(HeaderEdit::Set(X_B3_PARENTSPANID, hex(&parent.to_bytes())));
    } else if standing.parent_span_id {
        edits.push(HeaderEdit::Remove(X_B3_PARENTSPANID));
    }
    if context.debug {
        // Debug implies an accept; B3 asks not to send both.
        edits.push(HeaderEdit::Set(X_B3_FLAGS, "1".to_owned()));
        if standing.sampled.is_some() {
            edits.push(HeaderEdit::Remove(X_B3_SAMPLED));
        }
    } else {
        edits.push(HeaderEdit::Set(X_B3_SAMPLED, sampled(context).to_owned()));
        if standing.flags.is_some() {
            edits.push(HeaderEdit::Remove(X_B3_FLAGS));
        }
    }
}

impl fmt::Display for B3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdWithoutOther => f.write_str("one of trace id and span id without the other"),
            Self::ParentSpanId(error) => write!(f, "{error} as parent span id of b3"),
            Self::Sampling => f.write_str("unknown b3 sampling state"),
            Self::SpanId(error) => write!(f, "{error} as b3 span id"),
            Self::TooShort => f.write_str("b3 that ends after the trace id"),
            Self::TraceId(error) => write!(f, "{error} as b3 trace id"),
            Self::Trailing => f.write_str("text after the parent span id of b3"),
        }
    }
}

impl core::error::Error for B3Error {}

fn sampled(context: &SpanContext) -> &'static str {
    if context.flags.has(TraceFlags::SAMPLED) { "1" } else { "0" }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(32);
    push_hex(&mut out, bytes);
    out
}

fn context(trace_id: TraceId, parent_id: SpanId, decision: ParentDecision) -> Incoming {
    Incoming::Context(RemoteContext {
        trace_id,
        parent_id,
        decision,
        // B3 has no word for it.
        random: false,
        state: TraceState::default(),
    })
}

/// 128 bits, or 64 that are the low half.
fn trace_id(text: &[u8]) -> Result<TraceId, B3Error> {
    if text.len() != 16 {
        return TraceId::from_hex(text).map_err(B3Error::TraceId);
    }
    let mut bytes = [0; 16];
    if let Some(low) = bytes.last_chunk_mut::<8>() {
        *low = SpanId::from_hex(text).map_err(B3Error::TraceId)?.to_bytes();
    }
    TraceId::from_bytes(bytes).ok_or(B3Error::TraceId(IdError::AllZero))
}

fn sampling_state(text: &[u8]) -> Result<ParentDecision, B3Error> {
    match text {
        b"0" => Ok(ParentDecision::Drop),
        b"1" => Ok(ParentDecision::Sample),
        b"d" => Ok(ParentDecision::Debug),
        _ => Err(B3Error::Sampling),
    }
}

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
        assert_eq!(parse_multi(Multi { span_id: None, ..ids }), Err(B3Error::IdWithoutOther));
        for sampled in ["", "d", "TRUE", "01"] {
            let headers = Multi { sampled: Some(sampled.as_bytes()), flags: Some(b"1"), ..ids };
            assert_eq!(parse_multi(headers), Err(B3Error::Sampling), "{sampled:?}");
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
