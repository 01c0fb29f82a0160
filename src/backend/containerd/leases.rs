//! Leases, which protect new content and snapshots from the daemon's garbage collector.

use std::time::Duration;

use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::Client;
use super::types::OWNER;
use crate::backend::{Error, ErrorKind, GoneIsFine, Lease, Result};

/// Marks leases of podbay.
const LEASE_LABEL: &str = "io.podbay/lease";
const LEASE_FILTER: &str = "labels.\"io.podbay/lease\"==podbay";
/// Expiry of a lease, so that a crash leaks nothing.
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";
const LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// A new lease under a random id.
pub(super) async fn create(client: &Client) -> Result<Lease> {
    let id = format!("podbay-{}", hex::encode(rand::random::<[u8; 16]>()));
    let expire = (OffsetDateTime::now_utc() + LIFE)
        .format(&Rfc3339)
        .map_err(|error| Error::new(ErrorKind::Other, "format a lease's end").because(error))?;
    let message = CreateRequest {
        id: id.clone(),
        labels: [(LEASE_LABEL.to_owned(), OWNER.to_owned()), (EXPIRE_LABEL.to_owned(), expire)]
            .into(),
    };
    let tried = || format!("create lease {id}");
    client.quick(tried, client.leases().create(client.request(message))).await?;
    Ok(Lease(id))
}

/// Deletes a lease; a synchronous deletion waits for garbage collection and may take long.
pub(super) async fn release(client: &Client, lease: &Lease, sync: bool) -> Result<()> {
    let message = DeleteRequest { id: lease.0.clone(), sync };
    let tried = || format!("delete lease {}", lease.0);
    let mut leases = client.leases();
    let call = leases.delete(client.request(message));
    if sync { client.slow(tried, call).await } else { client.quick(tried, call).await }
        .gone_is_fine()
}

pub(super) async fn list(client: &Client) -> Result<Vec<Lease>> {
    let message = ListRequest { filters: vec![LEASE_FILTER.to_owned()] };
    let tried = || "list leases".to_owned();
    let answer = client.quick(tried, client.leases().list(client.request(message))).await?;
    Ok(answer.leases.into_iter().map(|lease| Lease(lease.id)).collect())
}

/// Adds a blob to a lease.
pub(super) async fn hold_blob(client: &Client, lease: &Lease, digest: &str) -> Result<()> {
    hold(client, lease, "content".to_owned(), digest).await
}

/// Adds a snapshot to a lease.
pub(super) async fn hold_snapshot(
    client: &Client,
    lease: &Lease,
    snapshotter: &str,
    key: &str,
) -> Result<()> {
    hold(client, lease, format!("snapshots/{snapshotter}"), key).await
}

async fn hold(client: &Client, lease: &Lease, kind: String, id: &str) -> Result<()> {
    let tried = || format!("add {id} to lease {}", lease.0);
    let resource = Resource { id: id.to_owned(), r#type: kind };
    let message = AddResourceRequest { id: lease.0.clone(), resource: Some(resource) };
    client.quick(tried, client.leases().add_resource(client.request(message))).await
}
