//! The images of the node: `podbay.v1.Images`, served like pods on the socket and over TLS.
//!
//! Images belong to the node, not to a namespace. A caller whose role is limited to namespaces may
//! do what its pods do anyway (pull), and see what [`GetNode`] shows it anyway. Calls that set or
//! remove names for everybody, or export images that others have pulled, require the role in all
//! namespaces.
//!
//! [`GetNode`]: crate::proto::podbay::v1::pods_server::Pods::get_node

mod about;
mod convert;
mod service;
mod transfer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(super) use about::of_message;
pub use service::ImageDoor;

use crate::image::Images;

/// Maximum number of concurrent archives and watched pulls.
const MAX_TRANSFERS: usize = 64;

impl ImageDoor {
    /// `closing` ends pulls and archives in progress.
    pub fn new(images: Arc<Images>, closing: CancellationToken) -> Self {
        Self { images, places: Arc::new(Semaphore::new(MAX_TRANSFERS)), closing }
    }
}
