//! The contents of a pod's resolv.conf.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::node::NodeFacts;
use super::{Error, Warning};
use crate::model::pod::DnsConfig;

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const LONGEST_SEARCH_LINE: usize = 2048;
/// glibc aborts on longer search domains.
const LONGEST_SEARCH: usize = 253;
const CLUSTER_OPTIONS: &str = "ndots:5";

/// Settings according to the pod's policy and its own configuration, cut to resolvers' limits.
pub(super) fn dns(
    spec: &PodSpec,
    namespace: &str,
    node: &NodeFacts,
    warnings: &mut Vec<Warning>,
) -> Result<DnsConfig, Error> {
    let mut dns = match spec.dns_policy.as_deref() {
        Some("None") => DnsConfig::default(),
        Some("ClusterFirstWithHostNet") => of_cluster(namespace, node, warnings),
        None | Some("ClusterFirst") if !spec.host_network.unwrap_or_default() => {
            of_cluster(namespace, node, warnings)
        }
        None | Some("ClusterFirst" | "Default") => node.resolv_conf.clone(),
        Some(other) => {
            let problem = format!("invalid DNSPolicy {other:?}");
            return Err(Error::Sandbox(problem));
        }
    };
    if let Some(own) = &spec.dns_config {
        add(&mut dns, own);
    }
    cut(&mut dns, warnings);
    check(&dns)?;
    Ok(dns)
}

fn of_cluster(namespace: &str, node: &NodeFacts, warnings: &mut Vec<Warning>) -> DnsConfig {
    if node.cluster_dns.is_empty() {
        let message = "the node does not have a cluster DNS address configured and cannot create \
                       Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
        warnings.push(Warning { reason: "MissingClusterDNS", message: message.to_owned() });
        return node.resolv_conf.clone();
    }
    let domain = &node.cluster_domain;
    let mut searches = if domain.is_empty() {
        Vec::new()
    } else {
        vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()]
    };
    searches.extend(node.resolv_conf.searches.iter().cloned());
    DnsConfig {
        servers: node.cluster_dns.clone(),
        searches: without_doubles(searches),
        options: vec![CLUSTER_OPTIONS.to_owned()],
    }
}

fn add(dns: &mut DnsConfig, own: &PodDNSConfig) {
    let more = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect::<Vec<_>>();
    dns.servers.extend(more(&own.nameservers));
    dns.servers = without_doubles(std::mem::take(&mut dns.servers));
    dns.searches.extend(more(&own.searches));
    dns.searches = without_doubles(std::mem::take(&mut dns.searches));
    for option in own.options.iter().flatten() {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let text = match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.to_owned(),
        };
        // The pod's value replaces an earlier one.
        let same = |old: &String| old.split(':').next() == Some(name);
        match dns.options.iter().position(same) {
            Some(at) => dns.options[at] = text,
            None => dns.options.push(text),
        }
    }
}

fn without_doubles(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    list.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

fn cut(dns: &mut DnsConfig, warnings: &mut Vec<Warning>) {
    let mut warn = |message: String| warnings.push(Warning { reason: "DNSConfigForming", message });
    if dns.servers.len() > MOST_SERVERS {
        dns.servers.truncate(MOST_SERVERS);
        warn(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
             nameserver line is: {}",
            dns.servers.join(" ")
        ));
    }
    let before = dns.searches.len();
    dns.searches.truncate(MOST_SEARCHES);
    dns.searches.retain(|search| search.len() <= LONGEST_SEARCH);
    while line_length(&dns.searches) > LONGEST_SEARCH_LINE {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        warn(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied \
             search line is: {}",
            dns.searches.join(" ")
        ));
    }
}

fn line_length(words: &[String]) -> usize {
    words.iter().map(|word| word.len() + 1).sum::<usize>().saturating_sub(1)
}

/// Each value must be a single word, so that it cannot start another entry.
fn check(dns: &DnsConfig) -> Result<(), Error> {
    let is_word = |word: &String| {
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(bad) = words.into_iter().find(|word| !is_word(word)) {
        return Err(Error::Sandbox(format!("spec.dnsConfig: {bad:?} is not one word")));
    }
    // A link-local address may have an interface after a percent sign.
    let is_ip =
        |server: &String| server.split('%').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    match dns.servers.iter().find(|server| !is_ip(server)) {
        Some(bad) => Err(Error::Sandbox(format!("nameserver {bad:?} is not an IP address"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
