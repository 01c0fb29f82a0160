//! Parses security contexts of pods and containers.

use super::{Invalid, Result, Within, absolute_path, all, filled, known, one_line, refuse};
use crate::model::container::ContainerSecurity;
use crate::model::pod::PodSecurity;
use crate::model::security;
use crate::model::security::{
    Capabilities, IdMapping, NamespaceMode, NamespaceOptions, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy, UserNamespace,
};
use crate::proto::runtime::v1;

/// Whether namespaces are requested for a pod or a container; a pod cannot join a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Pod,
    Container,
}

#[allow(deprecated)] // older callers still name profiles in the string field
pub(super) fn pod_security(context: v1::LinuxSandboxSecurityContext) -> Result<PodSecurity> {
    let v1::LinuxSandboxSecurityContext {
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        seccomp,
        apparmor,
        seccomp_profile_path,
    } = context;
    let run_as_user = id("run_as_user", run_as_user)?;
    let run_as_group = id("run_as_group", run_as_group)?;
    let alone = run_as_group.is_some() && run_as_user.is_none();
    refuse("run_as_group", alone, "needs run_as_user")?;
    Ok(PodSecurity {
        namespaces: namespaces(namespace_options, Scope::Pod).within("namespace_options")?,
        selinux: selinux(selinux_options).within("selinux_options")?,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups: all("supplemental_groups", supplemental_groups, group)?,
        supplemental_groups_policy: policy(supplemental_groups_policy)?,
        privileged,
        seccomp: match seccomp {
            Some(profile) => Some(typed(profile, seccomp_file).within("seccomp")?),
            None => named("seccomp_profile_path", &seccomp_profile_path, seccomp_file)?,
        },
        apparmor: apparmor.map(|p| typed(p, apparmor_name).within("apparmor")).transpose()?,
    })
}

#[allow(deprecated)] // older callers still name profiles in the string fields
pub(super) fn container_security(
    context: v1::LinuxContainerSecurityContext,
) -> Result<ContainerSecurity> {
    let v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
        apparmor_profile,
        seccomp_profile_path,
    } = context;
    let run_as_user = id("run_as_user", run_as_user)?;
    let run_as_group = id("run_as_group", run_as_group)?;
    let nobody = run_as_user.is_none() && run_as_username.is_empty();
    let alone = run_as_group.is_some() && nobody;
    refuse("run_as_group", alone, "needs run_as_user or run_as_username")?;
    Ok(ContainerSecurity {
        capabilities: capabilities_in(capabilities.unwrap_or_default()).within("capabilities")?,
        privileged,
        namespaces: namespaces(namespace_options, Scope::Container).within("namespace_options")?,
        selinux: selinux(selinux_options).within("selinux_options")?,
        run_as_user,
        run_as_group,
        run_as_username: username(run_as_username)?,
        readonly_rootfs,
        supplemental_groups: all("supplemental_groups", supplemental_groups, group)?,
        supplemental_groups_policy: policy(supplemental_groups_policy)?,
        no_new_privs,
        masked_paths: all("masked_paths", masked_paths, container_path)?,
        readonly_paths: all("readonly_paths", readonly_paths, container_path)?,
        seccomp: match seccomp {
            Some(profile) => Some(typed(profile, seccomp_file).within("seccomp")?),
            None => named("seccomp_profile_path", &seccomp_profile_path, seccomp_file)?,
        },
        apparmor: match apparmor {
            Some(profile) => Some(typed(profile, apparmor_name).within("apparmor")?),
            None => named("apparmor_profile", &apparmor_profile, apparmor_name)?,
        },
    })
}

