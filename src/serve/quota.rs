//! Slots of which no single caller of the network can take all.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::{Caller, Names};
use crate::locks::Mutex;

/// A caller of the network gets at most this part of the slots.
const SHARE: usize = 4;

/// A limited number of slots. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    free: Arc<Semaphore>,
    /// The slots that each caller has, by the names in its certificate.
    taken: Mutex<HashMap<Arc<Names>, usize>>,
}

/// Why there is no slot; holds the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All are taken.
    All(usize),
    /// The caller has its share.
    Yours(usize),
}

/// A slot, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    quota: Quota,
    caller: Option<Arc<Names>>,
    _permit: OwnedSemaphorePermit,
}

impl Quota {
    /// A quarter of the slots is the most that one caller gets.
    pub fn new(most: usize) -> Self {
        let (free, taken) = (Arc::new(Semaphore::new(most)), Mutex::default());
        Self(Arc::new(Inner { most, free, taken }))
    }

    /// Takes a slot; `None` is a caller on this host, who may take all.
    pub fn take(&self, caller: Option<&Caller>) -> Result<Place, Full> {
        let Inner { most, free, .. } = &*self.0;
        let permit = Arc::clone(free).try_acquire_owned().map_err(|_| Full::All(*most))?;
        let caller = caller.map(|caller| Arc::clone(caller.names()));
        if let Some(caller) = &caller {
            let share = most / SHARE;
            let mut taken = self.0.taken.lock();
            let count = taken.entry(Arc::clone(caller)).or_default();
            if *count >= share {
                return Err(Full::Yours(share));
            }
            *count += 1;
        }
        Ok(Place { quota: self.clone(), caller, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(caller) = &self.caller else { return };
        let mut taken = self.quota.0.taken.lock();
        if let Some(count) = taken.get_mut(caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn caller(name: &str) -> Caller {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Caller::new(certificate.der(), ([192, 0, 2, 1], 1).into()).unwrap()
    }

    #[test]
    fn one_caller_leaves_slots_for_others() {
        let quota = Quota::new(8);
        let (greedy, again, other) = (caller("greedy"), caller("greedy"), caller("other"));
        let held = [quota.take(Some(&greedy)).unwrap(), quota.take(Some(&again)).unwrap()];
        assert_eq!(quota.take(Some(&greedy)).unwrap_err(), Full::Yours(2));
        let of_other = quota.take(Some(&other)).unwrap();
        let here: Vec<_> = (0..5).map(|_| quota.take(None).unwrap()).collect();
        assert_eq!(quota.take(None).unwrap_err(), Full::All(8));
        drop((of_other, held));
        assert_eq!(quota.0.taken.lock().len(), 0, "nothing is kept of callers who have left");
        quota.take(Some(&greedy)).unwrap();
        drop(here);
        assert_eq!(quota.0.free.available_permits(), 8);
    }
}
