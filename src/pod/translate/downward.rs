//! The downward API: fields of the pod and resources of its containers.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};

use super::amount::{CPU, EPHEMERAL_STORAGE, HUGEPAGES, MEMORY, milli, totals, value};
use super::node::NodeFacts;
use super::sums::{limited, requested};
use super::{Error, containers};
use crate::model::StringMap;
use crate::pod::Given;

/// Provides downward API values, for environments and volumes.
#[derive(Debug, Clone, Copy)]
pub struct Downward<'a> {
    /// The pod.
    pub given: &'a Given,
    /// Its node.
    pub node: &'a NodeFacts,
    /// Its addresses; a pod in the host network has the node's, even if the list is empty.
    pub pod_ips: &'a [IpAddr],
}

impl Downward<'_> {
    /// A field by its path. `metadata.labels` and `metadata.annotations` as a whole have one line
    /// per key, `key="value"`.
    pub fn field(&self, path: &str) -> Result<String, Error> {
        let (meta, spec) = (&self.given.pod.metadata, self.given.spec());
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        if let Some((map, key)) = subscript(path) {
            let map = match map {
                "metadata.labels" => &meta.labels,
                "metadata.annotations" => &meta.annotations,
                _ => return Err(unsupported(path)),
            };
            return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => text(&meta.name),
            "metadata.namespace" => text(&meta.namespace),
            "metadata.uid" => text(&meta.uid),
            "metadata.labels" => lines(meta.labels.as_ref()),
            "metadata.annotations" => lines(meta.annotations.as_ref()),
            "spec.nodeName" => self.node.name.clone(),
            "spec.serviceAccountName" => text(&spec.service_account_name),
            "status.hostIP" => first(&self.node.ips),
            "status.hostIPs" => all(&self.node.ips),
            "status.podIP" => first(self.ips()),
            "status.podIPs" => all(self.ips()),
            _ => return Err(unsupported(path)),
        })
    }

    fn ips(&self) -> &[IpAddr] {
        let hosts = self.given.spec().host_network.unwrap_or_default();
        if self.pod_ips.is_empty() && hosts { &self.node.ips } else { self.pod_ips }
    }

    /// A container's request or limit, in multiples of the divisor, rounded up. A missing limit
    /// defaults to the pod's, or to the node's allocatable amount. `own` is the container used if
    /// the selector names none.
    pub fn resource(
        &self,
        own: Option<&Container>,
        selector: &ResourceFieldSelector,
    ) -> Result<String, Error> {
        let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let found;
        let container = match (named, own) {
            (Some(name), _) => {
                let mut all = containers(self.given.spec()).map(|(_, container)| container);
                found = all
                    .find(|container| container.name == name)
                    .ok_or_else(|| Error::NoContainer(name.to_owned()))?;
                &*found
            }
            (None, Some(own)) => own,
            (None, None) => return Err(Error::field("resourceFieldRef", "names no container")),
        };
        let unknown = || {
            let problem = format!("Unsupported container resource : {}", selector.resource);
            Error::field("resourceFieldRef", problem)
        };
        let (which, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
        if ![CPU, MEMORY, EPHEMERAL_STORAGE].contains(&name) && !name.starts_with(HUGEPAGES) {
            return Err(unknown());
        }
        let amount = match which {
            "limits" => self.limit(container, name),
            "requests" => requested(container).get(name).copied().unwrap_or_default(),
            _ => return Err(unknown()),
        };
        let divisor = selector.divisor.as_ref();
        let divisor = divisor.map(|by| if name == CPU { milli(by) } else { value(by) });
        let one = if name == CPU { 1000 } else { 1 };
        let divisor = divisor.filter(|&by| by > 0).unwrap_or(one);
        let whole = amount / divisor + i64::from(amount % divisor > 0);
        Ok(whole.to_string())
    }

    fn limit(&self, container: &Container, name: &str) -> i64 {
        let set = |list: super::Totals| list.get(name).copied().filter(|&limit| limit > 0);
        if let Some(own) = set(limited(container)) {
            return own;
        }
        let of_pod = self.given.spec().resources.as_ref().and_then(|own| own.limits.as_ref());
        let of_pod = set(totals(of_pod)).filter(|_| name != EPHEMERAL_STORAGE);
        let node = &self.node.allocatable;
        of_pod.unwrap_or(match name {
            CPU => node.milli_cpu,
            MEMORY => node.memory,
            EPHEMERAL_STORAGE => node.ephemeral_storage,
            _ => 0,
        })
    }
}

fn unsupported(path: &str) -> Error {
    Error::field("fieldRef", format!("unsupported fieldPath: {path}"))
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

fn all(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The two parts of `metadata.labels['key']`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(_, key)| !key.is_empty())
}

fn lines(map: Option<&StringMap>) -> String {
    let line = |(key, value): (&String, &String)| format!("{key}={}", quoted(value));
    map.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

/// Quoted like Go's `%q`, which programs that read these files expect.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\0'..='\u{1f}' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if !c.is_ascii() && (c.is_control() || c.is_whitespace() || c == '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
