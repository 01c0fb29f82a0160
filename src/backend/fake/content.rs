//! The contents of the fake image store, and its garbage collector.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::{ImageRecord, Lease};
use super::world::WorldState;
use crate::model::StringMap;
use crate::model::image::{ChainId, Digest};

const GC_ROOT: &str = "containerd.io/gc.root";
const REF_CONTENT: &str = "containerd.io/gc.ref.content";
const REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// A stored blob.
pub(super) struct Blob {
    pub(super) bytes: Bytes,
    pub(super) labels: StringMap,
}

/// A blob being written.
#[derive(Default)]
pub(super) struct Ingest {
    pub(super) bytes: Vec<u8>,
    /// Whether a writer has it open.
    pub(super) open: bool,
}

/// The objects held by a lease.
#[derive(Default)]
pub(super) struct Held {
    pub(super) blobs: BTreeSet<Digest>,
    pub(super) chains: BTreeSet<(String, ChainId)>,
    pub(super) ingests: BTreeSet<String>,
}

/// The whole contents of the store.
#[derive(Default)]
pub(super) struct Content {
    pub(super) blobs: BTreeMap<Digest, Blob>,
    pub(super) ingests: BTreeMap<String, Ingest>,
    pub(super) names: BTreeMap<String, ImageRecord>,
    pub(super) leases: BTreeMap<String, Held>,
    pub(super) leases_made: u64,
}

impl Content {
    /// The objects of a lease, unless it was released.
    pub(super) fn held(&mut self, lease: &Lease) -> Option<&mut Held> {
        self.leases.get_mut(&lease.0)
    }

    /// Removes unreferenced objects, by containerd's rules.
    pub(super) fn collect(&mut self, world: &mut WorldState) {
        let leased: BTreeSet<&String> =
            self.leases.values().flat_map(|held| &held.ingests).collect();
        let abandoned: Vec<String> = self
            .ingests
            .iter()
            .filter(|(name, ingest)| !ingest.open && !leased.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in abandoned {
            self.ingests.remove(&name);
        }
        let (blobs, chains) = self.live(world);
        self.blobs.retain(|digest, _| blobs.contains(digest));
        world.chains.retain(|place, _| chains.contains(place));
    }

    fn live(&self, world: &WorldState) -> (BTreeSet<Digest>, BTreeSet<(String, ChainId)>) {
        let mut blobs: Vec<Digest> =
            self.names.values().map(|name| name.target.digest.clone()).collect();
        let mut chains: Vec<(String, ChainId)> = Vec::new();
        for held in self.leases.values() {
            blobs.extend(held.blobs.iter().cloned());
            chains.extend(held.chains.iter().cloned());
        }
        let labelled = self.blobs.iter().filter(|(_, blob)| blob.labels.contains_key(GC_ROOT));
        blobs.extend(labelled.map(|(digest, _)| digest.clone()));
        let parents = world.roots.iter().filter_map(|((snapshotter, _), parent)| {
            parent.clone().map(|parent| (snapshotter.clone(), parent))
        });
        chains.extend(parents);

        let mut live_blobs = BTreeSet::new();
        while let Some(digest) = blobs.pop() {
            let Some(blob) = self.blobs.get(&digest) else { continue };
            if !live_blobs.insert(digest) {
                continue;
            }
            for (label, target) in &blob.labels {
                let Ok(target) = Digest::try_from(target.as_str()) else { continue };
                if label.starts_with(REF_CONTENT) {
                    blobs.push(target);
                } else if let Some(rest) = label.strip_prefix(REF_SNAPSHOT) {
                    let snapshotter = rest.split('/').next().unwrap_or(rest);
                    chains.push((snapshotter.to_owned(), target));
                }
            }
        }
        let mut live_chains = BTreeSet::new();
        while let Some(place) = chains.pop() {
            let Some(parent) = world.chains.get(&place) else { continue };
            if let Some(parent) = parent {
                chains.push((place.0.clone(), parent.clone()));
            }
            live_chains.insert(place);
        }
        (live_blobs, live_chains)
    }
}
