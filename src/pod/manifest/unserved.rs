//! Kubernetes fields that podbay does not support, by name.
//!
//! A field not listed here is either supported, or without meaning on a single node (affinity,
//! tolerations, spread, service accounts), or refused by validation.

use super::tree::{Node, Value};
use crate::pod::FieldError;

/// Paths and what is not supported. `[]` means each list item, `|` separates names.
const HARMLESS: &[(&str, &str)] = &[
    ("metadata.finalizers", "finalizers are not served"),
    ("spec.schedulingGates", "no scheduler opens gates here"),
    ("spec.resourceClaims", "dynamic resource allocation is not served"),
    ("spec.evictionResponders", "eviction responders are not served"),
    ("spec.securityContext.windowsOptions", "Windows is not served"),
    ("spec.CONTAINERS[].securityContext.windowsOptions", "Windows is not served"),
    ("spec.CONTAINERS[].resources.claims", "dynamic resource allocation is not served"),
    ("spec.CONTAINERS[].volumeMounts[].bindMountOptions", "bind mount options are not served"),
    ("spec.CONTAINERS[].PROBES.httpGet.protocol", "other HTTP protocols are not served"),
    ("spec.CONTAINERS[].lifecycle.postStart|preStop.httpGet.protocol", "only HTTP/1.1 is served"),
    ("spec.volumes[].projected.sources[].serviceAccountToken", "no one issues tokens here"),
    ("spec.volumes[].projected.sources[].clusterTrustBundle", "there is no cluster"),
    ("spec.volumes[].projected.sources[].podCertificate", "no one issues certificates here"),
];

/// A pod cannot work as intended without these: always refused.
const FATAL: &[(&str, &str)] = &[
    ("spec.volumes[].OTHER_VOLUMES", "volumes of this kind are not served"),
    ("spec.CONTAINERS[].volumeDevices", "block devices of volumes are not served"),
];

/// Abbreviations for several names.
const GROUPS: &[(&str, &str)] = &[
    ("CONTAINERS", "containers|initContainers|ephemeralContainers"),
    ("PROBES", "livenessProbe|readinessProbe|startupProbe"),
    (
        "OTHER_VOLUMES",
        "awsElasticBlockStore|azureDisk|azureFile|cephfs|cinder|csi|ephemeral|fc|flexVolume|flocker|\
         gcePersistentDisk|gitRepo|glusterfs|iscsi|nfs|persistentVolumeClaim|photonPersistentDisk|\
         portworxVolume|quobyte|rbd|scaleIO|storageos|vsphereVolume",
    ),
];

/// The unsupported fields that were removed.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    /// Those that the pod can run without.
    pub harmless: Vec<FieldError>,
    /// Those that it cannot run without.
    pub fatal: Vec<FieldError>,
}

/// Removes unsupported fields from an object.
pub(super) fn remove(kind: &str, object: &mut Node) -> Unserved {
    let mut unserved = Unserved::default();
    if kind != "Pod" {
        return unserved;
    }
    for (table, found) in [(HARMLESS, &mut unserved.harmless), (FATAL, &mut unserved.fatal)] {
        for (pattern, why) in table {
            Search { why, found }.of(object, pattern, "");
        }
    }
    unserved
}

struct Search<'a> {
    why: &'static str,
    found: &'a mut Vec<FieldError>,
}

impl Search<'_> {
    fn of(&mut self, node: &mut Node, pattern: &str, path: &str) {
        let (names, rest) = pattern.split_once('.').unwrap_or((pattern, ""));
        let (names, each) = names.strip_suffix("[]").map_or((names, false), |names| (names, true));
        let group = GROUPS.iter().find(|(group, _)| *group == names);
        let joint = if path.is_empty() { "" } else { "." };
        for name in group.map_or(names, |(_, names)| names).split('|') {
            let path = format!("{path}{joint}{name}");
            if rest.is_empty() {
                self.cut(node, name, path);
            } else if let Some(inner) = node.get_mut(name) {
                if each { self.of_items(inner, rest, &path) } else { self.of(inner, rest, &path) }
            }
        }
    }

    fn of_items(&mut self, list: &mut Node, pattern: &str, path: &str) {
        let Value::List(items) = &mut list.value else { return };
        let mut index = 0;
        items.retain_mut(|item| {
            let before = self.found.len();
            self.of(item, pattern, &format!("{path}[{index}]"));
            index += 1;
            // An item left empty is removed with its field.
            let emptied = matches!(&item.value, Value::Map(entries) if entries.is_empty());
            !(emptied && self.found.len() > before)
        });
    }

    fn cut(&mut self, node: &mut Node, name: &str, path: String) {
        let Some(cut) = node.remove(name) else { return };
        let nothing = match &cut.value {
            Value::Null => true,
            Value::List(items) => items.is_empty(),
            _ => false,
        };
        if !nothing {
            let message = format!("{} ({})", self.why, cut.place);
            self.found.push(FieldError { path, message });
        }
    }
}
