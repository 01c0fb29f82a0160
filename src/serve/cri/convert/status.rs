//! Converts states of sandboxes and containers for answers.

use std::collections::BTreeMap;

use super::image::image_spec;
use super::resources::resources_out;
use super::signal::signal_out;
use crate::container::{Container, ContainerState, EndReason, EventKind};
use crate::model::container::{ContainerMetadata, Mount, Propagation};
use crate::model::pod::PodMetadata;
use crate::model::security::{IdMapping, NamespaceMode, NamespaceOptions, UserNamespace};
use crate::oci::user::ResolvedUser;
use crate::proto::runtime::v1;
use crate::sandbox::{Event, Sandbox, SandboxState};

/// The status of a sandbox.
pub fn sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let config = &sandbox.config;
    let options = namespaces(&config.security.namespaces);
    v1::PodSandboxStatus {
        id: sandbox.id.to_string(),
        metadata: Some(pod_metadata(&config.metadata)),
        state: sandbox_state(&sandbox.state).into(),
        created_at: sandbox.created_at,
        network: Some(network(sandbox)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(options) }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.handler.clone(),
    }
}

/// A sandbox in a list.
pub fn sandbox_item(sandbox: &Sandbox) -> v1::PodSandbox {
    let config = &sandbox.config;
    v1::PodSandbox {
        id: sandbox.id.to_string(),
        metadata: Some(pod_metadata(&config.metadata)),
        state: sandbox_state(&sandbox.state).into(),
        created_at: sandbox.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.handler.clone(),
    }
}

/// The requested image, with the name used in the image store: a kubelet requests images by id and
/// displays this name.
fn container_image(container: &Container) -> v1::ImageSpec {
    v1::ImageSpec { image: container.image_name.clone(), ..image_spec(&container.config.image) }
}

/// The status of a container. Times are 0 until the event has happened.
pub fn container_status(container: &Container) -> v1::ContainerStatus {
    let config = &container.config;
    let life = Life::of(&container.state);
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(container_metadata(&config.metadata)),
        state: container_state(&container.state).into(),
        created_at: container.created_at,
        started_at: life.started_at,
        finished_at: life.finished_at,
        exit_code: life.exit_code,
        image: Some(container_image(container)),
        image_ref: container.image_ref.clone(),
        reason: life.reason.to_owned(),
        message: life.message.to_owned(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: mounts(container),
        log_path: match &container.log_path {
            Some(path) => path.to_string_lossy().into_owned(),
            None => String::new(),
        },
        resources: Some(v1::ContainerResources {
            linux: Some(resources_out(&container.resources)),
            windows: None,
        }),
        image_id: container.image_id.to_string(),
        user: Some(v1::ContainerUser { linux: Some(user(&container.user)) }),
        stop_signal: signal_out(container.stop_signal).into(),
    }
}

/// A container in a list.
pub fn container_item(container: &Container) -> v1::Container {
    let config = &container.config;
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: Some(container_metadata(&config.metadata)),
        image: Some(container_image(container)),
        // Unlike in the status: kubelets before 1.30 use this field to find images in use.
        image_ref: container.image_id.to_string(),
        state: container_state(&container.state).into(),
        created_at: container.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: container.image_id.to_string(),
    }
}

/// An event with the state of its pod.
pub fn event(event: &Event) -> v1::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => v1::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => v1::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.container.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: Some(sandbox_status(&event.sandbox)),
        containers_statuses: event
            .containers
            .iter()
            .map(|container| container_status(container))
            .collect(),
    }
}

/// Verbose information under the key that clients of other runtimes read.
pub fn info(facts: &serde_json::Value) -> BTreeMap<String, String> {
    BTreeMap::from([("info".to_owned(), facts.to_string())])
}

/// Exit code when the real one is unknown, because nothing observed the exit.
const UNKNOWN_CODE: i32 = 255;

/// The fields of a status that depend on the container's state.
#[derive(Default)]
struct Life<'a> {
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Life<'a> {
    fn of(state: &'a ContainerState) -> Self {
        match state {
            ContainerState::Creating | ContainerState::Created => Self::default(),
            ContainerState::Running { started_at, pid: _ } => {
                Self { started_at: *started_at, ..Self::default() }
            }
            ContainerState::Exited(exited) => Self {
                started_at: exited.started_at.unwrap_or_default(),
                finished_at: exited.finished_at,
                exit_code: exited.code,
                reason: exited.reason.as_str(),
                message: &exited.message,
            },
            ContainerState::Unknown { started_at } => Self {
                started_at: started_at.unwrap_or_default(),
                exit_code: UNKNOWN_CODE,
                reason: EndReason::Unknown.as_str(),
                ..Self::default()
            },
        }
    }
}

