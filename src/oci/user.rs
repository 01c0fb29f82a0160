//! Users of a container, resolved.

use serde::{Deserialize, Serialize};

/// The numeric identity a container's process gets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// UID.
    pub uid: u32,
    /// Primary GID.
    pub gid: u32,
    /// Supplementary groups, ascending, always with the primary one.
    pub additional_gids: Vec<u32>,
    /// Home of the user in the image's /etc/passwd, if it is there.
    pub home: Option<String>,
}
