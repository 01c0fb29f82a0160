//! SELinux levels of pods: each pod gets its own pair of categories.

use std::collections::BTreeMap;

use crate::locks::{Mutex, MutexGuard};

/// Number of categories in a policy.
const CATEGORIES: u16 = 1024;

/// How many random pairs are tried before all pairs are searched.
const TRIES: usize = 64;

/// The levels in use, with the number of pods that use each: pods may name the same level.
#[derive(Default)]
pub(super) struct Levels(Mutex<BTreeMap<String, usize>>);

impl Levels {
    /// Reserves a level that no pod has; `None` when all are in use.
    pub(super) fn take(&self) -> Option<String> {
        let mut used = self.lock();
        let random = std::iter::repeat_with(|| {
            let (one, other) =
                (rand::random_range(0..CATEGORIES), rand::random_range(0..CATEGORIES));
            (one.min(other), one.max(other))
        });
        let all =
            (0..CATEGORIES).flat_map(|low| (low + 1..CATEGORIES).map(move |high| (low, high)));
        let level = random
            .take(TRIES)
            .chain(all)
            .filter(|(low, high)| low != high)
            .map(|(low, high)| format!("s0:c{low},c{high}"))
            .find(|level| !used.contains_key(level))?;
        used.insert(level.clone(), 1);
        Some(level)
    }

    /// Counts a pod with this level.
    pub(super) fn hold(&self, level: &str) {
        *self.lock().entry(level.to_owned()).or_default() += 1;
    }

    /// Uncounts a pod with this level.
    pub(super) fn release(&self, level: &str) {
        let mut used = self.lock();
        if let Some(pods) = used.get_mut(level) {
            *pods -= 1;
            if *pods == 0 {
                used.remove(level);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_its_own_level_until_it_is_gone() {
        let levels = Levels::default();
        let taken: std::collections::BTreeSet<_> =
            (0..1000).map(|_| levels.take().unwrap()).collect();
        assert_eq!(taken.len(), 1000);
        let first = taken.first().unwrap();
        levels.hold(first);
        levels.release(first);
        assert!(levels.lock().contains_key(first), "another pod still has it");
        levels.release(first);
        assert!(!levels.lock().contains_key(first));
        levels.release(first);
    }

    #[test]
    fn there_is_an_end() {
        let levels = Levels::default();
        for low in 0..CATEGORIES {
            for high in low + 1..CATEGORIES {
                levels.hold(&format!("s0:c{low},c{high}"));
            }
        }
        assert_eq!(levels.take(), None);
        levels.release("s0:c1022,c1023");
        assert_eq!(levels.take().as_deref(), Some("s0:c1022,c1023"));
    }
}
