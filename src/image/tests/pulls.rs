use std::sync::atomic::Ordering;

use futures::FutureExt;

use super::registry::Reply;
use super::*;
use crate::image::manifest::OCI_MANIFEST;

#[tokio::test]
async fn a_tag_is_pulled_whole_and_held() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let tag = registry.name("app:v1");
    let image = room.images.pull(&tag, None).await.unwrap();
    assert_eq!(image.id, parts.config);
    assert_eq!(image.repo_tags, [tag.as_str()]);
    let by_digest = registry.name(&format!("app@{}", parts.manifest));
    assert_eq!(image.repo_digests, [by_digest.as_str()]);
    assert_eq!((image.config.user.as_str(), image.target.digest.clone()), ("1000", parts.manifest));
    let (names, blobs, snapshots, ingests, leases) = room.store.census();
    assert_eq!(names, [tag.as_str(), by_digest.as_str(), image.id.as_str()]);
    assert_eq!((blobs, snapshots, ingests, leases), (5, 3, 0, 0), "labels hold all content");
    assert!(image.size > 300 && registry.count("/blobs/") == 4);
    assert_eq!(registry.requests().len(), 6, "one question, one manifest, each blob once");
    let record = room.store.record(&tag).unwrap();
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");
    for name in [image.id.as_str(), &image.id.hex()[..13], &tag, &by_digest] {
        assert_eq!(room.images.get(name).await.unwrap(), Some(image.clone()), "{name}");
    }
}

#[tokio::test]
async fn a_digest_gives_no_tag() {
    let (mut content, parts) = three_layers();
    let index = content.index("multi", &parts.manifest);
    let registry = Registry::start(content).await;
    let room = room();
    let by_digest = registry.name(&format!("app@{index}"));
    let image = room.images.pull(&by_digest, None).await.unwrap();
    assert_eq!((image.id, image.target.digest), (parts.config, index.clone()));
    assert_eq!((image.repo_tags, image.repo_digests), (vec![], vec![by_digest.clone()]));
    assert_eq!(room.store.census().1, 6, "the index is kept too");
    let with_tag = registry.name(&format!("app:ignored@{index}"));
    let again = room.images.pull(&with_tag, None).await.unwrap();
    assert_eq!(again.repo_digests, [by_digest]);
}

