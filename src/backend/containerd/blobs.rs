//! Writing of blobs: one bidirectional stream per ingest.
//!
//! The daemon answers each message once. At most one answer is pending at a time, so that the
//! daemon stores one chunk while the next is filled, and memory is limited to a few chunks per
//! blob.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, StatusRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::client::{Client, within};
use super::types::{unsigned, wire_map, wire_size};
use super::{Shared, content, failure};
use crate::backend::{BlobWriter, Error, ErrorKind, GoneIsFine, Lease, Result};
use crate::model::StringMap;
use crate::model::image::Digest;

/// Small enough for memory, large enough to make the round trips cheap.
const CHUNK: usize = 256 << 10;
/// How long to wait for an ingest that a dropped writer still holds, until the daemon notices the
/// end of its stream.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// The slowest disk that an ingest can be resumed from, in bytes per second: the daemon reads all
/// of it before it answers, and says nothing meanwhile.
const SLOWEST_DISK: u64 = 1 << 20;

/// An open ingest.
struct Writer {
    shared: Arc<Shared>,
    ingest: String,
    /// `None` until the digest is known, which may be only at the end.
    digest: Option<Digest>,
    size: u64,
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    /// Bytes sent or already stored.
    sent: u64,
    /// Bytes accepted but not sent yet.
    buffer: Vec<u8>,
    /// Whether an answer of the daemon is pending.
    owed: bool,
}

/// More bytes than stated in the descriptor.
#[derive(Debug, thiserror::Error)]
#[error("longer than its {0} bytes")]
struct TooLong(u64);

/// What is known of a blob in advance: digest and size.
type Known<'a> = (Option<&'a Digest>, u64);

/// Opens an ingest. Fails with `AlreadyExists` when the blob is complete; the daemon has then added
/// it to the lease.
pub(super) async fn open(
    shared: Arc<Shared>,
    lease: &Lease,
    ingest: &str,
    blob: Known<'_>,
) -> Result<Box<dyn BlobWriter>> {
    let (digest, size) = blob;
    wire_size(size)?;
    let until = tokio::time::Instant::now() + LOCK_WAIT;
    let (messages, answers, offset) = loop {
        match try_open(&shared.client, lease, ingest, blob).await {
            Ok(opened) => break opened,
            Err(error) if is_locked(&error) && tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    };
    let mut writer = Writer {
        shared,
        ingest: ingest.to_owned(),
        digest: digest.cloned(),
        size,
        messages,
        answers,
        sent: offset,
        buffer: Vec::new(),
        owed: false,
    };
    // An ingest of that name that is too long cannot be the start of this blob.
    if offset > size {
        writer.truncate().await?;
    }
    Ok(Box::new(writer))
}

type Opened = (mpsc::Sender<WriteContentRequest>, Streaming<WriteContentResponse>, u64);

async fn try_open(
    client: &Client,
    lease: &Lease,
    ingest: &str,
    (digest, size): Known<'_>,
) -> Result<Opened> {
    let tried = || format!("open ingest {ingest}");
    let (messages, queue) = mpsc::channel(1);
    let first = WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: ingest.to_owned(),
        total: wire_size(size)?,
        expected: digest.map(Digest::to_string).unwrap_or_default(),
        ..WriteContentRequest::default()
    };
    // The channel is new and has room for one message.
    messages.try_send(first).map_err(|_| failure::senseless(tried(), "closed before it began"))?;
    let request = client.leased(ReceiverStream::new(queue), lease)?;
    let open = async {
        let mut answers = client.bulk_content().write(request).await?.into_inner();
        let status = answers.message().await?;
        Ok::<_, Status>((answers, status))
    };
    let stored = stored_bytes(client, ingest);
    let (answers, status) = opened_in_time(client.slow_limit(), tried, open, stored).await?;
    let status = status.ok_or_else(|| failure::senseless(tried(), "no status of the ingest"))?;
    Ok((messages, answers, unsigned(status.offset)))
}

