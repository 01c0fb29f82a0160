//! Namespaces of pause and of containers.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType as Kind,
};

use super::{ContainerInput, Error};
use crate::backend::{CgroupVersion, HandlerFeatures};
use crate::model::pod::PodConfig;
use crate::model::security::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};

/// The namespaces of a running pod, for its containers to join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodNamespaces {
    /// PID of the pause process on the host, known to be alive.
    pub pause_pid: u32,
    /// The pinned network namespace; `None` is the host's.
    pub netns: Option<PathBuf>,
    /// The pinned user namespace; `None` is the host's.
    pub userns: Option<PathBuf>,
    /// PID of the process whose PID namespace a container of mode `Target` joins.
    pub target_pid: Option<u32>,
}

/// A container shares network, host name and IPC of its pod, whatever it asks for itself; its
/// PID namespace is its own choice. What the pod takes from the host is not named at all: the
/// runtime then stays where it is, and no PID has to be trusted for it.
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
                    "the target container does not run",
                )
            })?;
            list.push(join(Kind::Pid, &process_namespace(pid, "pid")));
        }
        // `Node` means the host only in a pod that is itself in the host's PID namespace.
        NamespaceMode::Pod | NamespaceMode::Node => {
            if pod.security.namespaces.pid != NamespaceMode::Node {
                list.push(join(Kind::Pid, &pause("pid")));
            }
        }
    }
    // Hides the host's cgroup tree. A privileged container may see it, and v1 has never hidden
    // it.
    if input.facts.cgroup == CgroupVersion::V2 && !input.config.security.privileged {
        list.push(own(Kind::Cgroup));
    }
    Ok(list)
}

/// Pause holds the namespaces that its containers share, so it has its own of each kind that the
/// pod does not take from the host. That includes PID: it is what dies with the pod.
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

/// Checks what a pod asks of user namespaces: only what its handler can do, and no own one beside
/// a PID or IPC namespace of the host, over which its root has no say.
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

/// Checks that a container asks for the user namespace of its pod.
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

/// The id mappings of a pod's user namespace, or none.
pub(super) fn set_ids(linux: &mut Linux, pod: &PodConfig) {
    if let Some(ids) = pod.id_mappings() {
        linux
            .set_uid_mappings(Some(vec![id_mapping(ids.uids)]))
            .set_gid_mappings(Some(vec![id_mapping(ids.gids)]));
    }
}

/// Checks that all ids of a process are ids of its pod's user namespace.
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

