//! Images.

use tonic::Status;
use tonic::codegen::BoxStream;

use super::batches::batches;
use super::{Cri, convert};
use crate::image;
use crate::proto::runtime::v1;

impl Cri {
    pub(super) async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Result<v1::PullImageResponse, Status> {
        let spec = convert::named_image(request.image)?;
        let credentials = convert::credentials(request.auth)?;
        let handler = convert::pull_handler(&spec, request.sandbox_config);
        let image = self.images.pull_for(&handler, &spec.image, credentials).await?;
        Ok(v1::PullImageResponse { image_ref: image.id.into() })
    }

    pub(super) async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Result<v1::ListImagesResponse, Status> {
        let images = self.images.list(convert::image_filter(request.filter).as_deref()).await?;
        Ok(v1::ListImagesResponse { images: images.iter().map(convert::image_out).collect() })
    }

    /// Streams the images as of one moment.
    pub(super) async fn stream_images(
        &self,
        request: v1::StreamImagesRequest,
    ) -> Result<BoxStream<v1::StreamImagesResponse>, Status> {
        let images = self.images.list(convert::image_filter(request.filter).as_deref()).await?;
        let items = images.into_iter().map(|image| convert::image_out(&image));
        Ok(batches(items, usize::MAX, |images| v1::StreamImagesResponse { images }))
    }

    /// A missing image is not an error: the field is left unset.
    pub(super) async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Result<v1::ImageStatusResponse, Status> {
        let spec = convert::sought_image(request.image)?;
        let found = self.images.get_for(&spec.runtime_handler, &spec.image).await;
        let image = unless_malformed(found)?.flatten();
        let info = match &image {
            Some(image) if request.verbose => {
                let document = self.images.document(image).await?;
                convert::info(&convert::image_info(image, &document))
            }
            _ => Default::default(),
        };
        Ok(v1::ImageStatusResponse { image: image.as_ref().map(convert::image_out), info })
    }

    pub(super) async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, Status> {
        let spec = convert::sought_image(request.image)?;
        unless_malformed(self.images.remove(&spec.image).await)?;
        Ok(v1::RemoveImageResponse {})
    }

    pub(super) async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, Status> {
        Ok(convert::fs_info(&self.images.fs_info().await?))
    }
}

/// Converts an invalid name to `None`: no image can have it.
fn unless_malformed<T>(found: Result<T, image::Error>) -> Result<Option<T>, image::Error> {
    match found {
        Err(image::Error::InvalidReference { .. }) => Ok(None),
        other => other.map(Some),
    }
}
