//! The mapping from errors of the rooms to gRPC statuses.
//!
//! Every match is exhaustive, so a new kind of error does not compile until its code is chosen
//! here. The message contains the whole chain of causes.

mod pods;

use std::error::Error as StdError;

use tonic::{Code, Status};

pub(super) use pods::bad_field;

use crate::backend::ErrorKind;
use crate::telemetry::error_text;
use crate::{cdi, container, image, oci, sandbox, store, stream};

/// Maximum length of a message, which is sent in a header.
const MAX_MESSAGE: usize = 4096;

/// Message prefixes that a kubelet looks for in the error of a pull, if the code is Unknown.
const PULL_PREFIXES: [&str; 2] = ["RegistryUnavailable", "SignatureValidationFailed"];

/// The answer before recovery has ended, with a text that callers recognise.
pub fn not_ready() -> Status {
    Status::unavailable("server is not initialized yet")
}

/// The answer to a call that this version does not implement. Callers take this code as a reason to
/// fall back.
pub fn unimplemented(method: &str) -> Status {
    Status::unimplemented(format!("{method} is not implemented by podbay yet"))
}

impl From<sandbox::Error> for Status {
    fn from(error: sandbox::Error) -> Self {
        Self::new(sandbox_code(&error), chain(&error))
    }
}

impl From<image::Error> for Status {
    fn from(error: image::Error) -> Self {
        let message = chain(&error);
        Self::new(pull_code(&message).unwrap_or_else(|| image_code(&error)), message)
    }
}

impl From<crate::backend::Error> for Status {
    fn from(error: crate::backend::Error) -> Self {
        Self::new(backend_code(error.kind), chain(&error))
    }
}

impl From<stream::Error> for Status {
    fn from(error: stream::Error) -> Self {
        Self::new(stream_code(&error), chain(&error))
    }
}

fn stream_code(error: &stream::Error) -> Code {
    use stream::Error;
    match error {
        Error::Listen { .. } => Code::Unavailable,
        Error::TooManyInFlight(_) => Code::ResourceExhausted,
    }
}

fn stream_code_of_session(error: &stream::SessionError) -> Code {
    use stream::SessionError;
    match error {
        SessionError::Exec(error) | SessionError::Attach(error) => sandbox_code(error),
        SessionError::NotStarted(_) => Code::InvalidArgument,
        SessionError::Idle(_) => Code::DeadlineExceeded,
        SessionError::Stopping => Code::Unavailable,
    }
}

fn sandbox_code(error: &sandbox::Error) -> Code {
    use sandbox::Error;
    match error {
        Error::NotFound(_) => Code::NotFound,
        Error::AmbiguousId(_) | Error::UnknownHandler(_) | Error::Invalid { .. } => {
            Code::InvalidArgument
        }
        Error::NameInUse { .. } | Error::HostPortInUse { .. } => Code::FailedPrecondition,
        Error::HostNetworkForbidden(_) => Code::PermissionDenied,
        Error::JoinedFailed { source, .. } | Error::Shared(source) => sandbox_code(source),
        Error::Teardown(errors) => common_code(&errors.0),
        Error::WouldNotDie(_) => Code::DeadlineExceeded,
        Error::FeaturesUnknown(_) => Code::Unavailable,
        Error::PauseImageNotFound(_) | Error::Unsupported(_) | Error::ShimInUse { .. } => {
            Code::FailedPrecondition
        }
        Error::ImageVolume { source, .. } => sandbox_code(source),
        Error::VolumeImageNotFound(_) => Code::NotFound,
        Error::Spec(error) => spec_code(error),
        Error::Image(error) => image_code(error),
        Error::Store(error) => store_code(error),
        Error::Backend { source, .. } => backend_code(source.kind),
        Error::Container(error) => container_code(error),
    }
}

/// The common code of several errors, if they all have the same.
fn common_code(errors: &[sandbox::Error]) -> Code {
    let mut codes = errors.iter().map(sandbox_code);
    let first = codes.next().unwrap_or(Code::Unknown);
    if codes.all(|code| code == first) { first } else { Code::Unknown }
}

fn spec_code(error: &oci::Error) -> Code {
    use oci::Error;
    match error {
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::Unsupported { .. } | Error::RecursiveReadOnly { .. } => Code::FailedPrecondition,
        Error::Image { .. } | Error::UnknownUser(_) | Error::UnknownGroup(_) => {
            Code::InvalidArgument
        }
        Error::StoredSpec(_) => Code::Internal,
    }
}

