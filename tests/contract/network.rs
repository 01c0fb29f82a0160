//! The contract of [`Network`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use podbay::backend::{Attachment, ErrorKind, Host, Network, NetworkReadiness};
use podbay::ids::PodId;
use podbay::model::StringMap;
use podbay::model::pod::PodMetadata;

use super::{kind, new_path};

/// Everything at once. Namespaces are made by `host` as `prefix…` in `folder`.
pub async fn network_contract(
    network: &Arc<dyn Network>,
    host: &Arc<dyn Host>,
    folder: &Path,
    prefix: &str,
) {
    assert_eq!(network.readiness().await, NetworkReadiness::Ready);
    assert_eq!(kind(network.set_pod_cidr("no range").await), ErrorKind::InvalidArgument);

    let mut pods = Vec::new();
    for number in 0..2 {
        let netns = new_path(folder, &format!("{prefix}{number}"));
        host.create_netns(&netns).await.unwrap();
        pods.push(attachment(Some(netns)));
    }
    assert_eq!(network.recall(&pods[0]).await.unwrap(), None);
    network.detach(&pods[0]).await.expect("a pod that was never attached is fine");
    let mut addresses = Vec::new();
    for pod in &pods {
        let status = network.attach(pod).await.unwrap();
        assert!(!status.ips.is_empty());
        assert!(status.result.is_object());
        let recalled = network.recall(pod).await.unwrap().expect("it was attached");
        assert_eq!(recalled.ips, status.ips);
        addresses.extend(status.ips);
    }
    let given = addresses.len();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), given, "an address was given twice");

    for pod in &pods {
        network.detach(pod).await.unwrap();
        network.detach(pod).await.expect("repeatable");
        assert_eq!(network.recall(pod).await.unwrap(), None);
    }
    network.attach(&pods[0]).await.expect("a pod can come back");
    for pod in &pods {
        host.remove_netns(pod.netns.as_deref().unwrap()).await.unwrap();
    }
    // The namespace went away first, as after a reboot.
    network.detach(&Attachment { netns: None, ..pods[0].clone() }).await.unwrap();

    let lost = attachment(Some(new_path(folder, prefix)));
    kind(network.attach(&lost).await);
    network.detach(&lost).await.expect("a failed attach leaves nothing that cannot be detached");
}

fn attachment(netns: Option<PathBuf>) -> Attachment {
    let pod = PodId::random();
    Attachment {
        metadata: PodMetadata {
            name: "contract".into(),
            namespace: "default".into(),
            uid: pod.as_str()[..8].to_owned(),
            attempt: 0,
        },
        pod,
        netns,
        port_mappings: Vec::new(),
        dns: None,
        annotations: StringMap::new(),
        cgroup_parent: String::new(),
    }
}
