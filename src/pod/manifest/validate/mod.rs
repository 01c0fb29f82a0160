//! Validation of objects: reports all faults together, with Kubernetes' field paths and messages
//! (`pkg/apis/core/validation`).
//!
//! Stricter than the API server where a later step would inevitably fail: host paths and mount
//! paths must be absolute, values of sysctls and headers a single line.

mod at;
mod containers;
mod env;
mod ephemeral;
mod handlers;
mod mounts;
mod names;
mod network;
mod objects;
mod ports;
mod resources;
mod restarts;
mod security;
mod spec;
mod volumes;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};

use self::at::Faults;
use crate::pod::FieldError;
use crate::pod::probe::check_periods;
use crate::pod::wishes;

/// All faults of a pod with defaults.
pub(super) fn pod(pod: &Pod) -> Vec<FieldError> {
    let faults = Faults::default();
    let root = faults.root();
    objects::metadata(&root.field("metadata"), &pod.metadata);
    match &pod.spec {
        Some(spec) => spec::pod_spec(&root.field("spec"), spec),
        None => root.field("spec").required(""),
    }
    let mut list = faults.into_list();
    list.extend(check_periods(pod));
    list.extend(wishes::check(pod));
    list
}

/// All faults of a config map.
pub(super) fn config_map(map: &ConfigMap) -> Vec<FieldError> {
    let faults = Faults::default();
    objects::config_map(&faults.root(), map);
    faults.into_list()
}

/// All faults of a secret whose `stringData` is not merged yet.
pub(super) fn secret(secret: &Secret) -> Vec<FieldError> {
    let faults = Faults::default();
    objects::secret(&faults.root(), secret);
    faults.into_list()
}
