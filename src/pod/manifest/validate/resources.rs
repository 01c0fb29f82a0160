//! Amounts of resources.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerResizePolicy, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::super::super::quantity::Quantity;
use super::at::At;
use super::names;

type Amounts = BTreeMap<String, Quantity>;

/// Limits and requests of a container.
pub(super) fn of_container(at: &At<'_>, resources: &ResourceRequirements) {
    let limits = amounts(&at.field("limits"), &resources.limits, of_containers);
    let requests = amounts(&at.field("requests"), &resources.requests, of_containers);
    together(at, &limits, &requests);
    let asked = |name: &str| limits.contains_key(name) || requests.contains_key(name);
    let huge = limits.keys().chain(requests.keys()).any(|name| is_huge(name));
    if huge && !asked("cpu") && !asked("memory") {
        at.forbidden("HugePages require cpu or memory");
    }
}

/// Limits and requests of a pod as a whole, compared with those of its containers.
pub(super) fn of_pod(at: &At<'_>, spec: &PodSpec) {
    let Some(resources) = &spec.resources else { return };
    let limits = amounts(&at.field("limits"), &resources.limits, of_whole_pods);
    let requests = amounts(&at.field("requests"), &resources.requests, of_whole_pods);
    together(at, &limits, &requests);
    let mut asked = Amounts::new();
    for container in &spec.containers {
        let Some(own) = &container.resources else { continue };
        for (name, text) in own.requests.iter().flatten() {
            let Ok(amount) = Quantity::try_from(text) else { continue };
            let entry = asked.entry(name.clone()).or_insert_with(|| amount.nothing());
            *entry = entry.plus(amount);
        }
        for (name, text) in own.limits.iter().flatten() {
            let (Some(most), Ok(own)) = (limits.get(name), Quantity::try_from(text)) else {
                continue;
            };
            if own > *most {
                let why = format!(
                    "must be greater than or equal to the limit of container {:?}",
                    container.name
                );
                at.field("limits").key(name).invalid(most.to_string(), why);
            }
        }
    }
    for (name, request) in &requests {
        if let Some(sum) = asked.get(name).filter(|sum| *sum > request) {
            let why =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            at.field("requests").key(name).invalid(request.to_string(), why);
        }
    }
}

/// Amounts without limits and requests, e.g. the overhead of a runtime.
pub(super) fn overhead(at: &At<'_>, list: &Option<BTreeMap<String, Text>>) {
    amounts(at, list, of_containers);
}

/// `restarts` is false for a pod whose containers are never restarted.
pub(super) fn resize(at: &At<'_>, policies: &[ContainerResizePolicy], restarts: bool) {
    let mut seen = BTreeSet::new();
    for (index, policy) in policies.iter().enumerate() {
        let at = at.item(index);
        at.field("resourceName").one_of(&policy.resource_name, &["cpu", "memory"]);
        at.field("restartPolicy")
            .one_of(&policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if !restarts && policy.restart_policy == "RestartContainer" {
            at.field("restartPolicy").invalid(
                &policy.restart_policy,
                "must be 'NotRequired' when `restartPolicy` is 'Never'",
            );
        }
        if !seen.insert(policy.resource_name.as_str()) {
            at.duplicate(&policy.resource_name);
        }
    }
}

/// The valid amounts.
fn amounts(
    at: &At<'_>,
    list: &Option<BTreeMap<String, Text>>,
    right: impl Fn(&str) -> Result<(), &'static str>,
) -> Amounts {
    let mut read = Amounts::new();
    for (name, text) in list.iter().flatten() {
        let at = at.key(name);
        at.all(name, names::qualified(name));
        if let Err(why) = right(name) {
            at.invalid(name, why);
        }
        match Quantity::try_from(text) {
            Err(why) => at.invalid(&text.0, why),
            Ok(amount) if amount.is_negative() => {
                at.invalid(&text.0, "must be greater than or equal to 0");
            }
            Ok(amount) if !amount.is_whole() && is_counted(name) => {
                at.invalid(&text.0, "must be an integer");
            }
            Ok(amount) => {
                read.insert(name.clone(), amount);
            }
        }
    }
    read
}

fn together(at: &At<'_>, limits: &Amounts, requests: &Amounts) {
    let exact = |name: &str| is_counted(name);
    for (name, request) in requests {
        let at = at.field("requests").key(name);
        match limits.get(name) {
            Some(limit) if exact(name) && request != limit => {
                at.invalid(
                    request.to_string(),
                    format!("must be equal to {name} limit of {limit}"),
                );
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                at.invalid(request.to_string(), why);
            }
            None if exact(name) => {
                at.required("Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

fn of_containers(name: &str) -> Result<(), &'static str> {
    match name {
        "cpu" | "memory" | "ephemeral-storage" => Ok(()),
        name if is_huge(name) => of_huge(name),
        name if !name.contains('/') => Err("must be a standard resource for containers"),
        name if name.starts_with("requests.") => {
            Err("doesn't follow extended resource name standard")
        }
        name if name.contains("kubernetes.io/") => {
            Err("must be a standard resource for containers")
        }
        _ => Ok(()),
    }
}

fn of_whole_pods(name: &str) -> Result<(), &'static str> {
    match name {
        "cpu" | "memory" => Ok(()),
        name if is_huge(name) => of_huge(name),
        _ => Err("must be cpu, memory or hugepages for a whole pod"),
    }
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn of_huge(name: &str) -> Result<(), &'static str> {
    let size = name.trim_start_matches("hugepages-").parse::<Quantity>();
    let right = size.is_ok_and(|size| size.is_whole() && size.value() > 0);
    if right { Ok(()) } else { Err("must have the size of the pages, e.g. hugepages-2Mi") }
}

/// Whether a resource is allocated in whole units and not shared: huge pages and devices.
fn is_counted(name: &str) -> bool {
    is_huge(name) || name.contains('/')
}
