//! Volumes of pods on the real host: mounts, groups, and containers that change the files
//! concurrently.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podbay::backend::linux::{LinuxHost, Options};
use podbay::backend::{ErrorKind, Host, VolumeDir, VolumeFile, VolumeFiles};
use podbay::model::container::Mount;
use podbay::pod::{
    Allocatable, Given, MountContext, VolumeContext, VolumeError, VolumeOptions, Volumes,
};
use rustix::fs::{CWD, RenameFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde_json::{Value, json};

use crate::ground::Ground;

const CONTEXT: VolumeContext = VolumeContext {
    allocatable: Allocatable { milli_cpu: 1000, memory: 64 << 20, ephemeral_storage: 1 << 30 },
    pod_memory_limit: Some(32 << 20),
};

struct World {
    ground: Ground,
    host: Arc<dyn Host>,
    volumes: Volumes,
}

impl World {
    fn new() -> Self {
        let ground = Ground::new();
        let host: Arc<dyn Host> = Arc::new(
            LinuxHost::new(Options {
                netns_dir: ground.path("netns"),
                scratch: ground.path("scratch-of-pods"),
                ..Options::default()
            })
            .unwrap(),
        );
        let options = VolumeOptions { root: ground.path("lib") };
        let volumes = Volumes::new(options, Arc::clone(&host));
        Self { ground, host, volumes }
    }

    fn at(&self, inside: &str) -> PathBuf {
        self.ground.path("lib/pods/u").join(inside)
    }

    async fn mounts(&self, given: &Given) -> Result<Vec<Mount>, VolumeError> {
        let env = BTreeMap::new();
        let context = MountContext { env: &env, restart_count: 0, recursive_read_only: false };
        self.volumes.mounts(given, &given.spec().containers[0], &context).await
    }

    /// Nothing of the pod is left, and nothing mounted.
    async fn gone(&self) {
        self.volumes.teardown("u").await.unwrap();
        self.volumes.teardown("u").await.expect("gone is fine");
        assert!(!self.at("").exists());
        assert_eq!(self.ground.stray_mounts(), Vec::<PathBuf>::new());
    }

    /// A folder outside of all pods with a file in it that has to stay as it is.
    fn outside(&self) -> PathBuf {
        let outside = self.ground.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("key"), b"host").unwrap();
        outside
    }

    fn is_untouched(&self) {
        let outside = self.ground.path("outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names, [outside.join("key")]);
        assert_eq!(fs::read(outside.join("key")).unwrap(), b"host");
    }
}

fn given(volumes: Value, mounts: Value) -> Given {
    let pod = json!({
        "metadata": { "name": "web", "namespace": "n", "uid": "u" },
        "spec": {
            "securityContext": { "fsGroup": 4242 },
            "containers": [{ "name": "app", "volumeMounts": mounts }],
            "volumes": volumes,
        },
    });
    let secret = json!({ "metadata": { "name": "key" }, "data": { "key": "b25l", "two": "dHdv" } });
    let mut given = Given {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        objects: Default::default(),
        source: Default::default(),
    };
    let secret = Arc::new(serde_json::from_value(secret).unwrap());
    given.objects.secrets.insert("key".to_owned(), secret);
    given
}

/// Kind and options of what is mounted at a path.
fn mounted(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4).map(Path::new) == Some(path))?;
    line.split_once(" - ").map(|(_, file_system)| file_system.to_owned())
}

