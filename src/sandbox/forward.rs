//! Client sessions: exec, attach, and connections to ports inside a pod.

use std::sync::Arc;

use tokio::net::{TcpStream, UdpSocket};

use super::error::{Error, Step};
use super::{Sandbox, Sandboxes};
use crate::container;
use crate::ids::{ContainerId, PodId};
use crate::model::streams::ProcessIo;

impl Sandboxes {
    /// Checks that a command can run in a container now, and returns the container's full id.
    pub fn check_exec(&self, id: &str) -> Result<ContainerId, Error> {
        Ok(self.room.deps.containers.check_exec(id)?)
    }

    /// Runs a command with the client's streams. Returns the exit code after the client has
    /// received the output. Dropping this future kills the command.
    pub async fn exec(&self, id: &str, command: &[String], io: ProcessIo) -> Result<i32, Error> {
        Ok(self.room.deps.containers.exec(id, command, io).await?)
    }

    /// Checks that a client can attach to a container now, and returns the container's full id.
    /// `tty` must match the container's configuration.
    pub fn check_attach(&self, id: &str, tty: bool) -> Result<ContainerId, Error> {
        Ok(self.room.deps.containers.check_attach(id, tty)?)
    }

    /// Connects a client to a container until either ends.
    pub async fn attach(&self, id: &str, io: ProcessIo) -> Result<(), Error> {
        Ok(self.room.deps.containers.attach(id, io).await?)
    }

    /// Checks that the pod is ready, so that its ports can be reached, and returns its full id.
    pub fn check_port_forward(&self, id: &str) -> Result<PodId, Error> {
        Ok(self.forwardable(id)?.id.clone())
    }

    /// Connects to a TCP port on the pod's localhost, IPv4 before IPv6. A pod in the host network
    /// uses the host's localhost. Takes ten seconds at most.
    ///
    /// # Errors
    /// [`Error::Invalid`] for port 0; the error of the last attempt when nothing listens.
    pub async fn port_forward(&self, id: &str, port: u16) -> Result<TcpStream, Error> {
        let sandbox = self.forwardable(id)?;
        check_port(port)?;
        let host = &self.room.deps.base.host;
        let connected = host.connect_in_netns(sandbox.netns.as_deref(), port).await;
        connected.step("reach a port of the pod")
    }

    /// Opens a socket for a UDP port on the pod's localhost, as [`Sandboxes::port_forward`] does
    /// for TCP.
    ///
    /// # Errors
    /// [`Error::Invalid`] for port 0. Whether anything listens shows only when data is sent.
    pub async fn port_forward_udp(&self, id: &str, port: u16) -> Result<UdpSocket, Error> {
        let sandbox = self.forwardable(id)?;
        check_port(port)?;
        let host = &self.room.deps.base.host;
        let connected = host.connect_udp_in_netns(sandbox.netns.as_deref(), port).await;
        connected.step("reach a port of the pod")
    }

    fn forwardable(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        let sandbox = self.get(id)?;
        if !sandbox.is_ready() {
            return Err(Error::Container(container::Error::PodNotReady(sandbox.id.clone())));
        }
        if sandbox.netns.is_none() && !self.room.options.host_network_port_forward {
            return Err(Error::HostNetworkForbidden(sandbox.id.clone()));
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
