//! Images: names, digests, lists, users, removal.

use std::sync::Arc;
use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::facts::{code, shape, told};
use crate::rig::{Rig, image_spec};
use crate::support::builders::Container;
use crate::support::eventually;
use crate::support::images::{Bundle, ImageBuilder};

scenarios! {
    "public image with tag should be pulled and removed" => with_tag,
    "public image without tag should be pulled and removed" => without_tag,
    "public image with digest should be pulled and removed" => with_digest,
    "public image with tag and digest" => with_tag_and_digest,
    "image status should support all kinds of references" => references,
    "image status get image fields should not have Uid|Username empty" => users,
    "listImage should get exactly 3 image in the result list" => three_images,
    "listImage should get exactly 3 repoTags in the result image" => three_tags,
    "remove image with multiple tags by one of them" => removing_tags,
    "remove image in parallel" => removing_in_parallel,
    "images that are not there or have no good name" => wrong,
    "image of a running container" => in_use,
    "an index of platforms" => index,
    "an image with annotations and configuration" => configured,
    "image fs info" => fs_info,
}

/// A small image that no other scenario has.
fn unique(word: &str) -> ImageBuilder {
    ImageBuilder::empty().file("/word", word.as_bytes(), 0o644).label("word", word)
}

async fn push(rig: &Rig, bundle: &Bundle, repository: &str, tag: &str) -> String {
    rig.registry.push(bundle, repository, tag).await
}

async fn seen(rig: &Rig, image: &str) -> Value {
    let request = cri::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
    match rig.images().image_status(request).await {
        Ok(status) => told("ImageStatusResponse", status.get_ref()),
        Err(e) => json!({"code": format!("{:?}", e.code())}),
    }
}

async fn list(rig: &Rig, filter: Option<&str>) -> Vec<cri::Image> {
    let filter = filter.map(|image| cri::ImageFilter { image: Some(image_spec(image)) });
    let mut images = rig
        .images()
        .list_images(cri::ListImagesRequest { filter })
        .await
        .expect("ListImages")
        .into_inner()
        .images;
    images.sort_by(|a, b| a.id.cmp(&b.id));
    images
}

async fn remove(rig: &Rig, image: &str) -> Value {
    let request = cri::RemoveImageRequest { image: Some(image_spec(image)) };
    code(&rig.images().remove_image(request).await)
}

async fn pull(rig: &Rig, image: &str) -> Value {
    match rig.pull(image).await {
        Ok(reference) => json!(reference),
        Err(e) => json!({"code": format!("{:?}", e.code())}),
    }
}

/// Pulls, looks in all ways, removes twice.
async fn life(rig: &Rig, image: &str) -> Value {
    let pulled = pull(rig, image).await;
    let again = pull(rig, image).await;
    let status = seen(rig, image).await;
    let id = pulled.as_str().unwrap_or_default();
    let listed = list(rig, Some(image)).await;
    let listed: Vec<_> =
        listed.iter().filter(|it| it.id == id).map(|it| told("Image", it)).collect();
    let in_all = list(rig, None).await.iter().filter(|it| it.id == id).count();
    let removed = [remove(rig, image).await, remove(rig, image).await];
    let left = list(rig, None).await.iter().filter(|it| it.id == id).count();
    json!({
        "pulled": pulled, "again": again, "status": status, "listed": listed, "in all": in_all,
        "removed": removed, "left": left, "gone": seen(rig, image).await,
        "gone by id": seen(rig, id).await,
    })
}

async fn with_tag(rig: Arc<Rig>) -> Value {
    let image = push(&rig, &unique("tag").build(), "with-tag", "v1").await;
    life(&rig, &image).await
}

async fn without_tag(rig: Arc<Rig>) -> Value {
    let image = push(&rig, &unique("latest").build(), "without-tag", "latest").await;
    life(&rig, image.trim_end_matches(":latest")).await
}

async fn with_digest(rig: Arc<Rig>) -> Value {
    let bundle = unique("digest").build();
    let image = push(&rig, &bundle, "with-digest", "v1").await;
    life(&rig, &format!("{}@{}", image.trim_end_matches(":v1"), bundle.root.digest)).await
}

async fn with_tag_and_digest(rig: Arc<Rig>) -> Value {
    let bundle = unique("tag and digest").build();
    let image = push(&rig, &bundle, "with-both", "v1").await;
    life(&rig, &format!("{image}@{}", bundle.root.digest)).await
}

