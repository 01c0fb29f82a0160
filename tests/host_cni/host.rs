use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount};
use podbay::backend::{CgroupVersion, ErrorKind, Host, NetnsState};
use podbay::model::container::Propagation;

use super::ground::{Ground, in_netns, run, wait_until};

fn mount_tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount(Some("none"), path, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_namespaces_at_once_are_distinct_and_have_loopback_up() {
    let ground = Ground::new();
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let paths: Vec<_> = (0..20).map(|n| ground.netns(&n.to_string())).collect();
    let made = paths.iter().map(|path| ground.host.create_netns(path));
    for result in futures::future::join_all(made).await {
        result.unwrap();
    }
    let inodes: BTreeSet<u64> = paths.iter().map(|p| fs::metadata(p).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 20);
    assert!(!inodes.contains(&own));
    assert_eq!(fs::metadata("/proc/self/ns/net").unwrap().ino(), own);
    for path in &paths {
        assert_eq!(ground.host.netns_state(path).await.unwrap(), NetnsState::Live);
        let link = in_netns(path, || run("ip", &["-o", "link", "show", "lo"])).join().unwrap();
        assert!(link.contains("LOOPBACK,UP"), "{link}");
    }
    assert_eq!(ground.host.list_netns().await.unwrap().len(), 20);
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = ground.path("netns").display().to_string();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(&folder)).unwrap();
    assert!(line.contains("shared:"), "{line}");
    for path in &paths {
        ground.host.remove_netns(path).await.unwrap();
        ground.host.remove_netns(path).await.unwrap();
        assert_eq!(ground.host.netns_state(path).await.unwrap(), NetnsState::Gone);
    }
    assert!(ground.host.list_netns().await.unwrap().is_empty());
    assert!(ground.stray_mounts().is_empty());
}

#[tokio::test]
async fn a_taken_or_foreign_netns_name_is_refused_and_left_alone() {
    let ground = Ground::new();
    let path = ground.netns("a");
    ground.host.create_netns(&path).await.unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let error = ground.host.create_netns(&path).await.unwrap_err();
    assert!(error.is_already_exists());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    let foreign = ground.path("netns/cni-1");
    for result in
        [ground.host.create_netns(&foreign).await, ground.host.remove_netns(&foreign).await]
    {
        assert_eq!(result.unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    // What a reboot leaves: a plain file.
    ground.host.remove_netns(&path).await.unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(ground.host.netns_state(&path).await.unwrap(), NetnsState::Gone);
    ground.host.remove_netns(&path).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn remove_tree_unmounts_and_keeps_what_was_only_mounted() {
    let ground = Ground::new();
    let outside = ground.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("keep"), "x").unwrap();
    let tree = ground.path("tree");
    mount_tmpfs(&tree.join("a/shm"));
    mount_tmpfs(&tree.join("a/shm/deeper"));
    fs::write(tree.join("a/shm/deeper/f"), "x").unwrap();
    let bind = tree.join("a/bind");
    fs::create_dir(&bind).unwrap();
    let none: Option<&str> = None;
    for _ in 0..2 {
        mount(Some(&outside), &bind, none, MsFlags::MS_BIND, none).unwrap();
    }
    let file = tree.join("file");
    fs::write(&file, "").unwrap();
    mount(Some(&outside.join("keep")), &file, none, MsFlags::MS_BIND, none).unwrap();

    ground.host.remove_tree(&tree).await.unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(outside.join("keep")).unwrap(), "x");
    assert!(ground.stray_mounts().is_empty());
    ground.host.remove_tree(&tree).await.unwrap();
}

#[tokio::test]
async fn remove_tree_detaches_a_mount_that_stays_busy() {
    let ground = Ground::new();
    let tree = ground.path("tree");
    mount_tmpfs(&tree);
    let _holder = fs::File::create(tree.join("held")).unwrap();
    let started = Instant::now();
    ground.host.remove_tree(&tree).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(4), "it was given time");
    assert!(!tree.exists() && ground.stray_mounts().is_empty());
}

#[tokio::test]
async fn shared_memory_is_mounted_as_promised() {
    let ground = Ground::new();
    let path = ground.path("sandbox/shm");
    let error = ground.host.mount_shm(&path, 1 << 20).await.unwrap_err();
    assert!(error.is_not_found() && !path.exists());
    ground.host.create_dir(&path, 0o700).await.unwrap();
    ground.host.mount_shm(&path, 1 << 20).await.unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains("/sandbox/shm ")).unwrap();
    for part in ["nosuid", "nodev", "noexec", "- tmpfs", "size=1024k"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o1777);
    ground.host.unmount(&path).await.unwrap();
    ground.host.unmount(&path).await.unwrap();
    assert!(ground.stray_mounts().is_empty());
}

