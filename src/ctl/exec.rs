//! `exec` and `attach`: connect to a command in a container, or to the container's own streams.

use clap::Args;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connect::Client;
use super::container::chosen;
use super::error::Error;
use super::scope::{Namespace, pod_name};
use super::screen::Screen;
use super::terminal::{self, Raw};
use crate::proto::podbay::v1::{
    AttachRequest, AttachStart, ExecRequest, ExecStart, StdinEnd, TerminalSize, attach_request,
    attach_response, exec_request, exec_response,
};

/// One container of a pod.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: String,
    /// Container [default: the one in annotation kubectl.kubernetes.io/default-container, or the
    /// first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
}

impl Place {
    async fn chosen(&self, client: &mut Client, screen: Screen) -> String {
        let named = self.container.as_deref();
        chosen(client, &self.namespace, &self.pod, named, screen).await
    }
}

/// What `exec` takes.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Command without -- before it, as in older kubectl
    #[arg(value_name = "WORD", hide = true, conflicts_with = "command")]
    pub words: Vec<String>,
    /// Command and arguments; run without a shell
    #[arg(value_name = "COMMAND", last = true, required_unless_present = "words")]
    pub command: Vec<String>,
    /// Pass standard input to the container
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
}

/// What `attach` takes.
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Pass standard input to the container
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Use raw mode if the container has a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
}

/// A message to the agent, independent of the call.
enum Outgoing {
    Input(Vec<u8>),
    End,
    Size(TerminalSize),
}

/// A message from the agent.
enum Incoming {
    /// Started; says whether to set the caller's terminal to raw mode.
    Started {
        raw: bool,
    },
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Exit(i32),
    Nothing,
}

/// Runs a command and returns its exit code.
pub async fn exec(client: &mut Client, args: &ExecArgs, screen: Screen) -> Result<u8, Error> {
    let with_terminal = args.tty && terminal::is_terminal();
    if args.tty && !with_terminal {
        screen.note("warning: standard input and output are not a terminal: ignoring -t");
    }
    if !args.words.is_empty() {
        screen
            .note("warning: podbay exec POD COMMAND is deprecated: use podbay exec POD -- COMMAND");
    }
    let start = ExecStart {
        namespace: args.place.namespace.of(client),
        name: args.place.pod.clone(),
        container: args.place.chosen(client, screen).await,
        command: [args.words.clone(), args.command.clone()].concat(),
        stdin: args.stdin,
        tty: with_terminal,
        size: with_terminal.then(terminal::size).flatten(),
    };
    let request = |input| ExecRequest { input: Some(input) };
    let (sender, receiver) = mpsc::channel(8);
    let _ = sender.try_send(request(exec_request::Input::Start(start)));
    let stream = client.pods.exec(ReceiverStream::new(receiver)).await?.into_inner();
    let news = futures::StreamExt::map(stream, move |answer| {
        Ok(match answer?.output {
            Some(exec_response::Output::Started(_)) => Incoming::Started { raw: with_terminal },
            Some(exec_response::Output::Stdout(data)) => Incoming::Stdout(data),
            Some(exec_response::Output::Stderr(data)) => Incoming::Stderr(data),
            Some(exec_response::Output::Exit(exit)) => Incoming::Exit(exit.exit_code),
            None => Incoming::Nothing,
        })
    });
    let wrap = move |outgoing| {
        request(match outgoing {
            Outgoing::Input(data) => exec_request::Input::Stdin(data),
            Outgoing::End => exec_request::Input::StdinEnd(StdinEnd {}),
            Outgoing::Size(size) => exec_request::Input::Resize(size),
        })
    };
    match join(sender, wrap, news, args.stdin).await?.exit {
        Some(code) => {
            if code != 0 {
                screen.note(&format!("command terminated with exit code {code}"));
            }
            // Exit codes fit into a byte; anything else is a failure.
            Ok(u8::try_from(code).unwrap_or(255))
        }
        None => {
            Err(Error::Failed("the connection was closed before the command exited".to_owned()))
        }
    }
}

