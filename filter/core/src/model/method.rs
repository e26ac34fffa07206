//! Methods of HTTP as the conventions for spans know them.

/// RFC 9110, and PATCH of RFC 5789.
const METHODS: [&str; 9] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// The method, if it is one that the conventions know: clients make up any number of others.
pub(crate) fn known_method(method: &[u8]) -> Option<&'static str> {
    METHODS.into_iter().find(|known| known.as_bytes() == method)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(known_method(b"PATCH"), Some("PATCH"));
        for unknown in [&b"get"[..], b"GETS", b"", b"PURGE", b"\xff"] {
            assert_eq!(known_method(unknown), None);
        }
    }
}
