//! Whole pods: a Kubernetes Pod object is given, podbay runs its life.
//!
//! A [`Given`] pod comes from the API, a file or an address. One task a pod looks at what is
//! wanted and what is there, lets pure code decide ([`Face`] is the door to all of it), acts, and
//! waits for a change.

pub mod admit;
mod face;
pub mod handler;
pub mod hook;
mod object;
pub mod probe;
mod quantity;
pub mod translate;
pub mod upkeep;
mod view;

pub use face::{
    Admission, AdmitReason, Applied, Apply, Change, Delete, Error, Events, Face, Listing, LogLines,
    LogOptions, Manner, Preconditions, Selector, Target, Watch, WatchEvent,
};
pub use object::{FieldError, Given, Objects, PodKey, Source};
pub use quantity::{Quantity, QuantityError};
pub use view::{Event, EventType, Explanation, NodeView, PodView, Waits};
