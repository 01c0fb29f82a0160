//! Port-forward: connections to ports inside a pod.

use tokio::net::TcpStream;

use super::error::{Error, Step};
use super::{Sandbox, Sandboxes};
use crate::container;
use crate::ids::PodId;

impl Sandboxes {
    /// Whether ports of a pod can be reached now: its whole id, when it is ready.
    pub fn check_port_forward(&self, id: &str) -> Result<PodId, Error> {
        Ok(self.forwardable(id)?.id)
    }

    /// Connects with a TCP port on the pod's own localhost, IPv4 before IPv6; for a pod in the
    /// host's network that is the host's. Takes ten seconds at most.
    ///
    /// # Errors
    /// [`Error::Invalid`] for port 0; that of the last try when nobody listens.
    pub async fn port_forward(&self, id: &str, port: u16) -> Result<TcpStream, Error> {
        let sandbox = self.forwardable(id)?;
        if port == 0 {
            return Err(Error::invalid("port", "must be between 1 and 65535"));
        }
        let host = &self.room.deps.base.host;
        let connected = host.connect_in_netns(sandbox.netns.as_deref(), port).await;
        connected.step("reach a port of the pod")
    }

    fn forwardable(&self, id: &str) -> Result<Sandbox, Error> {
        let sandbox = self.get(id)?;
        if !sandbox.is_ready() {
            return Err(Error::Container(container::Error::PodNotReady(sandbox.id)));
        }
        Ok(sandbox)
    }
}