async fn references(rig: Arc<Rig>) -> Value {
    let bundle = unique("references").build();
    let image = push(&rig, &bundle, "references", "v1").await;
    rig.pull(&image).await.expect("PullImage");
    let bare = image.trim_end_matches(":v1");
    let id = &bundle.id;
    let hex = id.trim_start_matches("sha256:");
    let mut found = Map::new();
    for (name, reference) in [
        ("tag", image.clone()),
        ("digest", format!("{bare}@{}", bundle.root.digest)),
        ("both", format!("{image}@{}", bundle.root.digest)),
        ("id", id.clone()),
        ("hex", hex.into()),
        ("start of the hex", hex[..12].into()),
        ("start of the id", id[..20].into()),
        ("no tag", bare.into()),
        ("other tag", format!("{bare}:v2")),
        ("manifest digest alone", bundle.root.digest.clone()),
    ] {
        let status = seen(&rig, &reference).await;
        let listed = list(&rig, Some(&reference)).await.iter().any(|it| it.id == bundle.id);
        found.insert(name.into(), json!({"status": status, "listed": listed}));
    }
    found.into()
}

async fn users(rig: Arc<Rig>) -> Value {
    let mut found = Map::new();
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:users"),
        ("username-group", "www-data:100"),
        ("none", ""),
        ("root", "root"),
        ("zero", "0"),
        ("zero-zero", "0:0"),
        ("huge", "99999999999"),
    ] {
        let bundle = unique(name).user(user).build();
        let image = push(&rig, &bundle, &format!("image-user-{name}"), "1").await;
        rig.pull(&image).await.expect("PullImage");
        found.insert(name.into(), seen(&rig, &image).await);
    }
    found.into()
}

async fn three_images(rig: Arc<Rig>) -> Value {
    let mut images = Vec::new();
    for name in ["three-1", "three-2", "three-3"] {
        images.push(push(&rig, &unique(name).build(), name, "1").await);
    }
    for image in &images {
        rig.pull(image).await.expect("PullImage");
    }
    let own = |it: &cri::Image| it.repo_tags.iter().any(|tag| images.contains(tag));
    let all = list(&rig, None).await;
    let listed: Vec<_> = all.iter().filter(|it| own(it)).map(|it| told("Image", it)).collect();
    json!(listed)
}

async fn three_tags(rig: Arc<Rig>) -> Value {
    let bundle = unique("three tags").build();
    let mut found = Map::new();
    for (repository, tag) in [("tags", "1"), ("tags", "2"), ("tags-other", "3")] {
        let image = push(&rig, &bundle, repository, tag).await;
        rig.pull(&image).await.expect("PullImage");
    }
    for image in list(&rig, None).await.iter().filter(|it| it.id == bundle.id) {
        found.insert(image.id.clone(), told("Image", image));
    }
    found.into()
}

async fn removing_tags(rig: Arc<Rig>) -> Value {
    let mut found = Map::new();
    for by in ["tag", "id", "digest"] {
        let bundle = unique(&format!("removing {by}")).build();
        let mut names = Vec::new();
        for tag in ["1", "2"] {
            let image = push(&rig, &bundle, &format!("removing-{by}"), tag).await;
            rig.pull(&image).await.expect("PullImage");
            names.push(image);
        }
        let reference = match by {
            "tag" => names[0].clone(),
            "id" => bundle.id.clone(),
            _ => format!("{}@{}", names[0].trim_end_matches(":1"), bundle.root.digest),
        };
        let removed = remove(&rig, &reference).await;
        let left: Vec<_> = (list(&rig, None).await.iter())
            .filter(|it| it.id == bundle.id)
            .map(|it| told("Image", it))
            .collect();
        found.insert(
            by.into(),
            json!({"removed": removed, "left": left, "other": seen(&rig, &names[1]).await}),
        );
    }
    found.into()
}

