//! Paths to the templates that they match, by a trie of segments: a lookup costs what the path is
//! long, however many templates there are.
//!
//! From the left, a literal segment wins over a parameter, a parameter over the rest of a path.
//! A slash at the end matters only where a template tells with and without it apart.

use std::collections::BTreeMap;

use crate::config::{Segment, Template};

/// Templates, merged by what they have in common.
#[derive(Clone, Debug, Default)]
pub struct Routes(Node);

#[derive(Clone, Debug, Default)]
struct Node {
    literals: BTreeMap<Vec<u8>, Self>,
    parameter: Option<Box<Self>>,
    /// The template that takes whatever follows.
    rest: Option<String>,
    /// The template that ends here.
    end: Option<String>,
}

impl Routes {
    /// A trie of `templates`; of two that match the same paths the first holds.
    #[must_use]
    pub fn new(templates: &[Template]) -> Self {
        let mut root = Node::default();
        for template in templates {
            root.insert(template.segments(), template.as_str());
        }
        Self(root)
    }

    /// The template of `path`, which has no query.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<&str> {
        self.0.find(Some(path.strip_prefix(b"/")?))
    }
}

impl Node {
    fn insert(&mut self, segments: &[Segment], text: &str) {
        let Some((segment, after)) = segments.split_first() else {
            self.end.get_or_insert_with(|| text.to_owned());
            return;
        };
        match segment {
            Segment::Literal(literal) => {
                self.literals.entry(literal.as_bytes().to_vec()).or_default().insert(after, text);
            }
            Segment::Parameter => self.parameter.get_or_insert_default().insert(after, text),
            Segment::Rest => {
                self.rest.get_or_insert_with(|| text.to_owned());
            }
        }
    }

    /// The best template for `path`, what follows a slash; `None` where no slash is left.
    /// It goes no deeper than the longest template.
    fn find(&self, path: Option<&[u8]>) -> Option<&str> {
        let Some(path) = path else { return self.end.as_deref() };
        let mut parts = path.splitn(2, |byte| *byte == b'/');
        let segment = parts.next().unwrap_or_default();
        let after = parts.next();
        let parameter = self.parameter.as_deref().filter(|_| !segment.is_empty());
        // The slash at the end, of which no template made a difference.
        let end = self.end.as_deref().filter(|_| segment.is_empty() && after.is_none());
        self.literals
            .get(segment)
            .and_then(|node| node.find(after))
            .or_else(|| parameter.and_then(|node| node.find(after)))
            .or(self.rest.as_deref())
            .or(end)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn routes(templates: &[&str]) -> Routes {
        let templates: Vec<_> =
            templates.iter().map(|text| Template::parse(text).unwrap()).collect();
        Routes::new(&templates)
    }

    #[test]
    fn the_most_specific_template() {
        let routes = routes(&[
            "/",
            "/{any}",
            "/orders",
            "/orders/{id}",
            "/orders/new",
            "/orders/{id}/items/{item}",
            "/orders/new/items",
            "/files/{path...}",
            "/files/index",
            "/a/{x}/c",
            "/{y}/b/d",
            "/slash/",
            "/both",
            "/both/",
            "/x//y",
        ]);
        for (path, expected) in [
            ("/", Some("/")),
            ("/7", Some("/{any}")),
            ("/orders", Some("/orders")),
            ("/orders/", Some("/orders")),
            ("/orders/7", Some("/orders/{id}")),
            ("/orders/7/", Some("/orders/{id}")),
            ("/orders/7//", None),
            ("/orders/new", Some("/orders/new")),
            ("/orders/NEW", Some("/orders/{id}")),
            // What begins with a literal may turn out to need the parameter.
            ("/orders/new/items", Some("/orders/new/items")),
            ("/orders/new/items/3", Some("/orders/{id}/items/{item}")),
            ("/orders/7/items", None),
            ("/orders/7/items/", None),
            ("/orders/%2F/items/x;y=1", Some("/orders/{id}/items/{item}")),
            ("/a/b/c", Some("/a/{x}/c")),
            ("/a/b/d", Some("/{y}/b/d")),
            ("/files", Some("/{any}")),
            ("/files/", Some("/files/{path...}")),
            ("/files/index", Some("/files/index")),
            ("/files/index/a", Some("/files/{path...}")),
            ("/files/a/b//c/", Some("/files/{path...}")),
            ("/slash", Some("/{any}")),
            ("/slash/", Some("/slash/")),
            ("/both", Some("/both")),
            ("/both/", Some("/both/")),
            ("/x//y", Some("/x//y")),
            ("/x/z/y", None),
            ("//", Some("/")),
            ("", None),
            ("*", None),
            ("orders/7", None),
        ] {
            assert_eq!(routes.find(path.as_bytes()), expected, "{path}");
        }
        assert_eq!(Routes::default().find(b"/"), None);
    }

    #[test]
    fn the_first_of_equals_and_long_paths() {
        let routes = routes(&["/a/{x}", "/a/{y}"]);
        assert_eq!(routes.find(b"/a/1"), Some("/a/{x}"));
        assert_eq!(routes.find("/a".repeat(100_000).as_bytes()), None);
    }
}
