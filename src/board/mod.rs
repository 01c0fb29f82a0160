//! The board: the published state of every sandbox and container, and events about changes.
//!
//! The rooms that own sandboxes and containers publish here after each change. All reads (lists,
//! status, events) come from here, so there is one source and no second copy. Reads never wait for
//! work in progress.

mod events;
mod snapshot;

pub use events::{Event, EventKind, Subscription};
pub use snapshot::{
    Container, ContainerFilter, ContainerState, EndReason, Exited, Sandbox, SandboxFilter,
    SandboxState, StateName,
};

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::now;
use crate::ids::{ContainerId, PodId};
use crate::locks::{Mutex, MutexGuard};
use events::Subscribers;

/// A lookup that matches nothing, or several objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupError {
    /// No id has this prefix, or the prefix is empty.
    NotFound,
    /// Several ids have this prefix.
    Ambiguous,
}

impl LookupError {
    /// Converts into a room's error: `missing` or `ambiguous` is called with the id.
    pub fn of<E>(self, id: &str, missing: fn(String) -> E, ambiguous: fn(String) -> E) -> E {
        match self {
            Self::NotFound => missing(id.to_owned()),
            Self::Ambiguous => ambiguous(id.to_owned()),
        }
    }
}

/// Published snapshots and their subscribers.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<PodId, Arc<Sandbox>>,
    containers: BTreeMap<ContainerId, Arc<Container>>,
    /// Containers of each pod, so that events and lists of one pod need not scan all containers.
    by_pod: BTreeMap<PodId, Vec<ContainerId>>,
    subscribers: Subscribers,
}

impl Board {
    /// An empty board.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Publishes a sandbox; with `news`, also sends an event.
    pub fn publish_pod(&self, sandbox: Sandbox, news: Option<EventKind>) {
        let mut inner = self.lock();
        let id = sandbox.id.clone();
        inner.pods.insert(id.clone(), Arc::new(sandbox));
        if let Some(kind) = news {
            inner.tell(kind, id.as_str(), &id);
        }
    }

    /// Publishes a container; with `news`, also sends an event.
    pub fn publish_container(&self, container: Container, news: Option<EventKind>) {
        let mut inner = self.lock();
        let (id, pod) = (container.id.clone(), container.pod.clone());
        if inner.containers.insert(id.clone(), Arc::new(container)).is_none() {
            inner.by_pod.entry(pod.clone()).or_default().push(id.clone());
        }
        if let Some(kind) = news {
            inner.tell(kind, id.as_str(), &pod);
        }
    }

    /// Removes a sandbox and sends `Deleted`, which still carries its state.
    pub fn drop_pod(&self, id: &PodId) {
        let mut inner = self.lock();
        if inner.pods.contains_key(id) {
            inner.tell(EventKind::Deleted, id.as_str(), id);
            inner.pods.remove(id);
        }
        inner.by_pod.remove(id);
    }

    /// Removes a container and sends `Deleted`.
    pub fn drop_container(&self, id: &ContainerId) {
        let mut inner = self.lock();
        let Some(pod) = inner.containers.remove(id).map(|container| container.pod.clone()) else {
            return;
        };
        if let Some(ids) = inner.by_pod.get_mut(&pod) {
            ids.retain(|known| known != id);
        }
        // Sent last: the states in the event no longer include this container.
        inner.tell(EventKind::Deleted, id.as_str(), &pod);
    }

    /// One sandbox by id or unique prefix.
    pub fn pod(&self, id: &str) -> Result<Arc<Sandbox>, LookupError> {
        let inner = self.lock();
        find(&inner.pods, id).map(|(_, pod)| pod.clone())
    }

