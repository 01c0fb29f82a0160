//! Pure building of OCI runtime specs from the caller's request, the image's configuration and
//! facts about the host. There is no I/O here, so every rule is tested as a plain function.
//!
//! The result follows the behaviour of containerd's own CRI plugin, so that pods behave the same
//! under both. Where this room is stricter, it fails with the name of the field.
//!
//! ```text
//! PauseInput ──> pause_spec ─────────┐
//! ContainerInput ──> container_spec ─┴─> Spec ──> containerd record ──> exec_process
//!                                                                  └──> apply_to_spec
//! ```

mod annotations;
pub mod apparmor;
mod capabilities;
mod cgroup;
mod container;
mod devices;
mod env;
mod exec;
mod in_force;
mod mounts;
mod namespaces;
mod paths;
mod pause;
mod process;
mod resources;
mod rlimits;
pub mod seccomp;
pub mod selinux;
mod sysctl;
pub mod user;

#[cfg(test)]
mod fixture;

pub use crate::model::container::Rlimit;
pub use annotations::{add_identity, record_labels, snapshot_labels};
pub use cgroup::plain_cgroup;
pub use container::{ContainerInput, SharedFiles, check_container, container_spec};
pub use exec::exec_process;
pub use in_force::{put_back, resources_of, stored_limits};
pub use namespaces::{PodNamespaces, check_pod_userns};
pub use pause::{PauseInput, pause_spec};
pub use resources::{apply_to_spec, linux_resources};
pub use sysctl::check_sysctls;

pub(crate) use paths::clean as clean_path;

use oci_spec::runtime::Spec;
use serde::de::DeserializeOwned;

/// The version written into every spec. No newer feature is used, and crun 1.8 and runc 1.1 refuse
/// newer versions.
pub const OCI_VERSION: &str = "1.0.2";

/// The operator's settings for all specs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names of pod and container annotations passed to the OCI runtime: exact names, no patterns.
    pub annotation_allow_list: Vec<String>,
    /// Whether huge page limits are dropped, instead of refused, on a host without that controller.
    /// A kubelet sends limits of 0 for every page size it knows.
    pub tolerate_missing_hugetlb: bool,
    /// Whether pods may bind ports below 1024 without a capability.
    pub unprivileged_ports: bool,
    /// Whether pods may send ICMP echo requests without a capability.
    pub unprivileged_icmp: bool,
    /// A loaded AppArmor profile for containers that use the default one; `None` runs them
    /// unconfined.
    pub apparmor_default: Option<String>,
    /// Whether device nodes named by a caller belong to the container's user.
    pub device_ownership: bool,
    /// Default rlimits of every container.
    pub rlimits: Vec<Rlimit>,
    /// Whether processes and files get labels on hosts with SELinux.
    pub selinux: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            annotation_allow_list: Vec::new(),
            tolerate_missing_hugetlb: true,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            apparmor_default: None,
            device_ownership: false,
            rlimits: Vec::new(),
            selinux: false,
        }
    }
}

/// Why a spec cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of the caller's configuration is invalid.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, e.g. `linux.security_context.run_as_group`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field requests something that the runtime handler or the host does not support.
    #[error("{field}: {problem}")]
    Unsupported {
        /// The field.
        field: String,
        /// What is missing.
        problem: String,
    },
    /// A recursive read-only mount is not supported. Callers match the first word of this error.
    #[error("RROUnsupported: {field}: {problem}")]
    RecursiveReadOnly {
        /// The field.
        field: String,
        /// What is missing.
        problem: String,
    },
    /// The image's configuration contains something that is refused.
    #[error("image {field}: {problem}")]
    Image {
        /// The field of the image configuration, e.g. `WorkingDir`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The image has no user of this name.
    #[error("user {0:?} is not in /etc/passwd of the image")]
    UnknownUser(String),
    /// The image has no group of this name.
    #[error("group {0:?} is not in /etc/group of the image")]
    UnknownGroup(String),
    /// A spec read back from the container's record lacks this part.
    #[error("the stored OCI spec has no usable {0}")]
    StoredSpec(&'static str),
}

impl Error {
    fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), problem: problem.into() }
    }

    fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unsupported { field: field.into(), problem: problem.into() }
    }

    fn image(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Image { field, problem: problem.into() }
    }
}

/// A value of an `oci-spec` type with only what `skeleton` says. The crate's `Default`s describe a
/// complete container (host name, mounts, rlimits, capabilities), and none of that may get into
/// ours.
fn blank<T: DeserializeOwned>(skeleton: &'static str) -> T {
    serde_json::from_str(skeleton).expect("a skeleton written in the source is valid")
}

/// The spec as JSON in a stable order, for storage and for the runtime.
pub fn spec_json(spec: &Spec) -> serde_json::Value {
    let mut json = serde_json::to_value(spec).expect("a spec has string keys only");
    // `oci-spec` keeps capabilities in hash sets: sort them, so that equal specs have equal bytes.
    if let Some(sets) =
        json.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut)
    {
        for set in sets.values_mut().filter_map(serde_json::Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    json
}
