//! Configurations of pods and containers for verbose statuses: the JSON of `PodSandboxConfig` and
//! `ContainerConfig` as Go encodes it, with numeric enums and without empty fields, as tools for
//! other runtimes expect it.

use serde_json::{Map, Value, json};

use super::resources::resources_out;
use super::signal::signal_out;
use super::status::mode;
use crate::backend::NetworkStatus;
use crate::model::container::{ContainerConfig, ContainerSecurity, Device, ImageSpec, Mount};
use crate::model::pod::{PodConfig, PodSecurity, PortMapping};
use crate::model::resources::Resources;
use crate::model::security::{
    Capabilities, IdMapping, NamespaceOptions, SecurityProfile, SelinuxOptions,
    SupplementalGroupsPolicy, UserNamespace,
};
use crate::proto::runtime::v1;

/// The configuration of a sandbox.
pub fn pod_config_json(config: &PodConfig) -> Value {
    let port = |port: &PortMapping| {
        let PortMapping { protocol, container_port, host_port, host_ip } = port;
        lean(json!({
            "protocol": *protocol as u8, "container_port": container_port, "host_port": host_port,
            "host_ip": host_ip,
        }))
    };
    lean(json!({
        "metadata": lean(json!(config.metadata)),
        "hostname": config.hostname,
        "log_directory": config.log_directory,
        "dns_config": config.dns.as_ref().map(|dns| lean(json!(dns))),
        "port_mappings": list(&config.port_mappings, port),
        "labels": config.labels,
        "annotations": config.annotations,
        "linux": lean(json!({
            "cgroup_parent": config.cgroup_parent,
            "security_context": pod_security(&config.security),
            "sysctls": config.sysctls,
            "overhead": config.overhead.as_ref().map(resources),
            "resources": config.resources.as_ref().map(resources),
        })),
    }))
}

fn pod_security(security: &PodSecurity) -> Value {
    let PodSecurity {
        namespaces: options,
        selinux: labels,
        run_as_user,
        run_as_group,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        privileged,
        seccomp,
        apparmor,
    } = security;
    lean(json!({
        "namespace_options": namespaces(options),
        "selinux_options": labels.as_ref().map(selinux),
        "run_as_user": run_as_user.map(id),
        "run_as_group": run_as_group.map(id),
        "readonly_rootfs": readonly_rootfs,
        "supplemental_groups": supplemental_groups,
        "supplemental_groups_policy": policy(*supplemental_groups_policy),
        "privileged": privileged,
        "seccomp": seccomp.as_ref().map(profile),
        "apparmor": apparmor.as_ref().map(profile),
    }))
}

/// The configuration of a container.
pub fn container_config_json(config: &ContainerConfig) -> Value {
    let env = |(key, value): &(String, String)| json!({ "key": key, "value": value });
    lean(json!({
        "metadata": lean(json!(config.metadata)),
        "image": image(&config.image),
        "command": config.command,
        "args": config.args,
        "working_dir": config.working_dir,
        "envs": list(&config.envs, env),
        "mounts": list(&config.mounts, mount),
        "devices": list(&config.devices, |device: &Device| json!(device)),
        "labels": config.labels,
        "annotations": config.annotations,
        "log_path": config.log_path,
        "stdin": config.stdin,
        "stdin_once": config.stdin_once,
        "tty": config.tty,
        "linux": lean(json!({
            "resources": resources(&config.resources),
            "security_context": container_security(&config.security),
        })),
        "CDI_devices": list(&config.cdi_devices, |name| json!({ "name": name })),
        "stop_signal": config.stop_signal.map(|signal| signal_out(signal) as i32),
    }))
}

fn container_security(security: &ContainerSecurity) -> Value {
    let ContainerSecurity {
        capabilities: asked,
        privileged,
        namespaces: options,
        selinux: labels,
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
    } = security;
    lean(json!({
        "capabilities": capabilities(asked),
        "privileged": privileged,
        "namespace_options": namespaces(options),
        "selinux_options": labels.as_ref().map(selinux),
        "run_as_user": run_as_user.map(id),
        "run_as_group": run_as_group.map(id),
        "run_as_username": run_as_username,
        "readonly_rootfs": readonly_rootfs,
        "supplemental_groups": supplemental_groups,
        "supplemental_groups_policy": policy(*supplemental_groups_policy),
        "no_new_privs": no_new_privs,
        "masked_paths": masked_paths,
        "readonly_paths": readonly_paths,
        "seccomp": seccomp.as_ref().map(profile),
        "apparmor": apparmor.as_ref().map(profile),
    }))
}

fn mount(mount: &Mount) -> Value {
    let Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image: source,
        image_sub_path,
    } = mount;
    lean(json!({
        "container_path": container_path,
        "host_path": host_path,
        "readonly": readonly,
        "selinux_relabel": selinux_relabel,
        "propagation": *propagation as u8,
        "uidMappings": list(uid_mappings, mapping),
        "gidMappings": list(gid_mappings, mapping),
        "recursive_read_only": recursive_read_only,
        "image": source.as_ref().map(image),
        "image_sub_path": image_sub_path,
    }))
}

