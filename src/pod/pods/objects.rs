//! What becomes of the config maps and secrets in a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Pods;
use crate::pod::face::{Change, Error, Manner, ObjectKey, ObjectKind};
use crate::pod::object::{Objects, PodKey};

/// How an object in a manifest compares with what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// There is none with its name.
    Absent,
    /// Everybody has the same one.
    Same,
    /// It differs.
    Other,
}

impl Pods {
    /// What an apply changes about each object in its manifest; `taken` are those that the pods in
    /// the manifest refer to.
    ///
    /// # Errors
    /// [`Error::ObjectExists`] when an object is to be created but is stored or used by pods already;
    /// one that comes with its pods may be there if it is the same. [`Error::NoObject`] when an
    /// object without pods is to be replaced but does not exist.
    pub(super) fn object_changes(
        &self,
        given: &BTreeMap<String, Objects>,
        taken: &BTreeSet<ObjectKey>,
        manner: Manner,
    ) -> Result<Vec<(ObjectKey, Change)>, Error> {
        let mut changes = Vec::new();
        for (namespace, objects) in given {
            let there = self.objects_in(namespace);
            let key = |kind, name: &String| ObjectKey {
                kind,
                name: PodKey::new(namespace.clone(), name.clone()),
            };
            let maps = objects.config_maps.iter().map(|(name, map)| {
                let old = there.iter().filter_map(|there| there.config_maps.get(name));
                (key(ObjectKind::ConfigMap, name), compare(map, old))
            });
            let secrets = objects.secrets.iter().map(|(name, secret)| {
                let old = there.iter().filter_map(|there| there.secrets.get(name));
                (key(ObjectKind::Secret, name), compare(secret, old))
            });
            for (key, known) in maps.chain(secrets) {
                let comes_with_pods = taken.contains(&key);
                let change = match known {
                    Known::Absent if manner == Manner::Replace && !comes_with_pods => {
                        return Err(Error::NoObject(key));
                    }
                    Known::Absent => Change::Created,
                    Known::Same if manner != Manner::Create || comes_with_pods => Change::Unchanged,
                    _ if manner == Manner::Create => return Err(Error::ObjectExists(key)),
                    _ => Change::Configured,
                };
                changes.push((key, change));
            }
        }
        Ok(changes)
    }

    /// The objects that an apply in a namespace may change: the stored ones, and the copies of pods
    /// of the API.
    fn objects_in(&self, namespace: &str) -> Vec<Objects> {
        let mut there = vec![self.shelf().of(namespace)];
        let own = self.room.all().into_iter().filter(|entry| entry.key.namespace == namespace);
        let lives = own.map(|entry| entry.life());
        let lives = lives.filter(|life| !life.given.source.is_static() && !life.is_ending());
        there.extend(lives.map(|life| life.given.objects.clone()));
        there
    }
}

fn compare<'a, T: PartialEq + 'a>(
    new: &Arc<T>,
    mut old: impl Iterator<Item = &'a Arc<T>>,
) -> Known {
    match old.next() {
        None => Known::Absent,
        Some(first) if first == new && old.all(|old| old == new) => Known::Same,
        Some(_) => Known::Other,
    }
}
