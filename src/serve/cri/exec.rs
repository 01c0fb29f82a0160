//! Commands in containers.

use tonic::Status;

use super::{Cri, convert};
use crate::proto::runtime::v1;

impl Cri {
    pub(super) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        let command = convert::exec_command(request.cmd)?;
        let limit = convert::exec_timeout(request.timeout);
        let output = self.sandboxes.exec_sync(&id, command, limit).await?;
        Ok(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        })
    }
}
