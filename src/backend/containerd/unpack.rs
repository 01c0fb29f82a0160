//! Unpacks a layer: prepares a scratch snapshot, applies the layer, verifies, commits.

use std::collections::HashMap;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::snapshots::{CommitSnapshotRequest, PrepareSnapshotRequest};
use containerd_client::types::Mount;

use super::client::Client;
use super::types::{wire_descriptor, wire_map};
use super::{content, leases, snapshots};
use crate::backend::{Error, ErrorKind, LayerUnpack, Result};
use crate::model::StringMap;
use crate::model::image::Digest;

/// Tells a remote snapshotter the chain id that the scratch snapshot will be committed as.
const TARGET_LABEL: &str = "containerd.io/snapshot.ref";
/// Label on a layer blob with the digest of its uncompressed form, as other containerd clients
/// expect.
const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";
/// "Already exists" may mean the chain or a colliding key; number of attempts with new keys.
const TRIES: usize = 3;

/// The layer's contents do not match the image's diff id.
#[derive(Debug, thiserror::Error)]
#[error("unpacks to {got:?} instead of {expected}")]
struct WrongDiffId {
    got: String,
    expected: Digest,
}

/// Whether this call committed the chain, or it existed already.
pub(super) enum Committed {
    Here,
    Elsewhere,
}

pub(super) async fn unpack(client: &Client, layer: LayerUnpack<'_>) -> Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        let key = scratch_key(layer.chain);
        match prepare(client, &layer, &key).await {
            Ok(mounts) => return fill(client, &layer, &key, mounts).await,
            Err(error) if error.is_already_exists() => last = Some(error),
            Err(error) => return Err(error),
        }
        let lease = Some(layer.lease);
        if snapshots::has_chain(client, layer.snapshotter, layer.chain, lease).await? {
            return Ok(());
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Other, format!("unpack {}", layer.chain))))
}

async fn prepare(client: &Client, layer: &LayerUnpack<'_>, key: &str) -> Result<Vec<Mount>> {
    let message = PrepareSnapshotRequest {
        snapshotter: layer.snapshotter.to_owned(),
        key: key.to_owned(),
        parent: layer.parent.map(ToString::to_string).unwrap_or_default(),
        labels: labels(layer),
    };
    let request = client.leased(message, layer.lease)?;
    let tried = || format!("prepare snapshot for chain {}", layer.chain);
    Ok(client.slow(tried, client.snapshots().prepare(request)).await?.mounts)
}

/// Fills the scratch snapshot, and removes it in all cases.
async fn fill(
    client: &Client,
    layer: &LayerUnpack<'_>,
    key: &str,
    mounts: Vec<Mount>,
) -> Result<()> {
    let outcome = match apply(client, layer, mounts).await {
        Ok(()) => commit(client, layer, key).await,
        Err(error) => Err(error),
    };
    if !matches!(outcome, Ok(Committed::Here))
        && let Err(error) = snapshots::remove(client, layer.snapshotter, key).await
    {
        // It is removed when its lease expires.
        tracing::warn!(
            key,
            "cannot remove scratch snapshot, it remains until its lease ends: {error}"
        );
    }
    if matches!(outcome, Ok(Committed::Elsewhere)) {
        let chain = layer.chain.as_str();
        leases::hold_snapshot(client, layer.lease, layer.snapshotter, chain).await?;
    }
    outcome.map(drop)
}

/// Applies the layer, without a time limit, since it may have gigabytes.
async fn apply(client: &Client, layer: &LayerUnpack<'_>, mounts: Vec<Mount>) -> Result<()> {
    let tried = || format!("unpack layer {}", layer.layer.digest);
    let message = ApplyRequest {
        diff: Some(wire_descriptor(layer.layer)?),
        mounts,
        ..ApplyRequest::default()
    };
    let answer = client.endless(tried, client.diff().apply(client.request(message))).await?;
    let got = answer.applied.unwrap_or_default().digest;
    if got != layer.diff_id.as_str() {
        let wrong = WrongDiffId { got, expected: layer.diff_id.clone() };
        return Err(Error::new(ErrorKind::FailedPrecondition, tried()).because(wrong));
    }
    Ok(())
}

/// Commits the scratch snapshot, without a time limit either: the daemon measures or syncs it.
pub(super) async fn commit(
    client: &Client,
    layer: &LayerUnpack<'_>,
    key: &str,
) -> Result<Committed> {
    let message = CommitSnapshotRequest {
        snapshotter: layer.snapshotter.to_owned(),
        name: layer.chain.to_string(),
        key: key.to_owned(),
        labels: labels(layer),
    };
    let request = client.leased(message, layer.lease)?;
    let tried = || format!("commit snapshot of chain {}", layer.chain);
    let note: StringMap = [(UNCOMPRESSED_LABEL.to_owned(), layer.diff_id.to_string())].into();
    let mut snapshots = client.snapshots();
    let (committed, noted) = tokio::join!(
        client.endless(tried, snapshots.commit(request)),
        content::label(client, &layer.layer.digest, &note),
    );
    if let Err(error) = noted {
        tracing::debug!(layer = %layer.layer.digest, "cannot label layer: {error}");
    }
    match committed {
        Ok(()) => Ok(Committed::Here),
        Err(error) if error.is_already_exists() => Ok(Committed::Elsewhere),
        Err(error) => Err(error),
    }
}

fn labels(layer: &LayerUnpack<'_>) -> HashMap<String, String> {
    let mut labels = wire_map(layer.labels);
    labels.insert(TARGET_LABEL.to_owned(), layer.chain.to_string());
    labels
}

/// A unique key in the form of containerd's clients, so that their clean-up recognises it.
fn scratch_key(chain: &Digest) -> String {
    let nanos = time::OffsetDateTime::now_utc().nanosecond();
    format!("extract-{nanos}-{} {chain}", hex::encode(rand::random::<[u8; 4]>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_keys_differ_and_name_their_chain() {
        let chain = Digest::of(b"x");
        let (one, two) = (scratch_key(&chain), scratch_key(&chain));
        assert_ne!(one, two);
        assert!(one.starts_with("extract-") && one.ends_with(chain.as_str()), "{one}");
    }
}
