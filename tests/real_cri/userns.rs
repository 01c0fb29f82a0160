//! Pods with their own user namespaces: supported with containerd 2.x, refused with 1.x.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use crate::rig::{LivePod, Rig, image_spec};
use crate::support::builders::{Container, Pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;
use crate::support::parts;

/// First ids of the pods on the host.
const UIDS: u32 = 1_000_000;
const GIDS: u32 = 2_000_000;
const LENGTH: u32 = 65536;

fn line(host_id: u32) -> cri::IdMapping {
    cri::IdMapping { host_id, container_id: 0, length: LENGTH }
}

fn own_users() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: vec![line(UIDS)],
        gids: vec![line(GIDS)],
    }
}

fn users_of_the_node() -> cri::UserNamespace {
    cri::UserNamespace { mode: cri::NamespaceMode::Node.into(), ..Default::default() }
}

fn with_users(mut pod: Pod) -> Pod {
    pod.namespaces().userns_options = Some(own_users());
    pod
}

fn same_users(mut container: Container) -> Container {
    container.namespaces().userns_options = Some(own_users());
    container
}

fn has_users(line: Line) -> bool {
    line == Line::V2
}

async fn features(rig: &Rig) -> Vec<cri::RuntimeHandlerFeatures> {
    let request = cri::StatusRequest { verbose: false };
    let told = rig.runtime().status(request).await.expect("Status").into_inner();
    let host_network = told.features.expect("features").user_namespaces_host_network;
    let features: Vec<_> =
        told.runtime_handlers.into_iter().filter_map(|handler| handler.features).collect();
    assert_eq!(host_network, features.iter().any(|features| features.user_namespaces));
    features
}

/// Whether this line announces user namespaces; if not, asking for one is refused.
async fn announced(rig: &Rig) -> bool {
    let announced = features(rig).await.iter().all(|features| features.user_namespaces);
    assert_eq!(announced, has_users(rig.env().line), "the snapshotter of 1.x maps no ids");
    if !announced {
        let refused = rig.try_run(&with_users(rig.pod_spec("refused"))).await.expect_err("a pod");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("userns_options"), "{refused}");
    }
    announced
}

pub async fn pods_have_users_of_their_own(line: Line) {
    let mut rig = Rig::start(line).await;
    if !announced(&rig).await {
        // The node's own users are there all the same.
        let mut spec = rig.pod_spec("node");
        spec.namespaces().userns_options = Some(users_of_the_node());
        let pod = rig.run(spec).await;
        let mut container = Container::script("c", &rig.image, "cat /proc/self/uid_map");
        container.namespaces().userns_options = Some(users_of_the_node());
        assert_eq!(words(&rig.output(&pod, &container).await.0), ["0", "0", "4294967295"]);
        return rig.finish().await;
    }
    let pod = rig.run(with_users(rig.pod_spec("own"))).await;
    let echoed = rig.pod_status(&pod.id).await.linux.and_then(|it| it.namespaces);
    let echoed = echoed.and_then(|it| it.options).and_then(|it| it.userns_options);
    assert_eq!(echoed, Some(own_users()));
    let id = rig.launch(&pod, &same_users(Container::waiting("main", &rig.image))).await;
    let map = words(&rig.exec(&id, "cat /proc/self/uid_map").await).join(" ");
    assert_eq!(map, format!("0 {UIDS} {LENGTH}"));
    let map = words(&rig.exec(&id, "cat /proc/self/gid_map").await).join(" ");
    assert_eq!(map, format!("0 {GIDS} {LENGTH}"));
    assert_eq!(rig.exec(&id, "id -u; id -g").await, "0\n0");
    let process = std::fs::metadata(format!("/proc/{}", rig.pid(&id).await)).expect("a process");
    assert_eq!((process.uid(), process.gid()), (UIDS, GIDS), "nobody on the host");

    // Its root owns what a root has to, and rules over the pod's network.
    let owned = "stat -c %u:%g / /bin/sh /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm | uniq";
    assert_eq!(rig.exec(&id, owned).await, "0:0");
    rig.exec(&id, "echo x >/new && echo 1.2.3.4 x >>/etc/hosts && touch /dev/shm/x && mkdir /sub")
        .await;
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward";
    assert_eq!(rig.exec(&id, forward).await, "1");
    assert_eq!(rig.exec(&id, "ls /sys/class/net | tr '\\n' ' '").await, "eth0 lo");
    let ping =
        "cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(words(&rig.exec(&id, ping).await), ["0", "65535", "0"]);
    // Streams can be opened again, also by another user and by an exec.
    let script = "echo out >/dev/stdout; echo err >/dev/stderr";
    let mut other = same_users(Container::script("other", &rig.image, script));
    other.security().run_as_user = Some(cri::Int64Value { value: 1234 });
    // Two pipes have no order between them.
    let (output, code) = rig.output(&pod, &other).await;
    let lines: BTreeSet<_> = output.lines().collect();
    assert_eq!((lines, code), (BTreeSet::from(["err", "out"]), 0));
    assert_eq!(rig.exec(&id, script).await, "out");

    // Containers of one pod see each other's files in memory, and a new agent knows the pod.
    rig.agent.kill9();
    rig.agent.restart().await;
    let second = rig.launch(&pod, &same_users(Container::waiting("second", &rig.image))).await;
    assert_eq!(rig.exec(&second, "ls /dev/shm").await, "x");
    let same = |id: i32| std::fs::read_link(format!("/proc/{id}/ns/user")).expect("a namespace");
    assert_eq!(same(rig.pid(&id).await), same(rig.pid(&second).await));
    let hostname = rig.exec(&second, "hostname").await;
    assert_eq!(hostname, "own");
    rig.finish().await;
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::metadata(path).expect("a file");
    (found.uid(), found.gid())
}

