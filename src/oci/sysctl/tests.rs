use super::super::fixture::Fixture;
use super::*;

fn check(name: &str, value: &str, network: NamespaceMode, ipc: NamespaceMode) -> bool {
    let mut pod = PodConfig::default();
    pod.security.namespaces.network = network;
    pod.security.namespaces.ipc = ipc;
    pod.sysctls.insert(name.to_owned(), value.to_owned());
    match check_sysctls(&pod) {
        Ok(()) => true,
        Err(Error::Invalid { field, .. }) => {
            assert_eq!(field, format!("linux.sysctls[{name:?}]"));
            false
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn only_parameters_of_the_pods_own_namespaces() {
    use NamespaceMode::{Node, Pod};
    for (name, network, ipc, fine) in [
        ("net.core.somaxconn", Pod, Pod, true),
        ("net/ipv4/conf/eth0/rp_filter", Pod, Pod, true),
        ("net.ipv4.conf.eth0/100.rp_filter", Pod, Pod, true),
        ("net.core.somaxconn", Pod, Node, true),
        ("net.core.somaxconn", Node, Pod, false),
        ("net/core/somaxconn", Node, Pod, false),
        ("kernel.shmmax", Pod, Pod, true),
        ("kernel.sem", Node, Pod, true),
        ("kernel.shmmax", Pod, Node, false),
        ("kernel/shmmax", Pod, Node, false),
        ("fs.mqueue.msg_max", Pod, Pod, true),
        ("fs.mqueue.msg_max", Pod, Node, false),
        ("kernel.core_pattern", Pod, Pod, false),
        ("kernel.shmmax_evil", Pod, Pod, false),
        ("kernel.hostname", Pod, Pod, false),
        ("kernel.domainname", Pod, Node, true),
        ("kernel/domainname", Pod, Pod, true),
        ("kernel.domainname", Node, Pod, false),
        ("vm.overcommit_memory", Pod, Pod, false),
        ("fs.mqueue", Pod, Pod, false),
        ("netx.core", Pod, Pod, false),
        ("net", Pod, Pod, false),
        ("", Pod, Pod, false),
    ] {
        assert_eq!(check(name, "1", network, ipc), fine, "{name} {network:?} {ipc:?}");
    }
}

#[test]
fn nothing_is_smuggled() {
    use NamespaceMode::Pod;
    for name in [
        "net.ipv4.x=1",
        "net.ipv4.x\nkernel.core_pattern",
        "net.ipv4.x\0",
        "net..kernel",
        "net/../kernel/core_pattern",
        "net.ipv4.",
        ".net.ipv4",
        "net.ipv4.x+kernel.core_pattern",
        "net.ipv4.x y",
    ] {
        assert!(!check(name, "1", Pod, Pod), "{name:?}");
    }
    for value in [
        "1024 65000'+'net.ipv4.ip_forward=0",
        "1+kernel.core_pattern=|/bin/sh",
        "1+2",
        "1'2",
        "1|2",
        "1=2",
        "1\n2",
        "1\r",
        "1\0",
        "\"1\"",
        "1;2",
    ] {
        assert!(!check("net.ipv4.ip_local_port_range", value, Pod, Pod), "{value:?}");
    }
    for value in ["1024 65000", "1024\t65000", "", "-1", "fq_codel", "8080,9148-9150"] {
        assert!(check("net.ipv4.ip_local_port_range", value, Pod, Pod), "{value:?}");
    }
}

#[test]
fn names_reach_the_runtime_with_dots() {
    for (given, expected) in [
        ("net.core.somaxconn", "net.core.somaxconn"),
        ("net/core/somaxconn", "net.core.somaxconn"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net.ipv4.conf.eth0/100.rp_filter"),
    ] {
        assert_eq!(dotted(given), expected);
    }
}

#[test]
fn defaults_yield_to_the_pod_and_stay_off_the_host() {
    let mut f = Fixture::new();
    f.pod.sysctls.insert("net/ipv4/ip_unprivileged_port_start".to_owned(), "80".to_owned());
    let map = of_pause(&f.pause_input()).unwrap();
    assert_eq!(map.len(), 2);
    assert_eq!(map[UNPRIVILEGED_ICMP], "0 2147483647");
    assert_eq!(map[UNPRIVILEGED_PORTS], "80");

    let f = Fixture::new().host_modes();
    assert!(of_pause(&f.pause_input()).unwrap().is_empty());

    let mut f = Fixture::new();
    f.settings.unprivileged_ports = false;
    f.settings.unprivileged_icmp = false;
    assert!(of_pause(&f.pause_input()).unwrap().is_empty());
}
