//! Streams between a client and a process in a container.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// The client's input to a process.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;

/// The destination of a process's output.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The client's ends of a process's streams; `None` for streams that were not requested.
pub struct ProcessIo {
    /// Read to its end, after which the process's stdin is closed.
    pub stdin: Option<Input>,
    /// Standard output; with a terminal it carries both streams.
    pub stdout: Option<Output>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<Output>,
    /// Whether the process has (exec) or must have (attach) a terminal.
    pub tty: bool,
    /// Sizes of the client's terminal, newest last; `None` if the client never sends any.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}
