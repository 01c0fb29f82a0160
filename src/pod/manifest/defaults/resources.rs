//! Defaults of resources: rounding to thousandths, requests derived from limits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use super::{Amounts, PodSpec, Quantity, ResourceRequirements, Text};

/// Missing requests are set to the limits.
pub(super) fn of_container(resources: &mut ResourceRequirements) {
    resources.limits.iter_mut().for_each(round);
    resources.requests.iter_mut().for_each(round);
    if let Some(limits) = &resources.limits {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// Missing requests of a pod with limits are set to the sum of its containers' requests, else to
/// the limits.
pub(super) fn of_pod(spec: &mut PodSpec) {
    let together = together(spec);
    let Some(resources) = &mut spec.resources else { return };
    resources.limits.iter_mut().for_each(round);
    resources.requests.iter_mut().for_each(round);
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else {
        return;
    };
    let mut requests = resources.requests.take().unwrap_or_default();
    let asked = together.into_iter().map(|(name, amount)| (name, Text::from(amount)));
    let limits = limits.iter().map(|(name, limit)| (name.clone(), limit.clone()));
    for (name, amount) in asked.chain(limits).filter(|(name, _)| of_whole_pods(name)) {
        requests.entry(name).or_insert(amount);
    }
    resources.requests = Some(requests).filter(|requests| !requests.is_empty());
}

/// Rounds amounts as the API server does; invalid quantities are left to validation.
pub(super) fn round(amounts: &mut Amounts) {
    for text in amounts.values_mut() {
        if let Ok(quantity) = Quantity::try_from(&*text) {
            *text = quantity.round_up_to_milli().into();
        }
    }
}

/// Whether a resource can be requested for a pod as a whole.
fn of_whole_pods(resource: &str) -> bool {
    resource == "cpu" || resource == "memory" || resource.starts_with("hugepages-")
}

/// The containers' highest total request: all apps and sidecars, or one init container with the
/// sidecars before it.
fn together(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let mut running = BTreeMap::new();
    for container in &spec.containers {
        add(&mut running, &requests(container));
    }
    let mut sidecars = BTreeMap::new();
    let mut worst = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &requests(container));
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut running, &requests(container));
            sidecars = now.clone();
        }
        raise(&mut worst, now);
    }
    raise(&mut running, worst);
    running
}

fn requests(container: &Container) -> BTreeMap<String, Quantity> {
    let requests =
        container.resources.iter().flat_map(|resources| resources.requests.iter().flatten());
    requests
        .filter_map(|(name, text)| Some((name.clone(), Quantity::try_from(text).ok()?)))
        .collect()
}

fn add(sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_insert_with(|| amount.nothing());
        *entry = entry.plus(*amount);
    }
}

fn raise(most: &mut BTreeMap<String, Quantity>, other: BTreeMap<String, Quantity>) {
    for (name, amount) in other {
        let entry = most.entry(name).or_insert(amount);
        *entry = (*entry).max(amount);
    }
}
