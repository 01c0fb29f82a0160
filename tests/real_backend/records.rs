//! Container records and root file systems.

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{Container, CreateContainerRequest, container::Runtime};
use containerd_client::tonic::Request;
use containerd_client::with_namespace;
use podbay::backend::{ErrorKind, Images, RootfsOptions, Runtime as _, RuntimeContainer};
use podbay::model::StringMap;
use podbay::model::image::Digest;
use podbay::model::security::{IdMapping, IdMappings};
use serde_json::json;

use crate::image::TestImage;
use crate::rig::{NAMESPACE, Rig, SNAPSHOTTER, random_id};

pub async fn a_record_lives(rig: &mut Rig) {
    let backend = &rig.backend;
    let mut record = RuntimeContainer {
        id: random_id(),
        image: TestImage::NAME.into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        sandbox: None,
        handler: rig.handler(),
        spec: json!({"ociVersion": "1.0.2", "unknown": {"to": ["types"]}}),
        snapshot_key: None,
        extension: json!({"pod": "x", "at": 12}),
    };
    assert_eq!(backend.container(&record.id).await.unwrap_err().kind, ErrorKind::NotFound);
    backend.create_container(&record).await.unwrap();
    let twice = backend.create_container(&record).await.unwrap_err();
    assert_eq!(twice.kind, ErrorKind::AlreadyExists);
    record.handler.name = String::new(); // the one thing that is not stored
    assert_eq!(backend.container(&record.id).await.unwrap(), record);

    record.spec = json!({"ociVersion": "1.0.2", "hostname": "new"});
    backend.update_container_spec(&record.id, &record.spec).await.unwrap();
    assert_eq!(backend.container(&record.id).await.unwrap(), record);
    let nobody = backend.update_container_spec("nobody", &record.spec).await.unwrap_err();
    assert_eq!(nobody.kind, ErrorKind::NotFound);

    foreign_record(rig, "foreign").await;
    assert_eq!(backend.list_containers().await.unwrap(), [record.clone()]);
    backend.delete_container(&record.id).await.unwrap();
    backend.delete_container(&record.id).await.unwrap();
    assert_eq!(backend.list_containers().await.unwrap(), []);
    assert!(backend.container("foreign").await.is_ok(), "others' records stay");
}

async fn foreign_record(rig: &Rig, id: &str) {
    let channel = containerd_client::connect(rig.daemon.address()).await.unwrap();
    let spec = prost_types::Any { type_url: "x".into(), value: b"{}".to_vec() };
    let container = Container {
        id: id.into(),
        runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
        spec: Some(spec),
        ..Container::default()
    };
    let message = CreateContainerRequest { container: Some(container) };
    let request = with_namespace!(message, NAMESPACE);
    ContainersClient::new(channel).create(request).await.unwrap();
}

async fn snapshot_labels(rig: &Rig, key: &str) -> StringMap {
    let channel = containerd_client::connect(rig.daemon.address()).await.unwrap();
    let message = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
    let request = with_namespace!(message, NAMESPACE);
    let answer = SnapshotsClient::new(channel).stat(request).await.unwrap().into_inner();
    answer.info.unwrap().labels.into_iter().collect()
}

pub async fn a_root_outlives_the_collector(rig: &mut Rig) {
    let backend = &rig.backend;
    let chain = TestImage::busybox().store(backend).await;
    let plain = RootfsOptions::default();
    let orphan =
        backend.prepare_rootfs(SNAPSHOTTER, "orphan", Some(&Digest::of(b"?")), &plain).await;
    assert_eq!(orphan.unwrap_err().kind, ErrorKind::NotFound);

    let root = backend.prepare_rootfs(SNAPSHOTTER, "root", Some(&chain), &plain).await.unwrap();
    let again = backend.prepare_rootfs(SNAPSHOTTER, "root", Some(&chain), &plain).await;
    assert_eq!(again.unwrap_err().kind, ErrorKind::AlreadyExists);
    let map = |host_id| IdMapping { host_id, container_id: 0, length: 65_536 };
    let mapped = RootfsOptions {
        labels: [("containerd.io/snapshot/extra".to_owned(), "1".to_owned())].into(),
        id_mappings: Some(IdMappings { uids: map(100_000), gids: map(200_000) }),
    };
    backend.prepare_rootfs(SNAPSHOTTER, "empty", None, &plain).await.unwrap();
    let view = backend.view_rootfs(SNAPSHOTTER, "view", &chain).await.unwrap();
    assert!(!view.is_empty());
    // An older overlayfs ignores the mappings; the labels are what counts here.
    backend.prepare_rootfs(SNAPSHOTTER, "mapped", None, &mapped).await.unwrap();
    let labels = snapshot_labels(rig, "mapped").await;
    assert_eq!(labels["containerd.io/snapshot/uidmapping"], "0:100000:65536");
    assert_eq!(labels["containerd.io/snapshot/gidmapping"], "0:200000:65536");
    assert_eq!(labels["containerd.io/snapshot/extra"], "1");

    // A collection without any lease or record: the image's name goes, its chain stays as parent.
    backend.delete_image(TestImage::NAME, true).await.unwrap();
    let mut keys = backend.list_rootfs(SNAPSHOTTER).await.unwrap();
    keys.sort();
    assert_eq!(keys, ["empty", "mapped", "root", "view"]);
    assert_eq!(backend.rootfs_mounts(SNAPSHOTTER, "root").await.unwrap(), root);
    assert_eq!(root[0].kind, "overlay");

    let before = backend.rootfs_usage(SNAPSHOTTER, "root").await.unwrap();
    let upper = root[0].options.iter().find_map(|option| option.strip_prefix("upperdir="));
    std::fs::write(format!("{}/file", upper.unwrap()), vec![1; 100_000]).unwrap();
    let after = backend.rootfs_usage(SNAPSHOTTER, "root").await.unwrap();
    assert!(after.bytes >= before.bytes + 100_000, "{before:?} {after:?}");
    assert_eq!(after.inodes, before.inodes + 1);

    for key in &keys {
        backend.remove_rootfs(SNAPSHOTTER, key).await.unwrap();
        backend.remove_rootfs(SNAPSHOTTER, key).await.unwrap();
    }
    assert_eq!(backend.list_rootfs(SNAPSHOTTER).await.unwrap(), Vec::<String>::new());
    let gone = backend.rootfs_mounts(SNAPSHOTTER, "root").await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound);
    let gone = backend.rootfs_usage(SNAPSHOTTER, "root").await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound);
}
