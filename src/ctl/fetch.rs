//! Manifests from a URL, `-f https://...`.

use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

use super::error::Error;
use crate::telemetry::error_chain;

/// Time limit of a response.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a file name is a URL.
pub fn is_address(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// The text at a URL, of at most `most` bytes.
pub async fn fetch(address: &str, most: u64) -> Result<String, Error> {
    let failed = |error: reqwest::Error| {
        Error::Failed(format!("read {address}: {}", error_chain(&error.without_url())))
    };
    let mut answer = client()?.get(address).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(Error::Failed(format!(
            "read {address}: the server returned {}",
            answer.status()
        )));
    }
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        text.extend_from_slice(&piece);
        if text.len() as u64 > most {
            return Err(Error::Misuse(format!("{address}: larger than allowed")));
        }
    }
    String::from_utf8(text).map_err(|_| Error::Misuse(format!("{address}: not valid UTF-8")))
}

fn client() -> Result<reqwest::Client, Error> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let failed =
        |error: &dyn std::fmt::Display| Error::Failed(format!("create an HTTP client: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("podbay/", env!("CARGO_PKG_VERSION")))
        .timeout(PATIENCE)
        .build()
        .map_err(|error| failed(&error))
}
