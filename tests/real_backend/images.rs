//! Blobs, layers, names, leases.

use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::tonic::Request;
use containerd_client::with_namespace;
use futures::StreamExt;
use podbay::backend::{ErrorKind, FsUsage, ImageRecord, Images, LayerUnpack};
use podbay::model::StringMap;
use podbay::model::image::Digest;

use crate::image::{Blob, TestImage};
use crate::rig::{NAMESPACE, Rig, SNAPSHOTTER};

/// Bytes of several chunks.
fn large() -> Blob {
    let bytes = (0..1_500_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    Blob::new("application/octet-stream", bytes)
}

fn labels(pairs: &[(&str, &str)]) -> StringMap {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub async fn a_blob_is_written_and_read(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let blob = large();
    let digest = &blob.descriptor.digest;
    assert_eq!(images.blob(digest, None).await.unwrap(), None);
    let missing = images.read_blob(digest, 10).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);

    let mut writer = images.write_blob(&lease, "layer-x", &blob.descriptor).await.unwrap();
    for part in blob.bytes.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    assert_eq!(writer.offset(), blob.descriptor.size);
    assert_eq!(images.blob(digest, None).await.unwrap(), None, "visible before its commit");
    writer.commit(&labels(&[("one", "1"), ("two", "2")])).await.unwrap();

    let info = images.blob(digest, None).await.unwrap().unwrap();
    assert_eq!(info.size, blob.descriptor.size);
    assert_eq!(info.labels.get("one").map(String::as_str), Some("1"));
    assert_eq!(images.read_blob(digest, blob.bytes.len()).await.unwrap(), blob.bytes);
    let over = images.read_blob(digest, blob.bytes.len() - 1).await.unwrap_err();
    assert_eq!(over.kind, ErrorKind::InvalidArgument);
    let again = images.write_blob(&lease, "layer-x", &blob.descriptor).await.err().unwrap();
    assert_eq!(again.kind, ErrorKind::AlreadyExists);

    images.label_blob(digest, &labels(&[("one", ""), ("three/x.y", "3")])).await.unwrap();
    let info = images.blob(digest, None).await.unwrap().unwrap();
    assert_eq!(info.labels.get("one"), None);
    assert_eq!(info.labels.get("two").map(String::as_str), Some("2"));
    assert_eq!(info.labels.get("three/x.y").map(String::as_str), Some("3"));
    let unknown = images.label_blob(&Digest::of(b"?"), &labels(&[("a", "b")])).await;
    assert_eq!(unknown.unwrap_err().kind, ErrorKind::NotFound);

    let empty = Blob::new("application/octet-stream", Vec::new());
    empty.store(images, &lease, &StringMap::new()).await;
    assert_eq!(images.read_blob(&empty.descriptor.digest, 0).await.unwrap(), Bytes::new());
}

/// What readers do not take may not fill the connection that all blobs share.
pub async fn slow_readers_hold_up_no_writer(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let big = Blob::new("application/octet-stream", vec![7; 8 << 20]);
    big.store(images, &lease, &StringMap::new()).await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut pieces = images.open_blob(&big.descriptor.digest).await.unwrap();
        assert!(!pieces.next().await.unwrap().unwrap().is_empty());
        readers.push(pieces);
    }
    let blob = large();
    let labels = StringMap::new();
    let write = blob.store(images, &lease, &labels);
    tokio::time::timeout(Duration::from_secs(20), write).await.expect("a write beside them");
    let mut rest = 0;
    let mut last = readers.pop().unwrap();
    while let Some(piece) = last.next().await {
        rest += piece.unwrap().len();
    }
    assert!(rest > 0 && rest < 8 << 20, "{rest} bytes after the first piece");
}

pub async fn a_dropped_write_is_resumed(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let blob = large();
    let open = || images.write_blob(&lease, "layer-x", &blob.descriptor);
    let mut writer = open().await.unwrap();
    writer.write(Bytes::copy_from_slice(&blob.bytes[..1_000_000])).await.unwrap();
    drop(writer);

    let mut writer = open().await.unwrap();
    let offset = usize::try_from(writer.offset()).unwrap();
    assert!((1..=1_000_000).contains(&offset), "{offset} bytes were kept");
    // Start over with other bytes, change one's mind, start over again.
    writer.truncate().await.unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(Bytes::from(vec![7; 600_000])).await.unwrap();
    writer.truncate().await.unwrap();
    writer.write(Bytes::copy_from_slice(&blob.bytes[..700_000])).await.unwrap();
    drop(writer);

    let mut writer = open().await.unwrap();
    let offset = usize::try_from(writer.offset()).unwrap();
    assert!((1..=700_000).contains(&offset), "{offset} bytes were kept");
    writer.write(Bytes::copy_from_slice(&blob.bytes[offset..])).await.unwrap();
    writer.commit(&StringMap::new()).await.unwrap();
    let stored = images.read_blob(&blob.descriptor.digest, 2_000_000).await.unwrap();
    assert_eq!(stored, blob.bytes);
}

