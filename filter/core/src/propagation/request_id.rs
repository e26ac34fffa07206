//! `x-request-id`, as far as it tells of tracing.

use crate::model::Headers;

/// Whether a native tracer of Envoy decides about a request: it leaves its trace status in the
/// version digit of an `x-request-id` that is a UUID, before any filter runs.
///
/// The sign is partial. It stands for requests that are sampled (9), forced by the operator (a)
/// or by the client (b); where the native tracer does not sample the digit is 4, as it is
/// without one. And the proxy may be one before this.
#[must_use]
pub fn native_tracer_decided(headers: &Headers) -> bool {
    headers.get("x-request-id").is_some_and(|id| {
        // The digit first: it is what most requests lack.
        matches!(id.get(14), Some(b'9' | b'a' | b'b')) && is_uuid(id)
    })
}

/// Whether `id` has the form of a UUID, of whatever version.
pub(crate) fn is_uuid(id: &[u8]) -> bool {
    id.len() == 36
        && id.iter().zip(0..).all(|(byte, at)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_trace_status_of_a_uuid() {
        for (id, expected) in [
            ("6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10", false),
            ("6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d10", true),
            ("6F9D2C1E-0C33-af7a-9a53-2f4f8f1c7d10", true),
            ("6f9d2c1e-0c33-bf7a-9a53-2f4f8f1c7d10", true),
            ("6f9d2c1e-0c33-7f7a-9a53-2f4f8f1c7d10", false),
            ("6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d1", false),
            ("6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d10a", false),
            ("6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7dx0", false),
            ("6f9d2c1e0c339f7a-9a53-2f4f8f1c7d10----", false),
            ("6f9d2c1e00c3309f7a09a5302f4f8f1c7d10", false),
            ("", false),
        ] {
            let headers: Headers = [("x-request-id", id)].into_iter().collect();
            assert_eq!(native_tracer_decided(&headers), expected, "{id}");
        }
        assert!(!native_tracer_decided(&Headers::default()));
    }
}
