//! Invalid archives: each is refused with its reason and leaves nothing behind.

use ::tar::EntryType;
use futures::StreamExt as _;
use serde_json::json;

use super::loads::{NAME, load, one_image, upload};
use super::registry::gzip;
use super::tar::{Layout, Tar, docker, record};
use super::*;

async fn refused(what: &str, archive: &[u8], why: &str) {
    let room = room();
    let error = match load(&room, archive).await {
        Err(error @ (Error::BadArchive(_) | Error::NoPlatform { .. })) => error.to_string(),
        other => panic!("{what}: {other:?}"),
    };
    assert!(error.contains(why), "{what}: {error}");
    assert!(room.store.is_empty(), "{what} leaves {:?}", room.store.census());
}

#[tokio::test]
async fn what_is_no_archive() {
    let (_, _, layout) = one_image();
    let good = layout.pack();
    refused("nothing", b"", "it is empty").await;
    refused("text", &b"hello\n".repeat(200), "not a tar archive").await;
    refused("a word", b"hello", "truncated").await;
    refused("zeros", &[0; 10240], "neither an OCI image layout nor").await;
    refused("other files", &Tar::default().file("README", b"hi").end(), "neither an OCI").await;
    refused("zstd", b"\x28\xb5\x2f\xfd\0\0\0\0", "zstd, not gzip").await;
    refused("xz", b"\xfd7zXZ\0\0\0", "xz, not gzip").await;
    let packed = gzip(&good);
    refused("half a gzip", &packed[..packed.len() / 2], "damaged or truncated").await;
    refused("gzip without its sum", &packed[..packed.len() - 8], "damaged or").await;
    let mut wrong = packed.to_vec();
    let at = wrong.len() - 6;
    wrong[at] ^= 1;
    refused("gzip with another sum", &wrong, "damaged").await;
    let more = [&packed[..], b"and more"].concat();
    refused("gzip with a tail", &more, "damaged").await;
    refused("gzip of gzip", &gzip(&packed), "tar archive").await;
    let endless = [&good[..], &vec![0; 17 << 20]].concat();
    refused("a tail without end", &endless, "continues after its end").await;
}

