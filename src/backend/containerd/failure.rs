//! Converts a gRPC status to a backend error: the only place that checks status codes.

use std::time::Duration;

use tonic::{Code, Status};

use crate::backend::{Error, ErrorKind};

/// Why a call failed; the `source` of the backend error.
#[derive(Debug, thiserror::Error)]
enum Cause {
    /// The daemon returned an error.
    #[error("containerd: {0}")]
    Refused(String),
    /// There is no connection, or it was lost.
    #[error("no connection to containerd: {0}")]
    Away(String),
    /// The daemon did not answer in time.
    #[error("no answer from containerd within {0:?}")]
    Late(Duration),
}

/// The daemon's text when a shim dies during a call, or has died shortly before it.
const SHIM_DIED: &str = "ttrpc: closed";

/// Error texts which, unlike their codes, say that something went away: a shim, or the connection.
const AWAY: [&str; 4] =
    [SHIM_DIED, "transport is closing", "Service was not ready", "missing grpc-status trailer"];

/// The texts of ENOSPC and EDQUOT, which have no gRPC code of their own.
const FULL: [&str; 2] = ["no space left on device", "disk quota exceeded"];

/// States in the error texts of shims: "cannot delete a running process".
const STATES: [&str; 5] =
    [" a running ", " a stopped ", " a deleted ", " a paused ", " a created "];

/// The error for a gRPC status.
pub(super) fn of(tried: String, status: Status) -> Error {
    let kind = kind(&status);
    // A received status has no source; one created locally for a lost connection has.
    let broken = std::error::Error::source(&status).is_some();
    let message = if broken { deepest(&status) } else { status.message().trim_end().to_owned() };
    let cause = if broken { Cause::Away(message) } else { Cause::Refused(message) };
    Error::new(kind, tried).because(cause)
}

/// The error for an exceeded time limit.
pub(super) fn late(tried: String, limit: Duration) -> Error {
    Error::new(ErrorKind::DeadlineExceeded, tried).because(Cause::Late(limit))
}

/// The error for an answer that violates the daemon's contract.
pub(super) fn senseless(tried: String, what: &str) -> Error {
    Error::new(ErrorKind::Other, tried).because(Cause::Refused(what.to_owned()))
}

/// Whether a call failed because the shim of its task has died.
pub(super) fn is_of_dead_shim(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(Cause::Refused(text)) if text.contains(SHIM_DIED))
}

fn kind(status: &Status) -> ErrorKind {
    if std::error::Error::source(status).is_some() {
        return ErrorKind::Unavailable;
    }
    match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        // A daemon that shuts down cancels calls; our own cancellations never get here.
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::Unknown | Code::Internal => by_text(status.message()),
        Code::Ok
        | Code::PermissionDenied
        | Code::Aborted
        | Code::OutOfRange
        | Code::DataLoss
        | Code::Unauthenticated => ErrorKind::Other,
    }
}

/// containerd returns Go errors without a class as Unknown, with only their text.
fn by_text(message: &str) -> ErrorKind {
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if says(&AWAY) {
        ErrorKind::Unavailable
    } else if says(&FULL) {
        ErrorKind::ResourceExhausted
    } else if message.contains("cannot ") && says(&STATES) {
        ErrorKind::FailedPrecondition
    } else {
        ErrorKind::Other
    }
}

/// tonic repeats its text in each layer ("transport error"); the last layer has the cause.
fn deepest(status: &Status) -> String {
    let mut last: &dyn std::error::Error = status;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_kinds() {
        for (code, expected) in [
            (Code::NotFound, ErrorKind::NotFound),
            (Code::AlreadyExists, ErrorKind::AlreadyExists),
            (Code::InvalidArgument, ErrorKind::InvalidArgument),
            (Code::FailedPrecondition, ErrorKind::FailedPrecondition),
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::Cancelled, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::DeadlineExceeded),
            (Code::ResourceExhausted, ErrorKind::ResourceExhausted),
            (Code::Unimplemented, ErrorKind::Unsupported),
            (Code::Unknown, ErrorKind::Other),
            (Code::OutOfRange, ErrorKind::Other),
        ] {
            assert_eq!(of("try".into(), Status::new(code, "why")).kind, expected, "{code:?}");
        }
    }

    #[test]
    fn what_has_no_code_is_known_by_its_text() {
        let kind_of = |text: &str| of("try".into(), Status::unknown(text)).kind;
        assert_eq!(kind_of("ttrpc: closed: unknown"), ErrorKind::Unavailable);
        assert_eq!(
            kind_of("failed to delete task: cannot delete a running process: unknown"),
            ErrorKind::FailedPrecondition
        );
        assert_eq!(
            kind_of("write /x/ingest/data: no space left on device: unknown"),
            ErrorKind::ResourceExhausted
        );
    }

    #[test]
    fn the_death_of_a_shim_is_told_from_that_of_the_daemon() {
        assert!(is_of_dead_shim(&of("kill 1".into(), Status::unknown("ttrpc: closed: unknown"))));
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for status in
            [Status::unavailable("server is shutting down"), Status::from_error(reset.into())]
        {
            assert!(!is_of_dead_shim(&of("kill 1".into(), status)));
        }
    }

    #[test]
    fn a_broken_connection_is_unavailable_whatever_the_code() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let status = Status::from_error(Box::new(reset));
        assert_eq!(status.code(), Code::Unknown);
        let error = of("create task 1".into(), status);
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "create task 1");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "no connection to containerd: connection reset");
    }

    #[test]
    fn the_message_of_the_daemon_is_the_source() {
        let error = of("start 1".into(), Status::unknown("exec: \"x\": not there"));
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "containerd: exec: \"x\": not there");
    }
}
