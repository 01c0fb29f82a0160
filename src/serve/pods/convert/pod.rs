//! Conversion of a pod.

use k8s_openapi::api::core::v1 as k8s;
use prost_types::Duration;

use super::{condition_status, count, revision, time};
use crate::pod::{PodView, Source};
use crate::proto::podbay::v1;

/// Converts a pod.
pub(in crate::serve::pods) fn pod(view: &PodView) -> v1::Pod {
    let source = match view.source {
        Source::Api => v1::Source::Api,
        Source::File => v1::Source::File,
        Source::Http => v1::Source::Http,
    };
    let (meta, key) = (&view.pod.metadata, view.key());
    let mut shown = v1::Pod {
        namespace: key.namespace,
        name: key.name,
        uid: meta.uid.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        revision: Some(revision(view.revision.clone())),
        source: source.into(),
        created: time(&meta.creation_timestamp),
        deletion_deadline: time(&meta.deletion_timestamp),
        deletion_grace: meta
            .deletion_grace_period_seconds
            .map(|seconds| Duration { seconds, nanos: 0 }),
        // All map keys are text, so this cannot fail.
        object: serde_json::to_string(&*view.pod).unwrap_or_default(),
        ..v1::Pod::default()
    };
    let none = k8s::PodStatus::default();
    let status = view.pod.status.as_ref().unwrap_or(&none);
    if let Some(spec) = &view.pod.spec {
        shown.node = spec.node_name.clone().unwrap_or_default();
        shown.restart_policy = spec.restart_policy.clone().unwrap_or_default();
        shown.containers = containers(spec, status);
    }
    with_status(shown, status)
}

fn with_status(shown: v1::Pod, status: &k8s::PodStatus) -> v1::Pod {
    let phase = match status.phase.as_deref() {
        Some("Pending") => v1::Phase::Pending,
        Some("Running") => v1::Phase::Running,
        Some("Succeeded") => v1::Phase::Succeeded,
        Some("Failed") => v1::Phase::Failed,
        Some("Unknown") => v1::Phase::Unknown,
        _ => v1::Phase::Unspecified,
    };
    let conditions = status.conditions.iter().flatten().map(|condition| v1::Condition {
        r#type: condition.type_.clone(),
        status: condition_status(&condition.status).into(),
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
        last_transition: time(&condition.last_transition_time),
    });
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
    let host_ips = status.host_ips.iter().flatten().map(|ip| ip.ip.clone());
    v1::Pod {
        phase: phase.into(),
        reason: status.reason.clone().unwrap_or_default(),
        message: status.message.clone().unwrap_or_default(),
        conditions: conditions.collect(),
        addresses: or_first(ips.collect(), &status.pod_ip),
        host_addresses: or_first(host_ips.collect(), &status.host_ip),
        qos_class: status.qos_class.clone().unwrap_or_default(),
        started: time(&status.start_time),
        ..shown
    }
}

/// All addresses, or the single one if the list is missing.
fn or_first(all: Vec<String>, first: &Option<String>) -> Vec<String> {
    if all.is_empty() { first.iter().cloned().collect() } else { all }
}

fn containers(spec: &k8s::PodSpec, status: &k8s::PodStatus) -> Vec<v1::Container> {
    let of = |statuses: &Option<Vec<k8s::ContainerStatus>>, name: &str| {
        statuses.iter().flatten().find(|status| status.name == name).cloned()
    };
    let init = spec.init_containers.iter().flatten().map(|asked| {
        let kind = match asked.restart_policy.as_deref() {
            Some("Always") => v1::ContainerKind::Sidecar,
            _ => v1::ContainerKind::Init,
        };
        container(asked, kind, of(&status.init_container_statuses, &asked.name))
    });
    let apps = spec.containers.iter().map(|asked| {
        let status = of(&status.container_statuses, &asked.name);
        container(asked, v1::ContainerKind::App, status)
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|asked| {
        let status = of(&status.ephemeral_container_statuses, &asked.name);
        let plain = k8s::Container {
            name: asked.name.clone(),
            image: asked.image.clone(),
            ..k8s::Container::default()
        };
        container(&plain, v1::ContainerKind::Ephemeral, status)
    });
    init.chain(apps).chain(ephemeral).collect()
}

fn container(
    asked: &k8s::Container,
    kind: v1::ContainerKind,
    status: Option<k8s::ContainerStatus>,
) -> v1::Container {
    let ports = asked.ports.iter().flatten().map(|port| v1::ContainerPort {
        name: port.name.clone().unwrap_or_default(),
        container_port: count(port.container_port),
        host_port: port.host_port.map_or(0, count),
        host_ip: port.host_ip.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref()).into(),
    });
    let shown = v1::Container {
        name: asked.name.clone(),
        kind: kind.into(),
        image: asked.image.clone().unwrap_or_default(),
        ports: ports.collect(),
        ..v1::Container::default()
    };
    let Some(status) = status else { return shown };
    v1::Container {
        image_id: status.image_id,
        container_id: status.container_id.unwrap_or_default(),
        state: status.state.as_ref().and_then(state),
        last_state: status.last_state.as_ref().and_then(state),
        restarts: count(status.restart_count),
        ready: status.ready,
        started: status.started.unwrap_or_default(),
        ..shown
    }
}

fn protocol(protocol: Option<&str>) -> v1::Protocol {
    match protocol {
        None | Some("TCP") => v1::Protocol::Tcp,
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        Some(_) => v1::Protocol::Unspecified,
    }
}

fn state(state: &k8s::ContainerState) -> Option<v1::ContainerState> {
    use v1::container_state::State;
    let state = if let Some(ended) = &state.terminated {
        State::Terminated(v1::ContainerTerminated {
            exit_code: ended.exit_code,
            signal: ended.signal.unwrap_or_default(),
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
            started: time(&ended.started_at),
            finished: time(&ended.finished_at),
            container_id: ended.container_id.clone().unwrap_or_default(),
        })
    } else if let Some(running) = &state.running {
        State::Running(v1::ContainerRunning { started: time(&running.started_at) })
    } else {
        let waiting = state.waiting.as_ref()?;
        State::Waiting(v1::ContainerWaiting {
            reason: waiting.reason.clone().unwrap_or_default(),
            message: waiting.message.clone().unwrap_or_default(),
        })
    };
    Some(v1::ContainerState { state: Some(state) })
}

/// Name of the container of a pod with this id.
pub(in crate::serve::pods) fn container_name(view: &PodView, id: &str) -> Option<String> {
    let status = view.pod.status.as_ref()?;
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut all = lists.into_iter().flatten().flatten();
    let found = all.find(|status| {
        let known = status.container_id.as_deref().unwrap_or_default();
        // The id has the runtime as a prefix: `containerd://ID`.
        known.rsplit('/').next() == Some(id)
    })?;
    Some(found.name.clone())
}