#[tokio::test]
async fn what_is_cut_off_or_changed_anywhere() {
    let (_, _, layout) = one_image();
    let good = layout.pack();
    // Except in the last block, which may be truncated, and the end-of-archive marker.
    for length in (1..good.len() - 3 * 512).step_by(509) {
        let room = room();
        let error = load(&room, &good[..length]).await.unwrap_err();
        assert!(matches!(error, Error::BadArchive(_)), "{length}: {error:?}");
        assert!(room.store.is_empty(), "{length}");
    }
    for at in (0..good.len() - 1024).step_by(97) {
        let mut changed = good.clone();
        changed[at] ^= 1;
        let room = room();
        match load(&room, &changed).await {
            // The padding of a block is ignored.
            Ok(loaded) => assert_eq!(loaded.len(), 1),
            Err(Error::BadArchive(_) | Error::NoPlatform { .. }) => {
                assert!(room.store.is_empty(), "{at}");
            }
            Err(error) => panic!("{at}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn entries_that_lead_elsewhere() {
    let file = |path: &str| Tar::default().file(path, b"x").end();
    refused("a way out", &file("../x"), "leads out").await;
    refused("a way out inside", &file("blobs/../../x"), "leads out").await;
    refused("the root", &file("/etc/passwd"), "is an absolute path").await;
    refused("no name", &file("./"), "an entry that is not a file has data").await;
    refused("a line feed", &file("a\nb"), "control characters").await;
    let link = |path: &str, target: &str| Tar::default().link(path, target).end();
    refused("a link out", &link("a/b", "../../x"), "leads out").await;
    refused("a link to the root", &link("a", "/etc/passwd"), "leads out").await;
    refused("a linked index", &link("index.json", "x"), "is a link").await;
    let blob = format!("blobs/sha256/{}", "a".repeat(64));
    refused("a linked blob", &link(&blob, "x"), "is a link").await;
    for (kind, why) in [
        (EntryType::Link, "hard links"),
        (EntryType::Char, "devices"),
        (EntryType::Fifo, "devices"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::new(b'V'), "unknown type"),
    ] {
        let tar = Tar::default().entry(kind, "x", "y", b"").end();
        refused(&format!("{kind:?}"), &tar, why).await;
    }
    refused("no blob", &file("blobs/sha256/x"), "is not a blob name").await;
    let twice = Tar::default().file("a", b"1").file("./a", b"2").end();
    refused("one name twice", &twice, "twice").await;
}

#[tokio::test]
async fn headers_that_trick() {
    let x = |tar: Tar| tar.file("x", b"x").end();
    let long = |name: &[u8]| Tar::default().entry(EntryType::GNULongName, "L", "", name);
    refused("a long way out", &x(long(b"../x\0")), "leads out").await;
    refused("a name of 4 KiB", &x(long(&[b'a'; 4096])), "larger than").await;
    refused("two long names", &x(long(b"a").raw(&long(b"b").cut())), "described twice").await;
    let pax = |records: &[(&str, &str)]| Tar::default().pax(records);
    refused("a pax way out", &x(pax(&[("path", "../x")])), "leads out").await;
    refused("sparse by pax", &x(pax(&[("GNU.sparse.major", "1")])), "sparse").await;
    refused("a negative size", &x(pax(&[("size", "-1")])), "malformed").await;
    refused("a size beyond", &x(pax(&[("size", "9999999999999999999")])), "malformed").await;
    refused("a size beyond the end", &x(pax(&[("size", "99999999")])), "truncated").await;
    refused("path by pax and GNU", &x(pax(&[("path", "a")]).raw(&long(b"b").cut())), "twice").await;
    let large = record("comment", &"c".repeat(70_000));
    let large = Tar::default().entry(EntryType::XHeader, "x", "", large.as_bytes());
    refused("a pax header of 70 KiB", &x(large), "larger than").await;
    let global = record("path", "a");
    let global = Tar::default().entry(EntryType::XGlobalHeader, "g", "", global.as_bytes());
    refused("one name for all", &x(global), "for all entries").await;
    refused("a note to nobody", &pax(&[("path", "a")]).cut(), "truncated").await;
    let huge = |size| {
        let change = |header: &mut ::tar::Header| header.set_size(size);
        Tar::default().changed(EntryType::Regular, "x", "", b"x", change).end()
    };
    refused("nine exabytes", &huge(u64::MAX), "entry is invalid").await;
    refused("half of that", &huge(i64::MAX as u64), "truncated").await;
    let folder = Tar::default().entry(EntryType::Directory, "d/", "", b"x").end();
    refused("a folder with bytes", &folder, "not a file has data").await;
    let mut many = Tar::default();
    for n in 0..20_001 {
        many = many.entry(EntryType::Directory, &format!("{n}/"), "", b"");
    }
    refused("too many entries", &many.end(), "over 20000 entries").await;
}

#[tokio::test]
async fn layouts_that_lie() {
    let (mut content, parts, layout) = one_image();
    for (what, digest) in [
        ("manifest", &parts.manifest),
        ("configuration", &parts.config),
        ("layer", &parts.layers[1]),
    ] {
        let archive = layout.clone().without(digest).pack();
        refused(&format!("no {what}"), &archive, "is missing").await;
        let mut changed = layout.clone();
        changed.blob(digest)[5] ^= 1;
        refused(&format!("another {what}"), &changed.pack(), "has digest").await;
        let mut longer = layout.clone();
        longer.blob(digest).push(0);
        refused(&format!("a longer {what}"), &longer.pack(), "has digest").await;
    }
    let mut sized = layout.clone();
    sized.entries[0]["size"] = json!(1);
    refused("a wrong size", &sized.pack(), "wrong size").await;
    let mut foreign = layout.clone();
    foreign.entries[0]["digest"] = json!("sha512:00");
    refused("a foreign digest", &foreign.pack(), "sha256").await;
    let none = Layout { entries: vec![], ..layout.clone() };
    refused("no image", &none.pack(), "no image").await;
    for bad in ["../x", "a/UPPER", "a:b:c", "a@sha256:00"] {
        let named = Layout::of(&content).named(&content, &parts.manifest, bad);
        refused(bad, &named.pack(), "invalid image reference").await;
    }
    let other = format!("a@{}", parts.config);
    let named = Layout::of(&content).named(&content, &parts.manifest, &other);
    refused("the name of another digest", &named.pack(), "is not sha256:").await;
    let mut inner = parts.manifest.clone();
    for depth in 0..6 {
        inner = content.index_of(&format!("nested-{depth}"), &[&inner]);
    }
    let nested = Layout::of(&content).named(&content, &inner, NAME);
    refused("indexes in indexes", &nested.pack(), "nested too deep").await;
    let two = content.image("two", &[b"two"]);
    let both = layout.named(&content, &two.manifest, "two:1");
    let mut both = Layout { files: Layout::of(&content).files, ..both };
    both.entries[1]["annotations"] = json!({ "io.containerd.image.name": NAME });
    // The same name for two images of this platform: taken as variants of one image, of which the
    // first is used.
    assert_eq!(load(&room(), &both.pack()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn documents_that_are_none() {
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let pair = |layout: &[u8], index: &[u8]| {
        Tar::default().file("oci-layout", layout).file("index.json", index).end()
    };
    refused("version 2", &pair(br#"{"imageLayoutVersion":"2"}"#, b"{}"), "version 1").await;
    refused("no version", &pair(b"1", b"{}"), "version 1").await;
    refused("no index", &pair(layout, b"[]"), "index.json").await;
    refused("deep", &pair(layout, &[b'['; 100_000]), "index.json").await;
    let large = vec![b' '; (4 << 20) + 1];
    refused("a large index", &pair(layout, &large), "larger than").await;
    let index = Tar::default().file("index.json", b"{}").end();
    refused("an index without a layout", &index, "neither").await;
    let manifest = |text: &str| Tar::default().file("manifest.json", text.as_bytes()).end();
    refused("no list", &manifest("{}"), "not that of a docker archive").await;
    refused("an empty list", &manifest("[]"), "no image").await;
    let missing = r#"[{"Config":"a.json","RepoTags":null,"Layers":[]}]"#;
    refused("no configuration", &manifest(missing), "\"a.json\" is missing").await;
    let outside = r#"[{"Config":"../../etc/passwd","Layers":[]}]"#;
    refused("a way out", &manifest(outside), "is missing").await;
}

#[tokio::test]
async fn docker_archives_that_lie() {
    let (content, parts) = three_layers();
    let looped = docker(&content, &parts, &[]).cut();
    let config = format!("{}.json", parts.config.hex());
    let entry = |layers: &[&str]| {
        json!([{ "Config": config, "RepoTags": ["a:1"], "Layers": layers }]).to_string()
    };
    let with = |layers: &[&str]| {
        Tar::default()
            .file(&config, &content.blobs[parts.config.as_str()])
            .file("a", b"one")
            .file("b", b"two")
            .link("c", "d")
            .link("d", "c")
            .file("manifest.json", entry(layers).as_bytes())
            .end()
    };
    refused("links in a circle", &with(&["a", "b", "c"]), "\"c\" is missing").await;
    refused("a layer too few", &with(&["a", "b"]), "3 diff ids and the manifest 2").await;
    refused("layers in another order", &with(&["b", "a", "a"]), "differs from its diff id").await;
    let twice = [&looped[..], &docker(&content, &parts, &["a:1"]).cut()].concat();
    refused("everything twice", &twice, "twice").await;
    let manifest = json!([
        { "Config": config, "RepoTags": ["a:1"], "Layers": ["1", "2", "3"] },
        { "Config": "other.json", "RepoTags": ["a:1"], "Layers": [] },
    ]);
    let other = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
    let mut tar = Tar::default()
        .file(&config, &content.blobs[parts.config.as_str()])
        .file("other.json", other.to_string().as_bytes());
    for (n, layer) in parts.layers.iter().enumerate() {
        tar = tar.file(&(n + 1).to_string(), &content.blobs[layer.as_str()]);
    }
    let tar = tar.file("manifest.json", manifest.to_string().as_bytes()).end();
    refused("a name for two images", &tar, "two images are named docker.io/library/a:1").await;
}

#[tokio::test]
async fn uploads_that_do_not_come_to_their_end() {
    let (_, _, layout) = one_image();
    let good = layout.pack();
    let start = upload(&good[..good.len() / 2], 1000);
    let broken = futures::stream::once(async { Err(Broken::from("reset by peer")) });
    let room = room();
    let loaded = room.images.load(start.chain(broken).boxed(), LoadOptions::default()).await;
    assert!(matches!(loaded, Err(Error::BrokenOff { .. })), "{loaded:?}");
    assert!(room.store.is_empty());

    let room = room_with(|options| options.no_progress_timeout = Duration::from_millis(50));
    let silent = upload(&good[..good.len() / 2], 1000).chain(futures::stream::pending());
    let loaded = room.images.load(silent.boxed(), LoadOptions::default()).await;
    assert!(matches!(loaded, Err(Error::Stalled { .. })), "{loaded:?}");
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn the_agents_end_and_a_caller_that_leaves() {
    let (_, _, layout) = one_image();
    let good = layout.pack();
    let room = room();
    let silent = upload(&good[..good.len() / 2], 1000).chain(futures::stream::pending());
    let load = room.images.load(silent.boxed(), LoadOptions::default());
    let drain = async {
        until("the load has begun", || room.store.census().4 == 1).await;
        room.tasks.drain(Duration::from_secs(5)).await
    };
    let (loaded, drained) = tokio::join!(load, drain);
    assert!(matches!(loaded, Err(Error::Abandoned)) && drained);
    assert!(room.store.is_empty());

    // A completely sent archive is loaded, whether or not the caller still waits.
    let room = super::room();
    let (sender, receiver) = futures::channel::mpsc::channel(1000);
    let load = room.images.load(receiver.boxed(), LoadOptions::default());
    tokio::select! {
        _ = load => panic!("nothing was sent"),
        () = until("the load has begun", || room.store.census().4 == 1) => {}
    }
    let mut sender = sender;
    for piece in good.chunks(1000) {
        sender.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
    }
    drop(sender);
    until("the image is there", || room.store.record(NAME).is_some()).await;
    until("the lease has ended", || room.store.census().4 == 0).await;
}

#[tokio::test]
async fn a_store_that_fails_leaves_names_as_they_were() {
    let (mut content, parts) = three_layers();
    let two = content.image("v2", &[b"one", b"four"]);
    let first = Layout::of(&content).named(&content, &parts.manifest, NAME);
    let room = room();
    load(&room, &first.pack()).await.unwrap();
    let before = room.store.census();
    let both = Layout::of(&content).named(&content, &two.manifest, NAME).named(
        &content,
        &parts.manifest,
        "zz:1",
    );
    *room.store.fail_put.lock().unwrap() = Some("docker.io/library/zz".into());
    let error = load(&room, &both.pack()).await.unwrap_err();
    assert!(matches!(error, Error::Backend { .. }), "{error:?}");
    assert_eq!(room.store.census(), before);
    assert_eq!(room.store.record(NAME).unwrap().target.digest, parts.manifest);
    *room.store.fail_put.lock().unwrap() = None;
    load(&room, &both.pack()).await.unwrap();
    assert_eq!(room.store.record(NAME).unwrap().target.digest, two.manifest);

    let room = super::room();
    room.store.fail_unpack.store(true, std::sync::atomic::Ordering::Relaxed);
    load(&room, &first.pack()).await.unwrap_err();
    assert!(room.store.is_empty());
}
