//! Keeping the exits of tasks over a restart of the daemon.
//!
//! A daemon since 1.7 that starts looks at each shim it finds. A task without processes it takes
//! for a left-over, deletes it, and with it the exit that the shim has kept: what ended while the
//! daemon was away has no exit code any more. It leaves alone what has a record in its sandbox
//! store under the same id. So each task of ours gets one: an empty mark, which names no
//! sandboxer, starts nothing, and goes with the container record. Older daemons have no such
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

/// Whether the daemon lacks the store, as far as is known.
#[derive(Default)]
pub(super) struct Holds {
    absent: AtomicBool,
}

impl Holds {
    /// Asks again next time: the daemon may be another one by now.
    pub(super) fn forget(&self) {
        self.absent.store(false, Ordering::Relaxed);
    }

    /// Marks a task. Without the mark all works but for an exact code after the worst of times,
    /// so a failure is no failure of the task.
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
            Err(error) => tracing::debug!(id, cause = ?error, "exit is not kept for a restart"),
        }
    }

    /// Removes a mark; none is fine.
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

    /// Notes it when the daemon has no sandbox store.
    fn is_absent(&self, kind: ErrorKind) -> bool {
        let absent = kind == ErrorKind::Unsupported;
        if absent {
            self.absent.store(true, Ordering::Relaxed);
        }
        absent
    }
}

/// Every field is filled: a daemon takes none of them for optional, and breaks down without a
/// runtime.
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
