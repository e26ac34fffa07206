//! What a caller is told with the response.

use super::{SpanContext, tracecontext};
use crate::config::ResponseHeader;
use crate::model::HeaderEdit;

/// The edits of a response's headers that tell its caller of `context`, also where the span is
/// not sampled: the flags say so.
///
/// `traceresponse` (W3C) and a header of an own name have one value, that of the proxy which is
/// nearest to the caller. `server-timing` is a list to which an application may have added, and
/// gets one more entry. CORS headers are left alone: which of these a page of another origin may
/// read is for the application to say.
#[must_use]
pub fn respond(headers: &[ResponseHeader], context: &SpanContext) -> Vec<HeaderEdit> {
    let traceparent = || tracecontext::write(context);
    let edit = |header: &ResponseHeader| match header {
        ResponseHeader::Id(name) => {
            HeaderEdit::Set(name.clone().into(), context.trace_id.to_string())
        }
        ResponseHeader::ServerTiming => HeaderEdit::Add(
            "server-timing".into(),
            format!("traceparent;desc=\"{}\"", traceparent()),
        ),
        ResponseHeader::TraceResponse => HeaderEdit::Set("traceresponse".into(), traceparent()),
    };
    headers.iter().map(edit).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::{SpanId, TraceFlags, TraceId};
    use crate::propagation::TraceState;

    #[test]
    fn each_header() {
        let mut context = SpanContext {
            trace_id: TraceId::from_hex(b"0af7651916cd43dd8448eb211c80319c").unwrap(),
            span_id: SpanId::from_hex(b"00000000000000cd").unwrap(),
            flags: TraceFlags::SAMPLED.with(TraceFlags::RANDOM),
            debug: false,
            state: TraceState::parse([&b"a=1"[..]]).unwrap(),
        };
        let all = [
            ResponseHeader::TraceResponse,
            ResponseHeader::ServerTiming,
            ResponseHeader::Id("x-trace-id".to_owned()),
        ];
        let set = |name: &'static str, value: &str| HeaderEdit::Set(name.into(), value.to_owned());
        assert_eq!(
            respond(&all, &context),
            [
                set("traceresponse", "00-0af7651916cd43dd8448eb211c80319c-00000000000000cd-03"),
                HeaderEdit::Add(
                    "server-timing".into(),
                    "traceparent;desc=\"00-0af7651916cd43dd8448eb211c80319c-00000000000000cd-03\""
                        .to_owned()
                ),
                set("x-trace-id", "0af7651916cd43dd8448eb211c80319c"),
            ]
        );
        context.flags = TraceFlags::RANDOM;
        assert_eq!(
            respond(&[ResponseHeader::TraceResponse], &context),
            [set("traceresponse", "00-0af7651916cd43dd8448eb211c80319c-00000000000000cd-02")]
        );
        assert_eq!(respond(&[], &context), []);
    }
}