    /// One container by id or unique prefix.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, LookupError> {
        let inner = self.lock();
        find(&inner.containers, id).map(|(_, container)| container.clone())
    }

    /// Sandboxes that match, newest first.
    pub fn pods(&self, filter: &SandboxFilter) -> Vec<Arc<Sandbox>> {
        let inner = self.lock();
        let Ok(id) = resolve(&inner.pods, filter.id.as_deref()) else { return Vec::new() };
        let mut found: Vec<_> =
            inner.pods.values().filter(|pod| filter.matches(pod, id)).cloned().collect();
        drop(inner);
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        found
    }

    /// Containers that match, newest first.
    pub fn containers(&self, filter: &ContainerFilter) -> Vec<Arc<Container>> {
        let inner = self.lock();
        let (Ok(id), Ok(pod)) = (
            resolve(&inner.containers, filter.id.as_deref()),
            resolve(&inner.pods, filter.pod.as_deref()),
        ) else {
            return Vec::new();
        };
        let matches = |container: &&Arc<Container>| filter.matches(container, id, pod);
        let mut found: Vec<_> = match pod {
            Some(pod) => inner.of_pod(pod).filter(matches).cloned().collect(),
            None => inner.containers.values().filter(matches).cloned().collect(),
        };
        drop(inner);
        found.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        found
    }

    /// News from now on, after the present state of everything.
    pub fn subscribe(&self) -> Subscription {
        let mut inner = self.lock();
        let present = inner.present();
        inner.subscribers.add(present)
    }
}

impl Inner {
    /// The containers of a pod, oldest first.
    fn of_pod(&self, pod: &PodId) -> impl Iterator<Item = &Arc<Container>> {
        let ids = self.by_pod.get(pod).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.containers.get(id))
    }

    fn event(&self, kind: EventKind, subject: &str, pod: &PodId) -> Option<Event> {
        let sandbox = self.pods.get(pod)?.clone();
        let containers = self.of_pod(pod).cloned().collect();
        Some(Event { kind, container: subject.to_owned(), at: now(), sandbox, containers })
    }

    fn tell(&mut self, kind: EventKind, subject: &str, pod: &PodId) {
        if self.subscribers.is_empty() {
            return;
        }
        if let Some(event) = self.event(kind, subject, pod) {
            self.subscribers.send(&event);
        }
    }

    /// The current state in the form of events, which a new subscriber gets first.
    fn present(&self) -> Vec<Event> {
        let pods = self.pods.values().map(|pod| {
            let kind = if pod.is_ready() { EventKind::Started } else { EventKind::Stopped };
            (kind, pod.id.as_str().to_owned(), pod.id.clone())
        });
        let containers = self.containers.values().map(|container| {
            let kind = match container.state {
                ContainerState::Creating | ContainerState::Created => EventKind::Created,
                ContainerState::Running { .. } => EventKind::Started,
                ContainerState::Exited(_) | ContainerState::Unknown { .. } => EventKind::Stopped,
            };
            (kind, container.id.as_str().to_owned(), container.pod.clone())
        });
        pods.chain(containers).filter_map(|(kind, id, pod)| self.event(kind, &id, &pod)).collect()
    }
}

/// The only entry whose id has this prefix. All ids have the same length, so a whole id matches
/// only itself.
fn find<'a, K: Ord + Borrow<str>, V>(
    map: &'a BTreeMap<K, V>,
    prefix: &str,
) -> Result<(&'a K, &'a V), LookupError> {
    if prefix.is_empty() {
        return Err(LookupError::NotFound);
    }
    let from = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    let mut matches = from.take_while(|(key, _)| (*key).borrow().starts_with(prefix));
    match (matches.next(), matches.next()) {
        (None, _) => Err(LookupError::NotFound),
        (Some(entry), None) => Ok(entry),
        (Some(_), Some(_)) => Err(LookupError::Ambiguous),
    }
}

fn resolve<'a, K: Ord + Borrow<str>, V>(
    map: &'a BTreeMap<K, V>,
    prefix: Option<&str>,
) -> Result<Option<&'a K>, LookupError> {
    let prefix = prefix.filter(|prefix| !prefix.is_empty());
    prefix.map(|prefix| find(map, prefix).map(|(key, _)| key)).transpose()
}

#[cfg(test)]
mod tests;
