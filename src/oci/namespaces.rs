//! Namespaces of pause and of containers.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};

use super::{ContainerInput, Error};
use crate::backend::CgroupVersion;
use crate::model::pod::PodConfig;
use crate::model::security::NamespaceMode;

/// The namespaces of a running pod, for its containers to join.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodNamespaces {
    /// PID of the pause process on the host, known to be alive.
    pub pause_pid: u32,
    /// The pinned network namespace; `None` is the host's.
    pub netns: Option<PathBuf>,
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
pub(super) fn of_pause(pod: &PodConfig, netns: Option<&Path>) -> Vec<LinuxNamespace> {
    let modes = &pod.security.namespaces;
    let mut list = vec![own(Kind::Mount)];
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

/// User namespaces are refused for now rather than silently left out. Network namespaces would
/// have to be made inside them.
pub(super) fn check_user_namespace(
    field: &str,
    options: &crate::model::security::NamespaceOptions,
) -> Result<(), Error> {
    match &options.userns {
        Some(userns) if userns.mode != NamespaceMode::Node => Err(Error::invalid(
            format!("{field}.namespace_options.userns_options"),
            "this runtime handler does not support user namespaces",
        )),
        _ => Ok(()),
    }
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
        assert_eq!(listed(&of_pause(&f.pod, None)), ["mnt"]);
    }

    #[test]
    fn pause_always_has_a_pid_namespace_of_its_own_except_on_the_host() {
        for mode in [NamespaceMode::Pod, NamespaceMode::Container] {
            let mut f = Fixture::new();
            f.pod.security.namespaces.pid = mode;
            assert_eq!(
                listed(&of_pause(&f.pod, Some(Path::new("/run/netns/cni-1")))),
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
}
