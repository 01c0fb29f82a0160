//! Sessions in the pods and containers of this agent.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::{TcpStream, UdpSocket};

use super::{Attach, Exec, SessionError, Sessions};
use crate::ids::PodId;
use crate::model::streams::ProcessIo;
use crate::sandbox::{self, Sandboxes};

/// Runs sessions in these pods.
pub struct Pods(pub Arc<Sandboxes>);

#[async_trait]
impl Sessions for Pods {
    async fn exec(&self, exec: &Exec, io: ProcessIo) -> Result<i32, SessionError> {
        let ended = self.0.exec(exec.container.as_str(), &exec.command, io).await;
        ended.map_err(SessionError::Exec)
    }

    async fn attach(&self, attach: &Attach, io: ProcessIo) -> Result<(), SessionError> {
        self.0.attach(attach.container.as_str(), io).await.map_err(SessionError::Attach)
    }

    async fn port_forward(&self, pod: &PodId, port: u16) -> Result<TcpStream, sandbox::Error> {
        self.0.port_forward(pod.as_str(), port).await
    }

    async fn port_forward_udp(&self, pod: &PodId, port: u16) -> Result<UdpSocket, sandbox::Error> {
        self.0.port_forward_udp(pod.as_str(), port).await
    }
}
