//! Ephemeral containers: added to a running pod, which must not depend on them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};

use super::at::At;
use super::containers::{self, House};
use super::ports::Taken;
use crate::pod::translate::plain_container;

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// Validates all ephemeral containers; `seen` has the names of the others.
pub(super) fn all<'a>(at: &At<'_>, house: &House<'a>, seen: &mut BTreeSet<&'a str>) {
    let others = seen.clone();
    let at = at.field("ephemeralContainers");
    for (index, given) in house.spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = at.item(index);
        containers::unique(&at, &given.name, seen);
        let mut rest = plain_container(given);
        not_here(&at, &mut rest);
        containers::one(&at, &rest, house, &mut Taken::new());
        for (index, mount) in given.volume_mounts.iter().flatten().enumerate() {
            let at = at.field("volumeMounts").item(index);
            for (name, path) in
                [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)]
            {
                if path.as_deref().is_some_and(|path| !path.is_empty()) {
                    at.field(name).forbidden(NOT_HERE);
                }
            }
        }
        let target = given.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            at.field("targetContainerName").not_found(target);
        }
    }
}

/// Refuses fields that only ordinary containers may have, and removes them.
fn not_here(at: &At<'_>, container: &mut Container) {
    let asks = |it: ResourceRequirements| {
        let amounts = it.limits.into_iter().chain(it.requests);
        amounts.flatten().next().is_some() || it.claims.is_some_and(|claims| !claims.is_empty())
    };
    for (name, set) in [
        ("ports", container.ports.take().is_some_and(|ports| !ports.is_empty())),
        ("resources", container.resources.take().is_some_and(asks)),
        ("resizePolicy", container.resize_policy.take().is_some_and(|list| !list.is_empty())),
        ("livenessProbe", container.liveness_probe.take().is_some()),
        ("readinessProbe", container.readiness_probe.take().is_some()),
        ("startupProbe", container.startup_probe.take().is_some()),
        ("lifecycle", container.lifecycle.take().is_some()),
        ("restartPolicy", container.restart_policy.take().is_some_and(|it| !it.is_empty())),
        (
            "restartPolicyRules",
            container.restart_policy_rules.take().is_some_and(|rules| !rules.is_empty()),
        ),
    ] {
        if set {
            at.field(name).forbidden(NOT_HERE);
        }
    }
}
