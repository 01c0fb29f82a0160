use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use crate::model::image::{Descriptor, Digest};

#[tokio::test]
async fn removal_takes_all_names_and_all_content() {
    let (mut content, parts) = three_layers();
    content.image("v2", &[b"one", b"more"]);
    let registry = Registry::start(content).await;
    let room = room();
    for name in ["app:v1", "second/app:v1", "app:v2"] {
        room.images.pull(&registry.name(name), None).await.unwrap();
    }
    let hold = room.images.hold(&parts.config);
    let second = room.images.hold(&parts.config);
    drop(second);
    let refused = room.images.remove(&registry.name("app:v1")).await;
    assert!(matches!(refused, Err(Error::InUse { id }) if id == parts.config));
    drop(hold);
    let tag = registry.name("app:v1");
    let (a, b) = tokio::join!(room.images.remove(&tag), room.images.remove(parts.config.as_str()));
    a.and(b).unwrap();
    assert_eq!(room.images.get(&registry.name("second/app:v1")).await.unwrap(), None);
    let left = room.images.list(None).await.unwrap();
    assert_eq!(left.len(), 1);
    let (names, blobs, snapshots, ..) = room.store.census();
    assert_eq!((names.len(), blobs, snapshots), (3, 4, 2), "shared layers stay with the other");
    room.images.remove("unknown").await.unwrap();
    room.images.remove(&left[0].id.hex()[..6]).await.unwrap();
    assert!(room.store.is_empty());
    assert!(matches!(room.images.remove("../x").await, Err(Error::InvalidReference { .. })));
}

