//! Ephemeral containers: those that are put into a pod that runs, to look at it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::at::At;
use super::containers::{House, image, policies, unique};
use super::{env, mounts, security};

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// All of them, beside containers of these names.
pub(super) fn all<'a>(at: &At<'_>, house: &House<'a>, others: BTreeSet<&'a str>) {
    let mut seen = others.clone();
    let at = at.field("ephemeralContainers");
    for (index, container) in house.spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = at.item(index);
        unique(&at, &container.name, &mut seen);
        let target = container.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            at.field("targetContainerName").not_found(target);
        }
        one(&at, container, house);
    }
}

fn one(at: &At<'_>, container: &EphemeralContainer, house: &House<'_>) {
    image(&at.field("image"), container.image.as_deref());
    policies(at, &container.image_pull_policy, &container.termination_message_policy);
    let resources = container.resources.as_ref();
    let asks = resources.is_some_and(|own| own.limits.is_some() || own.requests.is_some());
    for (name, set) in [
        ("ports", container.ports.iter().flatten().next().is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
        ("resources", asks),
        ("restartPolicy", container.restart_policy.is_some()),
        ("resizePolicy", container.resize_policy.iter().flatten().next().is_some()),
    ] {
        if set {
            at.field(name).forbidden(NOT_HERE);
        }
    }
    let variables = container.env.as_deref().unwrap_or_default();
    env::variables(&at.field("env"), variables, &house.folders);
    env::from(&at.field("envFrom"), container.env_from.as_deref().unwrap_or_default());
    let own = container.volume_mounts.as_deref().unwrap_or_default();
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged).unwrap_or(false);
    mounts::mounts(&at.field("volumeMounts"), own, &house.volumes, privileged);
    for (index, mount) in own.iter().enumerate() {
        let at = at.field("volumeMounts").item(index);
        for (name, path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if path.as_deref().is_some_and(|path| !path.is_empty()) {
                at.field(name).forbidden(NOT_HERE);
            }
        }
    }
    if let Some(context) = context {
        let at = at.field("securityContext");
        security::of_container(&at, context, house.spec.host_users);
    }
}
