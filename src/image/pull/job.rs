//! One pull from start to end.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::{SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::layer::LayerFetch;
use crate::backend::{ErrorKind, Lease};
use crate::image::content::{Documents, Kind, Stored, Tree, walk};
use crate::image::credentials::Credentials;
use crate::image::error::Step;
use crate::image::meter::Meter;
use crate::image::progress::{PullState, Report};
use crate::image::reference::Reference;
use crate::image::registry::{Resolved, Session};
use crate::image::{Error, Inner, manifest};
use crate::model::image::{Descriptor, Digest, Image};

impl Inner {
    /// Pulls until it is done, cancelled, stalled, or the agent stops. In all cases the work is
    /// awaited, so that it can clean up.
    pub(super) async fn run_pull(
        &self,
        reference: &Reference,
        snapshotter: &str,
        given: Option<&Credentials>,
        cancel: &CancellationToken,
    ) -> Result<Arc<Image>, Error> {
        let name = reference.to_string();
        let report = self.announcer.of(&name);
        let place = self.place(report, cancel).await;
        let _place = place.ok_or_else(|| Error::cancelled(&name))?;
        let meter = Arc::new(Meter::new());
        let stop = cancel.child_token();
        let limit = self.options.no_progress_timeout;
        let pull = Pull { inner: self, reference, snapshotter, name: &name, report, stop: &stop };
        let work = pull.run(given, Arc::clone(&meter));
        tokio::pin!(work);
        // Cancel-safe: `work` is only borrowed here, and continues below.
        let why = tokio::select! {
            ended = &mut work => return pull.ended(ended),
            () = meter.stalled(limit) => Error::NoProgress { reference: name.clone(), after: limit },
            () = cancel.cancelled() => Error::cancelled(&name),
            () = self.tasks.draining() => Error::cancelled(&name),
        };
        stop.cancel();
        let ended = work.await.map_err(|error| if error.is_cancelled() { why } else { error });
        pull.ended(ended)
    }

    /// Waits for a place among the pulls in progress, in the order of the requests; `None` if the
    /// pull is cancelled or the agent stops meanwhile.
    async fn place(
        &self,
        report: Report<'_>,
        cancel: &CancellationToken,
    ) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        report.image(PullState::Waiting, 0);
        // Cancel-safe: whoever leaves the queue takes no place.
        tokio::select! {
            place = self.places.acquire() => place.ok(),
            () = cancel.cancelled() => None,
            () = self.tasks.draining() => None,
        }
    }
}

struct Pull<'a> {
    inner: &'a Inner,
    reference: &'a Reference,
    snapshotter: &'a str,
    name: &'a str,
    report: Report<'a>,
    stop: &'a CancellationToken,
}

