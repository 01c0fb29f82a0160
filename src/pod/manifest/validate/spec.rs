//! The spec of a pod as a whole.

use k8s_openapi::api::core::v1::{PodSpec, Toleration};

use super::at::At;
use super::containers::{self, House};
use super::{names, network, objects, resources, security, volumes};

pub(super) fn pod_spec(at: &At<'_>, spec: &PodSpec) {
    let house = House {
        spec,
        volumes: spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect(),
        folders: spec
            .volumes
            .iter()
            .flatten()
            .filter(|volume| volume.empty_dir.is_some())
            .map(|volume| volume.name.as_str())
            .collect(),
    };
    volumes::all(&at.field("volumes"), spec.volumes.as_deref().unwrap_or_default());
    containers::all(at, &house);
    life(at, spec);
    node(at, spec);
    namespaces(at, spec);
    network::of_pod(at, spec);
    resources::of_pod(&at.field("resources"), spec);
    resources::overhead(&at.field("overhead"), &spec.overhead);
    if let Some(context) = &spec.security_context {
        security::of_pod(&at.field("securityContext"), context, spec);
    }
}

fn life(at: &At<'_>, spec: &PodSpec) {
    let restart = spec.restart_policy.as_deref().unwrap_or_default();
    at.field("restartPolicy").one_of(restart, &["Always", "Never", "OnFailure"]);
    if let Some(seconds) = spec.active_deadline_seconds {
        at.field("activeDeadlineSeconds").between(seconds, 1, i64::from(i32::MAX));
    }
    if let Some(seconds) = spec.termination_grace_period_seconds {
        at.field("terminationGracePeriodSeconds").not_negative(seconds);
    }
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let at = at.field("readinessGates").item(index).field("conditionType");
        at.named(&gate.condition_type, names::qualified);
    }
}

fn node(at: &At<'_>, spec: &PodSpec) {
    for (name, value) in [
        ("nodeName", &spec.node_name),
        ("serviceAccountName", &spec.service_account_name),
        ("runtimeClassName", &spec.runtime_class_name),
        ("priorityClassName", &spec.priority_class_name),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            at.field(name).all(value, names::subdomain(value));
        }
    }
    objects::labels(&at.field("nodeSelector"), &spec.node_selector);
    at.field("preemptionPolicy")
        .one_of_if_set(&spec.preemption_policy, &["Never", "PreemptLowerPriority"]);
    if let Some(os) = &spec.os {
        at.field("os").field("name").one_of(&os.name, &["linux", "windows"]);
    }
    for (index, toleration) in spec.tolerations.iter().flatten().enumerate() {
        tolerated(&at.field("tolerations").item(index), toleration);
    }
}

fn tolerated(at: &At<'_>, toleration: &Toleration) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    if !key.is_empty() {
        at.field("key").all(key, names::qualified(key));
    }
    match operator {
        "" | "Equal" => at.field("value").all(value, names::label_value(value)),
        "Exists" if !value.is_empty() => {
            at.field("operator").invalid(value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        "Gt" | "Lt" if value.parse::<i64>().is_ok() => {}
        "Gt" | "Lt" => at.field("value").invalid(value, "value must be a valid integer"),
        other => at.field("operator").one_of(other, &["Equal", "Exists", "Gt", "Lt"]),
    }
    if key.is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values \
                   and all keys\"";
        at.field("operator").invalid(operator, why);
    }
    let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
    at.field("effect").one_of_if_set(&toleration.effect, &effects);
    if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute")
    {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        at.field("effect").invalid(effect, why);
    }
}

/// Refuses namespaces that cannot be combined.
fn namespaces(at: &At<'_>, spec: &PodSpec) {
    if spec.share_process_namespace.unwrap_or(false) && spec.host_pid.unwrap_or(false) {
        at.field("shareProcessNamespace")
            .invalid(true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if spec.host_users == Some(false) {
        for (name, set) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if set.unwrap_or(false) {
                at.field(name).forbidden("when `hostUsers` is false");
            }
        }
    }
}
