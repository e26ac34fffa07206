//! String matchers, compiled once.

/// Stub, owned by the configuration helper.
#[derive(Clone, Debug)]
pub struct StringMatcher;
