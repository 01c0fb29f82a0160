//! Lists in pages. A continue token contains the pod at which the last page ended and the revision
//! of the first page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tonic::Status;

use crate::pod::{Error, Listing, PodKey, PodView, Revision};
use crate::serve::status::bad_field;

/// The position at which a page ended.
#[derive(Serialize, Deserialize)]
struct Place {
    epoch: String,
    number: u64,
    last: PodKey,
}

/// A page of a list.
pub(super) struct Page {
    pub pods: Vec<PodView>,
    /// Revision of the first page.
    pub revision: Revision,
    /// Continue token; empty on the last page.
    pub token: String,
    pub remaining: usize,
}

/// Selects from a complete, sorted list the page after a token; `limit` 0 is no limit.
///
/// # Errors
/// InvalidArgument for an invalid token; OutOfRange for one of another store history.
pub(super) fn page(listing: Listing, limit: u32, token: &str) -> Result<Page, Status> {
    let Listing { mut pods, mut revision } = listing;
    if !token.is_empty() {
        let place = read(token)?;
        if place.epoch != revision.epoch {
            return Err(Error::TooOld { asked: place.number, current: revision }.into());
        }
        revision.number = place.number;
        pods.retain(|view| view.key() > place.last);
    }
    let length = match usize::try_from(limit) {
        Ok(0) | Err(_) => pods.len(),
        Ok(limit) => limit.min(pods.len()),
    };
    let remaining = pods.len() - length;
    pods.truncate(length);
    let last = pods.last().filter(|_| remaining > 0).map(PodView::key);
    let token = last.map_or_else(String::new, |last| {
        let Revision { epoch, number } = revision.clone();
        // Only texts and a number, so this cannot fail.
        URL_SAFE_NO_PAD
            .encode(serde_json::to_vec(&Place { epoch, number, last }).unwrap_or_default())
    });
    Ok(Page { pods, revision, token, remaining })
}

fn read(token: &str) -> Result<Place, Status> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    let place = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    place.ok_or_else(|| bad_field("continue_token", "is not one of this API"))
}
