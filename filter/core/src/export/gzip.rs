//! Compression, at the cheapest level: spans repeat their keys, so that the dearer ones gain little.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// `bytes` as one gzip stream; equal bytes give equal streams.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Nothing can fail that writes to memory.
    encoder.write_all(bytes).and_then(|()| encoder.finish()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::bufread::GzDecoder;
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::otlp;
    use super::super::samples;
    use super::*;

    #[test]
    fn comes_back_and_is_the_same_each_time() {
        let noise: Vec<u8> =
            (0..100_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for bytes in [&b""[..], b"a", &[b'x'; 300_000], &noise] {
            let packed = gzip(bytes);
            assert_eq!(packed, gzip(bytes));
            let mut decoder = GzDecoder::new(&*packed);
            let mut out = Vec::new();
            decoder.read_to_end(&mut out).unwrap();
            assert!(out == bytes && decoder.into_inner().is_empty());
            // What cannot be made smaller does not grow by much.
            assert!(packed.len() < bytes.len() + bytes.len() / 500 + 64, "{}", packed.len());
        }
    }

    #[test]
    fn spans_take_a_fraction() {
        let mut batch = Vec::new();
        for id in 1..=512_u64 {
            let mut span = samples::usual();
            span.span_id = crate::model::SpanId::from_bytes(
                id.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
            )
            .unwrap();
            otlp::encode_span(&mut batch, &span);
        }
        let share = gzip(&batch).len() * 100 / batch.len();
        assert!(share <= 20, "{share} %");
    }
}
