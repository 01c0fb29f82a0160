//! CheckpointContainer: a running container into an archive, while it goes on.
//!
//! The archive has the layout that Kubernetes and its tools know. Nothing is ever restored from
//! one: it is written, and not read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::entry::Entry;
use super::error::{Error, Step};
use super::{Container, ContainerState, Containers};
use crate::backend::{self, ErrorKind};
use crate::lifecycle::Backoff;
use crate::telemetry::error_chain;

/// How long a checkpoint may take when the caller does not say.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Oldest CRIU that can dump containers, as it counts its versions: 3.16.
const OLDEST_CRIU: u32 = 31_600;

impl Containers {
    /// Writes a checkpoint of a running container to the file `location`, within `limit`. The
    /// container stands still while its processes and files are saved, and goes on then, also
    /// after a failure, which leaves no file, or the one that was there as it was.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless it runs; [`Error::Invalid`] for a
    /// location that is a folder or in none that is there; [`Error::NoCriu`];
    /// [`Error::CheckpointTimeout`]; [`Error::ShuttingDown`] when the agent ends meanwhile;
    /// [`Error::Backend`] with the words of the OCI runtime.
    pub async fn checkpoint(
        &self,
        id: &str,
        location: &Path,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        // One at a time; other changes of the container are not held up.
        let _alone = entry.checkpointing.lock().await;
        if entry.is_removing() || !matches!(entry.state(), ContainerState::Running { .. }) {
            return Err(entry.wrong_state("checkpoint"));
        }
        self.check_location(location).await?;
        let criu = self.deps.host.criu_version().await.step("ask CRIU for its version")?;
        if criu.is_none_or(|version| version < OLDEST_CRIU) {
            return Err(Error::NoCriu);
        }
        let work = self.checkpoint_dir(&entry);
        // Safe to drop: whatever is half done is taken away below.
        let gathered = tokio::select! {
            gathered = tokio::time::timeout(limit, self.gather(&entry, &work, limit)) => gathered,
            () = self.deps.tasks.draining() => Ok(Err(Error::ShuttingDown)),
        };
        let thawed = self.thaw(&entry).await;
        let written = match gathered {
            // No limit here: an archive cannot be given up half-way without risk of its appearing
            // after the answer.
            Ok(Ok(log)) => {
                let written = self.deps.host.write_archive(location, &work, &log).await;
                written.step("write the checkpoint")
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::CheckpointTimeout(limit)),
        };
        self.clear(&entry, work, thawed).await;
        written
    }

    /// Lets a container go on that was frozen for a checkpoint; whether that is certain.
    async fn thaw(&self, entry: &Entry) -> bool {
        let resumed = self.deps.runtime.resume(entry.id.as_str()).await;
        if let Err(error) = &resumed {
            tracing::warn!(container = %entry.id, error = error_chain(error), "it may be frozen");
        }
        resumed.is_ok()
    }

    /// A frozen process does not hear a signal.
    pub(super) async fn thaw_for_stop(&self, entry: &Entry) {
        if entry.checkpointing.try_lock().is_err() {
            // Who takes the checkpoint owes it too, and goes on trying.
            self.thaw(entry).await;
        }
    }

    /// Takes away what a checkpoint left that an agent before this one did not finish.
    pub(super) async fn finish_checkpoint(&self, entry: &Arc<Entry>) {
        let _alone = entry.checkpointing.lock().await;
        let work = self.checkpoint_dir(entry);
        if self.deps.host.list_dir(&work).await.is_ok_and(|names| !names.is_empty()) {
            let thawed = self.thaw(entry).await;
            self.clear(entry, work, thawed).await;
        }
    }

    /// Removes the parts of a checkpoint. While the container may be frozen they stay, and tell so
    /// to a next agent; this one goes on trying.
    async fn clear(&self, entry: &Arc<Entry>, work: PathBuf, thawed: bool) {
        if thawed {
            if let Err(error) = self.deps.host.remove_tree(&work).await {
                tracing::warn!(container = %entry.id, error = error_chain(&error), "parts stay");
            }
            return;
        }
        let (deps, entry) = (self.deps.clone(), entry.clone());
        drop(self.deps.tasks.spawn_until_drain("thaw", async move {
            let thaw = || async {
                // Not in the middle of a next checkpoint.
                let _alone = entry.checkpointing.lock().await;
                deps.runtime.resume(entry.id.as_str()).await?;
                // What stays is removed by the next checkpoint, or with the container.
                let _ = deps.host.remove_tree(&work).await;
                backend::Result::Ok(())
            };
            Backoff::of_undo().retry_later(thaw).await
        }));
    }

