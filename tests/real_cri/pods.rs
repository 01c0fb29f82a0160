//! Pod sandboxes: status, addresses, shared files and namespaces, ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;
use crate::support::registry::free_port;
use crate::support::{eventually, wait_until};

pub async fn pods_have_addresses_and_status(line: Line) {
    let mut rig = Rig::start(line).await;
    let web = rig.add_image("web", ImageBuilder::web()).await;
    let port = free_port();
    let spec =
        rig.pod_spec("web").label("app", "web").annotation("note", "a b\nc").port(port, 8080);
    let pod = rig.run(spec).await;
    let status = rig.pod_status(&pod.id).await;
    assert_eq!(status.id, pod.id);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.spec.config.metadata);
    assert_eq!(status.labels, pod.spec.config.labels);
    assert_eq!(status.annotations, pod.spec.config.annotations);
    assert!(status.created_at > 0);
    let ip = status.network.expect("a network").ip;
    assert!(ip.starts_with(&format!("{}.", rig.env().subnet_prefix())), "{ip}");

    rig.launch(&pod, &Container::new("web", &web)).await;
    let second = rig.launch_waiting(&pod, "second").await;
    assert_eq!(page(&ip, 8080).await.as_deref(), Some("hello\n"), "the pod from the host");
    let heard = rig.exec(&second, "wget -q -O - http://127.0.0.1:8080/").await;
    assert_eq!(heard, "hello", "a container from another one over localhost");
    let gateway = format!("{}.1", rig.env().subnet_prefix());
    assert_eq!(page(&gateway, port).await.as_deref(), Some("hello\n"), "the published port");

    rig.stop_pod(&pod.id).await;
    let status = rig.pod_status(&pod.id).await;
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    assert_eq!(status.network.map(|network| network.ip).unwrap_or_default(), "");
    assert_eq!(get(&gateway, port), None, "the published port of a stopped pod");
    rig.finish().await;
}

async fn page(host: &str, port: u16) -> Option<String> {
    eventually(SOON, async || get(host, port)).await
}

/// The page of a web server, when there is one.
fn get(host: &str, port: u16) -> Option<String> {
    let address = format!("{host}:{port}").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

pub async fn pods_share_what_they_should(line: Line) {
    let rig = Rig::start(line).await;
    let spec = rig
        .pod_spec("shared")
        .dns(&["10.0.0.10", "10.0.0.11"], &["a.test", "test"], &["ndots:5"])
        .sysctl("net.ipv4.ip_local_port_range", "20000 30000")
        .sysctl("kernel.shm_rmid_forced", "1");
    let pod = rig.run(spec).await;
    let one = rig.launch_waiting(&pod, "one").await;
    let two = rig.launch_waiting(&pod, "two").await;
    let resolv = rig.exec(&one, "cat /etc/resolv.conf").await;
    assert_eq!(
        resolv,
        "search a.test test\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5"
    );
    assert_eq!(
        rig.exec(&one, "hostname; cat /etc/hostname; echo $HOSTNAME").await,
        "shared\nshared\nshared"
    );
    let hosts = std::fs::read_to_string("/etc/hosts").expect("/etc/hosts");
    assert_eq!(rig.exec(&one, "cat /etc/hosts").await, hosts.trim());
    rig.exec(&one, "echo hello >/dev/shm/file").await;
    assert_eq!(rig.exec(&two, "cat /dev/shm/file").await, "hello");
    let shm = rig.exec(&two, "grep ' /dev/shm ' /proc/mounts").await;
    assert!(["nosuid", "nodev", "noexec"].iter().all(|flag| shm.contains(flag)), "{shm}");
    assert_eq!(rig.exec(&two, "stat -c %a /dev/shm").await, "1777");
    let sysctls = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced \
                   /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(rig.exec(&two, sysctls).await, "20000\t30000\n1\n0");
    for namespace in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        let (here, there) = (rig.exec(&one, &link).await, rig.exec(&two, &link).await);
        assert_eq!(here, there);
        assert_ne!(here, host_namespace(namespace), "{namespace} is the host's");
    }
    // The parent given is the parent used.
    let cgroup = rig.exec(&one, "cat /proc/self/cgroup").await;
    let pid = rig.pid(&one).await;
    let on_host = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroup");
    let wanted = format!("{}/{one}", rig.env().cgroup_parent());
    assert!(on_host.contains(&wanted), "{wanted} is not in {on_host} (inside: {cgroup})");

    // An empty DNS configuration is an empty file, none is the host's.
    let empty = rig.run(rig.pod_spec("empty").dns(&[], &[], &[])).await;
    let id = rig.launch_waiting(&empty, "c").await;
    assert_eq!(rig.exec(&id, "cat /etc/resolv.conf").await, "");
    let none = rig.run(rig.pod_spec("none")).await;
    let id = rig.launch_waiting(&none, "c").await;
    let host = std::fs::read_to_string("/etc/resolv.conf").expect("/etc/resolv.conf");
    assert_eq!(rig.exec(&id, "cat /etc/resolv.conf").await, host.trim());
    rig.finish().await;
}

fn host_namespace(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
    link.to_string_lossy().into_owned()
}

