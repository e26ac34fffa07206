//! What rules compare: read when the first rule asks, once for a request.

use core::cell::OnceCell;
use std::borrow::Cow;

use crate::config::{Match, StringMatcher};
use crate::model::Headers;

/// The facts of one request.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    headers: &'a Headers,
    host: OnceCell<Option<Cow<'a, [u8]>>>,
    method: OnceCell<Option<&'a [u8]>>,
    path: OnceCell<Option<&'a [u8]>>,
}

impl<'a> Facts<'a> {
    pub(super) const fn new(headers: &'a Headers) -> Self {
        Self { headers, host: OnceCell::new(), method: OnceCell::new(), path: OnceCell::new() }
    }

    /// Whether all that `matches` asks for holds.
    pub(super) fn fit(&self, matches: &Match) -> bool {
        fits(matches.method.as_ref(), || self.method())
            && fits(matches.path.as_ref(), || self.path())
            && fits(matches.host.as_ref(), || self.host())
            && matches.headers.iter().all(|(name, matcher)| self.header_fits(name, matcher))
    }

    fn method(&self) -> Option<&[u8]> {
        *self.method.get_or_init(|| self.headers.get(":method"))
    }

    fn path(&self) -> Option<&[u8]> {
        let read = || self.headers.get(":path").map(without_query);
        *self.path.get_or_init(read)
    }

    fn host(&self) -> Option<&[u8]> {
        let read = || {
            let host = without_port(self.headers.get(":authority")?);
            // Allocates for the rare client that writes capitals only.
            Some(if host.iter().any(u8::is_ascii_uppercase) {
                Cow::Owned(host.to_ascii_lowercase())
            } else {
                Cow::Borrowed(host)
            })
        };
        self.host.get_or_init(read).as_deref()
    }

    fn header_fits(&self, name: &str, matcher: &StringMatcher) -> bool {
        let mut values = self.headers.get_all(name);
        let first = values.next();
        let Some(second) = values.next() else { return matcher.matches(first) };
        // RFC 9110, section 5.3: several lines are one list.
        let mut joined = first.unwrap_or_default().to_vec();
        for value in core::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        matcher.matches(Some(&joined))
    }
}

fn fits<'v>(matcher: Option<&StringMatcher>, value: impl Fn() -> Option<&'v [u8]>) -> bool {
    matcher.is_none_or(|matcher| matcher.matches(value()))
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|&b| matches!(b, b'?' | b'#')).next().unwrap_or(path)
}

/// `authority` without a port; an IPv6 address keeps its brackets.
fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = authority.iter().rposition(|&b| b == b':') else { return authority };
    let Some((host, port)) = authority.split_at_checked(colon) else { return authority };
    let digits = port.iter().skip(1).all(u8::is_ascii_digit);
    let whole = !host.contains(&b':') || (host.starts_with(b"[") && host.ends_with(b"]"));
    if digits && whole { host } else { authority }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;

    #[track_caller]
    fn check(matches: &str, headers: &[(&str, &[u8])], expected: bool) {
        let json = format!(r#"{{"sampling": {{"rules": [{{"name": "r", "match": {matches}}}]}}}}"#);
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap();
        let rule = config.sampling.rules.first().unwrap();
        let headers: Headers = headers.iter().copied().collect();
        assert_eq!(Facts::new(&headers).fit(&rule.matches), expected, "{matches}");
    }

    #[test]
    fn ports_and_queries_go() {
        for (authority, host) in [
            ("shop", "shop"),
            ("shop:80", "shop"),
            ("shop:", "shop"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("shop:http", "shop:http"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(without_port(authority.as_bytes()), host.as_bytes(), "{authority}");
        }
        assert_eq!(without_query(b"/a?b?c"), b"/a");
        assert_eq!(without_query(b"/a#b?c"), b"/a");
        assert_eq!(without_query(b"?"), b"");
        assert_eq!(without_query(b""), b"");
    }

    #[test]
    fn all_given_fields_must_hold() {
        let request: &[(&str, &[u8])] = &[
            (":method", b"POST"),
            (":path", b"/orders/7/pay?now"),
            (":authority", b"Shop.Example:8080"),
            ("x-team", b"a"),
            ("x-team", b"b"),
            ("x-raw", b"\xff"),
        ];
        for (matches, expected) in [
            ("{}", true),
            (r#"{"method": "POST"}"#, true),
            (r#"{"method": "post"}"#, false),
            (r#"{"path": "/orders/7/pay"}"#, true),
            (r#"{"path": {"suffix": "now"}}"#, false),
            (r#"{"path": {"glob": "/orders/*/pay"}, "method": ["GET", "POST"]}"#, true),
            (r#"{"path": {"glob": "/orders/*/pay"}, "method": "GET"}"#, false),
            (r#"{"host": "SHOP.example"}"#, true),
            (r#"{"host": {"regex": "[A-Z]+\\.example"}}"#, true),
            (r#"{"host": {"suffix": "8080"}}"#, false),
            (r#"{"headers": {"x-team": "a,b"}}"#, true),
            (r#"{"headers": {"x-team": "a"}}"#, false),
            (r#"{"headers": {"x-raw": {"present": true}, "x-none": {"present": false}}}"#, true),
            (r#"{"headers": {"x-raw": {"present": false}}}"#, false),
            (r#"{"headers": {"x-none": {"prefix": "a"}}}"#, false),
        ] {
            check(matches, request, expected);
        }
    }

    #[test]
    fn requests_without_facts_match_nothing_but_absence() {
        check(r#"{"host": {"glob": "**"}}"#, &[], false);
        check(r#"{"path": {"present": false}}"#, &[], true);
        check("{}", &[], true);
    }
}
