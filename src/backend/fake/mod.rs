//! Fakes of four of the backend traits, for tests. (Tests use the real adapter of
//! [`Hooks`](super::Hooks), with a test plugin on its socket.) They keep state, fulfil the
//! contracts of the traits, and can be made to fail, hang or wait at any step. `tests/contract`
//! runs one suite against them and the real adapters, so that they cannot diverge.
//!
//! [`Fakes`] is a small host: what is made through one trait is visible through the others. A chain
//! that [`FakeImages`] unpacked is a parent for [`FakeRuntime`]; a PID of the runtime has a start
//! time on [`FakeHost`]; [`FakeNetwork`] connects a namespace of the host.

mod content;
mod engine;
mod files;
mod host;
mod images;
mod network;
mod program;
mod runtime;
mod seed;
mod steps;
mod task;
mod world;

use std::path::Path;
use std::sync::Arc;

pub use host::FakeHost;
pub use images::FakeImages;
pub use network::FakeNetwork;
pub use runtime::FakeRuntime;
pub use steps::{Call, Steps};

use world::World;

/// The snapshotter of the fakes.
pub const SNAPSHOTTER: &str = "overlayfs";

/// The four fakes of one host.
#[derive(Clone)]
pub struct Fakes {
    /// Records the calls of all four, and makes them fail. Step names are method names.
    pub steps: Steps,
    /// Runs processes.
    pub runtime: Arc<FakeRuntime>,
    /// Stores images.
    pub images: Arc<FakeImages>,
    /// Connects pods.
    pub network: Arc<FakeNetwork>,
    /// Namespaces, mounts, files.
    pub host: Arc<FakeHost>,
    world: Arc<World>,
}

impl Fakes {
    /// A new host whose files are below `root`, an existing directory of the test. Must be created
    /// inside a tokio runtime, because processes are tasks of it.
    pub fn new(root: &Path) -> Self {
        let (steps, world) = (Steps::default(), Arc::new(World::default()));
        Self {
            runtime: Arc::new(FakeRuntime::new(steps.clone(), world.clone())),
            images: Arc::new(FakeImages::new(steps.clone(), world.clone())),
            network: Arc::new(FakeNetwork::new(steps.clone(), world.clone())),
            host: Arc::new(FakeHost::new(root, steps.clone(), world.clone())),
            steps,
            world,
        }
    }

    /// Simulates that the daemon was killed: [`FakeRuntime`] and [`FakeImages`] return
    /// `Unavailable` and waits fail, while processes continue. `false` brings it back.
    pub fn set_away(&self, away: bool) {
        self.world.set_away(away);
    }

    /// Reboots the host: processes, namespaces and mounts are gone, records and files are kept, and
    /// the boot id changes. Returns the host as a new agent finds it.
    #[must_use]
    pub fn reboot(&self) -> Self {
        self.runtime.lose_all_tasks();
        self.world.forget_boot();
        Self { host: Arc::new(self.host.after_reboot()), ..self.clone() }
    }

    /// The names of everything that has to be cleaned up, sorted, except images and their content.
    /// Empty once all pods are removed.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.runtime.leftovers();
        left.extend(self.images.leftovers());
        left.extend(self.network.leftovers());
        left.extend(self.world.leftovers());
        left.sort();
        left
    }
}