impl Pull<'_> {
    fn ended(&self, ended: Result<Arc<Image>, Error>) -> Result<Arc<Image>, Error> {
        match &ended {
            Ok(image) => {
                self.report.image(PullState::Done, image.size);
                tracing::info!(reference = self.name, id = %image.id, "image pulled");
            }
            Err(error) => {
                self.report.image(PullState::Failed, 0);
                tracing::warn!(reference = self.name, %error, "image pull failed");
            }
        }
        ended
    }

    async fn run(
        &self,
        given: Option<&Credentials>,
        meter: Arc<Meter>,
    ) -> Result<Arc<Image>, Error> {
        self.report.image(PullState::Resolving, 0);
        let session = self.inner.registry.session(self.reference, given, Arc::clone(&meter));
        let session = self.unless_stopped(session).await?;
        let resolved = self.unless_stopped(session.resolve()).await?;
        if let Some(image) = self.already_here(&resolved.digest).await? {
            return Ok(image);
        }
        let lease = self.inner.store.lease().await.step("making a lease for a pull")?;
        let pulled = self.fetch(&lease, &session, &meter, resolved).await;
        // After a failure this waits for garbage collection, so that nothing is left over.
        let released = self.inner.store.release(&lease, pulled.is_err()).await;
        if let Err(error) = released {
            tracing::warn!(lease = lease.0, %error,
                "cannot delete lease of pull, it remains until it expires");
        }
        let id = pulled?;
        self.inner.get_by_id(&id).await
    }

    /// The names that a pull sets, without the id.
    fn names(&self, target: &Digest) -> Vec<String> {
        let by_digest = self.reference.at(target).to_string();
        let tag = self.reference.tag().map(|_| self.name.to_owned());
        [by_digest].into_iter().chain(tag).collect()
    }

    /// The image if it is complete already, so that only the registry had to be asked.
    async fn already_here(&self, target: &Digest) -> Result<Option<Arc<Image>>, Error> {
        let images = self.inner.look().await?;
        let Some(image) = images.complete(target, &self.names(target)) else { return Ok(None) };
        let Some(chain) = &image.chain_id else { return Ok(Some(Arc::clone(image))) };
        let unpacked = self.inner.store.has_chain(self.snapshotter, chain, None).await;
        let unpacked = unpacked.step("looking for a snapshot")?;
        Ok(unpacked.then(|| Arc::clone(image)))
    }

    async fn fetch(
        &self,
        lease: &Lease,
        session: &Session,
        meter: &Meter,
        resolved: Resolved,
    ) -> Result<Digest, Error> {
        let mut documents = Fetched { pull: self, lease, session, body: None };
        let target = documents.target(resolved).await?;
        let inner = self.inner;
        let tree = walk(&documents, &target, &inner.platform, self.snapshotter, self.name).await?;
        for piece in &tree.pieces {
            inner.store_piece(lease, piece).await?;
        }
        self.report.image(PullState::Downloading, tree.image(&target).size);
        self.layers(lease, session, meter, &tree).await?;
        if self.stop.is_cancelled() {
            return Err(Error::cancelled(self.name));
        }
        let image = tree.image(&target);
        let id = image.id.clone();
        inner.index.learn(image);
        let names = self.names(&target.digest).into_iter().chain([id.to_string()]);
        let pinned = inner.is_pinned(self.name);
        inner.put_names(lease, names.collect(), &target, pinned).await?;
        Ok(id)
    }

    /// Downloads several layers at a time and unpacks each once it and all layers below are stored.
    async fn layers(
        &self,
        lease: &Lease,
        session: &Session,
        meter: &Meter,
        tree: &Tree,
    ) -> Result<(), Error> {
        let inner = self.inner;
        let stop = self.stop.child_token();
        let layers = &tree.manifest.layers;
        for layer in layers {
            self.report.layer(&layer.digest, 0, layer.size, PullState::Waiting);
        }
        let (senders, stored): (Vec<_>, Vec<_>) =
            layers.iter().map(|_| watch::channel(false)).unzip();
        let fetch = LayerFetch {
            store: &*inner.store,
            locks: &inner.blob_locks,
            retry_delay: inner.options.retry_delay,
            session,
            lease,
            meter,
            stop: &stop,
            report: self.report,
            name: self.name,
        };
        let fetches =
            layers.iter().zip(senders).map(|(layer, sender)| fetch.then_tell(layer, sender));
        let fetches: Vec<_> = fetches.collect();
        let parallel = inner.options.max_concurrent_layers.max(1);
        // All are awaited, also cancelled ones, since each removes its partial blob.
        let fetches = stream::iter(fetches).buffer_unordered(parallel).collect::<Vec<_>>();
        let unpacks = async {
            let unpacked = self.unpack_layers(lease, tree, stored, &stop).await;
            if unpacked.is_err() {
                stop.cancel();
            }
            unpacked
        };
        let work = async { tokio::join!(fetches, unpacks) };
        tokio::pin!(work);
        // Cancel-safe: `work` is only borrowed here, and awaited below.
        let (full, (fetched, unpacked)) = tokio::select! {
            done = &mut work => (Ok(()), done),
            full = inner.no_room(self.snapshotter) => {
                stop.cancel();
                (Err(full), work.await)
            }
        };
        fetched.into_iter().fold(first_error(full, unpacked), first_error)
    }

    async fn unpack_layers(
        &self,
        lease: &Lease,
        tree: &Tree,
        stored: Vec<watch::Receiver<bool>>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        for (n, mut stored) in stored.into_iter().enumerate() {
            let work = async {
                // An error means that the download failed, which is reported there.
                let here = stored.wait_for(|stored| *stored).await;
                here.map_err(|_| Error::cancelled(self.name))?;
                self.inner.unpack_layer(lease, tree, n, self.snapshotter).await
            };
            let unpacked = stop.run_until_cancelled(work).await;
            unpacked.unwrap_or_else(|| Err(Error::cancelled(self.name)))?;
            let layer = &tree.manifest.layers[n];
            self.report.layer(&layer.digest, layer.size, layer.size, PullState::Unpacked);
        }
        Ok(())
    }

    async fn unless_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let ended = self.stop.run_until_cancelled(work).await;
        ended.unwrap_or_else(|| Err(Error::cancelled(self.name)))
    }
}

