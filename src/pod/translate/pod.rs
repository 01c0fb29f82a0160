//! The sandbox of a pod.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

use super::dns::dns;
use super::hostname::{Names, names};
use super::node::NodeFacts;
use super::resources::{overhead, sandbox_resources};
use super::{
    Error, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL, Translated, cgroup, is_sidecar,
    security,
};
use crate::model::StringMap;
use crate::model::pod::{HostAlias, HostsFile, PodConfig, PodMetadata, PortMapping, Protocol};
use crate::model::security::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};
use crate::pod::Given;

/// Number of ids in a pod's user namespace.
const USER_IDS: u32 = 65_536;

/// What the translation of a sandbox needs besides the pod and the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodContext {
    /// Number of earlier sandboxes of the pod.
    pub attempt: u32,
    /// First host id of the pod's user namespace, for a pod that [`wants_user_ids`]; the same in
    /// each attempt.
    pub user_ids: Option<u32>,
}

/// The sandbox's configuration, as a kubelet sends it.
pub fn pod_config(
    given: &Given,
    ctx: PodContext,
    node: &NodeFacts,
) -> Result<Translated<PodConfig>, Error> {
    let (key, spec) = (given.key(), given.spec());
    let uid = given.uid();
    for (field, part) in [("name", &*key.name), ("namespace", &*key.namespace), ("uid", uid)] {
        if !is_plain(part) {
            return Err(Error::Sandbox(format!("metadata.{field}: {part:?} can be no file name")));
        }
    }
    let names = names(spec, &key.name, &key.namespace, node)?;
    let namespaces = namespaces(spec, ctx)?;
    let host_network = namespaces.network == NamespaceMode::Node;
    let mut warnings = Vec::new();
    let meta = &given.pod.metadata;
    let config = PodConfig {
        log_directory: Some(node.log_root.join(format!("{}_{}_{uid}", key.namespace, key.name))),
        dns: Some(dns(spec, &key.namespace, node, &mut warnings)?),
        hosts: Some(hosts(spec, &names)?),
        hostname: if host_network { String::new() } else { names.kernel },
        port_mappings: port_mappings(spec)?,
        labels: labels(meta.labels.clone().unwrap_or_default(), given),
        annotations: meta.annotations.clone().unwrap_or_default(),
        cgroup_parent: cgroup::of_pod(given, node),
        sysctls: sysctls(spec),
        security: security::of_pod(spec, namespaces)?,
        overhead: overhead(spec, node),
        resources: Some(sandbox_resources(spec, node)),
        metadata: PodMetadata {
            name: key.name,
            namespace: key.namespace,
            uid: uid.to_owned(),
            attempt: ctx.attempt,
        },
    };
    Ok(Translated { config, warnings })
}

/// The runtime handler for a pod's sandbox and images: its runtime class; empty for the default.
pub fn runtime_handler(spec: &PodSpec) -> &str {
    spec.runtime_class_name.as_deref().unwrap_or_default()
}

/// Whether a pod has its own user namespace, and so needs unused host ids.
pub fn wants_user_ids(spec: &PodSpec) -> bool {
    spec.host_users == Some(false)
}

/// The first of 65536 unused ids, given the first ids of the used ranges. The first 65536 ids are
/// reserved for the host's own users.
pub fn free_user_ids(taken: &BTreeSet<u32>) -> Option<u32> {
    let last = i32::MAX as u32 / USER_IDS;
    (1..last).map(|range| range * USER_IDS).find(|first| !taken.contains(first))
}

/// Adds the labels by which a kubelet finds its pods.
pub(super) fn labels(mut labels: StringMap, given: &Given) -> StringMap {
    let key = given.key();
    labels.insert(POD_NAME_LABEL.to_owned(), key.name);
    labels.insert(POD_NAMESPACE_LABEL.to_owned(), key.namespace);
    labels.insert(POD_UID_LABEL.to_owned(), given.uid().to_owned());
    labels
}

/// Whether a name is safe as a path component.
pub(super) fn is_plain(name: &str) -> bool {
    let known = |c: char| c != '/' && !c.is_control();
    !matches!(name, "" | "." | "..") && name.chars().all(known)
}

