//! Parses `PodSandboxConfig`.

use super::resources::sums;
use super::security::pod_security;
use super::{
    Invalid, Result, Within, absolute_path, all, known, name, no_climbing, one_line, refuse,
    required, word,
};
use crate::model::pod::{DnsConfig, PodConfig, PodMetadata, PortMapping, Protocol};
use crate::proto::runtime::v1;

/// The sandbox configuration in a request.
pub fn pod_config(config: Option<v1::PodSandboxConfig>) -> Result<PodConfig> {
    checked(required("config", config)?).within("config")
}

fn checked(config: v1::PodSandboxConfig) -> Result<PodConfig> {
    let v1::PodSandboxConfig {
        metadata,
        hostname,
        log_directory,
        dns_config,
        port_mappings,
        labels,
        annotations,
        linux,
        windows,
    } = config;
    refuse("windows", windows.is_some(), "is not supported on Linux")?;
    check_hostname(&hostname)?;
    let log_directory = match log_directory {
        none if none.is_empty() => None,
        path => Some(absolute_path("log_directory", &path).map(|()| path.into())?),
    };
    let ports = all("port_mappings", port_mappings, port_mapping)?;
    let mut pod = PodConfig {
        metadata: pod_metadata(required("metadata", metadata)?).within("metadata")?,
        hostname,
        log_directory,
        dns: dns_config.map(dns).transpose().within("dns_config")?,
        port_mappings: ports.into_iter().flatten().collect(),
        labels,
        annotations,
        ..PodConfig::default()
    };
    linux_part(&mut pod, linux.unwrap_or_default()).within("linux")?;
    Ok(pod)
}

fn linux_part(pod: &mut PodConfig, linux: v1::LinuxPodSandboxConfig) -> Result<()> {
    let v1::LinuxPodSandboxConfig { cgroup_parent, security_context, sysctls, overhead, resources } =
        linux;
    one_line("cgroup_parent", &cgroup_parent)?;
    no_climbing("cgroup_parent", &cgroup_parent)?;
    let context = security_context.unwrap_or_default();
    pod.security = pod_security(context).within("security_context")?;
    // Their values are checked when the sandbox is created, because that depends on its namespaces.
    pod.sysctls = sysctls;
    pod.cgroup_parent = cgroup_parent;
    pod.overhead = sums("overhead", overhead)?;
    pod.resources = sums("resources", resources)?;
    Ok(())
}

fn pod_metadata(metadata: v1::PodSandboxMetadata) -> Result<PodMetadata> {
    let v1::PodSandboxMetadata { name: pod, uid, namespace, attempt } = metadata;
    name("name", &pod)?;
    for (field, text) in [("uid", &uid), ("namespace", &namespace)] {
        // Only a kubelet always sets both.
        if !text.is_empty() {
            name(field, text)?;
        }
    }
    Ok(PodMetadata { name: pod, namespace, uid, attempt })
}

/// Checks that a host name fits the kernel's limit (64 bytes) and one line; empty means the node's.
/// Other rules for names are not the runtime's concern.
fn check_hostname(hostname: &str) -> Result<()> {
    const FIELD: &str = "hostname";
    refuse(FIELD, hostname.len() > 64, "must not be longer than 64 bytes")?;
    let bad = hostname.contains(['\0', '\n', '\r', '/']);
    refuse(FIELD, bad, "must not contain NUL, line breaks or /")
}

fn dns(config: v1::DnsConfig) -> Result<DnsConfig> {
    let v1::DnsConfig { servers, searches, options } = config;
    let entry = |text: String| word("", &text).map(|()| text);
    Ok(DnsConfig {
        servers: all("servers", servers, entry)?,
        searches: all("searches", searches, entry)?,
        options: all("options", options, entry)?,
    })
}

/// `None` for a negative host port, which requests nothing.
fn port_mapping(mapping: v1::PortMapping) -> Result<Option<PortMapping>> {
    let v1::PortMapping { protocol, container_port, host_port, host_ip } = mapping;
    if host_port < 0 {
        return Ok(None);
    }
    Ok(Some(PortMapping {
        protocol: match known("protocol", protocol)? {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port("container_port", container_port)?,
        host_port: port("host_port", host_port)?,
        host_ip: match host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| Invalid::new("host_ip", "is not an IP address"))?),
        },
    }))
}

fn port(field: &str, number: i32) -> Result<u16> {
    u16::try_from(number)
        .map_err(|_| Invalid::new(field, format_args!("{number} is not within 0 and 65535")))
}

/// The pod CIDRs of `UpdateRuntimeConfig`; `None` when there are none.
///
/// Their syntax is checked by the code that uses them, which not every network does.
pub fn pod_cidr(request: v1::UpdateRuntimeConfigRequest) -> Option<String> {
    let v1::UpdateRuntimeConfigRequest { runtime_config } = request;
    let network = runtime_config.and_then(|v1::RuntimeConfig { network_config }| network_config);
    network.map(|v1::NetworkConfig { pod_cidr }| pod_cidr).filter(|cidr| !cidr.is_empty())
}
