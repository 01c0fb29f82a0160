//! Security contexts: the container's values, else the pod's, else the defaults.

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities as Wanted, Container, PodSecurityContext, PodSpec,
    SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::container::ContainerContext;
use super::node::NodeFacts;
use super::{Error, containers};
use crate::model::container::ContainerSecurity;
use crate::model::pod::PodSecurity;
use crate::model::security::{
    Capabilities, NamespaceMode, NamespaceOptions, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy, capability,
};
use crate::oci::user::{Reference, parse_image_user};
use crate::pod::Given;

/// Paths masked in a container, unless its `procMount` says otherwise.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that are read-only, likewise.
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Annotation by which older pods select a container's AppArmor profile; the container's name
/// follows.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Security context of a sandbox.
pub(super) fn of_pod(spec: &PodSpec, namespaces: NamespaceOptions) -> Result<PodSecurity, Error> {
    let none = PodSecurityContext::default();
    let asked = spec.security_context.as_ref().unwrap_or(&none);
    let run_as_user = id("runAsUser", asked.run_as_user)?;
    Ok(PodSecurity {
        namespaces,
        selinux: asked.se_linux_options.as_ref().map(selinux),
        run_as_user,
        // Every runtime refuses a group without a user, and the pause container needs neither.
        run_as_group: id("runAsGroup", asked.run_as_group)?.filter(|_| run_as_user.is_some()),
        readonly_rootfs: true,
        supplemental_groups: groups(asked)?,
        supplemental_groups_policy: policy(asked)?,
        privileged: containers(spec).any(|(_, container)| privileged(&container)),
        seccomp: Some(SecurityProfile::RuntimeDefault),
        apparmor: None,
    })
}

/// Security context of a container.
pub(super) fn of_container(
    given: &Given,
    container: &Container,
    ctx: &ContainerContext<'_>,
) -> Result<ContainerSecurity, Error> {
    let (no_pod, no_own) = (PodSecurityContext::default(), SecurityContext::default());
    let pod = given.spec().security_context.as_ref().unwrap_or(&no_pod);
    let own = container.security_context.as_ref().unwrap_or(&no_own);

    let run_as_user = id("runAsUser", own.run_as_user.or(pod.run_as_user))?;
    let image_user = image_user(&ctx.image.user)?;
    if own.run_as_non_root.or(pod.run_as_non_root).unwrap_or_default() {
        check_non_root(given, container, run_as_user, &image_user)?;
    }
    let (run_as_user, run_as_username) = match (run_as_user, image_user) {
        (Some(uid), _) | (None, Reference::Id(uid)) => (Some(uid), None),
        (None, Reference::Name(name)) => (None, Some(name)),
    };
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| list.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
    let (masked_paths, readonly_paths) = if unmasked {
        (Vec::new(), Vec::new())
    } else {
        ([paths(&MASKED), ctx.node.masked_paths.clone()].concat(), paths(&READ_ONLY))
    };
    Ok(ContainerSecurity {
        capabilities: own
            .capabilities
            .as_ref()
            .map_or(Ok(Capabilities::default()), capabilities)?,
        privileged: privileged(container),
        namespaces: namespaces(ctx),
        selinux: own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref()).map(selinux),
        run_as_user,
        run_as_group: id("runAsGroup", own.run_as_group.or(pod.run_as_group))?,
        run_as_username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: groups(pod)?,
        supplemental_groups_policy: policy(pod)?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths,
        seccomp: seccomp(own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()), ctx.node)?,
        apparmor: apparmor(given, container, own, pod)?,
    })
}

fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|own| own.privileged).unwrap_or_default()
}

/// The sandbox's namespaces; an ephemeral container may join its target's PID namespace.
fn namespaces(ctx: &ContainerContext<'_>) -> NamespaceOptions {
    let mut namespaces = ctx.sandbox.security.namespaces.clone();
    if let Some(target) = &ctx.target {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target_id.clone_from(target);
    }
    namespaces
}

fn image_user(text: &str) -> Result<Reference, Error> {
    let parsed = parse_image_user(text);
    parsed.map(|image| image.user).map_err(|error| Error::field("image", error.to_string()))
}

fn check_non_root(
    given: &Given,
    container: &Container,
    run_as_user: Option<u32>,
    image_user: &Reference,
) -> Result<(), Error> {
    let what = match (run_as_user, image_user) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (None, Reference::Id(0)) => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, Reference::Name(name)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify \
             user is non-root"
        ),
        (Some(_), _) | (None, Reference::Id(_)) => return Ok(()),
    };
    let (key, uid) = (given.key(), given.uid());
    let pod = format!("{}_{}({uid})", key.name, key.namespace);
    Err(Error::NonRoot(format!("{what} (pod: {pod:?}, container: {})", container.name)))
}

/// OCI runtimes keep ids in a signed 32-bit number.
fn id(field: &str, value: Option<i64>) -> Result<Option<u32>, Error> {
    let fits = |value: i64| i32::try_from(value).ok().and_then(|value| u32::try_from(value).ok());
    let Some(value) = value else { return Ok(None) };
    let problem = || format!("{value} is not within 0 and {}", i32::MAX);
    fits(value).map(Some).ok_or_else(|| Error::field(format!("securityContext.{field}"), problem()))
}

