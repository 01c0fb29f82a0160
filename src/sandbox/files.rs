//! Contents of the files shared by all containers of a pod. Pure.

use std::net::IpAddr;

use crate::model::pod::{DnsConfig, HostsFile};

/// The names in every generated hosts file.
const LOCAL_NAMES: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// /etc/hostname.
pub fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// /etc/hosts of a pod with its own network: maps its addresses to its names.
pub fn hosts(hosts: &HostsFile, ips: &[IpAddr]) -> String {
    let mut text = format!("# Kubernetes-managed hosts file.\n{LOCAL_NAMES}");
    let HostsFile { hostname, domain, .. } = hosts;
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    text + &aliases(hosts)
}

/// /etc/hosts of a pod in the host's network.
pub fn hosts_of_host(hosts: &HostsFile, of_host: &[u8]) -> Vec<u8> {
    let head = b"# Kubernetes-managed hosts file (host network).\n".as_slice();
    [head, of_host, aliases(hosts).as_bytes()].concat()
}

fn aliases(hosts: &HostsFile) -> String {
    if hosts.aliases.is_empty() {
        return String::new();
    }
    let mut text = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in &hosts.aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    }
    text
}

/// /etc/resolv.conf. An empty configuration gives an empty file.
pub fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |keyword: &str, values: &[String]| {
        if !values.is_empty() {
            text.push_str(&format!("{keyword} {}\n", values.join(" ")));
        }
    };
    line("search", &dns.searches);
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pod::HostAlias;

    #[test]
    fn hosts_files_are_a_kubelets() {
        let mut asked = HostsFile { hostname: "web".into(), ..HostsFile::default() };
        let ips = ["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let local = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                     fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
        assert_eq!(hosts(&asked, &ips), format!("{local}10.1.0.7\tweb\nfd00::7\tweb\n"));
        assert_eq!(
            hosts_of_host(&asked, b"::1 me\n"),
            [b"# Kubernetes-managed hosts file (host network).\n".as_slice(), b"::1 me\n",]
                .concat()
        );
        asked.domain = "s.ns.svc.cluster.local".into();
        asked.aliases = vec![HostAlias {
            ip: "1.2.3.4".parse().unwrap(),
            hostnames: vec!["a.example".into(), "b".into()],
        }];
        let tail = "\n# Entries added by HostAliases.\n1.2.3.4\ta.example\tb\n";
        let own = "10.1.0.7\tweb.s.ns.svc.cluster.local\tweb\n";
        assert_eq!(hosts(&asked, &ips[..1]), format!("{local}{own}{tail}"));
        assert!(hosts_of_host(&asked, b"x\n").ends_with(format!("x\n{tail}").as_bytes()));
    }

    #[test]
    fn resolv_conf_has_one_line_a_server() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into(), "1.1.1.1".into()],
            searches: vec!["a.local".into(), "local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.local local\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
