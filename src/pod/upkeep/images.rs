//! Removes unused images when their disk gets full, least recently used first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::model::image::Digest;

/// Thresholds for removing images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Disk usage in percent from which images are removed.
    pub high: u8,
    /// Disk usage in percent down to which images are removed.
    pub low: u8,
    /// Minimum age of an image to be removed, since somebody may be about to use a new one.
    pub age: Duration,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { high: 85, low: 80, age: Duration::from_secs(120) }
    }
}

/// A local image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUse {
    /// Its id.
    pub id: Digest,
    /// Bytes.
    pub size: u64,
    /// Whether it must never be removed.
    pub pinned: bool,
}

/// The disk with the images, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disks {
    /// Capacity.
    pub capacity: u64,
    /// Free bytes.
    pub available: u64,
}

/// The images of this node.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Whether unused images are to be removed now. On a node without pods of the engine they are
    /// left to other users.
    fn collects(&self) -> bool {
        true
    }

    /// All images.
    async fn images(&self) -> Result<Vec<ImageUse>, String>;

    /// Images used by containers, running or not, or by volumes.
    fn in_use(&self) -> BTreeSet<Digest>;

    /// The disk that they are on.
    async fn disk(&self) -> Result<Disks, String>;

    /// Removes an image under all its names.
    async fn remove(&self, image: &Digest) -> Result<(), String>;
}

/// When images were first seen and last used. Lost at a restart, as in the kubelet: then all images
/// count as new.
#[derive(Debug, Default)]
pub struct Unused {
    seen: BTreeMap<Digest, Seen>,
}

#[derive(Debug, Clone)]
struct Seen {
    first: Instant,
    used: Option<Instant>,
    in_use: bool,
    size: u64,
    pinned: bool,
}

impl Unused {
    /// Records the current images and those in use.
    pub fn note(&mut self, images: &[ImageUse], in_use: &BTreeSet<Digest>, now: Instant) {
        let before = std::mem::take(&mut self.seen);
        let note = |image: &ImageUse| {
            let old = before.get(&image.id);
            let in_use = in_use.contains(&image.id);
            let seen = Seen {
                first: old.map_or(now, |old| old.first),
                used: if in_use { Some(now) } else { old.and_then(|old| old.used) },
                in_use,
                size: image.size,
                pinned: image.pinned,
            };
            (image.id.clone(), seen)
        };
        self.seen = images.iter().map(note).collect();
    }

    /// The images that may be removed with their sizes, least recently used first. Never used ones
    /// are ordered by when they were first seen.
    pub fn removable(&self, age: Duration, now: Instant) -> Vec<(Digest, u64)> {
        let old = |seen: &&Seen| now.saturating_duration_since(seen.first) >= age;
        let free = self.seen.iter().filter(|(_, seen)| !seen.in_use && !seen.pinned);
        let mut found: Vec<_> = free.filter(|(_, seen)| old(seen)).collect();
        // Never used ones come before all others.
        found.sort_by_key(|(_, seen)| (seen.used, seen.first));
        found.into_iter().map(|(id, seen)| (id.clone(), seen.size)).collect()
    }
}

/// How many bytes to free, if the disk is too full.
fn excess(disk: Disks, limits: ImageLimits) -> Option<u64> {
    let Disks { capacity, available } = disk;
    if capacity == 0 {
        return None;
    }
    let percent = |of: u64| u128::from(capacity) * u128::from(of) / 100;
    let used = 100 - (u128::from(available.min(capacity)) * 100 / u128::from(capacity));
    (used >= u128::from(limits.high)).then(|| {
        let wanted = percent(100u64.saturating_sub(limits.low.into()));
        u64::try_from(wanted.saturating_sub(available.into())).unwrap_or(u64::MAX)
    })
}

/// One round. With `all` every unused image is removed regardless of disk usage. Returns the number
/// of bytes freed, according to the image sizes.
///
/// # Errors
/// When images or disk cannot be queried, or too little could be freed: the message of the
/// event `FreeDiskSpaceFailed`.
pub async fn free_images(
    store: &dyn ImageStore,
    unused: &mut Unused,
    limits: ImageLimits,
    all: bool,
) -> Result<u64, String> {
    let images = store.images().await?;
    // Queried after the list, so that images used since then are noticed.
    unused.note(&images, &store.in_use(), Instant::now());
    let wanted = if all { Some(u64::MAX) } else { excess(store.disk().await?, limits) };
    let Some(wanted) = wanted else { return Ok(0) };
    let mut freed = 0u64;
    for (id, size) in unused.removable(limits.age, Instant::now()) {
        if freed >= wanted {
            break;
        }
        match store.remove(&id).await {
            Ok(()) => freed = freed.saturating_add(size),
            Err(error) => tracing::warn!(image = %id, error, "cannot remove unused image"),
        }
    }
    if all || freed >= wanted {
        return Ok(freed);
    }
    Err(format!(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, \
         but only found {freed} bytes eligible to free."
    ))
}

#[cfg(test)]
mod tests;
