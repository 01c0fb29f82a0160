//! One container of a pod.

use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;
use serde::Serialize;

use super::env::{Variables, environment};
use super::env_file::EnvFiles;
use super::node::NodeFacts;
use super::pod::{is_plain, labels};
use super::resources::container_resources;
use super::{
    CONTAINER_NAME_LABEL, ContainerRef, DELETION_GRACE_ANNOTATION, Error, GRACE_ANNOTATION,
    HASH_ANNOTATION, MESSAGE_PATH_ANNOTATION, MESSAGE_POLICY_ANNOTATION, PORTS_ANNOTATION,
    PRE_STOP_ANNOTATION, RESTART_COUNT_ANNOTATION, Translated, runtime_handler, security,
};
use crate::model::StringMap;
use crate::model::container::{ContainerConfig, ContainerMetadata, ImageSpec, Mount};
use crate::model::pod::PodConfig;
use crate::model::signal::Signal;
use crate::pod::{Given, wishes};

/// A local image of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// Its id, so that exactly this image is run, whatever the name refers to later.
    pub id: String,
    /// Its `USER`, unparsed.
    pub user: String,
}

/// What the translation of a container needs besides the pod.
#[derive(Debug, Clone)]
pub struct ContainerContext<'a> {
    /// Number of earlier restarts.
    pub restart_count: u32,
    /// Its image.
    pub image: ImageFacts,
    /// Addresses of the pod.
    pub pod_ips: Vec<IpAddr>,
    /// The existing files for its variables.
    pub env_files: EnvFiles,
    /// Its mounts, in order.
    pub mounts: Vec<Mount>,
    /// Id of the container whose processes an ephemeral container sees.
    pub target: Option<String>,
    /// The sandbox's configuration from [`super::pod_config`], whose namespaces it shares.
    pub sandbox: &'a PodConfig,
    /// The node.
    pub node: &'a NodeFacts,
}

/// The container's configuration, as a kubelet sends it.
pub fn container_config(
    given: &Given,
    container: &ContainerRef,
    ctx: &ContainerContext<'_>,
) -> Result<Translated<ContainerConfig>, Error> {
    let kind = container.kind;
    let found = container.find(given.spec());
    let container = &*found.ok_or_else(|| Error::NoContainer(container.name.clone()))?;
    if !is_plain(&container.name) {
        return Err(Error::field("name", format!("{:?} can be no file name", container.name)));
    }
    let Translated { config: envs, warnings } =
        environment(given, container, &ctx.pod_ips, &ctx.env_files, ctx.node)?;
    let variables = Variables::of(&envs);
    let words = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|word| variables.expand(word)).collect()
    };
    let image = container.image.clone().unwrap_or_default();
    let config = ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt: ctx.restart_count },
        image: ImageSpec {
            image: ctx.image.id.clone(),
            annotations: StringMap::new(),
            user_specified_image: image,
            runtime_handler: runtime_handler(given.spec()).to_owned(),
            image_ref: ctx.image.id.clone(),
        },
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs,
        mounts: ctx.mounts.clone(),
        devices: Vec::new(),
        labels: container_labels(given, container),
        annotations: annotations(given, container, ctx.restart_count),
        log_path: Some(log_path(&container.name, ctx.restart_count)),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        resources: container_resources(given, kind, container, ctx.node),
        security: security::of_container(given, container, ctx)?,
        cdi_devices: Vec::new(),
        stop_signal: stop_signal(container)?,
        rlimits: wishes::ulimits(&given.pod, &container.name),
    };
    Ok(Translated { config, warnings })
}

/// Hash of the fields whose change recreates the container: only name and image, because Kubernetes
/// changes nothing else in place.
pub fn hash(container: &Container) -> u64 {
    let image = container.image.as_deref().unwrap_or_default();
    let text = serde_json::json!({ "image": image, "name": container.name }).to_string();
    // 32-bit FNV-1a.
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    u64::from(text.bytes().fold(0x811c_9dc5, step))
}

/// Path of the log, relative to the pod's log directory.
fn log_path(container: &str, restart_count: u32) -> PathBuf {
    [container, &format!("{restart_count}.log")].iter().collect()
}

fn stop_signal(container: &Container) -> Result<Option<Signal>, Error> {
    let asked = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let parsed = asked.map(Signal::parse).transpose();
    parsed.map_err(|error| Error::field("lifecycle.stopSignal", error.to_string()))
}

fn container_labels(given: &Given, container: &Container) -> StringMap {
    let own = [(CONTAINER_NAME_LABEL.to_owned(), container.name.clone())];
    labels(own.into(), given)
}

fn annotations(given: &Given, container: &Container, restart_count: u32) -> StringMap {
    let mut annotations = StringMap::new();
    let mut put = |name: &str, value: String| annotations.insert(name.to_owned(), value);
    put(HASH_ANNOTATION, format!("{:x}", hash(container)));
    put(RESTART_COUNT_ANNOTATION, restart_count.to_string());
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    put(MESSAGE_PATH_ANNOTATION, text(&container.termination_message_path));
    put(MESSAGE_POLICY_ANNOTATION, text(&container.termination_message_policy));
    if let Some(seconds) = given.pod.metadata.deletion_grace_period_seconds {
        put(DELETION_GRACE_ANNOTATION, seconds.to_string());
    }
    if let Some(seconds) = given.spec().termination_grace_period_seconds {
        put(GRACE_ANNOTATION, seconds.to_string());
    }
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(json) = pre_stop.and_then(json) {
        put(PRE_STOP_ANNOTATION, json);
    }
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    if let Some(json) = ports.and_then(json) {
        put(PORTS_ANNOTATION, json);
    }
    annotations
}

fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

#[cfg(test)]
mod tests;
