//! The copiers: one task for each log, all on the log thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::format::{Header, Splitter, Stream};
use super::sink::Sink;
use super::tap::Shared;
use super::{Pump, PumpSpec};

/// Size of a read in bytes: the capacity of a pipe.
const CHUNK: usize = 64 * 1024;

/// A batch of records is written when it reaches this size in bytes.
const BATCH: usize = 128 * 1024;

/// After this many reads a busy log yields to the others.
const TURN: usize = 4;

/// A read of fewer bytes than this means that the process writes in small pieces.
const FEW: usize = 4096;

/// How long such a process is then left alone, so that its writes accumulate; a FIFO holds 16 times
/// [`FEW`].
const GATHER: Duration = Duration::from_millis(1);

/// Maximum number of reads per stream when a log is stopped, so that a process that writes without
/// pause cannot delay the end.
const LAST_READS: usize = 16;

/// A request to switch to a new file, with the channel for the result.
pub(super) type Reopen = oneshot::Sender<io::Result<()>>;

/// The events that the handles of a log wait for.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The result of first opening the file.
    pub(super) opened: Option<Result<(), (io::ErrorKind, String)>>,
    /// Everything is written and closed.
    pub(super) finished: bool,
}

/// The buffers shared by all logs of the thread. They are never borrowed across an await.
struct Buffers {
    input: Vec<u8>,
    records: Vec<u8>,
}

/// Runs all copiers until `queue` is closed, then ends them.
pub(super) async fn serve(mut queue: mpsc::Receiver<Copier>) {
    let buffers = Rc::new(RefCell::new(Buffers { input: vec![0; CHUNK], records: Vec::new() }));
    let (leave, left) = watch::channel(false);
    let mut running = JoinSet::new();
    loop {
        // Both branches are cancel-safe by their documentation.
        tokio::select! {
            copier = queue.recv() => match copier {
                Some(copier) => {
                    running.spawn_local(copier.run(Rc::clone(&buffers), left.clone()));
                }
                None => break,
            },
            Some(ended) = running.join_next() => report(ended),
        }
    }
    leave.send_replace(true);
    while let Some(ended) = running.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "log copier failed");
        if error.is_panic() {
            give_up();
        }
    }
}

/// Aborts the process: if nobody read their output, containers would block. The next agent process
/// reads it.
pub(super) fn give_up() {
    tracing::error!("agent exits: logs are no longer copied");
    std::process::abort();
}

/// One stream of a log.
struct Source {
    stream: Stream,
    /// `None` only while it is being registered again.
    fifo: Option<pipe::Receiver>,
    splitter: Splitter,
}

impl Source {
    fn new(stream: Stream, fd: OwnedFd, max_line: usize) -> io::Result<Self> {
        let fifo = Some(pipe::Receiver::from_owned_fd(fd)?);
        Ok(Self { stream, fifo, splitter: Splitter::new(max_line) })
    }

    /// Waits for output and reads it into the shared buffer, which the caller may use until its
    /// next await. Returns 0 at the end of the stream. Cancel-safe: nothing is awaited after the
    /// read.
    async fn read(&mut self, buffers: &RefCell<Buffers>) -> io::Result<usize> {
        loop {
            let Some(fifo) = &self.fifo else { return Ok(0) };
            let hung_up = fifo.ready(Interest::READABLE).await?.is_read_closed();
            match fifo.try_read(&mut buffers.borrow_mut().input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if hung_up {
                        self.register_anew()?;
                    }
                }
                result => return result,
            }
        }
    }

    /// Registers the FIFO again after all writers had closed it and a new one has opened it. For
    /// tokio a hang-up is final, and the old registration would report readiness for ever.
    fn register_anew(&mut self) -> io::Result<()> {
        if let Some(fifo) = self.fifo.take() {
            self.fifo = Some(pipe::Receiver::from_owned_fd(fifo.into_nonblocking_fd()?)?);
        }
        Ok(())
    }

    /// Reads what is available without waiting; 0 when there is nothing more.
    fn read_now(&self, input: &mut [u8]) -> usize {
        let Some(fifo) = &self.fifo else { return 0 };
        // Not `try_read`: tokio may not have noticed the data yet.
        rustix::io::retry_on_intr(|| rustix::io::read(fifo, &mut *input)).unwrap_or(0)
    }
}

