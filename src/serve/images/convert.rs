//! Conversion between wire types and the image room.

use tonic::Status;

use crate::image::{Credentials, LoadOptions, Loaded, PullProgress, PullState};
use crate::model::image::Image;
use crate::proto::podbay::v1;
use crate::serve::status::bad_field;

/// Maximum number of images or names in a request.
const MAX_NAMES: usize = 256;

/// The required name in a request.
pub fn image(name: String) -> Result<String, Status> {
    match name {
        name if name.is_empty() => Err(bad_field("image", "must be given")),
        name if name.chars().any(char::is_control) => Err(bad_field("image", "must be one line")),
        name => Ok(name),
    }
}

/// The images to save.
pub fn saved(request: v1::SaveRequest) -> Result<Vec<String>, Status> {
    match request.images.len() {
        0 => Err(bad_field("images", "must be given")),
        1..=MAX_NAMES => request.images.into_iter().map(image).collect(),
        _ => Err(bad_field("images", format!("must be {MAX_NAMES} at most"))),
    }
}

/// The options of a load, in its first message.
pub fn start(first: Option<v1::LoadRequest>) -> Result<LoadOptions, Status> {
    let Some(v1::load_request::Input::Start(start)) = first.and_then(|first| first.input) else {
        return Err(bad_field("start", "must come first"));
    };
    let v1::LoadStart { names, runtime_handler } = start;
    if names.len() > MAX_NAMES {
        return Err(bad_field("start.names", format!("must be {MAX_NAMES} at most")));
    }
    Ok(LoadOptions { names, handler: runtime_handler })
}

/// Credentials of a pull; an empty message means none.
pub fn credentials(given: Option<v1::RegistryCredentials>) -> Result<Option<Credentials>, Status> {
    let Some(given) = given else { return Ok(None) };
    let v1::RegistryCredentials { username, password, identity_token, registry_token } = given;
    // It is put into a header unchanged; the others are encoded first.
    if registry_token.chars().any(char::is_control) {
        return Err(bad_field("credentials.registry_token", "must be one line"));
    }
    let none = Credentials::default();
    let given = Credentials { username, password, identity_token, registry_token, ..none.clone() };
    Ok(Some(given).filter(|given| *given != none))
}

/// A progress event of a pull; `None` for its end, which the image or an error reports.
pub fn progress(event: PullProgress) -> Option<v1::PullResponse> {
    let state = match event.state {
        PullState::Resolving => v1::PullState::Resolving,
        PullState::Waiting => v1::PullState::Waiting,
        PullState::Downloading => v1::PullState::Downloading,
        PullState::Stored => v1::PullState::Stored,
        PullState::Unpacked => v1::PullState::Unpacked,
        PullState::Done | PullState::Failed => return None,
    };
    let progress = v1::PullProgress {
        digest: event.digest.map(String::from).unwrap_or_default(),
        state: state.into(),
        done: event.done,
        total: event.total,
    };
    Some(v1::PullResponse { event: Some(v1::pull_response::Event::Progress(progress)) })
}

/// The result of a pull.
pub fn pulled(image: Image, reference: String) -> v1::PullResponse {
    let image =
        v1::PulledImage { id: image.id.into(), reference, digest: image.target.digest.into() };
    v1::PullResponse { event: Some(v1::pull_response::Event::Image(image)) }
}

/// The loaded images of an archive.
pub fn loaded(images: Vec<Loaded>) -> v1::LoadResponse {
    let image = |image: Loaded| v1::LoadedImage {
        id: image.id.into(),
        names: image.names,
        digest: image.target.into(),
    };
    v1::LoadResponse { images: images.into_iter().map(image).collect() }
}

/// An image in a list.
pub fn listed(image: Image) -> v1::Image {
    v1::Image {
        id: image.id.into(),
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
        pinned: image.pinned,
    }
}
