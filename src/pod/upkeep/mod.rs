//! Periodic maintenance of the node: log rotation, removal of dead containers and unused images,
//! and eviction of pods before the node runs out of resources.
//!
//! Each file has the decision as a pure function, and a round that observes and acts through a
//! trait. The default values are the kubelet's.

mod below;
mod containers;
mod evict;
mod images;
mod rotate;
mod rounds;

pub use below::{Below, IsKnown};
pub use containers::{Containers, Dead, Sandbox, collect, too_many, too_many_sandboxes};
pub use evict::{
    BadThreshold, ContainerUse, Disk, EvictionOptions, Evictor, Limit, Node, NodePaths,
    Observation, Observations, PodUse, Signal, Signals, Threshold, defaults, disk_of_tree,
    over_limits, rank,
};
pub use images::{Disks, ImageLimits, ImageStore, ImageUse, Unused, free_images};
pub use rotate::{LogLimits, Logs, rotate};
pub use rounds::{Upkeep, UpkeepOptions};
