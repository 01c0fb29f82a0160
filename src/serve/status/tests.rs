//! The code and message of each kind of error.

use std::time::Duration;

use super::*;
use crate::backend::Error as BackendError;
use crate::ids::{ContainerId, PodId};

fn backend(kind: ErrorKind) -> BackendError {
    BackendError::new(kind, "create task abc").because(std::io::Error::other("shim died"))
}

#[test]
fn sandbox_errors_have_their_codes() {
    use sandbox::Error;
    let invalid = || Error::Invalid { field: "f".into(), problem: "p".into() };
    let cases = [
        (Error::NotFound("x".into()), Code::NotFound),
        (Error::AmbiguousId("x".into()), Code::InvalidArgument),
        (Error::UnknownHandler("x".into()), Code::InvalidArgument),
        (Error::NameInUse { name: "n".into(), id: PodId::random() }, Code::FailedPrecondition),
        (invalid(), Code::InvalidArgument),
        (Error::HostNetworkForbidden(PodId::random()), Code::PermissionDenied),
        (
            Error::Container(container::Error::ExecTimeout(Duration::from_secs(1))),
            Code::DeadlineExceeded,
        ),
    ];
    for (error, code) in cases {
        let text = error.to_string();
        let status = Status::from(error);
        assert_eq!((status.code(), status.message()), (code, text.as_str()));
    }
}

#[test]
fn stream_errors_have_their_codes() {
    let full = Status::from(stream::Error::TooManyInFlight(1000));
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("maximum number of in-flight requests exceeded"));
    let address = ([127, 0, 0, 1], 80).into();
    let source = std::io::Error::other("in use");
    let taken = Status::from(stream::Error::Listen { address, source });
    assert_eq!(taken.code(), Code::Unavailable);
}

#[test]
fn container_errors_have_their_codes() {
    use container::Error;
    let cases = [
        (Error::NotFound("x".into()), Code::NotFound),
        (Error::AmbiguousId("x".into()), Code::InvalidArgument),
        (
            Error::WrongState {
                operation: "start",
                id: ContainerId::random(),
                state: container::StateName::Running,
            },
            Code::FailedPrecondition,
        ),
        (Error::Invalid { field: "f".into(), problem: "p".into() }, Code::InvalidArgument),
        (
            Error::NameInUse { name: "n".into(), id: ContainerId::random() },
            Code::FailedPrecondition,
        ),
        (Error::ImageNotFound("x".into()), Code::NotFound),
        (Error::ExecTimeout(Duration::from_secs(1)), Code::DeadlineExceeded),
        (Error::PodNotReady(PodId::random()), Code::FailedPrecondition),
        (Error::ShimHangs(PodId::random()), Code::Unavailable),
    ];
    for (error, code) in cases {
        assert_eq!(container_code(&error), code, "{error}");
    }
}

#[test]
fn a_failed_step_never_claims_that_the_callers_thing_is_gone() {
    let cases = [
        (ErrorKind::NotFound, Code::Unknown),
        (ErrorKind::AlreadyExists, Code::Unknown),
        (ErrorKind::InvalidArgument, Code::InvalidArgument),
        (ErrorKind::FailedPrecondition, Code::FailedPrecondition),
        (ErrorKind::Unavailable, Code::Unavailable),
        (ErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
        (ErrorKind::ResourceExhausted, Code::ResourceExhausted),
        (ErrorKind::Unsupported, Code::FailedPrecondition),
        (ErrorKind::Other, Code::Unknown),
    ];
    for (kind, code) in cases {
        let step = |source| container::Error::Backend { step: "start container", source };
        let status = Status::from(sandbox::Error::Container(step(backend(kind))));
        assert_eq!(status.code(), code, "{kind:?}");
        assert_eq!(status.message(), "start container: create task abc: shim died");
    }
}

#[derive(Debug, thiserror::Error)]
#[error("outer: inner")]
struct Repeats(#[source] std::io::Error);

#[test]
fn a_cause_is_told_once() {
    assert_eq!(chain(&Repeats(std::io::Error::other("inner"))), "outer: inner");
    let wrapped = BackendError::new(ErrorKind::Other, "read")
        .because(Repeats(std::io::Error::other("inner")));
    assert_eq!(chain(&wrapped), "read: outer: inner");
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let error = container::Error::NotFound("ü".repeat(5000));
    let message = chain(&error);
    assert!(message.len() <= MAX_MESSAGE && message.len() > MAX_MESSAGE - 16);
    assert!(message.ends_with("(cut)"));
}

#[test]
fn a_pull_error_that_the_kubelet_looks_for_is_unknown() {
    for message in ["RegistryUnavailable: GET x: refused", "SignatureValidationFailed"] {
        assert_eq!(pull_code(message), Some(Code::Unknown));
    }
    assert_eq!(pull_code("pull x: RegistryUnavailable"), None);
    let refused = image::Error::Backend {
        step: "look up",
        source: std::sync::Arc::new(backend(ErrorKind::Unavailable)),
    };
    assert_eq!(Status::from(refused).code(), Code::Unavailable);
}
