//! Spec files: their fields and the validation of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::name::{check_device, check_kind};
use super::version;
use crate::model::StringMap;

/// Names of OCI hooks.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A spec file. Unknown fields are refused, because ignoring them would drop what they request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SpecFile {
    pub(super) cdi_version: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) annotations: StringMap,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// A device of a spec file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    pub(super) annotations: StringMap,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// Edits of a container's spec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) hooks: Vec<Hook>,
    pub(super) mounts: Vec<Mount>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) additional_gids: Vec<u32>,
}

/// A device node to create.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DeviceNode {
    /// Path in the container.
    pub path: String,
    /// Path on the host; empty means `path`.
    pub host_path: String,
    /// `b`, `c`, `u` or `p`; empty means the type of the node on the host.
    #[serde(rename = "type")]
    pub kind: String,
    /// Major number; `None` means the number of the node on the host.
    pub major: Option<i64>,
    /// Minor number.
    pub minor: Option<i64>,
    /// Mode bits of the new node.
    pub file_mode: Option<u32>,
    /// A subset of `rwm`, or `none`; empty means all.
    pub permissions: String,
    /// Owner; `None` means the container's user.
    pub uid: Option<u32>,
    /// Group; `None` means the container's.
    pub gid: Option<u32>,
}

impl DeviceNode {
    /// Path of the node on the host.
    pub fn on_host(&self) -> &str {
        if self.host_path.is_empty() { &self.path } else { &self.host_path }
    }

    /// Whether its type or numbers have to be read from the host.
    pub fn needs_host(&self) -> bool {
        self.kind.is_empty() || (self.major.is_none() && self.kind != "p")
    }
}

/// A host network interface to move into the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
}

/// A program that the OCI runtime runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) timeout: Option<i64>,
}

/// Intel RDT settings, passed on with the names of the OCI spec.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", skip_serializing_if = "String::is_empty")]
    pub(super) clos_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) l3_cache_schema: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) mem_bw_schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) schemata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enable_monitoring: Option<bool>,
    #[serde(rename = "enableCMT", skip_serializing_if = "Option::is_none")]
    pub(super) enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM", skip_serializing_if = "Option::is_none")]
    pub(super) enable_mbm: Option<bool>,
}

impl SpecFile {
    /// Parses and validates a file, as JSON if `json`, else as YAML.
    pub(super) fn parse(content: &[u8], json: bool) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
        let spec: Self = match json {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            // The parser's default budget stops documents whose aliases expand without end.
            false => serde_saphyr::from_str(text).map_err(|error| one_line(&error.to_string()))?,
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        check_kind(&self.kind).map_err(|problem| format!("kind {:?}: {problem}", self.kind))?;
        version::check(self)?;
        self.container_edits.check().map_err(|problem| format!("containerEdits: {problem}"))?;
        let mut names = BTreeSet::new();
        for device in &self.devices {
            let name = &device.name;
            check_device(name).map_err(|problem| format!("device {name:?}: {problem}"))?;
            if !names.insert(name) {
                return Err(format!("device {name:?} is listed twice"));
            }
            let edits = &device.container_edits;
            edits.check().map_err(|problem| format!("device {name:?}: {problem}"))?;
        }
        Ok(())
    }
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Edits {
    /// Appends other edits.
    pub(super) fn append(&mut self, more: &Self) {
        let Self { env, device_nodes, net_devices, hooks, mounts, intel_rdt, additional_gids } =
            more.clone();
        self.env.extend(env);
        self.device_nodes.extend(device_nodes);
        self.net_devices.extend(net_devices);
        self.hooks.extend(hooks);
        self.mounts.extend(mounts);
        self.additional_gids.extend(additional_gids);
        self.intel_rdt = intel_rdt.or(self.intel_rdt.take());
    }

    /// The device nodes, to fill in what only the host knows.
    pub fn nodes_mut(&mut self) -> &mut [DeviceNode] {
        &mut self.device_nodes
    }

    /// Whether network interfaces are moved, which OCI runtimes support from spec 1.3 on.
    pub fn moves_interfaces(&self) -> bool {
        !self.net_devices.is_empty()
    }

    fn check(&self) -> Result<(), String> {
        self.env.iter().try_for_each(|entry| variable(entry))?;
        self.device_nodes.iter().try_for_each(node)?;
        self.mounts.iter().try_for_each(|mount| {
            absolute("mount hostPath", &mount.host_path, mount.kind.is_empty())?;
            absolute("mount containerPath", &mount.container_path, true)?;
            mount.options.iter().chain([&mount.kind]).try_for_each(|text| plain("mount", text))
        })?;
        self.hooks.iter().try_for_each(hook)?;
        self.intel_rdt.iter().try_for_each(rdt)?;
        interfaces(&self.net_devices)
    }
}

fn variable(entry: &str) -> Result<(), String> {
    plain("env", entry)?;
    match entry.find('=') {
        None | Some(0) => Err(format!("env {entry:?} is not KEY=value")),
        Some(_) => Ok(()),
    }
}

/// Refuses text with a NUL.
fn plain(what: &str, text: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("{what} {text:?} contains NUL")) } else { Ok(()) }
}

fn absolute(what: &str, path: &str, must: bool) -> Result<(), String> {
    plain(what, path)?;
    let climbs = path.split('/').any(|part| part == "..");
    match (path.is_empty(), path.starts_with('/') || !must, climbs) {
        (false, true, false) => Ok(()),
        _ => Err(format!("{what} {path:?} is not an absolute path without \"..\"")),
    }
}

fn node(node: &DeviceNode) -> Result<(), String> {
    absolute("device path", &node.path, true)?;
    if !node.host_path.is_empty() {
        absolute("device hostPath", &node.host_path, true)?;
    }
    if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
        return Err(format!("device {}: type {:?} is unknown", node.path, node.kind));
    }
    let permissions = &node.permissions;
    if permissions != "none" && !permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(format!("device {}: permissions {permissions:?} are unknown", node.path));
    }
    Ok(())
}

fn hook(hook: &Hook) -> Result<(), String> {
    if !HOOKS.contains(&hook.hook_name.as_str()) {
        return Err(format!("hook {:?} is unknown", hook.hook_name));
    }
    absolute("hook path", &hook.path, true)?;
    hook.args.iter().try_for_each(|text| plain("hook argument", text))?;
    hook.env.iter().try_for_each(|entry| variable(entry))?;
    match hook.timeout {
        Some(seconds) if seconds < 1 => Err(format!("hook timeout {seconds} is not positive")),
        _ => Ok(()),
    }
}

/// A class of service becomes a directory of resctrl.
fn rdt(rdt: &IntelRdt) -> Result<(), String> {
    let id = &rdt.clos_id;
    if id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n', '\0']) {
        return Err(format!("intelRdt closID {id:?} is not a valid name"));
    }
    Ok(())
}

fn interfaces(devices: &[NetDevice]) -> Result<(), String> {
    let (mut hosts, mut names) = (BTreeSet::new(), BTreeSet::new());
    for device in devices {
        for (name, seen) in [(&device.host_interface_name, &mut hosts), (&device.name, &mut names)]
        {
            let good = (1..16).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
            if !good || name == "." || name == ".." || !seen.insert(name) {
                return Err(format!(
                    "netDevices: {name:?} is not an interface name, or is listed twice"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
