//! Sysctls of a pod: only those of its own namespaces are allowed.

use std::collections::HashMap;

use super::{Error, PauseInput};
use crate::model::pod::PodConfig;
use crate::model::security::NamespaceMode;

/// Sysctls of the IPC namespace, besides `fs.mqueue.*`.
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
/// The highest group id allowed in [`UNPRIVILEGED_ICMP`].
const LAST_GROUP: u32 = i32::MAX as u32;

/// The sysctl of the UTS namespace that a pod may set. The other one is its host name.
const DOMAIN_NAME: &str = "kernel.domainname";

/// Checks a pod's sysctls: each must be namespaced, in a namespace that the pod does not share with
/// the host, and its name and value must denote exactly one sysctl.
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
        return Some("is not a kernel parameter name");
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
    } else if dotted == DOMAIN_NAME {
        if pod.host_network() {
            return Some("would change the host, whose UTS namespace this pod uses");
        }
    } else {
        return Some("is not a parameter of a pod's namespaces");
    }
    (!is_value(value)).then_some("has a value with unsupported characters")
}

/// The name with dots as separators. In a name whose first separator is a slash, slashes and dots
/// are swapped, as in sysctl(8).
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

/// Words of letters, digits, `_` and `-` with single separators: no `..`, no empty words.
fn is_name(name: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    name.split(['.', '/']).all(word)
}

/// Numbers, words and lists. No line break, `=`, `+` or quote: other tools on the way to the kernel
/// have split such values into several sysctls.
fn is_value(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_alphanumeric() || b" \t.,:_-/".contains(&b))
}

/// The pod's sysctls, and the defaults that allow low ports and ping without capabilities.
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
        // The kernel refuses group ids that are not mapped in the user namespace.
        let last = input.pod.id_mappings().map_or(LAST_GROUP, |ids| ids.length() - 1);
        default(input.settings.unprivileged_icmp, UNPRIVILEGED_ICMP, &format!("0 {last}"));
    }
    Ok(map)
}

#[cfg(test)]
mod tests;
