//! What requests about images concern, for the audit log: names, never credentials.

use prost::Message;

use crate::proto::podbay::v1::*;
use crate::serve::auth::About;
use crate::serve::pods::Tells;

/// Maximum number of images that are named.
const NAMED: usize = 8;

/// Like [`Tells::about`], for an encoded message of this RPC.
pub(in crate::serve) fn of_message(rpc: &str, message: &[u8]) -> Option<About> {
    fn of<T: Message + Default + Tells>(message: &[u8]) -> Option<About> {
        T::decode(message).ok()?.about()
    }
    match rpc {
        "Pull" => of::<PullRequest>(message),
        "Load" => of::<LoadRequest>(message),
        "Save" => of::<SaveRequest>(message),
        "ListImages" => of::<ListImagesRequest>(message),
        "RemoveImage" => of::<RemoveImageRequest>(message),
        _ => None,
    }
}

fn images(names: &[String]) -> Option<About> {
    let shown = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| About::new(format!("image {shown}{more}")))
}

impl Tells for PullRequest {
    fn about(&self) -> Option<About> {
        images(std::slice::from_ref(&self.image))
    }
}

impl Tells for LoadRequest {
    fn about(&self) -> Option<About> {
        let Some(load_request::Input::Start(start)) = &self.input else { return None };
        images(&start.names).or_else(|| Some(About::new("images of an archive")))
    }
}

impl Tells for SaveRequest {
    fn about(&self) -> Option<About> {
        images(&self.images)
    }
}

impl Tells for ListImagesRequest {
    fn about(&self) -> Option<About> {
        images(std::slice::from_ref(&self.image))
    }
}

impl Tells for RemoveImageRequest {
    fn about(&self) -> Option<About> {
        images(std::slice::from_ref(&self.image))
    }
}
