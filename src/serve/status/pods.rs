//! Errors of whole pods: codes, and machine-readable details (`google.rpc.Status`).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt as _};

use super::{chain, sandbox_code, store_code, stream_code_of_session};
use crate::pod::{Error, FieldError, ObjectKey, PodKey, Revision};
use crate::stream::SessionError;

/// The domain of the error reasons.
const DOMAIN: &str = "podbay.v1";

/// Maximum size of all faults together: the details are sent in a header, besides the message.
const MAX_FAULTS: usize = 3072;

/// Maximum length of a message with details.
const MAX_MESSAGE: usize = 2048;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let details = details(&error);
        let message = super::shorten_to(chain(&error), MAX_MESSAGE);
        Self::with_error_details(pod_code(&error), message, details)
    }
}

impl From<SessionError> for Status {
    fn from(error: SessionError) -> Self {
        Self::new(stream_code_of_session(&error), chain(&error))
    }
}

/// An invalid field of a request.
pub fn bad_field(field: &'static str, message: impl Into<String>) -> Status {
    Error::Argument { field, message: message.into() }.into()
}

fn pod_code(error: &Error) -> Code {
    match error {
        Error::Manifest { .. } | Error::Invalid { .. } | Error::Argument { .. } => {
            Code::InvalidArgument
        }
        Error::NotFound(_) | Error::NoObject(_) => Code::NotFound,
        Error::Forbidden(_) => Code::PermissionDenied,
        Error::AlreadyExists(_) | Error::ObjectExists(_) => Code::AlreadyExists,
        // NotFound would mean that the pod does not exist.
        Error::Container { .. }
        | Error::Conflict { .. }
        | Error::Static(_)
        | Error::Immutable { .. }
        | Error::State { .. } => Code::FailedPrecondition,
        Error::TooOld { .. } => Code::OutOfRange,
        Error::TooSlow { .. } => Code::ResourceExhausted,
        Error::Store(error) => store_code(error),
        Error::Sandbox(error) => sandbox_code(error),
        Error::Log(_) => Code::Unknown,
    }
}

fn details(error: &Error) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    let reason = match error {
        Error::Manifest { message } => {
            details.set_bad_request(violations([("manifest", message.as_str())]));
            "MANIFEST_UNREADABLE"
        }
        Error::Invalid { kind, name, faults } => {
            let faults =
                faults.iter().map(|FieldError { path, message }| (path.as_str(), message.as_str()));
            details.set_bad_request(violations(faults));
            details.set_resource_info(*kind, name, "", "");
            "OBJECT_INVALID"
        }
        Error::Argument { field, message } => {
            details.set_bad_request(violations([(*field, message.as_str())]));
            "ARGUMENT_INVALID"
        }
        Error::Forbidden(_) => "NAMESPACE_FORBIDDEN",
        Error::NotFound(pod) => about(&mut details, pod, "POD_NOT_FOUND"),
        Error::AlreadyExists(pod) => about(&mut details, pod, "POD_EXISTS"),
        Error::NoObject(key) => of_object(&mut details, key, "OBJECT_NOT_FOUND"),
        Error::ObjectExists(key) => of_object(&mut details, key, "OBJECT_EXISTS"),
        Error::Container { pod, container, message } => {
            let subject = format!("containers/{container}");
            unmet(&mut details, pod, &[&subject], message, "CONTAINER_NOT_READY")
        }
        Error::Conflict { pod, message } => {
            unmet(&mut details, pod, &["preconditions"], message, "PRECONDITION_FAILED")
        }
        Error::Static(pod) => {
            let message = "a static pod is changed through its manifest file only";
            unmet(&mut details, pod, &["source"], message, "POD_IS_STATIC")
        }
        Error::Immutable { pod, paths } => {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let message = "cannot be changed in a running pod";
            unmet(&mut details, pod, &paths, message, "FIELD_IMMUTABLE")
        }
        Error::State { pod, message } => {
            unmet(&mut details, pod, &["status"], message, "POD_STATE")
        }
        Error::TooOld { current, .. } => return at(details, "REVISION_TOO_OLD", current),
        Error::TooSlow { current } => return at(details, "WATCHER_TOO_SLOW", current),
        Error::Store(_) => "STORE_UNAVAILABLE",
        Error::Sandbox(_) => "RUNTIME_FAILED",
        Error::Log(_) => "LOG_UNREADABLE",
    };
    details.set_error_info(reason, DOMAIN, HashMap::new());
    details
}

