//! Watches through the service.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::world::*;
use crate::pod::{HubOptions, PodKey};
use crate::proto::podbay::v1::*;

async fn next(watch: &mut Streaming<WatchResponse>) -> Result<Option<WatchResponse>, Status> {
    tokio::time::timeout(SOON, watch.message()).await.expect("no news")
}

/// Type, pod name and revision number of an event; 0 if it has no revision.
async fn short(watch: &mut Streaming<WatchResponse>) -> (WatchEventType, String, u64) {
    let event = next(watch).await.unwrap().unwrap();
    let number = event.revision.as_ref().map_or(0, |revision| revision.number);
    let name = event.pod.as_ref().map(|pod| pod.name.clone()).unwrap_or_default();
    (event.r#type(), name, number)
}

#[tokio::test]
async fn a_watch_starts_with_the_state_and_is_resumed() {
    use WatchEventType::{Added, Bookmark, Deleted, Modified};
    let world = World::start().await;
    let hub = &world.face.hub;
    hub.publish(view("a", "Running"));
    hub.publish(view("b", "Running"));
    let mut client = world.client().await;
    let fields = Selector { fields: "status.phase=Running".into(), ..Selector::default() };
    let request = WatchRequest { selector: Some(fields), after: None };
    let mut watch = client.watch(request.clone()).await.unwrap().into_inner();
    assert_eq!(short(&mut watch).await, (Added, "a".into(), 0));
    assert_eq!(short(&mut watch).await, (Added, "b".into(), 0));
    let bookmark = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(bookmark.r#type(), Bookmark);
    let after = bookmark.revision;
    hub.publish(view("a", "Failed"));
    assert_eq!(short(&mut watch).await, (Deleted, "a".into(), 103));
    drop(watch);

    hub.gone(&PodKey::new("default", "b"));
    hub.publish(view("c", "Running"));
    let resumed = WatchRequest { after: after.clone(), ..request.clone() };
    let mut watch = client.watch(resumed).await.unwrap().into_inner();
    assert_eq!(short(&mut watch).await, (Deleted, "a".into(), 103));
    assert_eq!(short(&mut watch).await, (Deleted, "b".into(), 104));
    assert_eq!(short(&mut watch).await, (Added, "c".into(), 105));
    assert_eq!(short(&mut watch).await, (Bookmark, String::new(), 105));
    let mut labelled = view("c", "Running");
    std::sync::Arc::make_mut(&mut labelled.pod).metadata.labels = None;
    hub.publish(labelled);
    assert_eq!(short(&mut watch).await, (Modified, "c".into(), 106));

    let bare = Revision { epoch: String::new(), ..after.unwrap() };
    let status = client.watch(WatchRequest { after: Some(bare), ..request }).await.unwrap_err();
    assert!(status.message().starts_with("after.epoch: "), "{status}");
    world.stop().await;
}

#[tokio::test]
async fn too_old_says_what_is_current() {
    let options = HubOptions { window: 1, ..HubOptions::default() };
    let world = World::start_with(options).await;
    let before = world.face.hub.revision();
    world.face.hub.publish(view("a", "Pending"));
    world.face.hub.publish(view("a", "Running"));
    let mut client = world.client().await;
    let after = Some(Revision { epoch: before.epoch.clone(), number: before.number });
    let request = WatchRequest { after, ..WatchRequest::default() };
    let status = client.watch(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let metadata = status.get_details_error_info().unwrap().metadata;
    assert_eq!((&metadata["epoch"], &*metadata["revision"]), (&before.epoch, "102"));
    world.stop().await;
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off_and_goes_on_where_it_was() {
    let options = HubOptions { window: 1000, queue: 8, bookmark: Duration::from_secs(30) };
    let world = World::start_with(options).await;
    let mut slow = world.client().await;
    let mut watch = slow.watch(WatchRequest::default()).await.unwrap().into_inner();
    let mut quick = world.client().await;
    let mut other = quick.watch(WatchRequest::default()).await.unwrap().into_inner();
    short(&mut other).await;
    // Large pods quickly fill all buffers to a client that does not read.
    let mut published = 0;
    while world.face.hub.watchers() == 2 {
        let mut big = view("a", if published % 2 == 0 { "Running" } else { "Pending" });
        let ballast = [("ballast".to_owned(), "x".repeat(200_000))];
        std::sync::Arc::make_mut(&mut big.pod).metadata.annotations = Some(ballast.into());
        world.face.hub.publish(big);
        short(&mut other).await;
        published += 1;
        assert!(published < 1000, "it is never cut off");
    }
    let mut last = None;
    let status = loop {
        match next(&mut watch).await {
            Ok(event) => last = event.unwrap().revision,
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "WATCHER_TOO_SLOW");
    let lost = 100 + published - last.as_ref().unwrap().number;
    assert!(lost > 0);
    let request = WatchRequest { after: last, ..WatchRequest::default() };
    let mut watch = slow.watch(request).await.unwrap().into_inner();
    for _ in 0..lost {
        let kind = short(&mut watch).await.0;
        assert!(matches!(kind, WatchEventType::Added | WatchEventType::Modified), "{kind:?}");
    }
    assert_eq!(short(&mut watch).await.2, 100 + published);
    world.stop().await;
}

#[tokio::test]
async fn a_hundred_watchers_get_a_change_that_is_written_once() {
    let world = World::start().await;
    let client = world.client().await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        let mut watch = client.clone().watch(WatchRequest::default()).await.unwrap().into_inner();
        assert_eq!(short(&mut watch).await.0, WatchEventType::Bookmark);
        watches.push(watch);
    }
    world.face.hub.publish(view("a", "Running"));
    for watch in &mut watches {
        assert_eq!(short(watch).await, (WatchEventType::Added, "a".into(), 101));
    }
    assert_eq!(world.pods.shown.written(), 1);
    drop(watches);
    world.stop().await;
}

#[tokio::test]
async fn the_end_of_the_agent_ends_a_watch_cleanly() {
    let world = World::start().await;
    let mut client = world.client().await;
    let mut watch = client.watch(WatchRequest::default()).await.unwrap().into_inner();
    short(&mut watch).await;
    world.stop().await;
    assert!(next(&mut watch).await.unwrap().is_none());
}
