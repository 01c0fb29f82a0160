//! Tests of loading archives.

use futures::StreamExt as _;
use serde_json::json;

use super::registry::gzip;
use super::tar::{Layout, Tar, docker};
use super::*;

pub const NAME: &str = "registry.example/app:v1";

/// An upload in pieces of this size.
pub fn upload(bytes: &[u8], piece: usize) -> Upload {
    let pieces: Vec<_> = bytes.chunks(piece).map(|it| Ok(Bytes::copy_from_slice(it))).collect();
    futures::stream::iter(pieces).boxed()
}

pub async fn load(room: &Room, bytes: &[u8]) -> Result<Vec<Loaded>, Error> {
    room.images.load(upload(bytes, 10_000), LoadOptions::default()).await
}

fn names(names: &[&str]) -> LoadOptions {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    LoadOptions { names, ..LoadOptions::default() }
}

/// One image with three layers, named [`NAME`].
pub fn one_image() -> (Content, Parts, Layout) {
    let (content, parts) = three_layers();
    let layout = Layout::of(&content).named(&content, &parts.manifest, NAME);
    (content, parts, layout)
}

#[tokio::test]
async fn a_layout_becomes_an_image_that_is_held_by_its_names() {
    let (_, parts, layout) = one_image();
    let room = room();
    let loaded = load(&room, &layout.pack()).await.unwrap();
    let id = parts.config.clone();
    let want = Loaded { id, names: vec![NAME.to_owned()], target: parts.manifest.clone() };
    assert_eq!(loaded, [want]);
    let (names, blobs, snapshots, ingests, leases) = room.store.census();
    assert_eq!(names, [NAME, parts.config.as_str()]);
    assert_eq!((blobs, snapshots, ingests, leases), (5, 3, 0, 0), "labels hold all content");
    let image = room.images.get(NAME).await.unwrap().unwrap();
    assert_eq!((image.id.clone(), image.repo_tags), (parts.config, vec![NAME.to_owned()]));
    let record = room.store.record(NAME).unwrap();
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");
    assert!(record.target.annotations.is_empty(), "those of the archive are its own");
    room.images.remove(NAME).await.unwrap();
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn pieces_and_compression_make_no_difference() {
    let (_, parts, layout) = one_image();
    let plain = layout.pack();
    let packed = gzip(&plain);
    // Two gzip members, as parallel compressors write them.
    let half = plain.len() / 2;
    let members = [&gzip(&plain[..half])[..], &gzip(&plain[half..])].concat();
    for bytes in [&plain[..], &packed, &members] {
        for piece in [1, 511, 513, 1 << 20] {
            let room = room();
            let upload = upload(bytes, piece);
            let loaded = room.images.load(upload, LoadOptions::default()).await.unwrap();
            assert_eq!(loaded[0].id, parts.config, "pieces of {piece}");
            assert_eq!(room.store.census().1, 5);
        }
    }
}

#[tokio::test]
async fn a_docker_archive_gets_a_manifest() {
    let (content, parts) = three_layers();
    let tar = docker(&content, &parts, &["app:v1", "other.example/app:v2"]).end();
    let room = room();
    let loaded = load(&room, &tar).await.unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/app:v1", "other.example/app:v2"]);
    assert_eq!(loaded[0].id, parts.config, "the configuration is as it was");
    let (_, blobs, snapshots, ingests, leases) = room.store.census();
    // Manifest, configuration, two plain layers and a compressed one.
    assert_eq!((blobs, snapshots, ingests, leases), (5, 3, 0, 0));
    let again = load(&room, &tar).await.unwrap();
    assert_eq!(again, loaded, "the same archive makes the same image");
    let bytes = room.store.bytes(&loaded[0].target);
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let kinds: Vec<_> =
        (0..3).map(|n| manifest["layers"][n]["mediaType"].as_str().unwrap()).collect();
    let plain = "application/vnd.oci.image.layer.v1.tar";
    assert_eq!(kinds, [plain, plain, &format!("{plain}+gzip")]);
}

#[tokio::test]
async fn an_archive_of_both_kinds_is_a_layout() {
    let (content, parts, layout) = one_image();
    let docker = docker(&content, &parts, &["never:1"]);
    let both = [&docker.cut()[..], &layout.pack()].concat();
    assert_eq!(load(&room(), &both).await.unwrap()[0].target, parts.manifest);
}

#[tokio::test]
async fn names_come_from_annotations_or_the_caller() {
    let (content, parts) = three_layers();
    let whole = "org.opencontainers.image.ref.name";
    let by = "io.containerd.image.name";
    for (annotations, want) in [
        (json!({ by: "app", whole: "ignored:1" }), &["docker.io/library/app:latest"][..]),
        (json!({ whole: "registry.example/app:v1" }), &[NAME]),
        (json!({ whole: "app:v1" }), &["docker.io/library/app:v1"]),
        (json!({ whole: "v1" }), &[]),
        (json!({}), &[]),
    ] {
        let layout = Layout::of(&content).entry(&content, &parts.manifest, annotations.clone());
        let room = room();
        let loaded = load(&room, &layout.pack()).await.unwrap();
        assert_eq!(loaded[0].names, want, "{annotations}");
        let known = room.images.get(parts.config.as_str()).await.unwrap();
        assert!(known.is_some(), "its id names it: {annotations}");
        let renamed = room.images.load(upload(&layout.pack(), 99), names(&["mine:1"])).await;
        assert_eq!(renamed.unwrap()[0].names, ["docker.io/library/mine:1"]);
    }
    let by_digest = format!("registry.example/app@{}", parts.manifest);
    let layout = Layout::of(&content).named(&content, &parts.manifest, &by_digest);
    let layout = layout.named(&content, &parts.manifest, NAME);
    let loaded = load(&room(), &layout.pack()).await.unwrap();
    assert_eq!(loaded[0].names, [by_digest.as_str(), NAME], "one image, both names");
}

#[tokio::test]
async fn several_images_come_together_and_take_no_names() {
    let (mut content, one) = three_layers();
    let two = content.image("v2", &[b"one", b"four"]);
    let layout = Layout::of(&content).named(&content, &one.manifest, NAME).named(
        &content,
        &two.manifest,
        "app:v2",
    );
    let room = room();
    let refused = room.images.load(upload(&layout.pack(), 99), names(&["mine:1"])).await;
    assert!(matches!(refused, Err(Error::NamesForMany(2))));
    assert!(room.store.is_empty());
    let loaded = load(&room, &layout.pack()).await.unwrap();
    assert_eq!([&loaded[0].id, &loaded[1].id], [&one.config, &two.config]);
    assert_eq!(room.store.census().2, 4, "the first layer is shared");
}

#[tokio::test]
async fn the_form_for_this_host_is_taken() {
    let (mut content, parts) = three_layers();
    let index = content.index("multi", &parts.manifest);
    let layout = Layout::of(&content).named(&content, &index, NAME);
    let room = room();
    let loaded = load(&room, &layout.pack()).await.unwrap();
    assert_eq!((&loaded[0].id, &loaded[0].target), (&parts.config, &index));
    assert_eq!(room.store.census().1, 6, "the index is kept too");

    // Platform variants of one image side by side in index.json.
    let other = content.image_for("s390x", "other", &[b"big endian"]);
    let layout = Layout::of(&content).named(&content, &other.manifest, NAME).named(
        &content,
        &parts.manifest,
        NAME,
    );
    let mut flat = layout.clone();
    flat.entries[0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    flat.entries[1]["platform"] =
        json!({"os": "linux", "architecture": Platform::host().architecture});
    assert_eq!(load(&room, &flat.pack()).await.unwrap()[0].target, parts.manifest);

    let only = Layout::of(&content).named(&content, &other.manifest, NAME);
    let refused = load(&room, &only.pack()).await;
    assert!(matches!(refused, Err(Error::NoPlatform { .. })), "{refused:?}");
}

#[tokio::test]
async fn long_names_are_read_in_both_manners() {
    let (content, parts) = three_layers();
    let long = format!("{}/config.json", "d".repeat(200));
    let config = &content.blobs[parts.config.as_str()];
    let layers: Vec<_> = (0..3).map(|n| format!("{n}.tar.gz")).collect();
    let manifest = json!([{ "Config": long, "RepoTags": null, "Layers": layers }]).to_string();
    let layers = |mut tar: Tar| {
        for (n, layer) in parts.layers.iter().enumerate() {
            tar = tar.file(&format!("{n}.tar.gz"), &content.blobs[layer.as_str()]);
        }
        tar.file("manifest.json", manifest.as_bytes()).end()
    };
    let name = [long.as_bytes(), b"\0"].concat();
    let gnu = Tar::default().entry(::tar::EntryType::GNULongName, "././@LongLink", "", &name);
    let size = config.len().to_string();
    let pax = Tar::default().pax(&[
        ("mtime", "1.5"),
        ("SCHILY.xattr.a", "\n1 size=\n"),
        ("path", &long),
        ("size", &size),
    ]);
    for tar in [gnu, pax] {
        let loaded = load(&room(), &layers(tar.file("short", config))).await.unwrap();
        assert_eq!((loaded[0].id.clone(), loaded[0].names.len()), (parts.config.clone(), 0));
    }
}

#[tokio::test]
async fn what_the_store_has_is_used_but_stands_in_for_nothing() {
    let (content, parts, layout) = one_image();
    let registry = Registry::start(content.clone()).await;
    let room = room();
    let pulled = room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    let partial = layout.clone().without(&parts.layers[1]);
    let refused = load(&room, &partial.pack()).await.unwrap_err();
    assert!(refused.to_string().contains("is missing"), "{refused}");
    assert_eq!(load(&room, &layout.pack()).await.unwrap()[0].id, pulled.id);
    let image = room.images.get(NAME).await.unwrap().unwrap();
    assert_eq!(image.repo_tags.len(), 2);
}