pub async fn volumes_have_mapped_ids(line: Line) {
    let mut rig = Rig::start(line).await;
    let image = ImageBuilder::busybox().volume("/data").file("/data/seed", b"of the image", 0o644);
    let image = rig.add_image("volumes", image).await;
    let folder = rig.env().file("volume");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "of the host").expect("a file");
    let mount = |mapped: bool| cri::Mount {
        container_path: "/mapped".into(),
        host_path: folder.display().to_string(),
        uid_mappings: mapped.then(|| self::line(UIDS)).into_iter().collect(),
        gid_mappings: mapped.then(|| self::line(GIDS)).into_iter().collect(),
        ..Default::default()
    };
    if !announced(&rig).await {
        let pod = rig.run(rig.pod_spec("plain")).await;
        let mut container = Container::waiting("c", &image);
        container.config.mounts.push(mount(true));
        let refused = rig.create(&pod, &container).await.expect_err("runc 1.1 cannot");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().starts_with("mounts[0].uidMappings"), "{refused}");
        return rig.finish().await;
    }
    let pod = rig.run(with_users(rig.pod_spec("own"))).await;
    let mut container = same_users(Container::waiting("c", &image));
    container.config.mounts.push(mount(true));
    container.config.mounts.push(cri::Mount { container_path: "/plain".into(), ..mount(false) });
    let id = rig.launch(&pod, &container).await;
    let owners = "stat -c %u:%g /mapped/file /plain/file /data /data/seed";
    assert_eq!(rig.exec(&id, owners).await, "0:0\n65534:65534\n0:0\n0:0");
    rig.exec(
        &id,
        "echo new >/mapped/new && echo more >>/data/seed && ! touch /plain/x 2>/dev/null",
    )
    .await;
    assert_eq!(owner(&folder.join("new")), (0, 0), "on the disk it is the host root's");
    rig.finish().await;
}

/// Of one layer, which is mounted as a folder, and of more, which are an overlay.
pub async fn image_volumes_have_the_users_of_the_pod(line: Line) {
    let mut rig = Rig::start(line).await;
    if !announced(&rig).await {
        return rig.finish().await;
    }
    let files = |image: ImageBuilder| {
        let image = image.dir("/dir", 0o755, 1234, 4321).file("/dir/mine", b"of root", 0o600);
        image.symlink("/dir/link", "mine")
    };
    let one = rig.add_image("one-layer", files(ImageBuilder::empty())).await;
    let more = rig.add_image("more-layers", files(ImageBuilder::busybox())).await;
    let pod = rig.run(with_users(rig.pod_spec("own"))).await;
    let volume = |path: &str, image: &str, mapped: Option<u32>| cri::Mount {
        container_path: path.into(),
        readonly: true,
        image: Some(image_spec(image)),
        uid_mappings: mapped.map(self::line).into_iter().collect(),
        gid_mappings: mapped.map(|_| self::line(GIDS)).into_iter().collect(),
        ..Default::default()
    };
    // A kubelet tells the pod's mappings for each mount.
    for (name, mapped) in [("untold", None), ("told", Some(UIDS))] {
        let mut container = same_users(Container::waiting(name, &rig.image));
        container.config.mounts.push(volume("/one", &one, mapped));
        container.config.mounts.push(volume("/more", &more, mapped));
        let id = rig.launch(&pod, &container).await;
        for path in ["/one", "/more"] {
            let seen = format!("stat -c %u:%g {path}/dir {path}/dir/mine; cat {path}/dir/link");
            assert_eq!(rig.exec(&id, &seen).await, "1234:4321\n0:0\nof root", "{name} {path}");
            rig.exec(&id, &format!("! touch {path}/dir/new 2>/dev/null")).await;
        }
    }
    let mut other = same_users(Container::waiting("other", &rig.image));
    other.config.mounts.push(volume("/one", &one, Some(UIDS + 1)));
    let refused = rig.create(&pod, &other).await.expect_err("users of somebody else");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("mounts[0].uidMappings"), "{refused}");
    // A new agent finds the mounts.
    rig.agent.kill9();
    rig.agent.restart().await;
    let mut late = same_users(Container::waiting("late", &rig.image));
    late.config.mounts.push(volume("/more", &more, None));
    let id = rig.launch(&pod, &late).await;
    assert_eq!(rig.exec(&id, "cat /more/dir/mine").await, "of root");
    rig.finish().await;
}

