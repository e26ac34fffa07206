//! What is recorded of URLs: no user information, no fragment, of the query what the configuration
//! says.

use std::borrow::Cow;

use super::authority::Authority;
use crate::config::{Query, Spans};
use crate::propagation::percent_decode;

/// What takes the place of a credential's value (semantic conventions, `url.query`).
const REDACTED: &str = "REDACTED";

/// What is recorded of URLs.
#[derive(Clone, Debug)]
pub(super) struct Urls {
    query: Query,
    config: Spans,
}

impl Urls {
    pub(super) fn new(config: &Spans) -> Self {
        Self { query: config.query.clone(), config: config.clone() }
    }

    /// Path and query of a request's target.
    pub(super) fn split(target: &str) -> (&str, Option<&str>) {
        let target = target.split('#').next().unwrap_or_default();
        target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)))
    }

    /// What is recorded of `query`; `None` if that is nothing.
    pub(super) fn query(&self, query: &str) -> Option<String> {
        // Some servers divide at semicolons.
        let parameters = query.split(['&', ';']);
        let kept: Vec<Cow<'_, str>> = match &self.query {
            Query::Drop => return None,
            Query::Allow(names) => parameters
                .filter(|parameter| names.iter().any(|name| *name == decoded(name_of(parameter))))
                .map(Cow::Borrowed)
                .collect(),
            Query::Keep => parameters.map(|parameter| self.without_credential(parameter)).collect(),
        };
        Some(kept.join("&")).filter(|kept| !kept.is_empty())
    }

    fn without_credential<'q>(&self, parameter: &'q str) -> Cow<'q, str> {
        let name = name_of(parameter);
        if name.len() == parameter.len() || self.config.may_record(&decoded(name)) {
            return Cow::Borrowed(parameter);
        }
        Cow::Owned(format!("{name}={REDACTED}"))
    }

    /// What is recorded of a URL, or of a part of one from its path on.
    pub(super) fn url(&self, url: &str) -> String {
        let (whole, query) = Self::split(url);
        let mut kept = match whole.split_once("//") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                let (authority, path) =
                    rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or_default();
                format!("{scheme}//{}{path}", Authority::split(authority).text)
            }
            _ => whole.to_owned(),
        };
        if let Some(query) = query.and_then(|query| self.query(query)) {
            kept.push('?');
            kept.push_str(&query);
        }
        kept
    }
}

/// The name of a parameter, as it stands.
fn name_of(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or_default()
}

/// `text` as a form means it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(String::from_utf8_lossy(&percent_decode(spaced.as_bytes())).into_owned())
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;

    fn urls(spans: &str) -> Urls {
        let config = format!(r#"{{"spans": {spans}}}"#);
        Urls::new(&Config::parse(config.as_bytes(), &|_| None).unwrap().spans)
    }

    #[test]
    fn queries() {
        let keep = r#"{"query": "keep"}"#;
        let allow = r#"{"query": {"allow": ["page", "a b"]}}"#;
        let unsafe_key = r#"{"query": {"allow": ["key"]}, "unsafe_names": ["key"]}"#;
        let keep_key = r#"{"query": "keep", "unsafe_names": ["key"]}"#;
        for (spans, query, expected) in [
            ("{}", "a=1", None),
            (r#"{"query": "drop"}"#, "a=1", None),
            (keep, "a=1&b=2", Some("a=1&b=2")),
            (keep, "a=1&Token=x&b", Some("a=1&Token=REDACTED&b")),
            (keep, "%74oken=x", Some("%74oken=REDACTED")),
            (keep, "to%6Ben=x&a%zz=1", Some("to%6Ben=REDACTED&a%zz=1")),
            (keep, "a=1;sig=x=y", Some("a=1&sig=REDACTED")),
            (keep, "sig=", Some("sig=REDACTED")),
            (keep, "", None),
            (keep_key, "key=x&code=y", Some("key=x&code=REDACTED")),
            (allow, "page=2&q=x&page=3", Some("page=2&page=3")),
            (allow, "a+b=1&a%20b=2&A+b=3", Some("a+b=1&a%20b=2")),
            (allow, "q=x;page=1;token=y", Some("page=1")),
            (allow, "q=page", None),
            (unsafe_key, "key=x&page=1", Some("key=x")),
        ] {
            assert_eq!(urls(spans).query(query).as_deref(), expected, "{spans} {query}");
        }
    }

    #[test]
    fn whole_urls_and_parts() {
        let urls = urls(r#"{"query": {"allow": ["a"]}}"#);
        for (url, expected) in [
            ("https://u:p@shop.example:81/x?a=1&token=y#z", "https://shop.example:81/x?a=1"),
            ("//u:p@shop/x", "//shop/x"),
            ("https://u:p@shop?token=y", "https://shop"),
            ("/x//y@z?b=1", "/x//y@z"),
            ("/x#?a=1", "/x"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(urls.url(url), expected, "{url}");
        }
    }
}
