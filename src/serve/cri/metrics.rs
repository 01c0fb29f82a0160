//! Metrics in cAdvisor's format.

use tonic::codegen::BoxStream;

use super::batches::batches;
use super::stats::BATCH;
use super::{Cri, convert};
use crate::proto::runtime::v1;
use crate::stats::PodMetrics;

impl Cri {
    pub(super) fn list_metric_descriptors(&self) -> v1::ListMetricDescriptorsResponse {
        let given = self.stats.descriptors().iter();
        let descriptors = given.map(convert::metric_descriptor).collect();
        v1::ListMetricDescriptorsResponse { descriptors }
    }

    pub(super) async fn list_pod_sandbox_metrics(&self) -> v1::ListPodSandboxMetricsResponse {
        let found = self.all_metrics().await;
        let pod_metrics = found.into_iter().map(convert::pod_metrics).collect();
        v1::ListPodSandboxMetricsResponse { pod_metrics }
    }

    pub(super) async fn stream_pod_sandbox_metrics(
        &self,
    ) -> BoxStream<v1::StreamPodSandboxMetricsResponse> {
        let items = self.all_metrics().await.into_iter().map(convert::pod_metrics);
        let message =
            |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        batches(items, BATCH, message)
    }

    async fn all_metrics(&self) -> Vec<PodMetrics> {
        let ready = convert::pod_stats_filter(None);
        self.stats.metrics(self.sandboxes.list(&ready)).await
    }
}
