//! The plan for a pod that is ending.

use super::super::record::Life;
use super::{Action, Job, Planner, Role, wanted};

/// The message of a container that ends with its pod, for whatever reason.
pub(super) fn stopping(name: &str) -> String {
    format!("Stopping container {name}")
}

impl Planner<'_> {
    /// Ends what runs, then the sandboxes, then the node's own work.
    pub(super) fn end(&mut self, life: &mut Life) {
        let deadline = life.deadline().unwrap_or(self.now);
        self.cancel_starts();
        let live = self.end_containers(life, deadline);
        if live {
            self.wake(deadline);
            let unblocks = "the end of its containers, at the latest the end of the grace period";
            return self.wait_until(None, "its containers end", deadline, "", unblocks);
        }
        if self.starting() {
            return self.plan.wait(None, "work under way ends", "the end of this step");
        }
        let mut left = false;
        for sandbox in self.seen.sandboxes.iter().filter(|sandbox| !sandbox.stopped) {
            left = true;
            self.act(Action::StopSandbox { id: sandbox.id.clone() });
        }
        if left {
            return self.plan.wait(None, "stop the pod sandbox", "the end of this step");
        }
        if life.deletion.is_some() {
            self.plan.wait(None, "take away what the pod had", "the end of this step");
            self.act(Action::Finish);
        } else if !life.settled {
            self.plan.wait(None, "take volumes and cgroup away", "the end of this step");
            self.act(Action::Settle);
        }
    }

    /// Cancels starts; those that cannot be cancelled are waited for.
    fn cancel_starts(&mut self) {
        for job in self.seen.busy.keys() {
            if matches!(job, Job::Start(_) | Job::PostStart(_) | Job::Prepare | Job::Sandbox) {
                self.plan.cancel.insert(job.clone());
            }
        }
    }

    fn starting(&self) -> bool {
        let busy = self.seen.busy.keys();
        let begins = |job: &Job| matches!(job, Job::Start(_) | Job::Prepare | Job::Sandbox);
        let mut others =
            busy.filter(|job| begins(job) || matches!(job, Job::Remove(_) | Job::RemoveSandbox(_)));
        others.next().is_some()
    }

    /// Ends apps, init and ephemeral containers at once; sidecars in reverse order when all apps
    /// have ended, or when time is up. Returns whether any is still alive.
    fn end_containers(&mut self, life: &Life, deadline: i64) -> bool {
        let given = life.given.clone();
        let wanted = wanted(given.spec());
        let live: Vec<_> = self.seen.live().cloned().collect();
        let sidecar = |name: &str| {
            let mut sidecars = wanted.iter().filter(|w| w.role == Role::Sidecar);
            sidecars.position(|w| w.name == name)
        };
        // Sidecars do not wait for ephemeral containers.
        let ephemeral =
            |name: &str| wanted.iter().any(|w| w.name == name && w.role == Role::Ephemeral);
        let apps_live = live.iter().any(|it| sidecar(&it.name).is_none() && !ephemeral(&it.name));
        let last = live.iter().filter_map(|container| sidecar(&container.name)).max();
        for container in &live {
            let turn = match sidecar(&container.name) {
                None => true,
                Some(place) => !apps_live && Some(place) == last,
            };
            let hook_runs = self.seen.is_busy(&Job::PreStop(container.id.clone()));
            if (turn && !hook_runs) || self.now >= deadline {
                self.kill(&container.name, &container.id, deadline, &stopping(&container.name));
                continue;
            }
            let has_hook =
                wanted.iter().any(|w| w.name == container.name && w.pre_stop().is_some());
            if has_hook && !self.seen.pre_stopped.contains(&container.id) {
                let (name, id) = (container.name.clone(), container.id.clone());
                self.act(Action::PreStop { name, id, deadline });
            }
        }
        !live.is_empty()
    }
}
