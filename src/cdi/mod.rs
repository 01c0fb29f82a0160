//! The Container Device Interface (CDI specification 1.1.0 and older): vendors describe named
//! devices in files, as edits of an OCI spec that make the device available to a container.
//!
//! Pure: the callers look up files and device nodes. Files are read again for every container that
//! names a device, because drivers may write one just before; a node has few of them, and other
//! containers do not pay for it.
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

/// Why devices cannot be provided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name that is not of the form `vendor.com/class=name`.
    #[error("{field}: {name:?} is not a CDI device name: {problem}")]
    BadName {
        /// The field that contains it.
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
        /// Unusable files with the reasons; one of them may have described the devices.
        faults: Vec<String>,
    },
    /// CDI is disabled by the configuration.
    #[error("CDI device {0} is requested, but CDI is disabled (cdi.enabled)")]
    Off(String),
    /// A device node named in a file does not exist on this host.
    #[error("CDI device node {path}: {problem}")]
    Node {
        /// Path on the host.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The OCI runtime does not support what a file requests.
    #[error("CDI netDevices: the runtime handler does not support OCI {0} specs")]
    Unsupported(&'static str),
}

fn told(faults: &[String]) -> String {
    match faults {
        [] => String::new(),
        _ => format!(" (not used: {})", faults.join("; ")),
    }
}
