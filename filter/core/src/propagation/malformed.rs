//! Why a header is not what its format asks for.

use core::fmt;

use crate::model::IdError;

/// What is wrong, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Malformed {
    /// The whole of it in words.
    Field(&'static str),
    /// An id, with the field that it stands in.
    Id(IdError, &'static str),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(message) => f.write_str(message),
            Self::Id(error, field) => write!(f, "{error} as {field}"),
        }
    }
}

impl core::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn says_what_and_where() {
        assert_eq!(
            Malformed::Id(IdError::AllZero, "trace-id of traceparent").to_string(),
            "all-zero id as trace-id of traceparent"
        );
        assert_eq!(Malformed::Field("unknown state").to_string(), "unknown state");
    }
}
