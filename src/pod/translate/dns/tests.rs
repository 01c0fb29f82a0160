use serde_json::{Value, json};

use super::super::fixture::{node, spec};
use super::*;

fn of(fields: Value, node: &NodeFacts) -> (DnsConfig, Vec<Warning>) {
    let mut warnings = Vec::new();
    let dns = dns(&spec(fields), "ns", node, &mut warnings).unwrap();
    (dns, warnings)
}

fn config(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
    let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    DnsConfig { servers: list(servers), searches: list(searches), options: list(options) }
}

#[test]
fn policies() {
    let cluster = config(
        &["10.96.0.10"],
        &["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"],
        &["ndots:5"],
    );
    let of_node = config(&["1.1.1.1", "8.8.8.8"], &["lan"], &["edns0"]);
    for (fields, expected) in [
        (json!({}), &cluster),
        (json!({"dnsPolicy": "ClusterFirst"}), &cluster),
        (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), &of_node),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), &cluster),
        (json!({"dnsPolicy": "Default"}), &of_node),
        (json!({"dnsPolicy": "None"}), &DnsConfig::default()),
    ] {
        let (dns, warnings) = of(fields.clone(), &node());
        assert_eq!((&dns, warnings), (expected, vec![]), "{fields}");
    }
    let wrong = spec(json!({"dnsPolicy": "Guess"}));
    assert!(matches!(dns(&wrong, "ns", &node(), &mut vec![]), Err(Error::Sandbox(_))));
}

#[test]
fn without_a_cluster_dns_the_nodes_is_used_and_told() {
    let node = NodeFacts { cluster_dns: Vec::new(), ..node() };
    let (dns, warnings) = of(json!({}), &node);
    assert_eq!(dns, node.resolv_conf);
    assert_eq!(warnings[0].reason, "MissingClusterDNS");
    assert_eq!(of(json!({"dnsPolicy": "Default"}), &node).1, vec![]);
}

#[test]
fn the_pods_own_settings_are_added() {
    let own = json!({"dnsConfig": {
        "nameservers": ["9.9.9.9", "10.96.0.10"],
        "searches": ["mine", "lan"],
        "options": [
            {"name": "ndots", "value": "2"}, {"name": "rotate"}, {"name": "timeout", "value": "1"},
        ],
    }});
    let (dns, _) = of(own, &node());
    assert_eq!(dns.servers, ["10.96.0.10", "9.9.9.9"]);
    let searches = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "mine"];
    assert_eq!(dns.searches, searches);
    assert_eq!(dns.options, ["ndots:2", "rotate", "timeout:1"]);
}

#[test]
fn what_resolvers_do_not_take_is_cut_and_told() {
    let fields = |searches: Vec<String>| {
        json!({"dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"], "searches": searches,
        }})
    };
    let many = (0..40).map(|n| format!("s{n}")).collect();
    let (dns, warnings) = of(fields(many), &node());
    assert_eq!(dns.servers.len(), 3);
    assert_eq!(dns.searches.len(), 32);
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|warning| warning.reason == "DNSConfigForming"));
    assert_eq!(
        warnings[0].message,
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied \
         nameserver line is: 1.0.0.1 1.0.0.2 1.0.0.3"
    );

    // 20 names of 120 characters: 16 with their spaces have 1935 characters, 17 have 2056.
    let long: Vec<_> = (0..20).map(|n| format!("{n:0>120}")).collect();
    let (dns, _) = of(fields(long), &node());
    assert_eq!(dns.searches.len(), 16);
    let (dns, warnings) = of(fields(vec!["a".repeat(254), "b".repeat(253)]), &node());
    assert_eq!(dns.searches, ["b".repeat(253)]);
    assert!(warnings[1].message.starts_with("Search Line limits were exceeded"));
}

#[test]
fn a_value_is_one_word_and_a_server_an_address() {
    for own in [
        json!({"searches": ["a\nnameserver 6.6.6.6"]}),
        json!({"searches": ["a b"]}),
        json!({"options": [{"name": "x", "value": "1\t2"}]}),
        json!({"nameservers": ["dns.example"]}),
    ] {
        let spec = spec(json!({"dnsConfig": own.clone()}));
        let refused = dns(&spec, "ns", &node(), &mut vec![]);
        assert!(matches!(refused, Err(Error::Sandbox(_))), "{own}");
    }
    let link = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["fe80::1%eth0"]}});
    assert_eq!(of(link, &node()).0.servers, ["fe80::1%eth0"]);
}
