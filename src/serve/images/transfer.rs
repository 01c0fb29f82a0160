//! Long-running calls: watched pulls, loading and saving archives.

use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use super::{ImageDoor, MAX_TRANSFERS, convert};
use crate::image::{Broken, Error, PullProgress, Reference, Upload};
use crate::model::image::Image;
use crate::proto::podbay::v1;
use crate::serve::Subject;
use crate::serve::pods::Tells as _;
use crate::serve::status::bad_field;

/// Bytes of an archive per message of the answer.
const PIECE: usize = 1 << 20;

/// An event of a watched pull.
enum News {
    Step(Result<PullProgress, RecvError>),
    End(Box<Result<Image, Error>>),
}

impl ImageDoor {
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let full = |_| {
            Status::resource_exhausted(format!(
                "{MAX_TRANSFERS} image or archive transfers are in progress"
            ))
        };
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }

    /// Pulls while the caller listens; a pull that nobody waits for is cancelled.
    pub(super) fn watched_pull(
        &self,
        request: v1::PullRequest,
    ) -> Result<BoxStream<v1::PullResponse>, Status> {
        let v1::PullRequest { image, credentials, runtime_handler } = request;
        let image = convert::image(image)?;
        let credentials = convert::credentials(credentials)?;
        let reference = Reference::parse(&image)?.to_string();
        let place = self.place()?;
        let images = Arc::clone(&self.images);
        let mut news = images.progress();
        let closing = self.closing.clone();
        Ok(Box::pin(async_stream::try_stream! {
            let _place = place;
            let pull = images.pull_for(&runtime_handler, &image, credentials);
            tokio::pin!(pull);
            let image = loop {
                // Cancel-safe: the pull is only borrowed, and a dropped receive loses nothing.
                let news = tokio::select! {
                    pulled = &mut pull => News::End(Box::new(pulled)),
                    () = closing.cancelled() => News::End(Box::new(Err(Error::Abandoned))),
                    event = news.recv() => News::Step(event),
                };
                let event = match news {
                    News::End(pulled) => {
                        let pulled = *pulled;
                        break pulled?;
                    }
                    News::Step(Ok(event)) => event,
                    News::Step(Err(RecvError::Lagged(_))) => continue,
                    News::Step(Err(RecvError::Closed)) => break pull.await?,
                };
                if event.reference == reference
                    && let Some(step) = convert::progress(event)
                {
                    yield step;
                }
            };
            yield convert::pulled(image, reference);
        }))
    }

    /// Loads an archive. A completely received one is loaded even if its caller has left meanwhile.
    pub(super) async fn take(
        &self,
        mut requests: Streaming<v1::LoadRequest>,
        subject: Subject,
    ) -> Result<v1::LoadResponse, Status> {
        let place = self.place()?;
        let first = requests.message().await?;
        if let Some(about) = first.as_ref().and_then(|first| first.about()) {
            subject.set(about);
        }
        let options = convert::start(first)?;
        let upload: Upload = Box::pin(requests.map(move |request| {
            let _held = &place;
            match request?.input {
                Some(v1::load_request::Input::Data(data)) => Ok(data.into()),
                _ => Err(Broken::from(bad_field("data", "must come after the first message"))),
            }
        }));
        Ok(convert::loaded(self.images.load(upload, options).await?))
    }

    /// Sends an archive at the caller's pace.
    pub(super) async fn hand_out(
        &self,
        images: Vec<String>,
    ) -> Result<BoxStream<v1::SaveResponse>, Status> {
        let place = self.place()?;
        let saved = self.images.save(images).await?;
        let (total, mut bytes) = (saved.total, saved.bytes);
        Ok(Box::pin(async_stream::try_stream! {
            let _place = place;
            yield v1::SaveResponse { data: Vec::new(), total };
            while let Some(piece) = bytes.next().await {
                let piece = piece?;
                for data in piece.chunks(PIECE) {
                    yield v1::SaveResponse { data: data.to_vec(), total: 0 };
                }
            }
        }))
    }
}
