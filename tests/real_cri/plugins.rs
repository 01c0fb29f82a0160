//! CNI plugins: lists of all versions, capabilities, two address families, and plugins that fail in
//! each way.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Code;

use crate::rig::{LivePod, Rig, SOON};
use crate::support::containerd::Line;
use crate::support::env::{Networking, TestEnv};
use crate::support::eventually;
use crate::support::registry::free_port;

/// The test's own list, changed, under a name that makes it the first.
fn with_list(rig: &Rig, change: impl FnOnce(&mut Value)) {
    let path = rig.env().cni_conf_dir().join("10-test.conflist");
    let mut list: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("the list")).expect("JSON");
    change(&mut list);
    let new = path.with_extension("new");
    std::fs::write(&new, list.to_string()).expect("a file");
    std::fs::rename(new, path).expect("a rename");
}

pub async fn lists_of_all_versions_work(line: Line) {
    let rig = Rig::start(line).await;
    // Debian's plugins know no 1.1.0.
    let versions: &[&str] = match line {
        Line::V1 => &["0.3.1", "0.4.0", "1.0.0"],
        Line::V2 => &["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    };
    for (index, version) in versions.iter().enumerate() {
        with_list(&rig, |list| list["cniVersion"] = json!(version));
        let pod = rig.run(rig.pod_spec(&format!("pod-{index}")).port(free_port(), 80)).await;
        let ip = rig.pod_ip(&pod.id).await;
        assert!(ip.starts_with(&format!("{}.", rig.env().subnet_prefix())), "{version}: {ip}");
        let info = rig.pod_info(&pod.id).await;
        assert_eq!(
            info["cniResult"]["Interfaces"].as_object().map(|all| all.len() >= 2),
            Some(true)
        );
        rig.stop_pod(&pod.id).await;
        rig.remove_pod(&pod.id).await;
        rig.agent.assert_clean().await;
    }
    rig.finish().await;
}

pub async fn pods_have_addresses_of_two_families(line: Line) {
    let mut env = TestEnv::start_with(line, Networking::Default).await;
    let [v4, v6] = [env.subnet(), format!("fd00:{:x}::/64", std::process::id() & 0xffff)];
    env.set_variable("PODBAY_NETWORK_DEFAULT_SUBNETS", &format!("{v4},{v6}"));
    let rig = Rig::start_in(env).await;
    let one = rig.run(rig.pod_spec("one")).await;
    let two = rig.run(rig.pod_spec("two").port(free_port(), 80)).await;
    let addresses = async |pod: &LivePod| {
        let network = rig.pod_status(&pod.id).await.network.expect("a network");
        let more: Vec<_> = network.additional_ips.into_iter().map(|it| it.ip).collect();
        assert_eq!(more.len(), 1, "{more:?}");
        (network.ip, more[0].clone())
    };
    let (first, second) = (addresses(&one).await, addresses(&two).await);
    assert!(first.0.contains('.') && first.1.starts_with("fd00:"), "{first:?}");
    assert_ne!(first, second);
    let id = rig.launch_waiting(&one, "c").await;
    rig.exec(&id, &format!("ping -c 1 -w 5 {}", second.0)).await;
    rig.exec(&id, &format!("ping6 -c 1 -w 10 {}", second.1)).await;
    rig.finish().await;
}

pub async fn capabilities_reach_their_plugins(line: Line) {
    let rig = Rig::start(line).await;
    with_list(&rig, |list| {
        let shaper = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        list["plugins"].as_array_mut().expect("plugins").push(shaper);
    });
    let (everywhere, here) = (free_port(), free_port());
    let gateway = format!("{}.1", rig.env().subnet_prefix());
    let mut spec = rig.pod_spec("web").annotation("kubernetes.io/ingress-bandwidth", "8M");
    for (host_port, host_ip) in [(everywhere, ""), (here, gateway.as_str())] {
        spec.config.port_mappings.push(cri::PortMapping {
            protocol: cri::Protocol::Udp.into(),
            container_port: 5353,
            host_port: host_port.into(),
            host_ip: host_ip.to_owned(),
        });
    }
    let pod = rig.run(spec).await;
    let netns = rig.pod_info(&pod.id).await["netns"].as_str().expect("a namespace").to_owned();
    echo_datagrams(&netns);
    for (host, port, is_mapped) in [
        (gateway.as_str(), everywhere, true),
        (gateway.as_str(), here, true),
        ("127.0.0.1", everywhere, true),
        ("127.0.0.1", here, false),
    ] {
        let answer = match is_mapped {
            true => eventually(SOON, async || datagram(host, port)).await,
            false => datagram(host, port),
        };
        assert_eq!(answer.is_some(), is_mapped, "{host}:{port}");
    }
    let shaped = std::process::Command::new("tc").args(["qdisc", "show"]).output().expect("tc");
    let shaped = String::from_utf8_lossy(&shaped.stdout).into_owned();
    let rates: Vec<_> = shaped.lines().filter(|line| line.contains("tbf")).collect();
    assert!(rates.iter().any(|line| line.contains("rate 8Mbit")), "{shaped}");
    rig.stop_pod(&pod.id).await;
    rig.finish().await;
}

/// Answers datagrams inside of a network namespace for the rest of the test.
fn echo_datagrams(netns: &str) {
    let file = std::fs::File::open(netns).expect("the namespace");
    let (ready, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        let socket = UdpSocket::bind("0.0.0.0:5353").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a limit");
        ready.send(()).expect("the test");
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).expect("an answer");
        }
    });
    bound.recv().expect("a socket");
}

