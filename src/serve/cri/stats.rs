//! Resource usage of pods and containers.

use tonic::Status;
use tonic::codegen::BoxStream;

use super::batches::batches;
use super::{Cri, convert};
use crate::proto::runtime::v1;
use crate::stats::{ContainerStats, PodStats};

/// Maximum number of items in one message of a stream.
pub(super) const BATCH: usize = 128;

impl Cri {
    pub(super) async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
    ) -> Result<v1::ContainerStatsResponse, Status> {
        let id = convert::required_id("container_id", request.container_id)?;
        let container = self.sandboxes.container(&id)?;
        let stats = self.stats.container(container).await;
        Ok(v1::ContainerStatsResponse { stats: Some(convert::container_stats(&stats)) })
    }

    pub(super) async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
    ) -> Result<v1::ListContainerStatsResponse, Status> {
        let found = self.all_container_stats(request.filter).await;
        Ok(v1::ListContainerStatsResponse {
            stats: found.iter().map(convert::container_stats).collect(),
        })
    }

    pub(super) async fn stream_container_stats(
        &self,
        request: v1::StreamContainerStatsRequest,
    ) -> Result<BoxStream<v1::StreamContainerStatsResponse>, Status> {
        let found = self.all_container_stats(request.filter).await;
        let items = found.into_iter().map(|stats| convert::container_stats(&stats));
        let message = |container_stats| v1::StreamContainerStatsResponse { container_stats };
        Ok(batches(items, BATCH, message))
    }

    async fn all_container_stats(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Vec<ContainerStats> {
        let filter = convert::container_stats_filter(filter);
        self.stats.containers(self.sandboxes.containers(&filter)).await
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
    ) -> Result<v1::PodSandboxStatsResponse, Status> {
        let id = convert::required_id("pod_sandbox_id", request.pod_sandbox_id)?;
        let stats = self.stats.pod(self.sandboxes.get(&id)?).await;
        Ok(v1::PodSandboxStatsResponse { stats: Some(convert::pod_stats(&stats)) })
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
    ) -> Result<v1::ListPodSandboxStatsResponse, Status> {
        let found = self.all_pod_stats(request.filter).await;
        Ok(v1::ListPodSandboxStatsResponse {
            stats: found.iter().map(convert::pod_stats).collect(),
        })
    }

    pub(super) async fn stream_pod_sandbox_stats(
        &self,
        request: v1::StreamPodSandboxStatsRequest,
    ) -> Result<BoxStream<v1::StreamPodSandboxStatsResponse>, Status> {
        let found = self.all_pod_stats(request.filter).await;
        let items = found.into_iter().map(|stats| convert::pod_stats(&stats));
        let message = |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(batches(items, BATCH, message))
    }

    async fn all_pod_stats(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Vec<PodStats> {
        let filter = convert::pod_stats_filter(filter);
        self.stats.pods(self.sandboxes.list(&filter)).await
    }
}
