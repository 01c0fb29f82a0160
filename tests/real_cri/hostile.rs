//! Images and requests that try to access the host.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use crate::rig::{LivePod, Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;
use crate::support::wait_until;

/// A folder of the host that nothing may change.
fn outside(rig: &Rig) -> String {
    let folder = rig.env().file("outside");
    std::fs::create_dir_all(folder.join("etc")).expect("a folder");
    std::fs::write(folder.join("etc/secret"), "of the host").expect("a file");
    folder.display().to_string()
}

/// Names below a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(names(&path));
        }
        found.push(path.display().to_string());
    }
    found.sort();
    found
}

/// Runs what may be refused; what it said, when it ran.
async fn attempt(rig: &Rig, pod: &LivePod, spec: &Container) -> Option<String> {
    let id = rig.create(pod, spec).await.ok()?;
    if rig.start_created(&id).await.is_err() {
        return None;
    }
    let log = rig.ended(&id).await.log_path;
    Some(std::fs::read_to_string(log).unwrap_or_default())
}

pub async fn images_do_not_reach_out(line: Line) {
    let mut rig = Rig::start(line).await;
    let outside = outside(&rig);
    let before = names(Path::new(&outside));
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    let base = || {
        let image = ImageBuilder::empty().file("/bin/busybox", &busybox, 0o755);
        image.symlink("/bin/sh", "busybox").entrypoint(&["/bin/sh", "-c"])
    };
    let climb = format!("../../../../../../../..{outside}");
    let images = [
        ("workdir", base().symlink("/a", &outside).working_dir("/a/made")),
        ("climbing-workdir", base().symlink("/a", &climb).working_dir("/a/made")),
        ("etc", base().symlink("/etc", &format!("{outside}/etc"))),
        ("climbing-etc", base().symlink("/etc", &format!("{climb}/etc"))),
        (
            "passwd",
            base().dir("/etc", 0o755, 0, 0).symlink("/etc/passwd", "/proc/1/root/etc/passwd"),
        ),
        ("volume", base().symlink("/data", &outside).volume("/data").volume("/data/made")),
        ("mtab", base().dir("/etc", 0o755, 0, 0).symlink("/etc/mtab", &format!("{outside}/mtab"))),
    ];
    let mut ready = Vec::new();
    for (name, image) in images {
        ready.push((name, rig.add_image(name, image).await));
    }
    let pod = rig.run(rig.pod_spec("reach")).await;
    for (name, image) in &ready {
        let script = "busybox echo here; busybox cat /etc/secret /data/etc/secret 2>/dev/null";
        let spec = Container::new(name, image).args(&[script]).env("PATH", "/bin");
        let said = attempt(&rig, &pod, &spec).await;
        assert_eq!(names(Path::new(&outside)), before, "{name} made something");
        // Inside the image each link leads somewhere harmless, or nowhere: then it does not run.
        let said = said.unwrap_or_default();
        assert!(!said.contains("of the host"), "{name} read the host");
        assert!(*name != "mtab" || said.contains("here"), "{name} does not run: {said}");
    }
    rig.finish().await;
}

/// A descriptor that somebody left open may be a door to a folder of the host.
pub async fn working_folders_are_the_containers(line: Line) {
    let mut rig = Rig::start(line).await;
    let image = ImageBuilder::busybox().working_dir("/proc/self/fd/7");
    let image = rig.add_image("door", image).await;
    let mut links = Vec::new();
    for number in 3..9 {
        let image = ImageBuilder::busybox().symlink("/door", &format!("/proc/self/fd/{number}"));
        links.push(rig.add_image(&format!("link-{number}"), image.working_dir("/door")).await);
    }
    let pod = rig.run(rig.pod_spec("descriptors")).await;
    for folder in ["/proc/self/fd/7", "/proc/1/cwd", "/dev/fd/8"] {
        let mut spec = Container::waiting("refused", &rig.image);
        spec.config.working_dir = folder.into();
        let refused = rig.create(&pod, &spec).await.expect_err(folder);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let refused = rig.create(&pod, &Container::waiting("refused", &image)).await;
    let refused = refused.expect_err("a door in the image");
    assert!(refused.message().contains("/proc/self/fd/7"), "{refused}");
    // Where a link of the image leads, only the OCI runtime learns.
    let root = std::fs::metadata("/").expect("the root");
    let root = format!("{} {}", root.dev(), root.ino());
    for (number, image) in links.iter().enumerate() {
        let name = format!("link-{number}");
        let script = "stat -c '%d %i' . ../../../../../../../..; cat ../../../../../etc/shadow";
        let said = attempt(&rig, &pod, &Container::script(&name, image, script)).await;
        let said = said.unwrap_or_default();
        assert!(!said.lines().any(|line| line.ends_with(&root)), "{name} is at the host's: {said}");
        assert!(!said.contains("root:"), "{name}: {said}");
    }
    rig.finish().await;
}

/// A file of the host that takes the place of one that podbay makes stays as it is.
pub async fn files_of_the_host_stay_as_they_are(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("files")).await;
    let mut spec =
        Container::script("c", &rig.image, "cat /etc/hosts /etc/resolv.conf /etc/hostname");
    let file = rig.env().file("own");
    std::fs::write(&file, "own\n").expect("a file");
    let facts = |path: &Path| {
        let it = std::fs::symlink_metadata(path).expect("a file");
        (it.ino(), it.uid(), it.gid(), it.mode(), it.mtime_nsec(), it.ctime_nsec())
    };
    let before = facts(&file);
    for path in ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
        spec.config.mounts.push(cri::Mount {
            container_path: path.into(),
            host_path: file.display().to_string(),
            selinux_relabel: true,
            ..Default::default()
        });
    }
    assert_eq!(rig.output(&pod, &spec).await.0, "own\nown\nown");
    assert_eq!(facts(&file), before);
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "own\n");
    rig.finish().await;
}