pub async fn wrong_blobs_leave_nothing(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let blob = large();
    let size = blob.bytes.len();
    let open = || images.write_blob(&lease, "layer-x", &blob.descriptor);
    for wrong in [vec![0; size], blob.bytes[..size - 1].to_vec(), blob.bytes[..10].to_vec()] {
        let mut writer = open().await.unwrap();
        assert_eq!(writer.offset(), 0, "the last one left something");
        writer.write(wrong.into()).await.unwrap();
        let error = writer.commit(&StringMap::new()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error:?}");
        assert_eq!(images.blob(&blob.descriptor.digest, None).await.unwrap(), None);
    }
    let mut writer = open().await.unwrap();
    writer.write(blob.bytes.clone().into()).await.unwrap();
    let error = writer.write(Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "longer than promised");
    writer.abort().await.unwrap();
    let writer = open().await.unwrap();
    assert_eq!(writer.offset(), 0, "an aborted write left something");
    writer.abort().await.unwrap();
}

pub async fn an_ingest_has_one_writer(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let blob = large();
    let mut first = images.write_blob(&lease, "layer-x", &blob.descriptor).await.unwrap();
    let second = images.write_blob(&lease, "layer-x", &blob.descriptor).await.err().unwrap();
    assert_eq!(second.kind, ErrorKind::Unavailable, "{second:?}");
    // The same blob by another way in is done first; the late commit is a success all the same.
    let mut other = images.write_blob(&lease, "layer-y", &blob.descriptor).await.unwrap();
    first.write(blob.bytes.clone().into()).await.unwrap();
    other.write(blob.bytes.clone().into()).await.unwrap();
    other.commit(&StringMap::new()).await.unwrap();
    first.commit(&labels(&[("late", "yes")])).await.unwrap();
    let info = images.blob(&blob.descriptor.digest, None).await.unwrap().unwrap();
    assert_eq!(info.labels.get("late").map(String::as_str), Some("yes"));
}

/// Names of all snapshots, also those that are no roots of ours.
async fn all_snapshots(rig: &Rig) -> Vec<String> {
    let channel = containerd_client::connect(rig.daemon.address()).await.unwrap();
    let all = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters: Vec::new() };
    let request = with_namespace!(all, NAMESPACE);
    let mut stream = SnapshotsClient::new(channel).list(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        names.extend(part.info.into_iter().map(|info| info.name));
    }
    names
}

pub async fn layers_are_unpacked_and_checked(rig: &mut Rig) {
    let images = &rig.backend;
    let image = TestImage::busybox();
    let lease = images.lease().await.unwrap();
    let none = StringMap::new();
    let right = || image.layer_unpack(&lease, &none);
    let missing = images.unpack(right()).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound, "{missing:?}");
    assert_eq!(all_snapshots(rig).await, Vec::<String>::new());

    image.store_blobs(images, &lease).await;
    let other = Digest::of(b"other");
    let wrong = LayerUnpack { diff_id: &other, chain: &other, ..right() };
    let error = images.unpack(wrong).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error:?}");
    let orphan = LayerUnpack { parent: Some(&other), ..right() };
    assert_eq!(images.unpack(orphan).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(all_snapshots(rig).await, Vec::<String>::new(), "a failed unpack left something");
    assert!(!images.has_chain(SNAPSHOTTER, image.chain(), Some(&lease)).await.unwrap());

    let (one, two) = tokio::join!(images.unpack(right()), images.unpack(right()));
    one.and(two).unwrap();
    images.unpack(right()).await.unwrap();
    assert!(images.has_chain(SNAPSHOTTER, image.chain(), Some(&lease)).await.unwrap());
    assert_eq!(all_snapshots(rig).await, [image.chain().to_string()]);
}

