//! Config maps and secrets applied without a pod, stored for later pods.
//!
//! Objects in one manifest with the pods that refer to them are stored and removed with those pods.
//! Objects applied alone are stored until they are deleted; later pods can use them, and applying
//! one again replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::{Deserialize, Serialize};

use super::face::{Error, ObjectKey, ObjectKind};
use super::object::{Objects, PodKey};
use crate::store::{Batch, Record};

/// Maximum number of stored objects, and maximum total size as JSON.
const MOST: usize = 1024;
const MOST_BYTES: usize = 32 << 20;

/// A stored object: a row of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shelved {
    key: String,
    namespace: String,
    name: String,
    object: Object,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Object {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

impl Record for Shelved {
    const TABLE: &'static str = "objects";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.key
    }
}

impl Shelved {
    fn new(namespace: &str, name: &str, object: Object) -> Self {
        let kind = match &object {
            Object::ConfigMap(_) => ObjectKind::ConfigMap,
            Object::Secret(_) => ObjectKind::Secret,
        };
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { key: row(kind, &namespace, &name), namespace, name, object }
    }

    fn bytes(&self) -> usize {
        // All map keys are text, so this cannot fail.
        serde_json::to_vec(self).map_or(0, |row| row.len())
    }
}

fn row(kind: ObjectKind, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", kind.as_str())
}

/// The stored objects.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Shelf {
    by_namespace: BTreeMap<String, Objects>,
    sizes: BTreeMap<String, usize>,
}

impl Shelf {
    /// Takes the objects stored by an earlier agent.
    pub(super) fn new(rows: Vec<Shelved>) -> Self {
        let mut shelf = Self::default();
        rows.into_iter().for_each(|row| shelf.set(row));
        shelf
    }

    /// The stored objects in a namespace.
    pub(super) fn of(&self, namespace: &str) -> Objects {
        self.by_namespace.get(namespace).cloned().unwrap_or_default()
    }

    /// Stores the objects not in `taken`, and those already stored under their names; returns the
    /// rows to write.
    pub(super) fn keep(
        &mut self,
        given: &BTreeMap<String, Objects>,
        taken: &BTreeSet<ObjectKey>,
    ) -> Result<Vec<Shelved>, Error> {
        let mut rows = Vec::new();
        for (namespace, objects) in given {
            let maps = objects.config_maps.iter();
            let maps = maps.map(|(name, map)| (name, Object::ConfigMap(map.clone())));
            let secrets = objects.secrets.iter();
            let secrets = secrets.map(|(name, secret)| (name, Object::Secret(secret.clone())));
            for (name, object) in maps.chain(secrets) {
                let kind = match &object {
                    Object::ConfigMap(_) => ObjectKind::ConfigMap,
                    Object::Secret(_) => ObjectKind::Secret,
                };
                let own = PodKey::new(namespace.clone(), name.clone());
                let is_taken = taken.contains(&ObjectKey { kind, name: own });
                if !is_taken || self.sizes.contains_key(&row(kind, namespace, name)) {
                    rows.push(Shelved::new(namespace, name, object));
                }
            }
        }
        rows.iter().cloned().for_each(|row| self.set(row));
        let bytes: usize = self.sizes.values().sum();
        if !rows.is_empty() && (self.sizes.len() > MOST || bytes > MOST_BYTES) {
            let message = format!(
                "config maps and secrets without a pod are kept up to {MOST} objects and {} MiB; \
                 delete some, or give them in one manifest with their pods",
                MOST_BYTES >> 20
            );
            return Err(Error::Argument { field: "manifest", message });
        }
        Ok(rows)
    }

    /// Removes objects; the batch deletes their rows.
    pub(super) fn remove(&mut self, objects: &[ObjectKey]) -> Batch {
        let mut batch = Batch::new();
        for ObjectKey { kind, name } in objects {
            let row = row(*kind, &name.namespace, &name.name);
            if self.sizes.remove(&row).is_none() {
                continue;
            }
            batch = batch.delete::<Shelved>(&row);
            let Some(own) = self.by_namespace.get_mut(&name.namespace) else { continue };
            match kind {
                ObjectKind::ConfigMap => drop(own.config_maps.remove(&name.name)),
                ObjectKind::Secret => drop(own.secrets.remove(&name.name)),
            }
        }
        batch
    }

    fn set(&mut self, row: Shelved) {
        self.sizes.insert(row.key.clone(), row.bytes());
        let own = self.by_namespace.entry(row.namespace).or_default();
        match row.object {
            Object::ConfigMap(map) => drop(own.config_maps.insert(row.name, map)),
            Object::Secret(secret) => drop(own.secrets.insert(row.name, secret)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stored;

    #[test]
    fn a_stored_object_keeps_its_meaning() {
        for stored in [stored::now(), stored::old()] {
            let Shelved { key, name, object, .. } = stored;
            let Object::ConfigMap(map) = object else { panic!("{object:?}") };
            assert_eq!(key, row(ObjectKind::ConfigMap, "default", &name));
            assert_eq!(map.data.as_ref().expect("data")["a"], "1");
        }
        let secret = serde_json::json!(Object::Secret(Arc::default()));
        assert!(secret["secret"].is_object(), "{secret}");
    }

    fn given(names: &[&str], value: &str) -> BTreeMap<String, Objects> {
        let mut objects = Objects::default();
        for name in names {
            let data = BTreeMap::from([("k".to_owned(), value.to_owned())]);
            let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
            objects.config_maps.insert((*name).to_owned(), Arc::new(map));
            objects.secrets.insert((*name).to_owned(), Arc::default());
        }
        BTreeMap::from([("ns".to_owned(), objects)])
    }

    fn map(name: &str) -> ObjectKey {
        ObjectKey { kind: ObjectKind::ConfigMap, name: PodKey::new("ns", name) }
    }

    #[test]
    fn what_no_pod_takes_is_kept_and_replaced_until_it_is_taken_away() {
        let mut shelf = Shelf::default();
        let taken = BTreeSet::from([map("b")]);
        let rows = shelf.keep(&given(&["a", "b"], "1"), &taken).expect("kept");
        assert_eq!(rows.len(), 3);
        let kept = shelf.of("ns");
        assert_eq!(kept.config_maps.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(kept.secrets.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(shelf.of("other"), Objects::default());
        // A stored object is replaced even if a pod takes it.
        shelf.keep(&given(&["a"], "2"), &BTreeSet::from([map("a")])).expect("kept");
        let value = |shelf: &Shelf| shelf.of("ns").config_maps["a"].data.clone().expect("data");
        assert_eq!(value(&shelf)["k"], "2");
        assert_eq!(Shelf::new(rows).sizes.len(), 3);
        shelf.remove(&[map("a"), map("absent")]);
        assert!(shelf.of("ns").config_maps.is_empty());
        assert_eq!(shelf.of("ns").secrets.len(), 2);
    }

    #[test]
    fn the_shelf_has_bounds() {
        let names: Vec<String> = (0..=MOST / 2).map(|number| format!("n{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut shelf = Shelf::default();
        let refused = shelf.keep(&given(&names, "1"), &BTreeSet::new()).expect_err("too many");
        assert!(refused.to_string().contains("1024 objects and 32 MiB"), "{refused}");
        let big = "x".repeat(MOST_BYTES);
        assert!(Shelf::default().keep(&given(&["a"], &big), &BTreeSet::new()).is_err());
    }
}
