//! The agent's own log, the formatting of error chains, and the limit of repeated messages.
//!
//! Names, paths and messages in the log come from callers and containers. Each event still stays on
//! one line, because control characters are escaped.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use tokio::time::Instant;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Why the agent's log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter is neither a level nor a list of `target=level`.
    #[error("telemetry.level: {0:?} is neither a level nor a list of target=level")]
    Level(String),
    /// Logging was already set up in this process.
    #[error("set up the agent's log")]
    Again(#[source] Box<dyn Error + Send + Sync>),
}

/// Starts writing the agent's log to standard error. Call once, at start.
pub fn init(level: &str, format: Format) -> Result<(), InitError> {
    let filter = filter(level).ok_or_else(|| InitError::Level(level.to_owned()))?;
    let events = fmt::layer().with_ansi(false).with_writer(|| OneLine(io::stderr()));
    let events = match format {
        Format::Text => events.boxed(),
        Format::Json => events.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(events.with_filter(filter));
    subscriber.try_init().map_err(|error| InitError::Again(error.into()))
}

/// Whether [`init`] accepts this level.
pub fn is_level(level: &str) -> bool {
    filter(level).is_some()
}

/// Checks the level first, since `Targets` would take a misspelt level for the name of a target.
fn filter(level: &str) -> Option<Targets> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = level.split(',').all(|part| match part.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && LEVELS.contains(&level),
        None => LEVELS.contains(&part),
    });
    if known { level.parse().ok() } else { None }
}

/// How often a message that strangers cause is written to the log.
const SELDOM: Duration = Duration::from_secs(1);

/// Lets a message pass once per second, so that strangers cannot fill the log, and counts those in
/// between.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether to write the message now: the number of messages left out since the last one, or
    /// `None` if this one is to be left out.
    pub fn pass(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < SELDOM) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// An error and all its causes as one line: `a: b: c`.
///
/// A cause that the line already ends with is not repeated. Control characters are escaped, so that
/// external text cannot forge a line.
pub fn error_chain(error: &dyn Error) -> String {
    escape(&error_text(error))
}

/// As [`error_chain`], with control characters as they are: for answers, which are no lines.
pub fn error_text(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !text.is_empty() && !line.ends_with(&text) {
            let _ = write!(line, ": {text}");
        }
        next = cause.source();
    }
    line
}

/// Escapes control characters, and characters that reorder or break lines.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes each event as one line, escaped. The formatter makes one write per event.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if line.chars().any(is_unsafe) {
            self.0.write_all(format!("{}\n", escape(line)).as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    fn chain(texts: &[&'static str]) -> String {
        let chained =
            texts.iter().rev().fold(None, |inner, text| Some(Box::new(Layer(text, inner))));
        error_chain(&*chained.expect("not empty"))
    }

    #[test]
    fn prints_every_cause_once() {
        assert_eq!(chain(&["a", "b", "c"]), "a: b: c");
        assert_eq!(chain(&["a", "a", "b"]), "a: b");
        assert_eq!(chain(&["open x: denied", "denied"]), "open x: denied");
        assert_eq!(chain(&["a"]), "a");
    }

    #[test]
    fn text_from_outside_forges_no_line() {
        let line = chain(&["bad name", "x\n2026-01-01 INFO all is well\u{1b}[2K\r\u{202e}\u{85}"]);
        assert_eq!(line, "bad name: x\\n2026-01-01 INFO all is well\\u{1b}[2K\\r\\u{202e}\\u{85}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_passes_once_per_second_and_the_others_are_counted() {
        let mut seldom = Seldom::default();
        assert_eq!(seldom.pass(), Some(0));
        for _ in 0..7 {
            assert_eq!(seldom.pass(), None);
        }
        tokio::time::advance(SELDOM).await;
        assert_eq!(seldom.pass(), Some(7));
        tokio::time::advance(SELDOM * 2).await;
        assert_eq!(seldom.pass(), Some(0));
    }

    #[test]
    fn levels() {
        for good in ["info", "warn,podbay::logs=debug", "off"] {
            assert!(is_level(good), "{good}");
        }
        for bad in ["", "infoo", "INFO!", "podbay=loud", "=info", "info,"] {
            assert!(!is_level(bad), "{bad}");
        }
    }

    #[derive(Clone, Default)]
    struct Captured(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || OneLine(writer.clone()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(name = %"a\nb\x1b[31m", "made\r\nforged");
            tracing::info!("second");
        });
        let text = String::from_utf8(captured.0.lock().expect("lock").clone()).expect("text");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.contains(['\r', '\x1b']), "{text}");
        assert!(text.contains("made\\r\\nforged"), "{text}");
    }
}
