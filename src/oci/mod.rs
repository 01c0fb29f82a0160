//! Pure building of OCI runtime specs: what a caller asked for, what the image says and what the
//! host can do go in; the document that the OCI runtime obeys comes out. No I/O happens here, so
//! every rule is tested as a plain function.
//!
//! The result follows the behaviour of containerd's own CRI plugin, so that a pod moves between
//! the two without noticing. Where this room is stricter, it refuses with the field's name.
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
pub use annotations::{add_identity, record_labels};
pub use cgroup::{CgroupDriver, plain_cgroup};
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

/// The version written into every spec. Nothing newer is used, and crun 1.8 and runc 1.1 refuse
/// newer ones.
pub const OCI_VERSION: &str = "1.0.2";

/// What the operator decides about specs, for all containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Who makes cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Pod and container annotations that reach the OCI runtime: exact names, no patterns.
    pub annotation_allow_list: Vec<String>,
    /// Whether huge page limits are dropped on a host without that controller, instead of
    /// refused. A kubelet sends limits of 0 for every page size it knows.
    pub tolerate_missing_hugetlb: bool,
    /// Whether pods may bind ports below 1024 without a capability.
    pub unprivileged_ports: bool,
    /// Whether pods may send ICMP echo requests without a capability.
    pub unprivileged_icmp: bool,
    /// A loaded AppArmor profile for containers that ask for the default one; `None` runs them
    /// unconfined.
    pub apparmor_default: Option<String>,
    /// Whether device nodes that a caller names belong to the user it names.
    pub device_ownership: bool,
    /// Limits of every container's processes.
    pub rlimits: Vec<Rlimit>,
    /// Whether processes and files are labelled where the host has SELinux.
    pub selinux: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cgroup_driver: CgroupDriver::Cgroupfs,
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

/// Why no spec can be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of the caller's configuration, by its CRI path within the message.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field, e.g. `linux.security_context.run_as_group`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What a field asks for is beyond the runtime handler or the host.
    #[error("{field}: {problem}")]
    Unsupported {
        /// The field.
        field: String,
        /// What is missing.
        problem: String,
    },
    /// A recursive read-only mount that cannot be had. Callers look for the first word.
    #[error("RROUnsupported: {field}: {problem}")]
    RecursiveReadOnly {
        /// The field.
        field: String,
        /// What is missing.
        problem: String,
    },
    /// The image's configuration asks for something that is refused.
    #[error("image {field}: {problem}")]
    Image {
        /// The field of the image configuration, e.g. `WorkingDir`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A user is named that the image does not have.
    #[error("user {0:?} is not in /etc/passwd of the image")]
    UnknownUser(String),
    /// A group is named that the image does not have.
    #[error("group {0:?} is not in /etc/group of the image")]
    UnknownGroup(String),
    /// A spec read back from the container's record lacks a part.
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

/// A value of an `oci-spec` type with only what `skeleton` says. The `Default`s of that crate
/// are parts of a complete container of its own (host name, mounts, rlimits, capabilities), and
/// none of that may slip into ours.
fn blank<T: DeserializeOwned>(skeleton: &'static str) -> T {
    serde_json::from_str(skeleton).expect("a skeleton written in the source is valid")
}

/// The spec as JSON with a stable order, as it is stored and given to the runtime.
pub fn spec_json(spec: &Spec) -> serde_json::Value {
    let mut json = serde_json::to_value(spec).expect("a spec has string keys only");
    // Capabilities are hash sets in `oci-spec`: sort them, so that equal specs are equal bytes.
    if let Some(sets) =
        json.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut)
    {
        for set in sets.values_mut().filter_map(serde_json::Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    json
}
