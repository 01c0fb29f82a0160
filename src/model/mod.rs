//! Plain types of the domain: what a caller asks for, already checked, in the words of CRI.
//!
//! Every room may look here; this room looks at nobody and does no I/O. The wire types are
//! turned into these at the edge (`serve/cri/convert`), and again from these on the way out.

pub mod container;
pub mod image;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod streams;

use std::collections::BTreeMap;

/// Labels or annotations: stored and returned byte for byte.
pub type StringMap = BTreeMap<String, String>;

/// Nanoseconds since the Unix epoch, as CRI carries times.
pub type UnixNanos = i64;

/// Who drives a pod and its containers: exactly one front door does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A CRI client such as a kubelet.
    #[default]
    Cri,
    /// podbay's own pod engine.
    Pod,
}