fn image(spec: &ImageSpec) -> Value {
    lean(json!(spec))
}

/// Resource sums of a pod in the JSON of `ContainerResources`; null when there are none.
pub fn sums_json(limits: Option<&Resources>) -> Value {
    limits.map_or(Value::Null, |limits| json!({ "linux": resources(limits) }))
}

fn resources(limits: &Resources) -> Value {
    let limits = resources_out(limits);
    let page = |page: &v1::HugepageLimit| {
        let v1::HugepageLimit { page_size, limit } = page;
        json!({ "page_size": page_size, "limit": limit })
    };
    lean(json!({
        "cpu_period": limits.cpu_period,
        "cpu_quota": limits.cpu_quota,
        "cpu_shares": limits.cpu_shares,
        "memory_limit_in_bytes": limits.memory_limit_in_bytes,
        "oom_score_adj": limits.oom_score_adj,
        "cpuset_cpus": limits.cpuset_cpus,
        "cpuset_mems": limits.cpuset_mems,
        "hugepage_limits": list(&limits.hugepage_limits, page),
        "unified": limits.unified,
        "memory_swap_limit_in_bytes": limits.memory_swap_limit_in_bytes,
    }))
}

/// Capability names as in requests, without `CAP_`.
fn capabilities(asked: &Capabilities) -> Value {
    let Capabilities { add, drop } = asked;
    let bare = |name: &String| json!(name.strip_prefix("CAP_").unwrap_or(name));
    lean(json!({
        "add_capabilities": list(add, bare),
        "drop_capabilities": list(drop, bare),
    }))
}

fn namespaces(options: &NamespaceOptions) -> Value {
    let NamespaceOptions { network, pid, ipc, target_id, userns } = options;
    let users = |UserNamespace { mode: kind, uids, gids }: &UserNamespace| {
        lean(json!({
            "mode": mode(*kind) as i32, "uids": list(uids, mapping), "gids": list(gids, mapping),
        }))
    };
    lean(json!({
        "network": mode(*network) as i32,
        "pid": mode(*pid) as i32,
        "ipc": mode(*ipc) as i32,
        "target_id": target_id,
        "userns_options": userns.as_ref().map(users),
    }))
}

fn mapping(mapping: &IdMapping) -> Value {
    lean(json!(mapping))
}

fn selinux(options: &SelinuxOptions) -> Value {
    lean(json!(options))
}

fn profile(profile: &SecurityProfile) -> Value {
    use v1::security_profile::ProfileType;
    let (kind, local) = match profile {
        SecurityProfile::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        SecurityProfile::Unconfined => (ProfileType::Unconfined, ""),
        SecurityProfile::Localhost(name) => (ProfileType::Localhost, name.as_str()),
    };
    // If there is a profile, its type is written even if it is 0.
    json!({ "profile_type": kind as i32, "localhost_ref": local })
}

fn policy(policy: SupplementalGroupsPolicy) -> i32 {
    match policy {
        SupplementalGroupsPolicy::Merge => v1::SupplementalGroupsPolicy::Merge as i32,
        SupplementalGroupsPolicy::Strict => v1::SupplementalGroupsPolicy::Strict as i32,
    }
}

/// A number that is set, written even if it is 0.
fn id(number: u32) -> Value {
    json!({ "value": number })
}

/// Results of a network's CNI plugins in containerd's format: interfaces by name.
pub fn network_json(network: &NetworkStatus) -> Value {
    let items = |field: &str| network.result[field].as_array().cloned().unwrap_or_default();
    let (interfaces, addresses) = (items("interfaces"), items("ips"));
    let addresses_of = |index: usize| -> Value {
        let own = addresses.iter().filter(|ip| ip["interface"].as_u64() == Some(index as u64));
        let bare = |ip: &Value| {
            let address = ip["address"].as_str().unwrap_or_default();
            let address = address.split('/').next();
            json!({ "IP": address, "Gateway": ip["gateway"] })
        };
        own.map(bare).collect()
    };
    let named = interfaces.iter().enumerate().map(|(index, interface)| {
        let facts = json!({
            "IPConfigs": addresses_of(index),
            "Mac": interface["mac"],
            "Sandbox": interface["sandbox"],
        });
        (interface["name"].as_str().unwrap_or_default().to_owned(), facts)
    });
    json!({
        "Interfaces": named.collect::<Map<_, _>>(),
        "DNS": network.result["dns"],
        "Routes": network.result["routes"],
    })
}

fn list<T>(items: &[T], one: impl Fn(&T) -> Value) -> Value {
    items.iter().map(one).collect()
}

/// The object without empty fields.
fn lean(object: Value) -> Value {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) => true,
    };
    match object {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| says(value)).collect(),
        other => other,
    }
}
