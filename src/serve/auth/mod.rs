//! Authorization: who may call what.
//!
//! ```text
//!  certificate --> names --> policy --> roles ----.
//!                                                 +--> Grant, in the request's extensions
//!  path of the RPC --> table --> required role ---'    or PermissionDenied
//! ```
//!
//! Everything not explicitly allowed is denied: an RPC without a row in the table, or a name that
//! is not in the policy. Every change and every denial is logged in one line (target `audit`).
//! Everybody who may open the unix socket may do everything there, since access to its CRI is
//! equivalent to root.
//!
//! Handlers access pods through their [`Grant`] (`serve/pods/granted.rs`), and store in the
//! request's [`Subject`] what it is about, for the audit log. For a call denied before its handler
//! runs, the audit uses its first message, if that is small and arrives soon.

mod layer;
mod names;
mod policy;
mod subject;
mod table;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tonic::{Request, Status};

use crate::pod;
pub(super) use layer::AuthLayer;
pub(super) use names::{Caller, Names};
pub use policy::{Policy, PolicyFaults};
pub use subject::{About, Subject};
#[cfg(test)]
pub(super) use table::rows;

/// Role of a caller. Each role includes the previous ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// View pods, their logs, images and the node.
    View,
    /// Create, change, restart and delete pods; pull, save and remove images.
    Operate,
    /// Access containers: exec, attach, port-forward. Load images from archives.
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::View, Self::Operate, Self::Admin];

    fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one call may access. Every authorized call of podbay.v1 has it in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The role that the call requires; the caller has it in all of the namespaces.
    pub role: Role,
    /// The accessible namespaces; `None` for all.
    pub namespaces: Option<Arc<BTreeSet<String>>>,
}

impl Grant {
    /// The grant of a request.
    ///
    /// # Errors
    /// PermissionDenied when the call was not authorized, which is a bug in the server.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        let found = request.extensions().get();
        found.ok_or_else(|| Status::permission_denied("the caller is not known"))
    }

    /// Whether pods of a namespace may be touched, as the answer to who asks; `""` stands for all
    /// namespaces.
    ///
    /// # Errors
    /// [`pod::Error::Forbidden`] with the namespaces that are allowed.
    pub fn check(&self, namespace: &str) -> Result<(), pod::Error> {
        let Some(some) = self.namespaces.as_ref().filter(|some| !some.contains(namespace)) else {
            return Ok(());
        };
        let some = some.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let what = match namespace {
            "" => "all namespaces are".to_owned(),
            one => format!("namespace {one:?} is"),
        };
        let role = self.role;
        let message = format!("{what} not yours to {role}, but these are: {some}");
        Err(pod::Error::Forbidden(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_for_its_namespaces() {
        let everywhere = Grant { role: Role::View, namespaces: None };
        assert!(everywhere.check("a").is_ok() && everywhere.check("").is_ok());
        let some = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let some = Grant { role: Role::Operate, namespaces: Some(Arc::new(some)) };
        assert!(some.check("a").is_ok());
        let denied = some.check("c").unwrap_err();
        assert_eq!(
            denied.to_string(),
            "namespace \"c\" is not yours to operate, but these are: a, b"
        );
        assert!(some.check("").unwrap_err().to_string().starts_with("all namespaces are not"));
    }

    #[test]
    fn a_request_that_nobody_looked_at_is_denied() {
        let mut request = Request::new(());
        assert_eq!(Grant::of(&request).unwrap_err().code(), tonic::Code::PermissionDenied);
        let grant = Grant { role: Role::View, namespaces: None };
        request.extensions_mut().insert(grant.clone());
        assert_eq!(Grant::of(&request).unwrap(), &grant);
    }
}
