//! Pods that exceed their limits on local storage.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::rank::PodUse;
use crate::pod::Quantity;
use crate::pod::translate::{pod_limits, value};

const RESOURCE: &str = "ephemeral-storage";

/// The limit on local storage that a pod exceeds, in the kubelet's words: the size of an
/// `emptyDir`, or the ephemeral storage of all containers together or of one of them.
pub fn over_limits(pod: &PodUse) -> Option<String> {
    empty_dir(pod).or_else(|| whole(pod)).or_else(|| container(pod))
}

fn empty_dir(pod: &PodUse) -> Option<String> {
    pod.given.spec().volumes.iter().flatten().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let used = pod.empty_dirs.get(&volume.name)?.bytes;
        let bytes = bytes(limit)?;
        let name = &volume.name;
        let limit = show(limit);
        (used > bytes)
            .then(|| format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "))
    })
}

fn whole(pod: &PodUse) -> Option<String> {
    let limits = pod_limits(pod.given.spec());
    let limit = limits.get(RESOURCE).copied().filter(|limit| *limit > 0)?;
    let used = pod.disk().bytes;
    let text = Quantity::bytes(limit);
    (i128::from(used) > i128::from(limit)).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {text}. ")
    })
}

fn container(pod: &PodUse) -> Option<String> {
    let spec = pod.given.spec();
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.find_map(|container: &Container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        let limit = limits.get(RESOURCE)?;
        let used = pod.containers.get(&container.name)?;
        let used = used.layer.plus(used.logs).bytes;
        let bytes = bytes(limit)?;
        let (name, limit) = (&container.name, show(limit));
        (used > bytes).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
        })
    })
}

/// A limit in bytes; 0 means none.
fn bytes(limit: &Text) -> Option<u64> {
    u64::try_from(value(limit)).ok().filter(|bytes| *bytes > 0)
}

fn show(limit: &Text) -> String {
    Quantity::try_from(limit).map_or_else(|_| limit.0.clone(), |limit| limit.to_string())
}
