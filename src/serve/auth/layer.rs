//! The authorization layer: decides on each call, and logs changes and denials.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::table::{self, Row};
use super::{Caller, Grant, Policy, Role, Subject};
use crate::serve::pods::about;

/// Calls of these services are handled on the unix socket; the CRI has its own rules.
const OURS: &str = "/podbay.v1.";

/// How long to wait for the first message of a denied call, which says what the call was about.
const PATIENCE: Duration = Duration::from_secs(1);

/// Wraps a service with [`Auth`].
#[derive(Clone)]
pub(crate) struct AuthLayer(Door);

/// Where calls come from.
#[derive(Clone)]
enum Door {
    /// The unix socket: its file mode determines who may connect.
    Local,
    /// The network: certificate and policy determine who may do what.
    Remote(watch::Receiver<Arc<Policy>>),
}

impl AuthLayer {
    /// For the unix socket: every caller is an admin.
    pub(crate) fn local() -> Self {
        Self(Door::Local)
    }

    /// For TLS connections: uses the policy in force at each call.
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

/// The service that every call passes through.
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
        let subject = Subject::default();
        let audit = Audit { caller, rpc: path.to_owned(), subject: subject.clone() };
        let (row, grant) = match decided {
            Ok(allowed) => allowed,
            Err(refused) => {
                let refused = refuse(audit, row, request.into_body(), refused);
                return Box::pin(async move { Ok(refused.await) });
            }
        };
        request.extensions_mut().insert(grant);
        request.extensions_mut().insert(subject);
        let change = row.change.then(|| Pending(Some(audit.clone())));
        let answer = self.inner.call(request);
        Box::pin(async move {
            // Dropped with the call if the caller leaves, which is logged too.
            let mut change = change;
            let response = answer.await?;
            let status = Status::from_header_map(response.headers());
            match status {
                Some(status) if status.code() == Code::PermissionDenied => audit.denied(&status),
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
    /// The caller, and what the call may access.
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
                (caller.to_string(), decided)
            }
        }
    }
}

/// What a caller may access with a call that requires `role`.
fn allow(policy: &Policy, caller: &Caller, role: Role, now: SystemTime) -> Result<Grant, Status> {
    // Its connection is closed a moment later.
    if caller.expired(now) {
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

/// Answers a denied call. Its first message is read only for the audit log, after the decision.
async fn refuse(audit: Audit, row: Option<&Row>, body: Body, refused: Status) -> Response<Body> {
    if row.is_some_and(|row| row.path.starts_with(OURS)) && refused.code() == Code::PermissionDenied
    {
        let first = tokio::time::timeout(PATIENCE, first_message(body)).await;
        let about = first.ok().flatten().and_then(|first| about::of_message(&audit.rpc, &first));
        about.into_iter().for_each(|about| audit.subject.set(about));
    }
    audit.denied(&refused);
    refused.into_http()
}

/// The first message of a call, if it is small and uncompressed.
async fn first_message(mut body: Body) -> Option<Vec<u8>> {
    const HEAD: usize = 5;
    let mut read = Vec::new();
    loop {
        if let Some(head) = read.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if head[0] != 0 || length > about::SMALL {
                return None;
            }
            if let Some(message) = read.get(HEAD..HEAD + length) {
                return Some(message.to_vec());
            }
        }
        read.extend_from_slice(&body.frame().await?.ok()?.into_data().ok()?);
    }
}

/// An audit log entry.
#[derive(Debug, Clone)]
struct Audit {
    caller: String,
    rpc: String,
    subject: Subject,
}

impl Audit {
    fn denied(&self, refused: &Status) {
        let (Self { caller, rpc, .. }, (subject, dry_run)) = (self, self.subject());
        let (code, why) = (refused.code(), refused.message());
        tracing::warn!(target: "audit", caller, rpc, subject, dry_run, ?code, why, "denied");
    }

    fn changed(&self, error: Option<&Status>) {
        let (Self { caller, rpc, .. }, (subject, dry_run)) = (self, self.subject());
        let code = error.map_or(Code::Ok, Status::code);
        tracing::info!(target: "audit", caller, rpc, subject, dry_run, ?code, "change");
    }

    fn left(&self) {
        let (Self { caller, rpc, .. }, (subject, dry_run)) = (self, self.subject());
        tracing::info!(target: "audit", caller, rpc, subject, dry_run, "change, and the caller left");
    }

    /// The objects concerned, as far as the handler reported them, and whether it was a dry run.
    fn subject(&self) -> (Option<String>, Option<bool>) {
        let about = self.subject.get();
        let dry_run = about.as_ref().and_then(|about| about.dry_run.then_some(true));
        (about.map(|about| about.what), dry_run)
    }
}

/// A change that was not answered yet.
struct Pending(Option<Audit>);

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(audit) = &self.0 {
            audit.left();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

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
