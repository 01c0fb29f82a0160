//! The caller's terminal: its raw mode during a remote session, and its size.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::error::Error;
use crate::proto::podbay::v1::TerminalSize;

/// Bytes of standard input per message.
const PIECE: usize = 32 << 10;

/// Whether standard input and output are a terminal.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal; `None` without one.
pub fn size() -> Option<TerminalSize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(TerminalSize { width: size.ws_col.into(), height: size.ws_row.into() })
}

/// A terminal in raw mode, restored when dropped.
pub struct Raw(Termios);

impl Raw {
    /// Sets the terminal of standard input to raw mode.
    pub fn new() -> Result<Self, Error> {
        let fault =
            |error: rustix::io::Errno| Error::local("set the terminal to raw mode")(error.into());
        let before = tcgetattr(io::stdin()).map_err(fault)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(fault)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Notifies of changes of the terminal's size.
pub fn resizes() -> Result<Signal, Error> {
    signal(SignalKind::window_change()).map_err(Error::local("watch the size of the terminal"))
}

/// Waits for a termination signal.
pub async fn ended() -> Result<(), Error> {
    let fault = || Error::local("watch for signals");
    let mut terminate = signal(SignalKind::terminate()).map_err(fault())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(fault())?;
    tokio::select! {
        // Both only note that a signal arrived, so nothing is lost.
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

/// Pieces of standard input until its end, with limited read-ahead.
pub fn input() -> (mpsc::Receiver<io::Result<Vec<u8>>>, tokio::task::JoinSet<()>) {
    let (sender, receiver) = mpsc::channel(4);
    let mut reader = tokio::task::JoinSet::new();
    reader.spawn(async move {
        let mut stdin = tokio::io::stdin();
        let mut piece = vec![0; PIECE];
        loop {
            let read = match stdin.read(&mut piece).await {
                Ok(0) => return,
                Ok(length) => Ok(piece[..length].to_vec()),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.send(read).await.is_err() || failed {
                return;
            }
        }
    });
    (receiver, reader)
}
