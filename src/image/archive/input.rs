//! The bytes of an archive as they arrive, decompressed if needed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use std::io::Write as _;
use tokio_util::sync::CancellationToken;

use super::Upload;
use crate::image::Error;

/// How many compressed bytes are decompressed at a time; the result is at most 32 KiB.
const BITE: usize = 16 << 10;

/// Magic numbers of compression formats other than gzip.
const FOREIGN: [(&[u8], &str); 3] =
    [(b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];

/// An archive read from start to end.
pub(super) struct Input {
    from: Upload,
    /// The upload fails when no byte arrives for this long.
    patience: Duration,
    /// The upload fails when this is cancelled.
    stop: CancellationToken,
    gunzip: Option<MultiGzDecoder<Vec<u8>>>,
    packed: Bytes,
    here: Bytes,
}

impl Input {
    /// Detects the compression from the first bytes.
    pub async fn begin(
        from: Upload,
        patience: Duration,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let none = Bytes::new();
        let mut input =
            Self { from, patience, stop, gunzip: None, packed: none.clone(), here: none };
        let mut first = BytesMut::new();
        while first.len() < 6 {
            let Some(piece) = input.arrive().await? else { break };
            first.extend_from_slice(&piece);
        }
        let first = first.freeze();
        if first.is_empty() {
            return Err(Error::bad_archive("it is empty"));
        }
        if let Some((_, name)) = FOREIGN.iter().find(|(magic, _)| first.starts_with(magic)) {
            return Err(Error::bad_archive(format!("it is compressed with {name}, not gzip")));
        }
        if first.starts_with(b"\x1f\x8b") {
            input.gunzip = Some(MultiGzDecoder::new(Vec::new()));
            input.packed = first;
        } else {
            input.here = first;
        }
        Ok(input)
    }

    /// The next bytes, at most `most`; `None` at the end.
    pub async fn piece(&mut self, most: u64) -> Result<Option<Bytes>, Error> {
        if !self.fill().await? {
            return Ok(None);
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.here.len());
        Ok(Some(self.here.split_to(most)))
    }

    /// Fills a buffer; returns how many bytes there were.
    pub async fn exact(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut at = 0;
        while at < buffer.len() {
            let Some(piece) = self.piece((buffer.len() - at) as u64).await? else { break };
            buffer[at..at + piece.len()].copy_from_slice(&piece);
            at += piece.len();
        }
        Ok(at)
    }

    /// Ensures that at least one byte is buffered; false at the end.
    async fn fill(&mut self) -> Result<bool, Error> {
        while self.here.is_empty() {
            if self.gunzip.is_none() {
                match self.arrive().await? {
                    Some(piece) => self.here = piece,
                    None => return Ok(false),
                }
            } else if self.packed.is_empty() {
                match self.arrive().await? {
                    Some(piece) => self.packed = piece,
                    None => return self.end(),
                }
            } else {
                self.unpack()?;
            }
        }
        Ok(true)
    }

    fn unpack(&mut self) -> Result<(), Error> {
        let Some(gunzip) = &mut self.gunzip else { return Ok(()) };
        let bite = &self.packed[..self.packed.len().min(BITE)];
        let taken = gunzip.write(bite).map_err(damaged)?;
        if taken == 0 && gunzip.get_ref().is_empty() {
            return Err(Error::bad_archive("its compressed data continues after its end"));
        }
        drop(self.packed.split_to(taken));
        self.here = std::mem::take(gunzip.get_mut()).into();
        Ok(())
    }

    /// At the end of the compressed bytes: flushes the decompressor.
    fn end(&mut self) -> Result<bool, Error> {
        let Some(gunzip) = &mut self.gunzip else { return Ok(false) };
        gunzip.try_finish().map_err(damaged)?;
        self.here = std::mem::take(gunzip.get_mut()).into();
        Ok(!self.here.is_empty())
    }

    async fn arrive(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let next = tokio::time::timeout(self.patience, self.from.next());
            // Cancel-safe: after a cancellation nothing more is read.
            let next = self.stop.run_until_cancelled(next).await.ok_or(Error::Abandoned)?;
            match next.map_err(|_| Error::Stalled { after: self.patience })? {
                None => return Ok(None),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => return Ok(Some(piece)),
                Some(Err(source)) => return Err(Error::BrokenOff { source: Arc::from(source) }),
            }
        }
    }
}

fn damaged(_: std::io::Error) -> Error {
    Error::bad_archive("its compressed data is damaged or truncated")
}
