//! Images through the CRI's image service.

use podbay::proto::runtime::v1::image_service_server::ImageService;
use podbay::proto::runtime::v1::*;
use tonic::{Request, Response, Status};

use super::agent::{Agent, Fake};

#[tonic::async_trait]
impl ImageService for Fake {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let filter = request.into_inner().filter.and_then(|filter| filter.image);
        let wanted = filter.map(|spec| spec.image).unwrap_or_default();
        let state = self.state.lock().expect("state");
        let images = state.images.iter().filter(|(name, _)| wanted.is_empty() || **name == wanted);
        let images = images.map(|(name, size)| Image {
            id: format!("sha256:{}", "0123456789".repeat(6)),
            repo_tags: vec![name.clone()],
            size: *size,
            ..Image::default()
        });
        Ok(Response::new(ListImagesResponse { images: images.collect() }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let state = self.state.lock().expect("state");
        let image = state.images.contains_key(&name).then(Image::default);
        Ok(Response::new(ImageStatusResponse { image, ..ImageStatusResponse::default() }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        if name.contains("absent") {
            return Err(Status::not_found(format!("pull {name}: not found")));
        }
        self.state.lock().expect("state").images.insert(name.clone(), 1);
        Ok(Response::new(PullImageResponse { image_ref: format!("sha256:{name}") }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.state.lock().expect("state").images.remove(&name);
        Ok(Response::new(RemoveImageResponse {}))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_pulled_and_removed() {
    let agent = Agent::start().await;
    assert_eq!(agent.run(&["pull", "nginx:1"]).await.good(), "sha256:nginx:1\n");
    let fault = agent.run(&["pull", "absent:1"]).await.bad(3);
    assert_eq!(fault, "error: pull absent:1: not found\n");
    agent.state(|state| state.images.insert("b:2".to_owned(), 12_345_678));
    let table = "IMAGE   TAG   IMAGE ID       SIZE\nb       2     012345678901   12.3MB\nnginx   1     012345678901   1B\n";
    assert_eq!(agent.run(&["images"]).await.good(), table);
    assert_eq!(agent.run(&["images", "-o", "name", "b:2"]).await.good(), "b:2\n");
    let json = agent.run(&["images", "-o", "jsonpath={.items[*].repoTags[0]}"]).await.good();
    assert_eq!(json, "b:2 nginx:1");
    let done = agent.run(&["rmi", "gone:1", "b:2"]).await;
    assert_eq!(done.out, "image b:2 deleted\n");
    assert_eq!(done.bad(3), "error: image gone:1 is not found\n");
}
