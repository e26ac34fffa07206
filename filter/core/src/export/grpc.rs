//! gRPC over HTTP/2 by hand: one message each way, and what a status means for a batch.
//!
//! Envoy has a callout for gRPC, but it keeps the trailers to itself, and only they tell whether
//! an exhausted collector may be asked again. So the request is an HTTP callout that is gRPC.

use core::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use prost::Message;

use super::Answer;
use crate::model::GRPC_STATUSES;

/// The flag and the length before a message.
const PREFIX: usize = 5;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a status asks for (OTLP's specification, "Failures" of OTLP/gRPC).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asks {
    /// Nothing: all is well.
    Nothing,
    /// To be asked again, after this time at least.
    Again(Option<Duration>),
    /// Not to be asked again.
    Never,
}

/// A message in its frame, `packed` or not.
pub(super) fn frame(message: &[u8], packed: bool) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len().saturating_add(PREFIX));
    framed.push(u8::from(packed));
    // A batch is bounded far below.
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The message in a frame; empty where there is none, or one that we did not allow for.
pub(super) fn message(body: &[u8]) -> &[u8] {
    match body.split_first_chunk::<PREFIX>() {
        Some(([0, a, b, c, d], rest)) => {
            let length =
                usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
            rest.get(..length).unwrap_or_default()
        }
        _ => b"",
    }
}

/// The status code; `None` where the answer has none, so that it is not gRPC.
pub(super) fn code(answer: &Answer<'_>) -> Option<u32> {
    str::from_utf8(answer.grpc_status?).ok()?.parse().ok()
}

/// The name of a code.
pub(super) fn name(code: u32) -> &'static str {
    usize::try_from(code)
        .ok()
        .and_then(|code| GRPC_STATUSES.get(code))
        .copied()
        .unwrap_or("no known code")
}

/// What a code asks for; `details` are the bytes of `grpc-status-details-bin`.
pub(super) fn asks(code: u32, details: Option<&[u8]>) -> Asks {
    let delay = details.and_then(retry_delay);
    match code {
        0 => Asks::Nothing,
        // RESOURCE_EXHAUSTED: only where the collector says that it may recover.
        8 if delay.is_none() => Asks::Never,
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        1 | 4 | 8 | 10 | 11 | 14 | 15 => Asks::Again(delay),
        _ => Asks::Never,
    }
}

/// The pause in a `google.rpc.RetryInfo` among the details of a `google.rpc.Status`.
fn retry_delay(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(&*BASE64.decode(details).ok()?).ok()?;
    let is_retry_info = |any: &&Any| any.type_url.ends_with(b"/google.rpc.RetryInfo");
    let info = status.details.iter().find(is_retry_info)?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay.unwrap_or_default();
    Some(Duration::try_from(delay).unwrap_or_default())
}

/// `google.rpc.Status`, of which only the details are read.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, Message)]
struct Any {
    #[prost(bytes = "vec", tag = "1")]
    type_url: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::propagation::percent_decode;

    fn details(seconds: i64, nanos: i32, padded: bool) -> Vec<u8> {
        let retry_delay = Some(prost_types::Duration { seconds, nanos });
        let other = Any { type_url: b"type.googleapis.com/google.rpc.Help".into(), value: vec![1] };
        let info = Any {
            type_url: b"type.googleapis.com/google.rpc.RetryInfo".into(),
            value: RetryInfo { retry_delay }.encode_to_vec(),
        };
        let status = RpcStatus { details: vec![other, info] }.encode_to_vec();
        let text = BASE64.encode(status);
        if padded { text.into() } else { text.trim_end_matches('=').into() }
    }

    #[test]
    fn frames() {
        assert_eq!(frame(b"abc", false), b"\x00\x00\x00\x00\x03abc");
        assert_eq!(frame(b"", true), b"\x01\x00\x00\x00\x00");
        for (body, expected) in [
            (&b"\x00\x00\x00\x00\x03abc"[..], &b"abc"[..]),
            (b"\x00\x00\x00\x00\x02abc", b"ab"),
            (b"\x00\x00\x00\x00\x00", b""),
            // Cut off, compressed, nothing, not gRPC.
            (b"\x00\x00\x00\x00\x04abc", b""),
            (b"\x01\x00\x00\x00\x03abc", b""),
            (b"\x00\xff\xff\xff\xff", b""),
            (b"\x00\x00", b""),
            (b"", b""),
            (b"<html>", b""),
        ] {
            assert_eq!(message(body), expected, "{body:?}");
        }
    }

    #[test]
    fn codes() {
        for (status, expected) in [
            (Some(&b"0"[..]), Some(0)),
            (Some(b"16"), Some(16)),
            (Some(b"4294967296"), None),
            (Some(b"-1"), None),
            (Some(b"x"), None),
            (Some(b"\xff"), None),
            (Some(b""), None),
            (None, None),
        ] {
            assert_eq!(code(&Answer { grpc_status: status, ..Answer::default() }), expected);
        }
        assert_eq!(
            [0, 8, 16, 17].map(name),
            ["OK", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "no known code"]
        );
    }

    #[test]
    fn what_may_be_asked_again() {
        let pause = Duration::from_millis(2_500);
        let info = details(2, 500_000_000, true);
        for code in 0..20 {
            let retryable = matches!(code, 1 | 4 | 10 | 11 | 14 | 15);
            let (plain, told) = match code {
                0 => (Asks::Nothing, Asks::Nothing),
                8 => (Asks::Never, Asks::Again(Some(pause))),
                _ if retryable => (Asks::Again(None), Asks::Again(Some(pause))),
                _ => (Asks::Never, Asks::Never),
            };
            assert_eq!(asks(code, None), plain, "{code}");
            assert_eq!(asks(code, Some(&info)), told, "{code}");
        }
    }

    #[test]
    fn pauses() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(retry_delay(&details(3, 0, true)), seconds(3));
        assert_eq!(retry_delay(&details(3, 0, false)), seconds(3));
        assert_eq!(retry_delay(&details(-3, 0, true)), seconds(0));
        let long = retry_delay(&details(i64::MAX, i32::MAX, true));
        assert!(long >= seconds(i64::MAX.unsigned_abs()), "{long:?}");
        for nothing in [&b""[..], b"!", b"AAAA", b"\xff\xff", b"GgA="] {
            assert_eq!(retry_delay(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn messages() {
        for (message, expected) in [
            ("no healthy upstream", "no healthy upstream"),
            ("a%20b%C3%A9", "a bé"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%+1", "%+1"),
            ("%é", "%é"),
        ] {
            assert_eq!(percent_decode(message.as_bytes()), expected.as_bytes());
        }
    }
}
