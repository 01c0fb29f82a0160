//! `load` and `save`: image archives.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::connect::Client;
use super::error::Error;
use super::screen::{Progress, Screen};
use crate::proto::podbay::v1::load_request::Input;
use crate::proto::podbay::v1::{LoadRequest, LoadStart, LoadedImage, SaveRequest};

/// Bytes of an archive per message.
const PIECE: usize = 256 << 10;

/// Number of pieces read ahead of the agent.
const AHEAD: usize = 4;

/// What `load` takes.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Archive: tar, optionally gzip-compressed [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Name for the image instead of the names in the archive; may be repeated
    #[arg(long = "name", value_name = "IMAGE")]
    pub names: Vec<String>,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Unpack for this runtime handler
    #[arg(long, value_name = "HANDLER", default_value = "")]
    pub runtime_handler: String,
}

/// What `save` takes.
#[derive(Debug, Clone, Args)]
pub struct SaveArgs {
    /// Archive to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Image names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// Sends an archive.
pub async fn load(client: &mut Client, args: &LoadArgs, screen: Screen) -> Result<(), Error> {
    let (from, size): (Box<dyn AsyncRead + Send + Unpin>, u64) = match &args.input {
        Some(path) if path != Path::new("-") => {
            let fault = || Error::local(format!("read {}", path.display()));
            let file = File::open(path).await.map_err(fault())?;
            let kind = file.metadata().await.map_err(fault())?;
            (Box::new(file), if kind.is_file() { kind.len() } else { 0 })
        }
        _ if io::stdin().is_terminal() => {
            let why = "cannot read an archive from a terminal: use -i FILE or a pipe";
            return Err(Error::Misuse(why.to_owned()));
        }
        _ => (Box::new(tokio::io::stdin()), 0),
    };
    let progress = screen.quiet(args.quiet).bytes("loading", size);
    let start =
        LoadStart { names: args.names.clone(), runtime_handler: args.runtime_handler.clone() };
    let loaded = send(client, start, from, &progress).await?;
    drop(progress);
    for image in loaded {
        let lines: String = if args.quiet {
            format!("{}\n", image.id)
        } else if image.names.is_empty() {
            format!("image {} loaded\n", image.id)
        } else {
            image.names.iter().map(|name| format!("image {name} loaded\n")).collect()
        };
        screen.print(&lines)?;
    }
    Ok(())
}

async fn send(
    client: &mut Client,
    start: LoadStart,
    mut from: impl AsyncRead + Send + Unpin + 'static,
    progress: &Progress,
) -> Result<Vec<LoadedImage>, Error> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let message = |input| LoadRequest { input: Some(input) };
    let answer = client.images.load(ReceiverStream::new(receiver));
    tokio::pin!(answer);
    let feed = async move {
        // If the agent no longer accepts it, its answer says why.
        if sender.send(message(Input::Start(start))).await.is_err() {
            return Ok::<_, Error>(());
        }
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut from).take(PIECE as u64).read_to_end(&mut piece).await;
            if read.map_err(Error::local("read the archive"))? == 0 {
                return Ok(());
            }
            progress.more(piece.len() as u64);
            if sender.send(message(Input::Data(piece))).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::pin!(feed);
    // Cancel-safe: the answer is still awaited. Dropping the feed interrupts the upload, which is
    // intended if it cannot be read to its end or nobody wants the rest.
    let fed = tokio::select! {
        answer = &mut answer => return Ok(answer?.into_inner().images),
        fed = &mut feed => fed,
    };
    fed?;
    progress.say("unpacking");
    Ok(answer.await?.into_inner().images)
}

/// Downloads an archive; an incomplete one is removed.
pub async fn save(client: &mut Client, args: &SaveArgs, screen: Screen) -> Result<(), Error> {
    tokio::select! {
        // Both are dropped completely: the file is removed with its draft.
        saved = fetch(client, args, screen) => saved,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    }
}

async fn fetch(client: &mut Client, args: &SaveArgs, screen: Screen) -> Result<(), Error> {
    let to = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if to.is_none() && io::stdout().is_terminal() {
        let why = "cannot write an archive to a terminal: use -o FILE or a pipe";
        return Err(Error::Misuse(why.to_owned()));
    }
    let request = SaveRequest { images: args.images.clone() };
    let mut stream = client.images.save(request).await?.into_inner();
    let total = stream.message().await?.map_or(0, |first| first.total);
    let progress = screen.bytes("saving", total);
    let mut target = Target::open(to).await?;
    let mut done = 0;
    while let Some(piece) = stream.message().await? {
        done += piece.data.len() as u64;
        progress.more(piece.data.len() as u64);
        target.write(&piece.data).await?;
    }
    if done != total {
        return Err(Error::Failed(format!("received {done} of {total} bytes of the archive")));
    }
    target.finish().await
}

/// The destination of an archive.
enum Target {
    /// Any stream: a pipe, a device.
    Stream(Box<dyn AsyncWrite + Send + Unpin>),
    /// A file, which gets its name only when it is complete.
    File(File, Draft),
}

impl Target {
    async fn open(to: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = to else { return Ok(Self::Stream(Box::new(tokio::io::stdout()))) };
        let fault = || Error::local(format!("write {}", path.display()));
        match std::fs::metadata(path) {
            Ok(kind) if !kind.is_file() => {
                let file = File::options().write(true).open(path).await;
                Ok(Self::Stream(Box::new(file.map_err(fault())?)))
            }
            _ => {
                let draft = Draft::of(path).map_err(fault())?;
                let file = File::create_new(&draft.path).await.map_err(fault())?;
                Ok(Self::File(file, draft))
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.write_all(bytes).await.map_err(Error::output),
            Self::File(file, draft) => {
                let fault = Error::local(format!("write {}", draft.name.display()));
                file.write_all(bytes).await.map_err(fault)
            }
        }
    }

    async fn finish(self) -> Result<(), Error> {
        match self {
            Self::Stream(mut stream) => stream.flush().await.map_err(Error::output),
            Self::File(mut file, draft) => {
                let fault = || Error::local(format!("write {}", draft.name.display()));
                file.flush().await.map_err(fault())?;
                file.sync_all().await.map_err(fault())?;
                std::fs::rename(&draft.path, &draft.name).map_err(fault())
            }
        }
    }
}

/// A temporary file beside its destination, removed unless it was completed.
struct Draft {
    path: PathBuf,
    name: PathBuf,
}

impl Draft {
    fn of(name: &Path) -> io::Result<Self> {
        let own = name.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
        let path = name.with_file_name(format!(".{own}.{}.partial", std::process::id()));
        Ok(Self { path, name: name.to_owned() })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename it does not exist.
        let _ = std::fs::remove_file(&self.path);
    }
}
