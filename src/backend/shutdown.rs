//! The host's own shutdown: told of before it happens, and held up for a while.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;

/// Who tells of the host's shutdown.
#[async_trait]
pub trait Shutdown: Send + Sync {
    /// Asks to be told from now on.
    ///
    /// # Errors
    /// `Unsupported` when this host has nobody who tells; anything else may be tried again.
    async fn notice(&self) -> Result<Box<dyn Notice>>;
}

/// A promise to be told. Dropping it lets go of the shutdown, too.
#[async_trait]
pub trait Notice: Send {
    /// How long the host waits at most for those who hold its shutdown up.
    fn patience(&self) -> Duration;

    /// Holds the next shutdown up until [`Notice::release`]. Held already is well.
    async fn hold(&mut self) -> Result<()>;

    /// Lets the host go on.
    fn release(&mut self);

    /// Whether the host is shutting down: at the first call as it is, then at each change, which
    /// is `false` when a shutdown was taken back. Cancel-safe.
    async fn next(&mut self) -> Result<bool>;
}