async fn read_if_open(
    source: &mut Option<Source>,
    buffers: &RefCell<Buffers>,
) -> io::Result<usize> {
    match source {
        Some(source) => source.read(buffers).await,
        None => std::future::pending().await,
    }
}

/// The event that woke a copier.
enum Wake {
    Output(usize, io::Result<usize>),
    Reopen(Reopen),
    Retry,
    GiveUp,
    Leave,
}

/// Copies the streams of one process to its log. Created by the caller of [`super::Pumps::pump`],
/// run by the log thread.
#[derive(Debug)]
pub(super) struct Copier {
    spec: PumpSpec,
    shared: Arc<Shared>,
    reopen: mpsc::Receiver<Reopen>,
    give_up: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
}

impl Copier {
    pub(super) fn new(spec: PumpSpec) -> (Self, Pump) {
        let shared = Arc::new(Shared::new());
        let (reopen_sender, reopen) = mpsc::channel(4);
        let (give_up_sender, give_up) = watch::channel(false);
        let (progress, seen) = watch::channel(Progress::default());
        let pump = Pump {
            shared: Arc::clone(&shared),
            reopen: reopen_sender,
            give_up: Arc::new(give_up_sender),
            progress: seen,
        };
        (Self { spec, shared, reopen, give_up, progress }, pump)
    }

    async fn run(mut self, buffers: Rc<RefCell<Buffers>>, leave: watch::Receiver<bool>) {
        let max_line = self.spec.max_line;
        let marker = if self.spec.stderr.is_some() { Stream::Stderr } else { Stream::Stdout };
        let sink = self.spec.path.take().map(|path| {
            let mut sink = Sink::new(path, max_line, marker, Arc::clone(&self.shared));
            let opened = sink.open_first();
            self.progress.send_modify(|now| now.opened = Some(opened));
            sink
        });
        self.progress.send_modify(|now| {
            now.opened.get_or_insert(Ok(()));
        });
        let fds =
            [(Stream::Stdout, self.spec.stdout.take()), (Stream::Stderr, self.spec.stderr.take())];
        let sources = fds.map(|(stream, fd)| match Source::new(stream, fd?, max_line) {
            Ok(source) => Some(source),
            Err(error) => {
                tracing::error!(%error, ?stream, "cannot watch output stream");
                None
            }
        });
        let mut copy = Copy { sources, sink, shared: self.shared, buffers };
        copy.until_the_end(&mut self.reopen, self.give_up, leave).await;
        copy.finish();
        // Closes the file before the end is reported.
        drop(copy);
        self.progress.send_modify(|now| now.finished = true);
    }
}

/// How a busy log shares the thread, and how small writes are gathered.
#[derive(Debug, Default)]
struct Pace {
    reads: usize,
    last: Option<Instant>,
}

