//! Parses list filters. An empty id selects everything, like a missing one.

use super::{Result, known};
use crate::model::Owner;
use crate::proto::runtime::v1;
use crate::{container, sandbox};

/// Parses a filter for sandboxes.
pub fn sandbox_filter(filter: Option<v1::PodSandboxFilter>) -> Result<sandbox::Filter> {
    let v1::PodSandboxFilter { id, state, label_selector } = filter.unwrap_or_default();
    let ready = match state {
        None => None,
        Some(v1::PodSandboxStateValue { state }) => {
            let state: v1::PodSandboxState = known("filter.state.state", state)?;
            Some(state == v1::PodSandboxState::SandboxReady)
        }
    };
    let owner = Some(Owner::Cri);
    Ok(sandbox::Filter { id: given(id), ready, labels: label_selector, owner })
}

/// Parses a filter for containers.
pub fn container_filter(filter: Option<v1::ContainerFilter>) -> Result<container::Filter> {
    use container::StateName;
    let v1::ContainerFilter { id, state, pod_sandbox_id, label_selector } =
        filter.unwrap_or_default();
    let state = match state {
        None => None,
        Some(v1::ContainerStateValue { state }) => {
            Some(match known("filter.state.state", state)? {
                v1::ContainerState::ContainerCreated => StateName::Created,
                v1::ContainerState::ContainerRunning => StateName::Running,
                v1::ContainerState::ContainerExited => StateName::Exited,
                v1::ContainerState::ContainerUnknown => StateName::Unknown,
            })
        }
    };
    Ok(container::Filter {
        id: given(id),
        state,
        pod: given(pod_sandbox_id),
        labels: label_selector,
        owner: Some(Owner::Cri),
    })
}

/// Parses a filter for container statistics.
pub fn container_stats_filter(filter: Option<v1::ContainerStatsFilter>) -> container::Filter {
    let v1::ContainerStatsFilter { id, pod_sandbox_id, label_selector } =
        filter.unwrap_or_default();
    container::Filter {
        id: given(id),
        state: None,
        pod: given(pod_sandbox_id),
        labels: label_selector,
        owner: Some(Owner::Cri),
    }
}

/// Parses a filter for sandbox statistics, which selects only ready sandboxes.
pub fn pod_stats_filter(filter: Option<v1::PodSandboxStatsFilter>) -> sandbox::Filter {
    let v1::PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
    let owner = Some(Owner::Cri);
    sandbox::Filter { id: given(id), ready: Some(true), labels: label_selector, owner }
}

/// The one image to select.
pub fn image_filter(filter: Option<v1::ImageFilter>) -> Option<String> {
    given(filter?.image?.image)
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