/// Values that others have handed on in one line with more than was checked.
pub async fn parameters_of_the_host_stay_as_they_are(line: Line) {
    let rig = Rig::start(line).await;
    let table = || {
        ["kernel/core_pattern", "net/ipv4/ip_forward", "kernel/shmmax", "kernel/hostname"]
            .map(|name| std::fs::read_to_string(format!("/proc/sys/{name}")).expect(name))
    };
    let before = table();
    for (key, value) in [
        ("net.ipv4.ip_local_port_range", "1024 65000'+'net.ipv4.ip_forward=0"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/false"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=x"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "x"),
        ("kernel.core_pattern", "x"),
        ("kernel/core_pattern", "x"),
        ("net/../kernel/core_pattern", "x"),
    ] {
        let refused = rig.try_run(&rig.pod_spec("bad").sysctl(key, value)).await;
        let refused = refused.expect_err(key);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert_eq!(table(), before, "{key}={value}");
    }
    let mut spec = rig.pod_spec("ipc").sysctl("kernel.shm_rmid_forced", "1");
    spec.namespaces().ipc = cri::NamespaceMode::Node.into();
    let refused = rig.try_run(&spec).await.expect_err("of the host's IPC namespace");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    rig.agent.assert_clean().await;
    rig.finish().await;
}

/// A checkpoint is never brought back, whatever names it as an image.
pub async fn nothing_is_restored(line: Line) {
    let mut rig = Rig::start(line).await;
    let archive = rig.env().file("checkpoint.tar");
    std::fs::write(&archive, "").expect("a file");
    let image = ImageBuilder::busybox()
        .label("org.criu.checkpoint.container.name", "c")
        .label("io.kubernetes.cri-o.annotations.checkpoint.name", "c");
    let image = rig.add_image("checkpoint", image).await;
    let pod = rig.run(rig.pod_spec("restore")).await;
    let path = archive.display().to_string();
    for name in [path.as_str(), &format!("file://{path}"), &format!("localhost{path}")] {
        let refused = rig.create(&pod, &Container::waiting("c", name)).await.expect_err(name);
        let known = [Code::NotFound, Code::InvalidArgument];
        assert!(known.contains(&refused.code()), "{refused}");
    }
    let (said, code) =
        rig.output(&pod, &Container::script("plain", &image, "echo from the start")).await;
    assert_eq!((said.as_str(), code), ("from the start", 0));
    rig.finish().await;
}

/// Who copies a container's log is not in its cgroup.
pub async fn much_output_is_not_the_containers_memory(line: Line) {
    const BYTES: usize = 24 << 20;
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("talker")).await;
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x");
    let spec = Container::script("c", &rig.image, &script).memory_limit(16 << 20);
    let id = rig.launch(&pod, &spec).await;
    // A log of this size takes its time on a busy machine.
    wait_until(4 * SOON, "it has said all", async || {
        rig.status(&id).await.state() == cri::ContainerState::ContainerExited
    })
    .await;
    let status = rig.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{status:?}");
    let log = std::fs::metadata(&status.log_path).expect("the log").len();
    assert!(log > BYTES as u64, "{log}");
    let own = std::fs::read_to_string(format!("/proc/{}/cgroup", rig.agent.pid()));
    assert!(!own.expect("its cgroups").contains(&rig.env().cgroup_parent()));
    rig.finish().await;
}
