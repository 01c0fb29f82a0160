//! Statuses of a pod's containers.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, VolumeMountStatus,
};

use super::super::backoff::Policy;
use super::super::observe::Observed;
use super::super::plan::{Job, Role, Wanted, wanted};
use super::super::record::{Instance, Life, State, Termination, Trouble, Unit, User};
use super::super::wishes::Pace;
use super::time;
use crate::board::EndReason;
use crate::ids::ContainerId;
use crate::model::UnixNanos;

/// The container statuses by kind.
#[derive(Default)]
pub(super) struct Statuses {
    pub init: Vec<ContainerStatus>,
    pub apps: Vec<ContainerStatus>,
    pub ephemeral: Vec<ContainerStatus>,
}

impl Statuses {
    /// Ends the containers of an ended pod that were never started, as a kubelet does: apps only if
    /// the pod was initialized, init containers up to the last one that was started.
    pub(super) fn end(&mut self) {
        let last = self.init.last();
        let initialized = last.is_none_or(has_succeeded) || self.apps.iter().any(has_begun);
        if initialized {
            self.apps.iter_mut().for_each(end);
        }
        let begun = self.init.iter().rposition(has_begun).unwrap_or(0);
        self.init.iter_mut().take(begun + 1).for_each(end);
    }
}

/// Whether it was ever started.
fn has_begun(status: &ContainerStatus) -> bool {
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    !waits || status.last_state.is_some()
}

/// Whether it has ever ended successfully.
fn has_succeeded(status: &ContainerStatus) -> bool {
    let mut ends = [&status.state, &status.last_state].into_iter().flatten();
    ends.any(|state| state.terminated.as_ref().is_some_and(|end| end.exit_code == 0))
}

fn end(status: &mut ContainerStatus) {
    if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        return;
    }
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some(EndReason::ContainerStatusUnknown.as_str().to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..ContainerStateTerminated::default()
    };
    let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
    status.state = Some(state);
}

/// Of all containers, in the kubelet's order: init containers as in the spec, others by name.
pub(super) fn statuses(life: &Life, seen: &Observed, now: UnixNanos, policy: &Policy) -> Statuses {
    let none = Unit::default();
    let mut statuses = Statuses::default();
    for wanted in &wanted(life.given.spec()) {
        let unit = life.units.get(wanted.name).unwrap_or(&none);
        let list = match wanted.role {
            Role::Init | Role::Sidecar => &mut statuses.init,
            Role::App => &mut statuses.apps,
            Role::Ephemeral => &mut statuses.ephemeral,
        };
        list.push(status(life, wanted, unit, seen, now, policy));
    }
    statuses.apps.sort_by(|a, b| a.name.cmp(&b.name));
    statuses.ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

fn status(
    life: &Life,
    wanted: &Wanted<'_>,
    unit: &Unit,
    seen: &Observed,
    now: UnixNanos,
    policy: &Policy,
) -> ContainerStatus {
    let (state, last) = states(life, wanted, unit, seen, now, policy);
    let current = unit.current.as_ref();
    let running = state.running.is_some();
    let succeeded = unit.ended().is_some_and(|end| end.code == 0);
    let allocated = current.map(|_| wanted.resources());
    let actual = current.filter(|current| current.is_live());
    let actual = actual.and_then(|current| current.resources.as_deref().cloned());
    let ready = match wanted.role {
        Role::Init => succeeded,
        Role::Sidecar | Role::App => running && current.is_some_and(|current| current.ready),
        Role::Ephemeral => false,
    };
    let started = running && current.is_some_and(|current| current.started);
    ContainerStatus {
        name: wanted.name.to_owned(),
        image: current.map_or(wanted.image(), Instance::shown_image).to_owned(),
        image_id: current.map(|current| current.image_id.clone()).unwrap_or_default(),
        container_id: current.map(|current| named(&current.id)),
        restart_count: i32::try_from(unit.restarts()).unwrap_or(i32::MAX),
        ready,
        started: (wanted.role != Role::Ephemeral).then_some(started),
        state: Some(state),
        last_state: last,
        allocated_resources: allocated.as_ref().and_then(|own| own.requests.clone()),
        resources: actual.or(allocated),
        stop_signal: current.and_then(|current| current.stop_signal.clone()),
        volume_mounts: mounts(wanted, seen),
        user: current.and_then(|current| current.user.as_ref()).map(user),
        ..ContainerStatus::default()
    }
}

/// The mounts of a container, including whether submounts are read-only too.
fn mounts(wanted: &Wanted<'_>, seen: &Observed) -> Option<Vec<VolumeMountStatus>> {
    let mounts = wanted.container.volume_mounts.iter().flatten().map(|mount| {
        let recursive = match mount.recursive_read_only.as_deref() {
            Some("Enabled") => "Enabled",
            Some("IfPossible") if seen.recursive_read_only => "Enabled",
            _ => "Disabled",
        };
        let read_only = mount.read_only.filter(|it| *it);
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only.map(|_| recursive.to_owned()),
            ..VolumeMountStatus::default()
        }
    });
    Some(mounts.collect()).filter(|mounts: &Vec<_>| !mounts.is_empty())
}

