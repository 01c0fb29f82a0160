//! Plain domain types: requests that are already checked, in CRI's terms.
//!
//! Every room may use this one; this room uses no other and does no I/O. Wire types are converted
//! to these types at the edge (`serve/cri/convert`), and back in answers.

pub mod container;
pub mod image;
pub mod pod;
pub mod resources;
pub mod security;
pub mod signal;
pub mod streams;

use std::collections::BTreeMap;

/// Labels or annotations: stored and returned unchanged.
pub type StringMap = BTreeMap<String, String>;

/// Nanoseconds since the Unix epoch, as times are represented in CRI.
pub type UnixNanos = i64;

/// Who manages a pod and its containers; every pod has exactly one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A CRI client such as a kubelet.
    #[default]
    Cri,
    /// podbay's own pod engine.
    Pod,
}
