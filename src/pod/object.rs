//! A pod to run, the objects that it references, and its source.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, Secret};
use serde::{Deserialize, Serialize};

/// Namespace and name of a pod. Two pods with the same key never exist at the same time.
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

/// The source of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The API, through which it can be changed.
    #[default]
    Api,
    /// A file in the manifests directory: a static pod.
    File,
    /// A manifest from a URL: a static pod.
    Http,
}

impl Source {
    /// Whether it is a static pod: it exists as long as its file or URL lists it, and cannot be
    /// changed through the API.
    pub fn is_static(self) -> bool {
        self != Self::Api
    }

    /// The value of the kubelet's annotation `kubernetes.io/config.source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::File => "file",
            Self::Http => "http",
        }
    }
}

/// Objects referenced by pods in a namespace, by name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    /// Config maps.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets; `stringData` is merged into `data`.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

/// A pod as requested: validated, with defaults, uid and creation time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// The object; its `status` contains only the conditions of its readiness gates.
    pub pod: Arc<Pod>,
    /// The objects in its namespace that it references.
    pub objects: Objects,
    /// Where it came from.
    pub source: Source,
}

impl Given {
    /// Namespace and name, which are set by the defaults.
    pub fn key(&self) -> PodKey {
        let meta = &self.pod.metadata;
        PodKey::new(
            meta.namespace.clone().unwrap_or_default(),
            meta.name.clone().unwrap_or_default(),
        )
    }

    /// Its uid, which is set by the defaults.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its spec; validation refuses pods without one.
    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }
}

/// A fault of an object.
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