    /// Where the parts of a checkpoint are put together.
    fn checkpoint_dir(&self, entry: &Entry) -> PathBuf {
        self.options.root.join(entry.id.as_str()).join("checkpoint")
    }

    async fn check_location(&self, location: &Path) -> Result<(), Error> {
        self.deps.host.check_archive(location).await.map_err(|source| match source.kind {
            ErrorKind::InvalidArgument | ErrorKind::NotFound | ErrorKind::AlreadyExists => {
                Error::invalid("location", error_chain(&source))
            }
            _ => Error::Backend { step: "look at the place of the checkpoint", source },
        })
    }

    /// Puts the parts of a checkpoint into `work`, but for the log, which it names.
    async fn gather(
        &self,
        entry: &Entry,
        work: &Path,
        limit: Duration,
    ) -> Result<Vec<(String, PathBuf)>, Error> {
        const STEP: &str = "write the checkpoint's description";
        let (host, runtime, id) = (&self.deps.host, &self.deps.runtime, entry.id.as_str());
        let record = entry.record();
        let spec = runtime.container(id).await.step("read the container's spec")?.spec;
        // What an agent left that died in the middle.
        host.remove_tree(work).await.step(STEP)?;
        let images = work.join("checkpoint");
        host.create_dir(&images, 0o700).await.step(STEP)?;
        // Processes and files as of one moment.
        runtime.pause(id).await.step("freeze the container")?;
        runtime.checkpoint(id, &images, work, limit).await.step("checkpoint the container")?;
        let changes = work.join("rootfs-diff.tar");
        let snapshot = (record.handler.snapshotter.as_str(), id);
        let exported = runtime.export_changes(snapshot.0, snapshot.1, &changes).await;
        exported.step("collect the changes of the root file system")?;
        let container = &record.container;
        for (name, content) in [
            ("config.dump", config(container, &record.handler.runtime_type)),
            ("spec.dump", spec),
            ("status.dump", status(container)),
            ("status", life(container)),
        ] {
            let text = content.to_string();
            host.write_file(&work.join(name), text.as_bytes(), 0o600).await.step(STEP)?;
        }
        let log = container.log_path.iter();
        Ok(log.map(|path| ("container.log".to_owned(), path.clone())).collect())
    }
}

/// `config.dump`: what tools for checkpoints look at first.
fn config(container: &Container, runtime: &str) -> Value {
    json!({
        "id": container.id,
        "name": container.config.metadata.name,
        "rootfsImage": container.image_name,
        "rootfsImageRef": container.image_ref,
        "rootfsImageName": container.image_name,
        "runtime": runtime,
        "createdTime": moment(container.created_at),
        "checkpointedTime": moment(crate::board::now()),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    })
}

/// `status.dump`: the container's CRI status in the JSON of Go.
fn status(container: &Container) -> Value {
    const RUNNING: i32 = 1;
    let config = &container.config;
    let mounts: Vec<_> = config
        .mounts
        .iter()
        .map(|mount| {
            json!({
                "container_path": mount.container_path,
                "host_path": mount.host_path,
                "readonly": mount.readonly,
            })
        })
        .collect();
    json!({
        "id": container.id,
        "metadata": { "name": config.metadata.name, "attempt": config.metadata.attempt },
        "state": RUNNING,
        "created_at": container.created_at,
        "started_at": container.state.started_at(),
        "image": {
            "image": container.image_name,
            "user_specified_image": config.image.user_specified_image,
        },
        "image_ref": container.image_ref,
        "image_id": container.image_id,
        "labels": config.labels,
        "annotations": config.annotations,
        "mounts": mounts,
        "log_path": container.log_path,
    })
}

/// `status`: the life of the process, as containerd keeps it.
fn life(container: &Container) -> Value {
    let pid = match container.state {
        ContainerState::Running { pid, .. } => pid,
        _ => 0,
    };
    json!({
        "Version": "v1",
        "Pid": pid,
        "CreatedAt": container.created_at,
        "StartedAt": container.state.started_at().unwrap_or_default(),
        "FinishedAt": 0,
        "ExitCode": 0,
        "Reason": "",
        "Message": "",
    })
}

fn moment(nanos: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos));
    at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
