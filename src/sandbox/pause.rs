//! The pause container: the first process of a pod, which holds its namespaces.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::error::{Error, Step};
use super::record::SandboxRecord;
use super::{Room, SandboxState};
use crate::backend::{
    NewTask, Process, RootfsMount, RootfsOptions, RuntimeContainer, RuntimeHandler, Stdio,
    end_beside_shim, wait_for_end,
};
use crate::board::EventKind;
use crate::container::{InitProcess, KIND_LABEL};
use crate::model::StringMap;
use crate::model::image::ImageConfig;
use crate::oci::{PauseInput, add_identity, pause_spec, record_labels, snapshot_labels, spec_json};
use crate::telemetry::error_chain;

/// Where the pause program comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseSource {
    /// podbay's own program, in a prepared root directory that all pods share read-only. It needs
    /// no image, and no snapshot for each pod.
    Embedded {
        /// The root directory.
        root: PathBuf,
        /// The program's path inside it.
        program: String,
    },
    /// An image, which must be present on this host.
    Image(String),
}

/// The program that a pause container runs.
struct Program {
    args: Vec<String>,
    rootfs: Vec<RootfsMount>,
    image: ImageConfig,
    image_name: String,
    snapshot: bool,
    seccomp: Option<serde_json::Value>,
}

impl Room {
    /// Makes and starts the pause container.
    pub(super) async fn start_pause(
        &self,
        entry: &Entry,
        handler: &RuntimeHandler,
    ) -> Result<InitProcess, Error> {
        let id = entry.id.as_str();
        let (runtime, host) = (&self.deps.base.runtime, &self.deps.base.host);
        let record = entry.record();
        let mut program = self.pause_program(entry, handler).await?;
        let security = &record.sandbox.config.security;
        let profile = (security.seccomp.as_ref(), security.privileged);
        program.seccomp = self.deps.containers.seccomp_profile(profile.0, profile.1).await?;
        let container = self.pause_record(&record, handler, &program)?;
        runtime.create_container(&container).await.step("store the pause container's record")?;
        let task = NewTask { id: id.to_owned(), rootfs: program.rootfs, stdio: Stdio::default() };
        let pid = runtime.create_task(&task).await.step("create the pause task")?;
        let start_time = host.process_start_time(pid).await.ok().flatten().unwrap_or_default();
        runtime.start(Process::init(id)).await.step("start the pause task")?;
        Ok(InitProcess { pid, start_time })
    }

    fn pause_record(
        &self,
        record: &SandboxRecord,
        handler: &RuntimeHandler,
        program: &Program,
    ) -> Result<RuntimeContainer, Error> {
        let sandbox = &record.sandbox;
        let spec = pause_spec(&PauseInput {
            id: &sandbox.id,
            pod: &sandbox.config,
            netns: sandbox.netns.as_deref(),
            userns: self.userns(sandbox).as_deref(),
            args: program.args.clone(),
            hostname: &self.hostname(record),
            handler,
            selinux_level: record.selinux_level.as_deref(),
            facts: self.deps.base.host.facts(),
            image_name: &program.image_name,
            seccomp_profile: program.seccomp.as_ref(),
            settings: &self.options.oci,
        })?;
        let mut labels: StringMap = record_labels(&program.image.labels, &sandbox.config.labels);
        add_identity(&mut labels, &sandbox.config.metadata, None);
        labels.insert(KIND_LABEL.to_owned(), "sandbox".to_owned());
        let extension = serde_json::to_value(record)
            .map_err(|error| Error::invalid("the sandbox's record", error.to_string()))?;
        Ok(RuntimeContainer {
            id: sandbox.id.to_string(),
            image: program.image_name.clone(),
            labels,
            sandbox: None,
            handler: handler.clone(),
            spec: spec_json(&spec),
            snapshot_key: program.snapshot.then(|| sandbox.id.to_string()),
            extension,
        })
    }

    async fn pause_program(
        &self,
        entry: &Entry,
        handler: &RuntimeHandler,
    ) -> Result<Program, Error> {
        match &self.options.pause {
            PauseSource::Embedded { root, program } => Ok(Program {
                args: vec![program.clone()],
                rootfs: vec![shared_root(root)],
                image: ImageConfig::default(),
                image_name: String::new(),
                snapshot: false,
                seccomp: None,
            }),
            PauseSource::Image(name) => self.pause_image(entry, handler, name).await,
        }
    }

