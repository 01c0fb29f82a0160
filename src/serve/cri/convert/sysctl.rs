//! Which kernel parameters a pod may set: only those that belong to a namespace of its own.

use super::{Invalid, Result, refuse};
use crate::model::StringMap;
use crate::model::security::{NamespaceMode, NamespaceOptions};

/// Parameters of the IPC namespace that have no common prefix.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks names and values against the pod's namespaces.
pub(super) fn sysctls(sysctls: StringMap, namespaces: &NamespaceOptions) -> Result<StringMap> {
    for (key, value) in &sysctls {
        let field = || format!("sysctls[{key:?}]");
        check_key(&field(), key)?;
        check_value(&field(), value)?;
        check_namespace(&field(), key, namespaces)?;
    }
    Ok(sysctls)
}

/// A key becomes a path below /proc/sys.
fn check_key(field: &str, key: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let split = !key.split(['.', '/']).any(str::is_empty);
    refuse(field, !(split && key.chars().all(plain)), "is not a kernel parameter name")
}

/// A value is written as it stands; anything that could end it and begin another is refused.
fn check_value(field: &str, value: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " \t,.:_-".contains(c);
    refuse(field, !value.chars().all(plain), "has a value with characters that no parameter takes")
}

fn check_namespace(field: &str, key: &str, namespaces: &NamespaceOptions) -> Result<()> {
    let shared = |mode| mode == NamespaceMode::Node;
    if key.starts_with("net.") {
        refuse(field, shared(namespaces.network), "must not be set in the node's network")
    } else if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        refuse(field, shared(namespaces.ipc), "must not be set in the node's IPC namespace")
    } else {
        Err(Invalid::new(field, "does not belong to a namespace of the pod"))
    }
}
