//! Carries out actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container as Spec;
use tokio_util::sync::CancellationToken;

use super::outcome::Outcome;
use crate::board::{Container, StateName};
use crate::ids::{ContainerId, PodId};
use crate::model::Owner;
use crate::model::container::ContainerConfig;
use crate::model::image::Image;
use crate::pod::MountContext;
use crate::pod::hook::{self, Moment};
use crate::pod::observe::SeenSandbox;
use crate::pod::plan::{Action, Role, wanted};
use crate::pod::reason::Failure;
use crate::pod::record::Life;
use crate::pod::room::Room;
use crate::pod::translate::{
    ContainerContext, ContainerKind, ContainerRef, ImageFacts, PodContext, Warning,
    container_config, environment, pod_config, runtime_handler,
};
use crate::pod::turns::Place;
use crate::pod::view::EventType::{self, Normal};
use crate::telemetry::error_chain;

/// An action, with the pod's state when it was decided.
pub(super) struct Work {
    pub(super) room: Arc<Room>,
    pub(super) life: Arc<Life>,
    pub(super) home: Option<SeenSandbox>,
    pub(super) sandboxes: Vec<PodId>,
    pub(super) cancel: CancellationToken,
}

/// A container to start.
struct Start {
    name: String,
    attempt: u32,
    sandbox: PodId,
    stale: Option<ContainerId>,
}

impl Work {
    pub(super) async fn run(self, action: Action) -> Outcome {
        match action {
            Action::Prepare => self.prepare().await,
            Action::RunSandbox { attempt } => self.run_sandbox(attempt).await,
            Action::StopSandbox { id } => unwound(self.room.deps.sandboxes.stop(id.as_str()).await),
            Action::RemoveSandbox { id } => {
                unwound(self.room.deps.sandboxes.remove(id.as_str()).await)
            }
            Action::Start { name, attempt, sandbox, stale } => {
                self.start(Start { name, attempt, sandbox, stale }).await
            }
            Action::PostStart { name, id } => self.post_start(&name, &id).await,
            Action::PreStop { name, id, deadline } => {
                self.pre_stop(&name, &id, deadline).await;
                Outcome::Done
            }
            Action::Kill { name, id, deadline, pre_stop, why } => {
                self.kill(&name, &id, deadline, pre_stop, &why).await
            }
            Action::Remove { id } => self.remove(&id).await,
            Action::Settle => self.settle().await,
            Action::Finish => self.finish().await,
        }
    }

    pub(super) fn event(
        &self,
        container: Option<&str>,
        kind: EventType,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.room.event(&self.life, container, kind, reason, message);
    }

    fn warn(&self, container: Option<&str>, warnings: Vec<Warning>) {
        for Warning { reason, message } in warnings {
            self.event(container, EventType::Warning, reason, message);
        }
    }

    pub(super) fn spec(&self, name: &str) -> Option<Spec> {
        let all = wanted(self.life.given.spec());
        all.into_iter().find(|w| w.name == name).map(|w| w.container.into_owned())
    }

    async fn prepare(&self) -> Outcome {
        let given = &self.life.given;
        let resized = self.resize().await;
        match &resized {
            // Volumes do not wait for a resize that fails.
            Err(Outcome::Failed { reason: Failure::Resize, .. }) => {}
            Err(outcome) => return outcome.clone(),
            Ok(()) => {}
        }
        let context = self.room.volume_context(given);
        match self.room.deps.volumes.setup(given, &context).await {
            Ok(()) => resized.err().unwrap_or(Outcome::Done),
            Err(error) => {
                let (reason, message) = (error.reason(), error_chain(&error));
                self.event(None, EventType::Warning, reason.as_str(), message.clone());
                Outcome::failed(reason, message)
            }
        }
    }

