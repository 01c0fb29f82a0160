//! Static pod manifests from a URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Url};
use rustls::ClientConfig;
use url::Host;

use crate::image::common_verifier;

/// Longest manifest, in bytes.
const LONGEST: usize = 10 << 20;
/// Time limit of a response, and of a pause in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The URL and how to request it.
pub(super) struct Address {
    client: Client,
    url: Url,
    name: PathBuf,
}

impl Address {
    pub fn new(url: Url, headers: HeaderMap) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("create an HTTP client: {error}");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = common_verifier(Arc::clone(&provider)).map_err(|error| failed(&error))?;
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // Redirects are not followed: the headers may be secrets, and what is fetched is run.
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("podbay/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        // Other programs use no proxy for this host either.
        let client = if is_here(&url) { client.no_proxy() } else { client };
        let client = client.build().map_err(|error| failed(&error.without_url()))?;
        // The name is shown, so parts that may be secret are removed.
        let mut shown = url.clone();
        shown.set_query(None);
        let _ = shown.set_password(None);
        let _ = shown.set_username("");
        Ok(Self { client, url, name: PathBuf::from(shown.as_str()) })
    }

    /// Its name in faults and in the pods that come from it.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Fetches the text.
    pub async fn fetch(&self) -> Result<Vec<u8>, String> {
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("fetch it: {error}{}", cause.unwrap_or_default())
        };
        let mut answer = self.client.get(self.url.clone()).send().await.map_err(failed)?;
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!("fetch it: the server returned {status}"));
        }
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            if text.len() + piece.len() > LONGEST {
                return Err(format!("it has more than the {LONGEST} bytes allowed"));
            }
            text.extend_from_slice(&piece);
        }
        Ok(text)
    }
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
