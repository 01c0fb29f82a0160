//! Removal of dead containers and sandboxes; the newest of each are kept for diagnosis.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;

/// An ended container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Its id.
    pub id: ContainerId,
    /// Uid of its pod.
    pub uid: String,
    /// Its name in the pod.
    pub name: String,
    /// Creation time.
    pub created: UnixNanos,
    /// Whether its pod no longer exists.
    pub pod_gone: bool,
}

/// A sandbox, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: PodId,
    /// Uid of its pod.
    pub uid: String,
    /// Creation time.
    pub created: UnixNanos,
    /// Whether it runs or still has containers.
    pub in_use: bool,
    /// Whether its pod no longer exists.
    pub pod_gone: bool,
}

/// The containers of the engine's pods.
#[async_trait]
pub trait Containers: Send + Sync {
    /// The ended ones.
    fn dead(&self) -> Vec<Dead>;

    /// All sandboxes.
    fn sandboxes(&self) -> Vec<Sandbox>;

    /// Removes a container.
    async fn remove(&self, container: &ContainerId) -> Result<(), String>;

    /// Removes a sandbox.
    async fn remove_sandbox(&self, sandbox: &PodId) -> Result<(), String>;
}

/// One round: removes superfluous containers and sandboxes, keeping `keep` dead containers of each
/// name.
pub async fn collect(containers: &dyn Containers, keep: usize) {
    for id in too_many(containers.dead(), keep) {
        if let Err(error) = containers.remove(&id).await {
            tracing::warn!(container = %id, error, "cannot remove dead container");
        }
    }
    for id in too_many_sandboxes(containers.sandboxes()) {
        if let Err(error) = containers.remove_sandbox(&id).await {
            tracing::warn!(sandbox = %id, error, "cannot remove dead sandbox");
        }
    }
}

/// All except the newest `keep` of each name in each pod, and all of removed pods; oldest first.
pub fn too_many(mut dead: Vec<Dead>, keep: usize) -> Vec<ContainerId> {
    dead.sort_by_key(|container| container.created);
    let mut newer = BTreeMap::<(String, String), usize>::new();
    let mut surplus = Vec::new();
    for Dead { id, uid, name, pod_gone, .. } in dead.into_iter().rev() {
        let count = newer.entry((uid, name)).or_default();
        *count += 1;
        if pod_gone || *count > keep {
            surplus.push(id);
        }
    }
    surplus.reverse();
    surplus
}

/// All unused ones except the newest of each pod, and all unused ones of removed pods; oldest
/// first.
pub fn too_many_sandboxes(mut sandboxes: Vec<Sandbox>) -> Vec<PodId> {
    sandboxes.sort_by_key(|sandbox| sandbox.created);
    let newest: BTreeMap<_, _> =
        sandboxes.iter().map(|sandbox| (sandbox.uid.clone(), sandbox.id.clone())).collect();
    let surplus = sandboxes.into_iter().filter(|sandbox| {
        let newest = newest.get(&sandbox.uid) == Some(&sandbox.id);
        !sandbox.in_use && (sandbox.pod_gone || !newest)
    });
    surplus.map(|sandbox| sandbox.id).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn id(byte: char) -> ContainerId {
        ContainerId::try_from(byte.to_string().repeat(64)).unwrap()
    }

    fn pod(byte: char) -> PodId {
        PodId::try_from(byte.to_string().repeat(64)).unwrap()
    }

    fn dead(byte: char, uid: &str, name: &str, created: UnixNanos) -> Dead {
        Dead { id: id(byte), uid: uid.into(), name: name.into(), created, pod_gone: uid == "gone" }
    }

    fn sandbox(byte: char, uid: &str, created: UnixNanos, in_use: bool) -> Sandbox {
        Sandbox { id: pod(byte), uid: uid.into(), created, in_use, pod_gone: uid == "gone" }
    }

    #[test]
    fn the_newest_of_each_name_is_kept() {
        let all = || {
            vec![
                dead('c', "u", "web", 3),
                dead('a', "u", "web", 1),
                dead('b', "u", "web", 2),
                dead('d', "u", "init", 1),
                dead('e', "v", "web", 9),
                dead('f', "gone", "web", 5),
            ]
        };
        assert_eq!(too_many(all(), 1), [id('a'), id('b'), id('f')]);
        assert_eq!(too_many(all(), 2), [id('a'), id('f')]);
        assert_eq!(too_many(all(), 0).len(), 6);
        assert_eq!(too_many(Vec::new(), 1), []);
    }

    #[test]
    fn the_newest_sandbox_and_those_in_use_are_kept() {
        let all = vec![
            sandbox('a', "u", 1, false),
            sandbox('b', "u", 2, true),
            sandbox('c', "u", 3, false),
            sandbox('d', "gone", 4, false),
            sandbox('e', "gone", 5, true),
            sandbox('f', "v", 6, false),
        ];
        assert_eq!(too_many_sandboxes(all), [pod('a'), pod('d')]);
    }

    #[tokio::test]
    async fn one_that_stays_does_not_keep_the_others() {
        struct Fake(Mutex<Vec<String>>);
        #[async_trait]
        impl Containers for Fake {
            fn dead(&self) -> Vec<Dead> {
                vec![dead('a', "u", "x", 1), dead('b', "u", "x", 2), dead('c', "u", "x", 3)]
            }
            fn sandboxes(&self) -> Vec<Sandbox> {
                vec![sandbox('d', "gone", 1, false)]
            }
            async fn remove(&self, container: &ContainerId) -> Result<(), String> {
                self.0.lock().unwrap().push(container.to_string());
                Err("stuck".to_owned())
            }
            async fn remove_sandbox(&self, sandbox: &PodId) -> Result<(), String> {
                self.0.lock().unwrap().push(sandbox.to_string());
                Ok(())
            }
        }
        let fake = Fake(Mutex::default());
        collect(&fake, 1).await;
        let removed = fake.0.lock().unwrap().clone();
        assert_eq!(removed, [id('a').to_string(), id('b').to_string(), pod('d').to_string()]);
    }
}
