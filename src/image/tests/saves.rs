//! Tests of saving images.

use std::io::Read as _;

use futures::{StreamExt as _, TryStreamExt as _};

use super::loads::{NAME, load, one_image};
use super::tar::Layout;
use super::*;

async fn save(room: &Room, names: &[&str]) -> Result<Vec<u8>, Error> {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let saved = room.images.save(names).await?;
    let bytes = saved.bytes.try_collect::<Vec<_>>().await?.concat();
    assert_eq!(bytes.len() as u64, saved.total);
    Ok(bytes)
}

/// The files in an archive, read with an independent reader.
fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut read = BTreeMap::new();
    for entry in ::tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            assert!(read.insert(path, bytes).is_none(), "an entry twice");
        }
    }
    read
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> serde_json::Value {
    serde_json::from_slice(&files[name]).unwrap()
}

/// Waits for the end of the task that held the blobs.
async fn let_go(room: &Room) {
    until("the lease has ended", || room.store.census().4 == 0).await;
}

#[tokio::test]
async fn what_is_saved_can_be_loaded_and_read_by_others() {
    let (_, parts, layout) = one_image();
    let room = room();
    let loaded = load(&room, &layout.pack()).await.unwrap();
    let archive = save(&room, &[NAME]).await.unwrap();
    let_go(&room).await;
    let files = files(&archive);
    assert_eq!(files.len(), 3 + 5);
    assert_eq!(json(&files, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let entry = json(&files, "index.json")["manifests"][0].clone();
    assert_eq!(entry["digest"], parts.manifest.as_str());
    assert_eq!(entry["annotations"]["io.containerd.image.name"], NAME);
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "v1");
    let docker = json(&files, "manifest.json")[0].clone();
    assert_eq!(docker["RepoTags"][0], NAME);
    assert_eq!(docker["Config"], format!("blobs/sha256/{}", parts.config.hex()));
    for layer in docker["Layers"].as_array().unwrap() {
        assert!(files.contains_key(layer.as_str().unwrap()));
    }
    for (path, bytes) in &files {
        if let Some(hex) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(Digest::of(bytes).hex(), hex);
        }
    }
    assert_eq!(save(&room, &[NAME]).await.unwrap(), archive, "always the same bytes");
    room.images.remove(NAME).await.unwrap();
    let_go(&room).await;
    assert!(room.store.is_empty());
    assert_eq!(load(&room, &archive).await.unwrap(), loaded);
    assert_eq!(room.store.census().1, 5);
}

#[tokio::test]
async fn names_go_with_what_was_asked_for() {
    let (content, parts, layout) = one_image();
    let layout = layout.named(&content, &parts.manifest, "second:2");
    let room = room();
    load(&room, &layout.pack()).await.unwrap();
    let names = |archive: Vec<u8>| {
        let files = files(&archive);
        let tags = json(&files, "manifest.json")[0]["RepoTags"].as_array().unwrap().clone();
        tags.into_iter().map(|tag| tag.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let second = "docker.io/library/second:2";
    assert_eq!(names(save(&room, &["second:2"]).await.unwrap()), [second]);
    let by_id = [&parts.config.hex()[..12]];
    assert_eq!(names(save(&room, &by_id).await.unwrap()), [second, NAME]);
    let twice = save(&room, &[NAME, "second:2", NAME]).await.unwrap();
    assert_eq!(files(&twice).len(), 3 + 5, "each blob once");
    assert_eq!(names(twice), [NAME, second]);
    let missing = save(&room, &[NAME, "absent:1"]).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(ref name) if name == "absent:1"), "{missing:?}");
    let_go(&room).await;
}

#[tokio::test]
async fn an_index_goes_whole_or_not_at_all() {
    let (mut content, parts) = three_layers();
    let index = content.index("multi", &parts.manifest);
    let by_digest = format!("registry.example/app@{index}");
    let layout = Layout::of(&content).named(&content, &index, NAME);
    let layout = layout.named(&content, &index, &by_digest);
    let room = room();
    load(&room, &layout.pack()).await.unwrap();
    let archive = save(&room, &[NAME, &by_digest]).await.unwrap();
    let entries = json(&files(&archive), "index.json")["manifests"].clone();
    assert_eq!(entries[0]["digest"], parts.manifest.as_str(), "the other form is not here");
    assert_eq!(entries.as_array().unwrap().len(), 1, "the digest of the index is no name of it");
    let_go(&room).await;

    // The other platform's blobs are stored too, as another client may have pulled them.
    let other = content.image_for("s390x", "other", &[b"big endian"]);
    let both = content.index_of("both", &[&other.manifest, &parts.manifest]);
    let layout = Layout::of(&content).named(&content, &both, NAME).without(&index);
    let room = super::room();
    load(&room, &layout.pack()).await.unwrap();
    let lease = room.store.keep_all(&layout.files).await;
    let archive = save(&room, &[NAME]).await.unwrap();
    let files = files(&archive);
    assert_eq!(json(&files, "index.json")["manifests"][0]["digest"], both.as_str());
    assert_eq!(files.len(), 3 + 6 + 3, "both images with their index");
    crate::backend::Images::release(&*room.store, &lease, true).await.unwrap();
    until("the lease has ended", || room.store.census().4 == 0).await;
}

#[tokio::test]
async fn an_incomplete_image_and_a_reader_that_leaves() {
    let (_, parts, layout) = one_image();
    let room = room();
    load(&room, &layout.pack()).await.unwrap();
    let mut saved = room.images.save(vec![NAME.to_owned()]).await.unwrap();
    saved.bytes.next().await.unwrap().unwrap();
    assert_eq!(room.store.census().4, 1, "the blobs are held while somebody reads");
    drop(saved);
    let_go(&room).await;

    // Removed while being saved: it can still be read to its end.
    let saved = room.images.save(vec![NAME.to_owned()]).await.unwrap();
    room.images.remove(NAME).await.unwrap();
    let bytes = saved.bytes.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!(bytes.len() as u64, saved.total);
    let_go(&room).await;
    assert!(room.store.is_empty());

    load(&room, &layout.pack()).await.unwrap();
    room.store.lose_blob(&parts.layers[1]);
    let error = save(&room, &[NAME]).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error:?}");
    let_go(&room).await;
}

#[tokio::test]
async fn a_reader_that_stands_still_is_not_waited_for_for_ever() {
    let (_, _, layout) = one_image();
    let room = room_with(|options| options.no_progress_timeout = Duration::from_secs(1));
    load(&room, &layout.pack()).await.unwrap();
    let saved = room.images.save(vec![NAME.to_owned()]).await.unwrap();
    let_go(&room).await;
    let read: Vec<_> = saved.bytes.collect().await;
    assert!(read.last().unwrap().is_err(), "what is missing is told");
}
