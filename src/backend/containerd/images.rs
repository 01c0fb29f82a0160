//! Image names (containerd's Images service).

use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};

use super::client::Client;
use super::types::{descriptor, mask, wire_descriptor, wire_map};
use crate::backend::{Error, ErrorKind, GoneIsFine, ImageRecord, Lease, Result};

pub(super) async fn get(client: &Client, name: &str) -> Result<Option<ImageRecord>> {
    let message = GetImageRequest { name: name.to_owned() };
    let tried = || format!("get image name {name}");
    match client.quick(tried, client.images().get(client.request(message))).await {
        Ok(answer) => Ok(answer.image.and_then(read)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn list(client: &Client) -> Result<Vec<ImageRecord>> {
    let all = client.request(ListImagesRequest::default());
    let tried = || "list image names".to_owned();
    let answer = client.quick(tried, client.images().list(all)).await?;
    Ok(answer.images.into_iter().filter_map(read).collect())
}

/// Creates or updates a name. Another client may delete it between the two calls; then it retries
/// once.
pub(super) async fn put(
    client: &Client,
    record: &ImageRecord,
    lease: Option<&Lease>,
) -> Result<()> {
    match create(client, record, lease).await {
        Err(error) if error.is_already_exists() => {}
        done => return done,
    }
    match update(client, record, lease).await {
        Err(error) if error.is_not_found() => create(client, record, lease).await,
        done => done,
    }
}

async fn create(client: &Client, record: &ImageRecord, lease: Option<&Lease>) -> Result<()> {
    let message = CreateImageRequest { image: Some(wire(record)?), source_date_epoch: None };
    let request = request(client, message, lease)?;
    let tried = || format!("create image name {}", record.name);
    client.quick(tried, client.images().create(request)).await?;
    Ok(())
}

async fn update(client: &Client, record: &ImageRecord, lease: Option<&Lease>) -> Result<()> {
    let message = UpdateImageRequest {
        image: Some(wire(record)?),
        update_mask: mask(["target".to_owned(), "labels".to_owned()]),
        source_date_epoch: None,
    };
    let request = request(client, message, lease)?;
    let tried = || format!("update image name {}", record.name);
    client.quick(tried, client.images().update(request)).await?;
    Ok(())
}

/// Deletes a name; a synchronous deletion waits for garbage collection and may take long.
pub(super) async fn delete(client: &Client, name: &str, sync: bool) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "delete image name: it is empty"));
    }
    let message = DeleteImageRequest { name: name.to_owned(), sync, target: None };
    let tried = || format!("delete image name {name}");
    let mut images = client.images();
    let call = images.delete(client.request(message));
    if sync { client.slow(tried, call).await } else { client.quick(tried, call).await }
        .gone_is_fine()
}

fn request<T>(client: &Client, message: T, lease: Option<&Lease>) -> Result<tonic::Request<T>> {
    match lease {
        Some(lease) => client.leased(message, lease),
        None => Ok(client.request(message)),
    }
}

fn wire(record: &ImageRecord) -> Result<Image> {
    Ok(Image {
        name: record.name.clone(),
        labels: wire_map(&record.labels),
        target: Some(wire_descriptor(&record.target)?),
        ..Image::default()
    })
}

/// `None` for a name with an unsupported digest, which another client may have set.
fn read(image: Image) -> Option<ImageRecord> {
    let target = image.target.and_then(descriptor);
    if target.is_none() {
        tracing::debug!(name = image.name, "skipping image: target is not a sha256 digest");
    }
    Some(ImageRecord {
        name: image.name,
        target: target?,
        labels: image.labels.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image::{Descriptor, Digest};

    fn record() -> ImageRecord {
        ImageRecord {
            name: "example.test/x:1".into(),
            target: Descriptor {
                media_type: "application/vnd.oci.image.manifest.v1+json".into(),
                digest: Digest::of(b"x"),
                size: 7,
                annotations: [("a".to_owned(), "b".to_owned())].into(),
            },
            labels: [("k".to_owned(), "v".to_owned())].into(),
        }
    }

    #[test]
    fn a_name_is_read_back_as_it_was_put() {
        assert_eq!(read(wire(&record()).unwrap()), Some(record()));
    }

    #[test]
    fn a_foreign_digest_is_passed_over() {
        let mut image = wire(&record()).unwrap();
        image.target.as_mut().unwrap().digest = "sha512:00".into();
        assert_eq!(read(image), None);
    }

    #[test]
    fn a_size_beyond_the_wire_is_refused() {
        let mut record = record();
        record.target.size = u64::MAX;
        assert_eq!(wire(&record).unwrap_err().kind, ErrorKind::InvalidArgument);
    }
}
