//! Versions of the CDI specification and the fields that each introduced.

use super::edits::{Edits, SpecFile};

/// All published versions.
const KNOWN: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// Checks that a file states a known version that has all the fields it uses.
pub(super) fn check(spec: &SpecFile) -> Result<(), String> {
    let said = spec.cdi_version.trim_start_matches('v');
    let place = |version: &str| KNOWN.iter().position(|known| *known == version);
    let Some(said_at) = place(said) else {
        return Err(format!("cdiVersion {:?} is unknown", spec.cdi_version));
    };
    let (needed, what) = needed(spec);
    if place(needed) > Some(said_at) {
        return Err(format!("{what} needs cdiVersion {needed}, and the file says {said}"));
    }
    let old_rdt = |edits: &Edits| {
        edits.intel_rdt.as_ref().is_some_and(|r| r.enable_cmt.is_some() || r.enable_mbm.is_some())
    };
    if said == "1.1.0" && all(spec).any(old_rdt) {
        return Err("intelRdt enableCMT and enableMBM ended with cdiVersion 1.1.0".to_owned());
    }
    Ok(())
}

fn all(spec: &SpecFile) -> impl Iterator<Item = &Edits> {
    let of_devices = spec.devices.iter().map(|device| &device.container_edits);
    of_devices.chain([&spec.container_edits])
}

/// The lowest version with all the fields that the file uses, and the field that requires it.
fn needed(spec: &SpecFile) -> (&'static str, &'static str) {
    let any = |uses: fn(&Edits) -> bool| all(spec).any(uses);
    let rules: [(bool, &str, &str); 8] = [
        (any(|e| !e.net_devices.is_empty()), "1.1.0", "netDevices"),
        (
            any(|e| {
                e.intel_rdt
                    .as_ref()
                    .is_some_and(|r| !r.schemata.is_empty() || r.enable_monitoring.is_some())
            }),
            "1.1.0",
            "intelRdt schemata or enableMonitoring",
        ),
        (any(|e| e.intel_rdt.is_some()), "0.7.0", "intelRdt"),
        (any(|e| !e.additional_gids.is_empty()), "0.7.0", "additionalGids"),
        (
            !spec.annotations.is_empty() || spec.devices.iter().any(|d| !d.annotations.is_empty()),
            "0.6.0",
            "annotations",
        ),
        (
            spec.kind.split_once('/').is_some_and(|(_, class)| class.contains('.')),
            "0.6.0",
            "a class with a dot",
        ),
        (
            any(|e| e.device_nodes.iter().any(|node| !node.host_path.is_empty()))
                || spec.devices.iter().any(|d| !d.name.starts_with(|c: char| c.is_alphabetic())),
            "0.5.0",
            "a device's hostPath, or a name that begins with a digit,",
        ),
        (any(|e| e.mounts.iter().any(|m| !m.kind.is_empty())), "0.4.0", "a mount's type"),
    ];
    let used = rules.into_iter().find(|(used, ..)| *used);
    used.map_or(("0.1.0", ""), |(_, version, what)| (version, what))
}
