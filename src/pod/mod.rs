//! Whole pods: a Kubernetes Pod object is given, podbay runs its life.
//!
//! A [`Given`] pod comes from the API, a file or an address. One task a pod looks at what is
//! wanted and what is there, lets pure code decide ([`Face`] is the door to all of it), acts, and
//! waits for a change.

mod face;
pub mod manifest;
mod object;
mod quantity;
mod select;
pub mod statics;
mod view;
mod watch;

pub use face::{
    Admission, AdmitReason, Applied, Apply, Change, Delete, Error, Events, Face, Listing, LogLines,
    LogOptions, Manner, Preconditions, Selector, Target, Watch, WatchEvent,
};
pub use object::{FieldError, Given, Objects, PodKey, Source};
pub use quantity::{Quantity, QuantityError};
pub use select::Selection;
pub use view::{Event, EventType, Explanation, NodeView, PodView, Waits};
pub use watch::{Hub, HubOptions};

pub use crate::store::Revision;