/// A line of an id map as the OCI crate has it.
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
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn listed(list: &[LinuxNamespace]) -> Vec<String> {
        list.iter()
            .map(|ns| match ns.path() {
                Some(path) => format!("{}={}", ns.typ(), path.display()),
                None => ns.typ().to_string(),
            })
            .collect()
    }

    #[test]
    fn a_container_joins_its_pod() {
        let f = Fixture::new();
        assert_eq!(
            listed(&of_container(&f.input()).unwrap()),
            [
                "mnt",
                "net=/run/netns/cni-1",
                "uts=/proc/4242/ns/uts",
                "ipc=/proc/4242/ns/ipc",
                "pid=/proc/4242/ns/pid",
                "cgroup",
            ]
        );
    }

    #[test]
    fn pid_modes() {
        use NamespaceMode::{Container, Node, Pod, Target};
        for (pod_mode, mode, expected) in [
            (Pod, Pod, Some("pid=/proc/4242/ns/pid")),
            (Container, Pod, Some("pid=/proc/4242/ns/pid")),
            (Pod, Container, Some("pid")),
            (Pod, Target, Some("pid=/proc/77/ns/pid")),
            (Node, Node, None),
            (Node, Pod, None),
            (Node, Container, Some("pid")),
            (Pod, Node, Some("pid=/proc/4242/ns/pid")),
        ] {
            let mut f = Fixture::new();
            f.pod.security.namespaces.pid = pod_mode;
            f.config.security.namespaces.pid = mode;
            f.namespaces.target_pid = Some(77);
            let list = listed(&of_container(&f.input()).unwrap());
            let pid = list.iter().find(|ns| ns.starts_with("pid")).map(String::as_str);
            assert_eq!(pid, expected, "pod {pod_mode:?}, container {mode:?}");
        }
    }

    #[test]
    fn a_target_that_does_not_run_is_refused() {
        let mut f = Fixture::new();
        f.config.security.namespaces.pid = NamespaceMode::Target;
        let error = of_container(&f.input()).unwrap_err();
        assert!(matches!(error, Error::Invalid { field, .. } if field.ends_with("target_id")));
    }

    #[test]
    fn host_modes_name_nothing() {
        let f = Fixture::new().host_modes();
        assert_eq!(listed(&of_container(&f.input()).unwrap()), ["mnt", "cgroup"]);
        assert_eq!(listed(&of_pause(&f.pod, None, None)), ["mnt"]);
    }

    #[test]
    fn pause_always_has_a_pid_namespace_of_its_own_except_on_the_host() {
        for mode in [NamespaceMode::Pod, NamespaceMode::Container] {
            let mut f = Fixture::new();
            f.pod.security.namespaces.pid = mode;
            assert_eq!(
                listed(&of_pause(&f.pod, Some(Path::new("/run/netns/cni-1")), None)),
                ["mnt", "pid", "ipc", "net=/run/netns/cni-1", "uts"]
            );
        }
    }

    #[test]
    fn the_cgroup_tree_is_hidden_on_v2_only_and_not_from_the_privileged() {
        let mut f = Fixture::new();
        f.facts.cgroup = CgroupVersion::V1;
        assert!(!listed(&of_container(&f.input()).unwrap()).contains(&"cgroup".to_owned()));
        let f = Fixture::new().privileged();
        assert!(!listed(&of_container(&f.input()).unwrap()).contains(&"cgroup".to_owned()));
    }

    fn line(host_id: u32) -> IdMapping {
        IdMapping { host_id, container_id: 0, length: 65536 }
    }

    #[test]
    fn pause_and_containers_join_the_pods_user_namespace() {
        let f = Fixture::new().user_namespace();
        let pin = Path::new("/pod/userns");
        assert_eq!(listed(&of_container(&f.input()).unwrap())[1], "user=/pod/userns");
        assert_eq!(
            listed(&of_pause(&f.pod, None, Some(pin))),
            ["mnt", "user=/pod/userns", "pid", "ipc"]
        );
    }

    #[test]
    fn a_pods_user_namespace_needs_the_handler_and_own_namespaces() {
        let mut f = Fixture::new().user_namespace();
        assert_eq!(check_pod_userns(&f.pod, &f.features), Ok(()));
        f.features.user_namespaces = false;
        let refused = check_pod_userns(&f.pod, &f.features);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        for name in ["pid", "ipc"] {
            let mut f = Fixture::new().user_namespace();
            let modes = &mut f.pod.security.namespaces;
            *(if name == "pid" { &mut modes.pid } else { &mut modes.ipc }) = NamespaceMode::Node;
            let refused = check_pod_userns(&f.pod, &f.features);
            assert!(
                matches!(&refused, Err(Error::Invalid { field, .. }) if field.ends_with(name)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_container_has_the_user_namespace_of_its_pod() {
        let mut f = Fixture::new().user_namespace();
        let check = |f: &Fixture| check_container_userns(&f.pod, &f.config.security.namespaces);
        assert_eq!(check(&f), Ok(()));
        let same = f.config.security.namespaces.userns.clone().unwrap();
        for other in [
            None,
            Some(UserNamespace { mode: NamespaceMode::Node, ..UserNamespace::default() }),
            Some(UserNamespace { uids: vec![line(1)], ..same.clone() }),
            Some(UserNamespace { gids: vec![line(1)], ..same.clone() }),
            Some(UserNamespace { uids: vec![line(1), line(2)], ..same.clone() }),
            Some(UserNamespace { gids: Vec::new(), ..same.clone() }),
        ] {
            f.config.security.namespaces.userns = other;
            assert!(check(&f).is_err(), "{:?}", f.config.security.namespaces.userns);
        }
        // No options and the node's are the same.
        f.pod.security.namespaces.userns = None;
        f.config.security.namespaces.userns =
            Some(UserNamespace { mode: NamespaceMode::Node, ..UserNamespace::default() });
        assert_eq!(check(&f), Ok(()));
        f.config.security.namespaces.userns = Some(same);
        assert!(check(&f).is_err(), "a container cannot have what its pod has not");
    }

    #[test]
    fn users_must_be_in_the_namespace() {
        let f = Fixture::new().user_namespace();
        assert_eq!(check_ids(&f.pod, 65535, 65535, &[0, 65535]), Ok(()));
        for (uid, gid, group) in [(65536, 0, 0), (0, 65536, 0), (0, 0, 65536)] {
            assert!(check_ids(&f.pod, uid, gid, &[group]).is_err(), "{uid} {gid} {group}");
        }
        assert_eq!(check_ids(&Fixture::new().pod, 65536, 1 << 20, &[1 << 20]), Ok(()));
    }
}