#[tokio::test]
async fn propagation_is_that_of_the_mount_that_holds_the_path() {
    let ground = Ground::new();
    let point = ground.path("volume");
    mount_tmpfs(&point);
    let inside = point.join("a/b");
    fs::create_dir_all(&inside).unwrap();
    let none: Option<&str> = None;
    let allowed = async |wanted| ground.host.allows_propagation(&inside, wanted).await.unwrap();
    let (slave, both) = (Propagation::HostToContainer, Propagation::Bidirectional);
    for (flags, slave_ok, both_ok) in [
        (MsFlags::MS_PRIVATE, false, false),
        (MsFlags::MS_SHARED, true, true),
        (MsFlags::MS_SLAVE, false, false),
    ] {
        mount(none, &point, none, flags, none).unwrap();
        assert!(allowed(Propagation::Private).await);
        assert_eq!((allowed(slave).await, allowed(both).await), (slave_ok, both_ok), "{flags:?}");
    }
    nix::mount::umount2(&point, MntFlags::MNT_DETACH).unwrap();
}

#[tokio::test]
async fn oom_kills_are_counted_while_the_cgroup_lives() {
    let ground = Ground::new();
    let (top, limit) = match ground.host.facts().cgroup {
        CgroupVersion::V1 => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        CgroupVersion::V2 => ("/sys/fs/cgroup", "memory.max"),
    };
    let group = Path::new(top).join(format!("podbay-test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    fs::write(group.join(limit), "20000000").unwrap();
    let script = format!("echo $$ > {}/cgroup.procs; tail /dev/zero; read end", group.display());
    let mut shell = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = shell.id();
    let memory_cgroup = async |pid| ground.host.memory_cgroup(pid).await.unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    while memory_cgroup(pid).await.as_ref() != Some(&group) {
        assert!(Instant::now() < give_up, "the shell has not moved itself");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while ground.host.oom_kills(&group).await.unwrap().is_none_or(|kills| kills == 0) {
        assert!(Instant::now() < give_up, "no OOM kill was seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(memory_cgroup(pid).await, None);
    assert!(ground.host.oom_kills(&group).await.unwrap() >= Some(1), "it outlives its processes");
    wait_until("the cgroup is empty", || fs::remove_dir(&group).is_ok());
    assert_eq!(ground.host.oom_kills(&group).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_reached_inside_a_namespace() {
    let ground = Ground::new();
    let (here, there) = (ground.netns("here"), ground.netns("there"));
    for path in [&here, &there] {
        ground.host.create_netns(path).await.unwrap();
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // Listens in one namespace; nobody listens on that port elsewhere, or somebody else does.
        let listener = in_netns(&here, move || std::net::TcpListener::bind(address)).join();
        let listener = listener.unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = ground.host.connect_in_netns(Some(&here), port).await.unwrap();
        let (_far, peer) = listener.accept().unwrap();
        assert_eq!(near.local_addr().unwrap(), peer);
        let error = ground.host.connect_in_netns(Some(&there), port).await.unwrap_err();
        assert!(error.to_string().contains(&there.display().to_string()), "{error}");
    }
    let far = in_netns(&here, || std::net::UdpSocket::bind("127.0.0.1:0")).join().unwrap().unwrap();
    let port = far.local_addr().unwrap().port();
    let near = ground.host.connect_udp_in_netns(Some(&here), port).await.unwrap();
    near.send(b"datagram").await.unwrap();
    let mut got = [0; 16];
    let (length, from) = far.recv_from(&mut got).unwrap();
    assert_eq!((&got[..length], from), (&b"datagram"[..], near.local_addr().unwrap()));
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    // Threads that have ended, and those of other tests, are there for a moment.
    wait_until("no thread stays there", || {
        fs::read_dir("/proc/self/task").unwrap().flatten().all(|thread| {
            let namespace = fs::metadata(thread.path().join("ns/net"));
            namespace.is_err() || namespace.unwrap().ino() == own
        })
    });
    for path in [&here, &there] {
        ground.host.remove_netns(path).await.unwrap();
    }
}

#[tokio::test]
async fn a_restarted_host_clears_its_scratch_folder() {
    let ground = Ground::new();
    mount_tmpfs(&ground.path("scratch/left"));
    podbay::backend::linux::LinuxHost::new(podbay::backend::linux::Options {
        netns_dir: ground.path("netns"),
        scratch: ground.path("scratch"),
        ..Default::default()
    })
    .unwrap();
    assert_eq!(fs::read_dir(ground.path("scratch")).unwrap().count(), 0);
    assert!(ground.stray_mounts().is_empty());
}
