//! Certificates for a test, and Envoy's sockets with them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Version;

/// The host for which every certificate is.
pub const HOST: &str = "app.test";

/// Keys and certificates, each of its own issue; gone when dropped.
#[derive(Debug)]
pub struct Certificates(TempDir);

impl Certificates {
    /// One for each of these names, whose identity is `spiffe://lab/NAME`.
    ///
    /// # Panics
    /// If openssl does not make them.
    #[must_use]
    pub fn of(names: &[&str]) -> Self {
        let all = Self(tempfile::tempdir().expect("a folder"));
        for name in names {
            let output = Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
                .args(["-addext", &format!("subjectAltName=URI:spiffe://lab/{name},DNS:{HOST}")])
                .arg("-keyout")
                .arg(all.key(name))
                .arg("-out")
                .arg(all.chain(name))
                .output()
                .expect("openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        all
    }

    /// The file of a certificate.
    #[must_use]
    pub fn chain(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.crt"))
    }

    /// The file of its key.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.key"))
    }

    /// A socket towards callers with the certificate of `own`, for those with that of `other`.
    #[must_use]
    pub fn downstream(&self, own: &str, other: &str) -> Value {
        let mut context = self.context("DownstreamTlsContext", Some(own), other);
        context["require_client_certificate"] = json!(true);
        socket(&context)
    }

    /// A socket towards [`HOST`] with the certificate of `own`, if any, where that of `other` is
    /// met, for this version of HTTP.
    #[must_use]
    pub fn upstream(&self, own: Option<&str>, other: &str, version: Version) -> Value {
        let mut context = self.context("UpstreamTlsContext", own, other);
        if version == Version::H2 {
            context["common_tls_context"]["alpn_protocols"] = json!(["h2"]);
        }
        context["sni"] = json!(HOST);
        socket(&context)
    }

    fn context(&self, kind: &str, own: Option<&str>, other: &str) -> Value {
        let certificate = |name: &str| {
            json!({
                "certificate_chain": {"filename": self.chain(name)},
                "private_key": {"filename": self.key(name)},
            })
        };
        json!({
            "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
            "common_tls_context": {
                "tls_certificates": own.map(certificate).as_slice(),
                "validation_context": {"trusted_ca": {"filename": self.chain(other)}},
            },
        })
    }
}

fn socket(context: &Value) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}