/// Does `work` until the other side is done, on a thread of its own.
struct Trouble {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Trouble {
    fn make(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                work();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

#[tokio::test]
async fn memory_is_mounted_once_with_its_limit_and_goes_with_the_pod() {
    let world = World::new();
    let volumes = json!([
        { "name": "small", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
        { "name": "pod", "emptyDir": { "medium": "Memory" } },
        { "name": "disk", "emptyDir": {} },
        { "name": "secret", "secret": { "secretName": "key", "defaultMode": 0o400 } },
    ]);
    let given = given(volumes, json!([]));
    for _ in 0..3 {
        world.volumes.setup(&given, &CONTEXT).await.unwrap();
    }
    assert_eq!(world.ground.stray_mounts().len(), 3, "each is mounted once");
    for (path, limit) in [("small", "size=1024k"), ("pod", "size=32768k")] {
        let path = world.at("volumes/empty-dir").join(path);
        let options = mounted(&path).unwrap();
        assert!(options.starts_with("tmpfs ") && options.contains(limit), "{options}");
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o2777, 4242));
    }
    let full = fs::write(world.at("volumes/empty-dir/small/big"), vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let disk = fs::metadata(world.at("volumes/empty-dir/disk")).unwrap();
    assert_eq!((disk.mode() & 0o7777, disk.gid()), (0o2777, 4242));
    assert!(mounted(&world.at("volumes/secret/secret")).unwrap().starts_with("tmpfs "));
    let key = fs::metadata(world.at("volumes/secret/secret/key")).unwrap();
    assert_eq!((key.mode() & 0o7777, key.uid(), key.gid()), (0o440, 0, 4242));
    let folder = fs::canonicalize(world.at("volumes/secret/secret/..data")).unwrap();
    let folder = fs::metadata(folder).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.gid()), (0o2755, 4242));
    world.gone().await;
}

#[tokio::test]
async fn huge_pages_are_of_the_size_that_is_asked_for() {
    let world = World::new();
    let mut given =
        given(json!([{ "name": "huge", "emptyDir": { "medium": "HugePages-2Mi" } }]), json!([]));
    let mut pod = given.pod.as_ref().clone();
    let asked = json!({ "limits": { "hugepages-2Mi": "4Mi" } });
    pod.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(asked).unwrap();
    given.pod = Arc::new(pod);
    let done = world.volumes.setup(&given, &CONTEXT).await;
    if Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        done.unwrap();
        let options = mounted(&world.at("volumes/empty-dir/huge")).unwrap();
        assert!(options.starts_with("hugetlbfs ") && options.contains("pagesize=2M"), "{options}");
    } else {
        assert!(matches!(done, Err(VolumeError::SetUp { .. })), "{done:?}");
    }
    world.gone().await;
}

#[tokio::test]
async fn files_have_the_owners_that_they_are_given() {
    let world = World::new();
    let volume = world.ground.path("volume");
    world
        .host
        .create_volume(&volume, VolumeDir { mode: 0o777, ..VolumeDir::default() })
        .await
        .unwrap();
    let file = VolumeFile { content: b"x".to_vec(), mode: 0o400, uid: Some(1234) };
    let files = VolumeFiles { files: [("f".to_owned(), file)].into(), gid: None };
    assert!(world.host.write_volume(&volume, &files).await.unwrap());
    assert!(!world.host.write_volume(&volume, &files).await.unwrap());
    let meta = fs::metadata(volume.join("f")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (1234, 0o400));
}