/// Sends a datagram; the answer if there is one soon.
fn datagram(host: &str, port: u16) -> Option<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit");
    socket.connect((host, port)).ok()?;
    socket.send(b"hello").ok()?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).ok()?;
    (buffer[..length] == *b"hello").then_some(())
}

/// What a plugin does about ADD; its DEL is as it should be.
const FAULTS: &[(&str, &str, Code, &str)] = &[
    ("garbage", "echo 'no JSON'", Code::Unknown, "broken"),
    ("nothing", "exit 0", Code::Unknown, "broken"),
    ("a code without words", "exit 3", Code::Unknown, "broken"),
    ("a signal", "kill -SEGV $$", Code::Unknown, "broken"),
    ("an endless answer", "cat /dev/zero", Code::Unknown, "broken"),
    ("silence", "sleep 600", Code::DeadlineExceeded, "broken"),
];

pub async fn plugins_that_fail_are_named(line: Line) {
    let mut env = TestEnv::start(line).await;
    env.set_variable("PODBAY_NETWORK_ADD_TIMEOUT", "2s");
    let rig = Rig::start_in(env).await;
    with_list(&rig, |list| list["plugins"][1] = json!({"type": "broken"}));
    for (what, script, code, word) in FAULTS {
        write_plugin(&rig.env().extra_bin_dir().join("broken"), script);
        let failed = rig.try_run(&rig.pod_spec("victim")).await.expect_err(what);
        assert_eq!(failed.code(), *code, "{what}: {failed}");
        for word in ["connect the pod to its network", word] {
            assert!(failed.message().contains(word), "{what}: {word:?} is not in {failed}");
        }
        assert!(failed.message().len() < 4096, "{what}: {} bytes", failed.message().len());
        assert!(rig.pods(cri::PodSandboxFilter::default()).await.is_empty(), "{what}");
        rig.agent.assert_clean().await;
    }
    rig.finish().await;
}

fn write_plugin(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let versions = r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.3.1","0.4.0","1.0.0"]}'"#;
    let text = format!(
        "#!/bin/sh\ncase \"$CNI_COMMAND\" in\nADD) {script} ;;\nVERSION) {versions} ;;\nesac\n"
    );
    // Replaced as a whole: one that is still being ended cannot be written to.
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a plugin");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    std::fs::rename(new, path).expect("a rename");
}