fn about(details: &mut ErrorDetails, pod: &PodKey, reason: &'static str) -> &'static str {
    details.set_resource_info("Pod", pod.to_string(), "", "");
    reason
}

fn of_object(details: &mut ErrorDetails, key: &ObjectKey, reason: &'static str) -> &'static str {
    details.set_resource_info(key.kind.as_str(), key.name.to_string(), "", "");
    reason
}

fn unmet(
    details: &mut ErrorDetails,
    pod: &PodKey,
    subjects: &[&str],
    message: &str,
    reason: &'static str,
) -> &'static str {
    let subjects = violations(subjects.iter().map(|subject| (*subject, message)));
    let unmet = subjects.into_iter().map(|FieldViolation { field, description, .. }| {
        PreconditionViolation::new(reason, field, description)
    });
    details.set_precondition_failure(unmet.collect::<Vec<_>>());
    about(details, pod, reason)
}

fn at(mut details: ErrorDetails, reason: &'static str, current: &Revision) -> ErrorDetails {
    let metadata = [
        ("epoch".to_owned(), current.epoch.clone()),
        ("revision".to_owned(), current.number.to_string()),
    ];
    details.set_error_info(reason, DOMAIN, HashMap::from(metadata));
    details
}

/// As many faults as fit; the last one says if there are more.
fn violations<'a>(faults: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<FieldViolation> {
    let mut room = MAX_FAULTS;
    let mut told = Vec::new();
    let mut faults = faults.into_iter();
    while let Some((field, message)) = faults.next() {
        let message = super::shorten_to(message.to_owned(), MAX_FAULTS / 4);
        let field = super::shorten_to(field.to_owned(), MAX_FAULTS / 4);
        let Some(rest) = room.checked_sub(field.len() + message.len()) else {
            let more = format!("and {} more", 1 + faults.count());
            told.push(FieldViolation::new("", more));
            break;
        };
        room = rest;
        told.push(FieldViolation::new(field, message));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PodKey {
        PodKey::new("shop", "web")
    }

    fn object() -> ObjectKey {
        ObjectKey { kind: crate::pod::ObjectKind::Secret, name: key() }
    }

    fn fault(path: &str) -> FieldError {
        FieldError { path: path.into(), message: "is wrong".into() }
    }

    #[test]
    fn each_error_has_its_code_and_reason() {
        let current = Revision { epoch: "e".into(), number: 9 };
        let message = || "why".to_owned();
        let cases = [
            (Error::Manifest { message: message() }, Code::InvalidArgument, "MANIFEST_UNREADABLE"),
            (
                Error::Invalid { kind: "Pod", name: "web".into(), faults: vec![fault("spec")] },
                Code::InvalidArgument,
                "OBJECT_INVALID",
            ),
            (
                Error::Argument { field: "grace", message: message() },
                Code::InvalidArgument,
                "ARGUMENT_INVALID",
            ),
            (Error::NotFound(key()), Code::NotFound, "POD_NOT_FOUND"),
            (
                Error::Container { pod: key(), container: "c".into(), message: message() },
                Code::FailedPrecondition,
                "CONTAINER_NOT_READY",
            ),
            (Error::AlreadyExists(key()), Code::AlreadyExists, "POD_EXISTS"),
            (Error::NoObject(object()), Code::NotFound, "OBJECT_NOT_FOUND"),
            (Error::ObjectExists(object()), Code::AlreadyExists, "OBJECT_EXISTS"),
            (
                Error::Conflict { pod: key(), message: message() },
                Code::FailedPrecondition,
                "PRECONDITION_FAILED",
            ),
            (Error::Static(key()), Code::FailedPrecondition, "POD_IS_STATIC"),
            (
                Error::Immutable { pod: key(), paths: vec!["spec.nodeName".into()] },
                Code::FailedPrecondition,
                "FIELD_IMMUTABLE",
            ),
            (
                Error::State { pod: key(), message: message() },
                Code::FailedPrecondition,
                "POD_STATE",
            ),
            (
                Error::TooOld { asked: 1, current: current.clone() },
                Code::OutOfRange,
                "REVISION_TOO_OLD",
            ),
            (Error::TooSlow { current }, Code::ResourceExhausted, "WATCHER_TOO_SLOW"),
            (Error::Store(crate::store::Error::Busy), Code::Unavailable, "STORE_UNAVAILABLE"),
            (
                Error::Sandbox(crate::sandbox::Error::NotFound("x".into())),
                Code::NotFound,
                "RUNTIME_FAILED",
            ),
            (Error::Log(std::io::Error::other("x")), Code::Unknown, "LOG_UNREADABLE"),
        ];
        for (error, code, reason) in cases {
            let text = chain(&error);
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, text.as_str()));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, DOMAIN));
        }
    }

    #[test]
    fn fields_are_named_one_by_one() {
        let faults = vec![fault("spec.containers[0].name"), fault("spec.nodeName")];
        let error = Error::Invalid { kind: "Pod", name: "web".into(), faults };
        let status = Status::from(error);
        let told = status.get_details_bad_request().unwrap().field_violations;
        let told: Vec<_> = told.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(told, ["spec.containers[0].name", "spec.nodeName"]);
        assert_eq!(status.get_details_resource_info().unwrap().resource_type, "Pod");

        let error = Error::Immutable { pod: key(), paths: vec!["a".into(), "b".into()] };
        let unmet = Status::from(error).get_details_precondition_failure().unwrap().violations;
        let unmet: Vec<_> = unmet.iter().map(|one| (&*one.r#type, &*one.subject)).collect();
        assert_eq!(unmet, [("FIELD_IMMUTABLE", "a"), ("FIELD_IMMUTABLE", "b")]);
    }

    #[test]
    fn a_watch_that_ends_says_what_is_current() {
        let current = Revision { epoch: "e".into(), number: 9 };
        let status = Status::from(Error::TooOld { asked: 3, current });
        let metadata = status.get_details_error_info().unwrap().metadata;
        assert_eq!((&*metadata["epoch"], &*metadata["revision"]), ("e", "9"));
    }

    #[test]
    fn many_faults_fit_into_a_header() {
        let faults: Vec<_> = (0..5000).map(|at| fault(&format!("spec.containers[{at}]"))).collect();
        let status = Status::from(Error::Invalid { kind: "Pod", name: "web".into(), faults });
        assert!(status.message().len() <= MAX_MESSAGE);
        assert!(status.details().len() < 12_000, "{}", status.details().len());
        let told = status.get_details_bad_request().unwrap().field_violations;
        let last = told.last().unwrap();
        assert_eq!(last.description, format!("and {} more", 5000 - (told.len() - 1)));
    }
}
