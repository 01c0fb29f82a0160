//! The seams to the outside: [`Runtime`], [`Images`], [`Network`], [`Host`], [`Hooks`], and
//! [`Shutdown`], which is so small that tests bring their own.
//!
//! Each is in podbay's own plain types, has a real adapter below this folder and an in-memory
//! fake that keeps state (`fake/`). One contract suite runs against both, so that the fake
//! cannot drift. Adapters never look up into the domain rooms.

pub mod cni;
pub mod containerd;
mod error;
#[doc(hidden)]
pub mod fake;
mod hooks;
mod host;
mod images;
pub mod linux;
mod network;
pub mod nri;
mod runtime;
mod shutdown;
mod trust;
mod volumes;
mod wait;

pub use error::{Error, ErrorKind, GoneIsFine, Result};
pub use hooks::*;
pub use host::*;
pub use images::*;
pub use network::*;
pub use runtime::*;
pub use shutdown::{Notice, Shutdown};
pub use volumes::*;
pub use wait::wait_for_end;
