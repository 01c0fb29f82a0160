//! Reserved names: one container for each pod, name and attempt.

use std::collections::HashMap;

use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use crate::model::container::ContainerMetadata;

type Key = (PodId, ContainerMetadata);

/// Reservations of container names.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<HashMap<Key, ContainerId>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, ContainerId>> {
        self.0.lock()
    }

    /// Reserves a name; fails with the id of the container that has it.
    pub(super) fn reserve(
        &self,
        pod: &PodId,
        name: &ContainerMetadata,
        id: &ContainerId,
    ) -> Result<(), ContainerId> {
        let mut names = self.lock();
        match names.entry((pod.clone(), name.clone())) {
            std::collections::hash_map::Entry::Occupied(taken) if taken.get() != id => {
                Err(taken.get().clone())
            }
            std::collections::hash_map::Entry::Occupied(_) => Ok(()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(id.clone());
                Ok(())
            }
        }
    }

    /// Frees a name if this container holds it.
    pub(super) fn release(&self, pod: &PodId, name: &ContainerMetadata, id: &ContainerId) {
        let mut names = self.lock();
        let key = (pod.clone(), name.clone());
        if names.get(&key) == Some(id) {
            names.remove(&key);
        }
    }
}
