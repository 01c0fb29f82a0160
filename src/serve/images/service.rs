//! The service as a tonic trait: each RPC parses, makes one call, converts.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::image::{Error, Images};
use crate::proto::podbay::v1::*;
use crate::serve::pods::Tells;
use crate::serve::{Grant, Subject};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = Answer<BoxStream<T>>;

/// The service of the node's images.
#[derive(Clone)]
pub struct ImageDoor {
    pub(super) images: Arc<Images>,
    pub(super) places: Arc<Semaphore>,
    pub(super) closing: CancellationToken,
}

/// Whom a call affects.
enum Touches {
    /// Only the caller's own pods.
    Own,
    /// All users of the node.
    Everybody,
}

/// Records what a call is about, and checks that its caller is allowed to make it.
fn enter<T: Tells>(request: &Request<T>, touches: Touches) -> Result<(), Status> {
    if let Some(about) = request.get_ref().about() {
        Subject::of(request).set(about);
    }
    allow(request, touches)
}

fn allow<T>(request: &Request<T>, touches: Touches) -> Result<(), Status> {
    let grant = Grant::of(request)?;
    match touches {
        Touches::Own => Ok(()),
        Touches::Everybody => Ok(grant.check("")?),
    }
}

#[tonic::async_trait]
impl images_server::Images for ImageDoor {
    async fn pull(&self, request: Request<PullRequest>) -> Stream<PullResponse> {
        enter(&request, Touches::Own)?;
        self.watched_pull(request.into_inner()).map(Response::new)
    }

    async fn load(&self, request: Request<Streaming<LoadRequest>>) -> Answer<LoadResponse> {
        allow(&request, Touches::Everybody)?;
        let subject = Subject::of(&request);
        self.take(request.into_inner(), subject).await.map(Response::new)
    }

    async fn save(&self, request: Request<SaveRequest>) -> Stream<SaveResponse> {
        enter(&request, Touches::Everybody)?;
        self.hand_out(convert::saved(request.into_inner())?).await.map(Response::new)
    }

    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        enter(&request, Touches::Own)?;
        let name = request.into_inner().image;
        let images = self.images.list(Some(name.as_str()).filter(|name| !name.is_empty())).await?;
        let images = images.into_iter().map(convert::listed).collect();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        enter(&request, Touches::Everybody)?;
        let name = convert::image(request.into_inner().image)?;
        if self.images.get(&name).await?.is_none() {
            return Err(Error::NotFound(name).into());
        }
        self.images.remove(&name).await?;
        Ok(Response::new(RemoveImageResponse {}))
    }
}