#[tokio::test]
async fn a_sub_path_is_mounted_once_and_follows_what_it_names() {
    let world = World::new();
    let volumes = json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "secret", "secret": { "secretName": "key" } },
    ]);
    let mounts = json!([
        { "name": "disk", "mountPath": "/logs", "subPath": "logs/app" },
        { "name": "secret", "mountPath": "/key", "subPath": "key" },
    ]);
    let mut given = given(volumes, mounts);
    world.volumes.setup(&given, &CONTEXT).await.unwrap();
    let mut made = Vec::new();
    for _ in 0..3 {
        made = world.mounts(&given).await.unwrap();
    }
    // One tmpfs for the secret, one mount each for the parts.
    assert_eq!(world.ground.stray_mounts().len(), 3);
    let (logs, key) = (Path::new(&made[0].host_path), Path::new(&made[1].host_path));
    fs::write(logs.join("line"), b"x").unwrap();
    assert!(world.at("volumes/empty-dir/disk/logs/app/line").exists());
    assert_eq!(fs::read(key).unwrap(), b"one");
    assert!(made[1].readonly);

    let new = json!({ "metadata": { "name": "key" }, "data": { "key": "bmV3" } });
    given.objects.secrets.insert("key".into(), Arc::new(serde_json::from_value(new).unwrap()));
    world.volumes.refresh(&given, &CONTEXT).await.unwrap();
    assert_eq!(fs::read(key).unwrap(), b"one", "a running container keeps its file");
    world.mounts(&given).await.unwrap();
    assert_eq!(fs::read(key).unwrap(), b"new", "the next one gets the new file");
    assert_eq!(world.ground.stray_mounts().len(), 3);

    // What it names becomes a folder.
    fs::remove_dir_all(world.at("volumes/empty-dir/disk/logs/app")).unwrap();
    fs::write(world.at("volumes/empty-dir/disk/logs/app"), b"a file").unwrap();
    let made = world.mounts(&given).await.unwrap();
    assert_eq!(fs::read(&made[0].host_path).unwrap(), b"a file");
    world.gone().await;
}

