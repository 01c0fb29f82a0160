//! How many pulls run at a time.

use futures::FutureExt as _;

use super::registry::Reply;
use super::*;

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

