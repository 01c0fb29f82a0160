//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use super::at::At;
use super::names;

const MOST_ID: i64 = i32::MAX as i64;
const SYSCTL: usize = 253;

pub(super) fn of_pod(at: &At<'_>, context: &PodSecurityContext, spec: &PodSpec) {
    ids(at, context.run_as_user, context.run_as_group);
    if let Some(group) = context.fs_group {
        at.field("fsGroup").between(group, 0, MOST_ID);
    }
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        at.field("supplementalGroups").item(index).between(*group, 0, MOST_ID);
    }
    at.field("fsGroupChangePolicy")
        .one_of_if_set(&context.fs_group_change_policy, &["Always", "OnRootMismatch"]);
    at.field("supplementalGroupsPolicy")
        .one_of_if_set(&context.supplemental_groups_policy, &["Merge", "Strict"]);
    at.field("seLinuxChangePolicy")
        .one_of_if_set(&context.se_linux_change_policy, &["MountOption", "Recursive"]);
    if let Some(profile) = &context.seccomp_profile {
        seccomp(&at.field("seccompProfile"), profile);
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(&at.field("appArmorProfile"), profile);
    }
    sysctls(&at.field("sysctls"), context, spec);
}

fn ids(at: &At<'_>, user: Option<i64>, group: Option<i64>) {
    if let Some(user) = user {
        at.field("runAsUser").between(user, 0, MOST_ID);
    }
    if let Some(group) = group {
        at.field("runAsGroup").between(group, 0, MOST_ID);
    }
}

fn sysctls(at: &At<'_>, context: &PodSecurityContext, spec: &PodSpec) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let at = at.item(index);
        let name = sysctl.name.as_str();
        let dotted = name.replace('/', ".");
        let at_name = at.field("name");
        if name.is_empty() {
            at_name.required("");
        } else if name.len() > SYSCTL || !dotted.split('.').all(is_part) {
            at_name.invalid(
                name,
                format!(
                    "must have at most {SYSCTL} characters and match regex \
                     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
            );
        }
        if !seen.insert(dotted.clone()) {
            at_name.duplicate(name);
        }
        if spec.host_network.unwrap_or(false) && dotted.starts_with("net.") {
            at_name.invalid(name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if spec.host_ipc.unwrap_or(false) && ipc.iter().any(|own| dotted.starts_with(own)) {
            at_name.invalid(name, "may not be specified when 'hostIPC' is true");
        }
        at.field("value").all(&sysctl.value, names::one_line(&sysctl.value.replace('\t', " ")));
    }
}

/// One component of a sysctl name.
fn is_part(part: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = part.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

pub(super) fn of_container(at: &At<'_>, context: &SecurityContext, host_users: Option<bool>) {
    ids(at, context.run_as_user, context.run_as_group);
    if let Some(profile) = &context.seccomp_profile {
        seccomp(&at.field("seccompProfile"), profile);
    }
    if let Some(profile) = &context.app_armor_profile {
        app_armor(&at.field("appArmorProfile"), profile);
    }
    let mount = at.field("procMount");
    mount.one_of_if_set(&context.proc_mount, &["Default", "Unmasked"]);
    if context.proc_mount.as_deref() == Some("Unmasked") && host_users != Some(false) {
        mount.invalid("Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged.unwrap_or(false) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            at.invalid("", why);
        }
        let added = context.capabilities.iter().flat_map(|sets| sets.add.iter().flatten());
        if added.into_iter().any(|name| name == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                       CAP_SYS_ADMIN";
            at.invalid("", why);
        }
    }
}

fn seccomp(at: &At<'_>, profile: &SeccompProfile) {
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    if profile.type_.is_empty() {
        at.field("type").required("type is required when seccompProfile is set");
    } else {
        at.field("type").one_of(&profile.type_, &types);
    }
    let file = profile.localhost_profile.as_deref();
    let at = at.field("localhostProfile");
    match (profile.type_ == "Localhost", file) {
        (true, None | Some("")) => at.required("must be set when seccomp type is Localhost"),
        (true, Some(file)) => at.all(file, names::descending(file)),
        (false, Some(file)) => {
            at.invalid(file, "can only be set when seccomp type is Localhost");
        }
        (false, None) => {}
    }
}

fn app_armor(at: &At<'_>, profile: &AppArmorProfile) {
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    if profile.type_.is_empty() {
        at.field("type").required("type is required when appArmorProfile is set");
    } else {
        at.field("type").one_of(&profile.type_, &types);
    }
    let name = profile.localhost_profile.as_deref();
    let at = at.field("localhostProfile");
    match (profile.type_ == "Localhost", name) {
        (true, None) => at.required("must be set when AppArmor type is Localhost"),
        (true, Some(name)) if name.trim() != name || name.is_empty() => {
            at.invalid(name, "must not be padded with whitespace, nor be empty");
        }
        (true, Some(name)) if name.len() > 4095 => at.too_long(4095),
        (true, Some(_)) | (false, None) => {}
        (false, Some(name)) => {
            at.invalid(name, "can only be set when AppArmor type is Localhost");
        }
    }
}
