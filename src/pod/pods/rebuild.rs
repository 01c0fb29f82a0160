//! Rebuilds pods after the loss of the store, from the record in each pod's directory.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Pods;
use crate::pod::record::Life;
use crate::store::{self, Batch, Record};
use crate::telemetry::error_chain;

/// Marks that the store has all pods, so that a directory without a row belongs to a removed pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Complete {
    key: String,
}

impl Record for Complete {
    const TABLE: &'static str = "pods.complete";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.key
    }
}

impl Pods {
    /// Adds the pods that the store has lost, once in its life, all or none, so that a crash in
    /// between changes nothing. Returns the uids of those that cannot be rebuilt.
    pub(super) async fn rebuild(
        &self,
        lives: &mut Vec<Life>,
        known: &mut BTreeSet<String>,
    ) -> Result<Vec<String>, store::Error> {
        let (store, volumes) = (&self.room.deps.store, &self.room.deps.volumes);
        let complete = store.load::<Complete>()?;
        if !complete.records.is_empty() || !complete.faults.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::new().put(&Complete { key: "all".to_owned() })?;
        let mut lost = Vec::new();
        let uids = volumes.uids().await.unwrap_or_else(|error| {
            tracing::error!(error = error_chain(&error), "cannot list pod folders");
            Vec::new()
        });
        for uid in uids.into_iter().filter(|uid| !known.contains(uid)) {
            match volumes.kept_pod(&uid).await {
                Ok(Some(life)) if life.uid == uid => {
                    tracing::warn!(pod = %life.given.key(), uid, "pod rebuilt from its folder");
                    batch = batch.put(&life)?;
                    lives.push(life);
                }
                Ok(_) => lost.push(uid),
                Err(error) => {
                    tracing::error!(uid, error = error_chain(&error), "cannot rebuild pod");
                    lost.push(uid);
                }
            }
        }
        store.write(batch).await?;
        known.extend(lives.iter().map(|life| life.uid.clone()));
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stored;

    #[test]
    fn the_stored_mark_keeps_its_meaning() {
        for mark in [stored::now::<Complete>(), stored::old()] {
            assert_eq!(mark.key(), "all");
        }
    }
}