/// Waits until an ingest is open. Beyond `limit` only as long as the daemon may need to read what
/// is stored of it.
async fn opened_in_time<T>(
    limit: Duration,
    tried: impl Fn() -> String,
    open: impl Future<Output = std::result::Result<T, Status>>,
    stored: impl Future<Output = Result<u64>>,
) -> Result<T> {
    tokio::pin!(open);
    if let Ok(opened) = tokio::time::timeout(limit, &mut open).await {
        return opened.map_err(|status| failure::of(tried(), status));
    }
    let reading = Duration::from_secs(stored.await? / SLOWEST_DISK);
    match tokio::time::timeout(reading, open).await {
        Ok(opened) => opened.map_err(|status| failure::of(tried(), status)),
        Err(_) => Err(failure::late(tried(), limit + reading)),
    }
}

/// How many bytes of an ingest are stored.
async fn stored_bytes(client: &Client, ingest: &str) -> Result<u64> {
    let message = StatusRequest { r#ref: ingest.to_owned() };
    let tried = || format!("look at ingest {ingest}");
    let answer = client.quick(tried, client.content().status(client.request(message))).await?;
    Ok(answer.status.map_or(0, |status| unsigned(status.offset)))
}

/// Whether another stream has the ingest open. Distinguished by its text from an unreachable
/// daemon, which is `Unavailable` too.
fn is_locked(error: &Error) -> bool {
    error.kind == ErrorKind::Unavailable
        && std::error::Error::source(error).is_some_and(|cause| {
            let text = cause.to_string();
            text.contains("ref ") && text.contains("locked")
        })
}

impl Writer {
    fn tried(&self) -> String {
        match &self.digest {
            Some(digest) => format!("write blob {digest}"),
            None => format!("write ingest {}", self.ingest),
        }
    }

    /// Waits for the pending answer, if any.
    async fn settle(&mut self) -> Result<()> {
        if !self.owed {
            return Ok(());
        }
        let tried = self.tried();
        let limit = self.shared.client.slow_limit();
        let answer = within(limit, || tried.clone(), self.answers.message()).await?;
        self.owed = false;
        let stored = answer.map(|answer| unsigned(answer.offset));
        if stored != Some(self.sent) {
            return Err(failure::senseless(tried, "stored content differs from the content sent"));
        }
        Ok(())
    }

    /// Sends one message with all buffered bytes; its answer is then pending.
    async fn send(&mut self, action: WriteAction, labels: &StringMap) -> Result<()> {
        self.settle().await?;
        let message = WriteContentRequest {
            action: action.into(),
            r#ref: self.ingest.clone(),
            total: wire_size(self.size)?,
            expected: self.digest.as_ref().map(Digest::to_string).unwrap_or_default(),
            offset: wire_size(self.sent)?,
            data: std::mem::take(&mut self.buffer),
            labels: wire_map(labels),
        };
        let length = message.data.len() as u64;
        // There is room, since the previous message was answered and so has left the channel. A
        // closed channel means that the stream has ended; the pending answer will say why.
        let _ = self.messages.try_send(message);
        self.sent += length;
        self.owed = true;
        Ok(())
    }

    async fn remove_ingest(&self) -> Result<()> {
        let client = &self.shared.client;
        let message = AbortRequest { r#ref: self.ingest.clone() };
        let tried = || format!("remove ingest {}", self.ingest);
        client.quick(tried, client.content().abort(client.request(message))).await.gone_is_fine()
    }

    /// Ends the stream and waits until the daemon releases the ingest.
    async fn close(&mut self) {
        let (closed, _) = mpsc::channel(1);
        self.messages = closed;
        let drain = async { while let Ok(Some(_)) = self.answers.message().await {} };
        // If the daemon does not answer it keeps the ingest; removing it then fails with an error.
        let _ = tokio::time::timeout(self.shared.client.slow_limit(), drain).await;
    }
}

#[async_trait]
impl BlobWriter for Writer {
    fn offset(&self) -> u64 {
        self.sent + self.buffer.len() as u64
    }

    async fn truncate(&mut self) -> Result<()> {
        self.settle().await?;
        self.buffer.clear();
        if self.sent > 0 {
            // A write at offset 0 truncates the ingest.
            self.sent = 0;
            self.send(WriteAction::Write, &StringMap::new()).await?;
            self.settle().await?;
        }
        Ok(())
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        if bytes.len() as u64 > self.size.saturating_sub(self.offset()) {
            let error = Error::new(ErrorKind::FailedPrecondition, self.tried());
            return Err(error.because(TooLong(self.size)));
        }
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                let left = usize::try_from(self.size - self.sent).unwrap_or(CHUNK);
                self.buffer.reserve_exact(left.min(CHUNK));
            }
            let room = CHUNK - self.buffer.len();
            self.buffer.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.buffer.len() == CHUNK {
                self.send(WriteAction::Write, &StringMap::new()).await?;
            }
        }
        Ok(())
    }

    fn expect(&mut self, digest: &Digest) {
        self.digest = Some(digest.clone());
    }

    async fn commit(mut self: Box<Self>, labels: &StringMap) -> Result<()> {
        let Some(digest) = self.digest.clone() else {
            let tried = format!("{}: no digest returned", self.tried());
            return Err(Error::new(ErrorKind::InvalidArgument, tried));
        };
        self.settle().await?;
        self.send(WriteAction::Commit, labels).await?;
        let tried = || format!("commit blob {digest}");
        // Without a time limit: the daemon syncs the blob, and a slow disk needs minutes for
        // gigabytes.
        let done = self.answers.message().await;
        match done.map_err(|status| failure::of(tried(), status)) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(failure::senseless(tried(), "no answer to the commit")),
            Err(error) if error.is_already_exists() => {
                content::label(&self.shared.client, &digest, labels).await
            }
            Err(error) => {
                // Invalid bytes are useless for a later attempt.
                if error.kind == ErrorKind::FailedPrecondition {
                    self.close().await;
                    self.remove_ingest().await?;
                }
                Err(error)
            }
        }
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.close().await;
        self.remove_ingest().await
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_ingest_is_given_time_to_be_read() {
        const LIMIT: Duration = Duration::from_secs(60);
        let wait = async |needs: u64, stored: Result<u64>| {
            let begun = tokio::time::Instant::now();
            let open = async {
                tokio::time::sleep(Duration::from_secs(needs)).await;
                Ok(())
            };
            let tried = || "open ingest x".to_owned();
            let opened = opened_in_time(LIMIT, tried, open, async { stored }).await;
            (opened.map_err(|error| error.kind), begun.elapsed().as_secs())
        };
        let late = Err(ErrorKind::DeadlineExceeded);
        assert_eq!(wait(59, Ok(0)).await, (Ok(()), 59));
        assert_eq!(wait(61, Ok(0)).await, (late, 60), "nothing has to be read");
        assert_eq!(wait(900, Ok(1 << 30)).await, (Ok(()), 900));
        assert_eq!(wait(9000, Ok(1 << 30)).await, (late, 60 + 1024), "the daemon hangs");
        let gone = Err(Error::new(ErrorKind::Unavailable, "look at ingest x"));
        assert_eq!(wait(900, gone).await, (Err(ErrorKind::Unavailable), 60));
    }

    #[test]
    fn a_lock_is_told_from_an_absent_daemon() {
        let locked = "ref podbay/1/layer-x locked for 1s (since ...): unavailable";
        let of = |status| failure::of("open ingest x".into(), status);
        assert!(is_locked(&of(Status::new(Code::Unavailable, locked))));
        assert!(!is_locked(&of(Status::new(Code::Unavailable, "server is shutting down"))));
        assert!(!is_locked(&of(Status::new(Code::Unknown, locked))));
    }
}
