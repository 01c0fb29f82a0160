//! Defaults of volumes.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, EmptyDirVolumeSource, Volume};

use super::{FILE_MODE, of_field, pull_policy};

/// Sets modes and types, and `emptyDir` if no source is named.
pub(super) fn fill(volume: &mut Volume) {
    let nameless = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == nameless {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(path) = &mut volume.host_path {
        path.type_.get_or_insert_default();
    }
    if let Some(map) = &mut volume.config_map {
        map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        files(&mut downward.items);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(downward) = &mut source.downward_api {
                files(&mut downward.items);
            }
        }
    }
    if let Some(image) = &mut volume.image {
        super::fill(&mut image.pull_policy, pull_policy(image.reference.as_deref()));
    }
}

fn files(items: &mut Option<Vec<DownwardAPIVolumeFile>>) {
    items.iter_mut().flatten().filter_map(|file| file.field_ref.as_mut()).for_each(of_field);
}