fn namespaces(options: Option<v1::NamespaceOption>, scope: Scope) -> Result<NamespaceOptions> {
    let v1::NamespaceOption { network, pid, ipc, target_id, userns_options } =
        options.unwrap_or_default();
    let pid = mode("pid", pid)?;
    let target = pid == NamespaceMode::Target;
    refuse("pid", target && scope == Scope::Pod, "a pod cannot have the mode TARGET")?;
    refuse("target_id", target && target_id.is_empty(), "must not be empty with pid TARGET")?;
    refuse("target_id", !target && !target_id.is_empty(), "is allowed with pid TARGET only")?;
    Ok(NamespaceOptions {
        network: pod_or_node("network", network)?,
        pid,
        ipc: pod_or_node("ipc", ipc)?,
        target_id,
        userns: userns_options.map(user_namespace).transpose().within("userns_options")?,
    })
}

fn mode(field: &str, number: i32) -> Result<NamespaceMode> {
    Ok(match known::<v1::NamespaceMode>(field, number)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => NamespaceMode::Target,
    })
}

fn pod_or_node(field: &str, number: i32) -> Result<NamespaceMode> {
    let mode = mode(field, number)?;
    let fits = matches!(mode, NamespaceMode::Pod | NamespaceMode::Node);
    refuse(field, !fits, "must be POD or NODE")?;
    Ok(mode)
}

/// A pod's own user namespace has one range of UIDs and one of GIDs, both starting at 0 and of
/// equal length, and not containing the host's root.
fn user_namespace(options: v1::UserNamespace) -> Result<UserNamespace> {
    let v1::UserNamespace { mode: number, uids, gids } = options;
    let mode = pod_or_node("mode", number)?;
    let (uids, gids) = (uids.iter().map(id_mapping), gids.iter().map(id_mapping));
    let userns = UserNamespace { mode, uids: uids.collect(), gids: gids.collect() };
    for (field, list) in [("uids", &userns.uids), ("gids", &userns.gids)] {
        match (mode, list.as_slice()) {
            (NamespaceMode::Pod, [mapping]) => id_range(*mapping).within(field)?,
            (NamespaceMode::Pod, _) => refuse(field, true, "must be exactly one mapping")?,
            _ => refuse(field, !list.is_empty(), "must be empty with mode NODE")?,
        }
    }
    let length = |list: &[IdMapping]| list.first().map(|mapping| mapping.length);
    let differ = length(&userns.uids) != length(&userns.gids);
    refuse("gids", differ, "must be as long as uids")?;
    Ok(userns)
}

/// A mapping, unchecked.
pub(super) fn id_mapping(mapping: &v1::IdMapping) -> IdMapping {
    let v1::IdMapping { host_id, container_id, length } = *mapping;
    IdMapping { host_id, container_id, length }
}

fn id_range(mapping: IdMapping) -> Result<()> {
    let IdMapping { host_id, container_id, length } = mapping;
    refuse("length", length == 0, "must not be 0")?;
    refuse("container_id", container_id != 0, "must be 0: the root of the pod has to be mapped")?;
    refuse("host_id", host_id == 0, "must not be 0: the host's root cannot be a pod's user")?;
    // The highest id is reserved for "no id".
    let fits = host_id.checked_add(length).is_some();
    refuse("length", !fits, "goes beyond the highest id")
}

/// Refuses ids above the signed 32-bit range: other runtimes have wrapped them to 0.
fn id(field: &str, value: Option<v1::Int64Value>) -> Result<Option<u32>> {
    value.map(|v1::Int64Value { value }| number(value).within(field)).transpose()
}

fn group(value: i64) -> Result<u32> {
    number(value)
}

fn number(value: i64) -> Result<u32> {
    i32::try_from(value)
        .ok()
        .and_then(|v| u32::try_from(v).ok())
        .ok_or_else(|| Invalid::new("", format_args!("{value} is not within 0 and {}", i32::MAX)))
}

/// A name in the image's user database; digits only would be an id.
fn username(name: String) -> Result<Option<String>> {
    const FIELD: &str = "run_as_username";
    if name.is_empty() {
        return Ok(None);
    }
    one_line(FIELD, &name)?;
    let bad = name.contains(':') || name.bytes().all(|b| b.is_ascii_digit());
    refuse(FIELD, bad, "must be a user name, without a group and not a number")?;
    Ok(Some(name))
}

