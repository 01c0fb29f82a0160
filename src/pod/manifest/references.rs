//! The objects referenced by a pod.

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, PodSpec, Volume};

use crate::pod::Objects;

/// A reference in a pod to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// Name of the object, in the namespace of the pod.
    pub name: String,
    /// Whether the pod can run without the object.
    pub optional: bool,
    /// Path of the field.
    pub path: String,
}

/// All references in a pod to config maps and secrets, in the order of its fields.
///
/// A pull secret is optional: without it the image is pulled anonymously.
pub fn references(pod: &Pod) -> Vec<Reference> {
    let mut list = List(Vec::new());
    if let Some(spec) = &pod.spec {
        list.of_pod(spec);
    }
    list.0
}

/// Selects the objects referenced by a pod.
pub fn pick(pod: &Pod, from: &Objects) -> Objects {
    let mut picked = Objects::default();
    for reference in references(pod) {
        let name = reference.name;
        if reference.kind == "Secret" {
            if let Some(secret) = from.secrets.get(&name) {
                picked.secrets.insert(name, secret.clone());
            }
        } else if let Some(map) = from.config_maps.get(&name) {
            picked.config_maps.insert(name, map.clone());
        }
    }
    picked
}

struct List(Vec<Reference>);

impl List {
    fn add(&mut self, kind: &'static str, name: &str, optional: Option<bool>, path: String) {
        if !name.is_empty() {
            let optional = optional.unwrap_or(false);
            self.0.push(Reference { kind, name: name.to_owned(), optional, path });
        }
    }

    fn of_pod(&mut self, spec: &PodSpec) {
        for (at, volume) in spec.volumes.iter().flatten().enumerate() {
            self.of_volume(volume, &format!("spec.volumes[{at}]"));
        }
        for (list, containers) in [
            ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
            ("containers", &spec.containers),
        ] {
            for (at, Container { env, env_from, .. }) in containers.iter().enumerate() {
                self.of_env(env, env_from, &format!("spec.{list}[{at}]"));
            }
        }
        for (at, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
            let path = format!("spec.ephemeralContainers[{at}]");
            self.of_env(&container.env, &container.env_from, &path);
        }
        for (at, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
            let path = format!("spec.imagePullSecrets[{at}].name");
            self.add("Secret", &secret.name, Some(true), path);
        }
    }

    fn of_volume(&mut self, volume: &Volume, path: &str) {
        if let Some(map) = &volume.config_map {
            self.add("ConfigMap", &map.name, map.optional, format!("{path}.configMap.name"));
        }
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            self.add("Secret", name, secret.optional, format!("{path}.secret.secretName"));
        }
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (at, source) in sources.enumerate() {
            let path = format!("{path}.projected.sources[{at}]");
            if let Some(map) = &source.config_map {
                self.add("ConfigMap", &map.name, map.optional, format!("{path}.configMap.name"));
            }
            if let Some(secret) = &source.secret {
                self.add("Secret", &secret.name, secret.optional, format!("{path}.secret.name"));
            }
        }
    }

    fn of_env(
        &mut self,
        env: &Option<Vec<EnvVar>>,
        env_from: &Option<Vec<EnvFromSource>>,
        path: &str,
    ) {
        for (at, source) in env_from.iter().flatten().enumerate() {
            let path = format!("{path}.envFrom[{at}]");
            if let Some(map) = &source.config_map_ref {
                self.add("ConfigMap", &map.name, map.optional, format!("{path}.configMapRef.name"));
            }
            if let Some(secret) = &source.secret_ref {
                self.add("Secret", &secret.name, secret.optional, format!("{path}.secretRef.name"));
            }
        }
        for (at, variable) in env.iter().flatten().enumerate() {
            let path = format!("{path}.env[{at}].valueFrom");
            let Some(source) = &variable.value_from else { continue };
            if let Some(key) = &source.config_map_key_ref {
                let path = format!("{path}.configMapKeyRef.name");
                self.add("ConfigMap", &key.name, key.optional, path);
            }
            if let Some(key) = &source.secret_key_ref {
                let path = format!("{path}.secretKeyRef.name");
                self.add("Secret", &key.name, key.optional, path);
            }
        }
    }
}
