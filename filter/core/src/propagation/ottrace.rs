//! OpenTracing's `ot-tracer-*`, as its basic tracers and OpenTelemetry's propagators for them
//! write it.
//!
//! Its baggage in `ot-baggage-*` is in `baggage.rs`.

use super::edits::Edits;
use super::ids;
use super::standing::{Name, Standing};
use super::text::{hex, trim_ows};
use super::{Incoming, Malformed, Outgoing, ParentDecision, RemoteContext, TraceState};
use crate::model::TraceFlags;

pub(super) const HEADERS: &[Name] =
    &[Name::OtTracerTraceId, Name::OtTracerSpanId, Name::OtTracerSampled];

pub(super) fn extract(standing: &Standing<'_>) -> Result<Incoming, Malformed> {
    let trace_id = standing.field(Name::OtTracerTraceId).once()?.map(trim_ows);
    let span_id = standing.field(Name::OtTracerSpanId).once()?.map(trim_ows);
    let decision = decision(standing.field(Name::OtTracerSampled).once()?.map(trim_ows))?;
    let (trace_id, span_id) = match (trace_id, span_id) {
        // Unlike B3 this format has no state without ids.
        (None, None) => return Ok(Incoming::Absent),
        (Some(trace_id), Some(span_id)) => (trace_id, span_id),
        _ => return Err(Malformed::Field("one of trace id and span id without the other")),
    };
    Ok(Incoming::Context(RemoteContext {
        trace_id: ids::trace_id_of_any_length(trace_id)
            .map_err(|error| Malformed::Id(error, "ot-tracer-traceid"))?,
        parent_id: Some(
            ids::span_id_of_any_length(span_id)
                .map_err(|error| Malformed::Id(error, "ot-tracer-spanid"))?,
        ),
        decision,
        // OpenTracing has no word for it.
        random: false,
        state: TraceState::default(),
    }))
}

/// Writes the three headers; none goes on where the 64 bits that they carry of the trace id are
/// zero, as such an id is invalid.
pub(super) fn inject(edits: &mut Edits<'_>, outgoing: &Outgoing<'_>) {
    let context = outgoing.context;
    let trace_id = context.trace_id.low();
    if trace_id == 0 {
        HEADERS.iter().for_each(|name| edits.remove(*name));
        return;
    }
    edits.set(Name::OtTracerTraceId, hex(&trace_id.to_be_bytes()));
    edits.set(Name::OtTracerSpanId, hex(&context.span_id.to_bytes()));
    let sampled = if context.flags.has(TraceFlags::SAMPLED) { "true" } else { "false" };
    edits.set(Name::OtTracerSampled, sampled.to_owned());
}

/// `true` and `false` are the format; some of OpenTelemetry's propagators wrote a bit.
fn decision(sampled: Option<&[u8]>) -> Result<ParentDecision, Malformed> {
    match sampled {
        None | Some(b"") => Ok(ParentDecision::Deferred),
        Some(b"0" | b"false") => Ok(ParentDecision::Drop),
        Some(b"1" | b"true") => Ok(ParentDecision::Sample),
        Some(_) => Err(Malformed::Field("unknown value of ot-tracer-sampled")),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::Headers;

    #[test]
    fn errors_say_what_and_where() {
        const LONE: &str = "one of trace id and span id without the other";
        const TWICE: &str = "a header that stands twice";
        for (headers, message) in [
            (&[("ot-tracer-traceid", "1")][..], LONE),
            (&[("ot-tracer-spanid", "1"), ("ot-tracer-sampled", "1")], LONE),
            (
                &[("ot-tracer-traceid", ""), ("ot-tracer-spanid", "1")],
                "id of the wrong length as ot-tracer-traceid",
            ),
            (
                &[("ot-tracer-traceid", "1"), ("ot-tracer-spanid", "0")],
                "all-zero id as ot-tracer-spanid",
            ),
            (&[("ot-tracer-sampled", "yes")], "unknown value of ot-tracer-sampled"),
            (&[("ot-tracer-traceid", "1"), ("ot-tracer-traceid", "1")], TWICE),
            (&[("ot-tracer-spanid", "1"), ("ot-tracer-spanid", "1")], TWICE),
            (&[("ot-tracer-sampled", "1"), ("ot-tracer-sampled", "1")], TWICE),
        ] {
            let headers: Headers = headers.iter().copied().collect();
            let error = extract(&Standing::of(&headers)).unwrap_err();
            assert_eq!(error.to_string(), message, "{headers:?}");
        }
    }
}
