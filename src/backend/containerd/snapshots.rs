//! Snapshots: writable roots, views, mounts and sizes.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::{
    Info, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
    StatSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use futures::{StreamExt, TryStreamExt};
use tonic::Status;

use super::client::Client;
use super::leases;
use super::types::{OWNER, OWNER_FILTER, OWNER_LABEL, mounts, unsigned, wire_map};
use crate::backend::{ErrorKind, FsUsage, GoneIsFine, Lease, Result, RootfsMount, RootfsOptions};
use crate::locks::Mutex;
use crate::model::StringMap;
use crate::model::image::ChainId;
use crate::model::security::{IdMapping, IdMappings};
use crate::telemetry::error_chain;

/// With any value of this label a snapshot is protected from the garbage collector from its
/// creation on, so no lease is needed until a container record refers to it.
const GC_ROOT_LABEL: &str = "containerd.io/gc.root";
const UID_MAPPING_LABEL: &str = "containerd.io/snapshot/uidmapping";
const GID_MAPPING_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// Number of concurrent usage calls while all snapshots are summed up.
const USAGE_CALLS: usize = 8;

/// Makes a writable root. The daemon itself reports a missing parent.
pub(super) async fn prepare(
    client: &Client,
    snapshotter: &str,
    key: &str,
    parent: Option<&ChainId>,
    options: &RootfsOptions,
) -> Result<Vec<RootfsMount>> {
    let message = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.map(ToString::to_string).unwrap_or_default(),
        labels: root_labels(&options.labels, options.id_mappings),
    };
    let tried = || format!("prepare snapshot {key} of {snapshotter}");
    let answer = client.slow(tried, client.snapshots().prepare(client.request(message))).await?;
    Ok(mounts(answer.mounts))
}

pub(super) async fn view(
    client: &Client,
    snapshotter: &str,
    key: &str,
    parent: &ChainId,
) -> Result<Vec<RootfsMount>> {
    let message = ViewSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_string(),
        labels: root_labels(&StringMap::new(), None),
    };
    let tried = || format!("make view {key} of {snapshotter}");
    let answer = client.slow(tried, client.snapshots().view(client.request(message))).await?;
    Ok(mounts(answer.mounts))
}

pub(super) async fn existing_mounts(
    client: &Client,
    snapshotter: &str,
    key: &str,
) -> Result<Vec<RootfsMount>> {
    let message = MountsRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let tried = || format!("get mounts of snapshot {key} of {snapshotter}");
    let answer = client.quick(tried, client.snapshots().mounts(client.request(message))).await?;
    Ok(mounts(answer.mounts))
}

pub(super) async fn remove(client: &Client, snapshotter: &str, key: &str) -> Result<()> {
    let message =
        RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let tried = || format!("remove snapshot {key} of {snapshotter}");
    client.slow(tried, client.snapshots().remove(client.request(message))).await.gone_is_fine()
}

/// Keys of the active and view snapshots with podbay's label.
pub(super) async fn list_ours(client: &Client, snapshotter: &str) -> Result<Vec<String>> {
    let infos = list(client, snapshotter, vec![OWNER_FILTER.to_owned()]).await?;
    Ok(infos
        .into_iter()
        .filter(|info| info.kind() != Kind::Committed)
        .map(|info| info.name)
        .collect())
}

pub(super) async fn usage(client: &Client, snapshotter: &str, key: &str) -> Result<FsUsage> {
    let message = UsageRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
    let tried = || format!("measure snapshot {key} of {snapshotter}");
    let answer = client.slow(tried, client.snapshots().usage(client.request(message))).await?;
    Ok(FsUsage { bytes: unsigned(answer.size), inodes: unsigned(answer.inodes) })
}

