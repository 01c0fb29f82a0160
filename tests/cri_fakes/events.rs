//! The event stream.

use podbay::proto::runtime::v1 as cri;
use tonic::{Code, Streaming};

use super::calls::{container, pod};
use super::world::{Agent, PATIENCE, World};

type Stream = Streaming<cri::ContainerEventResponse>;

async fn listen(agent: &Agent) -> Stream {
    let answer = agent.cri.clone().get_container_events(cri::GetEventsRequest {}).await;
    answer.unwrap().into_inner()
}

async fn next(stream: &mut Stream) -> Option<cri::ContainerEventResponse> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.expect("an event").expect("no error")
}

async fn kinds(stream: &mut Stream, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for _ in 0..count {
        let event = next(stream).await.unwrap();
        let kind = event.container_event_type().as_str_name().to_owned();
        let kind = kind.trim_start_matches("CONTAINER_").trim_end_matches("_EVENT").to_owned();
        assert!(event.created_at > 0 && event.pod_sandbox_status.is_some(), "{event:?}");
        found.push((event.container_id, kind));
    }
    found
}

#[tokio::test]
async fn each_step_of_a_life_is_told_once_and_in_order() {
    let world = World::new();
    let agent = world.agent().await;
    let mut stream = listen(&agent).await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let told = |id: &str, kind: &str| (id.to_owned(), kind.to_owned());
    assert_eq!(kinds(&mut stream, 2).await, [told(&pod, "CREATED"), told(&pod, "STARTED")]);

    let app = agent.launch(&pod, "app", &["run"]).await;
    let broken = agent.create(&pod, &container("broken", &["fail-start"])).await.unwrap();
    agent.start(&broken).await.unwrap_err();
    agent.stop(&app, 10).await.unwrap();
    assert_eq!(
        kinds(&mut stream, 5).await,
        [
            told(&app, "CREATED"),
            told(&app, "STARTED"),
            told(&broken, "CREATED"),
            told(&broken, "STOPPED"),
            told(&app, "STOPPED"),
        ]
    );
    agent.remove(&broken).await.unwrap();
    agent.stop_pod(&pod).await.unwrap();
    agent.stop_pod(&pod).await.unwrap();
    agent.remove_pod(&pod).await.unwrap();
    assert_eq!(
        kinds(&mut stream, 4).await,
        [
            told(&broken, "DELETED"),
            told(&pod, "STOPPED"),
            told(&app, "DELETED"),
            told(&pod, "DELETED"),
        ]
    );
}

#[tokio::test]
async fn an_event_carries_the_whole_pod_and_a_new_listener_hears_the_present() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let one = agent.launch(&pod, "one", &["run"]).await;
    let two = agent.launch(&pod, "two", &["exit", "3"]).await;
    agent.ended(&two).await;
    let mut stream = listen(&agent).await;
    let mut told = kinds(&mut stream, 3).await;
    told.sort();
    let mut expected = [
        (pod.clone(), "STARTED".to_owned()),
        (one.clone(), "STARTED".to_owned()),
        (two.clone(), "STOPPED".to_owned()),
    ];
    expected.sort();
    assert_eq!(told, expected);

    agent.stop(&one, 10).await.unwrap();
    let event = next(&mut stream).await.unwrap();
    assert_eq!(event.container_id, one);
    let sandbox = event.pod_sandbox_status.unwrap();
    assert_eq!((sandbox.id, sandbox.network.unwrap().ip.as_str()), (pod, "10.88.0.1"));
    let mut codes: Vec<_> =
        event.containers_statuses.iter().map(|status| (status.exit_code, &status.id)).collect();
    codes.sort();
    assert_eq!(codes, [(3, &two), (143, &one)]);
}

#[tokio::test]
async fn a_listener_who_reads_too_slowly_is_cut_off_and_holds_nobody_up() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let mut slow = listen(&agent).await;
    let sandbox = (*agent.rooms.board.pod(&pod).unwrap()).clone();
    // More than its queue and all the buffers on the way hold.
    for _ in 0..40_000 {
        let news = Some(podbay::board::EventKind::Stopped);
        agent.rooms.board.publish_pod(sandbox.clone(), news);
    }
    let mut heard = 0;
    let error = loop {
        match slow.message().await {
            Ok(Some(_)) => heard += 1,
            Ok(None) => panic!("it ended as if nothing were lost"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
    assert!(heard < 40_000);
    agent.remove_all().await;
}