#[tokio::test]
async fn a_name_without_an_image_is_hidden_and_can_be_removed() {
    let room = room();
    let digest = Digest::of(b"gone");
    let target = Descriptor {
        media_type: manifest::OCI_MANIFEST.into(),
        digest,
        size: 4,
        annotations: StringMap::new(),
    };
    let name = "docker.io/library/broken:latest";
    room.store.tag(ImageRecord { name: name.into(), target, labels: StringMap::new() });
    assert_eq!(room.images.list(None).await.unwrap(), []);
    assert_eq!(room.images.get("broken").await.unwrap(), None);
    room.images.remove("broken").await.unwrap();
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn an_unreadable_image_hides_no_other() {
    use crate::backend::ErrorKind::{DeadlineExceeded, Other, ResourceExhausted, Unavailable};
    let room = room();
    let images = &room.images;
    let config = ImageConfig::default();
    let (bad, good) = ("docker.io/library/bad:1", "docker.io/library/good:1");
    let lost = images.import(bad, "x".into(), &config, false).await.unwrap();
    let kept = images.import(good, "y".into(), &config, false).await.unwrap();
    for kind in [Unavailable, DeadlineExceeded, ResourceExhausted] {
        images.inner.index.forget(&lost.target.digest);
        *room.store.fail_read.lock().unwrap() = Some((lost.target.digest.clone(), kind));
        assert!(images.list(None).await.is_err(), "{kind:?} may pass");
    }
    *room.store.fail_read.lock().unwrap() = Some((lost.target.digest.clone(), Other));
    assert_eq!(images.list(None).await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(images.get(bad).await.unwrap(), None);
    images.remove(bad).await.unwrap();
    assert_eq!(room.store.record(bad), None);
    assert_eq!(images.list(None).await.unwrap(), [kept]);
}

#[tokio::test]
async fn reading_is_served_from_memory_until_something_changes() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let tag = registry.name("app:v1");
    room.images.pull(&tag, None).await.unwrap();
    let counts =
        || (room.store.lists.load(Ordering::Relaxed), room.store.reads.load(Ordering::Relaxed));
    let (lists, reads) = counts();
    for _ in 0..100 {
        room.images.get(&tag).await.unwrap().unwrap();
        room.images.list(Some(&tag)).await.unwrap();
    }
    assert_eq!(counts(), (lists, reads));
    let mut record = room.store.record(&tag).unwrap();
    record.name = "docker.io/library/short:latest".into();
    room.store.tag(record);
    room.images.invalidate();
    let image = room.images.get("short").await.unwrap().unwrap();
    assert_eq!((image.id.clone(), image.repo_tags.len()), (parts.config, 2));
    assert_eq!(counts(), (lists + 1, reads), "known content is not read again");
    let refs = room.images.list(Some("nowhere")).await.unwrap();
    assert!(refs.is_empty() && room.images.list(Some("../x")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_prefix_of_two_images_is_ambiguous() {
    let room = room();
    // 17 images: two of them must share the first digit of their ids.
    let mut first = std::collections::BTreeMap::<String, usize>::new();
    for n in 0..17 {
        let config = ImageConfig { cmd: vec![n.to_string()], ..Default::default() };
        let image = room.images.import(&format!("i{n}"), "x".into(), &config, false).await.unwrap();
        *first.entry(image.id.hex()[..1].to_owned()).or_default() += 1;
    }
    let double = first.iter().find(|(_, count)| **count > 1).unwrap().0;
    let found = room.images.get(double).await;
    assert!(matches!(found, Err(Error::AmbiguousId(_))), "{found:?}");
}

#[tokio::test]
async fn lost_snapshots_are_made_again() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    let image = room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    room.store.lose_snapshots();
    room.images.inner.ensure_unpacked(&image, "testfs").await.unwrap();
    assert_eq!(room.store.census().2, 3);
    room.store.lose_snapshots();
    room.store.lose_blob(&parts.layers[1]);
    let error = room.images.inner.ensure_unpacked(&image, "testfs").await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { id } if id == image.id));
    assert_eq!(room.images.list(None).await.unwrap(), [], "it cannot be run");
    room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    assert_eq!(room.store.census().1, 5, "a pull repairs it");
    assert_eq!(room.store.census().4, 0);
}

#[tokio::test]
async fn a_local_image_is_made_once() {
    let room = room();
    let config = ImageConfig { entrypoint: vec!["/pause".into()], ..Default::default() };
    let layer = Bytes::from_static(b"a layer");
    let name = "podbay.local/pause:1";
    let image = room.images.import(name, layer.clone(), &config, true).await.unwrap();
    assert_eq!((image.repo_tags.as_slice(), image.pinned), (&[name.to_owned()][..], true));
    assert_eq!(
        (image.config.clone(), image.chain_id.clone()),
        (config.clone(), Some(Digest::of(&layer)))
    );
    assert_eq!(room.images.list(None).await.unwrap(), std::slice::from_ref(&image));
    let leases = room.store.leases_made.load(Ordering::Relaxed);
    assert_eq!(room.images.import(name, layer.clone(), &config, true).await.unwrap(), image);
    assert_eq!(room.store.leases_made.load(Ordering::Relaxed), leases, "nothing to do");
    let (_, blobs, snapshots, ingests, left) = room.store.census();
    assert_eq!((blobs, snapshots, ingests, left), (3, 1, 0, 0));
    assert!(!room.store.labels(&image.id).is_empty(), "the configuration holds the snapshot");
    let elsewhere = super::room();
    let same = elsewhere.images.import(name, layer, &config, true).await.unwrap();
    assert_eq!(same.id, image.id, "the same input makes the same image");
}

#[tokio::test]
async fn configured_images_are_pinned() {
    let (content, _) = three_layers();
    let registry = Registry::start(content).await;
    let room = room_with(|options| options.pinned = vec![registry.name("app:v1")]);
    assert!(room.images.pull(&registry.name("app:v1"), None).await.unwrap().pinned);
    // Pinned later, by a changed configuration.
    let image = room_with(|options| options.pinned = vec!["app:1".into()]);
    let config = ImageConfig::default();
    assert!(!image.images.import("other:1", "x".into(), &config, false).await.unwrap().pinned);
    let name = "docker.io/library/app:1";
    assert!(image.images.import(name, "y".into(), &config, false).await.unwrap().pinned);
}

#[tokio::test]
async fn each_handler_has_its_snapshotter() {
    let (content, _) = three_layers();
    let registry = Registry::start(content).await;
    let room = room_with(|options| {
        let handlers = [("runc", "testfs"), ("micro", "otherfs")];
        options.handlers = handlers.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    });
    let name = registry.name("app:v1");
    let error = room.images.pull_for("none", &name, None).await.unwrap_err();
    assert!(matches!(error, Error::UnknownHandler(_)), "{error}");
    assert!(registry.requests().is_empty(), "it is refused before anything is done");
    assert!(room.images.get_for("none", &name).await.is_err());

    let image = room.images.pull_for("runc", &name, None).await.unwrap();
    assert_eq!(room.images.get_for("", &name).await.unwrap().as_ref(), Some(&image));
    assert_eq!(room.images.get_for("micro", &name).await.unwrap(), None, "not unpacked there");
    let (blobs, layers) = (registry.count("/blobs/"), room.store.census().2);
    room.images.pull_for("micro", &name, None).await.unwrap();
    assert_eq!(registry.count("/blobs/"), blobs, "nothing is downloaded twice");
    assert_eq!(room.store.census().2, 2 * layers);
    assert_eq!(room.images.get_for("micro", &name).await.unwrap(), Some(image.clone()));
    assert_eq!(room.images.list(None).await.unwrap().len(), 1);
    let labels = room.store.labels(&image.id);
    for snapshotter in ["testfs", "otherfs"] {
        let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        assert_eq!(labels[&label], image.chain_id.as_ref().unwrap().as_str());
    }
    let places: Vec<_> =
        room.images.fs_info().await.unwrap().into_iter().map(|info| info.mountpoint).collect();
    assert_eq!(places, ["/snapshots/testfs", "/snapshots/otherfs"].map(PathBuf::from));
    let document = room.images.document(&image).await.unwrap();
    assert_eq!(document["config"]["User"], "1000");
}

/// A runtime class may be prepared before its snapshotter is installed.
#[tokio::test]
async fn disk_use_is_told_without_the_snapshotter_of_another_handler() {
    let handlers = |options: &mut Options| {
        let all = [("runc", "testfs"), ("kata", "none"), ("micro", "otherfs")];
        options.handlers = all.map(|(name, used)| (name.into(), used.into())).into();
    };
    let infos = room_with(handlers).images.fs_info().await.unwrap();
    let places: Vec<_> = infos.into_iter().map(|info| info.mountpoint).collect();
    assert_eq!(places, ["/snapshots/testfs", "/snapshots/otherfs"].map(PathBuf::from));
    let broken = room_with(|options| options.snapshotter = "none".into());
    assert!(broken.images.fs_info().await.is_err(), "that of the default one is needed");
}

#[tokio::test(start_paused = true)]
async fn disk_use_counts_all_and_is_kept_for_a_while() {
    let room = room();
    let empty = room.images.fs_info().await.unwrap();
    assert_eq!((empty[0].bytes, empty[0].inodes), (0, 7));
    assert_eq!(empty[0].mountpoint, std::path::Path::new("/snapshots/testfs"));
    let config = ImageConfig::default();
    room.images.import("x", "layer".into(), &config, false).await.unwrap();
    let full = room.images.fs_info().await.unwrap();
    assert!(full[0].bytes > 1000 && full[0].at >= empty[0].at, "an image is counted at once");
    room.store.lose_snapshots();
    assert_eq!(room.images.fs_info().await.unwrap(), full);
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(room.images.fs_info().await.unwrap()[0].bytes < full[0].bytes);
}