/// Some registries send all that they keep as bytes without a type.
#[tokio::test]
async fn the_index_tells_the_type_of_its_manifests() {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    for (sent_as, own, good) in [
        ("application/octet-stream", OCI_MANIFEST, true),
        ("application/json; charset=utf-8", OCI_MANIFEST, true),
        ("application/octet-stream", docker, false),
        (OCI_MANIFEST, docker, false),
    ] {
        let (mut content, parts) = three_layers();
        let text = String::from_utf8_lossy(&content.manifests["v1"].1).replace(OCI_MANIFEST, own);
        let document = serde_json::from_str(&text).unwrap();
        let child = content.manifest("child", sent_as, &document);
        content.index("multi", &child);
        let registry = Registry::start(content).await;
        match room().images.pull(&registry.name("app:multi"), None).await {
            Ok(image) => assert!(good && image.id == parts.config, "{sent_as} {own}"),
            Err(error) => {
                let refused = matches!(error, Error::BadContent { .. });
                assert!(!good && refused, "{sent_as} {own}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn a_complete_image_costs_one_question() {
    let (content, _) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let tag = registry.name("app:v1");
    let first = room.images.pull(&tag, None).await.unwrap();
    let (requests, leases) = (registry.requests().len(), &room.store.leases_made);
    let before = leases.load(Ordering::Relaxed);
    assert_eq!(room.images.pull(&tag, None).await.unwrap(), first);
    assert_eq!(registry.requests().len(), requests + 1);
    assert_eq!(leases.load(Ordering::Relaxed), before);
    let second = registry.name("other/app:v1");
    let image = room.images.pull(&second, None).await.unwrap();
    assert_eq!(image.repo_tags.len(), 2, "a second name needs no download");
    assert_eq!(registry.requests().len(), requests + 2);
}

#[tokio::test]
async fn a_moved_tag_moves() {
    let (mut old, parts) = three_layers();
    let new = old.image("v2", &[b"one", b"other"]);
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = std::sync::Arc::clone(&moved);
    let target = old.manifests["v2"].clone();
    let registry = Registry::with_hook(old, move |request| {
        let asked = request.path.ends_with("/manifests/v1") && now.load(Ordering::Relaxed);
        asked.then(|| {
            Reply::ok(target.1.clone()).with("Content-Type", target.0.clone()).with(
                "Docker-Content-Digest",
                crate::model::image::Digest::of(&target.1).to_string(),
            )
        })
    })
    .await;
    let room = room();
    let tag = registry.name("app:v1");
    assert_eq!(room.images.pull(&tag, None).await.unwrap().id, parts.config);
    moved.store(true, Ordering::Relaxed);
    assert_eq!(room.images.pull(&tag, None).await.unwrap().id, new.config);
    let old = room.images.get(parts.config.as_str()).await.unwrap().unwrap();
    assert_eq!(old.repo_tags, Vec::<String>::new());
    assert_eq!(room.images.list(None).await.unwrap().len(), 2);
}

#[tokio::test]
async fn twenty_callers_share_one_download() {
    let (content, parts) = three_layers();
    let gate = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let open = std::sync::Arc::clone(&gate);
    let registry = Registry::with_hook(content, move |request| {
        // The first requests are held back until all callers wait.
        let early = request.method == "HEAD" && !open.load(Ordering::Relaxed);
        early.then(|| Reply::status(503).with("Retry-After", "0"))
    })
    .await;
    let room = room_with(|options| options.retry_delay = Duration::from_millis(50));
    let tag = registry.name("app:v1");
    let pulls = (0..20).map(|_| room.images.pull(&tag, None));
    let release = async {
        until("asked", || !registry.requests().is_empty()).await;
        gate.store(true, Ordering::Relaxed);
    };
    let (images, ()) = tokio::join!(futures::future::join_all(pulls), release);
    assert!(images.iter().all(|image| image.as_ref().unwrap().id == parts.config));
    assert_eq!(registry.count("/blobs/"), 4);
    assert_eq!(room.store.leases_made.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn other_credentials_pull_for_themselves() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let tag = registry.name("app:v1");
    let (one, other) =
        tokio::join!(room.images.pull(&tag, user("a", "b")), room.images.pull(&tag, None));
    assert_eq!(one.unwrap().id, other.unwrap().id);
    assert_eq!(registry.count("/manifests/v1"), 2, "each asks with its own rights");
    for layer in &parts.layers {
        assert_eq!(registry.count(layer.as_str()), 1, "layers are still fetched once");
    }
}

#[tokio::test]
async fn a_pull_goes_on_while_one_waits_and_ends_with_the_last() {
    let (content, _) = three_layers();
    let registry = Registry::with_hook(content, |request| {
        let blob = request.path.contains("/blobs/");
        blob.then(|| Reply { stall: true, stop_after: Some(0), ..Reply::ok("x") })
    })
    .await;
    let room = room();
    let tag = registry.name("app:v1");
    {
        let second = std::pin::pin!(room.images.pull(&tag, None));
        let mut second = second;
        // The first caller leaves as soon as blobs are requested.
        tokio::select! {
            _ = room.images.pull(&tag, None) => panic!("the registry is silent"),
            _ = &mut second => panic!("the registry is silent"),
            () = until("a blob is asked for", || registry.count("/blobs/") > 0) => {}
        }
        for _ in 0..100 {
            assert!((&mut second).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(room.store.census().4, 1, "the pull goes on for the second");
    }
    assert_eq!(registry.count("/manifests/v1"), 1);
    until("nothing is left", || room.store.is_empty()).await;
}

#[tokio::test]
async fn the_agents_end_cancels_a_pull() {
    let (content, parts) = three_layers();
    let last = parts.layers[2].to_string();
    let bytes = content.blobs[&last].clone();
    let registry = Registry::with_hook(content, move |request| {
        let silent = Reply { stall: true, stop_after: Some(9), ..Reply::ok(bytes.clone()) };
        request.path.ends_with(&last).then_some(silent)
    })
    .await;
    let room = room();
    let tag = registry.name("app:v1");
    let drain = async {
        until("the layer is asked for", || registry.count(parts.layers[2].as_str()) > 0).await;
        room.tasks.drain(Duration::from_secs(5)).await
    };
    let (pulled, drained) = tokio::join!(room.images.pull(&tag, None), drain);
    assert!(matches!(pulled, Err(Error::Cancelled { .. })));
    assert!(drained && room.store.is_empty());
}

#[tokio::test]
async fn progress_can_be_watched() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let mut events = room.images.progress();
    let image = room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert_eq!(event.reference, registry.name("app:v1"));
        seen.push((event.digest, event.state, event.done, event.total));
    }
    assert_eq!(seen.first().unwrap().1, PullState::Resolving);
    assert_eq!(*seen.last().unwrap(), (None, PullState::Done, image.size, image.size));
    for layer in parts.layers {
        let of = |state| seen.iter().position(|e| e.0.as_ref() == Some(&layer) && e.1 == state);
        assert!(of(PullState::Stored).unwrap() < of(PullState::Unpacked).unwrap());
    }
}

#[tokio::test]
async fn what_an_earlier_run_left_is_used() {
    let (content, parts) = three_layers();
    let layer = &parts.layers[2];
    let bytes = content.blobs[layer.as_str()].clone();
    let registry = Registry::start(content).await;
    let half = bytes.len() / 2;
    let room = room();
    room.store.put_ingest(&format!("layer-{layer}"), &bytes[..half]);
    room.store.put_ingest(&format!("layer-{}", parts.layers[0]), b"XX");
    room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    let asked: Vec<_> = registry.requests();
    let range = |digest: &crate::model::image::Digest| {
        let of = asked.iter().filter(|request| request.path.ends_with(digest.as_str()));
        of.map(|request| request.header("range").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(range(layer), [format!("bytes={half}-")]);
    assert_eq!(range(&parts.layers[0]), ["bytes=2-", ""], "damaged: fetched anew");
    assert_eq!(room.store.census().3, 0);
}

#[tokio::test]
async fn an_image_without_layers_is_an_image() {
    let mut content = Content::default();
    let parts = content.image("v1", &[]);
    let registry = Registry::start(content).await;
    let room = room();
    let image = room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    assert_eq!((image.id.clone(), image.chain_id.clone()), (parts.config, None));
    room.images.inner.ensure_unpacked(&image, "testfs").await.unwrap();
    assert_eq!(room.images.pull(&registry.name("app:v1"), None).await.unwrap(), image);
}

#[tokio::test]
async fn a_layer_may_come_twice() {
    let mut content = Content::default();
    content.image("v1", &[b"same", b"same", b"x", b"same"]);
    let registry = Registry::start(content).await;
    let room = room();
    room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    assert_eq!(registry.count("/blobs/"), 3);
    assert_eq!(room.store.census().2, 4);
}

#[tokio::test]
async fn a_layer_that_takes_long_to_open_can_be_cancelled() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let ingest = format!("layer-{}", parts.layers[2]);
    room.store.put_ingest(&ingest, b"part");
    *room.store.hang.lock().unwrap() = ingest;
    let name = registry.name("app:v1");
    let drain = async {
        until("it is opened", || room.store.hung.load(Ordering::Relaxed) > 0).await;
        room.tasks.drain(Duration::from_secs(5)).await
    };
    let (pulled, drained) = tokio::join!(room.images.pull(&name, None), drain);
    assert!(matches!(pulled, Err(Error::Cancelled { .. })), "{pulled:?}");
    assert!(drained);
    let (names, blobs, snapshots, _, leases) = room.store.census();
    assert_eq!((names.len(), blobs, snapshots, leases), (0, 0, 0, 0));
}