pub async fn process_namespaces_are_as_asked(line: Line) {
    let rig = Rig::start(line).await;
    let mut spec = rig.pod_spec("pids");
    spec.namespaces().pid = cri::NamespaceMode::Pod.into();
    let pod = rig.run(spec).await;
    let with = |name: &str, mode: cri::NamespaceMode, target: &str| {
        let mut container = Container::waiting(name, &rig.image);
        container.namespaces().pid = mode.into();
        container.namespaces().target_id = target.to_owned();
        container
    };
    use cri::NamespaceMode::{Container as Own, Node, Pod as OfPod, Target};
    let sibling = rig.launch(&pod, &with("sibling", OfPod, "")).await;
    let shared = rig.launch(&pod, &with("shared", OfPod, "")).await;
    let processes =
        rig.exec(&shared, "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done").await;
    assert!(processes.contains("pause"), "no pause in:\n{processes}");
    assert!(processes.matches("sleep 86400 & wait").count() >= 2, "no sibling in:\n{processes}");
    let own = rig.launch(&pod, &with("own", Own, "")).await;
    assert!(rig.exec(&own, "tr '\\0' ' ' </proc/1/cmdline").await.contains("sleep 86400"));
    let link = "readlink /proc/self/ns/pid";
    let target = rig.launch(&pod, &with("target", Target, &own)).await;
    assert_eq!(rig.exec(&target, link).await, rig.exec(&own, link).await);
    assert_eq!(rig.exec(&sibling, link).await, rig.exec(&shared, link).await);
    assert_ne!(rig.exec(&own, link).await, rig.exec(&shared, link).await);

    let refused = rig.create(&pod, &with("bad", Target, "0123")).await.expect_err("no such target");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("target_id"), "{refused}");

    let mut spec = rig.pod_spec("host-pids");
    spec.namespaces().pid = Node.into();
    let host = rig.run(spec).await;
    let id = rig.launch(&host, &with("node", Node, "")).await;
    assert_eq!(rig.exec(&id, link).await, host_namespace("pid"));
    rig.finish().await;
}

pub async fn pods_of_the_host(line: Line) {
    let rig = Rig::start(line).await;
    let mut spec = rig.pod_spec("host").host_network();
    spec.config.hostname.clear();
    spec.namespaces().ipc = cri::NamespaceMode::Node.into();
    let pod = rig.run(spec).await;
    let status = rig.pod_status(&pod.id).await;
    assert_eq!(status.network.map(|network| network.ip).unwrap_or_default(), "");
    let options = status.linux.and_then(|linux| linux.namespaces).and_then(|it| it.options);
    assert_eq!(options.map(|options| options.network()), Some(cri::NamespaceMode::Node));
    let mut container = Container::waiting("c", &rig.image);
    container.namespaces().network = cri::NamespaceMode::Node.into();
    container.namespaces().ipc = cri::NamespaceMode::Node.into();
    let id = rig.launch(&pod, &container).await;
    for namespace in ["net", "ipc"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        assert_eq!(rig.exec(&id, &link).await, host_namespace(namespace));
    }
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    assert_eq!(rig.exec(&id, "hostname").await, node.trim());
    rig.finish().await;

    // What would change the host is refused, and nothing is made.
    let rig = Rig::start(line).await;
    let spec = rig.pod_spec("host").host_network().sysctl("net.ipv4.ip_forward", "1");
    let refused = rig.try_run(&spec).await.expect_err("a sysctl of the host");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    rig.finish().await;
}

pub async fn ends_of_pods(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("killed")).await;
    let running = rig.launch_waiting(&pod, "running").await;
    let pause = rig.pod_info(&pod.id).await["pid"].as_i64().expect("a pid");
    kill(Pid::from_raw(i32::try_from(pause).expect("a pid")), Signal::SIGKILL).expect("a kill");
    wait_until(SOON, "the pod is not ready", async || {
        rig.pod_status(&pod.id).await.state() == cri::PodSandboxState::SandboxNotready
    })
    .await;
    let refused = rig.create(&pod, &Container::waiting("late", &rig.image)).await;
    assert_eq!(refused.expect_err("a dead pod").code(), tonic::Code::FailedPrecondition);
    rig.stop_pod(&pod.id).await;
    rig.stop_pod(&pod.id).await;
    let status = rig.status(&running).await;
    assert_eq!((status.state(), status.exit_code), (cri::ContainerState::ContainerExited, 137));
    // Its name is still taken; the next attempt is another name.
    let same = rig.try_run(&pod.spec).await.expect_err("the name is taken");
    assert_eq!(same.code(), tonic::Code::FailedPrecondition, "{same}");
    let next = rig.run(rig.pod_spec("killed").attempt(1)).await;
    assert_eq!(rig.try_run(&next.spec).await.expect("the same pod"), next.id, "a retry");
    rig.launch_waiting(&next, "running").await;
    rig.remove_pod(&next.id).await;
    rig.remove_pod(&next.id).await;
    let gone = rig.try_pod_status(&next.id).await.expect_err("it is removed");
    assert_eq!(gone.code(), tonic::Code::NotFound, "{gone}");
    rig.stop_pod("0123456789abcdef").await;
    rig.finish().await;
}
