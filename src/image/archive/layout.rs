//! The images of an OCI image layout (image specification 1.1, image-layout.md). Pure.

use serde::Deserialize;

use super::{MAX_IMAGES, MAX_NAMES};
use crate::image::manifest::{self, Document, Entry, OCI_INDEX};
use crate::image::{Error, Platform, Reference};
use crate::model::StringMap;
use crate::model::image::Descriptor;

/// Annotation with the full name, written by containerd and docker.
pub(super) const NAME: &str = "io.containerd.image.name";
/// Annotation with the tag, as the specification has it; some tools write a full name.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image listed in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// Its names; empty when it has only its id.
    pub names: Vec<Reference>,
    /// The index or manifest.
    pub target: Descriptor,
}

impl Named {
    /// Adds an image, or only its names if the image was added before.
    pub fn add(self, to: &mut Vec<Self>) -> Result<(), Error> {
        let place = to.iter().position(|image| image.target.digest == self.target.digest);
        let Some(place) = place else {
            to.push(self);
            if to.len() > MAX_IMAGES {
                return Err(Error::bad_archive(format!("it has over {MAX_IMAGES} images")));
            }
            return Ok(());
        };
        let names = &mut to[place].names;
        names.extend(
            self.names.into_iter().filter(|name| !names.contains(name)).collect::<Vec<_>>(),
        );
        if names.len() > MAX_NAMES {
            return Err(Error::bad_archive(format!("an image has over {MAX_NAMES} names")));
        }
        Ok(())
    }
}

/// Reads `oci-layout` and `index.json`.
pub(super) fn images(layout: &[u8], index: &[u8], host: &Platform) -> Result<Vec<Named>, Error> {
    check_version(layout)?;
    let document = manifest::parse(OCI_INDEX, index);
    let Document::Index(entries) =
        document.map_err(|problem| Error::bad_archive(format!("index.json: {problem}")))?
    else {
        return Err(Error::bad_archive("index.json is not an index"));
    };
    if entries.is_empty() {
        return Err(Error::bad_archive("there is no image in it"));
    }
    // Several entries with one name are platform variants of one image; the order is that of the
    // first entry of each name.
    let mut groups: Vec<(Option<Reference>, Vec<Entry>)> = Vec::new();
    for entry in entries {
        let name = name(&entry.descriptor.annotations)?;
        let same = groups.iter_mut().find(|(other, _)| name.is_some() && *other == name);
        match same {
            Some((_, entries)) => entries.push(entry),
            None => groups.push((name, vec![entry])),
        }
    }
    let mut images = Vec::new();
    for (name, entries) in groups {
        let unnamed = name.is_none();
        match manifest::choose(&entries, host) {
            Some(entry) => {
                let target =
                    Descriptor { annotations: StringMap::new(), ..entry.descriptor.clone() };
                Named { names: name.into_iter().collect(), target }.add(&mut images)?;
            }
            // Another platform variant of an image without a name.
            None if unnamed => {}
            None => return Err(no_platform(name.as_ref(), host)),
        }
    }
    if images.is_empty() { Err(no_platform(None, host)) } else { Ok(images) }
}

fn check_version(layout: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    let version = serde_json::from_slice::<Version>(layout).ok();
    match version {
        Some(version) if version.image_layout_version.starts_with("1.") => Ok(()),
        _ => Err(Error::bad_archive("oci-layout does not say version 1")),
    }
}

fn name(annotations: &StringMap) -> Result<Option<Reference>, Error> {
    if let Some(whole) = annotations.get(NAME) {
        return reference(whole).map(Some);
    }
    match annotations.get(REF_NAME) {
        // A tag alone names no repository.
        Some(name) if name.contains(['/', ':', '@']) => reference(name).map(Some),
        _ => Ok(None),
    }
}

/// Parses a name found in an archive.
pub(super) fn reference(text: &str) -> Result<Reference, Error> {
    Reference::parse(text).map_err(|error| Error::bad_archive(error.to_string()))
}

fn no_platform(name: Option<&Reference>, host: &Platform) -> Error {
    let reference = name.map_or_else(|| "the archive".to_owned(), Reference::to_string);
    Error::NoPlatform { reference, platform: host.to_string() }
}
