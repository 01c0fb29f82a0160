use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use podbay::backend::cni::{Cni, DefaultNetwork, Options};
use podbay::backend::{Attachment, ErrorKind, Host, Network, NetworkReadiness};
use podbay::ids::PodId;
use podbay::model::pod::{PodMetadata, PortMapping, Protocol};

use super::ground::{Ground, in_netns, run, wait_until};

fn plugin_dir() -> PathBuf {
    let asked = std::env::var_os("PODBAY_TEST_CNI_BIN").map(PathBuf::from);
    let known = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from);
    let found = asked.into_iter().chain(known).find(|dir| dir.join("bridge").exists());
    found.expect("the CNI plugins are installed")
}

/// A network of its own on a bridge of its own, with more plugins in front of the real ones.
struct Net {
    ground: Ground,
    cni: Cni,
    bridge: String,
    subnet: String,
}

impl Net {
    fn new() -> Self {
        let ground = Ground::new();
        let [a, b, c]: [u8; 3] = rand::random();
        let bridge = format!("pbt{a:02x}{b:02x}{c:02x}");
        // 198.18.0.0/15 is set aside for tests of networks.
        let subnet = format!("198.{}.{b}.{}/27", 18 + (a & 1), c & 0xe0);
        let extra = ground.path("bin");
        fs::create_dir(&extra).unwrap();
        let cni = Cni::new(Options {
            conf_dir: ground.path("net.d"),
            bin_dirs: vec![extra, plugin_dir()],
            cache_dir: ground.path("cache"),
            default_network: Some(DefaultNetwork {
                bridge: bridge.clone(),
                subnets: vec![subnet.parse().unwrap()],
                mtu: None,
            }),
            add_timeout: Duration::from_secs(20),
            ..Options::default()
        })
        .unwrap();
        Self { ground, cni, bridge, subnet }
    }

    /// A fake plugin after the real ones.
    fn append(&self, script: &str) {
        let path = self.ground.path("bin/fake");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.append_type("fake");
    }

    fn append_type(&self, kind: &str) {
        let file = self.ground.path("net.d/10-podbay.conflist");
        let mut list: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        list["plugins"].as_array_mut().unwrap().push(serde_json::json!({"type": kind}));
        fs::write(self.ground.path("net.d/00-test.conflist"), list.to_string()).unwrap();
    }

    async fn pod(&self, name: &str, host_port: u16) -> Attachment {
        let netns = self.ground.netns(name);
        self.ground.host.create_netns(&netns).await.unwrap();
        Attachment {
            pod: PodId::random(),
            metadata: PodMetadata {
                name: name.to_owned(),
                namespace: "test".into(),
                uid: format!("uid-{name}"),
                attempt: 0,
            },
            netns: Some(netns),
            port_mappings: vec![PortMapping {
                protocol: Protocol::Tcp,
                container_port: 8080,
                host_port,
                host_ip: None,
            }],
            dns: None,
            annotations: Default::default(),
            cgroup_parent: String::new(),
        }
    }

    async fn remove_netns(&self, pod: &Attachment) {
        self.ground.host.remove_netns(pod.netns.as_ref().unwrap()).await.unwrap();
    }

    /// Leases of host-local, ports of the bridge, cache files and iptables rules that are there.
    fn left(&self, pods: &[&Attachment]) -> Vec<String> {
        let mut left = Vec::new();
        let names = |dir: PathBuf| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let leases = names(Path::new("/var/lib/cni/networks").join(&self.bridge));
        left.extend(leases.into_iter().filter(|name| name.parse::<IpAddr>().is_ok()));
        left.extend(names(Path::new("/sys/class/net").join(&self.bridge).join("brif")));
        left.extend(names(self.ground.path("cache/results")));
        let rules = run("iptables-save", &[]);
        let ours = |line: &&str| {
            line.contains(&self.bridge) || pods.iter().any(|pod| line.contains(pod.pod.as_str()))
        };
        left.extend(rules.lines().filter(ours).map(str::to_owned));
        left
    }

