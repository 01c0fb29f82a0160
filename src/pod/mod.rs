//! Whole pods: podbay manages the lifecycle of Kubernetes Pod objects.
//!
//! A [`Given`] pod comes from the API, a file or a URL. One task per pod compares the desired state
//! with the actual one, lets pure code decide, acts, and waits for a change. [`Face`] is the
//! interface to all of it.

pub mod admit;
mod backoff;
mod face;
pub mod handler;
pub mod hook;
pub mod manifest;
mod news;
mod object;
mod observe;
mod phase;
mod plan;
mod pods;
pub mod probe;
mod pulled;
mod quantity;
mod reason;
mod record;
#[cfg(test)]
mod rehearsal;
mod renew;
mod room;
mod secrets;
mod select;
mod shelf;
mod shutdown;
pub mod statics;
pub mod translate;
mod turns;
pub mod upkeep;
mod view;
mod volume;
mod watch;
mod wishes;
mod worker;

pub use crate::store::Revision;
pub use backoff::Policy as BackoffPolicy;
pub use face::{
    Admission, AdmitReason, Applied, Apply, Change, Delete, Error, Events, Face, Listing, LogLines,
    LogOptions, Manner, ObjectKey, ObjectKind, Preconditions, Selector, Target, Watch, WatchEvent,
};
pub use object::{FieldError, Given, Objects, PodKey, Source};
pub use plan::Policy;
pub use pods::{KeepOptions, Meter, Pods, PodsDeps, PodsOptions, Used};
pub use quantity::{Quantity, QuantityError};
pub use record::Life;
pub use select::Selection;
pub use shutdown::{Band, Bands};
pub use view::{Event, EventType, Explanation, NodeView, PodView, Waits};
pub use volume::{
    Allocatable, EmptyDir, Error as VolumeError, MountContext, Options as VolumeOptions,
    VolumeContext, Volumes,
};
pub use watch::{Hub, HubOptions};
