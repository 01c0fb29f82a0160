//! The two services as tonic traits: each RPC is delegated to the file of its subject.

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::Cri;
use crate::proto::runtime::v1::image_service_server::ImageService;
use crate::proto::runtime::v1::runtime_service_server::RuntimeService;
use crate::proto::runtime::v1::*;
use crate::serve::status::unimplemented;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = Answer<BoxStream<T>>;

/// RPCs that are not implemented yet; the error names them. The signature is the expansion of an
/// `async fn` by `async_trait`.
macro_rules! later {
    ($($method:ident($request:ident) -> $answer:ty;)*) => {$(
        fn $method<'a, 'f>(
            &'a self,
            _: Request<$request>,
        ) -> futures::future::BoxFuture<'f, $answer>
        where
            'a: 'f,
            Self: 'f,
        {
            let name = stringify!($request).trim_end_matches("Request");
            Box::pin(std::future::ready(Err(unimplemented(name))))
        }
    )*};
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(super::node::version()))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        self.run_pod_sandbox(request.into_inner()).await.map(Response::new)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        self.stop_pod_sandbox(request.into_inner()).await.map(Response::new)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.remove_pod_sandbox(request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        self.pod_sandbox_status(request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        self.list_pod_sandbox(request.into_inner()).await.map(Response::new)
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Stream<StreamPodSandboxesResponse> {
        self.stream_pod_sandboxes(request.into_inner()).map(Response::new)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        self.update_pod_sandbox_resources(request.into_inner()).await.map(Response::new)
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        self.create_container(request.into_inner()).await.map(Response::new)
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        self.start_container(request.into_inner()).await.map(Response::new)
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        self.stop_container(request.into_inner()).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        self.remove_container(request.into_inner()).await.map(Response::new)
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        self.list_containers(request.into_inner()).await.map(Response::new)
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Stream<StreamContainersResponse> {
        self.stream_containers(request.into_inner()).map(Response::new)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        self.update_container_resources(request.into_inner()).await.map(Response::new)
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        self.container_status(request.into_inner()).await.map(Response::new)
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        self.checkpoint_container(request.into_inner()).await.map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.reopen_container_log(request.into_inner()).await.map(Response::new)
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        self.exec_sync(request.into_inner()).await.map(Response::new)
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        self.exec(request.into_inner()).map(Response::new)
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        self.attach(request.into_inner()).map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        self.port_forward(request.into_inner()).map(Response::new)
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        self.node.update_runtime_config(request.into_inner()).await.map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        self.node.status(request.into_inner()).await.map(Response::new)
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Stream<ContainerEventResponse> {
        Ok(Response::new(self.events()?))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        Ok(Response::new(self.node.runtime_config()))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        self.container_stats(request.into_inner()).await.map(Response::new)
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        self.list_container_stats(request.into_inner()).await.map(Response::new)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        self.pod_sandbox_stats(request.into_inner()).await.map(Response::new)
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        self.list_pod_sandbox_stats(request.into_inner()).await.map(Response::new)
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Stream<StreamContainerStatsResponse> {
        self.stream_container_stats(request.into_inner()).await.map(Response::new)
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Stream<StreamPodSandboxStatsResponse> {
        self.stream_pod_sandbox_stats(request.into_inner()).await.map(Response::new)
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        Ok(Response::new(self.list_metric_descriptors()))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        Ok(Response::new(self.list_pod_sandbox_metrics().await))
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Stream<StreamPodSandboxMetricsResponse> {
        Ok(Response::new(self.stream_pod_sandbox_metrics().await))
    }

    later! {
        checkpoint_pod(CheckpointPodRequest) -> Answer<CheckpointPodResponse>;
        restore_pod(RestorePodRequest) -> Answer<RestorePodResponse>;
    }
}

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        self.list_images(request.into_inner()).await.map(Response::new)
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        self.image_status(request.into_inner()).await.map(Response::new)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        self.pull_image(request.into_inner()).await.map(Response::new)
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        self.remove_image(request.into_inner()).await.map(Response::new)
    }

    async fn image_fs_info(&self, _: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        self.image_fs_info().await.map(Response::new)
    }

    async fn stream_images(
        &self,
        request: Request<StreamImagesRequest>,
    ) -> Stream<StreamImagesResponse> {
        self.stream_images(request.into_inner()).await.map(Response::new)
    }
}