/// Whether a chain is unpacked. It is added to the lease first, or the garbage collector could
/// remove it after the look-up; adding a missing one does no harm.
pub(super) async fn has_chain(
    client: &Client,
    snapshotter: &str,
    chain: &ChainId,
    lease: Option<&Lease>,
) -> Result<bool> {
    if let Some(lease) = lease {
        leases::hold_snapshot(client, lease, snapshotter, chain.as_str()).await?;
    }
    let message =
        StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: chain.to_string() };
    let tried = || format!("look up snapshot {chain} of {snapshotter}");
    match client.quick(tried, client.snapshots().stat(client.request(message))).await {
        Ok(answer) => Ok(answer.info.is_some_and(|info| info.kind() == Kind::Committed)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The last measured sizes of snapshots, by snapshotter and name.
#[derive(Default)]
pub(super) struct UsageCache(Mutex<HashMap<String, Sizes>>);

type Sizes = HashMap<String, Size>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    used: FsUsage,
    /// Whether it was measured after the commit, so that it never changes. Measuring all of these
    /// every time would be most of the work.
    is_final: bool,
}

impl UsageCache {
    fn of(&self, snapshotter: &str) -> Sizes {
        let sizes = self.0.lock();
        sizes.get(snapshotter).cloned().unwrap_or_default()
    }

    fn replace(&self, snapshotter: &str, measured: Sizes) {
        let mut sizes = self.0.lock();
        sizes.insert(snapshotter.to_owned(), measured);
    }
}

/// Sum over all snapshots of a snapshotter. Ones that are removed meanwhile are not counted, and
/// of ones that cannot be measured the last size is.
pub(super) async fn total_usage(
    client: &Client,
    cache: &UsageCache,
    snapshotter: &str,
) -> Result<FsUsage> {
    let known = cache.of(snapshotter);
    let infos = list(client, snapshotter, Vec::new()).await?;
    let known = &known;
    let measured: Sizes = futures::stream::iter(infos)
        .map(|info| async move {
            let last = known.get(&info.name).copied();
            let committed = info.kind() == Kind::Committed;
            let size = match last.filter(|last| last.is_final && committed) {
                Some(size) => size,
                None => sized(usage(client, snapshotter, &info.name).await, last, committed)?,
            };
            Ok::<_, crate::backend::Error>((info.name, size))
        })
        .buffer_unordered(USAGE_CALLS)
        .try_collect()
        .await?;
    let total = measured.values().fold(FsUsage::default(), |sum, size| FsUsage {
        bytes: sum.bytes.saturating_add(size.used.bytes),
        inodes: sum.inodes.saturating_add(size.used.inodes),
    });
    cache.replace(snapshotter, measured);
    Ok(total)
}

/// The size to count for a snapshot. The daemon walks through its files to measure it, which fails
/// when one of them is removed meanwhile and may take too long; some snapshotters cannot measure at
/// all. One such snapshot must not hide the disk use of all others.
fn sized(measured: Result<FsUsage>, last: Option<Size>, committed: bool) -> Result<Size> {
    match measured {
        Ok(used) => Ok(Size { used, is_final: committed }),
        Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            let last = last.filter(|_| !error.is_not_found());
            let used = last.map(|last| last.used).unwrap_or_default();
            tracing::debug!("last size counted: {}", error_chain(&error));
            Ok(Size { used, is_final: false })
        }
    }
}

async fn list(client: &Client, snapshotter: &str, filters: Vec<String>) -> Result<Vec<Info>> {
    let message = ListSnapshotsRequest { snapshotter: snapshotter.to_owned(), filters };
    let read = async {
        let mut stream = client.snapshots().list(client.request(message)).await?.into_inner();
        let mut infos = Vec::new();
        while let Some(part) = stream.message().await? {
            infos.extend(part.info);
        }
        Ok::<_, Status>(infos)
    };
    client.quick_stream(|| format!("list snapshots of {snapshotter}"), read).await
}

fn root_labels(extra: &StringMap, id_mappings: Option<IdMappings>) -> HashMap<String, String> {
    let mut labels = wire_map(extra);
    labels.insert(GC_ROOT_LABEL.to_owned(), OWNER.to_owned());
    labels.insert(OWNER_LABEL.to_owned(), OWNER.to_owned());
    if let Some(IdMappings { uids, gids }) = id_mappings {
        labels.insert(UID_MAPPING_LABEL.to_owned(), mapping(uids));
        labels.insert(GID_MAPPING_LABEL.to_owned(), mapping(gids));
    }
    labels
}

fn mapping(map: IdMapping) -> String {
    format!("{}:{}:{}", map.container_id, map.host_id, map.length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Error;

    #[test]
    fn a_root_outlives_the_collector_and_is_known_as_ours() {
        let extra = [("containerd.io/snapshot/x".to_owned(), "1".to_owned())].into();
        let labels = root_labels(&extra, None);
        assert!(labels.contains_key(GC_ROOT_LABEL));
        assert_eq!(labels[OWNER_LABEL], OWNER);
        assert_eq!(labels["containerd.io/snapshot/x"], "1");
        assert_eq!(labels.len(), 3);
    }

    #[test]
    fn a_snapshot_that_cannot_be_measured_counts_with_its_last_size() {
        let size = |bytes, is_final| Size { used: FsUsage { bytes, inodes: 1 }, is_final };
        let fails = |kind| Err(Error::new(kind, "measure"));
        let last = Some(size(5, false));
        let measured = Ok(size(7, false).used);
        assert_eq!(sized(measured, last, false).unwrap(), size(7, false));
        let measured = Ok(size(7, false).used);
        assert_eq!(sized(measured, last, true).unwrap(), size(7, true));
        use ErrorKind::{DeadlineExceeded, NotFound, Other, Unavailable, Unsupported};
        let nothing = Size { used: FsUsage::default(), is_final: false };
        for kind in [Other, Unsupported, DeadlineExceeded] {
            assert_eq!(sized(fails(kind), last, true).unwrap(), size(5, false), "{kind:?}");
            assert_eq!(sized(fails(kind), None, false).unwrap(), nothing, "{kind:?}");
        }
        assert_eq!(sized(fails(NotFound), last, false).unwrap(), nothing, "it was removed");
        assert_eq!(sized(fails(Unavailable), last, false).unwrap_err().kind, Unavailable);
    }

    #[test]
    fn id_mappings_are_container_host_length() {
        let map = |host_id| IdMapping { host_id, container_id: 0, length: 65536 };
        let ids = IdMappings { uids: map(100_000), gids: map(200_000) };
        let labels = root_labels(&StringMap::new(), Some(ids));
        assert_eq!(labels[UID_MAPPING_LABEL], "0:100000:65536");
        assert_eq!(labels[GID_MAPPING_LABEL], "0:200000:65536");
    }
}
