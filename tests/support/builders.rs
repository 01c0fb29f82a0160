//! Builders of CRI requests with common values.

use podbay::proto::runtime::v1 as cri;

use super::env::TestEnv;

/// A pod sandbox configuration. Dereference `config` for anything without a method.
#[derive(Debug, Clone)]
pub struct Pod {
    pub config: cri::PodSandboxConfig,
}

impl Pod {
    /// A pod of this world: in its cgroup parent, with a log folder of its own.
    pub fn new(env: &TestEnv, name: &str) -> Self {
        let logs = env.log_root().join(name);
        let linux = cri::LinuxPodSandboxConfig {
            cgroup_parent: env.cgroup_parent(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(cri::NamespaceMode::Pod)),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self {
            config: cri::PodSandboxConfig {
                metadata: Some(cri::PodSandboxMetadata {
                    name: name.into(),
                    uid: format!("uid-{name}"),
                    namespace: "test".into(),
                    attempt: 0,
                }),
                hostname: name.into(),
                log_directory: logs.to_string_lossy().into_owned(),
                linux: Some(linux),
                ..Default::default()
            },
        }
    }

    pub fn attempt(mut self, attempt: u32) -> Self {
        self.config.metadata.as_mut().expect("metadata").attempt = attempt;
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.into(), value.into());
        self
    }

    pub fn host_network(mut self) -> Self {
        self.namespaces().network = cri::NamespaceMode::Node.into();
        self
    }

    pub fn namespaces(&mut self) -> &mut cri::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    pub fn security(&mut self) -> &mut cri::LinuxSandboxSecurityContext {
        self.config.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    pub fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self
    }

    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.config.linux.get_or_insert_default().sysctls.insert(key.into(), value.into());
        self
    }

    pub fn dns(mut self, servers: &[&str], searches: &[&str], options: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        self.config.dns_config = Some(cri::DnsConfig {
            servers: owned(servers),
            searches: owned(searches),
            options: owned(options),
        });
        self
    }

    /// Publishes a TCP port.
    pub fn port(mut self, host: u16, container: u16) -> Self {
        self.config.port_mappings.push(cri::PortMapping {
            protocol: cri::Protocol::Tcp.into(),
            container_port: container.into(),
            host_port: host.into(),
            host_ip: String::new(),
        });
        self
    }

    pub fn run(&self) -> cri::RunPodSandboxRequest {
        cri::RunPodSandboxRequest { config: Some(self.config.clone()), ..Default::default() }
    }
}

/// A container configuration.
#[derive(Debug, Clone)]
pub struct Container {
    pub config: cri::ContainerConfig,
}

impl Container {
    /// A container that logs to `<name>.log` in its pod's folder and has its own PID namespace.
    pub fn new(name: &str, image: &str) -> Self {
        let linux = cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces(cri::NamespaceMode::Container)),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self {
            config: cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
                image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
                log_path: format!("{name}.log"),
                linux: Some(linux),
                ..Default::default()
            },
        }
    }

    /// A container that runs this shell script.
    pub fn script(name: &str, image: &str, script: &str) -> Self {
        Self::new(name, image).command(&["/bin/sh", "-c", script])
    }

    /// A container that runs until it is told to stop, and then ends at once with code 0.
    pub fn waiting(name: &str, image: &str) -> Self {
        Self::script(name, image, "trap 'exit 0' TERM; sleep 86400 & wait")
    }

    pub fn command(mut self, words: &[&str]) -> Self {
        self.config.command = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn args(mut self, words: &[&str]) -> Self {
        self.config.args = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn attempt(mut self, attempt: u32) -> Self {
        self.config.metadata.as_mut().expect("metadata").attempt = attempt;
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.config.envs.push(cri::KeyValue { key: key.into(), value: value.as_bytes().to_vec() });
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.config.labels.insert(key.into(), value.into());
        self
    }

    pub fn mount(mut self, host: &str, container: &str, readonly: bool) -> Self {
        self.config.mounts.push(cri::Mount {
            container_path: container.into(),
            host_path: host.into(),
            readonly,
            ..Default::default()
        });
        self
    }

    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    pub fn security(&mut self) -> &mut cri::LinuxContainerSecurityContext {
        self.config.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    pub fn namespaces(&mut self) -> &mut cri::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    pub fn resources(&mut self) -> &mut cri::LinuxContainerResources {
        self.config.linux.get_or_insert_default().resources.get_or_insert_default()
    }

    pub fn privileged(mut self) -> Self {
        self.security().privileged = true;
        self
    }

    pub fn memory_limit(mut self, bytes: i64) -> Self {
        self.resources().memory_limit_in_bytes = bytes;
        self
    }

    pub fn create(&self, pod: &Pod, pod_id: &str) -> cri::CreateContainerRequest {
        cri::CreateContainerRequest {
            pod_sandbox_id: pod_id.into(),
            config: Some(self.config.clone()),
            sandbox_config: Some(pod.config.clone()),
        }
    }
}

/// Network and IPC are the pod's.
fn namespaces(pid: cri::NamespaceMode) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        pid: pid.into(),
        ..Default::default()
    }
}
