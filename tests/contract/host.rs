//! The contract of [`Host`].

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podbay::backend::{
    ErrorKind, Host, HostPathKind, Medium, NetnsState, RootfsMount, VolumeDir, VolumeFile,
    VolumeFiles,
};
use podbay::model::security::{IdMapping, IdMappings};

use super::{kind, new_path};

/// Everything at once. Files are made below `folder`, namespaces as `prefix…` in `netns_folder`.
pub async fn host_contract(host: &Arc<dyn Host>, folder: &Path, netns_folder: &Path, prefix: &str) {
    let facts = host.facts();
    assert!(!facts.boot_id.is_empty() && !facts.hostname.is_empty() && facts.kernel.0 > 0);
    netns(host, netns_folder, prefix).await;
    userns(host, folder, &new_path(netns_folder, prefix)).await;
    files(host, folder).await;
    folders(host, folder).await;
    fifos(host, folder).await;
    mounts(host, folder).await;
    images(host, folder).await;
    sources(host, folder).await;
    volumes(host, folder).await;
    connections(host, &new_path(netns_folder, prefix)).await;
    // No process has this number.
    assert_eq!(host.process_start_time(u32::MAX - 1).await.unwrap(), None);
    assert_eq!(host.memory_cgroup(u32::MAX - 1).await.unwrap(), None);
    // Nor is anybody of this start time.
    host.kill_tree(std::process::id(), 0).await.expect("gone is fine");
    let nobody = host.processes_with(&["there is no such argument".into()]).await;
    assert_eq!(nobody.unwrap(), []);
    let nowhere = Path::new("/sys/fs/cgroup/there-is-no-such-cgroup");
    assert_eq!(host.oom_kills(nowhere).await.unwrap(), None);
    assert_eq!(host.memory_use(nowhere).await.unwrap(), None);
    host.remove_cgroup(Path::new("/there-is-no-such-cgroup")).await.expect("gone is fine");
    let missing = host.devices(Path::new("/dev/there-is-no-such-device"), "/dev/x").await;
    assert_eq!(kind(missing), ErrorKind::NotFound);
    host.all_devices().await.unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

async fn netns(host: &Arc<dyn Host>, folder: &Path, prefix: &str) {
    let path = new_path(folder, prefix);
    assert_eq!(host.netns_state(&path).await.unwrap(), NetnsState::Gone);
    host.create_netns(&path).await.unwrap();
    assert_eq!(host.netns_state(&path).await.unwrap(), NetnsState::Live);
    let absent = new_path(folder, prefix);
    let missing = host.missing_netns(vec![absent.clone(), path.clone()]).await;
    assert_eq!(missing.unwrap(), [absent]);
    assert_eq!(kind(host.create_netns(&path).await), ErrorKind::AlreadyExists);
    assert_eq!(host.netns_state(&path).await.unwrap(), NetnsState::Live, "a failure undid it");
    assert!(host.list_netns().await.unwrap().contains(&path));
    host.remove_netns(&path).await.unwrap();
    host.remove_netns(&path).await.expect("gone is fine");
    assert_eq!(host.netns_state(&path).await.unwrap(), NetnsState::Gone);
    assert!(!host.list_netns().await.unwrap().contains(&path));
}

async fn userns(host: &Arc<dyn Host>, folder: &Path, netns: &Path) {
    let line = |host_id| IdMapping { host_id, container_id: 0, length: 65536 };
    let ids = IdMappings { uids: line(200_000), gids: line(300_000) };
    let pod = new_path(folder, "userns");
    let missing = host.create_userns(&pod.join("user"), ids, Some(netns)).await;
    assert_eq!(kind(missing), ErrorKind::NotFound, "its folder has to be there");
    assert_eq!(host.netns_state(netns).await.unwrap(), NetnsState::Gone);
    host.create_dir(&pod, 0o700).await.unwrap();
    host.create_userns(&pod.join("user"), ids, Some(netns)).await.unwrap();
    assert_eq!(host.netns_state(netns).await.unwrap(), NetnsState::Live);
    let again = host.create_userns(&pod.join("user"), ids, None).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    let taken = host.create_userns(&pod.join("other"), ids, Some(netns)).await;
    assert_eq!(kind(taken), ErrorKind::AlreadyExists);
    assert_eq!(host.netns_state(netns).await.unwrap(), NetnsState::Live, "a failure undid it");
    host.create_userns(&pod.join("other"), ids, None).await.expect("a failure left its half");
    host.remove_netns(netns).await.unwrap();
    host.unmount(&pod.join("user")).await.unwrap();
    host.set_owner(&pod, 200_000, 300_000).await.unwrap();
    let nobody = host.set_owner(&pod.join("none"), 0, 0).await;
    assert_eq!(kind(nobody), ErrorKind::NotFound);
    host.remove_tree(&pod).await.expect("a tree with a namespace in it");
    assert!(!pod.exists());
}

async fn files(host: &Arc<dyn Host>, folder: &Path) {
    let path = new_path(folder, "files").join("deep/hosts");
    assert_eq!(host.read_file(&path, 10).await.unwrap(), None);
    host.write_file(&path, b"one", 0o644).await.unwrap();
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    host.write_file(&path, b"three", 0o600).await.unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(host.read_file(&path, 5).await.unwrap().as_deref(), Some(&b"three"[..]));
    kind(host.read_file(&path, 4).await);
    kind(host.read_file(path.parent().unwrap(), 10).await);

    let target = path.with_file_name("target");
    fs::write(&target, "untouched").unwrap();
    let link = path.with_file_name("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    host.write_file(&link, b"new", 0o600).await.unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"untouched", "it wrote through a link");
    let mut names = host.list_dir(path.parent().unwrap()).await.unwrap();
    names.sort();
    assert_eq!(names, ["hosts", "link", "target"], "something was left behind");
}

async fn folders(host: &Arc<dyn Host>, folder: &Path) {
    let top = new_path(folder, "folders");
    assert!(host.list_dir(&top).await.unwrap().is_empty(), "absent is empty");
    host.create_dir(&top.join("a/b"), 0o750).await.unwrap();
    assert_eq!((mode(&top.join("a")), mode(&top.join("a/b"))), (0o750, 0o750));
    host.create_dir(&top.join("a"), 0o700).await.expect("there already is fine");

    let outside = new_path(folder, "outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    std::os::unix::fs::symlink(&outside, top.join("a/link")).unwrap();
    host.remove_tree(&top).await.unwrap();
    assert!(!top.exists());
    assert!(outside.join("precious").exists(), "it followed a link");
    host.remove_tree(&top).await.expect("gone is fine");
}

async fn fifos(host: &Arc<dyn Host>, folder: &Path) {
    let path = |name: &str| new_path(folder, name);
    let good = [path("fifo"), path("fifo")];
    host.make_fifos(&good).await.unwrap();
    for fifo in &good {
        assert!(fs::symlink_metadata(fifo).unwrap().file_type().is_fifo());
        assert_eq!(fs::symlink_metadata(fifo).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    let new = path("fifo");
    let half: [PathBuf; 2] = [new.clone(), good[0].clone()];
    assert_eq!(kind(host.make_fifos(&half).await), ErrorKind::AlreadyExists);
    assert!(!new.exists(), "half of it was left behind");
}

async fn mounts(host: &Arc<dyn Host>, folder: &Path) {
    let pod = new_path(folder, "pod");
    let shm = pod.join("shm");
    assert_eq!(kind(host.mount_shm(&shm, 1 << 20).await), ErrorKind::NotFound);
    host.create_dir(&shm, 0o700).await.unwrap();
    host.mount_shm(&shm, 1 << 20).await.unwrap();
    host.unmount(&shm).await.unwrap();
    host.unmount(&shm).await.expect("not mounted is fine");
    host.mount_shm(&shm, 1 << 20).await.unwrap();
    host.remove_tree(&pod).await.expect("a tree with a mount in it");
    assert!(!pod.exists());
}

/// A folder stands for an image's root here.
async fn images(host: &Arc<dyn Host>, folder: &Path) {
    let (image, pod) = (new_path(folder, "image"), new_path(folder, "image-pod"));
    let target = pod.join("volume");
    host.write_file(&image.join("etc/motd"), b"hello", 0o644).await.unwrap();
    let rootfs = [RootfsMount {
        kind: "bind".into(),
        source: image.display().to_string(),
        target: String::new(),
        options: vec!["ro".into(), "rbind".into()],
    }];
    assert_eq!(kind(host.mount_image(&rootfs, &target, None).await), ErrorKind::NotFound);
    host.create_dir(&target, 0o700).await.unwrap();
    host.mount_image(&rootfs, &target, None).await.unwrap();
    host.mount_image(&rootfs, &target, None).await.expect("mounted already is fine");
    assert_eq!(host.find_inside(&target, "").await.unwrap(), target);
    let found = host.find_inside(&target, "etc/motd").await.unwrap();
    assert_eq!(found, target.join("etc/motd"));
    assert_eq!(kind(host.find_inside(&target, "etc/none").await), ErrorKind::NotFound);
    host.remove_tree(&pod).await.expect("a tree with an image in it");
    assert!(!pod.exists());
    assert!(image.join("etc/motd").exists(), "the image itself was emptied");
}

async fn sources(host: &Arc<dyn Host>, folder: &Path) {
    let path = new_path(folder, "volume");
    let missing = host.resolve_mount_source(&path, false).await;
    assert_eq!(kind(missing), ErrorKind::NotFound);
    assert!(!path.exists());
    let made = host.resolve_mount_source(&path, true).await.unwrap();
    assert_eq!((made.as_path(), mode(&path)), (path.as_path(), 0o755));
    let link = new_path(folder, "link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(host.resolve_mount_source(&link, false).await.unwrap(), path);
}

async fn volumes(host: &Arc<dyn Host>, folder: &Path) {
    let pod = new_path(folder, "volumes");
    let (disk, memory) = (pod.join("v/disk"), pod.join("v/memory"));
    for (path, medium) in [(&disk, Medium::Disk), (&memory, Medium::Memory(Some(1 << 20)))] {
        let dir = VolumeDir { medium, mode: 0o2770, gid: Some(4242) };
        host.create_volume(path, dir).await.unwrap();
        assert_eq!(mode(path), 0o2770);
        fs::write(path.join("own"), b"x").unwrap();
        host.create_volume(path, VolumeDir { mode: 0o777, ..dir }).await.unwrap();
        assert_eq!(mode(path), 0o2770, "it is the pod's by now");
        assert!(path.join("own").exists());
    }
    assert_eq!(mode(&pod.join("v")), 0o700);

    let file = VolumeFile { content: b"one".to_vec(), mode: 0o640, uid: None };
    let mut files = VolumeFiles { files: [("a/key".to_owned(), file)].into(), gid: None };
    assert!(host.write_volume(&disk, &files).await.unwrap());
    assert!(!host.write_volume(&disk, &files).await.unwrap());
    assert_eq!(fs::read(disk.join("a/key")).unwrap(), b"one");
    assert_eq!(fs::read_link(disk.join("a")).unwrap(), Path::new("..data/a"));
    let file = files.files.remove("a/key").unwrap();
    files.files.insert("b".to_owned(), file.clone());
    assert!(host.write_volume(&disk, &files).await.unwrap());
    assert!(!disk.join("a").exists() && disk.join("b").exists());
    files.files.insert("../out".to_owned(), file);
    let out = host.write_volume(&disk, &files).await;
    assert_eq!(kind(out), ErrorKind::InvalidArgument);
    files.files.remove("../out");
    let missing = host.write_volume(&pod.join("none"), &files).await;
    assert_eq!(kind(missing), ErrorKind::NotFound);

    let target = pod.join("subpaths/x/0");
    host.bind_sub_path(&disk, Path::new("new/deep"), &target).await.unwrap();
    host.bind_sub_path(&disk, Path::new("new/deep"), &target).await.expect("mounted so already");
    assert!(disk.join("new/deep").is_dir() && target.is_dir());
    let file = pod.join("subpaths/x/1");
    host.bind_sub_path(&disk, Path::new("b"), &file).await.unwrap();
    assert!(file.is_file());

    let own = async |sub: &str, max| host.read_in_volume(&disk, Path::new(sub), max).await;
    assert_eq!(own("own", 1).await.unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(own("none", 1).await.unwrap(), None);
    assert_eq!(kind(own("own", 0).await), ErrorKind::ResourceExhausted);
    assert_eq!(kind(own("new", 1).await), ErrorKind::FailedPrecondition);
    assert_eq!(kind(own("../v/own", 1).await), ErrorKind::InvalidArgument);
    std::os::unix::fs::symlink("/etc/hostname", disk.join("out")).unwrap();
    assert_eq!(kind(own("out", 100).await), ErrorKind::FailedPrecondition);

    assert!(!host.check_host_path(&disk, HostPathKind::File).await.unwrap());
    assert!(host.check_host_path(&disk, HostPathKind::Directory).await.unwrap());
    let (made, gone) = (pod.join("host/made"), pod.join("host/gone"));
    assert!(host.check_host_path(&made, HostPathKind::DirectoryOrCreate).await.unwrap());
    assert_eq!(mode(&made), 0o755);
    assert!(!host.check_host_path(&gone, HostPathKind::Socket).await.unwrap());

    assert_eq!(host.read_tail(&gone, 5).await.unwrap(), None);
    assert_eq!(host.read_tail(&disk.join("own"), 5).await.unwrap().as_deref(), Some(&b"x"[..]));
    assert_eq!(kind(host.read_tail(&disk, 5).await), ErrorKind::FailedPrecondition);
    host.remove_tree(&pod).await.expect("a tree with volumes in it");
    assert!(!pod.exists());
}

async fn connections(host: &Arc<dyn Host>, netns: &Path) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (near, far) = tokio::join!(host.connect_in_netns(None, port), listener.accept());
    assert_eq!(near.unwrap().local_addr().unwrap(), far.unwrap().1);
    drop(listener);
    kind(host.connect_in_netns(None, port).await);
    let listener = tokio::net::TcpListener::bind("[::1]:0").await;
    if let Ok(listener) = listener {
        let port = listener.local_addr().unwrap().port();
        let (near, far) = tokio::join!(host.connect_in_netns(None, port), listener.accept());
        assert_eq!(near.unwrap().local_addr().unwrap(), far.unwrap().1);
    }
    let gone = host.connect_in_netns(Some(netns), port).await;
    assert_eq!(kind(gone), ErrorKind::NotFound);
    let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let near = host.connect_udp_in_netns(None, far.local_addr().unwrap().port()).await.unwrap();
    near.send(b"datagram").await.unwrap();
    let mut got = [0; 16];
    let (length, from) = far.recv_from(&mut got).await.unwrap();
    assert_eq!((&got[..length], from), (&b"datagram"[..], near.local_addr().unwrap()));
    let gone = host.connect_udp_in_netns(Some(netns), port).await;
    assert_eq!(kind(gone), ErrorKind::NotFound);
}
