//! The layer that lets calls in, and writes down changes and denials.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::table::{self, Row};
use super::{Caller, Grant, Policy, Role, Subject};

/// Calls of these services are looked at on the unix socket; the CRI has its own rules.
const OURS: &str = "/podbay.v1.";

/// Puts [`Auth`] before a service.
#[derive(Clone)]
pub(crate) struct AuthLayer(Door);

/// Where calls come in.
#[derive(Clone)]
enum Door {
    /// The unix socket: its mode says who may connect.
    Local,
    /// The network: the certificate and the policy say who may do what.
    Remote(watch::Receiver<Arc<Policy>>),
}

impl AuthLayer {
    /// For the unix socket: everybody there is an admin.
    pub(crate) fn local() -> Self {
        Self(Door::Local)
    }

    /// For connections with certificates, by the policy as it is at each call.
    pub(crate) fn remote(policy: watch::Receiver<Arc<Policy>>) -> Self {
        Self(Door::Remote(policy))
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, door: self.0.clone() }
    }
}

/// The service that every call passes.
#[derive(Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    door: Door,
}

impl<S> Service<Request<Body>> for Auth<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if matches!(self.door, Door::Local) && !path.starts_with(OURS) {
            return Box::pin(self.inner.call(request));
        }
        let row = table::row(path);
        let (caller, decided) = self.door.decide(&request, row);
        let mut audit = Audit { caller, rpc: path.to_owned(), subject: None };
        let (row, grant) = match decided {
            Ok(allowed) => allowed,
            Err(refused) => {
                audit.denied(refused.message());
                return Box::pin(async move { Ok(refused.into_http()) });
            }
        };
        request.extensions_mut().insert(grant);
        let change = row.change.then(|| Pending(Some(audit.clone())));
        let answer = self.inner.call(request);
        Box::pin(async move {
            // Dropped with the call when the caller leaves: that is written down, too.
            let mut change = change;
            let response = answer.await?;
            let status = Status::from_header_map(response.headers());
            audit.subject = response.extensions().get::<Subject>().map(|subject| subject.0.clone());
            match status {
                Some(status) if status.code() == Code::PermissionDenied => {
                    audit.denied(status.message());
                }
                status if change.is_some() => audit.changed(status.as_ref()),
                _ => {}
            }
            if let Some(pending) = &mut change {
                pending.0 = None;
            }
            Ok(response)
        })
    }
}

impl Door {
    /// Who calls, and what the call may touch.
    fn decide(
        &self,
        request: &Request<Body>,
        row: Option<&'static Row>,
    ) -> (String, Result<(&'static Row, Grant), Status>) {
        let no_row = || Status::permission_denied("there is no such operation here");
        match self {
            Self::Local => {
                let everything = Grant { role: Role::Admin, namespaces: None };
                (local(request), row.map(|row| (row, everything)).ok_or_else(no_row))
            }
            Self::Remote(policy) => {
                let Some(caller) = request.extensions().get::<Caller>() else {
                    let unknown = Status::unauthenticated("a client certificate is needed");
                    return ("nobody".to_owned(), Err(unknown));
                };
                let policy = Arc::clone(&policy.borrow());
                let decided = row.ok_or_else(no_row).and_then(|row| {
                    Ok((row, allow(&policy, caller, row.role, SystemTime::now())?))
                });
                (format!("{} from {}", caller.names, caller.address), decided)
            }
        }
    }
}

/// What a caller may touch with a call that takes `role`.
fn allow(policy: &Policy, caller: &Caller, role: Role, now: SystemTime) -> Result<Grant, Status> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Connections live on: the end of the certificate is theirs, too.
    if caller.expires < now.cast_signed() {
        return Err(Status::unauthenticated("the client certificate has expired"));
    }
    policy.grant(&caller.names, role).ok_or_else(|| {
        let names = &caller.names;
        Status::permission_denied(format!("the policy does not give the role {role} to {names}"))
    })
}

fn local(request: &Request<Body>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match peer {
        Some(peer) => {
            format!("uid {} pid {} on the unix socket", peer.uid(), peer.pid().unwrap_or(0))
        }
        None => "the unix socket".to_owned(),
    }
}

/// One line of the audit.
#[derive(Debug, Clone)]
struct Audit {
    caller: String,
    rpc: String,
    /// What it was about, when the handler said so.
    subject: Option<String>,
}

impl Audit {
    fn denied(&self, why: &str) {
        let Self { caller, rpc, subject } = self;
        tracing::warn!(target: "audit", caller, rpc, subject, why, "denied");
    }

    fn changed(&self, error: Option<&Status>) {
        let Self { caller, rpc, subject } = self;
        let code = error.map_or(Code::Ok, Status::code);
        tracing::info!(target: "audit", caller, rpc, subject, ?code, "change");
    }
}

/// A change that was not answered yet.
struct Pending(Option<Audit>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(Audit { caller, rpc, .. }) = &self.0 {
            tracing::info!(target: "audit", caller, rpc, "change, and the caller left");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_connection_outlives_its_certificate_but_its_calls_do_not() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.not_after = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let caller = Caller::new(certificate.der(), ([127, 0, 0, 1], 1).into()).unwrap();
        let text = "[[allow]]\nnames = [\"cn:alice\"]\nrole = \"view\"";
        let policy = Policy::parse(Path::new("/p"), text).unwrap();
        let at = |seconds| {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            allow(&policy, &caller, Role::View, now).map_err(|status| status.code())
        };
        assert!(at(86_400).is_ok());
        assert_eq!(at(86_401), Err(Code::Unauthenticated));
    }
}
