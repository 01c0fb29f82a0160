//! Pod sandboxes.

use tonic::Status;
use tonic::codegen::BoxStream;

use super::batches::batches;
use super::{Cri, convert};
use crate::clock::now;
use crate::container;
use crate::model::Owner;
use crate::proto::runtime::v1;

impl Cri {
    pub(super) async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, Status> {
        let config = convert::pod_config(request.config)?;
        let id = self.sandboxes.run(config, &request.runtime_handler).await?;
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.into() })
    }

    pub(super) async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
    ) -> Result<v1::StopPodSandboxResponse, Status> {
        let id = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        self.sandboxes.stop(&id).await?;
        Ok(v1::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
    ) -> Result<v1::RemovePodSandboxResponse, Status> {
        let id = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        self.sandboxes.remove(&id).await?;
        Ok(v1::RemovePodSandboxResponse {})
    }

    /// The statuses of the containers and the timestamp belong together: a client that sees only
    /// one of them ignores both.
    pub(super) async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, Status> {
        let id = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        let timestamp = now();
        let sandbox = self.sandboxes.get(&id)?;
        let of_pod =
            container::Filter { pod: Some(sandbox.id.to_string()), ..container::Filter::default() };
        let containers = self.sandboxes.containers(&of_pod);
        let info = match request.verbose {
            true => {
                let mut facts = self.sandboxes.sandbox_info(sandbox.id.as_str()).await?;
                facts["config"] = convert::pod_config_json(&sandbox.config);
                facts["overhead"] = convert::sums_json(sandbox.overhead());
                facts["resources"] = convert::sums_json(sandbox.resources());
                facts["cniResult"] = sandbox.network.as_ref().map(convert::network_json).into();
                convert::info(&facts)
            }
            false => Default::default(),
        };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&sandbox)),
            info,
            containers_statuses: containers
                .iter()
                .map(|container| convert::container_status(container))
                .collect(),
            timestamp,
        })
    }

    /// Pods of podbay's own engine are hidden: a kubelet kills pods that it does not know.
    pub(super) async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
    ) -> Result<v1::ListPodSandboxResponse, Status> {
        let found = self.sandboxes.list(&convert::sandbox_filter(request.filter)?);
        let own = found.iter().filter(|sandbox| sandbox.owner == Owner::Cri);
        Ok(v1::ListPodSandboxResponse { items: own.map(|it| convert::sandbox_item(it)).collect() })
    }

    /// Streams the sandboxes as of one moment.
    pub(super) fn stream_pod_sandboxes(
        &self,
        request: v1::StreamPodSandboxesRequest,
    ) -> Result<BoxStream<v1::StreamPodSandboxesResponse>, Status> {
        let found = self.sandboxes.list(&convert::sandbox_filter(request.filter)?);
        let own = found.into_iter().filter(|sandbox| sandbox.owner == Owner::Cri);
        Ok(batches(
            own.map(|sandbox| convert::sandbox_item(&sandbox)),
            usize::MAX,
            |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes },
        ))
    }

    pub(super) async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
        let id = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        let overhead = convert::sums("overhead", request.overhead)?;
        let resources = convert::sums("resources", request.resources)?;
        self.sandboxes.resize(&id, overhead, resources).await?;
        Ok(v1::UpdatePodSandboxResourcesResponse {})
    }
}
