//! The rounds and their intervals.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::containers::{self, Containers};
use super::evict::Evictor;
use super::images::{ImageLimits, ImageStore, Unused, free_images};
use super::rotate::{LogLimits, Logs, rotate};
use crate::lifecycle::Tasks;

/// What to do at which intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepOptions {
    /// When logs are rotated.
    pub logs: LogLimits,
    /// When images are removed.
    pub images: ImageLimits,
    /// Number of dead containers kept for each name.
    pub dead: usize,
    /// Interval of log rotation.
    pub logs_every: Duration,
    /// Interval of removing dead containers.
    pub dead_every: Duration,
    /// Interval of removing images.
    pub images_every: Duration,
    /// Interval of eviction checks.
    pub evict_every: Duration,
}

impl Default for UpkeepOptions {
    fn default() -> Self {
        Self {
            logs: LogLimits::default(),
            images: ImageLimits::default(),
            dead: 1,
            logs_every: Duration::from_secs(10),
            dead_every: Duration::from_secs(60),
            images_every: Duration::from_secs(300),
            evict_every: Duration::from_secs(10),
        }
    }
}

/// Maintains logs, dead containers and images.
pub struct Upkeep {
    options: UpkeepOptions,
    logs: Arc<dyn Logs>,
    containers: Arc<dyn Containers>,
    images: Arc<dyn ImageStore>,
    /// Held during a round over the images.
    unused: Mutex<Unused>,
}

impl Upkeep {
    /// Starts nothing yet.
    pub fn new(
        options: UpkeepOptions,
        logs: Arc<dyn Logs>,
        containers: Arc<dyn Containers>,
        images: Arc<dyn ImageStore>,
    ) -> Arc<Self> {
        Arc::new(Self { options, logs, containers, images, unused: Mutex::default() })
    }

    /// Starts the rounds, which end with the drain. Each kind has its own task, so that a hanging
    /// image store does not prevent log rotation.
    pub fn start(self: &Arc<Self>, tasks: &Tasks, evictor: Option<Arc<Evictor>>) {
        let options = self.options;
        let me = Arc::clone(self);
        every(tasks, "log rotation", options.logs_every, move || {
            let me = Arc::clone(&me);
            async move { rotate(&*me.logs, me.options.logs, SystemTime::now()).await }
        });
        let me = Arc::clone(self);
        every(tasks, "dead containers", options.dead_every, move || {
            let me = Arc::clone(&me);
            async move { containers::collect(&*me.containers, me.options.dead).await }
        });
        let me = Arc::clone(self);
        every(tasks, "unused images", options.images_every, move || {
            let me = Arc::clone(&me);
            async move { me.free_images(false).await }
        });
        if let Some(evictor) = evictor {
            every(tasks, "eviction", options.evict_every, move || {
                let evictor = Arc::clone(&evictor);
                async move { evictor.round().await }
            });
        }
    }

    /// Frees disk space at once: removes superfluous dead containers and all unused images.
    pub async fn reclaim(&self) {
        containers::collect(&*self.containers, self.options.dead).await;
        self.free_images(true).await;
    }

    async fn free_images(&self, all: bool) {
        if !self.images.collects() {
            return;
        }
        let mut unused = self.unused.lock().await;
        match free_images(&*self.images, &mut unused, self.options.images, all).await {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "unused images removed"),
            Err(error) => tracing::warn!(error, "image cleanup failed"),
        }
    }
}

/// Runs a round now and then once per period, never two at a time. A round that panicked is
/// repeated.
fn every<F: Future<Output = ()> + Send + 'static>(
    tasks: &Tasks,
    name: &'static str,
    period: Duration,
    round: impl Fn() -> F + Send + Sync + 'static,
) {
    let round = Arc::new(round);
    drop(tasks.spawn_lasting(name, move || {
        let round = Arc::clone(&round);
        async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                round().await;
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::ids::{ContainerId, PodId};
    use crate::model::image::Digest;
    use crate::pod::upkeep::{Dead, Disks, ImageUse, Sandbox};

    /// Records which rounds ran.
    #[derive(Default)]
    struct Fake {
        looks: Mutex<Vec<&'static str>>,
        hangs: bool,
    }

    impl Fake {
        fn look(&self, at: &'static str) {
            self.looks.lock().unwrap().push(at);
        }

        fn looks(&self, at: &str) -> usize {
            self.looks.lock().unwrap().iter().filter(|look| **look == at).count()
        }
    }

    #[async_trait]
    impl Logs for Fake {
        fn running(&self) -> Vec<(ContainerId, PathBuf)> {
            self.look("logs");
            Vec::new()
        }

        async fn reopen(&self, _: &ContainerId) -> Result<(), String> {
            unreachable!("no log is there")
        }
    }

    #[async_trait]
    impl Containers for Fake {
        fn dead(&self) -> Vec<Dead> {
            self.look("dead");
            Vec::new()
        }

        fn sandboxes(&self) -> Vec<Sandbox> {
            Vec::new()
        }

        async fn remove(&self, _: &ContainerId) -> Result<(), String> {
            unreachable!("nothing is dead")
        }

        async fn remove_sandbox(&self, _: &PodId) -> Result<(), String> {
            unreachable!("nothing is dead")
        }
    }

    #[async_trait]
    impl ImageStore for Fake {
        async fn images(&self) -> Result<Vec<ImageUse>, String> {
            self.look("images");
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Ok(Vec::new())
        }

        fn in_use(&self) -> BTreeSet<Digest> {
            BTreeSet::new()
        }

        async fn disk(&self) -> Result<Disks, String> {
            self.look("disk");
            Ok(Disks { capacity: 100, available: 50 })
        }

        async fn remove(&self, _: &Digest) -> Result<(), String> {
            unreachable!("no image is there")
        }
    }

    fn upkeep(fake: &Arc<Fake>) -> Arc<Upkeep> {
        Upkeep::new(UpkeepOptions::default(), fake.clone(), fake.clone(), fake.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_has_its_period_and_one_that_hangs_holds_up_no_other() {
        for hangs in [false, true] {
            let fake = Arc::new(Fake { hangs, ..Fake::default() });
            let tasks = Tasks::new();
            upkeep(&fake).start(&tasks, None);
            tokio::time::sleep(Duration::from_secs(601)).await;
            assert_eq!(fake.looks("logs"), 61);
            assert_eq!(fake.looks("dead"), 11);
            assert_eq!(fake.looks("images"), if hangs { 1 } else { 3 });
            assert!(tasks.drain(Duration::from_secs(1)).await);
        }
    }

    #[tokio::test]
    async fn to_reclaim_is_to_free_everything_unused() {
        let fake = Arc::new(Fake::default());
        upkeep(&fake).reclaim().await;
        assert_eq!(*fake.looks.lock().unwrap(), ["dead", "images"]);
    }
}
