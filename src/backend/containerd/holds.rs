//! Preserves the exits of tasks across restarts of containerd.
//!
//! containerd since 1.7 examines each shim at its start. It takes a task without processes for a
//! left-over and deletes it, and with it the exit that the shim kept: exit codes of processes that
//! ended while containerd was down are lost. It spares tasks that have a record with the same id in
//! its sandbox store. So podbay adds a record for each of its tasks: an empty mark, which names no
//! sandboxer, starts nothing, and is removed with the container record. Older versions have no such
//! store and need none.
//! store and need none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use containerd_client::services::v1::sandbox::{StoreCreateRequest, StoreDeleteRequest};
use containerd_client::types::Sandbox;
use containerd_client::types::sandbox::Runtime;
use prost_types::Timestamp;

use super::client::Client;
use super::types::{OWNER, OWNER_LABEL, json_any};
use crate::backend::{ErrorKind, GoneIsFine, Result};

const MARK_URL: &str = "io.podbay.mark/v1";

/// Whether the daemon is known to lack the store.
#[derive(Default)]
pub(super) struct Holds {
    absent: AtomicBool,
}

impl Holds {
    /// Asks again next time, because the daemon may be a different version by now.
    pub(super) fn forget(&self) {
        self.absent.store(false, Ordering::Relaxed);
    }

    /// Marks a task. Without the mark only exit codes during a restart of containerd are lost, so a
    /// failure here does not fail the task.
    pub(super) async fn add(&self, client: &Client, id: &str) {
        if self.absent.load(Ordering::Relaxed) {
            return;
        }
        let message = StoreCreateRequest { sandbox: Some(mark(id)) };
        let tried = || format!("mark task {id}");
        match client.quick(tried, client.sandboxes().create(client.request(message))).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) if self.is_absent(error.kind) => {}
            Err(error) => {
                tracing::debug!(id, cause = ?error,
                    "cannot mark task: its exit may be lost if containerd restarts")
            }
        }
    }

    /// Removes a mark; a missing one is fine.
    pub(super) async fn remove(&self, client: &Client, id: &str) -> Result<()> {
        if self.absent.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = StoreDeleteRequest { sandbox_id: id.to_owned() };
        let tried = || format!("remove mark of task {id}");
        match client.quick(tried, client.sandboxes().delete(client.request(message))).await {
            Err(error) if self.is_absent(error.kind) => Ok(()),
            done => done.map(drop).gone_is_fine(),
        }
    }

    /// Notes that the daemon has no sandbox store.
    fn is_absent(&self, kind: ErrorKind) -> bool {
        let absent = kind == ErrorKind::Unsupported;
        if absent {
            self.absent.store(true, Ordering::Relaxed);
        }
        absent
    }
}

/// All fields are set: the daemon treats none as optional, and crashes without a runtime.
fn mark(id: &str) -> Sandbox {
    let nothing = || Some(json_any(MARK_URL, &serde_json::json!({})));
    let now = Some(Timestamp::from(SystemTime::now()));
    Sandbox {
        sandbox_id: id.to_owned(),
        runtime: Some(Runtime { name: OWNER.to_owned(), options: nothing() }),
        spec: nothing(),
        labels: [(OWNER_LABEL.to_owned(), OWNER.to_owned())].into(),
        created_at: now,
        updated_at: now,
        extensions: [(MARK_URL.to_owned(), json_any(MARK_URL, &serde_json::json!({})))].into(),
        sandboxer: OWNER.to_owned(),
    }
}
