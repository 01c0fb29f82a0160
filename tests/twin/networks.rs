//! DNS, ports, addresses.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::facts::{code, without_host_part};
use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::eventually;
use crate::support::registry::free_port;

scenarios! {
    "runtime should support DNS config" => dns,
    "runtime should support port mapping with only container port" => container_port,
    "runtime should support port mapping with host port and container port" => host_port,
    "port mappings that are wrong" => wrong_ports,
    "pods reach one another and the host" => reach,
    "pods of the host's network" => host_network,
}

async fn dns(rig: Arc<Rig>) -> Value {
    let mut found = Map::new();
    for (name, servers, searches, options) in [
        ("all", &["10.10.10.10"][..], &["google.com"][..], &["ndots:8"][..]),
        ("servers", &["1.1.1.1", "2001:db8::1"], &[], &[]),
        ("searches", &[], &["a.example", "b.example"], &[]),
        (
            "many",
            &["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"],
            &["a", "b", "c", "d", "e", "f", "g"],
            &["ndots:5", "timeout:1"],
        ),
        ("empty", &[], &[], &[]),
    ] {
        let spec = rig.pod_spec(&format!("dns-{name}")).dns(servers, searches, options);
        let pod = rig.run(spec).await;
        let id = rig.launch_waiting(&pod, "c").await;
        found.insert(name.into(), json!(rig.exec(&id, "cat /etc/resolv.conf; ls -l /etc/resolv.conf | cut -c1-10; touch /etc/resolv.conf 2>/dev/null && echo writable").await));
    }
    let pod = rig.run(rig.pod_spec("dns-none")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    found.insert("none".into(), json!(rig.exec(&id, "cat /etc/resolv.conf").await));
    found.into()
}

/// A page over TCP; none when nobody answers soon.
async fn fetch(host: &str, port: u16) -> bool {
    let address = format!("{host}:{port}");
    eventually(Duration::from_secs(10), async || {
        let mut stream =
            TcpStream::connect_timeout(&address.parse().ok()?, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        said.contains("hello").then_some(())
    })
    .await
    .is_some()
}

const WEB: &str = "mkdir /www; echo hello >/www/index.html; httpd -f -p 8080 -h /www & \
                   while :; do echo pong | nc -u -l -p 8081 -w 1 >/dev/null; done";

async fn container_port(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("container-port").port(0, 8080)).await;
    rig.launch(&pod, &Container::script("web", &rig.image, WEB)).await;
    json!(fetch(&rig.pod_ip(&pod.id).await, 8080).await)
}

async fn host_port(rig: Arc<Rig>) -> Value {
    let (tcp, udp, local) = (free_port(), free_port(), free_port());
    let mut spec = rig.pod_spec("host-port").port(tcp, 8080);
    let mapping = |protocol: cri::Protocol, host_port: u16, container_port: i32, host_ip: &str| {
        cri::PortMapping {
            protocol: protocol.into(),
            container_port,
            host_port: host_port.into(),
            host_ip: host_ip.into(),
        }
    };
    spec.config.port_mappings.push(mapping(cri::Protocol::Udp, udp, 8081, ""));
    spec.config.port_mappings.push(mapping(cri::Protocol::Tcp, local, 8080, "127.0.0.1"));
    let pod = rig.run(spec).await;
    rig.launch(&pod, &Container::script("web", &rig.image, WEB)).await;
    let gateway = format!("{}.1", rig.env().subnet_prefix());
    let pong = eventually(Duration::from_secs(10), async || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        socket.send_to(b"ping\n", (gateway.as_str(), udp)).ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        (&buffer[..length] == b"pong\n").then_some(())
    });
    let pong = pong.await.is_some();
    let before = [
        fetch(&gateway, tcp).await,
        fetch("127.0.0.1", tcp).await,
        fetch("127.0.0.1", local).await,
    ];
    rig.stop_pod(&pod.id).await;
    let refused = TcpStream::connect_timeout(
        &format!("{gateway}:{tcp}").parse().expect("an address"),
        Duration::from_secs(2),
    )
    .is_err();
    json!({"udp": pong, "tcp": before, "refused after the stop": refused})
}

async fn wrong_ports(rig: Arc<Rig>) -> Value {
    let mut found = Map::new();
    for (name, protocol, host, container, ip) in [
        ("negative", 0, -1, 80, ""),
        ("container-zero", 0, 0, 0, ""),
        ("too-high", 0, 70_000, 80, ""),
        ("bad-ip", 0, 0, 80, "nonsense"),
        ("bad-protocol", 9, 0, 80, ""),
        ("sctp", 2, 0, 80, ""),
    ] {
        let mut spec = rig.pod_spec(&format!("port-{name}"));
        spec.config.port_mappings.push(cri::PortMapping {
            protocol,
            host_port: host,
            container_port: container,
            host_ip: ip.into(),
        });
        found.insert(name.into(), code(&rig.try_run(&spec).await));
    }
    found.into()
}

async fn reach(rig: Arc<Rig>) -> Value {
    let one = rig.run(rig.pod_spec("reach-1")).await;
    rig.launch(&one, &Container::script("web", &rig.image, WEB)).await;
    let two = rig.run(rig.pod_spec("reach-2")).await;
    let id = rig.launch_waiting(&two, "c").await;
    let url = format!("http://{}:8080/", rig.pod_ip(&one.id).await);
    let got = eventually(SOON, async || {
        let done = rig.try_exec(&id, &["wget", "-q", "-O-", "-T", "2", &url], 10).await.ok()?;
        (done.exit_code == 0).then(|| crate::rig::lossy(&done.stdout))
    });
    let got = got.await;
    let own = without_host_part(&rig.exec(&id, "ip -4 -o addr show dev eth0 | tr -s ' ' | cut -d' ' -f2-6; ip route; ip link show lo | grep -o UP | head -1; ip -6 addr show dev lo | grep -c ::1 || true").await);
    json!({"got": got, "own": own.replace(&rig.env().subnet_prefix(), "<subnet>")})
}

async fn host_network(rig: Arc<Rig>) -> Value {
    let mut spec = rig.pod_spec("host-network").host_network().dns(&["9.9.9.9"], &[], &[]);
    spec.config.hostname.clear();
    let pod = rig.run(spec).await;
    let mut spec = Container::script("web", &rig.image, "httpd -f -p 127.0.0.1:$PORT -h /etc");
    let port = free_port();
    spec = spec.env("PORT", &port.to_string());
    spec.namespaces().network = cri::NamespaceMode::Node.into();
    let id = rig.launch(&pod, &spec).await;
    let heard =
        eventually(SOON, async || TcpStream::connect(("127.0.0.1", port)).ok()).await.is_some();
    let hosts = rig.exec(&id, "cat /etc/hosts").await
        == std::fs::read_to_string("/etc/hosts").expect("hosts").trim();
    let status = rig.pod_status(&pod.id).await;
    json!({
        "heard": heard, "hosts is the host's": hosts, "resolv": rig.exec(&id, "cat /etc/resolv.conf").await,
        "network": status.network.map(|it| crate::facts::told("PodSandboxNetworkStatus", &it)),
        "linux": status.linux.map(|it| crate::facts::told("LinuxPodSandboxStatus", &it)),
    })
}
