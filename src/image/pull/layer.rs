//! Downloads one layer into the store.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend::{self, BlobWriter, ErrorKind, Lease};
use crate::image::Error;
use crate::image::error::Step;
use crate::image::meter::Meter;
use crate::image::progress::{PullState, Report, Strides};
use crate::image::registry::Session;
use crate::locks::KeyedLocks;
use crate::model::StringMap;
use crate::model::image::Descriptor;

/// Bytes per write to the store: large enough that its response time does not dominate.
const CHUNK: usize = 1 << 20;
/// How many broken connections in a row, with no byte received, end a download.
const MAX_BREAKS: u32 = 5;
/// How many times to try to open an ingest that another writer has locked.
const MAX_LOCKED: u32 = 60;

/// Fetches layers for one pull.
pub(super) struct LayerFetch<'a> {
    pub store: &'a dyn backend::Images,
    pub locks: &'a KeyedLocks,
    pub retry_delay: Duration,
    pub session: &'a Session,
    pub lease: &'a Lease,
    pub meter: &'a Meter,
    pub stop: &'a CancellationToken,
    pub report: Report<'a>,
    pub name: &'a str,
}

/// A blob being written, with the hash of its content so far.
struct Progress {
    at: u64,
    /// `None` after a resumed ingest: then only the store can compute the digest.
    hasher: Option<Sha256>,
    buffer: BytesMut,
    strides: Strides,
}

/// Why reading from one connection ended.
enum Halt {
    /// The rest may be read over another connection.
    Broken(Error),
    /// Retrying is useless.
    Over(Error),
}

