//! Many callers for one container, callers who disconnect, and floods on a connection.

use futures::future::join_all;
use podbay::proto::runtime::v1 as cri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::Code;

use super::calls::pod;
use super::world::{Agent, PATIENCE, World, eventually};

/// Kinds of events that were told of a container, once it is deleted.
async fn told(agent: &Agent, work: impl AsyncFnOnce() -> String) -> Vec<String> {
    let stream = agent.cri.clone().get_container_events(cri::GetEventsRequest {}).await;
    let mut stream = stream.unwrap().into_inner();
    let id = work().await;
    let mut kinds = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.message()).await;
        let event = event.expect("an event").unwrap().expect("an event");
        if event.container_id == id {
            kinds.push(event.container_event_type().as_str_name().to_owned());
            if event.container_event_type() == cri::ContainerEventType::ContainerDeletedEvent {
                return kinds;
            }
        }
    }
}

#[tokio::test]
async fn a_crowd_ends_a_container_once() {
    const ROUNDS: usize = 25;
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    for round in 0..ROUNDS {
        let kinds = told(&agent, async || {
            let id = agent.launch(&pod, &format!("app-{round}"), &["run"]).await;
            let calls = (0..16).map(|number| {
                let (agent, id) = (&agent, &id);
                async move {
                    match number % 4 {
                        0 => agent.stop(id, 5).await,
                        1 => agent.stop(id, 0).await,
                        2 => agent.exec(id, &["echo", "x"], 5).await.map(drop),
                        _ => agent.remove(id).await,
                    }
                }
            });
            for answer in join_all(calls).await {
                let code = answer.err().map_or(Code::Ok, |status| status.code());
                let fine = [Code::Ok, Code::NotFound, Code::FailedPrecondition].contains(&code);
                // A command may be ended with its container.
                assert!(fine || code == Code::Unknown, "{code:?}");
            }
            id
        });
        let kinds = kinds.await;
        let once = ["CREATED", "STARTED", "STOPPED", "DELETED"];
        assert_eq!(kinds, once.map(|kind| format!("CONTAINER_{kind}_EVENT")), "round {round}");
    }
    assert!(agent.containers().await.is_empty());
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_caller_who_gives_a_stop_up_kills_nothing_before_its_time() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod, "app", &["ignore-term"]).await;
    tokio::select! {
        _ = agent.stop(&id, 60) => panic!("it does not end at SIGTERM"),
        () = world.fakes.steps.called("kill", 1) => {}
    }
    assert_eq!(agent.status(&id).await.unwrap().state(), cri::ContainerState::ContainerRunning);
    assert_eq!(world.fakes.steps.count("kill"), 1, "one signal, and not the last");
    assert_eq!(agent.exec(&id, &["echo", "alive"], 5).await.unwrap().stdout, b"alive\n");
    agent.stop(&id, 0).await.unwrap();
    assert_eq!(agent.status(&id).await.unwrap().exit_code, 137);
    agent.remove_all().await;
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// `POST http /`, all from the static table of HPACK.
const REQUEST: [u8; 3] = [0x83, 0x86, 0x84];

/// The frames of a flood by their number.
type Flood<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// Sends a flood on a connection of its own until the agent ends it or all was sent; whether the
/// agent ended it.
async fn flood(world: &World, part: impl Fn(u32) -> Vec<u8>) -> bool {
    const PARTS: u32 = 200_000;
    let mut stream = UnixStream::connect(world.path("cri-0.sock")).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = async {
        for number in 0..PARTS {
            if writer.write_all(&part(number)).await.is_err() {
                return true;
            }
        }
        false
    };
    // The end of what the agent says is the end of the connection.
    let listening = async {
        let mut heard = vec![0; 1 << 16];
        while reader.read(&mut heard).await.is_ok_and(|length| length > 0) {}
        true
    };
    tokio::select! {
        ended = sending => ended,
        ended = listening => ended,
    }
}

/// What is known to have brought servers of HTTP/2 down ends the connection that it comes on, or
/// costs nothing; others are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_its_own_connections_trouble() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let odd = |number: u32| 2 * number + 1;
    let resets = move |number| {
        let mut frames = frame(HEADERS, END_HEADERS, odd(number), &REQUEST);
        frames.extend(frame(RST_STREAM, 0, odd(number), &8u32.to_be_bytes()));
        frames
    };
    // A header that is never at its end.
    let endless = |number| match number {
        0 => frame(HEADERS, 0, 1, &REQUEST),
        _ => frame(CONTINUATION, 0, 1, &[b"\x40\x01a\x7f\x00".as_slice(), &[b'x'; 127]].concat()),
    };
    let empty = |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &REQUEST),
        _ => frame(DATA, 0, 1, &[]),
    };
    let pings = |_| frame(PING, 0, 0, &[0; 8]);
    let settings = |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]);
    let calm = async |name: &str, flood: &mut (dyn Future<Output = bool> + Unpin)| {
        let others = async {
            for _ in 0..u64::MAX {
                let listed = tokio::time::timeout(PATIENCE, agent.pods()).await;
                assert_eq!(listed.unwrap_or_else(|_| panic!("{name}: too late"))[0].id, pod);
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = tokio::time::timeout(2 * PATIENCE, flood) => ended.unwrap_or(false),
            () = others => unreachable!(),
        }
    };
    let mut ended = Vec::new();
    let floods: [(&str, Flood<'_>); 5] = [
        ("resets", &resets),
        ("endless headers", &endless),
        ("empty data", &empty),
        ("pings", &pings),
        ("settings", &settings),
    ];
    for (name, part) in floods {
        if calm(name, &mut Box::pin(flood(&world, part))).await {
            ended.push(name);
        }
        eventually("others are served", async || (agent.pods().await.len() == 1).then_some(()))
            .await;
    }
    assert!(ended.contains(&"resets") && ended.contains(&"endless headers"), "{ended:?}");
    agent.remove_all().await;
}