    fn assert_nothing_left(&self, pods: &[&Attachment]) {
        // The kernel takes the veth away a moment after its namespace.
        let mut left = Vec::new();
        let give_up = Instant::now() + Duration::from_secs(20);
        while Instant::now() < give_up {
            left = self.left(pods);
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left behind: {left:#?}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.bridge]).output();
        let _ = fs::remove_dir_all(Path::new("/var/lib/cni/networks").join(&self.bridge));
    }
}

fn host_port() -> u16 {
    20_000 + rand::random::<u16>() % 10_000
}

/// Serves one greeting on port 8080 in the pod.
fn serve(pod: &Attachment, connections: usize) -> std::thread::JoinHandle<()> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = in_netns(pod.netns.as_ref().unwrap(), move || {
        let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
        ready.send(()).unwrap();
        for _ in 0..connections {
            listener.accept().unwrap().0.write_all(b"hello").unwrap();
        }
    });
    is_ready.recv().unwrap();
    server
}

fn greeting(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_reachable_and_leave_nothing() {
    let net = Net::new();
    assert_eq!(net.cni.readiness().await, NetworkReadiness::Ready);
    let port = host_port();
    let (one, two) = (net.pod("one", port).await, net.pod("two", 0).await);
    let (first, second) = tokio::join!(net.cni.attach(&one), net.cni.attach(&two));
    let (first, second) = (first.unwrap().ips[0], second.unwrap().ips[0]);
    assert_ne!(first, second);
    let subnet: ipnet::IpNet = net.subnet.parse().unwrap();
    assert!(subnet.contains(&first) && subnet.contains(&second));

    let server = serve(&one, 3);
    assert_eq!(greeting((first, 8080).into()), "hello");
    let from_pod = in_netns(two.netns.as_ref().unwrap(), move || greeting((first, 8080).into()));
    assert_eq!(from_pod.join().unwrap(), "hello");
    let gateway = subnet.hosts().next().unwrap();
    assert_eq!(greeting((gateway, port).into()), "hello");
    server.join().unwrap();

    let (a, b) = tokio::join!(net.cni.detach(&one), net.cni.detach(&two));
    a.unwrap();
    b.unwrap();
    net.assert_nothing_left(&[&one, &two]);
    net.cni.detach(&one).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespace_is_gone_is_cut_off_whole() {
    let net = Net::new();
    assert_eq!(net.cni.readiness().await, NetworkReadiness::Ready);
    let (gone, plain) = (net.pod("gone", host_port()).await, net.pod("plain", 0).await);
    let mut none = net.pod("none", 0).await;
    for pod in [&gone, &plain, &none] {
        net.cni.attach(pod).await.unwrap();
    }
    assert!(net.left(&[&gone, &plain, &none]).len() > 9, "leases, veths, cache files, rules");
    for pod in [&gone, &plain, &none] {
        net.remove_netns(pod).await;
    }
    fs::write(plain.netns.as_ref().unwrap(), "").unwrap();
    none.netns = None;
    let cache = net.ground.path("cache/results");
    let name = format!("{}-{}-eth0", net.bridge, none.pod);
    let kept = fs::read(cache.join(&name)).unwrap();
    for pod in [&gone, &plain, &none] {
        net.cni.detach(pod).await.unwrap();
    }
    net.assert_nothing_left(&[&gone, &plain, &none]);
    // As after a reboot: only the cache file is still there.
    fs::write(cache.join(&name), kept).unwrap();
    net.cni.detach(&none).await.unwrap();
    net.assert_nothing_left(&[&none]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_add_leaves_nothing_of_the_plugins_before() {
    let net = Net::new();
    assert_eq!(net.cni.readiness().await, NetworkReadiness::Ready);
    for (script, part) in [
        (r#"echo '{"code":7,"msg":"told so"}'; exit 1"#, "told so"),
        ("echo oops >&2; exit 1", "oops"),
        ("echo garbage", "malformed answer"),
        ("echo '{}'", "no address"),
        ("exec yes", "more than"),
        ("kill -SEGV $$", "signal: 11"),
    ] {
        net.append(&format!("[ $CNI_COMMAND = DEL ] && exit 0\n{script}"));
        let pod = net.pod("failing", host_port()).await;
        let error = net.cni.attach(&pod).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(part), "{script}: {source}");
        net.assert_nothing_left(&[&pod]);
        net.cni.detach(&pod).await.unwrap();
        net.remove_netns(&pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_plugin_is_killed_with_its_children_and_the_rest_taken_back() {
    let mut net = Net::new();
    assert_eq!(net.cni.readiness().await, NetworkReadiness::Ready);
    let pids = net.ground.path("pids");
    let script = "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 1000 &";
    net.append(&format!("{script}\necho $$ $! > {}; wait", pids.display()));
    net.cni = Cni::new(Options {
        conf_dir: net.ground.path("net.d"),
        bin_dirs: vec![net.ground.path("bin"), plugin_dir()],
        cache_dir: net.ground.path("cache"),
        add_timeout: Duration::from_secs(5),
        ..Options::default()
    })
    .unwrap();
    let pod = net.pod("hanging", host_port()).await;
    let started = Instant::now();
    let error = net.cni.attach(&pod).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_secs(20));
    let dead = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
    };
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        wait_until("the plugin and its child are dead", || dead(pid));
    }
    net.assert_nothing_left(&[&pod]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_plugin_and_a_climbing_type_are_refused() {
    let net = Net::new();
    assert_eq!(net.cni.readiness().await, NetworkReadiness::Ready);
    let pod = net.pod("refused", 0).await;
    net.append_type("no-such-plugin");
    let NetworkReadiness::NotReady(reason) = net.cni.readiness().await else { panic!("ready") };
    assert!(reason.contains("no-such-plugin"), "{reason}");
    let error = net.cni.attach(&pod).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    net.assert_nothing_left(&[&pod]);
    net.cni.detach(&pod).await.unwrap();

    net.append_type("../../bin/sh");
    fs::remove_file(net.ground.path("net.d/10-podbay.conflist")).unwrap();
    let NetworkReadiness::NotReady(reason) = net.cni.readiness().await else { panic!("ready") };
    assert!(reason.contains("plugins[2].type: \"../../bin/sh\""), "{reason}");
    assert_eq!(net.cni.attach(&pod).await.unwrap_err().kind, ErrorKind::Unavailable);
}
