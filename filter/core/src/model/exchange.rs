//! The seam: what the core reads from a request, and what it wants changed.

use std::borrow::Cow;

use super::Headers;

/// One HTTP request and its response, as the host shows them at this moment.
///
/// Everything may be absent: callbacks may not have run, other proxies know fewer properties.
pub trait Exchange {
    /// All request headers, pseudo headers included.
    fn request_headers(&self) -> Headers;
    /// A property by its path, in the host's encoding: strings raw, integers, timestamps and
    /// durations 8 bytes little endian, booleans one byte, messages serialized protobuf.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// The first value of a header of the response, or else of a trailer; `None` also before there
    /// is a response.
    fn response_header(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    /// Whether an expression holds that the host has compiled under this name; `None` if the host
    /// cannot say.
    fn evaluate(&self, expression: u32) -> Option<bool> {
        let _ = expression;
        None
    }

    /// A property that is UTF-8 text; an empty one is absent.
    fn text(&self, path: &[&str]) -> Option<String> {
        self.property(path)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|s| !s.is_empty())
    }

    /// A property that is an integer, a timestamp or a duration.
    fn integer(&self, path: &[&str]) -> Option<i64> {
        let bytes = self.property(path)?;
        Some(i64::from_le_bytes(bytes.as_slice().try_into().ok()?))
    }
}

/// A change to the headers of a request or of its response. Names are in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HeaderEdit {
    /// One more header of this name goes on.
    Add(Cow<'static, str>, String),
    /// No header of this name goes on.
    Remove(Cow<'static, str>),
    /// Exactly one header of this name goes on, with this value.
    Set(Cow<'static, str>, String),
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    struct Property(&'static [u8]);

    impl Exchange for Property {
        fn request_headers(&self) -> Headers {
            Headers::default()
        }
        fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
            Some(self.0.to_vec())
        }
    }

    #[test]
    fn host_encodings() {
        assert_eq!(Property(b"x").text(&["a"]), Some("x".to_owned()));
        assert_eq!(Property(b"").text(&["a"]), None);
        assert_eq!(Property(b"\xff").text(&["a"]), None);
        assert_eq!(Property(&[2, 0, 0, 0, 0, 0, 0, 0]).integer(&["a"]), Some(2));
        assert_eq!(Property(&[2, 0, 0, 0]).integer(&["a"]), None);
    }
}