    async fn pause_image(
        &self,
        entry: &Entry,
        handler: &RuntimeHandler,
        name: &str,
    ) -> Result<Program, Error> {
        let base = &self.deps.base;
        let image = base.images.get(name).await?;
        let image = image.ok_or_else(|| Error::PauseImageNotFound(name.to_owned()))?;
        let args = [image.config.entrypoint.clone(), image.config.cmd.clone()].concat();
        if args.is_empty() {
            return Err(Error::invalid("pause.image", format!("{name:?} names no command")));
        }
        let (snapshotter, key) = (&handler.snapshotter, entry.id.as_str());
        let chain = image.chain_id.as_ref();
        let config = &entry.record().sandbox.config;
        let labels = snapshot_labels(&config.annotations);
        let options = RootfsOptions { labels, id_mappings: config.id_mappings() };
        let make = || base.runtime.prepare_rootfs(snapshotter, key, chain, &options);
        let rootfs = base.images.on_snapshots(&image, snapshotter, make).await?;
        let rootfs = rootfs.step("prepare the pause container's root file system")?;
        Ok(Program {
            args,
            rootfs,
            image: image.config,
            image_name: name.to_owned(),
            snapshot: true,
            seccomp: None,
        })
    }

    /// Watches the pause process: when it ends, the pod is no longer ready.
    pub(super) fn watch_pause(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        // Cancel-safe: the next agent finds again that the pod is not ready.
        drop(self.deps.base.tasks.spawn_lasting("pause-exit", move || {
            let (room, entry) = (room.clone(), entry.clone());
            async move {
                let process = Process::init(entry.id.as_str());
                // Both branches are cancel-safe: they only observe.
                tokio::select! {
                    _ = wait_for_end(&*room.deps.base.runtime, process) => {}
                    () = room.pause_end_beside_shim(&entry) => {}
                }
                room.pause_ended(&entry).await;
            }
        }));
    }

    /// Completes some time after the pause process has ended, if its shim has not reported it by
    /// then; never if that cannot be known. Cancel-safe.
    async fn pause_end_beside_shim(&self, entry: &Entry) {
        let known = entry.read(|record| record.pause).filter(|pause| pause.start_time != 0);
        let Some(InitProcess { pid, start_time }) = known else {
            return std::future::pending().await;
        };
        let (runtime, host) = (&*self.deps.base.runtime, &*self.deps.base.host);
        let (id, process) = (entry.id.as_str(), (pid, start_time));
        let is_busy = || self.deps.containers.is_starting_in(&entry.id);
        if let Err(error) = end_beside_shim(runtime, host, id, process, is_busy).await {
            tracing::warn!(pod = %entry.id, %error, "cannot watch the pause process");
            std::future::pending().await
        }
    }

    /// The pause process is gone: unless that was a stop, the pod is not ready from now on. Its
    /// network stays until it is stopped.
    async fn pause_ended(&self, entry: &Entry) {
        let _alone = entry.gate.write().await;
        if !entry.is_ready() {
            return;
        }
        tracing::warn!(pod = %entry.id, "pause process exited unexpectedly");
        self.mark_not_ready(entry).await;
    }

    /// Stores and publishes that a pod is not ready. It is published even if the store cannot be
    /// written.
    pub(super) async fn mark_not_ready(&self, entry: &Entry) {
        let not_ready = |record: &mut SandboxRecord| record.sandbox.state = SandboxState::NotReady;
        if let Err(error) = entry.save_end(&self.deps.base, not_ready).await {
            let error = error_chain(&error);
            tracing::error!(pod = %entry.id, error, "cannot store sandbox state");
            entry.change(not_ready);
        }
        entry.publish(&self.deps.base, Some(EventKind::Stopped));
    }
}

/// How long a pause process may take to end after SIGKILL.
pub(super) const AFTER_KILL: Duration = Duration::from_secs(30);

fn shared_root(root: &Path) -> RootfsMount {
    RootfsMount {
        kind: "bind".to_owned(),
        source: root.display().to_string(),
        target: String::new(),
        options: vec!["rbind".to_owned(), "ro".to_owned()],
    }
}