impl Pace {
    /// After a read of `n` bytes: yields to other logs now and then. A process that writes often
    /// and little would wake the thread for each write, and be slowed down itself; so it is left
    /// alone for a moment while its writes accumulate in the FIFO.
    async fn keep(&mut self, n: usize) {
        self.reads += 1;
        let now = Instant::now();
        let before = self.last.replace(now);
        if (1..FEW).contains(&n) && before.is_some_and(|at| now - at < GATHER) {
            tokio::time::sleep(GATHER).await;
        } else if self.reads.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// A running copier.
struct Copy {
    sources: [Option<Source>; 2],
    sink: Option<Sink>,
    shared: Arc<Shared>,
    buffers: Rc<RefCell<Buffers>>,
}

impl Copy {
    async fn until_the_end(
        &mut self,
        reopen: &mut mpsc::Receiver<Reopen>,
        mut give_up: watch::Receiver<bool>,
        mut leave: watch::Receiver<bool>,
    ) {
        let mut pace = Pace::default();
        while self.sources.iter().any(Option::is_some) {
            match self.wake(reopen, &mut give_up, &mut leave).await {
                Wake::Output(index, read) => {
                    let n = *read.as_ref().unwrap_or(&0);
                    self.output(index, read);
                    pace.keep(n).await;
                }
                Wake::Reopen(answer) => {
                    let result = self.sink.as_mut().map_or(Ok(()), Sink::reopen);
                    // The caller may be gone; the file is switched anyway.
                    let _ = answer.send(result);
                }
                Wake::Retry => self.sink.iter_mut().for_each(Sink::retry),
                Wake::GiveUp => return self.last_reads(),
                Wake::Leave => return,
            }
        }
    }

    /// Waits for the next event. Every branch is cancel-safe: the reads as documented above, the
    /// channels and the timer by their own documentation.
    async fn wake(
        &mut self,
        reopen: &mut mpsc::Receiver<Reopen>,
        give_up: &mut watch::Receiver<bool>,
        leave: &mut watch::Receiver<bool>,
    ) -> Wake {
        let [stdout, stderr] = &mut self.sources;
        let buffers = &*self.buffers;
        let retry_at = self.sink.as_ref().and_then(Sink::retry_at);
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = read_if_open(stdout, buffers) => Wake::Output(0, read),
            read = read_if_open(stderr, buffers) => Wake::Output(1, read),
            Some(answer) = reopen.recv() => Wake::Reopen(answer),
            Ok(_) = give_up.wait_for(|stop| *stop) => Wake::GiveUp,
            _ = leave.wait_for(|stop| *stop) => Wake::Leave,
            () = retry => Wake::Retry,
        }
    }

    /// Handles the result of a read from one stream; the data is in the shared buffer.
    fn output(&mut self, index: usize, read: io::Result<usize>) {
        let n = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "output stream failed, its log ends here");
            0
        });
        if n == 0 {
            self.end_stream(index);
            return;
        }
        let Some(source) = &mut self.sources[index] else { return };
        let Buffers { input, records } = &mut *self.buffers.borrow_mut();
        self.shared.offer(source.stream, &input[..n]);
        let Some(sink) = &mut self.sink else { return };
        let header = Header::new(source.stream, OffsetDateTime::now_utc());
        let mut taken = 0;
        while taken < n {
            records.clear();
            taken += source.splitter.feed(header, &input[taken..n], records, BATCH);
            if !records.is_empty() {
                sink.append(records);
            }
        }
    }

    /// Writes the unfinished line of a stream as partial records and closes the stream.
    fn end_stream(&mut self, index: usize) {
        let Some(mut source) = self.sources[index].take() else { return };
        let Some(sink) = &mut self.sink else { return };
        let records = &mut self.buffers.borrow_mut().records;
        records.clear();
        let header = Header::new(source.stream, OffsetDateTime::now_utc());
        source.splitter.finish(header, records);
        if !records.is_empty() {
            sink.append(records);
        }
    }

    /// Reads what the FIFOs hold now.
    fn last_reads(&mut self) {
        for index in 0..self.sources.len() {
            for _ in 0..LAST_READS {
                let Some(source) = &self.sources[index] else { break };
                let n = source.read_now(&mut self.buffers.borrow_mut().input);
                if n == 0 {
                    break;
                }
                self.output(index, Ok(n));
            }
        }
    }

    /// Ends all open streams; a file that failed gets a last attempt to report the loss.
    fn finish(&mut self) {
        for index in 0..self.sources.len() {
            self.end_stream(index);
        }
        if let Some(sink) = self.sink.as_mut().filter(|sink| sink.retry_at().is_some()) {
            sink.retry();
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{open_fifo_guard, open_fifo_reader};

    /// For tokio's poller a hang-up is final, but a FIFO may get a new writer.
    #[tokio::test(start_paused = true)]
    async fn a_writer_that_comes_back_causes_no_spin() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("mkfifo");
        let fd = open_fifo_reader(&path).expect("reader");
        let first = open_fifo_guard(&path).expect("first writer");
        let mut source = Source::new(Stream::Stdout, fd, 64).expect("source");
        drop(first);
        let fifo = source.fifo.as_ref().expect("registered");
        assert!(fifo.ready(Interest::READABLE).await.expect("hang-up").is_read_closed());
        let second = open_fifo_guard(&path).expect("second writer");
        let buffers = RefCell::new(Buffers { input: vec![0; 16], records: Vec::new() });
        // Paused time advances only while the task sleeps, so a busy loop would hang here.
        let wait = tokio::time::timeout(Duration::from_secs(1), source.read(&buffers));
        assert!(wait.await.is_err(), "nothing to read yet");
        rustix::io::write(&second, b"hello").expect("write");
        assert_eq!(source.read(&buffers).await.expect("read"), 5);
        drop(second);
        assert_eq!(source.read(&buffers).await.expect("read"), 0);
    }
}
