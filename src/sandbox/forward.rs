//! Sessions of clients: commands, attached streams, and connections to ports inside a pod.

use tokio::net::{TcpStream, UdpSocket};

use super::error::{Error, Step};
use super::{Sandbox, Sandboxes};
use crate::container;
use crate::ids::{ContainerId, PodId};
use crate::model::streams::ProcessIo;

impl Sandboxes {
    /// Whether a command can be run in a container now: its whole id, when it can.
    pub fn check_exec(&self, id: &str) -> Result<ContainerId, Error> {
        Ok(self.room.deps.containers.check_exec(id)?)
    }

    /// Runs a command with the streams of a client; gives its exit code once its output is with
    /// the client. Dropping this kills the command.
    pub async fn exec(&self, id: &str, command: &[String], io: ProcessIo) -> Result<i32, Error> {
        Ok(self.room.deps.containers.exec(id, command, io).await?)
    }

    /// Whether a client can attach to a container now, with a terminal or without as the
    /// container has it: its whole id, when it can.
    pub fn check_attach(&self, id: &str, tty: bool) -> Result<ContainerId, Error> {
        Ok(self.room.deps.containers.check_attach(id, tty)?)
    }

    /// Connects a client with a container until one of them ends.
    pub async fn attach(&self, id: &str, io: ProcessIo) -> Result<(), Error> {
        Ok(self.room.deps.containers.attach(id, io).await?)
    }

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
        check_port(port)?;
        let host = &self.room.deps.base.host;
        let connected = host.connect_in_netns(sandbox.netns.as_deref(), port).await;
        connected.step("reach a port of the pod")
    }

    /// A socket for a UDP port on the pod's own localhost, as [`Sandboxes::port_forward`] has it
    /// for TCP.
    ///
    /// # Errors
    /// [`Error::Invalid`] for port 0. Whether somebody listens is seen when something is sent.
    pub async fn port_forward_udp(&self, id: &str, port: u16) -> Result<UdpSocket, Error> {
        let sandbox = self.forwardable(id)?;
        check_port(port)?;
        let host = &self.room.deps.base.host;
        let connected = host.connect_udp_in_netns(sandbox.netns.as_deref(), port).await;
        connected.step("reach a port of the pod")
    }

    fn forwardable(&self, id: &str) -> Result<Sandbox, Error> {
        let sandbox = self.get(id)?;
        if !sandbox.is_ready() {
            return Err(Error::Container(container::Error::PodNotReady(sandbox.id)));
        }
        if sandbox.netns.is_none() && !self.room.options.host_network_port_forward {
            return Err(Error::HostNetworkForbidden(sandbox.id));
        }
        Ok(sandbox)
    }
}

fn check_port(port: u16) -> Result<(), Error> {
    if port == 0 {
        return Err(Error::invalid("port", "must be between 1 and 65535"));
    }
    Ok(())
}
