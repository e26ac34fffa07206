//! `tracestate` (Trace Context Level 2, section 3.3).

/// A valid list of members, kept as the text that goes on; may be empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TraceState(String);

impl TraceState {
    /// The header value; empty when there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
