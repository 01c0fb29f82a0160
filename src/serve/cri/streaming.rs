//! Exec, Attach and PortForward: each answers with the URL of a stream.

use tonic::Status;

use super::{Cri, convert};
use crate::proto::runtime::v1;
use crate::stream::{Attach, Exec, PortForward, Request};

impl Cri {
    pub(super) fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Status> {
        let (id, command, streams) = convert::exec(request)?;
        let container = self.sandboxes.check_exec(&id)?;
        let url = self.urls.issue(Request::Exec(Exec { container, command, streams }))?;
        Ok(v1::ExecResponse { url })
    }

    pub(super) fn attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse, Status> {
        let (id, streams) = convert::attach(request)?;
        let container = self.sandboxes.check_attach(&id, streams.tty)?;
        let url = self.urls.issue(Request::Attach(Attach { container, streams }))?;
        Ok(v1::AttachResponse { url })
    }

    pub(super) fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Status> {
        let (id, ports) = convert::port_forward(request)?;
        let pod = self.sandboxes.check_port_forward(&id)?;
        let url = self.urls.issue(Request::PortForward(PortForward { pod, ports }))?;
        Ok(v1::PortForwardResponse { url })
    }
}
