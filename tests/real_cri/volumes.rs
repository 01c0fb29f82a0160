//! Images mounted as volumes.

use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use crate::rig::{Rig, image_spec};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;

/// A container that waits, with a part of an image at /data.
fn reader(rig: &Rig, name: &str, image: &str, sub_path: &str) -> Container {
    let mut container = Container::waiting(name, &rig.image);
    container.config.mounts.push(cri::Mount {
        container_path: "/data".into(),
        readonly: true,
        image: Some(image_spec(image)),
        image_sub_path: sub_path.into(),
        ..Default::default()
    });
    container
}

pub async fn images_are_mounted_as_volumes(line: Line) {
    let mut rig = Rig::start(line).await;
    let data = ImageBuilder::busybox()
        .dir("/models", 0o755, 0, 0)
        .file("/models/large", b"weights", 0o644)
        .file("/run-me", b"#!/bin/sh\necho it runs\n", 0o755)
        .symlink("/models/outside", "/../../../etc/hostname")
        .symlink("/models/inside", "/run-me");
    let data = rig.registry.push(&data.build(), "data", "1").await;
    let other = ImageBuilder::empty().file("/file", b"of one layer", 0o644);
    let other = rig.registry.push(&other.build(), "one-layer", "1").await;
    let data_id = rig.pull(&data).await.expect("the pull");
    rig.pull(&other).await.expect("the pull");
    let pod = rig.run(rig.pod_spec("volumes")).await;

    let whole = rig.launch(&pod, &reader(&rig, "whole", &data, "")).await;
    assert_eq!(rig.exec(&whole, "cat /data/models/large").await, "weights");
    assert_eq!(rig.exec(&whole, "/data/run-me").await, "it runs");
    rig.exec(&whole, "! touch /data/new && ! mount -o remount,rw /data").await;
    let part = rig.launch(&pod, &reader(&rig, "part", &data, "models")).await;
    assert_eq!(rig.exec(&part, "cat /data/large; ls /data").await, "weightsinside\nlarge\noutside");
    let file = rig.launch(&pod, &reader(&rig, "file", &data, "models/inside")).await;
    assert_eq!(rig.exec(&file, "sh /data").await, "it runs");
    let single = rig.launch(&pod, &reader(&rig, "single", &other, "")).await;
    assert_eq!(rig.exec(&single, "cat /data/file; ! touch /data/new").await, "of one layer");
    let told = rig.status(&part).await.mounts;
    let mut wanted = reader(&rig, "part", &data, "models").config.mounts;
    wanted[0].image.as_mut().expect("an image").image_ref = data_id;
    assert_eq!(told, wanted);

    for (sub_path, words) in [
        ("models/none", "is not in the image"),
        ("models/outside", "is not in the image"),
        ("../models", "must not contain .."),
        ("/models", "must be a relative path"),
        ("bin/busybox/x", "is not in the image"),
    ] {
        let refused = rig.create(&pod, &reader(&rig, "bad", &data, sub_path)).await;
        let refused = refused.expect_err(sub_path);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with("ImageVolumeMountFailed: "), "{refused}");
        assert!(refused.message().contains(words), "{refused}");
    }
    let refused = rig.create(&pod, &reader(&rig, "bad", "127.0.0.1:1/none:1", "")).await;
    let refused = refused.expect_err("no such image");
    assert!(refused.message().starts_with("ImageVolumeMountFailed: "), "{refused}");

    // Kept while it is mounted, also over restarts of the agent.
    rig.agent.restart().await;
    let request = cri::RemoveImageRequest { image: Some(image_spec(&data)) };
    let refused = rig.images().remove_image(request).await.expect_err("it is mounted");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(rig.exec(&whole, "cat /data/models/large").await, "weights");
    let late = rig.launch(&pod, &reader(&rig, "late", &data, "models/large")).await;
    assert_eq!(rig.exec(&late, "cat /data").await, "weights");
    rig.stop_pod(&pod.id).await;
    rig.remove_image(&data).await;
    rig.remove_image(&other).await;
    rig.finish().await;
}
