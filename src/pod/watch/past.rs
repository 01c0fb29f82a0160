//! What an agent has shown, for the agent after it.
//!
//! Two promises hold over any end of the agent. A number is never given to two changes: before
//! an agent gives out any it reserves a block of them in the store, and the next one begins behind
//! that block. And a watch goes on without a gap, or is told that it cannot: what is shown at one
//! moment is written down whole once there was quiet for a while, so a later agent knows what
//! a watcher has seen that comes from that moment, and tells what is different now. From all
//! other moments of an earlier agent nobody can go on.
//!
//! What is written down may be old, never wrong: nothing waits for it, and an agent that is
//! killed, or has a full disk, merely sends more watchers back to the beginning.

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

/// Numbers that are reserved at once: more changes than any agent makes between two writes.
const BLOCK: u64 = 1 << 32;

/// It is written down after so long without a change, …
const QUIET: Duration = Duration::from_secs(1);

/// … or when there were changes all this time.
const RESTLESS: Duration = Duration::from_secs(10);

/// How far numbers are given out.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Mark {
    /// All that were ever given out are at most this.
    reserved: u64,
    /// The change at which the rows of [`Shown`] were true.
    shown: u64,
}

impl Record for Mark {
    const TABLE: &'static str = "watch";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        "mark"
    }
}

/// A pod as it was shown.
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

/// Lets a hub go on where the agents before it have stopped, and says who keeps that up.
///
/// A store that takes no writes costs this life of the agent its place in the history: it begins
/// one of its own, in which nobody is told wrong things.
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
    // A mark that cannot be read: nobody knows which numbers were given out.
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
        tracing::error!(error = error_chain(&error), "watches begin anew until the next start");
        let epoch = format!("{:016x}", rand::random::<u64>());
        hub.begin(Revision { epoch, number: first }, first, Vec::new());
        return Ok(keeper);
    }
    keeper.anew = false;
    let start = Revision { epoch, number: first };
    if !whole {
        // A part of what was shown is no state that anybody has seen.
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

/// Writes down what is shown.
pub(in crate::pod) struct Keeper {
    hub: Arc<Hub>,
    store: Store,
    /// The rows that are in the store, with their numbers.
    rows: BTreeMap<String, u64>,
    /// The change at which they were true.
    shown: u64,
    /// This history has no place in the store.
    anew: bool,
}

impl Keeper {
    /// Never ends. Safe to drop at any moment.
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

    /// At the end of the agent: as it is shown last.
    pub(in crate::pod) async fn try_keep(&mut self) {
        if let Err(error) = self.keep().await {
            tracing::warn!(error = error_chain(&error), "not written down what watchers were told");
        }
    }

    /// Writes down what is shown now, all in one batch.
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

/// Neither part has a slash.
fn row_key(key: &PodKey) -> String {
    key.to_string()
}

#[cfg(test)]
mod tests;
