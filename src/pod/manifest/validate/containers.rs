//! App containers and init containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::at::At;
use super::ports::Taken;
use super::{env, ephemeral, handlers, mounts, names, ports, resources, restarts, security};

const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";

/// The parts of a pod that containers are validated against.
pub(super) struct House<'a> {
    /// The pod.
    pub spec: &'a PodSpec,
    /// Names of its volumes.
    pub volumes: Vec<&'a str>,
    /// Names of its `emptyDir` volumes.
    pub folders: Vec<&'a str>,
}

/// All containers of a pod.
pub(super) fn all(at: &At<'_>, house: &House<'_>) {
    let mut seen = BTreeSet::new();
    let mut taken = Taken::new();
    let init_at = at.field("initContainers");
    for (index, container) in house.spec.init_containers.iter().flatten().enumerate() {
        let at = init_at.item(index);
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        if !sidecar {
            not_of_init(&at, container);
        }
        // An init container's ports are free again when the apps start.
        let own = if sidecar { &mut taken } else { &mut taken.clone() };
        unique(&at, &container.name, &mut seen);
        one(&at, container, house, own);
    }
    let containers_at = at.field("containers");
    if house.spec.containers.is_empty() {
        containers_at.required("");
    }
    for (index, container) in house.spec.containers.iter().enumerate() {
        let at = containers_at.item(index);
        unique(&at, &container.name, &mut seen);
        one(&at, container, house, &mut taken);
    }
    ephemeral::all(at, house, &mut seen);
}

/// Requires a name that no other container in the pod has.
pub(super) fn unique<'a>(at: &At<'_>, name: &'a str, seen: &mut BTreeSet<&'a str>) {
    let at = at.field("name");
    at.named(name, names::label);
    if !name.is_empty() && !seen.insert(name) {
        at.duplicate(name);
    }
}

fn not_of_init(at: &At<'_>, container: &Container) {
    for (name, set) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if set {
            at.field(name).forbidden(ONLY_SIDECARS);
        }
    }
}

pub(super) fn one(at: &At<'_>, container: &Container, house: &House<'_>, taken: &mut Taken) {
    let spec = house.spec;
    image(&at.field("image"), container.image.as_deref());
    policies(at, &container.image_pull_policy, &container.termination_message_policy);
    restarts::of_container(at, container);
    let own_ports = container.ports.as_deref().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    ports::ports(&at.field("ports"), own_ports, host_network, taken);
    env::variables(&at.field("env"), container.env.as_deref().unwrap_or_default(), &house.folders);
    env::from(&at.field("envFrom"), container.env_from.as_deref().unwrap_or_default());
    let context = container.security_context.as_ref();
    let privileged = context.and_then(|context| context.privileged).unwrap_or(false);
    let own_mounts = container.volume_mounts.as_deref().unwrap_or_default();
    mounts::mounts(&at.field("volumeMounts"), own_mounts, &house.volumes, privileged);
    if let Some(own) = &container.resources {
        resources::of_container(&at.field("resources"), own);
    }
    let resize = container.resize_policy.as_deref().unwrap_or_default();
    let restarts = spec.restart_policy.as_deref() != Some("Never");
    resources::resize(&at.field("resizePolicy"), resize, restarts);
    if let Some(context) = context {
        security::of_container(&at.field("securityContext"), context, spec.host_users);
    }
    let grace = spec.termination_grace_period_seconds.unwrap_or(0);
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    handlers::of_container(at, container, grace, os);
}

pub(super) fn image(at: &At<'_>, image: Option<&str>) {
    match image {
        None | Some("") => at.required(""),
        Some(image) if image.trim() != image => {
            at.invalid(image, "must not have leading or trailing whitespace");
        }
        Some(_) => {}
    }
}

pub(super) fn policies(at: &At<'_>, pull: &Option<String>, message: &Option<String>) {
    let pull = pull.as_deref().unwrap_or_default();
    at.field("imagePullPolicy").one_of(pull, &["Always", "IfNotPresent", "Never"]);
    let message = message.as_deref().unwrap_or_default();
    at.field("terminationMessagePolicy").one_of(message, &["FallbackToLogsOnError", "File"]);
}