async fn removing_in_parallel(rig: Arc<Rig>) -> Value {
    let image = push(&rig, &unique("parallel").build(), "parallel", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let codes = futures::future::join_all((0..5).map(|_| remove(&rig, &image))).await;
    json!({"codes": codes, "left": seen(&rig, &image).await})
}

async fn wrong(rig: Arc<Rig>) -> Value {
    let host = rig.registry.host();
    let mut found = Map::new();
    for (name, image) in [
        ("absent", format!("{host}/nosuch:1")),
        ("capitals", format!("{host}/UPPER:1")),
        ("empty", String::new()),
        ("nonsense", "@@@".into()),
        ("bad digest", format!("{host}/x@sha256:123")),
        ("unknown id", format!("sha256:{}", "a".repeat(64))),
        ("no registry", "localhost:1/none:1".into()),
        ("spaces", " a b ".into()),
    ] {
        let listed = rig
            .images()
            .list_images(cri::ListImagesRequest {
                filter: Some(cri::ImageFilter { image: Some(image_spec(&image)) }),
            })
            .await;
        let facts = json!({
            "pull": pull(&rig, &image).await, "status": seen(&rig, &image).await,
            "remove": remove(&rig, &image).await,
            "list": if image.is_empty() { json!(null) } else { code(&listed) },
        });
        found.insert(name.into(), facts);
    }
    let nothing = cri::PullImageRequest::default();
    found.insert("pull of nothing".into(), code(&rig.images().pull_image(nothing).await));
    let nothing = cri::ImageStatusRequest::default();
    found.insert("status of nothing".into(), code(&rig.images().image_status(nothing).await));
    let nothing = cri::RemoveImageRequest::default();
    found.insert("remove of nothing".into(), code(&rig.images().remove_image(nothing).await));
    found.into()
}

async fn in_use(rig: Arc<Rig>) -> Value {
    let bundle = ImageBuilder::busybox().label("for", "use").build();
    let image = push(&rig, &bundle, "in-use", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let pod = rig.run(rig.pod_spec("in-use")).await;
    let by_name = rig.launch(&pod, &Container::waiting("name", &image)).await;
    let by_id = rig.launch(&pod, &Container::waiting("id", &bundle.id)).await;
    let digest = format!("{}@{}", image.trim_end_matches(":1"), bundle.root.digest);
    let by_digest = rig.create(&pod, &Container::waiting("digest", &digest)).await;
    let mut before = Vec::new();
    for id in [&by_name, &by_id] {
        before.push(super::containers::seen(&rig, id).await);
    }
    let removed = remove(&rig, &image).await;
    let alive = rig.exec(&by_name, "echo alive").await;
    json!({
        "before": before, "by digest": code(&by_digest), "removed": removed, "alive": alive,
        "after": super::containers::seen(&rig, &by_name).await, "image": seen(&rig, &image).await,
    })
}

async fn index(rig: Arc<Rig>) -> Value {
    let own = unique("this platform").build();
    let other = unique("other platform").architecture("s390x").build();
    let bundle = Bundle::index(&[other.clone(), own]);
    let image = push(&rig, &bundle, "index", "1").await;
    let foreign = push(&rig, &Bundle::index(&[other]), "foreign", "1").await;
    json!({"life": life(&rig, &image).await, "foreign": pull(&rig, &foreign).await})
}

async fn configured(rig: Arc<Rig>) -> Value {
    let bundle =
        unique("configured").entrypoint(&["/a"]).env("A=b").volume("/v").label("x", "y").build();
    let image = push(&rig, &bundle, "configured", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let spec = cri::ImageSpec {
        image: image.clone(),
        annotations: [("k".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    };
    let request = cri::ImageStatusRequest { image: Some(spec), verbose: true };
    let status = rig.images().image_status(request).await.expect("ImageStatus").into_inner();
    let info =
        status.info.get("info").map(|info| serde_json::from_str::<Value>(info).expect("JSON"));
    let mut config = info.map(|info| info["imageSpec"]["config"].clone()).expect("facts");
    // The same as absent.
    config.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    json!({"image": status.image.map(|it| told("Image", &it)), "config": config})
}

async fn fs_info(rig: Arc<Rig>) -> Value {
    let mut info = cri::ImageFsInfoResponse::default();
    // The plugin counts snapshots every ten seconds only.
    eventually(Duration::from_secs(30), async || {
        let told = rig.images().image_fs_info(cri::ImageFsInfoRequest {}).await;
        info = told.expect("ImageFsInfo").into_inner();
        info.image_filesystems
            .iter()
            .any(|it| it.used_bytes.is_some_and(|it| it.value > 0))
            .then_some(())
    })
    .await;
    let mount = |it: &cri::FilesystemUsage| {
        let path = it.fs_id.as_ref().map(|it| it.mountpoint.clone()).unwrap_or_default();
        json!({"exists": std::path::Path::new(&path).is_dir(), "shape": shape(&told("FilesystemUsage", it))})
    };
    json!({
        "images": info.image_filesystems.first().map(mount),
        "containers": info.container_filesystems.first().map(mount),
    })
}
