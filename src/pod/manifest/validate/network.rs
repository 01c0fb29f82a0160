//! Names and addresses of a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use super::at::At;
use super::names;

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LIST: usize = 2048;
const LONGEST_HOST_NAME: usize = 64;

pub(super) fn of_pod(at: &At<'_>, spec: &PodSpec) {
    for (name, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            at.field(name).all(value, names::label(value));
        }
    }
    hostname_override(at, spec);
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        host_alias(&at.field("hostAliases").item(index), alias);
    }
    dns(at, spec);
}

fn hostname_override(at: &At<'_>, spec: &PodSpec) {
    let Some(name) = spec.hostname_override.as_deref() else { return };
    let at = at.field("hostnameOverride");
    at.all(name, names::subdomain(name));
    if name.len() > LONGEST_HOST_NAME {
        at.too_long(LONGEST_HOST_NAME);
    }
    if spec.set_hostname_as_fqdn.unwrap_or(false) {
        at.forbidden("may not be specified when `setHostnameAsFQDN` is true");
    }
    if spec.host_network.unwrap_or(false) {
        at.forbidden("may not be specified when `hostNetwork` is true");
    }
}

fn host_alias(at: &At<'_>, alias: &HostAlias) {
    address(&at.field("ip"), &alias.ip);
    for (index, name) in alias.hostnames.iter().flatten().enumerate() {
        at.field("hostnames").item(index).all(name, names::subdomain(name));
    }
}

fn address(at: &At<'_>, text: &str) {
    if text.parse::<IpAddr>().is_err() {
        at.invalid(text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

fn dns(at: &At<'_>, spec: &PodSpec) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    at.field("dnsPolicy").one_of(policy, &policies);
    let config_at = at.field("dnsConfig");
    match (&spec.dns_config, policy) {
        (None, "None") => config_at.required("must provide `dnsConfig` when `dnsPolicy` is None"),
        (None, _) => {}
        (Some(config), policy) => {
            if policy == "None" && config.nameservers.iter().flatten().next().is_none() {
                let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                config_at.field("nameservers").required(why);
            }
            dns_config(&config_at, config);
        }
    }
}

fn dns_config(at: &At<'_>, config: &PodDNSConfig) {
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let servers_at = at.field("nameservers");
    if servers.len() > MOST_SERVERS {
        servers_at.invalid(servers, format!("must not have more than {MOST_SERVERS} nameservers"));
    }
    for (index, server) in servers.iter().enumerate() {
        address(&servers_at.item(index), server);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let searches_at = at.field("searches");
    if searches.len() > MOST_SEARCHES {
        let why = format!("must not have more than {MOST_SEARCHES} search paths");
        searches_at.invalid(searches.len(), why);
    }
    if searches.join(" ").len() > LONGEST_SEARCH_LIST {
        let why = format!(
            "must not have more than {LONGEST_SEARCH_LIST} characters (including spaces) in the \
             search list"
        );
        searches_at.invalid(searches.len(), why);
    }
    for (index, search) in searches.iter().enumerate() {
        // A trailing dot and underscores are allowed; a single dot is the root.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if search != "." {
            searches_at.item(index).all(search, names::subdomain(&plain));
        }
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        let at = at.field("options").item(index);
        let name = option.name.as_deref().unwrap_or_default();
        at.field("name").named(name, names::one_line);
        let value = option.value.as_deref().unwrap_or_default();
        at.field("value").all(value, names::one_line(value));
    }
}