#[tokio::test]
async fn what_is_mounted_on_the_host_stays_mounted() {
    let world = World::new();
    let shared = world.ground.path("shared");
    let tmpfs = |path: &Path| {
        fs::create_dir_all(path).unwrap();
        rustix::mount::mount("test", path, "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(path, MountPropagationFlags::SHARED).unwrap();
    };
    tmpfs(&shared);
    tmpfs(&shared.join("part/inner"));
    fs::write(shared.join("part/inner/kept"), b"x").unwrap();
    let before = world.ground.stray_mounts();
    let volumes = json!([{ "name": "host", "hostPath": { "path": shared, "type": "Directory" } }]);
    let mounts = json!([{ "name": "host", "mountPath": "/m", "subPath": "part" }]);
    let given = given(volumes, mounts);
    world.volumes.setup(&given, &CONTEXT).await.unwrap();
    let made = world.mounts(&given).await.unwrap();
    let part = Path::new(&made[0].host_path);
    assert!(part.join("inner/kept").exists(), "what is mounted below is seen");
    tmpfs(&shared.join("part/later"));
    fs::write(shared.join("part/later/kept"), b"x").unwrap();
    assert!(part.join("later/kept").exists(), "what is mounted later is seen");
    world.volumes.teardown("u").await.unwrap();
    assert!(!world.at("").exists());
    assert!(shared.join("part/inner/kept").exists() && shared.join("part/later/kept").exists());
    assert_eq!(world.ground.stray_mounts().len(), before.len() + 1);
    let group = fs::metadata(&shared).unwrap().gid();
    assert_eq!(group, 0, "the group is not for what is the host's");
}

/// A folder and a link to the host change places all the time; no start sees the host.
#[tokio::test]
async fn a_sub_path_that_is_swapped_for_a_link_never_shows_the_host() {
    let world = World::new();
    let outside = world.outside();
    let given = given(json!([{ "name": "disk", "emptyDir": {} }]), json!([]));
    world.volumes.setup(&given, &CONTEXT).await.unwrap();
    let volume = world.at("volumes/empty-dir/disk");
    fs::create_dir_all(volume.join("dir/below")).unwrap();
    symlink(&outside, volume.join("link")).unwrap();
    let (dir, link) = (volume.join("dir"), volume.join("link"));
    let trouble = Trouble::make(move || {
        rustix::fs::renameat_with(CWD, &dir, CWD, &link, RenameFlags::EXCHANGE).unwrap();
    });
    let (mut bound, mut refused, mut round) = (0, 0, 0);
    let give_up = Instant::now() + Duration::from_secs(60);
    // On a busy machine one state may last for hundreds of rounds.
    while round < 1000 || bound < 50 || refused < 50 {
        assert!(Instant::now() < give_up, "{bound} bound, {refused} refused: there is no race");
        let sub = ["dir", "dir/below", "dir/new", "dir/key"][round % 4];
        let target = world.at("volume-subpaths/disk/app").join(round.to_string());
        round += 1;
        match world.host.bind_sub_path(&volume, Path::new(sub), &target).await {
            Ok(()) => {
                bound += 1;
                assert!(!target.join("key").exists() || target.join("below").exists(), "{sub}");
                assert!(target.is_dir(), "{sub} is a file of the host");
                world.host.unmount(&target).await.unwrap();
            }
            Err(error) => {
                refused += 1;
                assert_ne!(error.kind, ErrorKind::InvalidArgument, "{error}");
            }
        }
        assert!(!outside.join("new").exists(), "something was made on the host");
    }
    drop(trouble);
    world.is_untouched();
    world.gone().await;
}

/// A container with too many rights plants links in its secret while it is updated and removed.
#[tokio::test]
async fn links_planted_in_a_secret_steer_nothing() {
    let world = World::new();
    let outside = world.outside();
    let volumes = json!([{ "name": "secret", "secret": { "secretName": "key" } }]);
    let mut given = given(volumes, json!([]));
    world.volumes.setup(&given, &CONTEXT).await.unwrap();
    let volume = world.at("volumes/secret/secret");
    let place = volume.clone();
    let to = outside.clone();
    let trouble = Trouble::make(move || {
        for name in ["..data", "key", "two", "..2020", "other"] {
            let temp = place.join("..planted");
            let _ = fs::remove_file(&temp);
            let _ = symlink(&to, &temp);
            let _ = fs::rename(&temp, place.join(name));
        }
    });
    for round in 0..1000 {
        let data = json!({ "key": format!("{:04}", round), "two": "dHdv" });
        let secret = json!({ "metadata": { "name": "key" }, "data": data });
        let secret = Arc::new(serde_json::from_value(secret).unwrap());
        given.objects.secrets.insert("key".into(), secret);
        // It may fail while somebody is at it; the next try comes.
        let _ = world.volumes.refresh(&given, &CONTEXT).await;
        if round % 100 == 99 {
            let _ = world.volumes.teardown("u").await;
            let _ = world.volumes.setup(&given, &CONTEXT).await;
        }
    }
    drop(trouble);
    world.is_untouched();
    world.volumes.refresh(&given, &CONTEXT).await.unwrap();
    let now = given.objects.secrets["key"].data.as_ref().unwrap()["key"].0.clone();
    assert_eq!(fs::read(volume.join("key")).unwrap(), now);
    let names: Vec<_> = fs::read_dir(&volume).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "..data, its folder and two names: {names:?}");
    world.gone().await;
    world.is_untouched();
}

/// Folders and links change places while the pod is removed.
#[tokio::test]
async fn a_teardown_that_is_disturbed_stays_inside() {
    let world = World::new();
    let outside = world.outside();
    let given = given(
        json!([{ "name": "disk", "emptyDir": {} }, { "name": "ram", "emptyDir": { "medium": "Memory" } }]),
        json!([]),
    );
    for _ in 0..100 {
        world.volumes.setup(&given, &CONTEXT).await.unwrap();
        let mut pairs = Vec::new();
        for kind in ["disk", "ram"] {
            let volume = world.at("volumes/empty-dir").join(kind);
            fs::create_dir_all(volume.join("dir/key")).unwrap();
            fs::create_dir_all(volume.join("dir/deep/er")).unwrap();
            symlink(&outside, volume.join("link")).unwrap();
            pairs.push((volume.join("dir"), volume.join("link")));
        }
        let trouble = Trouble::make(move || {
            for (dir, link) in &pairs {
                let _ = rustix::fs::renameat_with(CWD, dir, CWD, link, RenameFlags::EXCHANGE);
            }
        });
        let _ = world.volumes.teardown("u").await;
        drop(trouble);
        world.gone().await;
        world.is_untouched();
    }
}
