//! The kind of a volume.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource,
    ImageVolumeSource, ProjectedVolumeSource, SecretVolumeSource, Volume,
};

/// One source of a volume.
#[derive(Debug, Clone)]
pub(super) enum Kind<'v> {
    EmptyDir(Option<&'v EmptyDirVolumeSource>),
    HostPath(&'v HostPathVolumeSource),
    ConfigMap(&'v ConfigMapVolumeSource),
    Secret(&'v SecretVolumeSource),
    DownwardApi(&'v DownwardAPIVolumeSource),
    Projected(&'v ProjectedVolumeSource),
    Image(&'v ImageVolumeSource),
    /// An unsupported source, by the name of its field.
    Other(String),
}

impl<'v> Kind<'v> {
    /// A volume without a source is an `emptyDir`, as in Kubernetes.
    pub(super) fn of(volume: &'v Volume) -> Self {
        if let Some(source) = &volume.host_path {
            Self::HostPath(source)
        } else if let Some(source) = &volume.config_map {
            Self::ConfigMap(source)
        } else if let Some(source) = &volume.secret {
            Self::Secret(source)
        } else if let Some(source) = &volume.downward_api {
            Self::DownwardApi(source)
        } else if let Some(source) = &volume.projected {
            Self::Projected(source)
        } else if let Some(source) = &volume.image {
            Self::Image(source)
        } else if let (None, Some(field)) = (&volume.empty_dir, other_source(volume)) {
            Self::Other(field)
        } else {
            Self::EmptyDir(volume.empty_dir.as_ref())
        }
    }

    /// Name of the directory of volumes of this kind; `None` for those stored elsewhere.
    pub(super) fn folder(&self) -> Option<&'static str> {
        match self {
            Self::EmptyDir(_) => Some("empty-dir"),
            Self::ConfigMap(_) => Some("config-map"),
            Self::Secret(_) => Some("secret"),
            Self::DownwardApi(_) => Some("downward-api"),
            Self::Projected(_) => Some("projected"),
            Self::HostPath(_) | Self::Image(_) | Self::Other(_) => None,
        }
    }

    /// Whether podbay manages its contents, which containers only read.
    pub(super) fn has_content(&self) -> bool {
        matches!(
            self,
            Self::ConfigMap(_) | Self::Secret(_) | Self::DownwardApi(_) | Self::Projected(_)
        )
    }

    /// Whether its files must not be written to disk.
    pub(super) fn is_secret(&self) -> bool {
        match self {
            Self::Secret(_) => true,
            Self::Projected(source) => {
                source.sources.iter().flatten().any(|source| source.secret.is_some())
            }
            _ => false,
        }
    }
}

fn other_source(volume: &Volume) -> Option<String> {
    let fields = serde_json::to_value(volume).ok()?;
    fields.as_object()?.keys().find(|field| *field != "name").cloned()
}
