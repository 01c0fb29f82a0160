//! The images of a docker archive: `manifest.json` names a configuration and layers by their
//! paths. Pure.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::contents::{Contents, Kept, Packing};
use super::layout::{Named, reference};
use super::{MAX_IMAGES, MAX_NAMES};
use crate::image::Error;
use crate::image::manifest::{MAX_LAYERS, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::model::StringMap;
use crate::model::image::{Descriptor, Digest};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Reads `manifest.json`. A docker archive has no image manifests: they are made here, with the
/// same bytes for the same image every time.
pub(super) fn images(document: &[u8], contents: &Contents) -> Result<Vec<(Named, Bytes)>, Error> {
    let raw: Vec<Raw> = serde_json::from_slice(document)
        .map_err(|_| Error::bad_archive("manifest.json is not that of a docker archive"))?;
    if raw.is_empty() {
        return Err(Error::bad_archive("there is no image in it"));
    }
    if raw.len() > MAX_IMAGES {
        return Err(Error::bad_archive(format!("it has over {MAX_IMAGES} images")));
    }
    raw.into_iter().map(|raw| image(raw, contents)).collect()
}

fn image(raw: Raw, contents: &Contents) -> Result<(Named, Bytes), Error> {
    let tags = raw.repo_tags.unwrap_or_default();
    let paths = raw.layers.unwrap_or_default();
    if tags.len() > MAX_NAMES || paths.len() > MAX_LAYERS {
        return Err(Error::bad_archive("an image has too many names or layers"));
    }
    let file = |path: &String| {
        let missing = || Error::bad_archive(format!("{path:?} is missing"));
        contents.file(path.strip_prefix("./").unwrap_or(path)).ok_or_else(missing)
    };
    let config = descriptor(OCI_CONFIG, file(&raw.config)?);
    let layers = paths.iter().map(|path| {
        let file = file(path)?;
        let packed = match file.packing {
            Packing::Plain => "",
            Packing::Gzip => "+gzip",
            Packing::Zstd => "+zstd",
        };
        Ok(descriptor(&format!("{OCI_LAYER}{packed}"), file))
    });
    let layers = layers.collect::<Result<Vec<_>, Error>>()?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
    });
    let bytes = Bytes::from(manifest.to_string());
    let target = Descriptor {
        media_type: OCI_MANIFEST.to_owned(),
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        annotations: StringMap::new(),
    };
    let names = tags.iter().map(|tag| reference(tag)).collect::<Result<_, _>>()?;
    Ok((Named { names, target }, bytes))
}

fn descriptor(media_type: &str, file: &Kept) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: file.digest.clone(),
        size: file.size,
        annotations: StringMap::new(),
    }
}
