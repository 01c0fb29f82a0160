//! The URLs in answers of Exec, Attach and PortForward.

use std::net::SocketAddr;

use super::tokens::Tokens;
use super::{Error, Request};

/// Issues URLs and resolves them to their requests.
pub struct Urls {
    tokens: Tokens,
    base: String,
    prefix: String,
}

impl Urls {
    /// Issues URLs below `base` or, if there is none, below the listening address. A client's
    /// `Host` header is never used, since it could direct others elsewhere.
    pub fn new(base: Option<&url::Url>, address: SocketAddr) -> Self {
        let (base, prefix) = match base {
            Some(base) => (base.as_str().trim_end_matches('/').to_owned(), base.path().to_owned()),
            None => (format!("http://{address}"), String::new()),
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { tokens: Tokens::default(), base, prefix }
    }

    /// A URL for one connection within the next minute.
    ///
    /// # Errors
    /// [`Error::TooManyInFlight`].
    pub fn issue(&self, request: Request) -> Result<String, Error> {
        let path = request.path();
        Ok(format!("{}/{path}/{}", self.base, self.tokens.issue(request)?))
    }

    /// The request of the URL with this path. Its token is used up, even if the path does not match
    /// the request. A proxy may have removed the path of the base URL.
    pub(super) fn redeem(&self, path: &str) -> Option<Request> {
        let path = path.strip_prefix(&self.prefix).unwrap_or(path);
        let (operation, token) = path.strip_prefix('/')?.split_once('/')?;
        let request = self.tokens.redeem(token)?;
        (request.path() == operation).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PodId;
    use crate::stream::PortForward;

    fn urls(base: Option<&str>) -> Urls {
        let base = base.map(|base| url::Url::parse(base).expect("a URL"));
        Urls::new(base.as_ref(), "127.0.0.1:4242".parse().expect("an address"))
    }

    fn request() -> Request {
        Request::PortForward(PortForward { pod: PodId::random(), ports: vec![80] })
    }

    #[test]
    fn a_url_leads_back_to_its_request() {
        for (base, start) in [
            (None, "http://127.0.0.1:4242/portforward/"),
            (Some("https://node.example:10010"), "https://node.example:10010/portforward/"),
            (Some("https://proxy/pods/"), "https://proxy/pods/portforward/"),
        ] {
            let (urls, request) = (urls(base), request());
            let url = urls.issue(request.clone()).expect("a URL");
            assert!(url.starts_with(start), "{url}");
            let parsed = url::Url::parse(&url).expect("a URL");
            assert_eq!(urls.redeem(parsed.path()), Some(request));
        }
        let (urls, request) = (urls(Some("https://proxy/pods")), request());
        let url = urls.issue(request.clone()).expect("a URL");
        let cut = url.strip_prefix("https://proxy/pods").expect("the base");
        assert_eq!(urls.redeem(cut), Some(request), "a proxy that cuts the prefix off");
    }

    #[test]
    fn a_token_opens_nothing_but_its_own_operation() {
        let urls = urls(None);
        let url = urls.issue(request()).expect("a URL");
        let token = url.rsplit('/').next().expect("a token");
        for path in ["", "/", "/portforward", "/portforward/", "portforward/x", "//"] {
            assert_eq!(urls.redeem(path), None, "{path}");
        }
        assert_eq!(urls.redeem(&format!("/exec/{token}")), None);
        assert_eq!(urls.redeem(&format!("/portforward/{token}")), None, "a wrong use is a use");
    }
}
