//! The interfaces to the outside: [`Runtime`], [`Images`], [`Network`], [`Host`], [`Hooks`], and
//! [`Shutdown`], which is so small that tests implement their own.
//!
//! Each uses podbay's own plain types and has a real adapter in this directory and an in-memory
//! fake with state (`fake/`). One contract suite runs against both, so that the fake cannot
//! diverge. Adapters never use the domain rooms.

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
pub use wait::{End, end_beside_shim, shim_hangs, wait_for_end};
