//! The messages of the interface, made by `build.rs` from `proto/nri/v1alpha1/api.proto`, and the
//! names that travel beside them.

#[allow(missing_docs, rustdoc::all, clippy::all, clippy::pedantic)]
mod v1alpha1 {
    include!(concat!(env!("OUT_DIR"), "/nri.pkg.api.v1alpha1.rs"));
}
pub use v1alpha1::*;

/// The service that a plugin serves.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";

/// The service that the runtime serves.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// All requests that have no answer have one layout: a pod, and a container when there is one.
pub type Told = PostCreateContainerRequest;

impl Event {
    /// The bit of this event in a subscription.
    pub fn bit(self) -> i32 {
        1 << (self as i32 - 1)
    }

    /// All bits that mean something.
    pub fn all_bits() -> i32 {
        Self::Last.bit() - 1
    }
}
