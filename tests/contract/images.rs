//! The contract of [`Images`].

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use podbay::backend::{ErrorKind, ImageRecord, Images, LayerUnpack, Lease};
use podbay::model::StringMap;
use podbay::model::image::{ChainId, Descriptor, Digest};

use super::kind;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OTHER: &str = "application/octet-stream";

/// Everything at once. `snapshotter` is one that works.
pub async fn images_contract(images: &Arc<dyn Images>, snapshotter: &str) {
    leases(images).await;
    blobs(images).await;
    broken_blobs(images).await;
    resumed_blobs(images).await;
    unnamed_blobs(images).await;
    read_blobs(images).await;
    names(images).await;
    layers(images, snapshotter).await;
    images.content_usage().await.unwrap();
    images.snapshots_usage(snapshotter).await.unwrap();
}

/// Content that nobody has stored before.
fn new_blob() -> (Bytes, Descriptor) {
    described(Bytes::from(format!("contract blob {:032x}", rand::random::<u128>())), OTHER)
}

fn described(bytes: Bytes, media_type: &str) -> (Bytes, Descriptor) {
    let descriptor = Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        annotations: StringMap::new(),
    };
    (bytes, descriptor)
}

fn ingest(blob: &Descriptor) -> String {
    format!("layer-{}", blob.digest)
}

fn label(key: &str, value: &str) -> StringMap {
    [(key.to_owned(), value.to_owned())].into()
}

async fn store(images: &Arc<dyn Images>, lease: &Lease, bytes: &Bytes, blob: &Descriptor) {
    let mut writer = images.write_blob(lease, &ingest(blob), blob).await.unwrap();
    assert_eq!(writer.offset(), 0);
    writer.write(bytes.clone()).await.unwrap();
    writer.commit(&label("contract", "yes")).await.unwrap();
}

async fn leases(images: &Arc<dyn Images>) {
    let (one, two) = (images.lease().await.unwrap(), images.lease().await.unwrap());
    assert_ne!(one, two);
    let listed = images.list_leases().await.unwrap();
    assert!(listed.contains(&one) && listed.contains(&two));
    for lease in [&one, &two] {
        images.release(lease, false).await.unwrap();
        images.release(lease, true).await.expect("gone is fine");
    }
    let listed = images.list_leases().await.unwrap();
    assert!(!listed.contains(&one) && !listed.contains(&two));
}

async fn blobs(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    let (bytes, blob) = new_blob();
    let digest = &blob.digest;
    assert_eq!(images.blob(digest, Some(&lease)).await.unwrap(), None);
    assert_eq!(kind(images.read_blob(digest, 1000).await), ErrorKind::NotFound);
    store(images, &lease, &bytes, &blob).await;

    let info = images.blob(digest, Some(&lease)).await.unwrap().expect("stored");
    assert_eq!(info.size, bytes.len() as u64);
    assert_eq!(info.labels.get("contract"), Some(&"yes".to_owned()));
    assert_eq!(images.read_blob(digest, bytes.len()).await.unwrap(), bytes);
    let small = images.read_blob(digest, bytes.len() - 1).await;
    assert_eq!(kind(small), ErrorKind::InvalidArgument);
    let again = images.write_blob(&lease, &ingest(&blob), &blob).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);

    images.label_blob(digest, &label("more", "1")).await.unwrap();
    images.label_blob(digest, &label("contract", "")).await.unwrap();
    let labels = images.blob(digest, None).await.unwrap().expect("stored").labels;
    assert_eq!(labels.get("more"), Some(&"1".to_owned()));
    assert!(!labels.contains_key("contract"));

    images.release(&lease, true).await.unwrap();
    assert_eq!(images.blob(digest, None).await.unwrap(), None, "nothing holds it any more");
}

