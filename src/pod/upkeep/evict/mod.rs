//! Eviction: ends pods before the node runs out of a resource.
//!
//! ```text
//!   observe ─► signals met? ─► pressure (held for a while, seen by admission)
//!                  │
//!   a pod over its own limits? ─► evict it
//!                  │ none
//!                  └─► free disk ─► still met? ─► rank ─► evict the first one
//! ```
//!
//! Rules and messages are the kubelet's (`pkg/kubelet/eviction`) for hard thresholds.

mod local;
mod observe;
mod rank;
mod signals;

pub use local::over_limits;
pub use observe::{NodePaths, disk_of_tree};
pub use rank::{ContainerUse, Disk, PodUse, rank};
pub use signals::{
    BadThreshold, Limit, Observation, Observations, Signal, Signals, Threshold, defaults,
};

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::locks::Mutex;
use crate::pod::admit::Pressure;
use crate::pod::translate::is_critical;

/// How long a round waits for an evicted pod to be gone, so that the next round sees the effect.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// The node and its pods.
#[async_trait]
pub trait Node: Send + Sync {
    /// The free resources now.
    async fn observe(&self) -> Observations;

    /// Resource usage of the running pods.
    async fn pods(&self) -> Vec<PodUse>;

    /// Frees disk without ending a pod: dead containers, unused images.
    async fn reclaim(&self);

    /// Ends a pod, with a message for its status and the event; returns when it is gone.
    async fn evict(&self, uid: &str, message: String);
}

/// Configuration of evictions.
#[derive(Debug, Clone, PartialEq)]
pub struct EvictionOptions {
    /// Eviction thresholds.
    pub thresholds: Vec<Threshold>,
    /// How long the node counts as under pressure after a threshold was last crossed.
    pub hold: Duration,
    /// Whether images and writable layers have a disk of their own.
    pub own_image_disk: bool,
}

impl Default for EvictionOptions {
    fn default() -> Self {
        Self { thresholds: defaults(), hold: Duration::from_secs(300), own_image_disk: false }
    }
}

/// Watches the node.
pub struct Evictor {
    node: Arc<dyn Node>,
    options: EvictionOptions,
    signals: Mutex<Signals>,
    pressure: watch::Sender<Pressure>,
    /// What the node was last short of without a pod to evict; each is logged once.
    helpless: Mutex<Option<Signal>>,
}

impl Evictor {
    /// An evictor without observations.
    pub fn new(node: Arc<dyn Node>, options: EvictionOptions) -> Self {
        let signals = Signals::new(options.thresholds.clone(), options.hold);
        let pressure = watch::Sender::new(Pressure::default());
        Self { node, options, signals: Mutex::new(signals), pressure, helpless: Mutex::new(None) }
    }

    /// Resources that the node is short of; notifies of changes.
    pub fn pressure(&self) -> watch::Receiver<Pressure> {
        self.pressure.subscribe()
    }

    /// One round; evicts at most one pod because of node pressure.
    pub async fn round(&self) {
        let seen = self.node.observe().await;
        let met = self.note(&seen);
        let pods = self.node.pods().await;
        let mut evicted = false;
        for pod in pods.iter().filter(|pod| !is_critical(&pod.given)) {
            if let Some(message) = over_limits(pod) {
                self.evict(pod, message).await;
                evicted = true;
            }
        }
        let Some(signal) = met.first().copied().filter(|_| !evicted) else { return };
        let seen = if signal.is_disk() {
            self.node.reclaim().await;
            let seen = self.node.observe().await;
            if !self.note(&seen).contains(&signal) {
                return;
            }
            seen
        } else {
            seen
        };
        let ranked = rank(signal, pods, self.options.own_image_disk);
        let Some(victim) = ranked.iter().find(|pod| !is_critical(&pod.given)) else {
            self.tell_helpless(signal);
            return;
        };
        *self.helpless.lock() = None;
        let threshold = self.options.thresholds.iter().find(|known| known.signal == signal);
        let message = rank::message(signal, victim, threshold, &seen);
        self.evict(victim, message).await;
    }

    /// Records an observation; returns which thresholds are crossed now.
    fn note(&self, seen: &Observations) -> Vec<Signal> {
        let mut signals = self.signals.lock();
        let (met, pressure) = signals.note(seen, Instant::now());
        drop(signals);
        if met.is_empty() {
            *self.helpless.lock() = None;
        }
        self.pressure.send_if_modified(|known| std::mem::replace(known, pressure) != pressure);
        met
    }

    fn tell_helpless(&self, signal: Signal) {
        if self.helpless.lock().replace(signal) != Some(signal) {
            let signal = signal.as_str();
            tracing::warn!(signal, "node is low on resources and no pod can be evicted");
        }
    }

    async fn evict(&self, pod: &PodUse, message: String) {
        tracing::warn!(pod = %pod.given.key(), message, "evicting pod");
        let evict = self.node.evict(pod.given.uid(), message);
        if timeout(GONE_WITHIN, evict).await.is_err() {
            tracing::warn!(pod = %pod.given.key(), "evicted pod has not terminated yet");
        }
    }
}

#[cfg(test)]
mod tests;