pub async fn names_come_move_and_go(rig: &mut Rig) {
    let images = &rig.backend;
    let lease = images.lease().await.unwrap();
    let [old, new] = ["old", "new"].map(|text| Blob::new("text/plain", text.into()));
    for blob in [&old, &new] {
        blob.store(images, &lease, &StringMap::new()).await;
    }
    let record = |blob: &Blob, label: &str| ImageRecord {
        name: TestImage::NAME.into(),
        target: blob.descriptor.clone(),
        labels: labels(&[(label, "1")]),
    };
    assert_eq!(images.image(TestImage::NAME).await.unwrap(), None);
    images.put_image(&record(&old, "a"), Some(&lease)).await.unwrap();
    assert_eq!(images.image(TestImage::NAME).await.unwrap(), Some(record(&old, "a")));
    images.put_image(&record(&new, "b"), None).await.unwrap();
    assert_eq!(images.image(TestImage::NAME).await.unwrap(), Some(record(&new, "b")));
    let bare = ImageRecord { name: new.descriptor.digest.to_string(), ..record(&new, "c") };
    images.put_image(&bare, None).await.unwrap();
    let mut all = images.list_images().await.unwrap();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(all, [record(&new, "b"), bare.clone()]);

    images.delete_image(TestImage::NAME, false).await.unwrap();
    images.delete_image(TestImage::NAME, false).await.unwrap();
    assert_eq!(images.list_images().await.unwrap(), [bare]);
    assert_eq!(images.delete_image("", false).await.unwrap_err().kind, ErrorKind::InvalidArgument);
}

pub async fn leases_and_names_hold_content(rig: &mut Rig) {
    let images = &rig.backend;
    let image = TestImage::busybox();
    let lease = images.lease().await.unwrap();
    assert_eq!(images.list_leases().await.unwrap(), std::slice::from_ref(&lease));
    let loose = Blob::new("text/plain", "loose".into());
    loose.store(images, &lease, &StringMap::new()).await;
    image.store(images).await;
    let there = async |digest: &Digest| images.blob(digest, None).await.unwrap().is_some();
    let unpacked = async || images.has_chain(SNAPSHOTTER, image.chain(), None).await.unwrap();

    images.release(&lease, true).await.unwrap();
    images.release(&lease, true).await.unwrap();
    assert_eq!(images.list_leases().await.unwrap(), []);
    assert!(!there(&loose.descriptor.digest).await, "kept without a lease");
    for blob in [&image.manifest, &image.config, &image.layer] {
        assert!(there(&blob.descriptor.digest).await, "{} was collected", blob.descriptor.digest);
    }
    assert!(unpacked().await);

    // Looked up under a lease, a blob and a chain outlive the name.
    let lease = images.lease().await.unwrap();
    assert!(images.blob(&image.layer.descriptor.digest, Some(&lease)).await.unwrap().is_some());
    assert!(images.has_chain(SNAPSHOTTER, image.chain(), Some(&lease)).await.unwrap());
    images.delete_image(TestImage::NAME, true).await.unwrap();
    assert!(!there(&image.manifest.descriptor.digest).await);
    assert!(there(&image.layer.descriptor.digest).await);
    assert!(unpacked().await);
    images.release(&lease, true).await.unwrap();
    assert!(!there(&image.layer.descriptor.digest).await);
    assert!(!unpacked().await);

    let dead = images.write_blob(&lease, "layer-x", &loose.descriptor).await.err().unwrap();
    assert_eq!(dead.kind, ErrorKind::NotFound, "{dead:?}");
}

pub async fn usage_is_summed(rig: &mut Rig) {
    let images = &rig.backend;
    assert_eq!(images.content_usage().await.unwrap(), FsUsage::default());
    assert_eq!(images.snapshots_usage(SNAPSHOTTER).await.unwrap(), FsUsage::default());
    let image = TestImage::busybox();
    image.store(images).await;
    let blobs = [&image.manifest, &image.config, &image.layer];
    let bytes = blobs.iter().map(|blob| blob.descriptor.size).sum();
    assert_eq!(images.content_usage().await.unwrap(), FsUsage { bytes, inodes: 3 });
    let first = images.snapshots_usage(SNAPSHOTTER).await.unwrap();
    assert!(first.bytes > 500_000 && first.inodes > 8, "{first:?}");
    assert_eq!(images.snapshots_usage(SNAPSHOTTER).await.unwrap(), first);
    let asked = tokio::time::timeout(Duration::from_secs(10), images.snapshots_usage("none")).await;
    assert!(asked.unwrap().is_err(), "an unknown snapshotter");
}