/// Of two results, the error that is not merely a cancellation caused by the other.
fn first_error(one: Result<(), Error>, other: Result<(), Error>) -> Result<(), Error> {
    match (one, other) {
        (Err(one), Err(other)) => Err(if one.is_cancelled() { other } else { one }),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Documents from the store if they are there, else from the registry.
struct Fetched<'a> {
    pull: &'a Pull<'a>,
    lease: &'a Lease,
    session: &'a Session,
    /// The bytes of the target.
    body: Option<Bytes>,
}

impl Fetched<'_> {
    /// The target's descriptor. Its size and type are known only from its bytes, which are kept for
    /// the walk.
    async fn target(&mut self, resolved: Resolved) -> Result<Descriptor, Error> {
        let Resolved { digest, mut content_type, body } = resolved;
        let body = match (self.stored(Kind::Manifest, &digest).await?, body) {
            (Some(body), _) | (None, Some(body)) => body,
            (None, None) => {
                let fetched = self.pull.unless_stopped(self.session.document(&digest)).await?;
                content_type = fetched.0.or(content_type);
                fetched.1
            }
        };
        let media_type = manifest::media_type(content_type.as_deref(), &body)
            .map_err(|problem| Error::bad(self.pull.name, problem.0))?;
        let size = body.len() as u64;
        self.body = Some(body);
        Ok(Descriptor { media_type, digest, size, annotations: Default::default() })
    }

    /// A blob that is stored already, which is then added to the lease.
    async fn stored(&self, kind: Kind, digest: &Digest) -> Result<Option<Bytes>, Error> {
        let store = &*self.pull.inner.store;
        let found = store.blob(digest, Some(self.lease)).await.step("looking for a document")?;
        let Some(found) = found else { return Ok(None) };
        let (digest, size) = (digest.clone(), found.size);
        let descriptor =
            Descriptor { media_type: String::new(), digest, size, annotations: Default::default() };
        match Stored(store).document(kind, &descriptor).await {
            // Removed meanwhile by a client that ignores our lease.
            Err(Error::Backend { source, .. }) if source.kind == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }
}

#[async_trait]
impl Documents for Fetched<'_> {
    async fn document(&self, kind: Kind, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let target = self.body.as_ref().filter(|body| Digest::of(body) == descriptor.digest);
        if let Some(target) = target {
            return Ok(target.clone());
        }
        if let Some(bytes) = self.stored(kind, &descriptor.digest).await? {
            return Ok(bytes);
        }
        if kind == Kind::Config {
            return self.pull.unless_stopped(self.session.small_blob(descriptor)).await;
        }
        let fetched = self.session.document(&descriptor.digest);
        // Its type is the one that its index announces, and that its bytes must agree with: some
        // registries send everything as the same type.
        let (_content_type, bytes) = self.pull.unless_stopped(fetched).await?;
        Ok(bytes)
    }
}
