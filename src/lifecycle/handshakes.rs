//! Handshakes with clients that are not known yet.
//!
//! A server must not let strangers keep others out: the number of concurrent handshakes is limited,
//! and beyond it the oldest is dropped, never the newest refused.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};

/// Maximum number of concurrent handshakes of one server.
pub const MAX_HANDSHAKES: usize = 512;

/// Delay after a failed accept: file descriptors may be exhausted for a while.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Delay until dropped connections have released their descriptors.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The handshakes of a server, each a task. All end when this value is dropped.
#[derive(Debug)]
pub struct Handshakes<T> {
    all: JoinSet<T>,
    /// Oldest first.
    order: VecDeque<AbortHandle>,
}

impl<T> Default for Handshakes<T> {
    fn default() -> Self {
        Self { all: JoinSet::new(), order: VecDeque::new() }
    }
}

impl<T: Send + 'static> Handshakes<T> {
    /// Starts a handshake; drops the oldest one if there are too many. It may be dropped at every
    /// await.
    pub fn begin(&mut self, handshake: impl Future<Output = T> + Send + 'static) {
        if self.order.len() >= MAX_HANDSHAKES {
            self.drop_oldest();
        }
        self.order.push_back(self.all.spawn(handshake));
    }

    /// Number of handshakes in progress.
    pub fn pending(&self) -> usize {
        self.order.len()
    }

    /// Frees descriptors when they may be exhausted, by dropping half of the handshakes each time,
    /// so that a good client behind a crowd is soon accepted. Returns when to continue.
    pub fn make_room(&mut self) -> Duration {
        if self.order.is_empty() {
            return ACCEPT_PAUSE;
        }
        for _ in 0..self.order.len().div_ceil(2) {
            self.drop_oldest();
        }
        ROOM_PAUSE
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            oldest.abort();
        }
    }

    /// Waits for the next finished handshake, for ever if there is none. `None` when it was dropped
    /// or panicked. Cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        let Some(ended) = self.all.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, made) = match ended {
            Ok((id, made)) => (id, Some(made)),
            Err(failed) => (failed.id(), None),
        };
        self.order.retain(|handle| handle.id() != id);
        made
    }
}

/// Strangers for tests of servers.
#[cfg(test)]
pub mod crowd {
    use std::net::SocketAddr;

    use tokio::net::TcpStream;

    use super::MAX_HANDSHAKES;
    use crate::backend::linux::raise_file_limit;

    /// Connects this many strangers that say nothing to a server of this process; fewer if it cannot
    /// hold both ends of all of them.
    pub async fn connect(address: SocketAddr, number: usize) -> Vec<TcpStream> {
        let most = raise_file_limit() / 2 - MAX_HANDSHAKES - 256;
        let mut crowd = Vec::new();
        for _ in 0..number.min(most) {
            crowd.push(TcpStream::connect(address).await.expect("a connection"));
        }
        crowd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_make_room_for_the_newest() {
        let mut handshakes = Handshakes::default();
        for number in 0..=MAX_HANDSHAKES {
            handshakes.begin(async move {
                if number < MAX_HANDSHAKES {
                    std::future::pending::<()>().await;
                }
                number
            });
        }
        assert_eq!(handshakes.pending(), MAX_HANDSHAKES);
        let mut ended = [handshakes.next().await, handshakes.next().await];
        ended.sort_unstable();
        assert_eq!(ended, [None, Some(MAX_HANDSHAKES)]);
        assert_eq!(handshakes.pending(), MAX_HANDSHAKES - 1);
    }

    #[tokio::test]
    async fn half_of_them_make_room_for_descriptors() {
        let mut handshakes = Handshakes::default();
        assert_eq!(handshakes.make_room(), ACCEPT_PAUSE, "it is somebody else who has them");
        (0..9).for_each(|_| handshakes.begin(std::future::pending::<()>()));
        for left in [4, 2, 1, 0] {
            assert_eq!(handshakes.make_room(), ROOM_PAUSE);
            assert_eq!(handshakes.pending(), left);
        }
        for _ in 0..9 {
            assert_eq!(handshakes.next().await, None);
        }
        let next = tokio::time::timeout(Duration::from_millis(1), handshakes.next());
        next.await.expect_err("there is none");
    }
}
