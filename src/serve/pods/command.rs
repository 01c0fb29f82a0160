//! Exec and Attach: connects a caller to the streams of a process.
//!
//! The answer stream polls the whole session, so when a caller disconnects the session is dropped
//! and ends, as [`crate::stream::Sessions`] requires.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::{CancellationToken, PollSender};
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use super::streams::hold;
use super::{Pods, convert};
use crate::model::streams::{Output, ProcessIo, TerminalSize};
use crate::pod::{PodKey, Target};
use crate::proto::podbay::v1;
use crate::proto::podbay::v1::{attach_request, attach_response, exec_request, exec_response};
use crate::serve::status::bad_field;
use crate::stream::{Attach, Exec, SessionError, Streams};

/// How long a caller may take to send its first message.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of queued pieces of input, and of output.
const QUEUE: usize = 16;

/// Maximum number of bytes in a piece of output.
const PIECE: usize = 32 << 10;

/// A message of the caller after the first.
enum Said {
    Stdin(Vec<u8>),
    StdinEnd,
    Resize(v1::TerminalSize),
    /// Another start message.
    Start,
    /// An empty message, or one of a later version.
    Unknown,
}

/// How output is encoded for the caller.
#[derive(Clone, Copy)]
struct Words<T> {
    stdout: fn(Vec<u8>) -> T,
    stderr: fn(Vec<u8>) -> T,
}

/// The streams that the caller requested.
struct Wanted {
    stdin: bool,
    tty: bool,
    size: Option<TerminalSize>,
}

impl Pods {
    pub(super) async fn exec(
        &self,
        mut requests: Streaming<v1::ExecRequest>,
    ) -> Result<BoxStream<v1::ExecResponse>, Status> {
        use exec_response::Output as Out;
        let first = start(&mut requests).await?;
        self.tell(&first);
        let Some(exec_request::Input::Start(start)) = first.input else { return Err(no_start()) };
        let place = self.places.session()?;
        let key = convert::key(start.namespace, start.name)?;
        let (target, name) = self.target(&key, start.container)?;
        let exec = Exec {
            container: target.container,
            command: convert::command(start.command)?,
            streams: streams(start.stdin, start.tty),
        };
        let size = start.size.map(convert::terminal_size).transpose()?.flatten();
        let wanted = Wanted { stdin: start.stdin, tty: start.tty, size };
        let message = |output| v1::ExecResponse { output: Some(output) };
        let words = Words {
            stdout: |bytes| v1::ExecResponse { output: Some(Out::Stdout(bytes)) },
            stderr: |bytes| v1::ExecResponse { output: Some(Out::Stderr(bytes)) },
        };
        let sessions = Arc::clone(&self.sessions);
        let talk = converse(
            heard(requests, |request| match request.input {
                Some(exec_request::Input::Stdin(bytes)) => Said::Stdin(bytes),
                Some(exec_request::Input::StdinEnd(_)) => Said::StdinEnd,
                Some(exec_request::Input::Resize(size)) => Said::Resize(size),
                Some(exec_request::Input::Start(_)) => Said::Start,
                None => Said::Unknown,
            }),
            wanted,
            words,
            self.places.closing().clone(),
            move |io| async move {
                let exit_code = sessions.exec(&exec, io).await?;
                Ok(Some(message(Out::Exit(v1::ExecExit { exit_code }))))
            },
        );
        let started = message(Out::Started(v1::ExecStarted { container: name }));
        Ok(hold(place, after(started, talk)))
    }

    pub(super) async fn attach(
        &self,
        mut requests: Streaming<v1::AttachRequest>,
    ) -> Result<BoxStream<v1::AttachResponse>, Status> {
        use attach_response::Output as Out;
        let first = start(&mut requests).await?;
        self.tell(&first);
        let Some(attach_request::Input::Start(start)) = first.input else { return Err(no_start()) };
        let place = self.places.session()?;
        let key = convert::key(start.namespace, start.name)?;
        let (target, name) = self.target(&key, start.container)?;
        if start.stdin && !target.stdin {
            return Err(bad_field("start.stdin", format!("container {name:?} has no stdin")));
        }
        let size = start.size.map(convert::terminal_size).transpose()?.flatten();
        let wanted = Wanted { stdin: start.stdin, tty: target.tty, size };
        let words = Words {
            stdout: |bytes| v1::AttachResponse { output: Some(Out::Stdout(bytes)) },
            stderr: |bytes| v1::AttachResponse { output: Some(Out::Stderr(bytes)) },
        };
        let started = v1::AttachStarted { container: name, tty: target.tty, stdin: target.stdin };
        let attach =
            Attach { container: target.container, streams: streams(start.stdin, target.tty) };
        let sessions = Arc::clone(&self.sessions);
        let talk = converse(
            heard(requests, |request| match request.input {
                Some(attach_request::Input::Stdin(bytes)) => Said::Stdin(bytes),
                Some(attach_request::Input::StdinEnd(_)) => Said::StdinEnd,
                Some(attach_request::Input::Resize(size)) => Said::Resize(size),
                Some(attach_request::Input::Start(_)) => Said::Start,
                None => Said::Unknown,
            }),
            wanted,
            words,
            self.places.closing().clone(),
            move |io| async move { sessions.attach(&attach, io).await.map(|()| None) },
        );
        let started = v1::AttachResponse { output: Some(Out::Started(started)) };
        Ok(hold(place, after(started, talk)))
    }

