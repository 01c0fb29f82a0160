//! Mounts of volumes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::VolumeMount;

use super::at::At;
use super::names;

/// Mounts of one container, of volumes of these names.
pub(super) fn mounts(at: &At<'_>, mounts: &[VolumeMount], volumes: &[&str], privileged: bool) {
    let mut paths = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let at = at.item(index);
        if mount.name.is_empty() {
            at.field("name").required("");
        } else if !volumes.contains(&mount.name.as_str()) {
            at.field("name").not_found(&mount.name);
        }
        at.field("mountPath").named(&mount.mount_path, names::absolute);
        if !paths.insert(mount.mount_path.as_str()) {
            at.field("mountPath").invalid(&mount.mount_path, "must be unique");
        }
        sub_paths(&at, mount);
        propagation(&at, mount, privileged);
    }
}

fn sub_paths(at: &At<'_>, mount: &VolumeMount) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    at.field("subPath").all(sub_path, names::descending(sub_path));
    at.field("subPathExpr").all(expression, names::descending(expression));
    if !sub_path.is_empty() && !expression.is_empty() {
        let why = "subPathExpr and subPath are mutually exclusive";
        at.field("subPathExpr").invalid(expression, why);
    }
}

fn propagation(at: &At<'_>, mount: &VolumeMount, privileged: bool) {
    let known = ["Bidirectional", "HostToContainer", "None"];
    at.field("mountPropagation").one_of_if_set(&mount.mount_propagation, &known);
    let wanted = mount.mount_propagation.as_deref().unwrap_or_default();
    if wanted == "Bidirectional" && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        at.field("mountPropagation").forbidden(why);
    }
    let recursive = mount.recursive_read_only.as_deref().unwrap_or_default();
    let at = at.field("recursiveReadOnly");
    at.one_of_if_set(&mount.recursive_read_only, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(recursive, "Enabled" | "IfPossible") {
        if !mount.read_only.unwrap_or(false) {
            at.forbidden("may only be specified when readOnly is true");
        }
        if !matches!(wanted, "" | "None") {
            at.forbidden("may only be specified when mountPropagation is None or not specified");
        }
    }
}
