//! Stored blobs: look-up, reading, labels, size. Writing is in `blobs`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{
    Info, InfoRequest, ListContentRequest, ReadContentRequest, UpdateRequest,
};
use tonic::Status;

use super::client::{Client, within};
use super::types::{mask, unsigned, wire_map};
use super::{Shared, failure, leases};
use crate::backend::{BlobBytes, BlobInfo, Error, ErrorKind, FsUsage, Lease, Result};
use crate::model::StringMap;
use crate::model::image::Digest;

/// The most bytes that are read at once, which a slow reader keeps in memory.
const PIECE: u64 = 1 << 20;

/// Looks up a complete blob. It is added to the lease first, or the garbage collector could remove
/// it after the look-up; adding a missing one does no harm.
pub(super) async fn info(
    client: &Client,
    digest: &Digest,
    lease: Option<&Lease>,
) -> Result<Option<BlobInfo>> {
    if let Some(lease) = lease {
        leases::hold_blob(client, lease, digest.as_str()).await?;
    }
    let message = InfoRequest { digest: digest.to_string() };
    let tried = || format!("look up blob {digest}");
    match client.quick(tried, client.content().info(client.request(message))).await {
        Ok(answer) => Ok(answer.info.map(|info| BlobInfo {
            size: unsigned(info.size),
            labels: info.labels.into_iter().collect(),
        })),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A whole blob; `InvalidArgument` as soon as it exceeds `max` bytes.
pub(super) async fn read(client: &Client, digest: &Digest, max: usize) -> Result<Bytes> {
    let tried = || format!("read blob {digest}");
    let message = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
    let read = async {
        let answer = client.bulk_content().read(client.request(message)).await?;
        let mut stream = answer.into_inner();
        let mut whole = BytesMut::new();
        while let Some(part) = stream.message().await? {
            if part.data.len() > max - whole.len() {
                return Ok::<_, Status>(None);
            }
            whole.extend_from_slice(&part.data);
        }
        Ok(Some(whole.freeze()))
    };
    within(client.slow_limit(), tried, read).await?.ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, format!("{}: larger than {max} bytes", tried()))
    })
}

/// The bytes of a blob in pieces, each of which is received whole before it is passed on. So a slow
/// reader holds back nothing on the connection that all blobs share. The slow limit applies to each
/// piece; the reader's own pace does not count.
pub(super) async fn open(shared: Arc<Shared>, digest: &Digest) -> Result<BlobBytes> {
    let missing = || Error::new(ErrorKind::NotFound, format!("read blob {digest}"));
    let size = info(&shared.client, digest, None).await?.ok_or_else(missing)?.size;
    let digest = digest.clone();
    Ok(Box::pin(async_stream::try_stream! {
        let mut at = 0;
        while at < size {
            let piece = read_piece(&shared.client, &digest, at, PIECE.min(size - at)).await?;
            at += piece.len() as u64;
            yield piece;
        }
    }))
}

/// Some bytes of a blob, never none.
async fn read_piece(client: &Client, digest: &Digest, at: u64, size: u64) -> Result<Bytes> {
    let tried = || format!("read blob {digest} from byte {at}");
    let message = ReadContentRequest {
        digest: digest.to_string(),
        offset: i64::try_from(at).unwrap_or(i64::MAX),
        size: i64::try_from(size).unwrap_or(i64::MAX),
    };
    let read = async {
        let answer = client.bulk_content().read(client.request(message)).await?;
        let mut stream = answer.into_inner();
        let mut piece = BytesMut::new();
        while let Some(part) = stream.message().await? {
            piece.extend_from_slice(&part.data);
        }
        Ok::<_, Status>(piece.freeze())
    };
    let piece = within(client.slow_limit(), tried, read).await?;
    if piece.is_empty() { Err(failure::senseless(tried(), "no bytes in it")) } else { Ok(piece) }
}

/// Sets these labels and keeps others; the daemon removes those with an empty value.
pub(super) async fn label(client: &Client, digest: &Digest, labels: &StringMap) -> Result<()> {
    if labels.is_empty() {
        return Ok(());
    }
    let info = Info { digest: digest.to_string(), labels: wire_map(labels), ..Info::default() };
    let update_mask = mask(labels.keys().map(|key| format!("labels.{key}")));
    let message = UpdateRequest { info: Some(info), update_mask };
    let tried = || format!("label blob {digest}");
    client.quick(tried, client.content().update(client.request(message))).await?;
    Ok(())
}

/// Sum over all blobs of the namespace.
pub(super) async fn total_usage(client: &Client) -> Result<FsUsage> {
    let read = async {
        let all = client.request(ListContentRequest::default());
        let mut stream = client.content().list(all).await?.into_inner();
        let mut total = FsUsage::default();
        while let Some(part) = stream.message().await? {
            for info in part.info {
                total.bytes = total.bytes.saturating_add(unsigned(info.size));
                total.inodes += 1;
            }
        }
        Ok::<_, Status>(total)
    };
    client.quick_stream(|| "list blobs".to_owned(), read).await
}
