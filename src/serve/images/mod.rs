//! The images of the node: `podbay.v1.Images`, beside the pods on both doors.
//!
//! Images are of the node and not of a namespace. So a caller whose role is limited to namespaces
//! may do what its pods do anyway, pull, and see what [`GetNode`] shows it anyway; what gives or
//! takes names for everybody, or hands out what others have pulled, takes the role everywhere.
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

/// Archives on their way in or out, and pulls that somebody watches.
const MAX_TRANSFERS: usize = 64;

impl ImageDoor {
    /// `closing` ends pulls and archives that are under way.
    pub fn new(images: Arc<Images>, closing: CancellationToken) -> Self {
        Self { images, places: Arc::new(Semaphore::new(MAX_TRANSFERS)), closing }
    }
}
