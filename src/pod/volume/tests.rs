//! Tests of the calls to the host; their effects are tested with the real host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::*;
use crate::backend::fake::Fakes;
use crate::model::container::Propagation;

struct World {
    folder: tempfile::TempDir,
    fakes: Fakes,
    volumes: Volumes,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fakes = Fakes::new(folder.path());
        let options = Options { root: folder.path().join("lib") };
        let volumes = Volumes::new(options, fakes.host.clone());
        Self { folder, fakes, volumes }
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.folder.path().join("lib/pods").join(uid)
    }

    async fn setup(&self, given: &Given) -> Result<(), Error> {
        self.volumes.setup(given, &VolumeContext::default()).await
    }

    async fn mounts(
        &self,
        given: &Given,
        restart_count: u32,
    ) -> Result<Vec<crate::model::container::Mount>, Error> {
        let env = BTreeMap::from([("NAME".to_owned(), "one".to_owned())]);
        let context = MountContext { env: &env, restart_count, recursive_read_only: true };
        self.volumes.mounts(given, &given.spec().containers[0], &context).await
    }
}

fn given(uid: &str, volumes: Value, mounts: Value) -> Given {
    let pod = json!({
        "metadata": { "name": "web", "namespace": "n", "uid": uid, "labels": { "a": "b" } },
        "spec": {
            "containers": [{ "name": "app", "volumeMounts": mounts }],
            "volumes": volumes,
        },
    });
    let mut given = Given {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        objects: Default::default(),
        source: Default::default(),
    };
    set_map(&mut given, "1");
    given
}

fn set_map(given: &mut Given, value: &str) {
    let map = json!({ "metadata": { "name": "conf" }, "data": { "key": value } });
    let map = Arc::new(serde_json::from_value(map).unwrap());
    given.objects.config_maps.insert("conf".into(), map);
}

