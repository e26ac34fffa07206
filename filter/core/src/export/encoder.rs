//! From spans to the body of a request: which encoder, and what stands around it.

use super::{grpc, otlp, otlp_json, zipkin};
use crate::config::Protocol;
use crate::span::{Resource, Span};

/// An encoder with what it has encoded once for all spans.
#[derive(Debug)]
pub(super) enum Encoder {
    Grpc(otlp::Envelope),
    Otlp(otlp::Envelope),
    OtlpJson(otlp_json::Envelope),
    Zipkin(zipkin::Common),
}

impl Encoder {
    pub(super) fn new(protocol: Protocol, resource: &Resource) -> Self {
        match protocol {
            Protocol::OtlpGrpc => Self::Grpc(otlp::Envelope::new(resource)),
            Protocol::OtlpHttp => Self::Otlp(otlp::Envelope::new(resource)),
            Protocol::OtlpHttpJson => Self::OtlpJson(otlp_json::Envelope::new(resource)),
            Protocol::Zipkin => Self::Zipkin(zipkin::Common::new(resource)),
        }
    }

    /// Appends `span` as one more element of a batch.
    pub(super) fn append(&self, batch: &mut Vec<u8>, span: &Span) {
        match self {
            Self::Grpc(_) | Self::Otlp(_) => otlp::encode_span(batch, span),
            Self::OtlpJson(_) => otlp_json::encode_span(batch, span),
            Self::Zipkin(common) => common.encode_span(batch, span),
        }
    }

    /// The body of the request that carries a batch.
    pub(super) fn body(&self, batch: &[u8]) -> Vec<u8> {
        match self {
            Self::Grpc(envelope) => grpc::frame(&envelope.wrap(batch)),
            Self::Otlp(envelope) => envelope.wrap(batch),
            Self::OtlpJson(envelope) => envelope.wrap(batch),
            Self::Zipkin(_) => zipkin::Common::wrap(batch),
        }
    }

    /// Headers that say what the body is.
    pub(super) fn headers(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Grpc(_) => &[("content-type", "application/grpc"), ("te", "trailers")],
            Self::Otlp(_) => &[("content-type", "application/x-protobuf")],
            Self::OtlpJson(_) | Self::Zipkin(_) => &[("content-type", "application/json")],
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::samples;
    use super::*;

    #[test]
    fn each_protocol_has_its_body() {
        let body = |protocol| {
            let encoder = Encoder::new(protocol, &samples::resource());
            let mut batch = Vec::new();
            encoder.append(&mut batch, &samples::small());
            encoder.append(&mut batch, &samples::full());
            (encoder.headers(), encoder.body(&batch))
        };
        let (plain, otlp) = body(Protocol::OtlpHttp);
        assert_eq!(plain, [("content-type", "application/x-protobuf")]);
        let (headers, framed) = body(Protocol::OtlpGrpc);
        assert_eq!(headers, [("content-type", "application/grpc"), ("te", "trailers")]);
        assert_eq!(framed, grpc::frame(&otlp));
        for protocol in [Protocol::OtlpHttpJson, Protocol::Zipkin] {
            let (headers, json) = body(protocol);
            assert_eq!(headers, [("content-type", "application/json")]);
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json.is_array(), protocol == Protocol::Zipkin);
        }
    }
}
