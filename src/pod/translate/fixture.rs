//! Pods, nodes and contexts for the tests of this module.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret};
use serde_json::{Value, json};

use super::{Amounts, ContainerContext, ImageFacts, NodeFacts, PodContext, pod_config};
use crate::model::pod::{DnsConfig, PodConfig};
use crate::pod::{Given, Objects, Source};

/// A spec with these fields, and an ordinary container if they contain none.
pub(crate) fn spec(mut fields: Value) -> PodSpec {
    let map = fields.as_object_mut().expect("an object");
    map.entry("containers").or_insert_with(|| json!([{"name": "app", "image": "busybox"}]));
    serde_json::from_value(fields).expect("a pod spec")
}

/// Pod `web` of namespace `ns` with uid `u-1`.
pub(crate) fn given(fields: Value) -> Given {
    given_named("web", fields)
}

/// A pod of namespace `ns`.
pub(crate) fn given_named(name: &str, fields: Value) -> Given {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "ns", "uid": "u-1",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {"note": "two\nlines \"here\""},
        },
    });
    let mut pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod).expect("a pod");
    pod.spec = Some(spec(fields));
    Given { pod: Arc::new(pod), objects: objects(), source: Source::Api }
}

/// Config map `cm` (`a`, `b.c`, `nul`) and secret `sec` (`token`, `binary`).
fn objects() -> Objects {
    let text = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect::<BTreeMap<_, _>>()
    };
    let map =
        ConfigMap { data: Some(text(&[("a", "1"), ("b.c", "2 $(a)")])), ..ConfigMap::default() };
    let torn = ConfigMap { data: Some(text(&[("nul", "x\0y")])), ..ConfigMap::default() };
    let secret = |key: &str, value: &[u8]| {
        let data = BTreeMap::from([(key.to_owned(), ByteString(value.to_vec()))]);
        Arc::new(Secret { data: Some(data), ..Secret::default() })
    };
    Objects {
        config_maps: [("cm".to_owned(), Arc::new(map)), ("torn".to_owned(), Arc::new(torn))].into(),
        secrets: [
            ("sec".to_owned(), secret("token", b"s3cret")),
            ("raw".to_owned(), secret("binary", &[0xff, 0xfe])),
        ]
        .into(),
    }
}

/// A node with 4 CPUs, 8 GiB and cgroup v1.
pub(crate) fn node() -> NodeFacts {
    let capacity = Amounts {
        milli_cpu: 4000,
        memory: 8 << 30,
        ephemeral_storage: 100 << 30,
        pods: 110,
        hugepages: [(2 << 20, 0), (1 << 30, 0)].into(),
    };
    NodeFacts {
        name: "node-1".to_owned(),
        ips: vec!["192.168.1.10".parse().unwrap(), "fd00::10".parse().unwrap()],
        allocatable: Amounts { milli_cpu: 3500, memory: 7 << 30, ..capacity.clone() },
        capacity,
        cluster_dns: vec!["10.96.0.10".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
        resolv_conf: DnsConfig {
            servers: vec!["1.1.1.1".to_owned(), "8.8.8.8".to_owned()],
            searches: vec!["lan".to_owned()],
            options: vec!["edns0".to_owned()],
        },
        swap_accounting: true,
        pids_limit: Some(1024),
        arch: "amd64".to_owned(),
        ..NodeFacts::default()
    }
}

/// The node with cgroup v2.
pub(crate) fn node_v2() -> NodeFacts {
    NodeFacts { cgroup_v2: true, ..node() }
}

/// The sandbox of a pod.
pub(crate) fn sandbox(given: &Given, node: &NodeFacts) -> PodConfig {
    let ctx = PodContext { attempt: 0, user_ids: Some(131_072) };
    pod_config(given, ctx, node).expect("a sandbox").config
}

/// A context of a container whose image has this user.
pub(crate) fn context<'a>(
    sandbox: &'a PodConfig,
    node: &'a NodeFacts,
    user: &str,
) -> ContainerContext<'a> {
    ContainerContext {
        restart_count: 2,
        image: ImageFacts { id: "sha256:1234".to_owned(), user: user.to_owned() },
        pod_ips: vec!["10.1.0.7".parse().unwrap(), "fd01::7".parse().unwrap()],
        env_files: Default::default(),
        mounts: Vec::new(),
        target: None,
        sandbox,
        node,
    }
}

/// The first app container.
pub(crate) fn app(given: &Given) -> &Container {
    &given.spec().containers[0]
}
