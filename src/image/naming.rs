//! Sets names of images, all or none.

use super::error::Step;
use super::{Error, Inner};
use crate::backend::{ImageRecord, Lease};
use crate::model::image::Descriptor;

/// A name to set for an image.
pub(super) struct Naming {
    /// Normalised reference, or the id.
    pub name: String,
    /// The target of the name.
    pub target: Descriptor,
    /// Whether the image is never garbage-collected.
    pub pinned: bool,
}

/// The previous state of a name.
enum Before {
    Absent(String),
    There(ImageRecord),
}

impl Inner {
    /// Sets several names for one target.
    pub(super) async fn put_names(
        &self,
        lease: &Lease,
        names: Vec<String>,
        target: &Descriptor,
        pinned: bool,
    ) -> Result<(), Error> {
        let naming = |name| Naming { name, target: target.clone(), pinned };
        self.put_all(lease, names.into_iter().map(naming).collect()).await
    }

    /// Sets names to their targets. If one fails, all are restored.
    pub(super) async fn put_all(&self, lease: &Lease, names: Vec<Naming>) -> Result<(), Error> {
        let mut before = Vec::new();
        let mut put = Ok(());
        for naming in names {
            put = self.put_name(lease, naming, &mut before).await;
            if put.is_err() {
                self.put_back(before).await;
                break;
            }
        }
        self.index.invalidate();
        put
    }

    async fn put_name(
        &self,
        lease: &Lease,
        Naming { name, target, pinned }: Naming,
        before: &mut Vec<Before>,
    ) -> Result<(), Error> {
        let mut labels = self.name_labels(pinned);
        match self.store.image(&name).await.step("looking for an image name")? {
            None => before.push(Before::Absent(name.clone())),
            Some(record) => {
                if record.target.digest == target.digest {
                    // Labels set by other clients are kept.
                    labels = record.labels.clone().into_iter().chain(labels).collect();
                }
                before.push(Before::There(record));
            }
        }
        let record = ImageRecord { name, target, labels };
        self.store.put_image(&record, Some(lease)).await.step("storing an image name")
    }

    async fn put_back(&self, before: Vec<Before>) {
        // In reverse order, so that a name given twice gets its original state back.
        for one in before.into_iter().rev() {
            let (name, done) = match one {
                Before::Absent(name) => {
                    let done = self.store.delete_image(&name, false).await;
                    (name, done)
                }
                Before::There(record) => {
                    let done = self.store.put_image(&record, None).await;
                    (record.name, done)
                }
            };
            if let Err(error) = done {
                tracing::warn!(name, %error, "cannot restore image name after a failure");
            }
        }
    }
}