    /// The selected container, with its name.
    fn target(&self, key: &PodKey, container: String) -> Result<(Target, String), Status> {
        let asked = Some(container).filter(|name| !name.is_empty());
        let target = self.face.target(key, asked.as_deref())?;
        let name = match asked {
            Some(name) => name,
            None => {
                let view = self.face.get(key)?;
                convert::container_name(&view, target.container.as_str()).unwrap_or_default()
            }
        };
        Ok((target, name))
    }
}

/// The first message.
pub(super) async fn start<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(START_LIMIT, requests.message()).await {
        Ok(first) => first?.ok_or_else(no_start),
        Err(_) => {
            Err(Status::deadline_exceeded(format!("no start message within {START_LIMIT:?}")))
        }
    }
}

pub(super) fn no_start() -> Status {
    bad_field("start", "must be the first message")
}

fn streams(stdin: bool, tty: bool) -> Streams {
    Streams { stdin, stdout: true, stderr: !tty, tty }
}

fn heard<T: Send + 'static>(
    requests: Streaming<T>,
    say: fn(T) -> Said,
) -> impl Stream<Item = Result<Said, Status>> + Send {
    requests.map(move |request| request.map(say))
}

fn after<T: Send + 'static>(
    first: T,
    rest: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<T> {
    Box::pin(futures::stream::iter([Ok(first)]).chain(rest))
}

/// Runs the session: streams the process's output, then its result.
fn converse<T, W>(
    heard: impl Stream<Item = Result<Said, Status>> + Send + 'static,
    wanted: Wanted,
    words: Words<T>,
    closing: CancellationToken,
    work: impl FnOnce(ProcessIo) -> W + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send
where
    T: Send + 'static,
    W: Future<Output = Result<Option<T>, SessionError>> + Send,
{
    async_stream::stream! {
        let (outbox, mut inbox) = mpsc::channel(QUEUE);
        let (stdin, input) = mpsc::channel(QUEUE);
        let (sizes, resize) = mpsc::channel(QUEUE);
        let io = ProcessIo {
            stdin: wanted.stdin.then(|| Box::pin(StreamReader::new(ReceiverStream::new(input))) as _),
            stdout: Some(Outlet::of(&outbox, words.stdout)),
            stderr: (!wanted.tty).then(|| Outlet::of(&outbox, words.stderr)),
            tty: wanted.tty,
            resize: wanted.tty.then_some(resize),
        };
        // From here on only the process holds the sender.
        drop(outbox);
        if let Some(size) = wanted.size {
            // The queue is empty, so there is room.
            let _ = sizes.try_send(size);
        }
        let listening = listen(heard, wanted.stdin.then_some(stdin), sizes);
        let work = work(io);
        tokio::pin!(listening, work);
        let ended = loop {
            // Cancel-safe: `recv` loses nothing, and the others are pinned outside. The polling
            // order is random, so that a flood of output cannot block the caller's messages.
            tokio::select! {
                Some(piece) = inbox.recv() => yield Ok(piece),
                ended = &mut work => break ended.map_err(Status::from),
                fault = &mut listening => break Err(fault),
                () = closing.cancelled() => break Err(SessionError::Stopping.into()),
            }
        };
        // Output written before the end.
        inbox.close();
        while let Some(piece) = inbox.recv().await {
            yield Ok(piece);
        }
        match ended {
            Ok(Some(last)) => yield Ok(last),
            Ok(None) => {}
            Err(status) => yield Err(status),
        }
    }
}

/// Handles the caller's messages. Completes only if the caller makes an error or its stream fails.
async fn listen(
    heard: impl Stream<Item = Result<Said, Status>> + Send,
    stdin: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    sizes: mpsc::Sender<TerminalSize>,
) -> Status {
    let (wants_stdin, mut stdin) = (stdin.is_some(), stdin);
    tokio::pin!(heard);
    loop {
        match heard.next().await {
            Some(Ok(Said::Stdin(_))) if !wants_stdin => {
                return bad_field("stdin", "the start did not announce it");
            }
            Some(Ok(Said::Stdin(bytes))) => match &stdin {
                // A process that no longer reads discards it.
                Some(stdin) => drop(stdin.send(Ok(bytes.into())).await),
                None => return bad_field("stdin", "has ended already"),
            },
            Some(Ok(Said::StdinEnd)) => stdin = None,
            Some(Ok(Said::Resize(size))) => match convert::terminal_size(size) {
                // Without a terminal it is ignored.
                Ok(Some(size)) => drop(sizes.send(size).await),
                Ok(None) => {}
                Err(status) => return status,
            },
            Some(Ok(Said::Start)) => return bad_field("start", "only as the first message"),
            Some(Ok(Said::Unknown)) => return bad_field("input", "is not known"),
            Some(Err(status)) => return status,
            None => {
                drop(stdin);
                return std::future::pending().await;
            }
        }
    }
}

/// Converts output to messages of the answer stream, at the caller's pace.
struct Outlet<T> {
    outbox: PollSender<T>,
    word: fn(Vec<u8>) -> T,
}

impl<T: Send + 'static> Outlet<T> {
    fn of(outbox: &mpsc::Sender<T>, word: fn(Vec<u8>) -> T) -> Output {
        Box::pin(Self { outbox: PollSender::new(outbox.clone()), word })
    }
}

impl<T: Send + 'static> AsyncWrite for Outlet<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        ready!(self.outbox.poll_reserve(context)).map_err(gone)?;
        let piece = &bytes[..bytes.len().min(PIECE)];
        let message = (self.word)(piece.to_vec());
        self.outbox.send_item(message).map_err(gone)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.outbox.close();
        Poll::Ready(Ok(()))
    }
}
