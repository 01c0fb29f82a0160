//! The plan for a pod that is not ending.

use super::super::backoff::later;
use super::super::observe::{UNKNOWN, doom};
use super::super::record::{Instance, Life, State, Unit};
use super::end::stopping;
use super::restart::{Standing, standing};
use super::{Action, Job, Planner, Restart, Role, Wanted, wanted};
use crate::ids::PodId;

impl Planner<'_> {
    pub(super) fn live(&mut self, life: &mut Life) {
        let given = life.given.clone();
        let wanted = wanted(given.spec());
        let home = self.seen.home().map(|home| home.id.clone());
        if !self.seen.prepared {
            self.prepare(life);
            let begun = home.as_ref().is_some_and(|home| has_begun(life, home));
            // What was prepared once is still there, so a failure stops only pods that begin.
            if life.trouble.is_none() || !begun {
                return self.wait_prepared(life, &wanted, home.as_ref());
            }
        }
        let Some(home) = home else {
            return self.find_home(life, &wanted);
        };
        if changed_init(life, &wanted, &home) {
            return self.restart_pod(life);
        }
        self.stop_others(life, &home);
        self.ephemeral(life, &wanted, &home);
        if self.init(life, &wanted, &home) {
            self.apps(life, &wanted, &home);
        }
        self.care(life, &wanted, &home);
        self.remove_dead(life);
        judge(life, &wanted, &home, self.now);
    }

    /// Looks after what runs while a preparation is under way. A pod whose apps have ended needs none.
    fn wait_prepared(&mut self, life: &mut Life, wanted: &[Wanted<'_>], home: Option<&PodId>) {
        if let Some(home) = home {
            self.care(life, wanted, home);
            judge(life, wanted, home, self.now);
        }
    }

    fn prepare(&mut self, life: &Life) {
        if let Some(trouble) = &life.trouble
            && trouble.next_try > self.now
        {
            let (at, error) = (trouble.next_try, trouble.message.as_str());
            let unblocks = "what its volumes need";
            return self.wait_until(None, "prepare cgroup and volumes", at, error, unblocks);
        }
        if life.units.values().any(ends_for_resize) {
            return self.plan.wait(None, "containers restart with other limits", "their end");
        }
        self.plan.wait(None, "prepare cgroup and volumes", "the end of this step");
        self.act(Action::Prepare);
    }

    /// Handles the lack of a usable sandbox.
    fn find_home(&mut self, life: &mut Life, wanted: &[Wanted<'_>]) {
        if self.end_old(life, None) {
            self.plan.wait(None, "the old sandbox ends", "that end");
            return;
        }
        if !wants_sandbox(life, wanted) {
            let succeeded = wanted.iter().filter(|w| w.role == Role::App).all(|w| {
                life.units.get(w.name).and_then(|u| u.ended()).is_some_and(|end| end.code == 0)
            });
            return life.conclude(succeeded, self.now);
        }
        if self.seen.is_busy(&Job::Sandbox) {
            return self.plan.wait(None, "make the pod sandbox", "the end of this step");
        }
        if let Some(trouble) = &life.trouble
            && trouble.next_try > self.now
        {
            let (at, error) = (trouble.next_try, trouble.message.as_str());
            let unblocks = "a network and runtime that work";
            return self.wait_until(None, "make the pod sandbox", at, error, unblocks);
        }
        self.plan.wait(None, "make the pod sandbox", "the end of this step");
        self.act(Action::RunSandbox { attempt: life.sandboxes });
    }

    /// Restarts a pod whose init container has a new image.
    fn restart_pod(&mut self, life: &Life) {
        self.end_old(life, None);
        self.plan.wait(None, "the pod restarts: an init container has changed", "its end");
    }

    fn stop_others(&mut self, life: &Life, home: &PodId) {
        self.end_old(life, Some(home));
    }

    /// Ends containers in other sandboxes and then those; returns whether any is left.
    fn end_old(&mut self, life: &Life, home: Option<&PodId>) -> bool {
        let deadline = later(self.now, life.grace());
        let old = |sandbox: &PodId| Some(sandbox) != home;
        let live: Vec<_> = self.seen.live().filter(|c| old(&c.sandbox)).cloned().collect();
        for container in &live {
            self.kill(&container.name, &container.id, deadline, &stopping(&container.name));
        }
        let left: Vec<_> =
            self.seen.sandboxes.iter().filter(|s| old(&s.id) && !s.stopped).collect();
        for sandbox in &left {
            if !live.iter().any(|container| container.sandbox == sandbox.id) {
                self.act(Action::StopSandbox { id: sandbox.id.clone() });
            }
        }
        !left.is_empty()
    }

    pub(super) fn kill(
        &mut self,
        name: &str,
        id: &crate::ids::ContainerId,
        deadline: i64,
        why: &str,
    ) {
        let ahead = self.seen.is_busy(&Job::PreStop(id.clone()));
        let pre_stop = !ahead && !self.seen.pre_stopped.contains(id);
        let (name, id) = (name.to_owned(), id.clone());
        self.act(Action::Kill { name, id, deadline, pre_stop, why: why.to_owned() });
    }

    /// Starts init containers and sidecars in order; returns whether the apps may run. Once one has
    /// started, all before it count as done: an init container does not run again, and a sidecar
    /// that has ended is restarted without the others waiting for it.
    fn init(&mut self, life: &mut Life, wanted: &[Wanted<'_>], home: &PodId) -> bool {
        let apps_begun = apps_begun(life, wanted, home);
        let inits = || wanted.iter().filter(|wanted| wanted.role.is_init());
        let furthest = inits().rfind(|init| is_begun(life, init, home)).map(|init| init.name);
        let mut begun = apps_begun || furthest.is_some();
        let mut passed = true;
        for init in inits() {
            begun &= apps_begun || furthest != Some(init.name);
            if !passed || (begun && init.role == Role::Init) {
                if !passed {
                    self.plan.wait(Some(init.name), "those before it", "their success");
                }
                continue;
            }
            passed = self.init_step(life, init, home) || begun;
        }
        if !passed {
            for app in wanted.iter().filter(|wanted| wanted.role == Role::App) {
                self.plan.wait(Some(app.name), "the init containers", "their success");
            }
        }
        passed
    }

    /// Handles one init container or sidecar; returns whether the next one may start.
    fn init_step(&mut self, life: &mut Life, init: &Wanted<'_>, home: &PodId) -> bool {
        match standing(life.units.get(init.name), init, home) {
            Standing::Done { succeeded: true } => true,
            Standing::Done { succeeded: false } => {
                life.conclude(false, self.now);
                false
            }
            Standing::Live if init.role == Role::Sidecar => {
                let current = life.units.get(init.name).and_then(|unit| unit.current.as_ref());
                let up = current.is_some_and(Instance::is_up);
                if !up {
                    let unblocks = "its postStart hook and startup probe";
                    self.plan.wait(Some(init.name), "the sidecar starts", unblocks);
                }
                up
            }
            Standing::Live => {
                self.plan.wait(Some(init.name), "the init container runs", "its success");
                false
            }
            Standing::Due => {
                self.start(life, init, home);
                false
            }
        }
    }

    fn apps(&mut self, life: &mut Life, wanted: &[Wanted<'_>], home: &PodId) {
        for app in wanted.iter().filter(|wanted| wanted.role == Role::App) {
            if standing(life.units.get(app.name), app, home) == Standing::Due {
                self.start(life, app, home);
            }
        }
    }

    /// Starts ephemeral containers, which wait only for the container whose processes they see.
    fn ephemeral(&mut self, life: &mut Life, wanted: &[Wanted<'_>], home: &PodId) {
        for one in wanted.iter().filter(|wanted| wanted.role == Role::Ephemeral) {
            if standing(life.units.get(one.name), one, home) != Standing::Due {
                continue;
            }
            match one.target.filter(|target| !runs(life, target, home)) {
                Some(target) => {
                    let step = format!("its target container {target} runs");
                    self.plan.wait(Some(one.name), step, "the start of that container");
                }
                None => self.start(life, one, home),
            }
        }
    }

    /// Runs hooks of running containers, and ends those that must not continue.
    fn care(&mut self, life: &mut Life, wanted: &[Wanted<'_>], home: &PodId) {
        let (now, grace) = (self.now, life.grace());
        for wanted in wanted {
            let Some(unit) = life.units.get_mut(wanted.name) else { continue };
            let Some(current) = unit.current.as_mut() else { continue };
            if current.sandbox != *home {
                continue;
            }
            // One that has ended for good stays ended, even with a new image.
            let over = match &current.state {
                State::Ended(end) => !wanted.restarts(end.code),
                _ => false,
            };
            if wanted.role.is_lasting() && !over && current.image != wanted.image() {
                let message =
                    format!("Container {} definition changed, will be restarted", wanted.name);
                doom(current, message, grace, now);
                // If it has ended anyway it is restarted by the usual rules.
                if current.is_live() {
                    unit.again = Some(current.id.clone());
                }
            }
            if current.state == State::Unknown {
                doom(current, UNKNOWN.to_owned(), grace, now);
            }
            if let Some(doom) = current.doom.clone().filter(|_| current.is_live()) {
                let (id, deadline) = (current.id.clone(), later(doom.since, doom.grace));
                self.plan.wait(Some(wanted.name), format!("it ends: {}", doom.message), "its end");
                self.kill(wanted.name, &id, deadline, &doom.message);
            } else if matches!(current.state, State::Running { .. }) && current.post_start_due {
                self.plan.wait(Some(wanted.name), "run the postStart hook", "the hook's success");
                let (name, id) = (wanted.name.to_owned(), current.id.clone());
                self.act(Action::PostStart { name, id });
            } else if matches!(current.state, State::Running { .. }) && !current.started {
                self.plan.wait(Some(wanted.name), "the startup probe", "its success");
            } else if matches!(current.state, State::Running { .. })
                && !current.ready
                && wanted.role.is_lasting()
            {
                self.plan.wait(Some(wanted.name), "the readiness probe", "its success");
            }
        }
    }

    /// Removes dead containers that are not needed any more.
    fn remove_dead(&mut self, life: &Life) {
        for container in &self.seen.containers {
            let ended = matches!(container.state, State::Ended(_));
            let unit = life.units.get(&container.name);
            let kept = unit.is_some_and(|unit| {
                unit.current.as_ref().is_some_and(|current| current.id == container.id)
                    || unit.previous.as_ref() == Some(&container.id)
            });
            if ended && !kept {
                self.act(Action::Remove { id: container.id.clone() });
            }
        }
        let home = self.seen.home().map(|home| &home.id);
        for sandbox in self.seen.sandboxes.iter().filter(|s| s.stopped && Some(&s.id) != home) {
            if !self.seen.containers.iter().any(|container| container.sandbox == sandbox.id) {
                self.act(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }
}

/// Whether a container has to end so that its pod can be resized.
fn ends_for_resize(unit: &Unit) -> bool {
    let current = unit.current.as_ref().filter(|current| current.is_live());
    current.and_then(|current| current.doom.as_ref()).is_some_and(|doom| doom.for_resize)
}

/// Whether any container was made in this sandbox, which the preparation precedes.
fn has_begun(life: &Life, home: &PodId) -> bool {
    let mut currents = life.units.values().filter_map(|unit| unit.current.as_ref());
    currents.any(|current| current.sandbox == *home)
}

/// Whether a container of this name runs in this sandbox.
fn runs(life: &Life, name: &str, home: &PodId) -> bool {
    let current = life.units.get(name).and_then(|unit| unit.current.as_ref());
    current.is_some_and(|current| {
        current.sandbox == *home && matches!(current.state, State::Running { .. })
    })
}

/// Whether an app was started in this sandbox.
pub(crate) fn apps_begun(life: &Life, wanted: &[Wanted<'_>], home: &PodId) -> bool {
    wanted.iter().any(|wanted| wanted.role == Role::App && is_begun(life, wanted, home))
}

fn is_begun(life: &Life, wanted: &Wanted<'_>, home: &PodId) -> bool {
    let current = life.units.get(wanted.name).and_then(|unit| unit.current.as_ref());
    current.is_some_and(|current| current.sandbox == *home)
}

/// Whether an init container in the current sandbox has a new image in the spec.
fn changed_init(life: &Life, wanted: &[Wanted<'_>], home: &PodId) -> bool {
    wanted.iter().filter(|wanted| wanted.role == Role::Init).any(|init| {
        let current = life.units.get(init.name).and_then(|unit| unit.current.as_ref());
        let current = current.filter(|current| current.sandbox == *home);
        current.is_some_and(|current| current.image != init.image())
    })
}

/// Whether containers would run in a new sandbox: not if the pod must not be restarted, nor if
/// everything is done.
fn wants_sandbox(life: &Life, wanted: &[Wanted<'_>]) -> bool {
    let mut own = wanted.iter().filter(|wanted| wanted.role != Role::Ephemeral);
    if !own.any(|it| life.units.get(it.name).is_some_and(|unit| unit.current.is_some())) {
        return true;
    }
    let mut apps = wanted.iter().filter(|wanted| wanted.role == Role::App);
    apps.any(|app| match life.units.get(app.name).and_then(|unit| unit.ended()) {
        Some(end) => app.restarts(end.code),
        None => app.policy != Restart::Never,
    })
}

/// Decides the end of a pod whose apps have all ended for good.
fn judge(life: &mut Life, wanted: &[Wanted<'_>], home: &PodId, now: i64) {
    let mut succeeded = true;
    for app in wanted.iter().filter(|wanted| wanted.role == Role::App) {
        match standing(life.units.get(app.name), app, home) {
            Standing::Done { succeeded: this } => succeeded &= this,
            Standing::Due | Standing::Live => return,
        }
    }
    life.conclude(succeeded, now);
}
