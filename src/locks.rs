//! Locks for short sections, without poisoning; and locks by name ([`KeyedLocks`]).
//!
//! A panic in a task is logged and ends that task alone (see [`crate::lifecycle`]); what it held is
//! taken on as it is. So sections that change more than one thing either cannot panic between the
//! changes, or leave a state that is looked at anew.
//!
//! The guards are those of the standard library: the lint against holding one over an await knows
//! them.

mod keyed;

use std::sync::{self, PoisonError, RwLockReadGuard, RwLockWriteGuard};

pub use std::sync::MutexGuard;

pub use keyed::KeyedLocks;

/// A [`sync::Mutex`] that a panic does not poison.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it kept.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`sync::RwLock`] that a panic does not poison.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(sync::RwLock::new(value))
    }

    /// Waits for a share of the lock.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock alone.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn locks_can_be_taken_after_a_panic() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            *mutex.lock() += 1;
            *shared.write() += 1;
            let _held = (mutex.lock(), shared.write());
            panic!("boom");
        }));
        assert!(panicked.is_err());
        assert_eq!((*mutex.lock(), *shared.read()), (2, 2));
        assert_eq!(mutex.into_inner(), 2);
    }
}
