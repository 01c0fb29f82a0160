//! Requests and limits of a pod as a whole, as Kubernetes computes them.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::amount::{CPU, HUGEPAGES, MEMORY, Totals, add, raise, totals};
use super::is_sidecar;

/// Whether the pod's overhead is included.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overhead {
    With,
    Without,
}

/// The pod's requests: the larger of the sum of its apps and sidecars and the needs of any init
/// container with the sidecars before it; or the pod-level requests if set; plus the overhead.
pub fn pod_requests(spec: &PodSpec) -> Totals {
    requests(spec, Overhead::With)
}

/// The pod's limits, computed likewise. A resource has a sum even if some container does not limit
/// it; see `limits_all`.
pub fn pod_limits(spec: &PodSpec) -> Totals {
    limits(spec, Overhead::With)
}

pub(super) fn requests(spec: &PodSpec, overhead: Overhead) -> Totals {
    let mut sums = of_containers(spec, requested);
    let own = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    sums.extend(totals(own).into_iter().filter(|(name, _)| of_whole_pods(name)));
    if overhead == Overhead::With {
        add(&mut sums, &totals(spec.overhead.as_ref()));
    }
    sums
}

pub(super) fn limits(spec: &PodSpec, overhead: Overhead) -> Totals {
    let mut sums = of_containers(spec, limited);
    let own = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    sums.extend(totals(own).into_iter().filter(|(name, _)| of_whole_pods(name)));
    if overhead == Overhead::With {
        let mut extra = totals(spec.overhead.as_ref());
        extra.retain(|name, _| sums.get(name).is_some_and(|&sum| sum > 0));
        add(&mut sums, &extra);
    }
    sums
}

/// Whether the pod as a whole, or every container, has a limit for this resource.
pub(super) fn limits_all(spec: &PodSpec, resource: &str) -> bool {
    let has = |list: Option<&ResourceRequirements>| {
        let limits = totals(list.and_then(|list| list.limits.as_ref()));
        limits.get(resource).is_some_and(|&limit| limit > 0)
    };
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    has(spec.resources.as_ref()) || containers.all(|container| has(container.resources.as_ref()))
}

/// Requests of a container.
pub(super) fn requested(container: &Container) -> Totals {
    totals(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

/// Limits of a container.
pub(super) fn limited(container: &Container) -> Totals {
    totals(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()))
}

/// The pod's sum over the values of `of` for its containers.
pub(super) fn of_containers(spec: &PodSpec, of: impl Fn(&Container) -> Totals) -> Totals {
    let mut sums = Totals::new();
    for container in &spec.containers {
        add(&mut sums, &of(container));
    }
    let (mut sidecars, mut most) = (Totals::new(), Totals::new());
    for container in spec.init_containers.iter().flatten() {
        let mut in_use = of(container);
        if is_sidecar(container) {
            add(&mut sums, &in_use);
            add(&mut sidecars, &in_use);
            in_use = sidecars.clone();
        } else {
            add(&mut in_use, &sidecars);
        }
        raise(&mut most, &in_use);
    }
    raise(&mut sums, &most);
    sums
}

fn of_whole_pods(resource: &str) -> bool {
    resource == CPU || resource == MEMORY || resource.starts_with(HUGEPAGES)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::spec;
    use super::*;
    use serde_json::json;

    fn sum(of: Totals) -> Vec<(String, i64)> {
        of.into_iter().collect()
    }

    fn needs(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}})
    }

    #[test]
    fn init_containers_raise_and_sidecars_add() {
        let spec = spec(json!({
            "containers": [
                {"name": "a", "resources": needs("100m", "10")},
                {"name": "b", "resources": needs("200m", "20")},
            ],
            "initContainers": [
                {"name": "i", "resources": needs("1", "5")},
                {"name": "s", "restartPolicy": "Always", "resources": needs("50m", "7")},
                {"name": "j", "resources": needs("1", "40")},
            ],
            "overhead": {"cpu": "10m", "memory": "1", "ephemeral-storage": "3"},
        }));
        // cpu: max(100 + 200 + 50, 1000, 1000 + 50); memory: max(37, 5, 47).
        let pair = |name: &str, amount| (name.to_owned(), amount);
        assert_eq!(
            sum(pod_requests(&spec)),
            [pair("cpu", 1060), pair("ephemeral-storage", 3), pair("memory", 48)]
        );
        assert_eq!(sum(pod_limits(&spec)), [pair("memory", 48)]);
        assert_eq!(sum(requests(&spec, Overhead::Without))[1], pair("memory", 47));
        assert!(limits_all(&spec, MEMORY));
        assert!(!limits_all(&spec, CPU));
    }

    #[test]
    fn what_the_pod_says_of_itself_stands() {
        let spec = spec(json!({
            "containers": [{"name": "a", "resources": needs("100m", "10")}, {"name": "b"}],
            "resources": {
                "requests": {"cpu": "2", "ephemeral-storage": "9"},
                "limits": {"memory": "100"},
            },
        }));
        assert_eq!(pod_requests(&spec).get("cpu"), Some(&2000));
        assert_eq!(pod_requests(&spec).get("memory"), Some(&10));
        assert_eq!(pod_requests(&spec).get("ephemeral-storage"), None);
        assert_eq!(pod_limits(&spec).get("memory"), Some(&100));
        assert!(limits_all(&spec, MEMORY));
    }
}
