use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::json;

use super::registry::Reply;
use super::*;
use crate::image::manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::model::image::Digest;

/// Answers requests for one blob from a list of replies, then from the content.
async fn misbehaving(content: Content, digest: &Digest, replies: Vec<Reply>) -> Registry {
    let (digest, replies) = (digest.to_string(), Mutex::new(replies.into_iter()));
    Registry::with_hook(content, move |request| {
        let meant = request.path.ends_with(&digest);
        meant.then(|| replies.lock().unwrap().next()).flatten()
    })
    .await
}

async fn fails(room: &Room, registry: &Registry) -> Error {
    let error = room.images.pull(&registry.name("app:v1"), None).await.unwrap_err();
    assert!(room.store.is_empty(), "{error} leaves {:?}", room.store.census());
    assert_eq!(room.images.list(None).await.unwrap(), []);
    error
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_leave_nothing() {
    let (content, parts) = three_layers();
    let layer = &parts.layers[2];
    let real = content.blobs[layer.as_str()].clone();
    let mut wrong = real.to_vec();
    wrong[100] ^= 1;
    for (name, reply) in [
        ("another digest", Reply::ok(wrong)),
        ("too long", Reply::ok([real.as_ref(), b"x"].concat())),
        ("too short", Reply::ok(real.slice(1..))),
        ("endless", Reply { stop_after: Some(real.len()), ..Reply::ok(vec![0; 1 << 22]) }),
    ] {
        let registry = misbehaving(content.clone(), layer, vec![reply; 9]).await;
        let error = fails(&room(), &registry).await;
        assert!(matches!(error, Error::BadContent { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_configuration_or_manifest_is_refused() {
    let (content, parts) = three_layers();
    let real = content.blobs[parts.config.as_str()].clone();
    let mut wrong = real.to_vec();
    wrong[10] ^= 1;
    for body in [Bytes::from(wrong), real.slice(1..), Bytes::new()] {
        let registry = misbehaving(content.clone(), &parts.config, vec![Reply::ok(body); 9]).await;
        assert!(matches!(fails(&room(), &registry).await, Error::BadContent { .. }));
    }
    let lie = Reply::ok("{}").with("Content-Type", OCI_MANIFEST);
    let registry = misbehaving(content, &parts.manifest, vec![lie; 9]).await;
    assert!(matches!(fails(&room(), &registry).await, Error::BadContent { .. }));
}

#[tokio::test]
async fn a_broken_body_is_resumed() {
    let (content, parts) = three_layers();
    let layer = &parts.layers[2];
    let real = content.blobs[layer.as_str()].clone();
    let half = real.len() / 2;
    let broken = Reply { stop_after: Some(half), ..Reply::ok(real.clone()) };
    let registry = misbehaving(content.clone(), layer, vec![broken.clone()]).await;
    let room = room();
    room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    let ranges = |registry: &Registry| {
        let all = registry.requests();
        let of = all.iter().filter(|request| request.path.ends_with(layer.as_str()));
        of.map(|request| request.header("range").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&registry), ["".to_owned(), format!("bytes={half}-")]);
    // A server without ranges sends everything again; known bytes are skipped.
    let registry = misbehaving(content, layer, vec![broken, Reply::ok(real)]).await;
    super::room().images.pull(&registry.name("app:v1"), None).await.unwrap();
    assert_eq!(ranges(&registry).len(), 2);
}

#[tokio::test]
async fn a_body_that_always_breaks_ends_the_pull() {
    let (content, parts) = three_layers();
    let layer = &parts.layers[0];
    let real = content.blobs[layer.as_str()].clone();
    let broken = Reply { stop_after: Some(0), ..Reply::ok(real) };
    let registry = misbehaving(content, layer, vec![broken; 100]).await;
    let error = fails(&room(), &registry).await;
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(registry.count(layer.as_str()) < 10);
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    for status in [429, 500, 502, 503] {
        let (content, parts) = three_layers();
        let failing = AtomicUsize::new(0);
        let registry = Registry::with_hook(content, move |request| {
            // Every request fails once, with and without a `Retry-After`.
            let n = failing.fetch_add(1, Ordering::Relaxed);
            let reply = Reply::status(status);
            let reply = if n.is_multiple_of(4) { reply.with("Retry-After", "0") } else { reply };
            (n.is_multiple_of(2) && request.method == "GET").then_some(reply)
        })
        .await;
        let image = room().images.pull(&registry.name("app:v1"), None).await.unwrap();
        assert_eq!(image.id, parts.config, "{status}");
    }
    let registry = Registry::with_hook(Content::default(), |_| Some(Reply::status(500))).await;
    let error = fails(&room(), &registry).await;
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert_eq!(registry.requests().len(), 5);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let registry = Registry::start(Content::default()).await;
    let error = fails(&room(), &registry).await;
    assert!(matches!(error, Error::NotInRegistry { .. }), "{error}");
    let registry = Registry::with_hook(Content::default(), |_| Some(Reply::status(418))).await;
    assert!(matches!(fails(&room(), &registry).await, Error::RegistryRefused { status: 418, .. }));
}

#[tokio::test]
async fn a_registry_that_is_away_is_unavailable() {
    let gone = Registry::start(Content::default()).await.address;
    let room = room();
    let error = room.images.pull(&format!("{gone}/app"), None).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn silence_ends_a_pull() {
    let (content, parts) = three_layers();
    let layer = &parts.layers[2];
    let real = content.blobs[layer.as_str()].clone();
    let silent = Reply { stop_after: Some(500), stall: true, ..Reply::ok(real) };
    let registry = Registry::with_hook(content, {
        let layer = layer.to_string();
        move |request| {
            let ranged = request.headers.contains_key("range");
            let again = Reply { stop_after: Some(0), stall: true, ..silent.clone() };
            let again = Reply { status: 200, ..again };
            request.path.ends_with(&layer).then(|| if ranged { again } else { silent.clone() })
        }
    })
    .await;
    let limit = Duration::from_millis(1500);
    let room = room_with(|options| options.no_progress_timeout = limit);
    let error = fails(&room, &registry).await;
    assert!(matches!(error, Error::NoProgress { after, .. } if after == limit), "{error}");
    assert_eq!(
        error.to_string(),
        format!("pull of {} made no progress for 1s 500ms", registry.name("app:v1"))
    );
}

#[tokio::test]
async fn endless_redirects_end() {
    let registry = Registry::with_hook(Content::default(), |request| {
        Some(Reply::status(302).with("Location", request.path.clone()))
    })
    .await;
    assert!(matches!(fails(&room(), &registry).await, Error::BadContent { .. }));
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn a_layer_that_does_not_unpack_fails_the_pull_and_the_next_repairs_it() {
    let (content, parts) = three_layers();
    let registry = Registry::start(content).await;
    let room = room();
    room.store.fail_unpack.store(true, Ordering::Relaxed);
    let error = fails(&room, &registry).await;
    assert!(matches!(error, Error::Backend { step: "unpacking a layer", .. }), "{error}");
    room.store.fail_unpack.store(false, Ordering::Relaxed);
    *room.store.fail_put.lock().unwrap() = Some("sha256:".into());
    let error = fails(&room, &registry).await;
    assert!(matches!(error, Error::Backend { step: "storing an image name", .. }), "{error}");
    *room.store.fail_put.lock().unwrap() = None;
    let image = room.images.pull(&registry.name("app:v1"), None).await.unwrap();
    assert_eq!(image.id, parts.config);
}

#[tokio::test]
async fn hostile_documents_are_refused_before_a_layer_is_asked_for() {
    let config = Bytes::from_static(b"null");
    let null_config = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [],
        "config": {"mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": 4}});
    let both = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [], "manifests": [],
        "config": null_config["config"]});
    let missing = Digest::of(b"missing");
    let nested = |digest: &Digest, size: usize| {
        json!({"schemaVersion": 2, "manifests":
            [{"mediaType": OCI_INDEX, "digest": digest, "size": size}]})
    };
    let mut deep = Content::default();
    let mut next = deep.manifest("v1", OCI_INDEX, &nested(&missing, 9));
    for _ in 0..50 {
        let size = deep.manifests[next.as_str()].1.len();
        next = deep.manifest("v1", OCI_INDEX, &nested(&next, size));
    }
    let other = json!({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST,
        "digest": missing, "size": 9, "platform": {"os": "plan9", "architecture": "mips"}}]});
    let large = json!({"schemaVersion": 2, "pad": "x".repeat(5 << 20)});
    for (name, kind, document) in [
        ("null configuration", OCI_MANIFEST, Some(null_config.clone())),
        ("both", OCI_MANIFEST, Some(both)),
        ("another type", OCI_INDEX, Some(null_config)),
        ("an unknown type", "text/html", Some(json!({}))),
        ("deep", OCI_INDEX, None),
        ("no platform", OCI_INDEX, Some(other)),
        ("5 MiB", OCI_INDEX, Some(large)),
    ] {
        let mut content = deep.clone();
        if let Some(document) = document {
            content.manifest("v1", kind, &document);
        }
        content.blob(config.clone());
        let registry = Registry::start(content).await;
        let error = fails(&room(), &registry).await;
        let refused = matches!(error, Error::BadContent { .. } | Error::NoPlatform { .. });
        assert!(refused, "{name}: {error}");
        assert!(registry.requests().len() <= 8, "{name}");
    }
}

#[tokio::test]
async fn mirrors_come_first_and_the_registry_last() {
    let (content, parts) = three_layers();
    let layer = parts.layers[2].to_string();
    let gone = Registry::start(Content::default()).await.address;
    let bad = Registry::with_hook(content.clone(), {
        let layer = layer.clone();
        move |request| request.path.ends_with(&layer).then(|| Reply::ok(vec![0; 99]))
    })
    .await;
    let upstream = Registry::start(content).await;
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("reg.example.com");
    std::fs::create_dir(&host).unwrap();
    let toml = format!(
        "server = \"http://{}\"\n[host.\"http://{gone}\"]\n[host.\"http://{}/pre\"]\n\
         capabilities = [\"pull\"]\n[host.\"http://{}/pre\".header]\nx-key = \"1\"\n",
        upstream.address, bad.address, bad.address
    );
    std::fs::write(host.join("hosts.toml"), toml).unwrap();
    let room = room_with(|options| options.config_dirs = vec![folder.path().into()]);
    let image = room.images.pull("reg.example.com/app:v1", user("u", "p")).await.unwrap();
    assert_eq!((image.id, image.repo_tags), (parts.config, vec!["reg.example.com/app:v1".into()]));
    let asked = bad.requests();
    assert!(
        asked.iter().all(|r| r.path.starts_with("/pre/v2/app/") && r.query == "ns=reg.example.com")
    );
    assert!(asked.iter().all(|r| r.header("x-key") == "1" && r.method == "GET"));
    assert_eq!(upstream.count("/manifests/v1"), 1, "only it may say what a tag is");
    assert_eq!(upstream.count("/blobs/"), 1, "only what the mirror has wrong");
    let asked = upstream.requests();
    assert!(asked.iter().all(|r| r.query == "ns=reg.example.com"), "the server is a proxy too");
    assert!(!bad.saw_secrets());
}
