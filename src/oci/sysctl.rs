//! Kernel parameters of a pod: only those that belong to its own namespaces.

use std::collections::HashMap;

use super::{Error, PauseInput};
use crate::model::pod::PodConfig;
use crate::model::security::NamespaceMode;

/// Parameters of the IPC namespace, besides `fs.mqueue.*`.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
const UNPRIVILEGED_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";
const UNPRIVILEGED_ICMP: &str = "net.ipv4.ping_group_range";

/// Checks a pod's sysctls: known to be namespaced, of a namespace that the pod does not share
/// with the host, and with names and values that mean one parameter and nothing else.
pub fn check_sysctls(pod: &PodConfig) -> Result<(), Error> {
    for (name, value) in &pod.sysctls {
        if let Some(problem) = problem_of(pod, name, value) {
            return Err(Error::invalid(format!("linux.sysctls[{name:?}]"), problem));
        }
    }
    Ok(())
}

fn problem_of(pod: &PodConfig, name: &str, value: &str) -> Option<&'static str> {
    if !is_name(name) {
        return Some("is no name of a kernel parameter");
    }
    let dotted = dotted(name);
    if dotted.starts_with("net.") {
        if pod.host_network() {
            return Some("would change the host, whose network this pod uses");
        }
    } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
        if pod.security.namespaces.ipc == NamespaceMode::Node {
            return Some("would change the host, whose IPC namespace this pod uses");
        }
    } else {
        return Some("is not a parameter of a pod's namespaces");
    }
    (!is_value(value)).then_some("has a value with characters that no kernel parameter needs")
}

/// The name with dots as separators. A name whose first separator is a slash uses the two the
/// other way round, as sysctl(8) has it.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name.as_bytes()[first] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Words of letters, digits, `_` and `-` with single separators: no `..`, nothing empty.
fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    name.split(['.', '/']).all(word)
}

/// Numbers, words and lists. No line break, `=`, `+` or quote: tools between here and the kernel
/// have split such values into further parameters.
fn is_value(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_alphanumeric() || b" \t.,:_-/".contains(&b))
}

/// The pod's sysctls, and the defaults that let it use low ports and ping without capabilities.
pub(super) fn of_pause(input: &PauseInput<'_>) -> Result<HashMap<String, String>, Error> {
    check_sysctls(input.pod)?;
    let mut map: HashMap<String, String> =
        input.pod.sysctls.iter().map(|(name, value)| (dotted(name), value.clone())).collect();
    if input.netns.is_some() {
        let mut default = |wanted: bool, name: &str, value: &str| {
            if wanted {
                map.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        };
        default(input.settings.unprivileged_ports, UNPRIVILEGED_PORTS, "0");
        default(input.settings.unprivileged_icmp, UNPRIVILEGED_ICMP, "0 2147483647");
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
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
}