fn all_kinds(host_path: &Path) -> Value {
    json!([
        { "name": "nothing" },
        { "name": "scratch", "emptyDir": { "sizeLimit": "1Mi" } },
        { "name": "ram", "emptyDir": { "medium": "Memory" } },
        { "name": "conf", "configMap": { "name": "conf" } },
        { "name": "self", "downwardAPI": { "items": [
            { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
        { "name": "host", "hostPath": { "path": host_path, "type": "Directory" } },
        { "name": "img", "image": { "reference": "example.com/data:1", "pullPolicy": "Never" } },
    ])
}

#[tokio::test]
async fn all_kinds_are_made_again_and_again_and_go_at_the_end() {
    let world = World::new();
    let given = given("u-1", all_kinds(world.folder.path()), json!([]));
    for _ in 0..2 {
        world.setup(&given).await.unwrap();
    }
    let at = |path: &str| world.pod("u-1").join("volumes").join(path);
    assert_eq!(fs::read(at("config-map/conf/key")).unwrap(), b"1");
    assert_eq!(fs::read(at("downward-api/self/labels")).unwrap(), b"a=\"b\"");
    for path in ["empty-dir/nothing", "empty-dir/scratch", "empty-dir/ram"] {
        assert_eq!(fs::metadata(at(path)).unwrap().mode() & 0o7777, 0o777, "{path}");
    }
    let limits: Vec<_> = world.volumes.empty_dirs(&given).unwrap();
    let limits: Vec<_> = limits.iter().map(|dir| (dir.volume.as_str(), dir.size_limit)).collect();
    assert_eq!(limits, [("nothing", None), ("scratch", Some(1 << 20))]);
    assert!(!world.fakes.leftovers().is_empty(), "the memory is mounted");
    for _ in 0..2 {
        world.volumes.teardown("u-1").await.unwrap();
    }
    assert!(!world.pod("u-1").exists());
    assert_eq!(world.fakes.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn one_that_fails_does_not_hold_up_the_others() {
    let world = World::new();
    let volumes = json!([
        { "name": "late", "configMap": { "name": "late" } },
        { "name": "nfs", "nfs": { "server": "s", "path": "/" } },
        { "name": "scratch", "emptyDir": {} },
    ]);
    let mut given = given("u", volumes, json!([]));
    let first = world.setup(&given).await.unwrap_err();
    assert!(matches!(first, Error::NoObject { .. }), "{first}");
    assert!(world.pod("u").join("volumes/empty-dir/scratch").exists());
    assert!(!world.pod("u").join("volumes/config-map").exists());
    let map = given.objects.config_maps["conf"].clone();
    given.objects.config_maps.insert("late".into(), map);
    let second = world.setup(&given).await.unwrap_err();
    assert_eq!(
        second.to_string(),
        "MountVolume.SetUp failed for volume \"nfs\" : nfs is not supported"
    );
    assert!(world.pod("u").join("volumes/config-map/late/key").exists());
}

#[tokio::test]
async fn refresh_tells_what_is_new_and_keeps_what_it_cannot_make() {
    let world = World::new();
    let mut given = given("u", all_kinds(world.folder.path()), json!([]));
    let context = VolumeContext::default();
    world.setup(&given).await.unwrap();
    assert_eq!(world.volumes.refresh(&given, &context).await.unwrap(), Vec::<String>::new());
    set_map(&mut given, "2");
    assert_eq!(world.volumes.refresh(&given, &context).await.unwrap(), ["conf"]);
    let key = world.pod("u").join("volumes/config-map/conf/key");
    assert_eq!(fs::read(&key).unwrap(), b"2");
    given.objects.config_maps.clear();
    world.volumes.refresh(&given, &context).await.unwrap_err();
    assert_eq!(fs::read(&key).unwrap(), b"2");
}

#[tokio::test]
async fn host_paths_are_checked_by_their_type() {
    let world = World::new();
    let path = world.folder.path().join("here");
    let typed = |kind: &str| {
        let host = json!({ "path": path, "type": kind });
        given("u", json!([{ "name": "host", "hostPath": host }]), json!([]))
    };
    world.setup(&typed("")).await.unwrap();
    assert!(!path.exists());
    let error = world.setup(&typed("Socket")).await.unwrap_err().to_string();
    let wanted = format!("hostPath type check failed: {} is not a socket file", path.display());
    assert!(error.ends_with(&wanted), "{error}");
    let error = world.setup(&typed("Folder")).await.unwrap_err().to_string();
    assert!(error.ends_with("Folder is an invalid volume type"), "{error}");
    world.setup(&typed("DirectoryOrCreate")).await.unwrap();
    assert!(path.is_dir());
    world.volumes.teardown("u").await.unwrap();
    assert!(path.is_dir(), "what is the host's stays");
}

#[tokio::test]
async fn mounts_are_in_order_and_the_termination_message_is_the_last() {
    let world = World::new();
    let mounts = json!([
        { "name": "conf", "mountPath": "/conf" },
        { "name": "host", "mountPath": "data", "readOnly": true,
          "mountPropagation": "HostToContainer" },
        { "name": "img", "mountPath": "/img", "subPath": "a/b" },
        { "name": "scratch", "mountPath": "/s", "subPathExpr": "$(NAME)/x" },
    ]);
    let given = given("u", all_kinds(world.folder.path()), mounts);
    world.setup(&given).await.unwrap();
    let made = world.mounts(&given, 0).await.unwrap();
    let pod = world.pod("u").display().to_string();
    let shown: Vec<_> = made
        .iter()
        .map(|m| (m.container_path.as_str(), m.host_path.replace(&pod, "POD"), m.readonly))
        .collect();
    let host = world.folder.path().display().to_string();
    let wanted = [
        ("/conf", "POD/volumes/config-map/conf".to_owned(), true),
        ("/data", host, true),
        ("/img", String::new(), true),
        ("/s", "POD/volume-subpaths/scratch/app/3".to_owned(), false),
        ("/dev/termination-log", "POD/containers/app/0".to_owned(), false),
    ];
    assert_eq!(shown, wanted);
    assert_eq!(made[1].propagation, Propagation::HostToContainer);
    let image = made[2].image.as_ref().unwrap();
    assert_eq!(
        (image.image.as_str(), made[2].image_sub_path.as_str()),
        ("example.com/data:1", "a/b")
    );
    let relabelled: Vec<bool> = made.iter().map(|mount| mount.selinux_relabel).collect();
    assert_eq!(relabelled, [true, false, false, true, true]);
    assert!(world.pod("u").join("volumes/empty-dir/scratch/one/x").is_dir());
}

#[tokio::test]
async fn a_mount_of_no_volume_is_refused() {
    let world = World::new();
    let given = given("u", json!([]), json!([{ "name": "gone", "mountPath": "/m" }]));
    let error = world.mounts(&given, 0).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot find volume \"gone\" to mount into container \"app\"");
    assert_eq!(error.reason().as_str(), "CreateContainerConfigError");
}

#[tokio::test]
async fn termination_messages_are_the_end_of_the_file() {
    let world = World::new();
    let given = given("u", json!([]), json!([]));
    let message = |count| world.volumes.termination_message("u", "app", count);
    assert_eq!(message(0).await.unwrap(), None);
    let made = world.mounts(&given, 0).await.unwrap();
    assert_eq!(fs::metadata(&made[0].host_path).unwrap().mode() & 0o7777, 0o666);
    assert_eq!(message(0).await.unwrap().as_deref(), Some(""));
    fs::write(&made[0].host_path, b"why \xff").unwrap();
    world.mounts(&given, 0).await.unwrap();
    assert_eq!(message(0).await.unwrap().as_deref(), Some("why \u{fffd}"), "it was overwritten");
    let next = world.mounts(&given, 1).await.unwrap();
    fs::write(&next[0].host_path, format!("{}{}", "a".repeat(9000), "b".repeat(4000))).unwrap();
    let long = message(1).await.unwrap().unwrap();
    assert_eq!(long.len(), 4096);
    assert!(long.starts_with("aaa") && long.ends_with("bbb"));
    assert!(message(0).await.unwrap().is_some(), "the last one's is kept");
    world.mounts(&given, 2).await.unwrap();
    assert_eq!(message(0).await.unwrap(), None);
}

#[tokio::test]
async fn a_container_without_a_path_has_no_termination_file() {
    let world = World::new();
    let given = given("u", json!([]), json!([]));
    let none = Container {
        name: "app".into(),
        termination_message_path: Some(String::new()),
        ..Container::default()
    };
    let env = BTreeMap::new();
    let context = MountContext { env: &env, restart_count: 0, recursive_read_only: false };
    assert_eq!(world.volumes.mounts(&given, &none, &context).await.unwrap(), []);
}

#[tokio::test]
async fn a_link_in_place_of_the_message_is_not_read() {
    let world = World::new();
    let given = given("u", json!([]), json!([]));
    let made = world.mounts(&given, 0).await.unwrap();
    fs::remove_file(&made[0].host_path).unwrap();
    symlink("/etc/hostname", &made[0].host_path).unwrap();
    world.volumes.termination_message("u", "app", 0).await.unwrap_err();
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let world = World::new();
    for bad in ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", "a\nb"] {
        assert!(matches!(world.volumes.teardown(bad).await, Err(Error::Name { .. })), "{bad:?}");
        let pod = given(bad, json!([{ "name": "v", "emptyDir": {} }]), json!([]));
        assert!(matches!(world.setup(&pod).await, Err(Error::Name { .. })), "{bad:?}");
        let volume = given("u", json!([{ "name": bad, "emptyDir": {} }]), json!([]));
        assert!(matches!(world.setup(&volume).await, Err(Error::Name { .. })), "{bad:?}");
        let message = world.volumes.termination_message("u", bad, 0).await;
        assert!(matches!(message, Err(Error::Name { .. })), "{bad:?}");
    }
    assert!(!world.folder.path().join("lib").exists());
}

#[tokio::test]
async fn pods_that_nobody_knows_are_swept() {
    let world = World::new();
    for uid in ["a", "b", "c"] {
        let given = given(uid, all_kinds(world.folder.path()), json!([]));
        world.setup(&given).await.unwrap();
    }
    let known = BTreeSet::from(["b".to_owned()]);
    assert_eq!(world.volumes.orphans(&known).await.unwrap(), ["a", "c"]);
    assert!(world.pod("b").exists() && !world.pod("a").exists());
    assert_eq!(world.volumes.orphans(&known).await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn the_group_gets_what_is_made_and_nothing_of_the_host() {
    let world = World::new();
    let mut given = given("u", all_kinds(world.folder.path()), json!([]));
    let mut pod = given.pod.as_ref().clone();
    let security = json!({ "fsGroup": 2000 });
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(security).unwrap();
    given.pod = Arc::new(pod);
    world.setup(&given).await.unwrap();
    let scratch = world.pod("u").join("volumes/empty-dir/scratch");
    assert_eq!(world.fakes.host.owner(&scratch), Some((0, 2000)));
    assert_eq!(fs::metadata(scratch).unwrap().mode() & 0o7777, 0o2777);
    assert_eq!(world.fakes.host.owner(world.folder.path()), None, "the host's is not touched");
}

#[tokio::test]
async fn files_of_variables_are_read_from_empty_dirs_alone() {
    let world = World::new();
    let given = given("u", all_kinds(world.folder.path()), json!([]));
    world.setup(&given).await.unwrap();
    let folder = world.pod("u").join("volumes/empty-dir/scratch");
    fs::create_dir(folder.join("a")).unwrap();
    fs::write(folder.join("a/env"), "A='1'").unwrap();
    symlink("/etc/hostname", folder.join("out")).unwrap();
    fs::write(folder.join("large"), vec![b'#'; (64 << 10) + 1]).unwrap();
    let read = async |sources: &[(&str, &str)]| {
        let one = |(volume, path): &(&str, &str)| {
            let key = json!({ "volumeName": volume, "path": path, "key": "A" });
            json!({ "name": "X", "valueFrom": { "fileKeyRef": key } })
        };
        let env: Vec<Value> = sources.iter().map(one).collect();
        let container: Container =
            serde_json::from_value(json!({ "name": "app", "env": env })).unwrap();
        world.volumes.env_files(&given, &container).await
    };
    let found = read(&[("scratch", "a/env"), ("scratch", "gone"), ("scratch", "a/env")]).await;
    let key = ("scratch".to_owned(), "a/env".to_owned());
    assert_eq!(found.unwrap(), [(key, b"A='1'".to_vec())].into());
    for (volume, path) in [("scratch", "out"), ("scratch", "large"), ("scratch", "a")] {
        let error = read(&[(volume, path)]).await.expect_err(path);
        assert!(matches!(error, Error::EnvFile { .. }), "{path}: {error}");
        assert_eq!(error.reason().as_str(), "CreateContainerConfigError");
    }
    for volume in ["conf", "host", "none"] {
        let error = read(&[(volume, "a")]).await.expect_err(volume);
        assert!(matches!(error, Error::NoFolder { .. }), "{volume}: {error}");
    }
}
