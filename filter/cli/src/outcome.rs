//! How a request ended, by the properties in which the host would tell of it.

use std::time::Duration;

use meshweft_core::model::{GRPC_STATUSES, ResponseFlags};

/// A property of the host.
pub(crate) type Property = (String, Vec<u8>);

fn number(path: &str, value: i64) -> Property {
    (path.to_owned(), value.to_le_bytes().to_vec())
}

/// The status that the client was sent.
pub(crate) fn status(code: u16) -> Property {
    number("response.code", code.into())
}

/// How long it took.
pub(crate) fn took(duration: Duration) -> Property {
    number("request.duration", i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

/// The gRPC status.
pub(crate) fn grpc_status(code: i64) -> Property {
    number("response.grpc_status", code)
}

/// Envoy's flags.
pub(crate) fn response_flags(flags: ResponseFlags) -> Property {
    number("response.flags", flags.bits().cast_signed())
}

/// The gRPC status of this name or number.
pub(crate) fn grpc_code(text: &str) -> Option<i64> {
    let known = GRPC_STATUSES.iter().position(|name| *name == text);
    known.and_then(|code| i64::try_from(code).ok()).or_else(|| text.parse().ok())
}

/// The flags of these letters, which stand between commas; `None` if one is unknown.
pub(crate) fn flags(text: &str) -> Option<ResponseFlags> {
    let known = |letters: &str| !ResponseFlags::from_letters([letters]).is_empty();
    text.split(',').all(known).then(|| ResponseFlags::from_letters(text.split(',')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_statuses_by_name_or_number() {
        for (text, code) in
            [("OK", Some(0)), ("UNAVAILABLE", Some(14)), ("14", Some(14)), ("Unavailable", None)]
        {
            assert_eq!(grpc_code(text), code, "{text}");
        }
    }

    #[test]
    fn flags_by_letters() {
        assert_eq!(flags("URX,UF").map(ResponseFlags::letters), Some("UF,URX".to_owned()));
        assert_eq!(flags("UF,XX"), None);
        assert_eq!(flags(""), None);
    }
}
