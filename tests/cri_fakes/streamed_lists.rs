//! Streamed lists have the same contents as ordinary ones.

use futures::TryStreamExt as _;
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::world::{Agent, IMAGE, World};

impl Agent {
    async fn stream_pods(&self, filter: cri::PodSandboxFilter) -> Answer<Vec<cri::PodSandbox>> {
        let request = cri::StreamPodSandboxesRequest { filter: Some(filter) };
        let stream = self.cri.clone().stream_pod_sandboxes(request).await?.into_inner();
        let messages: Vec<_> = stream.try_collect().await?;
        Ok(messages.into_iter().flat_map(|message| message.pod_sandboxes).collect())
    }

    async fn stream_containers(
        &self,
        filter: cri::ContainerFilter,
    ) -> Answer<(usize, Vec<cri::Container>)> {
        let request = cri::StreamContainersRequest { filter: Some(filter) };
        let stream = self.cri.clone().stream_containers(request).await?.into_inner();
        let messages: Vec<_> = stream.try_collect().await?;
        let count = messages.len();
        Ok((count, messages.into_iter().flat_map(|message| message.containers).collect()))
    }
}

#[tokio::test]
async fn streams_have_what_lists_have() {
    let world = World::new();
    let agent = world.agent().await;
    assert!(agent.stream_pods(cri::PodSandboxFilter::default()).await.unwrap().is_empty());
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let mut config = pod(&world, name);
        config.labels.insert("name".into(), name.into());
        ids.push(agent.run(&config).await.unwrap());
    }
    agent.stop_pod(&ids[0]).await.unwrap();
    let all = agent.stream_pods(cri::PodSandboxFilter::default()).await.unwrap();
    assert_eq!((all.len(), &all), (3, &agent.pods().await));
    let by_label = cri::PodSandboxFilter {
        label_selector: [("name".into(), "b".into())].into(),
        ..Default::default()
    };
    let found = agent.stream_pods(by_label).await.unwrap();
    assert_eq!(found.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&ids[1]]);
    let state = |state: i32| cri::PodSandboxFilter {
        state: Some(cri::PodSandboxStateValue { state }),
        ..Default::default()
    };
    let found = agent.stream_pods(state(cri::PodSandboxState::SandboxNotready.into())).await;
    assert_eq!(found.unwrap()[0].id, ids[0]);
    refused(agent.stream_pods(state(7)).await, Code::InvalidArgument, "filter.state.state");

    // Several messages, because one would be too large for a client.
    let mut containers = Vec::new();
    for number in 0..5 {
        let mut config = container(&format!("app-{number}"), &["run"]);
        config.annotations.insert("large".into(), "x".repeat(600 << 10));
        containers.push(agent.create(&ids[1], &config).await.unwrap());
    }
    let (messages, found) = agent.stream_containers(cri::ContainerFilter::default()).await.unwrap();
    assert_eq!((messages, found.len()), (5, 5));
    assert_eq!(found, agent.containers().await);
    let one = cri::ContainerFilter { id: containers[3][..12].into(), ..Default::default() };
    let (messages, found) = agent.stream_containers(one).await.unwrap();
    assert_eq!((messages, &found[0].id), (1, &containers[3]));
    let none = cri::ContainerFilter { pod_sandbox_id: ids[2].clone(), ..Default::default() };
    assert_eq!(agent.stream_containers(none).await.unwrap(), (0, Vec::new()));
}

#[tokio::test]
async fn images_are_streamed_too() {
    let world = World::new();
    let agent = world.agent().await;
    world.fakes.images.seed(&["test.example/other:1"], &serde_json::json!({ "Cmd": ["x"] }));
    let mut client = ImageServiceClient::new(agent.channel.clone());
    let mut stream = async |image: &str| {
        let image = cri::ImageSpec { image: image.into(), ..Default::default() };
        let filter = Some(cri::ImageFilter { image: Some(image) });
        let request = cri::StreamImagesRequest { filter };
        let stream = client.stream_images(request).await.unwrap().into_inner();
        let messages: Vec<_> = stream.try_collect().await.unwrap();
        messages.into_iter().flat_map(|message| message.images).collect::<Vec<_>>()
    };
    let all = stream("").await;
    let one = stream(IMAGE).await;
    assert!(stream("test.example/missing:1").await.is_empty());
    assert_eq!(one[0].repo_tags, [IMAGE]);
    let list = client.list_images(cri::ListImagesRequest::default()).await.unwrap();
    assert_eq!((all.len(), all), (2, list.into_inner().images));
}