impl LayerFetch<'_> {
    /// Runs the download and tells the unpacker; a failure also stops the other layers.
    pub async fn then_tell(
        &self,
        layer: &Descriptor,
        stored: watch::Sender<bool>,
    ) -> Result<(), Error> {
        let fetched = self.run(layer).await;
        match &fetched {
            Ok(()) => drop(stored.send_replace(true)),
            Err(_) => self.stop.cancel(),
        }
        fetched
    }

    /// Stores one layer; one that is stored already is only added to the lease.
    async fn run(&self, layer: &Descriptor) -> Result<(), Error> {
        let turn = self.stop.run_until_cancelled(self.locks.lock(layer.digest.as_str())).await;
        let _turn = turn.ok_or_else(|| self.cancelled())?;
        let found = self.store.blob(&layer.digest, Some(self.lease)).await;
        match found.step("looking for a layer")? {
            Some(found) if found.size != layer.size => {
                let problem = format!("{} bytes instead of {}", found.size, layer.size);
                return Err(Error::bad(layer.digest.to_string(), problem));
            }
            Some(_) => {}
            None => self.download(layer).await?,
        }
        self.report.layer(&layer.digest, layer.size, layer.size, PullState::Stored);
        Ok(())
    }

    async fn download(&self, layer: &Descriptor) -> Result<(), Error> {
        // Each source may deliver wrong bytes once, and so may a resumed ingest.
        let mut keep = true;
        let mut source = 0;
        loop {
            let Some(mut writer) = self.open(layer).await? else { return Ok(()) };
            let resumed = keep && writer.offset() > 0;
            let copied = match self.copy(&mut *writer, layer, keep, source).await {
                Ok(()) => match self.commit(writer).await? {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind == ErrorKind::FailedPrecondition => {
                        Err(Error::bad(layer.digest.to_string(), "the store refuses its content"))
                    }
                    Err(error) => return Err(error).step("storing a layer"),
                },
                Err(error) => {
                    if let Err(error) = writer.abort().await {
                        tracing::warn!(digest = %layer.digest, %error,
                            "cannot remove partial layer");
                    }
                    Err(error)
                }
            };
            match copied {
                Err(Error::BadContent { .. }) if resumed => keep = false,
                Err(Error::BadContent { .. }) if source + 1 < self.session.sources() => {
                    source += 1;
                    keep = false;
                }
                other => return other,
            }
        }
    }

    /// Commits the blob, which may take minutes on a slow disk. The inner result is the store's.
    async fn commit(&self, writer: Box<dyn BlobWriter>) -> Result<backend::Result<()>, Error> {
        let none = StringMap::new();
        let committed = self.stop.run_until_cancelled(writer.commit(&none)).await;
        committed.ok_or_else(|| self.cancelled())
    }

    /// Opens the ingest; `None` when the blob was stored meanwhile.
    async fn open(&self, layer: &Descriptor) -> Result<Option<Box<dyn BlobWriter>>, Error> {
        let ingest = format!("layer-{}", layer.digest);
        let mut tries = 0;
        loop {
            // May take minutes: the store reads what it has of the blob.
            let opened = self.store.write_blob(self.lease, &ingest, layer);
            let opened = self.stop.run_until_cancelled(opened).await;
            match opened.ok_or_else(|| self.cancelled())? {
                Ok(writer) => return Ok(Some(writer)),
                Err(error) if error.is_already_exists() => return Ok(None),
                Err(error) if error.kind == ErrorKind::Unavailable && tries < MAX_LOCKED => {
                    tries += 1;
                    self.pause(Duration::from_millis(10) * tries).await?;
                }
                Err(error) => return Err(error).step("opening a layer for writing"),
            }
        }
    }

    async fn copy(
        &self,
        writer: &mut dyn BlobWriter,
        layer: &Descriptor,
        keep: bool,
        source: usize,
    ) -> Result<(), Error> {
        let mut progress = self.start(writer, layer, keep).await?;
        let mut breaks = 0;
        // Covers all connections: silence on one after another is no progress either.
        let _open = self.meter.open();
        while progress.at < layer.size {
            let before = progress.at;
            let turn = source + breaks as usize;
            let halt = match self.stretch(writer, layer, &mut progress, turn).await {
                Ok(()) => Halt::Broken(Error::bad(layer.digest.to_string(), "it ends too early")),
                Err(halt) => halt,
            };
            self.flush(writer, &mut progress, 0).await?;
            let error = match halt {
                Halt::Over(error) => return Err(error),
                Halt::Broken(_) if progress.at >= layer.size => break,
                Halt::Broken(error) => error,
            };
            breaks = if progress.at > before { 0 } else { breaks + 1 };
            // A silent server is left to the no-progress limit.
            if breaks >= MAX_BREAKS && !is_timeout(&error) {
                return Err(error);
            }
            tracing::debug!(digest = %layer.digest, at = progress.at, %error,
                "retrying layer download");
            self.pause(self.retry_delay * breaks.min(8)).await?;
        }
        self.meter.finished();
        let Some(hasher) = progress.hasher else { return Ok(()) };
        let real = format!("sha256:{}", hex::encode(hasher.finalize()));
        if real == layer.digest.as_str() {
            Ok(())
        } else {
            Err(Error::bad(layer.digest.to_string(), format!("its digest is {real}")))
        }
    }

    async fn start(
        &self,
        writer: &mut dyn BlobWriter,
        layer: &Descriptor,
        keep: bool,
    ) -> Result<Progress, Error> {
        let mut at = writer.offset();
        if at > 0 && (!keep || at > layer.size) {
            writer.truncate().await.step("starting a layer again")?;
            at = 0;
        }
        let hasher = (at == 0).then(Sha256::new);
        let strides = Strides::default();
        Ok(Progress { at, hasher, buffer: BytesMut::new(), strides })
    }

    /// Reads from one connection until it ends.
    async fn stretch(
        &self,
        writer: &mut dyn BlobWriter,
        layer: &Descriptor,
        progress: &mut Progress,
        turn: usize,
    ) -> Result<(), Halt> {
        let opened = self.session.open_blob(layer, progress.at, turn);
        let opened = self.stop.run_until_cancelled(opened).await;
        let opened = opened.ok_or_else(|| Halt::Over(self.cancelled()))?;
        let mut body = opened.map_err(Halt::of)?;
        loop {
            let next = self.stop.run_until_cancelled(body.next()).await;
            let next = next.ok_or_else(|| Halt::Over(self.cancelled()))?;
            let Some(bytes) = next.map_err(Halt::of)? else { return Ok(()) };
            self.meter.moved(bytes.len());
            if progress.at + bytes.len() as u64 > layer.size {
                let problem = format!("it has more than {} bytes", layer.size);
                return Err(Halt::Over(Error::bad(layer.digest.to_string(), problem)));
            }
            progress.take(&bytes);
            self.flush(writer, progress, CHUNK).await.map_err(Halt::Over)?;
            if progress.strides.reached(progress.at) {
                let (done, total) = (progress.at, layer.size);
                self.report.layer(&layer.digest, done, total, PullState::Downloading);
            }
        }
    }

    /// Writes the buffer to the store if it has at least `least` bytes.
    async fn flush(
        &self,
        writer: &mut dyn BlobWriter,
        progress: &mut Progress,
        least: usize,
    ) -> Result<(), Error> {
        if progress.buffer.is_empty() || progress.buffer.len() < least {
            return Ok(());
        }
        let bytes = progress.buffer.split().freeze();
        writer.write(bytes).await.step("writing a layer")
    }

    async fn pause(&self, time: Duration) -> Result<(), Error> {
        let slept = self.stop.run_until_cancelled(tokio::time::sleep(time)).await;
        slept.ok_or_else(|| self.cancelled())
    }

    fn cancelled(&self) -> Error {
        Error::cancelled(self.name)
    }
}

impl Progress {
    fn take(&mut self, bytes: &Bytes) {
        self.at += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }
}

impl Halt {
    fn of(error: Error) -> Self {
        match error {
            Error::RegistryUnavailable { .. } => Self::Broken(error),
            other => Self::Over(other),
        }
    }
}

fn is_timeout(error: &Error) -> bool {
    match error {
        Error::RegistryUnavailable { source: Some(source), .. } => source.is_timeout(),
        _ => false,
    }
}
