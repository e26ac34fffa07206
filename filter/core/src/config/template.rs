//! Templates of paths, such as `/orders/{id}`.

/// Segments of one template at most.
const MAX_SEGMENTS: usize = 32;

/// A path with parameters, parsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    text: String,
    segments: Vec<Segment>,
}

/// What stands between two slashes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Segment {
    /// This text; empty at the end of a template with a trailing slash.
    Literal(String),
    /// One segment that is not empty: `{id}`.
    Parameter,
    /// All that is left, perhaps nothing: `{path...}`, at the end of a template only.
    Rest,
}

impl Template {
    /// Reads a template; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut segments = Vec::new();
        let mut rest = Some(text.strip_prefix('/')?);
        while let Some(text) = rest {
            let (segment, after) = match text.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (text, None),
            };
            let segment = segment_of(segment)?;
            if segment == Segment::Rest && after.is_some() || segments.len() == MAX_SEGMENTS {
                return None;
            }
            segments.push(segment);
            rest = after;
        }
        Some(Self { text: text.to_owned(), segments })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its segments in order; never none.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

fn segment_of(text: &str) -> Option<Segment> {
    let Some(name) = text.strip_prefix('{') else {
        return text.bytes().all(is_literal).then(|| Segment::Literal(text.to_owned()));
    };
    let name = name.strip_suffix('}')?;
    let (name, segment) = match name.strip_suffix("...") {
        Some(name) => (name, Segment::Rest),
        None => (name, Segment::Parameter),
    };
    let named = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    named.then_some(segment)
}

/// Printable ASCII; a star would look as if it meant something.
const fn is_literal(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~') && !matches!(byte, b'#' | b'*' | b'?' | b'{' | b'}')
}

/// What [`Template::parse`] reads, for the schema; it cannot say how many segments there may be.
pub(super) const TEMPLATE_PATTERN: &str = concat!(
    r"^(/([!-\u0022$-)+-.0->@-z|~]*|\{[A-Za-z0-9_-]+\}))*",
    r"/([!-\u0022$-)+-.0->@-z|~]*|\{[A-Za-z0-9_-]+(\.\.\.)?\})$"
);

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn segments() {
        use Segment::{Parameter, Rest};
        let literal = |text: &str| Segment::Literal(text.to_owned());
        for (text, expected) in [
            ("/", vec![literal("")]),
            ("/orders/{id}", vec![literal("orders"), Parameter]),
            ("/orders/{id}/", vec![literal("orders"), Parameter, literal("")]),
            ("/f/{a-b_1...}", vec![literal("f"), Rest]),
            ("/{a}//x:y", vec![Parameter, literal(""), literal("x:y")]),
            ("/caf%C3%A9", vec![literal("caf%C3%A9")]),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!((template.as_str(), template.segments()), (text, &*expected));
        }
    }

    #[test]
    fn what_is_none() {
        let long = "/a".repeat(MAX_SEGMENTS + 1);
        for text in [
            "",
            "orders",
            "/a?b",
            "/a#b",
            "/a b",
            "/é",
            "/a*",
            "/{}",
            "/{...}",
            "/{a",
            "/a}",
            "/x{a}",
            "/{a}x",
            "/{a...}/b",
            "/{a b}",
            "/{a}{b}",
            &long,
        ] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
        assert!(Template::parse(&"/a".repeat(MAX_SEGMENTS)).is_some());
    }
}
