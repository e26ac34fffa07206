//! What spans look like.

use core::time::Duration;

use super::{Pattern, Scalar, Template};

/// What spans look like.
#[derive(Clone, Debug)]
pub struct Spans {
    /// Templates of paths, of which no two match the same.
    pub routes: Vec<Template>,
    /// Attributes beside those that every span has; no name twice.
    pub attributes: Vec<SpanAttribute>,
    /// What is recorded of a query.
    pub query: Query,
    /// What texts are rid of, in this order.
    pub redact: Vec<Redaction>,
    /// Credential-like names, in lower case, whose values may be recorded nevertheless.
    pub unsafe_names: Vec<String>,
    /// Facts that cost calls to the host.
    pub facts: Vec<Fact>,
    /// A stream that is open for so long is told of before it ends.
    pub open_after: Option<Duration>,
    /// Longer string values are cut to this many bytes, at a character boundary.
    pub max_value_length: usize,
}

/// What is recorded of a query.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Query {
    /// Parameters of these names.
    Allow(Vec<String>),
    /// Nothing.
    #[default]
    Drop,
    /// All but the values of credential-like names.
    Keep,
}

/// Facts about an exchange that cost calls to the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fact {
    /// Bytes of the bodies.
    Sizes,
    /// How long parts of it took.
    Timing,
    /// The connection's TLS and the peer's identity.
    Tls,
}

/// What a text is rid of.
#[derive(Clone, Debug)]
pub struct Redaction {
    /// What goes.
    pub pattern: Pattern,
    /// What takes its place.
    pub with: String,
}

/// An attribute of the configuration.
#[derive(Clone, Debug)]
pub struct SpanAttribute {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub source: AttributeSource,
    /// The part of the text that counts; without a match there is no attribute.
    pub pattern: Option<Pattern>,
    /// What the value becomes; absent: what it is.
    pub r#as: Option<AttributeType>,
}

/// Where the value of an attribute comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeSource {
    /// Metadata of Envoy: steps of a property, the last ones within the metadata's own struct.
    Metadata(Vec<String>),
    /// One of Envoy's attributes, by its steps.
    Property(Vec<String>),
    /// A header of the request, all its values.
    RequestHeader(String),
    /// A header of the response, or else a trailer.
    ResponseHeader(String),
    /// The value itself.
    Value(Scalar),
}

/// What a value becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttributeType {
    /// `true` or `false`.
    Bool,
    /// A number.
    Double,
    /// A whole number.
    Int,
    /// Text.
    String,
}

/// The kinds of metadata that Envoy has, and the properties under which it shows them.
pub(super) const METADATA: [(&str, &[&str]); 4] = [
    ("request", &["metadata"]),
    ("route", &["xds", "route_metadata"]),
    ("cluster", &["xds", "cluster_metadata"]),
    ("host", &["xds", "upstream_host_metadata"]),
];

impl Spans {
    /// Whether the value of a header or parameter called `name` may be recorded, if asked for.
    #[must_use]
    pub fn may_record(&self, name: &str) -> bool {
        may_record(name, &self.unsafe_names)
    }
}

/// The same of `unsafe_names` alone.
pub(super) fn may_record(name: &str, unsafe_names: &[String]) -> bool {
    !is_credential(name) || unsafe_names.contains(&name.to_ascii_lowercase())
}

/// Parts of names, without case and punctuation, that tell a credential.
const PARTS: [&str; 29] = [
    "accesskey",
    "accountkey",
    "apikey",
    "assertion",
    "authcode",
    "authenticat",
    "authkey",
    "authorization",
    "cookie",
    "credential",
    "customerkey",
    "encryptionkey",
    "functionskey",
    "hmac",
    "jwt",
    "licensekey",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "sessid",
    "session",
    "signature",
    "subscriptionkey",
    "token",
    "totp",
    "verifier",
];

/// Words of names that tell one, where nothing else stands beside them but punctuation.
const WORDS: [&str; 16] = [
    "auth",
    "bearer",
    "cred",
    "creds",
    "mfa",
    "nonce",
    "otp",
    "pass",
    "pin",
    "psk",
    "pw",
    "pwd",
    "samlresponse",
    "sid",
    "sig",
    "ticket",
];

/// Whole names that tell one: of keys of API and codes of OAuth.
const NAMES: [&str; 4] = ["access", "code", "key", "x-key"];

/// Whether a header, a query parameter or the like of this name carries what lets its bearer in,
/// as far as names tell; rather too often than too seldom.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let compact: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    NAMES.contains(&&*name)
        || PARTS.iter().any(|part| compact.contains(part))
        || words.any(|word| WORDS.contains(&word))
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn credentials_by_their_names() {
        for name in [
            "authorization",
            "Proxy-Authorization",
            "www-authenticate",
            "proxy-authenticate",
            "authentication-info",
            "cookie",
            "Set-Cookie",
            "x-api-key",
            "API_KEY",
            "apikey",
            "x-auth-token",
            "x-csrf-token",
            "x-xsrf-token",
            "x-amz-security-token",
            "x-goog-iap-jwt-assertion",
            "x-amz-signature",
            "x-goog-signature",
            "AWSAccessKeyId",
            "X-Amz-Credential",
            "access_token",
            "id_token",
            "client_secret",
            "client_assertion",
            "code",
            "key",
            "sig",
            "sid",
            "auth",
            "x-auth",
            "pwd",
            "user.password",
            "PHPSESSID",
            "sessid",
            "jsessionid",
            "authkey",
            "authcode",
            "code_verifier",
            "oauth_verifier",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "x-license-key",
            "x-amz-server-side-encryption-customer-key",
            "x-goog-encryption-key",
            "x-hub-hmac",
            "passcode",
            "totp",
            "pw",
            "psk",
            "mfa_code",
            "ticket",
            "creds",
            "session",
            "SAMLResponse",
            "one-time-otp",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in [
            "x-request-id",
            ":authority",
            "author",
            "x-tenant-id",
            "user-agent",
            "idempotency-key",
            "sec-websocket-key",
            "page",
            "q",
            "country_code",
            "status-code",
            "accept",
            "passenger",
            "content-type",
            "design",
            "",
        ] {
            assert!(!is_credential(name), "{name}");
        }
        let names = ["x-api-key".to_owned()];
        assert!(may_record("X-Api-Key", &names) && may_record("page", &[]));
        assert!(!may_record("x-api-keys", &names));
    }
}