async fn broken_blobs(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    let (bytes, blob) = new_blob();
    let mut flipped = bytes.to_vec();
    flipped[0] ^= 1;
    for wrong in [Bytes::from(flipped), bytes.slice(1..)] {
        let mut writer = images.write_blob(&lease, &ingest(&blob), &blob).await.unwrap();
        writer.truncate().await.unwrap();
        writer.write(wrong).await.unwrap();
        let refused = writer.commit(&StringMap::new()).await;
        assert_eq!(kind(refused), ErrorKind::FailedPrecondition);
        assert_eq!(images.blob(&blob.digest, None).await.unwrap(), None, "a bad blob is visible");
    }
    let writer = images.write_blob(&lease, &ingest(&blob), &blob).await.unwrap();
    writer.abort().await.unwrap();
    store(images, &lease, &bytes, &blob).await;
    images.release(&lease, true).await.unwrap();
}

async fn resumed_blobs(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    let (bytes, blob) = new_blob();
    let mut first = images.write_blob(&lease, &ingest(&blob), &blob).await.unwrap();
    let second = images.write_blob(&lease, &ingest(&blob), &blob).await;
    assert_eq!(kind(second), ErrorKind::Unavailable, "one writer at a time");
    first.write(bytes.slice(..10)).await.unwrap();
    drop(first);
    let mut resumed = images.write_blob(&lease, &ingest(&blob), &blob).await.unwrap();
    // What was written may still have been in flight when the writer was dropped.
    let offset = usize::try_from(resumed.offset()).unwrap();
    assert!(offset <= 10, "{offset}");
    resumed.write(bytes.slice(offset..)).await.unwrap();
    resumed.commit(&StringMap::new()).await.unwrap();
    assert_eq!(images.read_blob(&blob.digest, 1000).await.unwrap(), bytes);
    images.release(&lease, true).await.unwrap();
}

async fn unnamed_blobs(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    let (bytes, blob) = new_blob();
    let name = format!("unnamed-{}", blob.digest.hex());
    for _ in 0..2 {
        // The second time it is there already.
        let mut writer = images.write_unnamed(&lease, &name, blob.size).await.unwrap();
        assert_eq!(writer.offset(), 0);
        writer.write(bytes.clone()).await.unwrap();
        writer.expect(&blob.digest);
        writer.commit(&StringMap::new()).await.unwrap();
        assert_eq!(images.read_blob(&blob.digest, 1000).await.unwrap(), bytes);
    }
    let (other, _) = new_blob();
    let mut wrong = images.write_unnamed(&lease, &name, blob.size).await.unwrap();
    wrong.write(other.clone()).await.unwrap();
    // The digest of something else that is not there.
    let (_, absent) = new_blob();
    wrong.expect(&absent.digest);
    assert_eq!(kind(wrong.commit(&StringMap::new()).await), ErrorKind::FailedPrecondition);
    assert_eq!(images.blob(&absent.digest, None).await.unwrap(), None);
    let mut given_up = images.write_unnamed(&lease, &name, blob.size).await.unwrap();
    given_up.truncate().await.unwrap();
    given_up.write(other).await.unwrap();
    given_up.abort().await.unwrap();
    images.release(&lease, true).await.unwrap();
    assert_eq!(images.blob(&blob.digest, None).await.unwrap(), None, "only the lease held it");
}

async fn read_blobs(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    for length in [0, 1, 3 << 20] {
        let mut bytes = vec![0; length];
        rand::fill(&mut bytes[..]);
        let (bytes, blob) = described(Bytes::from(bytes), OTHER);
        assert_eq!(open_kind(images, &blob).await, Err(ErrorKind::NotFound));
        let mut writer = images.write_blob(&lease, &ingest(&blob), &blob).await.unwrap();
        if !bytes.is_empty() {
            writer.write(bytes.clone()).await.unwrap();
        }
        writer.commit(&StringMap::new()).await.unwrap();
        let pieces = images.open_blob(&blob.digest).await.unwrap();
        let read: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert!(read.concat() == bytes, "{length} bytes come back as they were");
        assert!(length < 2 << 20 || read.len() > 1, "large blobs come in pieces");
    }
    images.release(&lease, true).await.unwrap();
}

async fn open_kind(images: &Arc<dyn Images>, blob: &Descriptor) -> Result<(), ErrorKind> {
    images.open_blob(&blob.digest).await.map(drop).map_err(|error| error.kind)
}

