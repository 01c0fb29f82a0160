//! Pulling, naming, listing and removing images.

use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, image_spec};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::{Bundle, ImageBuilder};

async fn list(rig: &Rig, filter: &str) -> Vec<cri::Image> {
    let filter = Some(cri::ImageFilter { image: Some(image_spec(filter)) });
    let request = cri::ListImagesRequest { filter };
    rig.images().list_images(request).await.expect("ListImages").into_inner().images
}

pub async fn images_are_named_as_asked(line: Line) {
    let rig = Rig::start(line).await;
    let host = rig.registry.host();
    let image = ImageBuilder::web().user("1234:5").label("plain", "yes").build();
    let tag = rig.registry.push(&image, "named", "1").await;
    assert_eq!(rig.pull(&tag).await.expect("the pull"), image.id);
    let found = rig.image_status(&tag).await.expect("the image");
    let by_digest = format!("{host}/named@{}", image.root.digest);
    assert_eq!(found.id, image.id);
    assert_eq!(found.repo_tags, [tag.as_str()]);
    assert_eq!(found.repo_digests, [by_digest.as_str()]);
    assert_eq!(found.uid.map(|uid| uid.value), Some(1234));
    assert_eq!((found.username.as_str(), found.size), ("", image.size()));
    for name in [&image.id, &image.id["sha256:".len()..][..12], &by_digest, &tag] {
        assert_eq!(rig.image_status(name).await.expect(name).id, image.id, "{name}");
        assert_eq!(list(&rig, name).await.len(), 1, "{name}");
    }
    assert!(rig.image_status("127.0.0.1:1/none:1").await.is_none());
    assert!(list(&rig, "127.0.0.1:1/none:1").await.is_empty());
    assert_eq!(list(&rig, "").await.len(), 2);

    // By digest there is no tag.
    let other = ImageBuilder::busybox().user("worker").build();
    rig.registry.push(&other, "digest", "1").await;
    let name = format!("{host}/digest@{}", other.root.digest);
    assert_eq!(rig.pull(&name).await.expect("the pull"), other.id);
    let found = rig.image_status(&name).await.expect("the image");
    assert!(found.repo_tags.is_empty(), "{found:?}");
    assert_eq!(found.repo_digests, [name.as_str()]);
    assert_eq!((found.uid, found.username.as_str()), (None, "worker"));

    // Of an index, the image of this platform, under the digest of the index.
    let foreign = ImageBuilder::empty().file("/x", b"x", 0o644).architecture("s390x").build();
    let mine = ImageBuilder::busybox().env("OF=index").build();
    let index = Bundle::index(&[foreign, mine.clone()]);
    let name = rig.registry.push(&index, "index", "all").await;
    assert_eq!(rig.pull(&name).await.expect("the pull"), mine.id);
    let found = rig.image_status(&name).await.expect("the image");
    assert_eq!(found.repo_digests, [format!("{host}/index@{}", index.root.digest)]);
    let pod = rig.run(rig.pod_spec("index")).await;
    let id = rig.launch(&pod, &Container::waiting("c", &name)).await;
    assert_eq!(rig.exec(&id, "echo $OF").await, "index");
    let status = rig.status(&id).await;
    assert_eq!(status.image_id, mine.id);
    assert_eq!(status.image_ref, found.repo_digests[0]);

    let usage = rig.images().image_fs_info(cri::ImageFsInfoRequest {}).await.expect("ImageFsInfo");
    let usage = usage.into_inner();
    let first = usage.image_filesystems.first().expect("a file system");
    assert!(first.used_bytes.expect("bytes").value > image.size(), "{first:?}");
    assert!(first.inodes_used.expect("inodes").value > 0 && first.timestamp > 0, "{first:?}");
    let mountpoint = &first.fs_id.as_ref().expect("a place").mountpoint;
    assert!(std::path::Path::new(mountpoint).is_dir(), "{mountpoint}");
    assert!(!usage.container_filesystems.is_empty());
    rig.remove_pod(&pod.id).await;
    for id in [&image.id, &other.id, &mine.id] {
        rig.remove_image(id).await;
    }
    rig.finish().await;
}

pub async fn disk_use_is_told_while_a_container_churns_files(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::busybox().env("OF=churn").build();
    let name = rig.registry.push(&image, "churn", "1").await;
    rig.pull(&name).await.expect("the pull");
    let pod = rig.run(rig.pod_spec("churn")).await;
    let churn = "trap 'exit 0' TERM; mkdir /many; cd /many; \
                 while :; do touch $(seq 2000); rm -f $(seq 2000); done & wait";
    rig.launch(&pod, &Container::script("c", &name, churn)).await;
    for n in 0..20 {
        // A change of the images: else the last answer is given again.
        let tag = rig.registry.push(&image, "churn", &n.to_string()).await;
        rig.pull(&tag).await.expect("the pull");
        let usage = rig.images().image_fs_info(cri::ImageFsInfoRequest {}).await;
        let usage = usage.unwrap_or_else(|status| panic!("ask {n}: {status}")).into_inner();
        let first = usage.image_filesystems.first().expect("a file system");
        assert!(first.used_bytes.expect("bytes").value > 1 << 20, "{first:?}");
    }
    rig.remove_pod(&pod.id).await;
    rig.remove_image(&image.id).await;
    rig.finish().await;
}

pub async fn removal_takes_all_names(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::web().build();
    for tag in ["1", "2", "3"] {
        let name = rig.registry.push(&image, "many", tag).await;
        assert_eq!(rig.pull(&name).await.expect("the pull"), image.id);
    }
    let host = rig.registry.host();
    let found = rig.image_status(&image.id).await.expect("the image");
    assert_eq!(found.repo_tags, ["1", "2", "3"].map(|tag| format!("{host}/many:{tag}")));
    assert_eq!(found.repo_digests.len(), 1);
    // A container goes on without its image.
    let pod = rig.run(rig.pod_spec("removal")).await;
    let container = Container::waiting("c", &format!("{host}/many:1"));
    let id = rig.launch(&pod, &container).await;
    rig.remove_image(&format!("{host}/many:2")).await;
    assert!(rig.image_status(&image.id).await.is_none());
    assert!(rig.image_status(&format!("{host}/many:1")).await.is_none());
    rig.remove_image(&image.id).await;
    rig.remove_image("127.0.0.1:1/none:1").await;
    assert_eq!(rig.exec(&id, "cat /www/index.html").await, "hello");
    let refused = rig.create(&pod, &Container::waiting("late", &format!("{host}/many:1"))).await;
    assert_eq!(refused.expect_err("no image").code(), tonic::Code::NotFound);
    rig.finish().await;
}

pub async fn one_download_for_many_pulls(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::web().env("MANY=pulls").build();
    let name = rig.registry.push(&image, "crowd", "1").await;
    let pulls = (0..10).map(|_| rig.pull(&name));
    for pulled in futures::future::join_all(pulls).await {
        assert_eq!(pulled.expect("the pull"), image.id);
    }
    assert_eq!(list(&rig, &name).await.len(), 1);
    rig.remove_image(&name).await;
    rig.finish().await;
}
