//! What an inbound request and the calls it causes have in common: the value of a header.

use core::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::model::Headers;
use crate::model::slots::SlotId;
use crate::propagation::is_uuid;

/// Bytes of a value at most: what is longer is no id.
const MAX_LENGTH: usize = 256;
/// The digit in which Envoy's native tracer leaves its trace status, on one side or on both.
const TRACE_STATUS: usize = 14;

/// Why a header is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoKey {
    /// It is not there.
    Absent,
    /// It has no value.
    Empty,
    /// Its value is longer than an id is.
    Long,
    /// It stands there more than once: nobody can say which one the application forwards.
    Several,
}

/// The value by which a request can be joined, of the header `name`.
///
/// # Errors
/// Says why there is none.
pub fn key_value<'h>(name: &str, headers: &'h Headers) -> Result<&'h [u8], NoKey> {
    let mut values = headers.get_all(name);
    let value = values.next().ok_or(NoKey::Absent)?;
    match value.len() {
        _ if values.next().is_some() => Err(NoKey::Several),
        0 => Err(NoKey::Empty),
        1..=MAX_LENGTH => Ok(value),
        _ => Err(NoKey::Long),
    }
}

/// The key in the header `name`.
pub(super) fn key(name: &str, headers: &Headers) -> Option<SlotId> {
    let value = key_value(name, headers).ok()?;
    let mut hasher = SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.write_u8(0);
    match value.split_at_checked(TRACE_STATUS) {
        Some((head, [_, tail @ ..])) if is_uuid(value) => {
            hasher.write(head);
            // No header value has a zero.
            hasher.write_u8(0);
            hasher.write(tail);
        }
        _ => hasher.write(value),
    }
    Some(hasher.finish128().as_bytes())
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn of(values: &[&str]) -> Option<SlotId> {
        let headers: Headers = values.iter().map(|value| ("x-request-id", *value)).collect();
        key("x-request-id", &headers)
    }

    #[test]
    fn values_of_one_header_are_told_apart() {
        let values = ["a", "b", "A", "a ", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10"];
        for (index, value) in values.iter().enumerate() {
            for (other, with) in values.iter().enumerate() {
                assert_eq!(of(&[value]) == of(&[with]), index == other, "{value:?} {with:?}");
            }
        }
        let headers: Headers = [("x-request-id", "a"), ("x-trace", "a")].into_iter().collect();
        assert_ne!(key("x-request-id", &headers), key("x-trace", &headers));
    }

    #[test]
    fn the_trace_status_of_a_uuid_does_not_count() {
        let ids =
            ["4", "9", "a", "b"].map(|digit| format!("6f9d2c1e-0c33-{digit}f7a-9a53-2f4f8f1c7d10"));
        for id in &ids {
            assert_eq!(of(&[id]), of(&[&ids[0]]), "{id}");
        }
        // What is no UUID has no such digit, and is not taken for one without it.
        for (id, other) in [
            ("6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d1", "6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d1"),
            ("6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d1x", "6f9d2c1e-0c33-9f7a-9a53-2f4f8f1c7d1x"),
            ("6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10", "6f9d2c1e-0c33-f7a-9a53-2f4f8f1c7d10"),
            ("6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d10", "6f9d2c1e-0c33-4f7a-9a53-2f4f8f1c7d11"),
        ] {
            assert_ne!(of(&[id]), of(&[other]), "{id} {other}");
        }
    }

    #[test]
    fn what_is_no_id_is_no_key() {
        let long = "x".repeat(MAX_LENGTH);
        assert!(of(&[&long]).is_some());
        let longer = format!("{long}x");
        for (values, why) in [
            (&[longer.as_str()][..], NoKey::Long),
            (&[""], NoKey::Empty),
            (&[], NoKey::Absent),
            (&["a", "b"], NoKey::Several),
            (&["a", "a"], NoKey::Several),
            (&["", ""], NoKey::Several),
        ] {
            let headers: Headers = values.iter().map(|value| ("x-request-id", *value)).collect();
            assert_eq!(key_value("x-request-id", &headers), Err(why));
            assert_eq!(of(values), None);
        }
    }
}
