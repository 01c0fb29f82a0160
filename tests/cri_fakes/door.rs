//! The CRI service as a whole: every RPC, the gate before recovery, which pods are shown.

use podbay::board::EventKind;
use podbay::ids::PodId;
use podbay::model::Owner;
use podbay::proto::FILE_DESCRIPTOR_SET;
use podbay::proto::runtime::v1 as cri;
use prost::Message as _;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::calls::{container, pod, refused};
use super::world::{Agent, World};

/// RPCs of later versions.
const LATER: [&str; 2] = ["CheckpointPod", "RestorePod"];

/// Every RPC with its path.
fn methods() -> Vec<(String, MethodDescriptorProto)> {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let services = files.into_iter().filter(|file| file.package() == "runtime.v1");
    let methods = services.flat_map(|file| file.service).flat_map(|service| {
        let name = service.name().to_owned();
        let path =
            move |method: &MethodDescriptorProto| format!("/runtime.v1.{name}/{}", method.name());
        service.method.into_iter().map(move |method| (path(&method), method))
    });
    methods.collect()
}

/// Sends an empty request; a stream counts as answered when it begins.
async fn call(agent: &Agent, path: &str, method: &MethodDescriptorProto) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(agent.channel.clone());
    grpc.ready().await.unwrap();
    let path: PathAndQuery = path.parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    if method.server_streaming() {
        grpc.server_streaming(Request::new(()), path, codec).await.map(drop)
    } else {
        grpc.unary(Request::new(()), path, codec).await.map(drop)
    }
}

#[tokio::test]
async fn every_rpc_is_served_or_says_by_name_that_it_is_not() {
    let world = World::new();
    let agent = world.agent().await;
    let methods = methods();
    assert_eq!(methods.len(), 43);
    let mut later = Vec::new();
    for (path, method) in &methods {
        let answer = call(&agent, path, method).await;
        if let Err(status) = &answer
            && status.code() == Code::Unimplemented
        {
            assert!(status.message().starts_with(method.name()), "{path}: {status}");
            later.push(method.name());
        }
    }
    later.sort_unstable();
    assert_eq!(later, LATER);
}

#[tokio::test]
async fn before_recovery_only_the_version_is_told() {
    let world = World::new();
    let agent = world.agent_before_recovery().await;
    for (path, method) in &methods() {
        match call(&agent, path, method).await {
            Ok(()) => assert_eq!(method.name(), "Version"),
            answer => refused(answer, Code::Unavailable, "not initialized"),
        }
    }
    agent.recover().await;
    agent.run(&pod(&world, "web")).await.unwrap();
}

#[tokio::test]
async fn pods_of_the_own_engine_are_hidden_from_lists_and_events() {
    let world = World::new();
    let agent = world.agent().await;
    let shown = agent.run(&pod(&world, "shown")).await.unwrap();
    let app = agent.create(&shown, &container("app", &["run"])).await.unwrap();
    // The engine comes later; until then its pods are made by hand.
    let board = &agent.rooms.board;
    let mut own = (*board.pod(&shown).unwrap()).clone();
    (own.id, own.owner) = (PodId::random(), Owner::Pod);
    let mut of_own = (*board.container(&app).unwrap()).clone();
    (of_own.id, of_own.owner) = (podbay::ids::ContainerId::random(), Owner::Pod);
    of_own.pod = own.id.clone();
    board.publish_pod(own.clone(), None);
    board.publish_container(of_own.clone(), None);

    assert_eq!(agent.pods().await.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&shown]);
    assert_eq!(agent.containers().await.iter().map(|c| &c.id).collect::<Vec<_>>(), [&app]);
    let listen = agent.cri.clone().get_container_events(cri::GetEventsRequest {}).await;
    let mut events = listen.unwrap().into_inner();
    board.publish_pod(own, Some(EventKind::Stopped));
    board.publish_container(of_own, Some(EventKind::Stopped));
    agent.start(&app).await.unwrap();
    for id in [&shown, &app, &app] {
        assert_eq!(events.message().await.unwrap().unwrap().container_id, *id);
    }
}
