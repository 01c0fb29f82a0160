//! What pods and containers use.

use prost::Message;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::{Cri, convert};
use crate::proto::runtime::v1;
use crate::stats::{ContainerStats, PodStats};

/// Most items of one message of a stream, …
const BATCH: usize = 128;

/// … and most bytes, but for a single item that is larger: far from the limit of messages.
const BATCH_BYTES: usize = 1 << 20;

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
        Ok(in_batches(items, message))
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
        Ok(in_batches(items, message))
    }

    async fn all_pod_stats(&self, filter: Option<v1::PodSandboxStatsFilter>) -> Vec<PodStats> {
        let filter = convert::pod_stats_filter(filter);
        self.stats.pods(self.sandboxes.list(&filter)).await
    }
}

/// Every item once, then the end.
pub(super) fn in_batches<T, M>(
    items: impl Iterator<Item = T> + Send + 'static,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> BoxStream<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    Box::pin(async_stream::stream! {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for item in items {
            let length = item.encoded_len();
            if batch.len() == BATCH || (!batch.is_empty() && bytes + length > BATCH_BYTES) {
                yield Ok(message(std::mem::take(&mut batch)));
                bytes = 0;
            }
            bytes += length;
            batch.push(item);
        }
        if !batch.is_empty() {
            yield Ok(message(batch));
        }
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    async fn batches(names: Vec<String>) -> Vec<Vec<String>> {
        let items = names
            .into_iter()
            .map(|name| v1::ContainerAttributes { id: name, ..Default::default() });
        let ids = |batch: Vec<v1::ContainerAttributes>| {
            batch.into_iter().map(|item| item.id).collect::<Vec<_>>()
        };
        in_batches(items, ids).map(|batch| batch.expect("a batch")).collect().await
    }

    #[tokio::test]
    async fn every_item_comes_once_in_messages_that_are_not_too_large() {
        assert!(batches(Vec::new()).await.is_empty());
        let many: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        let got = batches(many.clone()).await;
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [128, 128, 44]);
        assert_eq!(got.concat(), many);
        let half = "x".repeat(BATCH_BYTES / 2 + 1);
        let huge = "y".repeat(BATCH_BYTES * 2);
        let got = batches(vec![half.clone(), half.clone(), huge, "z".into()]).await;
        assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1]);
    }
}