/// Attaches to a container until it ends; returns whether it wrote anything.
pub async fn attach(client: &mut Client, args: &AttachArgs, screen: Screen) -> Result<bool, Error> {
    let with_terminal = args.tty && terminal::is_terminal();
    let start = AttachStart {
        namespace: args.place.namespace.of(client),
        name: args.place.pod.clone(),
        container: args.place.chosen(client, screen).await,
        stdin: args.stdin,
        size: with_terminal.then(terminal::size).flatten(),
    };
    let request = |input| AttachRequest { input: Some(input) };
    let (sender, receiver) = mpsc::channel(8);
    let _ = sender.try_send(request(attach_request::Input::Start(start)));
    let stream = client.pods.attach(ReceiverStream::new(receiver)).await?.into_inner();
    let wants_terminal = args.tty;
    let news = futures::StreamExt::map(stream, move |answer| {
        Ok(match answer?.output {
            Some(attach_response::Output::Started(started)) => {
                if wants_terminal && !started.tty {
                    screen.note("warning: the container has no terminal: ignoring -t");
                }
                Incoming::Started { raw: with_terminal && started.tty }
            }
            Some(attach_response::Output::Stdout(data)) => Incoming::Stdout(data),
            Some(attach_response::Output::Stderr(data)) => Incoming::Stderr(data),
            None => Incoming::Nothing,
        })
    });
    let wrap = move |outgoing| {
        request(match outgoing {
            Outgoing::Input(data) => attach_request::Input::Stdin(data),
            Outgoing::End => attach_request::Input::StdinEnd(StdinEnd {}),
            Outgoing::Size(size) => attach_request::Input::Resize(size),
        })
    };
    Ok(join(sender, wrap, news, args.stdin).await?.heard)
}

/// What a session came to.
#[derive(Default)]
struct Session {
    /// The exit code, if there is one.
    exit: Option<i32>,
    /// Whether the remote side wrote anything.
    heard: bool,
}

/// Copies in both directions until the remote side ends.
async fn join<T>(
    sender: mpsc::Sender<T>,
    wrap: impl Fn(Outgoing) -> T,
    news: impl futures::Stream<Item = Result<Incoming, tonic::Status>>,
    stdin: bool,
) -> Result<Session, Error> {
    let mut news = std::pin::pin!(news);
    let mut resizes = terminal::resizes()?;
    let mut ended = std::pin::pin!(terminal::ended());
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let (mut raw, mut session) = (None, Session::default());
    // Input is read only once the remote side is ready for it.
    let mut input = None;
    loop {
        tokio::select! {
            // Cancel-safe: takes only complete messages.
            message = futures::StreamExt::next(&mut news) => match message {
                None => break,
                Some(message) => match session.hear(message?) {
                    Incoming::Started { raw: wanted } => {
                        if wanted {
                            raw = Some(Raw::new()?);
                        }
                        input = stdin.then(terminal::input);
                    }
                    Incoming::Stdout(data) => write(&mut out, &data).await?,
                    Incoming::Stderr(data) => write(&mut err, &data).await?,
                    Incoming::Exit(_) | Incoming::Nothing => {}
                },
            },
            // A permit is returned unless a piece is taken; a piece taken is sent at once.
            piece = next(&sender, &mut input), if input.is_some() => match piece {
                Some((permit, Some(Ok(data)))) => permit.send(wrap(Outgoing::Input(data))),
                Some((permit, None)) => {
                    permit.send(wrap(Outgoing::End));
                    input = None;
                }
                Some((_, Some(Err(error)))) => {
                    return Err(Error::local("read standard input")(error));
                }
                None => input = None,
            },
            // A missed signal is followed by the next size.
            _ = resizes.recv(), if raw.is_some() => {
                if let Some(size) = terminal::size() {
                    // If the queue is full, a later size will be sent.
                    let _ = sender.try_send(wrap(Outgoing::Size(size)));
                }
            }
            // Ends the session.
            done = &mut ended => {
                done?;
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(session)
}

impl Session {
    /// Notes what a message says of the session.
    fn hear(&mut self, message: Incoming) -> Incoming {
        match &message {
            Incoming::Exit(code) => self.exit = Some(*code),
            Incoming::Stdout(_) | Incoming::Stderr(_) => self.heard = true,
            Incoming::Started { .. } | Incoming::Nothing => {}
        }
        message
    }
}

type Input = (mpsc::Receiver<std::io::Result<Vec<u8>>>, tokio::task::JoinSet<()>);

/// A slot in the queue and then a piece for it; `None` when the remote side accepts no more.
async fn next<'a, T>(
    sender: &'a mpsc::Sender<T>,
    input: &mut Option<Input>,
) -> Option<(mpsc::Permit<'a, T>, Option<std::io::Result<Vec<u8>>>)> {
    let (pieces, _) = input.as_mut()?;
    let permit = sender.reserve().await.ok()?;
    Some((permit, pieces.recv().await))
}

async fn write(to: &mut (impl tokio::io::AsyncWrite + Unpin), data: &[u8]) -> Result<(), Error> {
    to.write_all(data).await.map_err(Error::output)?;
    to.flush().await.map_err(Error::output)
}
