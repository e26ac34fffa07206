//! What makes a request a gRPC request (gRPC over HTTP2), and the names of gRPC's statuses.

/// The names of the statuses by their codes (gRPC, "Status codes and their use in gRPC").
pub const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Whether a request with this `content-type` is a gRPC request; gRPC-Web is another protocol.
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// Service and method of a gRPC path without a query, `/{service}/{method}`.
pub(crate) fn grpc_method(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let names = path.strip_prefix(b"/")?;
    let slash = names.iter().rposition(|&b| b == b'/')?;
    let (service, method) = names.split_at_checked(slash)?;
    let method = method.strip_prefix(b"/")?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn content_types() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
        }
    }

    #[test]
    fn methods() {
        for (path, expected) in [
            ("/shop.v1.Cart/Add", Some(("shop.v1.Cart", "Add"))),
            ("/a/b/c", Some(("a/b", "c"))),
            ("//b", None),
            ("/a/", None),
            ("/a", None),
            ("a/b", None),
            ("", None),
        ] {
            let expected = expected.map(|(a, b): (&str, &str)| (a.as_bytes(), b.as_bytes()));
            assert_eq!(grpc_method(path.as_bytes()), expected, "{path}");
        }
    }
}