/// The pod's cgroup binds containers with own users like all others.
pub async fn limits_hold_in_user_namespaces(line: Line) {
    let rig = Rig::start(line).await;
    if !announced(&rig).await {
        return rig.finish().await;
    }
    let pod = rig.run(with_users(rig.pod_spec("limits"))).await;
    let hog = Container::new("hog", &rig.image)
        .command(&["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=256M"])
        .memory_limit(32 << 20);
    let status = rig.run_to_end(&pod, &same_users(hog)).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    let id = rig.launch(&pod, &same_users(Container::waiting("c", &rig.image))).await;
    let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", rig.pid(&id).await));
    let cgroups = cgroups.expect("cgroups");
    let below = format!(":{}/{id}", rig.env().cgroup_parent());
    assert!(
        cgroups.lines().any(|line| line.contains("memory") && line.ends_with(&below)),
        "{cgroups}"
    );
    rig.finish().await;
}

pub async fn bad_user_namespaces_leave_nothing(line: Line) {
    let rig = Rig::start(line).await;
    let pods: &[fn(&mut cri::UserNamespace)] = &[
        |it| it.mode = cri::NamespaceMode::Container.into(),
        |it| it.mode = cri::NamespaceMode::Target.into(),
        |it| it.mode = cri::NamespaceMode::Node.into(),
        |it| it.uids.push(line_of_others()),
        |it| it.gids.push(line_of_others()),
        |it| it.uids.clear(),
        |it| it.gids.clear(),
        |it| it.uids[0].container_id = 1,
        |it| it.gids[0].host_id = 0,
        |it| it.gids[0].length = 1,
    ];
    for (index, change) in pods.iter().enumerate() {
        let mut spec = with_users(rig.pod_spec("bad"));
        change(spec.namespaces().userns_options.as_mut().expect("options"));
        let refused = rig.try_run(&spec).await.expect_err("a bad pod");
        assert_eq!(refused.code(), Code::InvalidArgument, "{index}: {refused}");
        assert!(refused.message().contains("userns_options"), "{index}: {refused}");
    }
    let plain = rig.run(rig.pod_spec("plain")).await;
    let container = same_users(Container::waiting("c", &rig.image));
    refused_for_its_users(&rig, &plain, &container).await;
    if has_users(line) {
        for change in [
            |it: &mut cri::NamespaceOption| it.pid = cri::NamespaceMode::Node.into(),
            |it: &mut cri::NamespaceOption| it.ipc = cri::NamespaceMode::Node.into(),
        ] {
            let mut spec = with_users(rig.pod_spec("bad"));
            change(spec.namespaces());
            let refused = rig.try_run(&spec).await.expect_err("a bad pod");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        }
        let own = rig.run(with_users(rig.pod_spec("own"))).await;
        refused_for_its_users(&rig, &own, &Container::waiting("none", &rig.image)).await;
        let mut other = same_users(Container::waiting("other", &rig.image));
        other.namespaces().userns_options.as_mut().expect("options").gids[0].host_id += LENGTH;
        refused_for_its_users(&rig, &own, &other).await;
        let mut stranger = same_users(Container::waiting("stranger", &rig.image));
        stranger.security().run_as_user = Some(cri::Int64Value { value: LENGTH.into() });
        let refused = rig.create(&own, &stranger).await.expect_err("a user without a mapping");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("user 65536 is not among"), "{refused}");
    }
    rig.finish().await;
}

fn line_of_others() -> cri::IdMapping {
    cri::IdMapping { host_id: 3_000_000, container_id: LENGTH, length: LENGTH }
}

async fn refused_for_its_users(rig: &Rig, pod: &LivePod, container: &Container) {
    let refused = rig.create(pod, container).await.expect_err("other users than the pod's");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("userns_options: differs"), "{refused}");
}

pub async fn the_host_network_with_own_users(line: Line) {
    let mut env = TestEnv::start(line).await;
    // 1.x with a new runc has id-mapped volumes, but still no root file system with mapped ids.
    env.add_config(&format!("[runtimes.handlers.new]\nbinary = {:?}", parts().join("runc")));
    let rig = Rig::start_in(env).await;
    if !announced(&rig).await {
        return rig.finish().await;
    }
    let pod = rig.run(with_users(rig.pod_spec("host")).host_network()).await;
    let id = rig.launch(&pod, &same_users(Container::waiting("c", &rig.image))).await;
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a link");
    assert_eq!(network(&rig.pid(&id).await.to_string()), network("self"));
    assert_eq!(rig.exec(&id, "id -u; ls /sys/class/net | grep -c '^lo$'").await, "0\n1");
    let script =
        "! touch /sys/x 2>/dev/null && ! (echo 0 >/proc/sys/net/ipv4/ip_forward) 2>/dev/null";
    rig.exec(&id, script).await;
    rig.finish().await;
}
