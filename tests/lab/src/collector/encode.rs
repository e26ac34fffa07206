//! The answer to an export that is taken, in its protocol.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;

use super::decode::Speaks;
use super::{Body, Reply, answer};

/// The success, or what the reply has in place of it.
pub(super) fn success(speaks: Speaks, reply: &Reply) -> Response<Body> {
    if let Some(garbage) = reply.garbage {
        return answer(speaks.success(), &reply.headers, Full::new(garbage.into()));
    }
    let partial_success = (reply.rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: reply.rejected,
        error_message: "the lab says so".to_owned(),
    });
    let message = ExportTraceServiceResponse { partial_success };
    let mut headers = reply.headers.clone();
    let mut typed = |value: &str| headers.push(("content-type".to_owned(), value.to_owned()));
    match speaks {
        Speaks::Grpc => {
            typed("application/grpc");
            grpc(reply, &headers, &message)
        }
        Speaks::Json => {
            typed("application/json");
            let body = serde_json::to_vec(&message).unwrap_or_default();
            answer(200, &headers, Full::new(body.into()))
        }
        Speaks::Protobuf => {
            typed("application/x-protobuf");
            answer(200, &headers, Full::new(message.encode_to_vec().into()))
        }
        Speaks::Zipkin => answer(202, &headers, Full::new(Bytes::new())),
    }
}

/// A message and the trailers behind it; without a message they are headers, as servers do it.
fn grpc(
    reply: &Reply,
    headers: &[(String, String)],
    message: &ExportTraceServiceResponse,
) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(reply.grpc_status));
    if reply.grpc_status != 0 {
        trailers.insert("grpc-message", HeaderValue::from_static("the lab says%20so"));
    }
    if let Some(seconds) = reply.grpc_pause {
        let details = retry_info(reply.grpc_status, seconds);
        let details = HeaderValue::try_from(STANDARD_NO_PAD.encode(details));
        trailers.insert("grpc-status-details-bin", details.expect("base64"));
    }
    if reply.grpc_status != 0 {
        let mut response = answer(200, headers, Full::new(Bytes::new()));
        response.headers_mut().extend(trailers);
        return response;
    }
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
    framed.extend(message);
    let body = Full::new(Bytes::from(framed)).with_trailers(async move { Some(Ok(trailers)) });
    answer(200, headers, body)
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`.
fn retry_info(code: u32, seconds: i64) -> Vec<u8> {
    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(uint32, tag = "1")]
        code: u32,
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<prost_types::Duration>,
    }
    let retry_delay = Some(prost_types::Duration { seconds, nanos: 0 });
    let info = prost_types::Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: RetryInfo { retry_delay }.encode_to_vec(),
    };
    Status { code, details: vec![info] }.encode_to_vec()
}
