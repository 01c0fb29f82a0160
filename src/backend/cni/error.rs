//! Failures of plugin executions.

use std::io;
use std::time::Duration;

use super::result::Malformed;
use crate::backend::{Error, ErrorKind};
use crate::telemetry::error_text;

/// Maximum length of a text taken from a plugin.
pub(super) const TEXT_LIMIT: usize = 4 << 10;

/// Error code in the specification: the runtime should try again later.
const TRY_AGAIN: u32 = 11;

/// Why the execution of a plugin failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// `type` could name a file outside the plugin directories.
    #[error("plugin type {0:?} is not a plain file name")]
    BadName(String),
    /// There is no such plugin.
    #[error("plugin {kind:?} is in none of {dirs:?}")]
    Missing { kind: String, dirs: Vec<std::path::PathBuf> },
    /// Somebody else than root could modify the plugin, which runs as root.
    #[error("refusing to execute plugin {path:?}: {problem}")]
    Unsafe { path: std::path::PathBuf, problem: String },
    /// It could not be started or waited for.
    #[error("plugin {kind:?} cannot be executed")]
    Execute {
        kind: String,
        #[source]
        source: io::Error,
    },
    /// It exceeded the time limit and was killed with its process group.
    #[error("plugin {kind:?} was killed after {after:?}{}", tail(.text))]
    TimedOut { kind: String, after: Duration, text: String },
    /// It printed too much and was killed with its process group.
    #[error("plugin {kind:?} was killed: it printed more than {limit} bytes")]
    TooMuchOutput { kind: String, limit: usize },
    /// It reported an error.
    #[error("plugin {kind:?} failed{}{}", code_text(*.code), tail(.text))]
    Failed { kind: String, code: u32, text: String },
    /// It succeeded, but its output is invalid.
    #[error("plugin {kind:?} gave a malformed answer")]
    Malformed {
        kind: String,
        #[source]
        source: Malformed,
    },
    /// It succeeded, but assigned no address to the pod.
    #[error("the network assigned no address to {0}")]
    NoAddress(String),
}

fn tail(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn code_text(code: u32) -> String {
    if code == 0 { String::new() } else { format!(" (code {code})") }
}

impl Failure {
    /// The kind of the backend error.
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TimedOut { .. } => ErrorKind::DeadlineExceeded,
            Self::Failed { code: TRY_AGAIN, .. } => ErrorKind::Unavailable,
            Self::Missing { .. } | Self::BadName(_) | Self::Unsafe { .. } => {
                ErrorKind::FailedPrecondition
            }
            _ => ErrorKind::Other,
        }
    }

    /// Converts to a backend error.
    pub(super) fn told(self, tried: String) -> Error {
        Error::new(self.kind(), tried).because(self)
    }
}

/// The failures of one teardown.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|failure| error_text(failure)).collect::<Vec<_>>().join("; "))]
pub(super) struct Failures(pub Vec<Failure>);

impl Failures {
    /// Converts to a backend error; the first failure determines the kind.
    pub(super) fn told(mut self, tried: String) -> Error {
        if self.0.len() == 1 {
            return self.0.remove(0).told(tried);
        }
        let kind = self.0.first().map_or(ErrorKind::Other, Failure::kind);
        Error::new(kind, tried).because(self)
    }
}

/// Text of a plugin, fit for logs and answers: short, and without control characters.
pub(super) fn presentable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut clean = String::with_capacity(text.len().min(TEXT_LIMIT));
    for c in text.trim().chars() {
        if clean.len() + c.len_utf8() > TEXT_LIMIT - '…'.len_utf8() {
            clean.push('…');
            break;
        }
        clean.push(if c.is_control() { ' ' } else { c });
    }
    clean.truncate(clean.trim_end().len());
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_plugins_is_short_and_has_no_control_characters() {
        assert_eq!(presentable(b" a\nb\x1b[31m\0 "), "a b [31m");
        let long = presentable("é".repeat(10_000).as_bytes());
        assert!(long.len() <= TEXT_LIMIT && long.ends_with('…'));
        assert_eq!(presentable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn several_failures_are_told_in_one_line() {
        let failed = |kind: &str, code| Failure::Failed {
            kind: kind.to_owned(),
            code,
            text: "no".to_owned(),
        };
        let error = Failures(vec![failed("a", 11), failed("b", 0)]).told("CNI DEL".to_owned());
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(
            error_text(&error),
            "CNI DEL: plugin \"a\" failed (code 11): no; plugin \"b\" failed: no"
        );
    }
}