    async fn run_sandbox(&self, attempt: u32) -> Outcome {
        const FAILED: Failure = Failure::Sandbox;
        let given = &self.life.given;
        let node = self.room.node();
        let context = PodContext { attempt, user_ids: self.life.user_ids };
        let made = match pod_config(given, context, &node) {
            Ok(made) => made,
            Err(error) => {
                self.event(None, EventType::Warning, FAILED.as_str(), error.to_string());
                return Outcome::failed(FAILED, error.to_string());
            }
        };
        self.warn(None, made.warnings);
        let handler = runtime_handler(given.spec());
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.event(None, Normal, "SandboxChanged", message);
        }
        let made = self.room.deps.sandboxes.run_for(Owner::Pod, made.config, handler);
        match self.room.turns.take(Place::of(&self.life, attempt > 0), made).await {
            Ok(_) => Outcome::Done,
            Err(error) => {
                let chain = error_chain(&error);
                let message = format!("Failed to create pod sandbox: {chain}");
                self.event(None, EventType::Warning, FAILED.as_str(), message);
                Outcome::failed(FAILED, chain)
            }
        }
    }

    async fn start(&self, start: Start) -> Outcome {
        let name = start.name.as_str();
        match self.try_start(&start).await {
            Ok(()) => Outcome::Done,
            Err(outcome) => {
                if let Outcome::Failed { reason, message } = &outcome {
                    // Errors of the image were reported already; this reports that nothing starts.
                    let text = if reason.is_of_image() { reason.as_str() } else { message };
                    self.event(Some(name), EventType::Warning, "Failed", format!("Error: {text}"));
                }
                outcome
            }
        }
    }

    async fn try_start(&self, start: &Start) -> Result<(), Outcome> {
        let name = start.name.as_str();
        let spec =
            self.spec(name).ok_or_else(|| Outcome::failed(Failure::Config, "gone".into()))?;
        let sandboxes = &self.room.deps.sandboxes;
        if let Some(stale) = &start.stale {
            let removed = sandboxes.remove_container(stale.as_str()).await;
            removed.map_err(|error| Outcome::failed(Failure::Create, error_chain(&error)))?;
        }
        let image = self.image(&spec).await?;
        if self.cancel.is_cancelled() {
            return Err(Outcome::Cancelled);
        }
        let config = self.config(start, &spec, &image).await?;
        for mount in &config.mounts {
            if let Some(volume) = &mount.image {
                self.volume_image(name, &volume.image).await?;
            }
        }
        let place = Place::of(&self.life, start.attempt > 0);
        self.room.turns.take(place, self.make(start, config)).await
    }

    /// Creates and starts a container.
    async fn make(&self, start: &Start, config: ContainerConfig) -> Result<(), Outcome> {
        let name = start.name.as_str();
        let sandboxes = &self.room.deps.sandboxes;
        if self.cancel.is_cancelled() {
            return Err(Outcome::Cancelled);
        }
        let created = sandboxes.create_container(start.sandbox.as_str(), config).await;
        let id = created.map_err(|error| Outcome::failed(Failure::Create, error_chain(&error)))?;
        self.event(Some(name), Normal, "Created", "Container created");
        if self.cancel.is_cancelled() {
            return Err(Outcome::Cancelled);
        }
        if let Err(error) = sandboxes.start_container(id.as_str()).await {
            let exited = |it: Arc<Container>| it.state.name() == StateName::Exited;
            // One that has not exited is recreated, but with a delay, which nothing else would
            // cause.
            let has_ended = sandboxes.container(id.as_str()).is_ok_and(exited);
            let reason = if has_ended { Failure::Run } else { Failure::Create };
            return Err(Outcome::failed(reason, error_chain(&error)));
        }
        self.event(Some(name), Normal, "Started", "Container started");
        Ok(())
    }

    async fn config(
        &self,
        start: &Start,
        spec: &Spec,
        image: &Image,
    ) -> Result<ContainerConfig, Outcome> {
        let (given, node) = (&self.life.given, self.room.node());
        let untranslated = |error: crate::pod::translate::Error| {
            Outcome::failed(error.reason(), error.to_string())
        };
        let sandbox = self.room.deps.sandboxes.get(start.sandbox.as_str());
        let sandbox =
            sandbox.map_err(|error| Outcome::failed(Failure::Create, error_chain(&error)))?;
        let pod_ips = match (&self.home, sandbox.config.host_network()) {
            (_, true) => node.ips.clone(),
            (Some(home), false) => home.ips.clone(),
            (None, false) => Vec::new(),
        };
        let volumes = &self.room.deps.volumes;
        let unread =
            |error: crate::pod::VolumeError| Outcome::failed(error.reason(), error_chain(&error));
        let env_files = volumes.env_files(given, spec).await.map_err(unread)?;
        let env = environment(given, spec, &pod_ips, &env_files, &node);
        let env = env.map_err(untranslated)?.config;
        let env: BTreeMap<String, String> = env.into_iter().collect();
        let context = MountContext {
            env: &env,
            restart_count: start.attempt,
            recursive_read_only: self.room.supports_recursive_read_only(&sandbox.handler),
        };
        let mounts = volumes.mounts(given, spec, &context).await.map_err(unread)?;
        let context = ContainerContext {
            restart_count: start.attempt,
            image: ImageFacts { id: image.id.to_string(), user: image.config.user.clone() },
            pod_ips,
            env_files,
            mounts,
            target: self.target(start)?,
            sandbox: &sandbox.config,
            node: &node,
        };
        let kind = self.kind(&start.name);
        let reference = ContainerRef::new(kind, start.name.clone());
        let made = container_config(given, &reference, &context).map_err(untranslated)?;
        self.warn(Some(&start.name), made.warnings);
        Ok(made.config)
    }

    pub(super) fn kind(&self, name: &str) -> ContainerKind {
        let all = wanted(self.life.given.spec());
        match all.iter().find(|wanted| wanted.name == name).map(|wanted| wanted.role) {
            Some(Role::App) => ContainerKind::App,
            Some(Role::Ephemeral) => ContainerKind::Ephemeral,
            Some(Role::Init | Role::Sidecar) | None => ContainerKind::Init,
        }
    }

    /// The id of the container whose processes an ephemeral one sees.
    fn target(&self, start: &Start) -> Result<Option<String>, Outcome> {
        let all = wanted(self.life.given.spec());
        let target = all.iter().find(|wanted| wanted.name == start.name).and_then(|it| it.target);
        let Some(target) = target else { return Ok(None) };
        let current = self.life.units.get(target).and_then(|unit| unit.current.as_ref());
        match current.filter(|current| current.is_live() && current.sandbox == start.sandbox) {
            Some(current) => Ok(Some(current.id.to_string())),
            None => {
                let message = format!("target container {target:?} does not run");
                Err(Outcome::failed(Failure::Create, message))
            }
        }
    }

    async fn post_start(&self, name: &str, id: &ContainerId) -> Outcome {
        // Cancel-safe: dropping a hook ends it.
        let run = tokio::select! {
            run = self.hook(name, id, Moment::PostStart) => run,
            () = self.cancel.cancelled() => return Outcome::Cancelled,
        };
        match run {
            Ok(()) => Outcome::Done,
            Err(message) => Outcome::failed(Failure::PostStart, message),
        }
    }

    /// Runs a hook of a container; having none is success.
    pub(super) async fn hook(
        &self,
        name: &str,
        id: &ContainerId,
        moment: Moment,
    ) -> Result<(), String> {
        let Some(spec) = self.spec(name) else { return Ok(()) };
        let lifecycle = spec.lifecycle.as_ref();
        let handler = lifecycle.and_then(|lifecycle| match moment {
            Moment::PostStart => lifecycle.post_start.as_ref(),
            Moment::PreStop => lifecycle.pre_stop.as_ref(),
        });
        let Some(handler) = handler else { return Ok(()) };
        let ip = match &self.home {
            Some(home) => self.room.ips(home).first().copied(),
            None => self.life.ips.first().copied(),
        };
        let ip = ip.map(|ip| ip.to_string());
        let context = hook::Context {
            pod: &self.life.given.pod,
            container: &spec,
            container_id: id,
            pod_ip: ip.as_deref(),
            exec: &self.room.deps.exec,
            report: &self.room.deps.report,
        };
        hook::run(handler, &context).await.map_err(|error| {
            tracing::info!(pod = %self.life.given.key(), container = name, %error, "hook failed");
            self.event(Some(name), EventType::Warning, moment.reason(), moment.message());
            error.to_string()
        })
    }

    async fn remove(&self, id: &ContainerId) -> Outcome {
        let sandboxes = &self.room.deps.sandboxes;
        let log =
            sandboxes.container(id.as_str()).ok().and_then(|container| container.log_path.clone());
        let removed = unwound(sandboxes.remove_container(id.as_str()).await);
        if let (Outcome::Done, Some(log)) = (&removed, log) {
            self.room.remove_log(&log).await;
        }
        removed
    }

    async fn settle(&self) -> Outcome {
        if let Err(error) = self.room.deps.volumes.teardown(&self.life.uid).await {
            return Outcome::failed(Failure::Teardown, error_chain(&error));
        }
        match self.room.remove_cgroup(&self.life.given).await {
            Ok(()) => Outcome::Done,
            Err(message) => Outcome::failed(Failure::Teardown, message),
        }
    }

    /// Removes everything; each step is tried even after a failure.
    async fn finish(&self) -> Outcome {
        let mut faults = Vec::new();
        for id in &self.sandboxes {
            if let Err(error) = self.room.deps.sandboxes.remove(id.as_str()).await {
                faults.push(error_chain(&error));
            }
        }
        if !faults.is_empty() {
            return Outcome::failed(Failure::Teardown, faults.join("; "));
        }
        if let Err(error) = self.room.deps.volumes.teardown(&self.life.uid).await {
            faults.push(error_chain(&error));
        }
        if let Err(message) = self.room.remove_cgroup(&self.life.given).await {
            faults.push(message);
        }
        self.room.remove_logs(&self.life.given).await;
        if faults.is_empty() {
            Outcome::Done
        } else {
            Outcome::failed(Failure::Teardown, faults.join("; "))
        }
    }
}

pub(super) fn unwound(result: Result<(), crate::sandbox::Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::failed(Failure::Teardown, error_chain(&error)),
    }
}
