//! Documents of images, as registries send them.

use podbay::image::Platform;
use podbay::image::manifest::{self, Document, Manifest};
use podbay::model::image::Descriptor;

use super::{fuzz, words};

/// Ends the media type, the document and the configuration in an input.
const CUT: &[u8] = b"\n---\n";

/// The way of a pull: media type, index or manifest, configuration. What it goes on with is within
/// limits, and an error does not repeat the document.
#[test]
fn image_documents() {
    fuzz("image_document", |bytes| {
        let (said, rest) = split(bytes);
        let (document, config) = split(rest);
        let said = std::str::from_utf8(said).ok().filter(|said| !said.is_empty());
        let told = manifest::media_type(said, document)
            .and_then(|media_type| manifest::parse(&media_type, document))
            .and_then(|parsed| {
                let listed = manifest::children(document).expect("its descriptors are good");
                match parsed {
                    Document::Index(entries) => Ok(index(&entries, &listed)),
                    Document::Manifest(image) => whole(&image, &listed, config),
                }
            });
        told.unwrap_or_else(|error| {
            let text = error.to_string();
            assert!(text.len() < 300, "{text}");
            words(&text)
        })
    });
}

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    let cut = bytes.windows(CUT.len()).position(|window| window == CUT);
    cut.map_or((bytes, &[]), |at| (&bytes[..at], &bytes[at + CUT.len()..]))
}

fn index(entries: &[manifest::Entry], listed: &[Descriptor]) -> String {
    assert!(entries.is_sorted_by(|a, b| a.position < b.position));
    for entry in entries {
        assert_eq!(listed[entry.position], entry.descriptor);
        let media_type = &entry.descriptor.media_type;
        assert!(manifest::is_index(media_type) || manifest::is_manifest(media_type));
    }
    let host = Platform::new("linux", "amd64", "");
    let chosen = manifest::choose(entries, &host);
    if let Some(platform) = chosen.and_then(|chosen| chosen.platform.as_ref()) {
        assert!(host.rank(platform).is_some(), "{platform:?} does not run here");
    }
    format!("an index, {} {}", entries.len().min(9), chosen.is_some())
}

fn whole(
    image: &Manifest,
    listed: &[Descriptor],
    config: &[u8],
) -> Result<String, manifest::Malformed> {
    assert!(image.layers.len() <= manifest::MAX_LAYERS);
    assert_eq!(listed[0], image.config);
    assert_eq!(listed[1..], image.layers);
    let total = listed.iter().try_fold(0_i64, |sum, one| sum.checked_add_unsigned(one.size));
    assert!(total.is_some(), "the size of the image is a number");
    for layer in &image.layers {
        for (key, value) in manifest::snapshot_labels(layer) {
            assert!(key.len() + value.len() <= 4096 && key != "containerd.io/snapshot/uidmapping");
        }
    }
    let parsed = manifest::parse_config(image, config)?;
    assert_eq!(parsed.diff_ids.len(), image.layers.len());
    assert_eq!(manifest::chain_ids(&parsed.diff_ids).len(), image.layers.len());
    Ok(format!("an image, {} {}", image.layers.len().min(9), parsed.platform.is_some()))
}
