//! Containers and their logs.

use tonic::Status;
use tonic::codegen::BoxStream;

use super::batches::batches;
use super::{Cri, convert};
use crate::model::Owner;
use crate::proto::runtime::v1;

impl Cri {
    /// The request repeats the sandbox's configuration; the one with which the sandbox was created
    /// is used.
    pub(super) async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, Status> {
        let pod = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        let config = convert::container_config(request.config)?;
        let id = self.sandboxes.create_container(&pod, config).await?;
        Ok(v1::CreateContainerResponse { container_id: id.into() })
    }

    pub(super) async fn start_container(
        &self,
        request: v1::StartContainerRequest,
    ) -> Result<v1::StartContainerResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        self.sandboxes.start_container(&id).await?;
        Ok(v1::StartContainerResponse {})
    }

    pub(super) async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
    ) -> Result<v1::StopContainerResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        self.sandboxes.stop_container(&id, convert::stop_grace(request.timeout)).await?;
        Ok(v1::StopContainerResponse {})
    }

    pub(super) async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
    ) -> Result<v1::RemoveContainerResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        self.sandboxes.remove_container(&id).await?;
        Ok(v1::RemoveContainerResponse {})
    }

    pub(super) async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        let container = self.sandboxes.container(&id)?;
        let info = match request.verbose {
            true => {
                let mut facts = self.sandboxes.container_info(container.id.as_str()).await?;
                facts["config"] = convert::container_config_json(&container.config);
                convert::info(&facts)
            }
            false => Default::default(),
        };
        let status = Some(convert::container_status(&container));
        Ok(v1::ContainerStatusResponse { status, info })
    }

    /// Containers of podbay's own engine are hidden, like their pods.
    pub(super) async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
    ) -> Result<v1::ListContainersResponse, Status> {
        let found = self.sandboxes.containers(&convert::container_filter(request.filter)?);
        let own = found.iter().filter(|container| container.owner == Owner::Cri);
        Ok(v1::ListContainersResponse {
            containers: own.map(|container| convert::container_item(container)).collect(),
        })
    }

    /// Streams the containers as of one moment.
    pub(super) fn stream_containers(
        &self,
        request: v1::StreamContainersRequest,
    ) -> Result<BoxStream<v1::StreamContainersResponse>, Status> {
        let found = self.sandboxes.containers(&convert::container_filter(request.filter)?);
        let own = found.into_iter().filter(|container| container.owner == Owner::Cri);
        Ok(batches(
            own.map(|container| convert::container_item(&container)),
            usize::MAX,
            |containers| v1::StreamContainersResponse { containers },
        ))
    }

    pub(super) async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, Status> {
        let (id, resources) = convert::container_update(request)?;
        self.sandboxes.update_container(&id, resources).await?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    pub(super) async fn checkpoint_container(
        &self,
        request: v1::CheckpointContainerRequest,
    ) -> Result<v1::CheckpointContainerResponse, Status> {
        let (id, location, limit) = convert::checkpoint(request)?;
        self.sandboxes.checkpoint_container(&id, location, limit).await?;
        Ok(v1::CheckpointContainerResponse {})
    }

    pub(super) async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
    ) -> Result<v1::ReopenContainerLogResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        self.sandboxes.reopen_log(&id).await?;
        Ok(v1::ReopenContainerLogResponse {})
    }
}
