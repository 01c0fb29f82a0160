//! What a node does for itself now and then: logs are rotated, dead containers and unused images
//! removed, and pods evicted before the node runs out of something.
//!
//! Each file has the decision as a pure function and a round that asks a trait for what is there
//! and tells it what to do. The figures are the kubelet's defaults.

mod below;
mod containers;
mod evict;
mod images;
mod rotate;
mod rounds;

pub use below::{Below, IsKnown};
pub use containers::{Containers, Dead, Sandbox, collect, too_many, too_many_sandboxes};
pub use evict::{
    BadThreshold, ContainerUse, Disk, Eviction, EvictionOptions, Evictor, Limit, Node, NodePaths,
    Observation, Observations, PodUse, Signal, Signals, Threshold, defaults, disk_of_tree,
    over_limits, rank,
};
pub use images::{Disks, ImageLimits, ImageStore, ImageUse, Unused, free_images};
pub use rotate::{LogLimits, Logs, rotate};
pub use rounds::{Upkeep, UpkeepOptions};
