//! Images: parses specs and credentials, converts images and disk use for answers.

use serde_json::json;

use super::{Result, Within, filled, one_line, required};
use crate::image::{Credentials, FsInfo};
use crate::model::container::ImageSpec;
use crate::model::image::Image;
use crate::proto::runtime::v1;

/// The image of a call that must name one.
pub fn named_image(image: Option<v1::ImageSpec>) -> Result<ImageSpec> {
    image_spec_in(required("image", image)?).within("image")
}

/// The image that a call looks for. Whether it is a valid name is not checked here.
pub fn sought_image(image: Option<v1::ImageSpec>) -> Result<ImageSpec> {
    let image = required("image", image)?;
    filled("image.image", &image.image)?;
    Ok(spec_in(image))
}

pub(super) fn image_spec_in(spec: v1::ImageSpec) -> Result<ImageSpec> {
    filled("image", &spec.image)?;
    one_line("image", &spec.image)?;
    Ok(spec_in(spec))
}

fn spec_in(spec: v1::ImageSpec) -> ImageSpec {
    let v1::ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } =
        spec;
    ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref }
}

/// A spec, as the caller gave it.
pub(super) fn image_spec(spec: &ImageSpec) -> v1::ImageSpec {
    let ImageSpec { image, annotations, user_specified_image, runtime_handler, image_ref } = spec;
    v1::ImageSpec {
        image: image.clone(),
        annotations: annotations.clone(),
        user_specified_image: user_specified_image.clone(),
        runtime_handler: runtime_handler.clone(),
        image_ref: image_ref.clone(),
    }
}

/// Credentials of a pull; an empty message means none.
pub fn credentials(auth: Option<v1::AuthConfig>) -> Result<Option<Credentials>> {
    let Some(auth) = auth else { return Ok(None) };
    let v1::AuthConfig { username, password, auth, server_address, identity_token, registry_token } =
        auth;
    let given =
        Credentials { username, password, auth, server_address, identity_token, registry_token };
    // These are put into a header unchanged; the others are encoded first.
    one_line("auth.server_address", &given.server_address)?;
    one_line("auth.registry_token", &given.registry_token)?;
    Ok(Some(given).filter(|given| *given != Credentials::default()))
}

/// An image in a list or status. `USER` of the image is a uid or a name, never both.
pub fn image_out(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| v1::Int64Value { value: uid.into() });
    let username = if uid.is_some() { String::new() } else { user.to_owned() };
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid,
        username,
        spec: None,
        pinned: image.pinned,
    }
}

/// Verbose information about an image in the format of containerd: the chain id of its layers and
/// its complete configuration document.
pub fn image_info(image: &Image, document: &serde_json::Value) -> serde_json::Value {
    json!({ "chainID": image.chain_id, "target": image.target, "imageSpec": document })
}

/// Annotation by which a pod names its runtime handler for a pull, as in containerd.
const HANDLER_ANNOTATION: &str = "io.containerd.cri.runtime-handler";

/// The runtime handler to pull for: from the image spec, else from the pod.
pub fn pull_handler(image: &ImageSpec, pod: Option<v1::PodSandboxConfig>) -> String {
    if !image.runtime_handler.is_empty() {
        return image.runtime_handler.clone();
    }
    pod.and_then(|mut pod| pod.annotations.remove(HANDLER_ANNOTATION)).unwrap_or_default()
}

/// Disk use: images use all given file systems, containers the first.
pub fn fs_info(usage: &[FsInfo]) -> v1::ImageFsInfoResponse {
    let entry = |usage: &FsInfo| v1::FilesystemUsage {
        timestamp: usage.at,
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: usage.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(v1::UInt64Value { value: usage.bytes }),
        inodes_used: Some(v1::UInt64Value { value: usage.inodes }),
    };
    v1::ImageFsInfoResponse {
        image_filesystems: usage.iter().map(entry).collect(),
        container_filesystems: usage.first().map(entry).into_iter().collect(),
    }
}
