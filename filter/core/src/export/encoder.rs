//! From spans to the body of a request: which encoder, and what stands around it.

use core::time::Duration;

use super::gzip::gzip;
use super::{grpc, otlp, otlp_json, zipkin};
use crate::config::{Compression, Protocol};
use crate::span::{Resource, Span};

/// An encoder, and how its bodies are packed.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    compression: Compression,
}

/// What a protocol makes of spans, with what is encoded once for all of them.
#[derive(Debug)]
enum Format {
    Grpc(otlp::Envelope),
    Otlp(otlp::Envelope),
    OtlpJson(otlp_json::Envelope),
    Zipkin(zipkin::Common),
}

impl Encoder {
    pub(super) fn new(protocol: Protocol, compression: Compression, resource: &Resource) -> Self {
        let format = match protocol {
            Protocol::OtlpGrpc => Format::Grpc(otlp::Envelope::new(resource)),
            Protocol::OtlpHttp => Format::Otlp(otlp::Envelope::new(resource)),
            Protocol::OtlpHttpJson => Format::OtlpJson(otlp_json::Envelope::new(resource)),
            Protocol::Zipkin => Format::Zipkin(zipkin::Common::new(resource)),
        };
        Self { format, compression }
    }

    /// Appends `span` as one more element of a batch.
    pub(super) fn append(&self, batch: &mut Vec<u8>, span: &Span) {
        match &self.format {
            Format::Grpc(_) | Format::Otlp(_) => otlp::encode_span(batch, span),
            Format::OtlpJson(_) => otlp_json::encode_span(batch, span),
            Format::Zipkin(common) => common.encode_span(batch, span),
        }
    }

    /// The body of the request that carries a batch.
    pub(super) fn body(&self, batch: &[u8]) -> Vec<u8> {
        let plain = match &self.format {
            Format::Grpc(envelope) | Format::Otlp(envelope) => envelope.wrap(batch),
            Format::OtlpJson(envelope) => envelope.wrap(batch),
            Format::Zipkin(_) => zipkin::Common::wrap(batch),
        };
        let packed = match self.compression {
            Compression::None => plain,
            Compression::Gzip => gzip(&plain),
        };
        match self.format {
            // In gRPC the message is packed, and the frame says so.
            Format::Grpc(_) => grpc::frame(&packed, self.compression == Compression::Gzip),
            Format::Otlp(_) | Format::OtlpJson(_) | Format::Zipkin(_) => packed,
        }
    }

    /// Headers that say what the body is, and how long an answer may take where the protocol
    /// tells that.
    pub(super) fn headers(&self, timeout: Duration) -> Vec<(&'static str, String)> {
        let (is_grpc, content_type) = match self.format {
            Format::Grpc(_) => (true, "application/grpc"),
            Format::Otlp(_) => (false, "application/x-protobuf"),
            Format::OtlpJson(_) | Format::Zipkin(_) => (false, "application/json"),
        };
        let mut headers = vec![("content-type", content_type.to_owned())];
        if is_grpc {
            headers.push(("te", "trailers".to_owned()));
            headers.push(("grpc-timeout", format!("{}m", timeout.as_millis())));
        }
        if self.compression == Compression::Gzip {
            let name = if is_grpc { "grpc-encoding" } else { "content-encoding" };
            headers.push((name, "gzip".to_owned()));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::samples;
    use super::*;

    fn request(protocol: Protocol, compression: Compression) -> (String, Vec<u8>) {
        let encoder = Encoder::new(protocol, compression, &samples::resource());
        let mut batch = Vec::new();
        encoder.append(&mut batch, &samples::small());
        encoder.append(&mut batch, &samples::full());
        let headers = encoder.headers(Duration::from_secs(5));
        let headers = headers.iter().map(|(name, value)| format!("{name}: {value}"));
        (headers.collect::<Vec<_>>().join(", "), encoder.body(&batch))
    }

    #[test]
    fn each_protocol_has_its_body() {
        let (headers, otlp) = request(Protocol::OtlpHttp, Compression::None);
        assert_eq!(headers, "content-type: application/x-protobuf");
        let (headers, framed) = request(Protocol::OtlpGrpc, Compression::None);
        assert_eq!(headers, "content-type: application/grpc, te: trailers, grpc-timeout: 5000m");
        assert_eq!(framed, grpc::frame(&otlp, false));
        for protocol in [Protocol::OtlpHttpJson, Protocol::Zipkin] {
            let (headers, json) = request(protocol, Compression::None);
            assert_eq!(headers, "content-type: application/json");
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json.is_array(), protocol == Protocol::Zipkin);
        }
    }

    #[test]
    fn what_is_packed_holds_the_same() {
        for (protocol, said, frame) in [
            (Protocol::OtlpHttp, "content-encoding: gzip", 0),
            (Protocol::OtlpHttpJson, "content-encoding: gzip", 0),
            (Protocol::Zipkin, "content-encoding: gzip", 0),
            (Protocol::OtlpGrpc, "grpc-encoding: gzip", 5),
        ] {
            let (headers, packed) = request(protocol, Compression::Gzip);
            assert!(headers.ends_with(said), "{headers}");
            let (head, stream) = packed.split_at(frame);
            if let [flag, length @ ..] = head {
                let length: [u8; 4] = length.try_into().unwrap();
                let expected = u32::try_from(stream.len()).unwrap();
                assert_eq!((*flag, u32::from_be_bytes(length)), (1, expected));
            }
            let mut out = Vec::new();
            flate2::bufread::GzDecoder::new(stream).read_to_end(&mut out).unwrap();
            let (_, plain) = request(protocol, Compression::None);
            assert!(Some(&*out) == plain.get(frame..), "{protocol:?}");
        }
    }
}
