//! Standard output: text, colours and progress, which only a terminal gets.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::error::Error;
use super::print::safe;

/// Where a command shows what it has found.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Whether tables are coloured.
    pub colours: bool,
    progress: bool,
}

impl Screen {
    /// The screen of this process.
    pub fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: std::io::stdout().is_terminal() && !plain,
            progress: std::io::stderr().is_terminal(),
        }
    }

    /// Writes text to standard output, at once.
    pub fn print(self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::output)
    }

    /// Tells something beside the output; nobody minds when it cannot be told.
    pub fn note(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}", safe(text));
    }

    /// A spinner with a text beside it, gone when it is dropped; nothing without a terminal.
    pub fn spinner(self, text: &str) -> Progress {
        let bar = if self.progress { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(safe(text));
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// Something that goes on.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// What it does now.
    pub fn say(&self, text: &str) {
        self.0.set_message(safe(text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