fn namespaces(spec: &PodSpec, ctx: PodContext) -> Result<NamespaceOptions, Error> {
    let host = |wanted: Option<bool>| match wanted {
        Some(true) => NamespaceMode::Node,
        _ => NamespaceMode::Pod,
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    let userns = match (wants_user_ids(spec), ctx.user_ids) {
        (false, _) => None,
        (true, Some(host_id)) => {
            let line = IdMapping { host_id, container_id: 0, length: USER_IDS };
            Some(UserNamespace { mode: NamespaceMode::Pod, uids: vec![line], gids: vec![line] })
        }
        (true, None) => {
            let problem = "spec.hostUsers: no ids are left for users of the pod's own";
            return Err(Error::Sandbox(problem.to_owned()));
        }
    };
    Ok(NamespaceOptions {
        network: host(spec.host_network),
        pid,
        ipc: host(spec.host_ipc),
        target_id: String::new(),
        userns,
    })
}

fn sysctls(spec: &PodSpec) -> StringMap {
    let context = spec.security_context.as_ref();
    let list = context.and_then(|context| context.sysctls.as_ref());
    list.into_iter().flatten().map(|it| (it.name.clone(), it.value.clone())).collect()
}

fn hosts(spec: &PodSpec, names: &Names) -> Result<HostsFile, Error> {
    let alias = |alias: &k8s_openapi::api::core::v1::HostAlias| {
        let bad = |what: &str| Error::Sandbox(format!("spec.hostAliases: {what:?} is refused"));
        let ip = alias.ip.parse().map_err(|_| bad(&alias.ip))?;
        let hostnames = alias.hostnames.clone().unwrap_or_default();
        // Each must be a single word, or it would start another entry.
        let word = |c: char| !c.is_whitespace() && !c.is_control() && c != '#';
        match hostnames.iter().find(|name| name.is_empty() || !name.chars().all(word)) {
            Some(name) => Err(bad(name)),
            None => Ok(HostAlias { ip, hostnames }),
        }
    };
    Ok(HostsFile {
        hostname: names.hostname.clone(),
        domain: names.domain.clone(),
        aliases: spec.host_aliases.iter().flatten().map(alias).collect::<Result<_, _>>()?,
    })
}

/// Ports of the containers that run together with the apps, including those.
pub(super) fn ports(spec: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|it| is_sidecar(it));
    spec.containers.iter().chain(sidecars).flat_map(of_container)
}

/// A port with the same name as an earlier one of the container is omitted.
fn of_container(container: &Container) -> impl Iterator<Item = &ContainerPort> {
    let mut seen = BTreeSet::new();
    container.ports.iter().flatten().filter(move |port| {
        let name = port.name.as_deref().filter(|name| !name.is_empty());
        let name = name.map(str::to_owned).unwrap_or_else(|| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let ip = port.host_ip.as_deref().unwrap_or_default();
            let host = port.host_port.unwrap_or_default();
            format!("{protocol}-{ip}:{}:{host}", port.container_port)
        });
        seen.insert(name)
    })
}

fn port_mappings(spec: &PodSpec) -> Result<Vec<PortMapping>, Error> {
    let refused = |what: String| Error::Sandbox(format!("port {what} cannot be mapped"));
    let number = |port: i32| u16::try_from(port).map_err(|_| refused(port.to_string()));
    ports(spec)
        .map(|port| {
            Ok(PortMapping {
                protocol: protocol(port).ok_or_else(|| refused(format!("{:?}", port.protocol)))?,
                container_port: number(port.container_port)?,
                host_port: number(port.host_port.unwrap_or_default())?,
                host_ip: host_ip(port).map_err(|()| refused(format!("{:?}", port.host_ip)))?,
            })
        })
        .collect()
}

/// Host ports used by a pod, including those in the host network: address (empty for all), protocol
/// and number.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = (String, &'static str, i32)> {
    ports(spec).filter_map(|port| {
        let number = port.host_port.filter(|&number| number > 0)?;
        let ip = host_ip(port).ok()?.filter(|ip| !ip.is_unspecified());
        let ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
        Some((ip, protocol(port)?.as_str(), number))
    })
}

fn protocol(port: &ContainerPort) -> Option<Protocol> {
    match port.protocol.as_deref() {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn host_ip(port: &ContainerPort) -> Result<Option<IpAddr>, ()> {
    match port.host_ip.as_deref() {
        None | Some("") => Ok(None),
        Some(ip) => ip.parse().map(Some).map_err(|_| ()),
    }
}

#[cfg(test)]
mod tests;
