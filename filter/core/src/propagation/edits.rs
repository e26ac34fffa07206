//! The changes that formats make, beside what stands.

use std::collections::BTreeSet;

use super::standing::{Name, Standing};
use crate::model::HeaderEdit;

/// Changes in the making. Nothing is removed that does not stand.
#[derive(Debug)]
pub(super) struct Edits<'a> {
    pub(super) standing: &'a Standing<'a>,
    list: Vec<HeaderEdit>,
}

impl<'a> Edits<'a> {
    pub(super) fn new(standing: &'a Standing<'a>) -> Self {
        Self { standing, list: Vec::new() }
    }

    /// Exactly one header `name` goes on.
    pub(super) fn set(&mut self, name: Name, value: String) {
        self.list.push(HeaderEdit::Set(name.text().into(), value));
    }

    /// No header `name` goes on.
    pub(super) fn remove(&mut self, name: Name) {
        if self.standing.has(name) {
            self.list.push(HeaderEdit::Remove(name.text().into()));
        }
    }

    /// Exactly one header of this name goes on.
    pub(super) fn set_keyed(&mut self, name: String, value: String) {
        self.list.push(HeaderEdit::Set(name.into(), value));
    }

    /// No header goes on whose name begins with `prefix`.
    pub(super) fn remove_keyed(&mut self, prefix: &'static str) {
        self.remove_keyed_if(prefix, |_| true);
    }

    /// No header goes on whose name begins with `prefix` and ends with a key that `goes`.
    pub(super) fn remove_keyed_if(&mut self, prefix: &'static str, goes: impl Fn(&[u8]) -> bool) {
        let goes = |name: &&[u8]| goes(name.get(prefix.len()..).unwrap_or_default());
        let mut names = BTreeSet::new();
        names.extend(self.standing.keyed(prefix).map(|(name, _)| name).filter(goes));
        // Names are tokens (RFC 9110, section 5.1), which the host has seen to.
        let names = names.into_iter().filter_map(|name| core::str::from_utf8(name).ok());
        self.list.extend(names.map(|name| HeaderEdit::Remove(name.to_owned().into())));
    }

    pub(super) fn into_list(self) -> Vec<HeaderEdit> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::model::Headers;
    use crate::propagation::standing::UBERCTX;

    #[test]
    fn what_does_not_stand_is_not_removed() {
        let headers: Headers =
            [("b3", ""), ("uberctx-a", ""), ("uberctx-a", ""), ("ot-baggage-a", "")]
                .into_iter()
                .collect();
        let standing = Standing::of(&headers);
        let mut edits = Edits::new(&standing);
        edits.remove(Name::Sw8);
        edits.remove(Name::B3);
        edits.remove_keyed(UBERCTX);
        edits.set(Name::Sw8, "x".to_owned());
        edits.set_keyed("uberctx-b".to_owned(), "y".to_owned());
        assert_eq!(
            edits.into_list(),
            [
                HeaderEdit::Remove("b3".into()),
                HeaderEdit::Remove("uberctx-a".into()),
                HeaderEdit::Set("sw8".into(), "x".to_owned()),
                HeaderEdit::Set("uberctx-b".into(), "y".to_owned()),
            ]
        );
    }
}
