//! The defaults of the Kubernetes API server, and nothing else (`pkg/apis/core/v1/defaults.go` and
//! the priority of the two system classes).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::core::v1::{
    ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, ObjectFieldSelector, Pod,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, Secret,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::quantity::Quantity;

mod resources;
mod volumes;

/// Default mode of files in volumes of objects.
const FILE_MODE: i32 = 0o644;

/// Sets the namespace of an object, and returns it with the name.
pub(super) fn names(meta: &mut ObjectMeta) -> (String, String) {
    let namespace = meta.namespace.take().filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    meta.namespace = Some(namespace.clone());
    (namespace, meta.name.clone().unwrap_or_default())
}

/// Type of a secret.
pub(super) fn secret(secret: &mut Secret) {
    fill(&mut secret.type_, "Opaque");
}

/// All defaults of a pod.
pub(super) fn pod(pod: &mut Pod) {
    let (_, name) = names(&mut pod.metadata);
    if name.is_empty() {
        pod.metadata.name = None;
    }
    let Some(spec) = &mut pod.spec else { return };
    of_spec(spec);
    for volume in spec.volumes.iter_mut().flatten() {
        volumes::fill(volume);
    }
    let host_network = spec.host_network.unwrap_or(false);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        of_container(container);
        if host_network {
            host_ports(&mut container.ports);
        }
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        of_ephemeral(container);
    }
    if let Some(overhead) = &mut spec.overhead {
        resources::round(overhead);
    }
    resources::of_pod(spec);
}

fn of_spec(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    // Two names of the same field.
    let account = spec.service_account_name.clone().or_else(|| spec.service_account.clone());
    spec.service_account_name = account.filter(|name| !name.is_empty());
    spec.service_account = spec.service_account_name.clone();
    let priority = match spec.priority_class_name.as_deref() {
        Some("system-cluster-critical") => Some(2_000_000_000),
        Some("system-node-critical") => Some(2_000_001_000),
        _ => None,
    };
    spec.priority = spec.priority.or(priority);
}

fn of_container(container: &mut Container) {
    fill(&mut container.image_pull_policy, pull_policy(container.image.as_deref()));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    resources::of_container(container.resources.get_or_insert_default());
    protocols(&mut container.ports);
    of_env(&mut container.env);
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ] {
        probe.iter_mut().for_each(of_probe);
    }
    container.lifecycle.iter_mut().for_each(of_lifecycle);
}

/// Applies the same defaults, except for fields that ephemeral containers must not have.
fn of_ephemeral(container: &mut EphemeralContainer) {
    fill(&mut container.image_pull_policy, pull_policy(container.image.as_deref()));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    protocols(&mut container.ports);
    of_env(&mut container.env);
}

/// `Always` for the tag `latest`, explicit or implied.
fn pull_policy(image: Option<&str>) -> &'static str {
    let image = image.unwrap_or_default();
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest && !name.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

fn protocols(ports: &mut Option<Vec<ContainerPort>>) {
    for port in ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
    }
}

fn host_ports(ports: &mut Option<Vec<ContainerPort>>) {
    for port in ports.iter_mut().flatten() {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

fn of_env(env: &mut Option<Vec<EnvVar>>) {
    for source in env.iter_mut().flatten().filter_map(|variable| variable.value_from.as_mut()) {
        source.field_ref.iter_mut().for_each(of_field);
        if let Some(key) = &mut source.file_key_ref {
            key.optional.get_or_insert(false);
        }
    }
}

fn of_field(field: &mut ObjectFieldSelector) {
    fill(&mut field.api_version, "v1");
}

fn of_probe(probe: &mut Probe) {
    for (field, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.unwrap_or(0) == 0 {
            *field = Some(value);
        }
    }
    probe.http_get.iter_mut().for_each(of_http);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn of_lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        handler.http_get.iter_mut().for_each(of_http);
    }
}

fn of_http(get: &mut HTTPGetAction) {
    fill(&mut get.path, "/");
    fill(&mut get.scheme, "HTTP");
}

/// Sets a missing field; Kubernetes treats an empty text as missing.
fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Amounts by resource.
type Amounts = BTreeMap<String, Text>;

#[cfg(test)]
mod tests;