fn sandbox_state(state: &SandboxState) -> v1::PodSandboxState {
    match state {
        SandboxState::Ready { .. } => v1::PodSandboxState::SandboxReady,
        SandboxState::Creating | SandboxState::NotReady => v1::PodSandboxState::SandboxNotready,
    }
}

fn container_state(state: &ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited(_) => v1::ContainerState::ContainerExited,
        ContainerState::Creating | ContainerState::Unknown { .. } => {
            v1::ContainerState::ContainerUnknown
        }
    }
}

/// Always set, since a kubelet treats its absence as an error. Empty for the host network.
fn network(sandbox: &Sandbox) -> v1::PodSandboxNetworkStatus {
    let ips = sandbox.network.as_ref().map_or(&[][..], |network| &network.ips);
    let mut ips = ips.iter().map(ToString::to_string);
    v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    }
}

pub(super) fn pod_metadata(metadata: &PodMetadata) -> v1::PodSandboxMetadata {
    let PodMetadata { name, namespace, uid, attempt } = metadata;
    v1::PodSandboxMetadata {
        name: name.clone(),
        uid: uid.clone(),
        namespace: namespace.clone(),
        attempt: *attempt,
    }
}

pub(super) fn container_metadata(metadata: &ContainerMetadata) -> v1::ContainerMetadata {
    let ContainerMetadata { name, attempt } = metadata;
    v1::ContainerMetadata { name: name.clone(), attempt: *attempt }
}

fn namespaces(options: &NamespaceOptions) -> v1::NamespaceOption {
    let NamespaceOptions { network, pid, ipc, target_id, userns } = options;
    let user_namespace =
        |UserNamespace { mode: kind, uids, gids }: &UserNamespace| v1::UserNamespace {
            mode: mode(*kind).into(),
            uids: uids.iter().map(id_mapping).collect(),
            gids: gids.iter().map(id_mapping).collect(),
        };
    v1::NamespaceOption {
        network: mode(*network).into(),
        pid: mode(*pid).into(),
        ipc: mode(*ipc).into(),
        target_id: target_id.clone(),
        userns_options: userns.as_ref().map(user_namespace),
    }
}

pub(super) fn mode(mode: NamespaceMode) -> v1::NamespaceMode {
    match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target => v1::NamespaceMode::Target,
    }
}

fn id_mapping(mapping: &IdMapping) -> v1::IdMapping {
    let IdMapping { host_id, container_id, length } = *mapping;
    v1::IdMapping { host_id, container_id, length }
}

/// For image mounts the image id is included, as a pull reported it.
fn mounts(container: &Container) -> Vec<v1::Mount> {
    let with_image = |(index, asked)| {
        let mut mount = mount(asked);
        if let (Some(image), Some(id)) = (&mut mount.image, container.mounted_images.get(&index)) {
            image.image_ref = id.to_string();
        }
        mount
    };
    container.config.mounts.iter().enumerate().map(with_image).collect()
}

fn mount(mount: &Mount) -> v1::Mount {
    let Mount {
        container_path,
        host_path,
        readonly,
        selinux_relabel,
        propagation,
        uid_mappings,
        gid_mappings,
        recursive_read_only,
        image,
        image_sub_path,
    } = mount;
    let propagation = match propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: container_path.clone(),
        host_path: host_path.clone(),
        readonly: *readonly,
        selinux_relabel: *selinux_relabel,
        propagation: propagation.into(),
        uid_mappings: uid_mappings.iter().map(id_mapping).collect(),
        gid_mappings: gid_mappings.iter().map(id_mapping).collect(),
        recursive_read_only: *recursive_read_only,
        image: image.as_ref().map(image_spec),
        image_sub_path: image_sub_path.clone(),
        mount_options: Vec::new(),
    }
}

fn user(user: &ResolvedUser) -> v1::LinuxContainerUser {
    v1::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.additional_gids.iter().map(|gid| i64::from(*gid)).collect(),
    }
}