fn policy(number: i32) -> Result<SupplementalGroupsPolicy> {
    Ok(match known::<v1::SupplementalGroupsPolicy>("supplemental_groups_policy", number)? {
        v1::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
    })
}

fn selinux(options: Option<v1::SeLinuxOption>) -> Result<Option<SelinuxOptions>> {
    let Some(v1::SeLinuxOption { user, role, r#type: kind, level }) = options else {
        return Ok(None);
    };
    for (field, text) in [("user", &user), ("role", &role), ("type", &kind), ("level", &level)] {
        one_line(field, text)?;
    }
    Ok(Some(SelinuxOptions { user, role, kind, level }))
}

fn capabilities_in(capabilities: v1::Capability) -> Result<Capabilities> {
    let v1::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        capabilities;
    if !add_ambient_capabilities.is_empty() {
        // As in containerd and CRI-O, they are never granted.
        tracing::debug!(?add_ambient_capabilities, "ignoring ambient capabilities");
    }
    Ok(Capabilities {
        add: all("add_capabilities", add_capabilities, capability)?,
        drop: all("drop_capabilities", drop_capabilities, capability)?,
    })
}

/// Whether the kernel has it and the agent can grant it is checked when the spec is built.
fn capability(name: String) -> Result<String> {
    security::capability_name(&name)
        .ok_or_else(|| Invalid::new("", format_args!("{name:?} cannot be a capability")))
}

fn container_path(path: String) -> Result<String> {
    absolute_path("", &path)?;
    Ok(path)
}

/// Checks the reference of a `Localhost` profile.
type CheckRef = fn(&str, &str) -> Result<()>;

fn seccomp_file(field: &str, path: &str) -> Result<()> {
    absolute_path(field, path)
}

fn apparmor_name(field: &str, name: &str) -> Result<()> {
    one_line(field, name)?;
    refuse(field, name.contains(".."), "must not contain ..")
}

/// Prefix of a local profile's name in the string form.
const LOCAL: &str = "localhost/";

fn typed(profile: v1::SecurityProfile, check: CheckRef) -> Result<SecurityProfile> {
    use v1::security_profile::ProfileType;
    let v1::SecurityProfile { profile_type, localhost_ref } = profile;
    let stray = |profile| {
        let problem = "is allowed with profile_type Localhost only";
        refuse("localhost_ref", !localhost_ref.is_empty(), problem).map(|()| profile)
    };
    match known("profile_type", profile_type)? {
        ProfileType::RuntimeDefault => stray(SecurityProfile::RuntimeDefault),
        ProfileType::Unconfined => stray(SecurityProfile::Unconfined),
        ProfileType::Localhost => {
            let reference = localhost_ref.strip_prefix(LOCAL).unwrap_or(&localhost_ref);
            local("localhost_ref", reference, check)
        }
    }
}

/// The deprecated string form. Anything unknown is an error, so that nothing runs unconfined by
/// mistake.
fn named(field: &str, text: &str, check: CheckRef) -> Result<Option<SecurityProfile>> {
    Ok(match text {
        "" => None,
        "runtime/default" | "docker/default" => Some(SecurityProfile::RuntimeDefault),
        "unconfined" => Some(SecurityProfile::Unconfined),
        other => match other.strip_prefix(LOCAL) {
            Some(reference) => Some(local(field, reference, check)?),
            None => return Err(Invalid::new(field, format_args!("unknown profile {other:?}"))),
        },
    })
}

fn local(field: &str, reference: &str, check: CheckRef) -> Result<SecurityProfile> {
    filled(field, reference)?;
    check(field, reference)?;
    Ok(SecurityProfile::Localhost(reference.to_owned()))
}
