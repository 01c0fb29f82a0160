//! Errors of the command line, their messages and exit codes.

use std::fmt::Write as _;
use std::io;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::print::safe;
use crate::telemetry::error_chain;

/// Meaning of the exit codes, for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused by the agent, or failed
  2    wrong arguments, manifest file, context or configuration
  3    there is no such pod, node or image
  4    the agent cannot be reached, or the connection broke
  5    a wait took longer than --timeout
  130  interrupted
  exec exits with the exit code of its command.

Environment:
  PODBAY_CONTEXT        name of the context, as --context
  PODBAY_ADDRESS        address of the agent, as --address
  PODBAY_CLIENT_CONFIG  contexts file, as --client-config
  NO_COLOR              no colours, when set to anything";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument, or a file named in one, is invalid.
    #[error("{0}")]
    Misuse(String),
    /// I/O on a local file or stream failed.
    #[error("{what}")]
    Local {
        /// The attempted operation.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Connecting to the agent failed.
    #[error("connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The agent returned an error.
    #[error("{}", .0.message())]
    Agent(Box<Status>),
    /// The object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// A wait exceeded its time limit.
    #[error("{0}")]
    Timeout(String),
    /// The user interrupted the command.
    #[error("interrupted")]
    Interrupted,
    /// The reader of the output has closed it, which is not an error: `podbay get pods | head`.
    #[error("the reader of the output is gone")]
    Gone,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Agent(Box::new(status))
    }
}

impl Error {
    /// An error of a local file or stream.
    pub fn local(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Local { what, source }
    }

    /// An error of writing to standard output.
    pub fn output(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Local { what: "write to standard output".to_owned(), source },
        }
    }

    /// The exit code; see [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Gone => 0,
            Self::Misuse(_) => 2,
            Self::NotFound(_) => 3,
            Self::Connect { .. } => 4,
            Self::Timeout(_) => 5,
            Self::Interrupted => 130,
            Self::Agent(status) if broken(status).is_some() => 4,
            Self::Agent(status) => match status.code() {
                Code::NotFound => 3,
                Code::Unavailable => 4,
                _ => 1,
            },
            Self::Local { .. } | Self::Failed(_) => 1,
        }
    }

    /// The message: one line, plus one for each invalid field that it does not contain.
    pub fn report(&self) -> String {
        if let Self::Agent(status) = self
            && let Some(why) = broken(status)
        {
            return format!("error: lost the connection to the agent: {}\n", error_chain(why));
        }
        let mut text = match self {
            Self::Gone => return String::new(),
            Self::Agent(status) if status.message().is_empty() => {
                format!("error: the agent returned {:?}\n", status.code())
            }
            Self::Agent(status) => format!("error: {}\n", safe(status.message()).trim_end()),
            other => format!("error: {}\n", error_chain(other)),
        };
        if let Self::Agent(status) = self {
            let line = text.clone();
            for fault in faults(status) {
                if !line.contains(&fault) {
                    let _ = writeln!(text, "  {}", safe(&fault));
                }
            }
        }
        text
    }
}

/// The cause of a lost connection: a status sent by an agent has no source.
fn broken(status: &Status) -> Option<&(dyn std::error::Error + 'static)> {
    std::error::Error::source(status)
}

/// The fields and preconditions in a status.
fn faults(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let fields = details.bad_request().map_or(&[][..], |bad| &bad.field_violations);
    let conditions = details.precondition_failure().map_or(&[][..], |failed| &failed.violations);
    let fields = fields.iter().map(|fault| format!("{}: {}", fault.field, fault.description));
    // The message names what they are about, in words.
    let conditions =
        conditions.iter().filter(|fault| !status.message().contains(&fault.description));
    let conditions = conditions.map(|fault| format!("{}: {}", fault.subject, fault.description));
    fields.chain(conditions).collect()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn fields_are_listed_once() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.a", "is wrong");
        details.add_bad_request_violation("spec.b", "is missing");
        details.add_precondition_failure_violation("UID", "default/web", "is another");
        details.add_precondition_failure_violation("A", "spec.a", "is wrong");
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "Pod \"web\" is invalid: spec.a: is wrong",
            details,
        );
        assert_eq!(
            Error::from(status).report(),
            "error: Pod \"web\" is invalid: spec.a: is wrong\n  spec.b: is missing\n  default/web: is another\n"
        );
    }

    #[test]
    fn exit_codes() {
        let rows = [
            (Error::Gone, 0),
            (Error::from(Status::invalid_argument("x")), 1),
            (Error::Misuse(String::new()), 2),
            (Error::from(Status::not_found("x")), 3),
            (Error::from(Status::unavailable("x")), 4),
            (Error::Timeout(String::new()), 5),
            (Error::Interrupted, 130),
        ];
        for (error, code) in rows {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
        assert_eq!(Error::Gone.report(), "");
        let quiet = Error::from(Status::new(Code::Aborted, ""));
        assert_eq!(quiet.report(), "error: the agent returned Aborted\n");
        let escape = Error::Failed("a\u{1b}[2J".to_owned());
        assert_eq!(escape.report(), "error: a\\u{1b}[2J\n");
    }
}
