//! Standard output: text, and colours and progress if it is a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::Error;
use super::print::safe;

/// The output of a command.
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

    /// Writes and flushes text to standard output.
    pub fn print(self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::output)
    }

    /// Writes a note to standard error; failures are ignored.
    pub fn note(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}", safe(text));
    }

    /// Optionally disables progress display.
    #[must_use]
    pub fn quiet(self, quiet: bool) -> Self {
        Self { progress: self.progress && !quiet, ..self }
    }

    /// Whether progress can be displayed.
    pub fn shows_progress(self) -> bool {
        self.progress
    }

    /// A group of progress bars, removed when dropped; invisible without a terminal.
    pub fn bars(self) -> Bars {
        let target =
            if self.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Bars(MultiProgress::with_draw_target(target))
    }

    /// A byte progress bar with a text, removed when dropped; invisible without a terminal. A size
    /// of 0 means unknown.
    pub fn bytes(self, text: &str, size: u64) -> Progress {
        let bar = if self.progress { ProgressBar::new(size) } else { ProgressBar::hidden() };
        bar.set_style(byte_style(size));
        bar.set_message(safe(text));
        Progress(bar)
    }

    /// A spinner with a text, removed when dropped; invisible without a terminal.
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

/// A progress display.
#[derive(Debug)]
pub struct Progress(ProgressBar);

/// A progress bar, or only the number of bytes if the size is unknown.
fn byte_style(size: u64) -> ProgressStyle {
    let template = match size {
        0 => "{msg} {decimal_bytes} ({elapsed})",
        _ => "{msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} ({elapsed})",
    };
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Several progress bars, one below the other.
#[derive(Debug)]
pub struct Bars(MultiProgress);

impl Bars {
    /// Adds a bar with a text. Bytes are shown if there are any.
    pub fn add(&self, text: &str) -> Progress {
        let bar = self.0.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{prefix} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(safe(text));
        Progress(bar)
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // If it cannot be cleared it stays on the screen.
        let _ = self.0.clear();
    }
}

impl Progress {
    /// Sets bytes and text.
    pub fn bytes(&self, text: &str, done: u64, total: u64) {
        let template = "{prefix} {msg:11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}";
        if self.0.length() != Some(total)
            && let Ok(style) = ProgressStyle::with_template(template)
        {
            self.0.set_style(style.progress_chars("=> "));
            self.0.set_length(total);
        }
        self.0.set_message(safe(text));
        self.0.set_position(done);
    }

    /// Adds bytes.
    pub fn more(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Sets the text.
    pub fn say(&self, text: &str) {
        self.0.set_message(safe(text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
