//! Namespaces of pause containers and of other containers.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType as Kind,
};

use super::{ContainerInput, Error};
use crate::backend::{CgroupVersion, HandlerFeatures};
use crate::model::pod::PodConfig;
use crate::model::security::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};

/// The namespaces of a running pod, which its containers join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodNamespaces {
    /// PID of the pause process on the host, known to be alive.
    pub pause_pid: u32,
    /// The pinned network namespace; `None` for the host's.
    pub netns: Option<PathBuf>,
    /// The pinned user namespace; `None` for the host's.
    pub userns: Option<PathBuf>,
    /// PID of the process whose PID namespace a container of mode `Target` joins.
    pub target_pid: Option<u32>,
}

/// A container always shares network, host name and IPC of its pod; only its PID namespace is its
/// own choice. Namespaces that the pod shares with the host are not named: the runtime then stays
/// in them, and no PID need be trusted for it.
pub(super) fn of_container(input: &ContainerInput<'_>) -> Result<Vec<LinuxNamespace>, Error> {
    let pod = input.pod;
    let pause = |name: &str| process_namespace(input.namespaces.pause_pid, name);
    let mut list = vec![own(Kind::Mount)];
    if let Some(userns) = &input.namespaces.userns {
        list.push(join(Kind::User, userns));
    }
    if let Some(netns) = &input.namespaces.netns {
        list.push(join(Kind::Network, netns));
        list.push(join(Kind::Uts, &pause("uts")));
    }
    if pod.security.namespaces.ipc != NamespaceMode::Node {
        list.push(join(Kind::Ipc, &pause("ipc")));
    }
    match input.config.security.namespaces.pid {
        NamespaceMode::Container => list.push(own(Kind::Pid)),
        NamespaceMode::Target => {
            let pid = input.namespaces.target_pid.ok_or_else(|| {
                Error::invalid(
                    "linux.security_context.namespace_options.target_id",
                    "the target container is not running",
                )
            })?;
            list.push(join(Kind::Pid, &process_namespace(pid, "pid")));
        }
        // `Node` means the host's only if the pod itself is in the host's PID namespace.
        NamespaceMode::Pod | NamespaceMode::Node => {
            if pod.security.namespaces.pid != NamespaceMode::Node {
                list.push(join(Kind::Pid, &pause("pid")));
            }
        }
    }
    // A cgroup namespace hides the host's cgroup tree. A privileged container may see it, and on v1
    // it was never hidden.
    if input.facts.cgroup == CgroupVersion::V2 && !input.config.security.privileged {
        list.push(own(Kind::Cgroup));
    }
    Ok(list)
}

/// The pause container holds the namespaces that its containers share, so it has its own of each
/// kind that the pod does not share with the host. This includes PID, in which it is the init
/// process.
pub(super) fn of_pause(
    pod: &PodConfig,
    netns: Option<&Path>,
    userns: Option<&Path>,
) -> Vec<LinuxNamespace> {
    let modes = &pod.security.namespaces;
    let mut list = vec![own(Kind::Mount)];
    if let Some(userns) = userns {
        list.push(join(Kind::User, userns));
    }
    if modes.pid != NamespaceMode::Node {
        list.push(own(Kind::Pid));
    }
    if modes.ipc != NamespaceMode::Node {
        list.push(own(Kind::Ipc));
    }
    if let Some(netns) = netns {
        list.push(join(Kind::Network, netns));
        list.push(own(Kind::Uts));
    }
    list
}

const USERNS: &str = "linux.security_context.namespace_options.userns_options";

/// Checks a pod's user namespace: its handler must support it, and it cannot be combined with the
/// host's PID or IPC namespace, over which its root has no privileges.
pub fn check_pod_userns(pod: &PodConfig, features: &HandlerFeatures) -> Result<(), Error> {
    let modes = &pod.security.namespaces;
    check_mappings(modes)?;
    if modes.id_mappings().is_none() {
        return Ok(());
    }
    for (name, mode) in [("pid", modes.pid), ("ipc", modes.ipc)] {
        if mode == NamespaceMode::Node {
            return Err(Error::invalid(
                format!("linux.security_context.namespace_options.{name}"),
                "cannot be NODE in a pod with a user namespace of its own",
            ));
        }
    }
    if !features.user_namespaces {
        return Err(Error::unsupported(USERNS, "the runtime handler has no user namespaces"));
    }
    Ok(())
}

/// Checks that a container requests the user namespace of its pod.
pub(super) fn check_container_userns(
    pod: &PodConfig,
    options: &NamespaceOptions,
) -> Result<(), Error> {
    check_mappings(options)?;
    if options.id_mappings() == pod.id_mappings() {
        return Ok(());
    }
    Err(Error::invalid(USERNS, "differs from the user namespace of the pod"))
}

fn check_mappings(options: &NamespaceOptions) -> Result<(), Error> {
    let own = |userns: &&UserNamespace| userns.mode != NamespaceMode::Node;
    match options.userns.as_ref().filter(own) {
        Some(userns) if userns.uids.len() != 1 || userns.gids.len() != 1 => {
            Err(Error::invalid(USERNS, "needs exactly one mapping of UIDs and one of GIDs"))
        }
        _ => Ok(()),
    }
}

/// Sets the id mappings of a pod's user namespace, if it has one.
pub(super) fn set_ids(linux: &mut Linux, pod: &PodConfig) {
    if let Some(ids) = pod.id_mappings() {
        linux
            .set_uid_mappings(Some(vec![id_mapping(ids.uids)]))
            .set_gid_mappings(Some(vec![id_mapping(ids.gids)]));
    }
}

/// Checks that all ids of a process are mapped in its pod's user namespace.
pub(super) fn check_ids(pod: &PodConfig, uid: u32, gid: u32, groups: &[u32]) -> Result<(), Error> {
    let Some(ids) = pod.id_mappings() else { return Ok(()) };
    let strange = |id: &u32| *id >= ids.length();
    let (kind, id) = match ([gid].iter().chain(groups).copied().find(strange), uid) {
        (_, uid) if strange(&uid) => ("user", uid),
        (Some(gid), _) => ("group", gid),
        _ => return Ok(()),
    };
    let length = ids.length();
    let problem = format!("{kind} {id} is not among the {length} ids of the pod's user namespace");
    Err(Error::invalid("linux.security_context", problem))
}

/// One mapping in the form of the `oci-spec` crate.
pub(super) fn id_mapping(mapping: IdMapping) -> LinuxIdMapping {
    LinuxIdMappingBuilder::default()
        .host_id(mapping.host_id)
        .container_id(mapping.container_id)
        .size(mapping.length)
        .build()
        .expect("a mapping has nothing that can be missing")
}

fn process_namespace(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{name}"))
}

fn own(kind: Kind) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}

fn join(kind: Kind, path: &Path) -> LinuxNamespace {
    let mut namespace = own(kind);
    namespace.set_path(Some(path.to_owned()));
    namespace
}

#[cfg(test)]
mod tests;