fn user(user: &User) -> ContainerUser {
    let linux = LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: Some(user.groups.iter().map(|gid| i64::from(*gid)).collect()),
    };
    ContainerUser { linux: Some(linux) }
}

fn states(
    life: &Life,
    wanted: &Wanted<'_>,
    unit: &Unit,
    seen: &Observed,
    now: UnixNanos,
    policy: &Policy,
) -> (ContainerState, Option<ContainerState>) {
    let ended_before = unit.last.as_ref().map(terminated);
    let waiting_since_end = || unit.ended().map(terminated).or_else(|| ended_before.clone());
    if !life.is_ending()
        && let Some(trouble) = &unit.trouble
    {
        return (waiting_for(trouble, wanted, now), waiting_since_end());
    }
    let current = unit.current.as_ref();
    match current.map(|current| (&current.state, current)) {
        Some((State::Running { started_at }, current)) if !current.post_start_due => {
            let running = ContainerStateRunning { started_at: time(*started_at) };
            let state = ContainerState { running: Some(running), ..ContainerState::default() };
            (state, ended_before)
        }
        Some((State::Ended(end), _)) => {
            let starts = seen.is_busy(&Job::Start(wanted.name.to_owned()));
            if !life.is_ending()
                && !starts
                && let Some(state) = crash_loop(life, wanted, unit, end, now, policy)
            {
                return (state, Some(terminated(end)));
            }
            (terminated(end), ended_before)
        }
        _ => {
            let has_inits = life.given.spec().init_containers.as_ref();
            let inits = has_inits.is_some_and(|inits| !inits.is_empty());
            let reason = if inits { "PodInitializing" } else { "ContainerCreating" };
            (waiting(reason, None), ended_before)
        }
    }
}

/// Whether it waits for its back-off, and the state to show for that.
fn crash_loop(
    life: &Life,
    wanted: &Wanted<'_>,
    unit: &Unit,
    end: &Termination,
    now: UnixNanos,
    policy: &Policy,
) -> Option<ContainerState> {
    if !wanted.restarts(end.code) || unit.again.is_some() {
        return None;
    }
    let backoff = unit.backoff?;
    let pace = Pace::of(&life.given.pod, policy);
    if pace.exempts(end.code) {
        return None;
    }
    backoff.until(end.finished_at, &pace.policy).filter(|until| *until > now)?;
    let meta = &life.given.pod.metadata;
    let message = format!(
        "back-off {} restarting failed container={} pod={}_{}({})",
        go_duration(backoff.pause),
        wanted.name,
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        life.uid
    );
    Some(waiting("CrashLoopBackOff", Some(message)))
}

/// Formats a duration as Go does: `10s`, `2m40s`, `5m0s`.
fn go_duration(pause: std::time::Duration) -> String {
    let (minutes, seconds) = (pause.as_secs() / 60, pause.as_secs() % 60);
    match (minutes, pause.as_millis() % 1000) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{}s", pause.as_secs_f64()),
        _ => format!("{minutes}m{seconds}s"),
    }
}

/// A failed pull is shown as an error first, later as a back-off.
fn waiting_for(trouble: &Trouble, wanted: &Wanted<'_>, now: UnixNanos) -> ContainerState {
    if trouble.turns_at().is_some_and(|at| at <= now) {
        let message = format!(
            "Back-off pulling image {:?}: {}: {}",
            wanted.image(),
            trouble.reason,
            trouble.message
        );
        return waiting("ImagePullBackOff", Some(message));
    }
    waiting(trouble.reason.as_str(), Some(trouble.message.clone()))
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(end: &Termination) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: Some(named(&end.id)),
        exit_code: end.code,
        reason: Some(end.reason.as_str().to_owned()),
        message: Some(end.message.clone()).filter(|text| !text.is_empty()),
        started_at: end.started_at.and_then(time),
        finished_at: time(end.finished_at),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn named(id: &ContainerId) -> String {
    format!("containerd://{id}")
}
