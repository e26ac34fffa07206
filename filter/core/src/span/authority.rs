//! The authority of a request (RFC 3986, section 3.2), without what must not be recorded.

/// Host and port of an authority; user information is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Authority<'a> {
    /// As it stands; an IPv6 address without its brackets.
    pub(super) host: &'a str,
    /// Where one is given.
    pub(super) port: Option<u16>,
    /// Host and port as they stand, for a URL.
    pub(super) text: &'a str,
}

impl<'a> Authority<'a> {
    /// Splits `text`; what is not a port stays with the host.
    pub(super) fn split(text: &'a str) -> Self {
        let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                // `parse` alone would take a sign.
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                match port.parse() {
                    Ok(port) if digits => (host, Some(port)),
                    _ => (text, None),
                }
            }
            _ => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Self { host, port, text }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn parts() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("example.com:8080", "example.com", Some(8080)),
            ("user:secret@example.com:80", "example.com", Some(80)),
            ("[::1]:443", "::1", Some(443)),
            ("[::1]", "::1", None),
            ("::1", "::1", None),
            ("10.0.0.1:70000", "10.0.0.1:70000", None),
            ("a@b@c", "c", None),
            ("a:+80", "a:+80", None),
            ("", "", None),
        ] {
            let authority = Authority::split(text);
            assert_eq!((authority.host, authority.port), (host, port), "{text}");
        }
        assert_eq!(Authority::split("u:p@h:1").text, "h:1");
    }
}
