//! Limits of pulls and loads: how many at a time, and how full the disk may get.

use std::sync::atomic::Ordering;

use futures::FutureExt as _;

use super::loads::{load, one_image};
use super::registry::Reply;
use super::*;
use crate::backend::DiskSpace;

/// A registry with images `app:v1` to `app:v3` that never sends the layer of the first.
async fn registry_that_stalls() -> Registry {
    let mut content = Content::default();
    let first = content.image("v1", &[b"never"]).layers[0].to_string();
    content.image("v2", &[b"two"]);
    content.image("v3", &[b"three"]);
    Registry::with_hook(content, move |request| {
        let stall = Reply { stall: true, stop_after: Some(0), ..Reply::ok("x") };
        request.path.ends_with(&first).then_some(stall)
    })
    .await
}

#[tokio::test]
async fn more_pulls_than_may_run_wait_for_their_turn() {
    let registry = registry_that_stalls().await;
    let room = room_with(|options| options.max_concurrent_pulls = 1);
    let [first, second, third] = ["app:v1", "app:v2", "app:v3"].map(|it| registry.name(it));
    let mut events = room.images.progress();
    let waiting = {
        let mut runs = std::pin::pin!(room.images.pull(&first, None));
        assert!((&mut runs).now_or_never().is_none());
        until("the first layer is asked for", || registry.count("/blobs/") == 2).await;
        let mut waits = Box::pin(room.images.pull(&second, None));
        let mut leaves = Box::pin(room.images.pull(&third, None));
        assert!((&mut waits).now_or_never().is_none());
        assert!((&mut leaves).now_or_never().is_none());
        let mut told = Vec::new();
        while told.len() < 2 {
            let event = events.recv().await.unwrap();
            if event.state == PullState::Waiting && event.digest.is_none() {
                told.push(event.reference);
            }
        }
        assert_eq!(told, [second.clone(), third.clone()]);
        drop(leaves);
        waits
    };
    // The first was abandoned, so its place is free.
    waiting.await.unwrap();
    assert_eq!((registry.count("/manifests/v2"), registry.count("/manifests/v3")), (1, 0));
    room.images.pull(&third, None).await.unwrap();
    room.images.remove(&second).await.unwrap();
    room.images.remove(&third).await.unwrap();
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn the_agents_end_cancels_a_pull_that_waits() {
    let registry = registry_that_stalls().await;
    let room = room_with(|options| options.max_concurrent_pulls = 1);
    let [first, second] = ["app:v1", "app:v2"].map(|it| registry.name(it));
    let drain = async {
        until("the first layer is asked for", || registry.count("/blobs/") == 2).await;
        room.tasks.drain(Duration::from_secs(5)).await
    };
    let (one, other, drained) =
        tokio::join!(room.images.pull(&first, None), room.images.pull(&second, None), drain);
    for pulled in [one, other] {
        assert!(matches!(pulled, Err(Error::Cancelled { .. })), "{pulled:?}");
    }
    assert!(drained && room.store.is_empty());
    assert_eq!(registry.count("/manifests/v2"), 0);
}

fn free_of_a_thousand(free: u64) -> DiskSpace {
    DiskSpace { free_bytes: free, bytes: 1000, ..DiskSpace::default() }
}

/// Makes the disk nearly full once a layer is being unpacked.
async fn fill_while_unpacking(room: &Room) {
    until("a layer is unpacked", || room.store.hung.load(Ordering::Relaxed) > 0).await;
    *room.store.disk.lock().unwrap() = free_of_a_thousand(9);
}

#[tokio::test]
async fn what_would_fill_the_disk_is_ended_and_leaves_nothing() {
    let (content, _, layout) = one_image();
    let registry = Registry::start(content).await;
    let room = room();
    *room.store.disk.lock().unwrap() = free_of_a_thousand(10);
    *room.store.hang.lock().unwrap() = "unpack".into();
    let name = registry.name("app:v1");
    let (pulled, ()) = tokio::join!(room.images.pull(&name, None), fill_while_unpacking(&room));
    let text = pulled.unwrap_err().to_string();
    assert!(text.starts_with("less than 1% of the bytes on the disk of snap"), "{text}");
    assert!(room.store.is_empty());

    *room.store.disk.lock().unwrap() = free_of_a_thousand(10);
    room.store.hung.store(0, Ordering::Relaxed);
    let archive = layout.pack();
    let (loaded, ()) = tokio::join!(load(&room, &archive), fill_while_unpacking(&room));
    assert!(matches!(loaded, Err(Error::NoRoom { .. })), "{loaded:?}");
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn an_image_that_is_there_needs_no_room() {
    let (content, _) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let name = registry.name("app:v1");
    let image = room.images.pull(&name, None).await.unwrap();
    *room.store.disk.lock().unwrap() = free_of_a_thousand(9);
    assert_eq!(room.images.pull(&name, None).await.unwrap(), image);
    room.images.inner.ensure_unpacked(&image, "testfs").await.unwrap();
    // Unless its snapshots have to be made again.
    room.store.lose_snapshots();
    *room.store.hang.lock().unwrap() = "unpack".into();
    let unpacked = room.images.inner.ensure_unpacked(&image, "testfs").await;
    assert!(matches!(unpacked, Err(Error::NoRoom { .. })), "{unpacked:?}");
    assert_eq!(room.store.census().4, 0, "no lease is left");
}
