//! The trait for shutdowns of the host: notification in advance, and delaying it.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;

/// A source of shutdown notifications.
#[async_trait]
pub trait Shutdown: Send + Sync {
    /// Subscribes to notifications.
    ///
    /// # Errors
    /// `Unsupported` when this host provides none; other errors may be temporary.
    async fn notice(&self) -> Result<Box<dyn Notice>>;
}

/// A subscription. Dropping it also releases a delayed shutdown.
#[async_trait]
pub trait Notice: Send {
    /// How long the host waits at most for those who delay its shutdown.
    fn patience(&self) -> Duration;

    /// Delays the next shutdown until [`Notice::release`]. Idempotent.
    async fn hold(&mut self) -> Result<()>;

    /// Stops delaying the shutdown.
    fn release(&mut self);

    /// Whether the host is shutting down: the first call returns the current state, later ones wait
    /// for a change, which is `false` when a shutdown was cancelled. Cancel-safe.
    async fn next(&mut self) -> Result<bool>;
}
