//! CheckpointContainer: writes a running container into an archive while it goes on running.
//!
//! The archive has the layout that Kubernetes and its tools use. podbay only writes checkpoints; it
//! never restores one.

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
use crate::clock::now;
use crate::lifecycle::Backoff;
use crate::telemetry::error_chain;

/// Time limit of a checkpoint when the caller sets none.
const DEFAULT_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Oldest CRIU that can dump containers: 3.16, in CRIU's own version encoding.
const OLDEST_CRIU: u32 = 31_600;

impl Containers {
    /// Writes a checkpoint of a running container to the file `location`, within `limit`. The
    /// container is frozen while its processes and files are saved, and is always resumed, also
    /// after a failure. A failed checkpoint creates no file and leaves an existing one unchanged.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::WrongState`] unless it runs; [`Error::Invalid`] when
    /// `location` is a directory or its directory does not exist; [`Error::NoCriu`];
    /// [`Error::CheckpointTimeout`]; [`Error::ShuttingDown`] when the agent stops meanwhile;
    /// [`Error::Backend`] with the OCI runtime's message.
    pub async fn checkpoint(
        &self,
        id: &str,
        location: &Path,
        limit: Option<Duration>,
    ) -> Result<(), Error> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let entry = self.find(id)?.ok_or_else(|| Error::NotFound(id.to_owned()))?;
        // One checkpoint at a time; other changes of the container are not blocked.
        let _alone = entry.checkpointing.lock().await;
        if entry.is_removing() || !matches!(entry.state(), ContainerState::Running { .. }) {
            return Err(entry.wrong_state("checkpoint"));
        }
        self.check_location(location).await?;
        let criu = self.deps.host.criu_version().await.step("ask CRIU for its version")?;
        if criu.is_none_or(|version| version < OLDEST_CRIU) {
            return Err(Error::NoCriu(entry.id.clone()));
        }
        let work = self.checkpoint_dir(&entry);
        // Safe to drop: everything half-done is removed below.
        let gathered = tokio::select! {
            gathered = tokio::time::timeout(limit, self.gather(&entry, &work, limit)) => gathered,
            () = self.deps.tasks.draining() => Ok(Err(Error::ShuttingDown)),
        };
        let thawed = self.thaw(&entry).await;
        let written = match gathered {
            // No limit here: if the writing of the archive were abandoned half-way, the archive
            // might still appear after the error was returned.
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

    /// Resumes a container that was frozen for a checkpoint. Returns whether it certainly runs
    /// again.
    async fn thaw(&self, entry: &Entry) -> bool {
        let resumed = self.deps.runtime.resume(entry.id.as_str()).await;
        if let Err(error) = &resumed {
            tracing::warn!(container = %entry.id, error = error_chain(error),
                "cannot resume container after checkpoint, it may be frozen");
        }
        resumed.is_ok()
    }

    /// Thaws a container before a stop: a frozen process does not handle signals.
    pub(super) async fn thaw_for_stop(&self, entry: &Entry) {
        if entry.checkpointing.try_lock().is_err() {
            // On failure the checkpoint's own task keeps trying to thaw it.
            self.thaw(entry).await;
        }
    }

    /// Removes what an unfinished checkpoint of a previous agent process left.
    pub(super) async fn finish_checkpoint(&self, entry: &Arc<Entry>) {
        let _alone = entry.checkpointing.lock().await;
        let work = self.checkpoint_dir(entry);
        if self.deps.host.list_dir(&work).await.is_ok_and(|names| !names.is_empty()) {
            let thawed = self.thaw(entry).await;
            self.clear(entry, work, thawed).await;
        }
    }

    /// Removes the working directory of a checkpoint. It is kept while the container may still be
    /// frozen, as the sign for the next agent to thaw it; this agent keeps trying too.
    async fn clear(&self, entry: &Arc<Entry>, work: PathBuf, thawed: bool) {
        if thawed {
            if let Err(error) = self.deps.host.remove_tree(&work).await {
                tracing::warn!(container = %entry.id, error = error_chain(&error),
                    "cannot remove working directory of checkpoint");
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
            _ => Error::Backend { step: "inspect the location of the checkpoint", source },
        })
    }

    /// Writes the parts of a checkpoint into `work`, except for the log, whose path is returned.
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
        // Leftovers of an agent that died half-way.
        host.remove_tree(work).await.step(STEP)?;
        let images = work.join("checkpoint");
        host.create_dir(&images, 0o700).await.step(STEP)?;
        // Frozen so that processes and files are saved as of the same moment.
        runtime.pause(id).await.step("pause the container")?;
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

/// `config.dump`: the file that checkpoint tools read first.
fn config(container: &Container, runtime: &str) -> Value {
    json!({
        "id": container.id,
        "name": container.config.metadata.name,
        "rootfsImage": container.image_name,
        "rootfsImageRef": container.image_ref,
        "rootfsImageName": container.image_name,
        "runtime": runtime,
        "createdTime": moment(container.created_at),
        "checkpointedTime": moment(now()),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    })
}

/// `status.dump`: the container's CRI status, as Go encodes it in JSON.
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

/// `status`: the state and times of the process, in containerd's format.
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
