//! Lists in pages, logs and events.

use bytes::Bytes;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::world::*;
use crate::proto::podbay::v1::*;

#[tokio::test]
async fn a_list_comes_in_pages_of_one_revision() {
    let world = World::start().await;
    for name in ["e", "a", "c", "b", "d"] {
        world.face.hub.publish(view(name, "Running"));
    }
    let mut client = world.client().await;
    let mut names = Vec::new();
    let mut request = ListRequest { limit: 2, ..ListRequest::default() };
    let mut first = None;
    loop {
        let page = client.list(request.clone()).await.unwrap().into_inner();
        names.extend(page.pods.iter().map(|pod| pod.name.clone()));
        assert_eq!(page.remaining, 5 - names.len() as u64);
        let revision = page.revision.unwrap();
        assert_eq!(first.get_or_insert(revision.clone()), &revision);
        if page.continue_token.is_empty() {
            break;
        }
        request.continue_token = page.continue_token;
        // An event for a watch that starts at the revision of the first page.
        world.face.hub.publish(view("a", "Failed"));
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let whole = client.list(ListRequest::default()).await.unwrap().into_inner();
    assert_eq!((whole.pods.len(), whole.continue_token.as_str()), (5, ""));
    let selector = Selector { labels: "app in (a,c)".into(), ..Selector::default() };
    let some = ListRequest { selector: Some(selector), ..ListRequest::default() };
    assert_eq!(client.list(some).await.unwrap().into_inner().pods.len(), 2);

    for token in ["!", "e30", "bm8"] {
        let request = ListRequest { continue_token: token.into(), ..ListRequest::default() };
        let status = client.list(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{token}");
    }
    // A token may outlive its store history.
    let other = World::start().await;
    other.face.hub.publish(view("a", "Running"));
    let status = other.client().await.list(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), &*info.metadata["revision"]), ("REVISION_TOO_OLD", "101"));
    other.stop().await;
    world.stop().await;
}

#[tokio::test]
async fn logs_come_in_pieces_and_say_how_they_ended() {
    let world = World::start().await;
    let long = vec![b'x'; 200_000];
    *world.face.log.lock().unwrap() = vec![Bytes::from_static(b"one\n"), Bytes::from(long.clone())];
    let mut client = world.client().await;
    let request = LogsRequest {
        name: "a".into(),
        container: "main".into(),
        follow: true,
        previous: true,
        tail_lines: Some(0),
        limit_bytes: Some(9),
        timestamps: true,
        since_time: Some(prost_types::Timestamp { seconds: 2, nanos: 5 }),
        ..LogsRequest::default()
    };
    let mut log = client.logs(request.clone()).await.unwrap().into_inner();
    let (mut got, mut longest) = (Vec::new(), 0);
    let end = loop {
        match log.message().await {
            Ok(Some(piece)) => {
                longest = longest.max(piece.data.len());
                got.extend(piece.data);
            }
            other => break other.unwrap_err(),
        }
    };
    assert_eq!(got, [b"one\n".to_vec(), long].concat());
    assert_eq!(longest, 64 << 10);
    assert_eq!((end.code(), end.message()), (Code::Unknown, "read the log: the disk is gone"));
    let asked = world.asked().remove(0);
    for part in [
        "default/a ",
        "container: Some(\"main\")",
        "previous: true, follow: true, tail: Some(0), since: Some(2000000005)",
        "limit_bytes: Some(9), timestamps: true",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let both = LogsRequest { since: Some(prost_types::Duration::default()), ..request.clone() };
    let all = LogsRequest { all_containers: true, ..request };
    for (request, field) in [(both, "since"), (all, "container")] {
        let status = client.logs(request).await.unwrap_err();
        assert!(status.message().starts_with(field), "{status}");
    }
    world.stop().await;
}

#[tokio::test]
async fn events_end_or_are_followed() {
    let world = World::start().await;
    let mut client = world.client().await;
    let mut events = client.events(EventsRequest::default()).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!((first.number, first.r#type(), first.count), (1, EventType::Warning, 3));
    let begun = first.first.unwrap();
    assert_eq!((begun.seconds, begun.nanos), (1, 500_000_000));
    assert!(events.message().await.unwrap().is_some());
    assert!(events.message().await.unwrap().is_none());

    let request = Request::new(EventsRequest { follow: true, ..EventsRequest::default() });
    let mut events = client.events(request).await.unwrap().into_inner();
    events.message().await.unwrap().unwrap();
    events.message().await.unwrap().unwrap();
    // The shutdown of the agent ends endless answers normally.
    world.stop().await;
    assert!(events.message().await.unwrap().is_none());
}

#[tokio::test]
async fn stats_come_again_and_again() {
    let world = World::start().await;
    let mut client = world.client().await;
    let short = prost_types::Duration { seconds: 0, nanos: 999_999_999 };
    let request = WatchStatsRequest { interval: Some(short), ..WatchStatsRequest::default() };
    let status = client.watch_stats(request).await.unwrap_err();
    assert_eq!(status.message(), "interval: must be at least one second");
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    let request = WatchStatsRequest { interval: Some(second), ..WatchStatsRequest::default() };
    let mut stats = client.watch_stats(request).await.unwrap().into_inner();
    for _ in 0..2 {
        let next = tokio::time::timeout(SOON, stats.message()).await.unwrap();
        assert_eq!(next.unwrap().unwrap().node.unwrap().name, "n1");
    }
    world.stop().await;
}