async fn names(images: &Arc<dyn Images>) {
    let lease = images.lease().await.unwrap();
    let (bytes, blob) = new_blob();
    let (other_bytes, other) = new_blob();
    store(images, &lease, &bytes, &blob).await;
    store(images, &lease, &other_bytes, &other).await;
    let name = format!("contract.example/{:08x}:1", rand::random::<u32>());
    assert_eq!(images.image(&name).await.unwrap(), None);
    let record = ImageRecord { name: name.clone(), target: blob.clone(), labels: label("a", "1") };
    images.put_image(&record, Some(&lease)).await.unwrap();
    assert_eq!(images.image(&name).await.unwrap(), Some(record));

    let moved = ImageRecord { name: name.clone(), target: other.clone(), labels: label("b", "2") };
    images.put_image(&moved, Some(&lease)).await.unwrap();
    assert_eq!(images.image(&name).await.unwrap().as_ref(), Some(&moved));
    assert!(images.list_images().await.unwrap().contains(&moved));

    images.release(&lease, true).await.unwrap();
    assert_eq!(images.blob(&blob.digest, None).await.unwrap(), None, "the name left it");
    assert!(images.blob(&other.digest, None).await.unwrap().is_some(), "the name holds it");
    images.delete_image(&name, true).await.unwrap();
    images.delete_image(&name, true).await.expect("gone is fine");
    assert_eq!(images.image(&name).await.unwrap(), None);
    assert_eq!(images.blob(&other.digest, None).await.unwrap(), None);
}

/// A compressed layer with one file, and its diff id.
fn new_layer() -> (Bytes, Descriptor, Digest) {
    let content = format!("{:032x}", rand::random::<u128>());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "contract.txt", content.as_bytes()).unwrap();
    let plain = archive.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let (bytes, blob) = described(Bytes::from(gzip.finish().unwrap()), LAYER);
    (bytes, blob, Digest::of(&plain))
}

async fn layers(images: &Arc<dyn Images>, snapshotter: &str) {
    let lease = images.lease().await.unwrap();
    let (lower_bytes, lower, lower_diff) = new_layer();
    let (upper_bytes, upper, upper_diff) = new_layer();
    store(images, &lease, &lower_bytes, &lower).await;
    store(images, &lease, &upper_bytes, &upper).await;
    let below: ChainId = lower_diff.clone();
    let above: ChainId = Digest::of(format!("{lower_diff} {upper_diff}").as_bytes());
    let empty = StringMap::new();
    let bottom = LayerUnpack {
        lease: &lease,
        snapshotter,
        layer: &lower,
        parent: None,
        chain: &below,
        diff_id: &lower_diff,
        labels: &empty,
    };
    let top = LayerUnpack {
        layer: &upper,
        parent: Some(&below),
        chain: &above,
        diff_id: &upper_diff,
        ..bottom.clone()
    };
    assert!(!images.has_chain(snapshotter, &below, None).await.unwrap());
    assert_eq!(kind(images.unpack(top.clone()).await), ErrorKind::NotFound, "parent missing");
    let wrong = LayerUnpack { diff_id: &upper_diff, ..bottom.clone() };
    assert_eq!(kind(images.unpack(wrong).await), ErrorKind::FailedPrecondition);
    assert!(!images.has_chain(snapshotter, &below, None).await.unwrap(), "a bad layer is there");

    images.unpack(bottom.clone()).await.unwrap();
    images.unpack(bottom).await.expect("existing is success");
    images.unpack(top).await.unwrap();
    assert!(images.has_chain(snapshotter, &above, Some(&lease)).await.unwrap());
    assert!(images.has_chain(snapshotter, &below, Some(&lease)).await.unwrap());

    images.release(&lease, true).await.unwrap();
    let other = images.lease().await.unwrap();
    images.release(&other, true).await.unwrap();
    assert!(!images.has_chain(snapshotter, &above, None).await.unwrap(), "nothing holds it");
}
