//! A record kept both in memory and in the store.

use std::sync::Arc;

use super::{Batch, Error, Record, Store};
use crate::locks::{Mutex, MutexGuard};

/// A record that a room keeps in memory and changes through the store. Reads never wait. The caller
/// must ensure that a record is saved by only one task at a time.
#[derive(Debug)]
pub struct Kept<R>(Mutex<Arc<R>>);

impl<R: Record + Clone> Kept<R> {
    /// Wraps a record that was read from the store, or is not in it yet.
    pub fn new(record: R) -> Self {
        Self(Mutex::new(Arc::new(record)))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<R>> {
        self.0.lock()
    }

    /// The record as it is now; later changes do not show in it.
    pub fn get(&self) -> Arc<R> {
        self.lock().clone()
    }

    /// A part of the record as it is now.
    pub fn read<T>(&self, part: impl FnOnce(&R) -> T) -> T {
        part(&self.lock())
    }

    /// Changes the record in memory only.
    pub fn change(&self, change: impl FnOnce(&mut R)) {
        change(Arc::make_mut(&mut self.lock()));
    }

    /// Changes the record and makes it durable. On failure it is unchanged.
    pub async fn save(&self, store: &Store, change: impl FnOnce(&mut R)) -> Result<(), Error> {
        self.write(store, Batch::new(), change).await
    }

    /// Like [`Kept::save`], for the record of an end: if the disk is full it may use the store's
    /// reserve.
    pub async fn save_end(&self, store: &Store, change: impl FnOnce(&mut R)) -> Result<(), Error> {
        self.write(store, Batch::new().ends_work(), change).await
    }

    /// Makes a change durable while `act` runs, and changes the record in memory once both have
    /// succeeded. For an act that whoever reads the store later can see for itself: after a failure
    /// the store may say that it was done.
    pub async fn save_during<T, E: From<Error>>(
        &self,
        store: &Store,
        change: impl FnOnce(&mut R),
        act: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut next = R::clone(&self.get());
        change(&mut next);
        let batch = Batch::new().put(&next)?;
        let (done, saved) = tokio::join!(act, store.write(batch));
        let done = done?;
        saved?;
        *self.lock() = Arc::new(next);
        Ok(done)
    }

    async fn write(
        &self,
        store: &Store,
        batch: Batch,
        change: impl FnOnce(&mut R),
    ) -> Result<(), Error> {
        let mut next = R::clone(&self.get());
        change(&mut next);
        store.write(batch.put(&next)?).await?;
        *self.lock() = Arc::new(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note {
        key: String,
        text: String,
    }

    impl Record for Note {
        const TABLE: &'static str = "notes";
        const VERSION: u16 = 1;

        fn key(&self) -> &str {
            &self.key
        }
    }

    #[tokio::test]
    async fn a_change_is_in_both_places_or_in_none() {
        let store = Store::in_memory();
        let kept = Kept::new(Note { key: "a".into(), text: "old".into() });
        assert!(store.load::<Note>().unwrap().records.is_empty());
        kept.save(&store, |note| note.text = "new".into()).await.unwrap();
        assert_eq!(store.load::<Note>().unwrap().records, [Note::clone(&kept.get())]);
        kept.change(|note| note.text = "here".into());
        assert_eq!(kept.read(|note| note.text.clone()), "here");
        assert_eq!(store.load::<Note>().unwrap().records[0].text, "new");
        kept.save(&store, |note| note.key.clear()).await.expect_err("no key");
        store.clone().close().await;
        kept.save_end(&store, |note| note.text = "late".into()).await.expect_err("closed");
        assert_eq!(*kept.get(), Note { key: "a".into(), text: "here".into() });
    }

    #[tokio::test]
    async fn a_change_is_shown_once_it_is_stored_and_its_act_is_done() {
        let store = Store::in_memory();
        let kept = Kept::new(Note { key: "a".into(), text: "old".into() });
        let stored = || store.load::<Note>().unwrap().records;
        let act = async {
            while stored().is_empty() {
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(kept.get().text.clone())
        };
        let seen = kept.save_during(&store, |note| note.text = "new".into(), act).await.unwrap();
        assert_eq!((seen.as_str(), kept.get().text.as_str()), ("old", "new"));

        let fails = async { Err::<(), _>(Error::Closed) };
        let failed = kept.save_during(&store, |note| note.text = "never".into(), fails).await;
        failed.expect_err("the act failed");
        assert_eq!(kept.get().text, "new");
        assert_eq!(stored()[0].text, "never");
    }
}
