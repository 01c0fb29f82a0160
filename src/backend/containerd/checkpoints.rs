//! Checkpoints: the dump of a task, and the changes in its root file system.

use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::snapshots::{
    MountsRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use containerd_client::services::v1::{CheckpointTaskRequest, DiffRequest, ReadContentRequest};
use containerd_client::types::Mount;
use prost::{Message, Name};
use tokio::io::AsyncWriteExt;

use super::client::{Client, within};
use super::types::wire_path;
use super::{failure, leases, snapshots};
use crate::backend::{Error, Lease, Result};

/// An uncompressed layer: the archive around it may be compressed.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `containerd.runc.v1.CheckpointOptions`, of which only these fields are used. Without `exit` the
/// task continues.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(bool, tag = "1")]
    exit: bool,
    #[prost(string, tag = "8")]
    image_path: String,
    #[prost(string, tag = "9")]
    work_path: String,
}

impl Name for Options {
    const NAME: &'static str = "CheckpointOptions";
    const PACKAGE: &'static str = "containerd.runc.v1";
}

/// Dumps a task into a directory.
pub(super) async fn dump(
    client: &Client,
    id: &str,
    images: &Path,
    work: &Path,
    limit: Duration,
) -> Result<()> {
    let options =
        Options { exit: false, image_path: wire_path(images)?, work_path: wire_path(work)? };
    let message = CheckpointTaskRequest {
        container_id: id.to_owned(),
        options: Some(containerd_client::to_any(&options)),
        ..CheckpointTaskRequest::default()
    };
    let tried = || format!("checkpoint task {id}");
    let mut tasks = client.tasks();
    within(limit, tried, async { tasks.checkpoint(client.request(message)).await.map(drop) }).await
}

/// A snapshot by its name.
#[derive(Clone, Copy)]
pub(super) struct Snapshot<'a> {
    pub(super) snapshotter: &'a str,
    pub(super) key: &'a str,
}

/// Writes what a writable snapshot has on top of its parent into a new file, as a layer.
pub(super) async fn changes(client: &Client, snapshot: Snapshot<'_>, file: &Path) -> Result<()> {
    // Everything that is made on the way goes with the lease.
    let lease = leases::create(client).await?;
    let written = leased_changes(client, &lease, snapshot, file).await;
    if let Err(error) = leases::release(client, &lease, false).await {
        tracing::warn!(
            lease = lease.0,
            "cannot delete lease, it remains until it expires: {error}"
        );
    }
    written
}

async fn leased_changes(
    client: &Client,
    lease: &Lease,
    snapshot: Snapshot<'_>,
    file: &Path,
) -> Result<()> {
    let view = format!("checkpoint-{}", hex::encode(rand::random::<[u8; 16]>()));
    let left = parents_mounts(client, lease, snapshot, &view).await?;
    let diffed = diff(client, lease, left, snapshot).await;
    snapshots::remove(client, snapshot.snapshotter, &view).await?;
    copy_blob(client, &diffed?, file).await
}

/// The mounts of a view on a snapshot's parent; empty without a parent.
async fn parents_mounts(
    client: &Client,
    lease: &Lease,
    snapshot: Snapshot<'_>,
    view: &str,
) -> Result<Vec<Mount>> {
    let Snapshot { snapshotter, key } = snapshot;
    let tried = || format!("look up snapshot {key} of {snapshotter}");
    let message = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let found = client.quick(tried, client.snapshots().stat(client.request(message))).await?;
    let parent = found.info.unwrap_or_default().parent;
    if parent.is_empty() {
        return Ok(Vec::new());
    }
    let tried = || format!("make view {view} of {snapshotter}");
    let message = ViewSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: view.to_owned(),
        parent,
        ..ViewSnapshotRequest::default()
    };
    let request = client.leased(message, lease)?;
    Ok(client.slow(tried, client.snapshots().view(request)).await?.mounts)
}

/// Creates the diff and returns its digest. No deadline: it may have gigabytes, and the caller has
/// a limit.
async fn diff(
    client: &Client,
    lease: &Lease,
    left: Vec<Mount>,
    snapshot: Snapshot<'_>,
) -> Result<String> {
    let Snapshot { snapshotter, key } = snapshot;
    let message = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let tried = || format!("get mounts of snapshot {key} of {snapshotter}");
    let right = client.quick(tried, client.snapshots().mounts(client.request(message))).await?;
    let message = DiffRequest {
        left,
        right: right.mounts,
        media_type: LAYER.to_owned(),
        r#ref: format!("checkpoint-{}", hex::encode(rand::random::<[u8; 16]>())),
        ..DiffRequest::default()
    };
    let tried = || format!("collect the changes in snapshot {key} of {snapshotter}");
    let request = client.leased(message, lease)?;
    let answer = client.endless(tried, client.diff().diff(request)).await?;
    let made = answer.diff.ok_or_else(|| failure::senseless(tried(), "no blob in it"))?;
    Ok(made.digest)
}

async fn copy_blob(client: &Client, digest: &str, file: &Path) -> Result<()> {
    let tried = || format!("read blob {digest}");
    let failed = |error| Error::io(format!("write {}", file.display()), error);
    let message = ReadContentRequest { digest: digest.to_owned(), ..ReadContentRequest::default() };
    let mut content = client.bulk_content();
    let mut parts = client.endless(tried, content.read(client.request(message))).await?;
    let mut options = tokio::fs::OpenOptions::new();
    let mut out =
        options.write(true).create_new(true).mode(0o600).open(file).await.map_err(failed)?;
    loop {
        match parts.message().await {
            Ok(Some(part)) => out.write_all(&part.data).await.map_err(failed)?,
            Ok(None) => return out.flush().await.map_err(failed),
            Err(status) => return Err(failure::of(tried(), status)),
        }
    }
}