/// The group of the pod's volumes first, then the supplementary groups.
fn groups(pod: &PodSecurityContext) -> Result<Vec<u32>, Error> {
    let mut groups: Vec<u32> = id("fsGroup", pod.fs_group)?.into_iter().collect();
    for &group in pod.supplemental_groups.iter().flatten() {
        groups.extend(id("supplementalGroups", Some(group))?);
    }
    Ok(groups)
}

fn policy(pod: &PodSecurityContext) -> Result<SupplementalGroupsPolicy, Error> {
    match pod.supplemental_groups_policy.as_deref() {
        None | Some("Merge") => Ok(SupplementalGroupsPolicy::Merge),
        Some("Strict") => Ok(SupplementalGroupsPolicy::Strict),
        Some(other) => {
            let problem = format!("unknown policy {other:?}");
            Err(Error::field("securityContext.supplementalGroupsPolicy", problem))
        }
    }
}

fn selinux(asked: &SELinuxOptions) -> SelinuxOptions {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    SelinuxOptions {
        user: text(&asked.user),
        role: text(&asked.role),
        kind: text(&asked.type_),
        level: text(&asked.level),
    }
}

fn capabilities(asked: &Wanted) -> Result<Capabilities, Error> {
    let list = |names: &Option<Vec<String>>| {
        names.iter().flatten().map(|name| known(name)).collect::<Result<Vec<_>, _>>()
    };
    Ok(Capabilities { add: list(&asked.add)?, drop: list(&asked.drop)? })
}

fn known(name: &str) -> Result<String, Error> {
    capability(name).ok_or_else(|| {
        let problem = format!("unknown capability {name:?}");
        Error::field("securityContext.capabilities", problem)
    })
}

fn seccomp(
    asked: Option<&SeccompProfile>,
    node: &NodeFacts,
) -> Result<Option<SecurityProfile>, Error> {
    const FIELD: &str = "securityContext.seccompProfile";
    let Some(asked) = asked else {
        let by_default = SecurityProfile::RuntimeDefault;
        let otherwise = SecurityProfile::Unconfined;
        return Ok(Some(if node.seccomp_default { by_default } else { otherwise }));
    };
    let profile = match asked.type_.as_str() {
        "RuntimeDefault" => SecurityProfile::RuntimeDefault,
        "Unconfined" => SecurityProfile::Unconfined,
        "Localhost" => {
            let file = asked.localhost_profile.as_deref().unwrap_or_default();
            if file.is_empty() {
                let problem = "localhostProfile must be set if seccompProfile type is Localhost.";
                return Err(Error::field(FIELD, problem));
            }
            if file.starts_with('/') || file.split('/').any(|part| part == "..") {
                let problem = format!("localhostProfile {file:?} must be a relative path below");
                return Err(Error::field(FIELD, problem));
            }
            let path = node.seccomp_root.join(file);
            SecurityProfile::Localhost(path.to_string_lossy().into_owned())
        }
        other => return Err(Error::field(FIELD, format!("unknown type {other:?}"))),
    };
    Ok(Some(profile))
}

/// The container's own profile, else that of an annotation, else the pod's.
fn apparmor(
    given: &Given,
    container: &Container,
    own: &SecurityContext,
    pod: &PodSecurityContext,
) -> Result<Option<SecurityProfile>, Error> {
    const FIELD: &str = "securityContext.appArmorProfile";
    let typed = |asked: &AppArmorProfile| match asked.type_.as_str() {
        "RuntimeDefault" => Ok(SecurityProfile::RuntimeDefault),
        "Unconfined" => Ok(SecurityProfile::Unconfined),
        "Localhost" => {
            let name = asked.localhost_profile.as_deref().unwrap_or_default();
            let missing = || Error::field(FIELD, "localhostProfile must be set for Localhost");
            if name.is_empty() {
                Err(missing())
            } else {
                Ok(SecurityProfile::Localhost(name.into()))
            }
        }
        other => Err(Error::field(FIELD, format!("unknown type {other:?}"))),
    };
    if let Some(asked) = &own.app_armor_profile {
        return typed(asked).map(Some);
    }
    let annotations = given.pod.metadata.annotations.as_ref();
    let key = format!("{APPARMOR_ANNOTATION}{}", container.name);
    if let Some(text) = annotations.and_then(|annotations| annotations.get(&key)) {
        return match text.as_str() {
            "" | "runtime/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
            "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
            other => match other.strip_prefix("localhost/").filter(|name| !name.is_empty()) {
                Some(name) => Ok(Some(SecurityProfile::Localhost(name.to_owned()))),
                None => Err(Error::field(key, format!("unknown profile {other:?}"))),
            },
        };
    }
    pod.app_armor_profile.as_ref().map(typed).transpose()
}

#[cfg(test)]
mod tests;
