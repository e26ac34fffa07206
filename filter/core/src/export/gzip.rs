//! Compression, at the cheapest level: spans repeat their keys, so that the dearer ones gain little.

use miniz_oxide::deflate::compress_to_vec;

/// The level of the deflate stream.
const LEVEL: u8 = 1;

/// What comes before it (RFC 1952, section 2.3): the magic number, deflate, no flags, no time, the
/// fastest level, an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// `bytes` as one gzip stream; equal bytes give equal streams.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Modulo 2^32, as the format has it.
    let [a, b, c, d, ..] = (bytes.len() as u64).to_le_bytes();
    let packed = compress_to_vec(bytes, LEVEL);
    [&HEAD[..], &packed, &crc(bytes).to_le_bytes(), &[a, b, c, d]].concat()
}

/// CRC-32 (RFC 1952, section 8).
fn crc(bytes: &[u8]) -> u32 {
    let rest = bytes.iter().fold(!0_u32, |rest, byte| {
        let [low, ..] = rest.to_le_bytes();
        let remainder = REMAINDERS.get(usize::from(low ^ byte));
        rest >> 8 ^ remainder.copied().unwrap_or_default()
    });
    !rest
}

/// What each byte leaves of a division by the polynomial.
#[expect(clippy::indexing_slicing, reason = "done by the compiler, which refuses to panic")]
const REMAINDERS: [u32; 256] = {
    let mut remainders = [0; 256];
    let mut byte = 0;
    while byte < 256_u32 {
        let mut rest = byte;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        remainders[byte as usize] = rest;
        byte += 1;
    }
    remainders
};

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
