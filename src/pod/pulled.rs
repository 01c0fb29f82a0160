//! Records with which credentials images were pulled: only pods with the same credentials may use
//! them.
//!
//! Images pulled anonymously or with the node's credentials are available to every pod, as are
//! images that existed before, for example loaded ones. A pod without the right credentials has to
//! pull such an image again, so that the registry decides.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::image::Credentials;
use crate::locks::{Mutex, MutexGuard};
use crate::store::{self, Batch, Record, Store};
use crate::telemetry::error_chain;

/// With more records than this, those of removed images are deleted.
const MANY: usize = 512;

/// Who may use one image of one repository: a row of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Access {
    key: String,
    /// Whether it was pulled without a pod's credentials.
    everyone: bool,
    /// Salt of the hashes, so that equal credentials do not give equal rows.
    salt: String,
    /// Hashes of the credentials with which it was pulled.
    hashes: BTreeSet<String>,
}

impl Record for Access {
    const TABLE: &'static str = "pulled";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.key
    }
}

impl Access {
    fn new(key: String) -> Self {
        let salt: [u8; 16] = rand::random();
        Self { key, everyone: false, salt: hex::encode(salt), hashes: BTreeSet::new() }
    }

    fn hash(&self, credentials: &Credentials) -> String {
        let Credentials { username, password, auth, identity_token, registry_token, .. } =
            credentials;
        let mut sum = Sha256::new_with_prefix(&self.salt);
        for part in [username, password, auth, identity_token, registry_token] {
            sum.update(part.len().to_le_bytes());
            sum.update(part);
        }
        hex::encode(sum.finalize())
    }

    fn allows(&self, given: &[Credentials]) -> bool {
        self.everyone || given.iter().any(|it| self.hashes.contains(&self.hash(it)))
    }

    fn grant(&mut self, credentials: Option<&Credentials>) {
        match credentials.map(|it| self.hash(it)) {
            Some(hash) => drop(self.hashes.insert(hash)),
            None => self.everyone = true,
        }
    }
}

/// The records of all images.
#[derive(Default)]
pub(super) struct Pulled(Mutex<BTreeMap<String, Access>>);

impl Pulled {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Access>> {
        self.0.lock()
    }

    /// Loads the records of earlier agents.
    pub(super) fn load(&self, store: &Store) -> Result<(), store::Error> {
        let loaded = store.load::<Access>()?.records.into_iter();
        *self.rows() = loaded.map(|access| (access.key.clone(), access)).collect();
        Ok(())
    }

    /// Whether a pod with these credentials may use a local image.
    pub(super) fn allows(&self, id: &str, repository: &str, given: &[Credentials]) -> bool {
        self.rows().get(&key(id, repository)).is_none_or(|access| access.allows(given))
    }

    /// Records a pull with these credentials of a pod, or without any. `present` are the ids of all
    /// local images.
    pub(super) async fn note(
        &self,
        store: &Store,
        id: &str,
        repository: &str,
        credentials: Option<&Credentials>,
        present: impl AsyncFnOnce() -> BTreeSet<String>,
    ) {
        let key = key(id, repository);
        let access = {
            let mut rows = self.rows();
            let access = rows.entry(key.clone()).or_insert_with(|| Access::new(key));
            let before = access.clone();
            access.grant(credentials);
            (*access != before).then(|| access.clone())
        };
        let Some(access) = access else { return };
        let mut batch = Batch::new().put(&access);
        if self.rows().len() > MANY {
            let present = present().await;
            for gone in self.drop_absent(&present) {
                batch = batch.map(|batch| batch.delete::<Access>(&gone));
            }
        }
        let written = match batch {
            Ok(batch) => store.write(batch).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(error = error_chain(&error), "cannot store who may use an image");
        }
    }

    fn drop_absent(&self, present: &BTreeSet<String>) -> Vec<String> {
        let mut rows = self.rows();
        let id = |key: &str| key.split(' ').next().unwrap_or_default().to_owned();
        let gone: Vec<_> = rows.keys().filter(|key| !present.contains(&id(key))).cloned().collect();
        gone.iter().for_each(|key| drop(rows.remove(key)));
        gone
    }
}

fn key(id: &str, repository: &str) -> String {
    format!("{id} {repository}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::stored;

    #[test]
    fn a_stored_access_keeps_its_meaning() {
        for access in [stored::now::<Access>(), stored::old()] {
            assert!(access.everyone && access.hashes.contains(&"ab".repeat(32)));
            assert_eq!(access.salt, "00ff");
        }
    }

    fn user(name: &str) -> Credentials {
        Credentials { username: name.into(), password: "p".into(), ..Credentials::default() }
    }

    async fn nothing_present() -> BTreeSet<String> {
        BTreeSet::new()
    }

    #[tokio::test]
    async fn an_image_is_for_those_who_have_what_it_was_pulled_with() {
        let (store, pulled) = (Store::in_memory(), Pulled::default());
        let image = ("sha256:1", "r.io/team/app");
        assert!(pulled.allows(image.0, image.1, &[]), "nobody was asked for it");
        pulled.note(&store, image.0, image.1, Some(&user("a")), nothing_present).await;
        let again = Pulled::default();
        again.load(&store).expect("rows");
        for pulled in [&pulled, &again] {
            assert!(pulled.allows(image.0, image.1, &[user("b"), user("a")]));
            assert!(!pulled.allows(image.0, image.1, &[user("b")]));
            assert!(!pulled.allows(image.0, image.1, &[]));
            assert!(pulled.allows(image.0, "other/app", &[]), "the same layers by another name");
        }
        pulled.note(&store, image.0, image.1, None, nothing_present).await;
        assert!(pulled.allows(image.0, image.1, &[]));
        let row = serde_json::to_string(&*pulled.rows()).expect("json");
        assert!(!row.contains("\"p\""), "{row}");
    }

    #[tokio::test]
    async fn images_that_are_gone_are_forgotten_when_there_are_many() {
        let (store, pulled) = (Store::in_memory(), Pulled::default());
        for number in 0..MANY {
            let id = format!("sha256:{number}");
            pulled.note(&store, &id, "r", None, nothing_present).await;
        }
        let present = async || BTreeSet::from(["sha256:1".to_owned(), "sha256:new".to_owned()]);
        pulled.note(&store, "sha256:new", "r", None, present).await;
        assert_eq!(pulled.rows().keys().collect::<Vec<_>>(), ["sha256:1 r", "sha256:new r"]);
        let again = Pulled::default();
        again.load(&store).expect("rows");
        assert_eq!(again.rows().len(), 2);
    }
}
