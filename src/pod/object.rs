//! What is given to be run: a pod, the objects that it refers to, and where they came from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret};
use serde::{Deserialize, Serialize};

/// Namespace and name: what a pod is called by. Two pods of one key never exist at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl PodKey {
    /// A key of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a pod came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A caller of the API: can be changed by it.
    #[default]
    Api,
    /// A file of the manifests folder: static.
    File,
    /// A manifest from an HTTP address: static.
    Http,
}

impl Source {
    /// Whether the pod lives as long as its file or address has it, and no caller may change it.
    pub fn is_static(self) -> bool {
        self != Self::Api
    }

    /// As the kubelet's annotation `kubernetes.io/config.source` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// Objects that pods of one namespace refer to, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    /// Config maps.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets; `stringData` is folded into `data`.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// A pod as it is wanted: checked, with defaults filled in, with a uid and a creation time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// The object; in its `status` are the conditions of its readiness gates alone.
    pub pod: Arc<Pod>,
    /// The objects of its namespace that it refers to.
    pub objects: Objects,
    /// Where it came from.
    pub source: Source,
}

impl Given {
    /// Namespace and name; both are set by the defaults.
    pub fn key(&self) -> PodKey {
        let meta = &self.pod.metadata;
        PodKey::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// Its uid; set by the defaults.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its spec; validation refuses pods without one.
    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }
}

/// One fault of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field as Kubernetes writes it, e.g. `spec.containers[0].ports[1].hostPort`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