fn store_code(error: &store::Error) -> Code {
    use store::Error;
    match error {
        Error::Full { .. } => Code::ResourceExhausted,
        Error::Busy | Error::Closed | Error::Io { .. } => Code::Unavailable,
        Error::Locked { .. }
        | Error::NewerSchema { .. }
        | Error::NewerFormat { .. }
        | Error::Corrupt { .. }
        | Error::Row { .. } => Code::Internal,
    }
}

fn container_code(error: &container::Error) -> Code {
    use container::Error;
    match error {
        Error::NotFound(_) | Error::ImageNotFound(_) => Code::NotFound,
        Error::AmbiguousId(_) | Error::Invalid { .. } => Code::InvalidArgument,
        Error::WrongState { .. }
        | Error::NameInUse { .. }
        | Error::PodNotReady(_)
        | Error::Unsupported(_) => Code::FailedPrecondition,
        Error::ExecTimeout(_) | Error::WouldNotDie(..) | Error::CheckpointTimeout(_) => {
            Code::DeadlineExceeded
        }
        Error::ClientGone => Code::Cancelled,
        Error::TooSlow(_) | Error::OutputLost(_) => Code::ResourceExhausted,
        Error::ShuttingDown | Error::ShimHangs(_) => Code::Unavailable,
        Error::JoinedFailed { source, .. } | Error::Shared(source) => container_code(source),
        Error::NoCriu(_) | Error::Io { .. } => Code::Unknown,
        Error::Panicked => Code::Internal,
        Error::Spec(error) => spec_code(error),
        Error::Cdi(error) => cdi_code(error),
        Error::Image(error) => image_code(error),
        Error::Store(error) => store_code(error),
        Error::Backend { source, .. } => backend_code(source.kind),
    }
}

fn cdi_code(error: &cdi::Error) -> Code {
    use cdi::Error;
    match error {
        Error::BadName { .. } => Code::InvalidArgument,
        Error::Unresolvable { .. } | Error::Off(_) | Error::Node { .. } | Error::Unsupported(_) => {
            Code::FailedPrecondition
        }
    }
}

fn image_code(error: &image::Error) -> Code {
    use image::Error;
    match error {
        Error::InvalidReference { .. }
        | Error::UnknownHandler(_)
        | Error::AmbiguousId(_)
        | Error::InvalidCredentials { .. }
        | Error::BadArchive(_)
        | Error::NamesForMany(_) => Code::InvalidArgument,
        Error::NotInRegistry { .. } | Error::NotFound(_) => Code::NotFound,
        Error::Unauthorized { .. }
        | Error::RegistryUnavailable { .. }
        | Error::RegistryRefused { .. }
        | Error::BadContent { .. } => Code::Unknown,
        Error::NoPlatform { .. }
        | Error::InUse { .. }
        | Error::Incomplete { .. }
        | Error::HostConfig { .. } => Code::FailedPrecondition,
        Error::NoProgress { .. } | Error::Stalled { .. } => Code::DeadlineExceeded,
        Error::NoRoom { .. } => Code::ResourceExhausted,
        Error::Cancelled { .. } | Error::BrokenOff { .. } => Code::Cancelled,
        Error::Abandoned => Code::Unavailable,
        Error::Backend { source, .. } => backend_code(source.kind),
    }
}

/// The code required with a text that kubelets recognise.
fn pull_code(message: &str) -> Option<Code> {
    PULL_PREFIXES.iter().any(|prefix| message.starts_with(prefix)).then_some(Code::Unknown)
}

/// The code of a failed backend step. NotFound and AlreadyExists are not passed on, because they
/// concern podbay's own objects, not the one that the caller named (a kubelet takes NotFound for
/// "gone"). Nor is Unimplemented, since it is containerd that lacks the call.
fn backend_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::FailedPrecondition | ErrorKind::Unsupported => Code::FailedPrecondition,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Other => Code::Unknown,
    }
}

/// An error with its causes, `a: b: c`, without repetitions and of limited length.
pub(crate) fn chain(error: &dyn StdError) -> String {
    shorten_to(error_text(error), MAX_MESSAGE)
}

fn shorten_to(mut message: String, most: usize) -> String {
    const CUT: &str = " … (cut)";
    if message.len() > most {
        let mut end = most - CUT.len();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(CUT);
    }
    message
}

#[cfg(test)]
mod tests;
