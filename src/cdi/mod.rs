//! The Container Device Interface (CDI specification 1.1.0 and older): named devices that vendors
//! describe in files, and the changes to an OCI spec that give one to a container.
//!
//! Pure: files and device nodes are looked up by those who ask. Files are read anew for every
//! container that names a device, because drivers write one just before they ask for it; a node
//! has a handful of them, and no other container pays.
//!
//! ```text
//! CDI_devices, cdi.k8s.io/* ──names──> Library (parsed files) ──resolve──> Edits ──apply──> spec
//! ```

mod apply;
mod edits;
mod library;
mod name;
mod version;

pub use apply::apply;
pub use edits::{DeviceNode, Edits};
pub use library::{Library, is_spec_file};
pub use name::{DeviceName, requested};

/// Why devices cannot be given to a container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name that is no `vendor.com/class=name`.
    #[error("{field}: {name:?} is no CDI device name: {problem}")]
    BadName {
        /// Where it was given.
        field: String,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No usable file describes these devices.
    #[error("unresolvable CDI devices {}{}", .devices.join(", "), told(.faults))]
    Unresolvable {
        /// The devices.
        devices: Vec<String>,
        /// Files that could not be used, and why: one of them may have had the devices.
        faults: Vec<String>,
    },
    /// The operator has switched CDI off.
    #[error("CDI device {0} is asked for, but CDI is switched off (cdi.enabled)")]
    Off(String),
    /// A device node that a file names is not on this host.
    #[error("CDI device node {path}: {problem}")]
    Node {
        /// Path on the host.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The OCI runtime cannot do what a file asks for.
    #[error("CDI netDevices: the runtime handler does not support OCI {0} specs")]
    Unsupported(&'static str),
}

fn told(faults: &[String]) -> String {
    match faults {
        [] => String::new(),
        _ => format!(" (not used: {})", faults.join("; ")),
    }
}
