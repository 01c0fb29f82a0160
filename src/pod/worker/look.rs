//! Observes a pod: gathers its state from the board, the probes and the actions in progress.

use super::Worker;
use crate::board::{Container, ContainerFilter, ContainerState, Exited, Sandbox, SandboxFilter};
use crate::model::{Owner, StringMap};
use crate::oci::user::ResolvedUser;
use crate::pod::observe::{Observed, Probed, SeenContainer, SeenSandbox};
use crate::pod::plan::wanted;
use crate::pod::record::{Life, State, Termination, User};
use crate::pod::translate::{CONTAINER_NAME_LABEL, POD_UID_LABEL, runtime_handler};

/// Maximum size of a container's termination message, and of those of all containers of a pod.
const LONGEST_MESSAGE: usize = 4096;
const LONGEST_OF_POD: usize = 12 * 1024;

impl Worker {
    pub(super) async fn look(&self, life: &Life) -> Observed {
        let labels = StringMap::from([(POD_UID_LABEL.to_owned(), life.uid.clone())]);
        let owner = Some(Owner::Pod);
        let sandboxes = &self.room.deps.sandboxes;
        let filter = SandboxFilter { labels, owner, ..SandboxFilter::default() };
        let found = sandboxes.list(&filter);
        let mut containers = Vec::new();
        for sandbox in &found {
            let pod = Some(sandbox.id.to_string());
            let filter = ContainerFilter { pod, owner, ..ContainerFilter::default() };
            for container in sandboxes.containers(&filter) {
                containers.extend(self.container(life, &container).await);
            }
        }
        let busy = self.busy.iter().map(|(job, busy)| (job.clone(), busy.deadline)).collect();
        let unwinds =
            self.unwinds.iter().map(|(job, (_, unwind))| (job.clone(), unwind.clone())).collect();
        Observed {
            sandboxes: found.iter().map(|sandbox| self.sandbox(life, sandbox)).collect(),
            containers,
            probes: self.probed(life),
            busy,
            prepared: self.prepared == Some(self.pod.generation()),
            pre_stopped: self.pre_stopped.clone(),
            recursive_read_only: self.supports_recursive(life),
            predecessor: life.follows.as_ref().is_some_and(|uid| self.room.has(uid)),
            preempting: life.preempts.iter().any(|uid| self.room.runs(uid)),
            unwinds,
        }
    }

    /// Whether recursive read-only mounts are possible; `false` for a pod that does not ask.
    fn supports_recursive(&self, life: &Life) -> bool {
        let spec = life.given.spec();
        let asks = wanted(spec).iter().any(|wanted| {
            let mut mounts = wanted.container.volume_mounts.iter().flatten();
            mounts.any(|mount| mount.recursive_read_only.as_deref() == Some("IfPossible"))
        });
        asks && self.room.supports_recursive_read_only(runtime_handler(spec))
    }

    fn sandbox(&self, life: &Life, sandbox: &Sandbox) -> SeenSandbox {
        let network = sandbox.network.as_ref();
        SeenSandbox {
            id: sandbox.id.clone(),
            attempt: sandbox.config.metadata.attempt,
            ready: sandbox.is_ready(),
            // A settled pod was stopped by a previous agent.
            stopped: life.settled || self.stopped.contains(&sandbox.id),
            host_network: sandbox.config.host_network(),
            ips: network.map(|network| network.ips.clone()).unwrap_or_default(),
        }
    }

    async fn container(&self, life: &Life, found: &Container) -> Option<SeenContainer> {
        let name = found.config.labels.get(CONTAINER_NAME_LABEL)?.clone();
        let known = life.units.get(&name).and_then(|unit| unit.current.as_ref());
        let known = known.filter(|known| known.id == found.id).map(|known| &known.state);
        let state = match (&found.state, known) {
            // Its termination message was read already.
            (ContainerState::Exited(_), Some(State::Ended(end))) => State::Ended(end.clone()),
            (ContainerState::Exited(exited), _) => {
                State::Ended(self.termination(life, &name, found, exited).await)
            }
            (ContainerState::Creating | ContainerState::Created, _) => State::Created,
            (ContainerState::Running { started_at, .. }, _) => {
                State::Running { started_at: *started_at }
            }
            (ContainerState::Unknown { .. }, _) => State::Unknown,
        };
        Some(SeenContainer {
            id: found.id.clone(),
            sandbox: found.pod.clone(),
            name,
            attempt: found.config.metadata.attempt,
            created_at: found.created_at,
            image: found.config.image.user_specified_image.clone(),
            image_name: found.image_name.clone(),
            image_id: found.image_ref.clone(),
            stop_signal: found.stop_signal.name(),
            user: Some(user(&found.user)),
            state,
        })
    }

    async fn termination(
        &self,
        life: &Life,
        name: &str,
        container: &Container,
        exited: &Exited,
    ) -> Termination {
        let attempt = container.config.metadata.attempt;
        let said = self.room.deps.volumes.termination_message(&life.uid, name, attempt).await;
        let mut message = said.ok().flatten().unwrap_or_default();
        let spec = wanted(life.given.spec());
        let fallback = spec.iter().find(|wanted| wanted.name == name).is_some_and(|wanted| {
            let policy = wanted.container.termination_message_policy.as_deref();
            policy == Some("FallbackToLogsOnError")
        });
        if message.is_empty() && exited.code != 0 && fallback {
            message = self.room.last_lines(container.log_path.as_deref()).await;
        }
        if message.is_empty() {
            message.clone_from(&exited.message);
        }
        message.truncate(message.floor_char_boundary(longest_message(spec.len())));
        Termination {
            id: container.id.clone(),
            started_at: exited.started_at,
            finished_at: exited.finished_at,
            code: exited.code,
            reason: exited.reason,
            message,
        }
    }

    fn probed(&self, life: &Life) -> std::collections::BTreeMap<String, Probed> {
        let states = self.room.deps.prober.states(&life.uid);
        let one = |(name, state): (String, crate::pod::probe::ProbeState)| {
            let failed = state.failed.map(|failed| {
                let grace = failed.grace.and_then(|seconds| u64::try_from(seconds).ok());
                (failed.killing(&name), grace.map(std::time::Duration::from_secs))
            });
            let probed = Probed {
                id: state.container_id,
                started: state.started,
                ready: state.ready,
                failed,
            };
            (name, probed)
        };
        states.into_iter().map(one).collect()
    }
}

fn user(user: &ResolvedUser) -> User {
    User { uid: user.uid, gid: user.gid, groups: user.additional_gids.clone() }
}

/// Maximum size of each termination message for this number of containers.
fn longest_message(containers: usize) -> usize {
    LONGEST_MESSAGE.min(LONGEST_OF_POD / containers.max(1))
}

#[cfg(test)]
mod tests {
    use super::longest_message;

    #[test]
    fn many_containers_share_the_room_for_last_words() {
        let table = [(0, 4096), (1, 4096), (3, 4096), (4, 3072), (12, 1024)];
        for (containers, longest) in table {
            assert_eq!(longest_message(containers), longest, "{containers}");
        }
    }
}
