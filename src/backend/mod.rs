//! The five seams to the outside: [`Runtime`], [`Images`], [`Network`], [`Host`], [`Hooks`].
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
mod volumes;
mod wait;

pub use error::{Error, ErrorKind, GoneIsFine, Result};
pub use hooks::*;
pub use host::*;
pub use images::*;
pub use network::*;
pub use runtime::*;
pub use volumes::*;
pub use wait::wait_for_end;
