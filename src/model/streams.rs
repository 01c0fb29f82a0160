//! Streams between a client and a process in a container.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// What a client sends to a process.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;

/// Where output of a process goes.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A client's ends of a process's streams. A stream that is `None` was not asked for.
pub struct ProcessIo {
    /// Read until its end; then the process's stdin is closed.
    pub stdin: Option<Input>,
    /// Standard output; with a terminal it carries both outputs.
    pub stdout: Option<Output>,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<Output>,
    /// Whether the process has (exec) or must have (attach) a terminal.
    pub tty: bool,
    /// Sizes of the client's terminal, the newest last; `None` when it never tells any.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}
