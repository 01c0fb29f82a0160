//! Persistence of the published state across restarts of the agent.
//!
//! Two guarantees hold however the agent ends. A number is never used for two changes: an agent
//! reserves a block of numbers in the store before it uses any, and the next agent starts after
//! that block. And a watch either resumes without a gap or gets an error: the published state is
//! stored as a whole after a quiet period, so a later agent knows what a watcher of that revision
//! has seen, and sends the differences. From other revisions of an earlier agent a watch cannot be
//! resumed.
//!
//! The stored state may be outdated but is never wrong. Nothing waits for it; if an agent is killed
//! or the disk is full, more watchers have to start over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::Hub;
use crate::pod::object::{PodKey, Source};
use crate::pod::view::PodView;
use crate::store::{Batch, Error, Record, Revision, Store};
use crate::telemetry::error_chain;

/// Size of a reserved block: more changes than any agent makes between two writes.
const BLOCK: u64 = 1 << 32;

/// The state is stored after this time without a change.
const QUIET: Duration = Duration::from_secs(1);

/// The state is stored at the latest after this time.
const RESTLESS: Duration = Duration::from_secs(10);

/// The stored counters.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    /// Upper bound of all numbers ever used.
    reserved: u64,
    /// The change at which the rows of [`Shown`] were current.
    shown: u64,
}

impl Record for Mark {
    const TABLE: &'static str = "watch";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        "mark"
    }
}

/// A pod as published.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    key: String,
    number: u64,
    source: Source,
    pod: Arc<Pod>,
}

impl Record for Shown {
    const TABLE: &'static str = "shown";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.key
    }
}

/// Lets a hub continue after earlier agents, and returns the keeper that stores its state.
///
/// If the store cannot be written, this agent starts a history of its own, so that no watcher gets
/// wrong events.
///
/// # Errors
/// When the store cannot be read.
pub(in crate::pod) async fn resume(hub: &Arc<Hub>, store: &Store) -> Result<Keeper, Error> {
    let mut marks = store.load::<Mark>()?;
    let rows = store.load::<Shown>()?;
    let mut keeper = Keeper {
        hub: hub.clone(),
        store: store.clone(),
        rows: BTreeMap::new(),
        shown: 0,
        anew: true,
    };
    let Revision { epoch, number } = store.revision();
    // If a mark is unreadable it is unknown which numbers were used.
    let known = marks.faults.is_empty();
    let mark = marks.records.pop().unwrap_or(Mark { reserved: number, shown: number });
    let first = mark.reserved.max(number);
    let whole = known && rows.faults.is_empty();
    let next = Mark { reserved: first + BLOCK, shown: if whole { mark.shown } else { first } };
    let reserved = match known {
        true => store.write(Batch::new().put(&next)?.ends_work()).await.map(drop),
        false => Err(Error::Row {
            table: Mark::TABLE,
            key: "mark".to_owned(),
            problem: "it cannot be read".to_owned(),
        }),
    };
    if let Err(error) = reserved {
        tracing::error!(
            error = error_chain(&error),
            "cannot restore revisions: all watches start over"
        );
        let epoch = format!("{:016x}", rand::random::<u64>());
        hub.begin(Revision { epoch, number: first }, first, Vec::new());
        return Ok(keeper);
    }
    keeper.anew = false;
    let start = Revision { epoch, number: first };
    if !whole {
        // An incomplete state was never seen by any watcher.
        hub.begin(start, first, Vec::new());
        keeper.rows = rows.records.into_iter().map(|row| (row.key, 0)).collect();
        keeper.rows.extend(rows.faults.into_iter().map(|fault| (fault.key, 0)));
        return Ok(keeper);
    }
    keeper.rows = rows.records.iter().map(|row| (row.key.clone(), row.number)).collect();
    keeper.shown = mark.shown;
    let views = rows.records.into_iter().map(|Shown { number, source, pod, .. }| PodView {
        pod,
        source,
        revision: Revision { epoch: start.epoch.clone(), number },
    });
    let views = views.collect();
    hub.begin(start, mark.shown, views);
    Ok(keeper)
}

/// Stores the published state.
pub(in crate::pod) struct Keeper {
    hub: Arc<Hub>,
    store: Store,
    /// The rows in the store, with their numbers.
    rows: BTreeMap<String, u64>,
    /// The change at which they were current.
    shown: u64,
    /// Whether this history is not in the store.
    anew: bool,
}

impl Keeper {
    /// Never returns. May be dropped at any moment.
    pub(in crate::pod) async fn run(&mut self) {
        loop {
            self.hub.changed.notified().await;
            let latest = Instant::now() + RESTLESS;
            loop {
                let quiet = (Instant::now() + QUIET).min(latest);
                if timeout_at(quiet, self.hub.changed.notified()).await.is_err() {
                    break;
                }
            }
            self.try_keep().await;
        }
    }

    /// Stores the final state, at the end of the agent.
    pub(in crate::pod) async fn try_keep(&mut self) {
        if let Err(error) = self.keep().await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot store published state for watchers"
            );
        }
    }

    /// Stores the current published state in one batch.
    async fn keep(&mut self) -> Result<(), Error> {
        let now = self.hub.all();
        let at = now.revision.number;
        if self.anew || at == self.shown {
            return Ok(());
        }
        let mut rows = BTreeMap::new();
        let mut batch = Batch::new().put(&Mark { reserved: at + BLOCK, shown: at })?;
        for view in now.pods {
            let (key, number) = (row_key(&view.key()), view.revision.number);
            if self.rows.get(&key) != Some(&number) {
                let PodView { pod, source, .. } = view;
                batch = batch.put(&Shown { key: key.clone(), number, source, pod })?;
            }
            rows.insert(key, number);
        }
        for key in self.rows.keys().filter(|key| !rows.contains_key(*key)) {
            batch = batch.delete::<Shown>(key);
        }
        self.store.write(batch).await?;
        (self.rows, self.shown) = (rows, at);
        Ok(())
    }
}

/// Neither part contains a slash.
fn row_key(key: &PodKey) -> String {
    key.to_string()
}

#[cfg(test)]
mod tests;
