//! Pulls: one download for all callers that want the same image with the same credentials.
//!
//! ```text
//! lease -> resolve -> index, manifest, configuration -> layers, three at a time
//!                                                    -> unpacked bottom up as they arrive
//!       -> names -> lease ends
//! ```
//!
//! Nothing is visible before the names are set, and everything before is held only by the lease, so
//! a failure at any step leaves nothing.

mod job;
mod layer;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::reference::Reference;
use super::{Error, Inner};
use crate::locks::Mutex;
use crate::model::image::Image;

/// Name, snapshotter, credentials.
type Key = (String, String, Option<Credentials>);
type Answer = Option<Result<Arc<Image>, Error>>;

/// The pulls in progress.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Weak<Flight>>>);

/// A pull in progress, held by those who wait for it and cancelled when nobody does any more.
struct Flight {
    answer: watch::Receiver<Answer>,
    cancel: CancellationToken,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Flights {
    /// Joins the pull for a key, or starts one and returns the sender for its result.
    fn join(&self, key: &Key) -> (Arc<Flight>, Option<watch::Sender<Answer>>) {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade) {
            return (flight, None);
        }
        let (sender, answer) = watch::channel(None);
        let flight = Arc::new(Flight { answer, cancel: CancellationToken::new() });
        flights.insert(key.clone(), Arc::downgrade(&flight));
        (flight, Some(sender))
    }

    /// Removes a pull, so that later callers start anew. If it was abandoned, it may have a
    /// successor under the same key, which stays.
    fn leave(&self, key: &Key, flight: &Weak<Flight>) {
        let mut flights = self.0.lock();
        if flights.get(key).is_some_and(|current| current.ptr_eq(flight)) {
            flights.remove(key);
        }
    }
}

impl Inner {
    /// Pulls an image, or joins a pull of it in progress.
    pub async fn pull(
        self: &Arc<Self>,
        image: &str,
        credentials: Option<Credentials>,
        snapshotter: &str,
    ) -> Result<Arc<Image>, Error> {
        let reference = Reference::parse(image)?;
        let name = reference.to_string();
        let credentials = credentials.filter(|given| *given != Credentials::default());
        let key = (name.clone(), snapshotter.to_owned(), credentials);
        let (flight, sender) = self.flights.join(&key);
        if let Some(sender) = sender {
            let inner = Arc::clone(self);
            let (cancel, weak) = (flight.cancel.clone(), Arc::downgrade(&flight));
            // In an owned task: after the last waiter has left, cancelling needs time to clean up.
            drop(self.tasks.spawn("pull image", async move {
                let answer = inner.run_pull(&reference, &key.1, key.2.as_ref(), &cancel).await;
                inner.flights.leave(&key, &weak);
                sender.send_replace(Some(answer));
            }));
        }
        let mut answer = flight.answer.clone();
        let answer = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // Without a result the task has panicked, which is logged by its spawner.
        answer.unwrap_or_else(|| Err(Error::cancelled(name)))
    }
}
