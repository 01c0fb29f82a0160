//! A complete container input that the tests of this room modify.

use std::path::PathBuf;

use super::user::ResolvedUser;
use super::{ContainerInput, PauseInput, PodNamespaces, Settings, SharedFiles};
use crate::backend::{CgroupVersion, DeviceNode, HandlerFeatures, HostFacts, RuntimeHandler};
use crate::ids::{ContainerId, PodId};
use crate::model::container::{ContainerConfig, Mount};
use crate::model::image::ImageConfig;
use crate::model::pod::PodConfig;
use crate::model::security::{IdMapping, NamespaceMode, UserNamespace};

pub(super) struct Fixture {
    pub(super) id: ContainerId,
    pub(super) pod_id: PodId,
    pub(super) pod: PodConfig,
    pub(super) config: ContainerConfig,
    pub(super) image: ImageConfig,
    pub(super) user: ResolvedUser,
    pub(super) namespaces: PodNamespaces,
    pub(super) files: SharedFiles,
    pub(super) mounts: Vec<Mount>,
    pub(super) volumes: Vec<(String, PathBuf)>,
    pub(super) devices: Vec<(DeviceNode, String)>,
    pub(super) hostname: String,
    pub(super) facts: HostFacts,
    pub(super) handler: RuntimeHandler,
    pub(super) features: HandlerFeatures,
    pub(super) settings: Settings,
}

impl Fixture {
    /// An ordinary container of an ordinary pod on a cgroup v2 host. The agent has all capabilities
    /// except CAP_SYS_RESOURCE, and its own OOM score.
    pub(super) fn new() -> Self {
        let mut pod = PodConfig::default();
        pod.metadata.name = "web".to_owned();
        pod.metadata.namespace = "default".to_owned();
        pod.metadata.uid = "u-1".to_owned();
        pod.cgroup_parent = "/kubepods/podu-1".to_owned();
        pod.log_directory = Some("/var/log/pods/web".into());
        let mut config = ContainerConfig::default();
        config.metadata.name = "main".to_owned();
        config.command = vec!["/bin/web".to_owned()];
        Self {
            id: ContainerId::try_from("c".repeat(64)).unwrap(),
            pod_id: PodId::try_from("a".repeat(64)).unwrap(),
            pod,
            config,
            image: ImageConfig::default(),
            user: ResolvedUser { uid: 1000, gid: 100, additional_gids: vec![100, 200], home: None },
            namespaces: PodNamespaces {
                pause_pid: 4242,
                netns: Some("/run/netns/cni-1".into()),
                userns: None,
                target_pid: None,
            },
            files: SharedFiles {
                hostname: "/pod/hostname".into(),
                hosts: "/pod/hosts".into(),
                resolv_conf: "/pod/resolv.conf".into(),
                shm: Some("/pod/shm".into()),
            },
            mounts: Vec::new(),
            volumes: Vec::new(),
            devices: Vec::new(),
            hostname: "web".to_owned(),
            facts: facts(),
            handler: RuntimeHandler::default(),
            features: HandlerFeatures { seccomp: true, ..HandlerFeatures::default() },
            settings: Settings::default(),
        }
    }

    /// Makes pod and container privileged.
    pub(super) fn privileged(mut self) -> Self {
        self.pod.security.privileged = true;
        self.config.security.privileged = true;
        self
    }

    /// Uses the host's network, PID and IPC namespaces.
    pub(super) fn host_modes(mut self) -> Self {
        for modes in [&mut self.pod.security.namespaces, &mut self.config.security.namespaces] {
            modes.network = NamespaceMode::Node;
            modes.pid = NamespaceMode::Node;
            modes.ipc = NamespaceMode::Node;
        }
        self.namespaces.netns = None;
        self.files.shm = None;
        self
    }

    /// Gives the pod its own user namespace.
    pub(super) fn user_namespace(mut self) -> Self {
        let line = |host_id| vec![IdMapping { host_id, container_id: 0, length: 65536 }];
        let userns =
            UserNamespace { mode: NamespaceMode::Pod, uids: line(200_000), gids: line(300_000) };
        for modes in [&mut self.pod.security.namespaces, &mut self.config.security.namespaces] {
            modes.userns = Some(userns.clone());
        }
        self.namespaces.userns = Some("/pod/userns".into());
        (self.features.user_namespaces, self.features.id_mapped_mounts) = (true, true);
        self
    }

    pub(super) fn input(&self) -> ContainerInput<'_> {
        ContainerInput {
            id: &self.id,
            pod_id: &self.pod_id,
            pod: &self.pod,
            config: &self.config,
            image: &self.image,
            image_name: "docker.io/library/web:1",
            user: &self.user,
            namespaces: &self.namespaces,
            files: &self.files,
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &self.devices,
            seccomp_profile: None,
            hostname: &self.hostname,
            handler: &self.handler,
            selinux_level: Some("s0:c1,c2"),
            facts: &self.facts,
            features: &self.features,
            settings: &self.settings,
        }
    }

    pub(super) fn pause_input(&self) -> PauseInput<'_> {
        PauseInput {
            id: &self.pod_id,
            pod: &self.pod,
            netns: self.namespaces.netns.as_deref(),
            userns: self.namespaces.userns.as_deref(),
            args: vec!["/pause".to_owned()],
            image_name: "podbay/pause",
            hostname: &self.hostname,
            selinux_level: Some("s0:c1,c2"),
            seccomp_profile: None,
            handler: &self.handler,
            facts: &self.facts,
            settings: &self.settings,
        }
    }
}

fn facts() -> HostFacts {
    let capabilities = [
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ];
    HostFacts {
        kernel: (6, 18),
        arch: "amd64".to_owned(),
        cgroup: CgroupVersion::V2,
        controllers: ["cpu", "cpuset", "memory", "hugetlb", "pids"].map(str::to_owned).to_vec(),
        swap_accounting: true,
        capabilities: capabilities.iter().map(|name| format!("CAP_{name}")).collect(),
        oom_score_adj: -500,
        seccomp: true,
        x32: true,
        ..HostFacts::default()
    }
}
