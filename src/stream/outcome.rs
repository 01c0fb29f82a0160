//! Encodes the result of a session for the client.

use serde::Serialize;

use super::SessionError;
use crate::telemetry::error_chain;

/// The parts of `metav1.Status` that remote commands use.
#[derive(Serialize)]
struct Status<'a> {
    metadata: Empty,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    message: String,
}

/// The result of a session in the protocols from v4 on: a `metav1.Status` in JSON.
pub fn status_json(outcome: &Result<i32, SessionError>) -> Vec<u8> {
    let failure = |reason, cause, code| Status {
        metadata: Empty {},
        status: "Failure",
        message: status_text(outcome),
        reason: Some(reason),
        details: Some(Details { causes: [cause] }),
        code,
    };
    let status = match outcome {
        Ok(0) => Status {
            metadata: Empty {},
            status: "Success",
            message: None,
            reason: None,
            details: None,
            code: None,
        },
        Ok(code) => {
            let cause = Cause { reason: Some("ExitCode"), message: code.to_string() };
            failure("NonZeroExitCode", cause, None)
        }
        Err(error) => {
            let cause = Cause { reason: None, message: error_chain(error) };
            failure("InternalError", cause, Some(500))
        }
    };
    // Only text and numbers, so this cannot fail.
    serde_json::to_vec(&status).unwrap_or_default()
}

/// The result of a session in the protocols before v4: nothing on success.
pub fn status_text(outcome: &Result<i32, SessionError>) -> Option<String> {
    match outcome {
        Ok(0) => None,
        Ok(code) => Some(format!("command terminated with non-zero exit code: exit code {code}")),
        Err(error) => Some(format!("Internal error occurred: {}", error_chain(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox;

    fn json(outcome: Result<i32, SessionError>) -> String {
        String::from_utf8(status_json(&outcome)).expect("text")
    }

    #[test]
    fn a_status_is_what_client_go_reads() {
        assert_eq!(json(Ok(0)), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            json(Ok(3)),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        let missing = SessionError::Exec(sandbox::Error::NotFound("x\"y".into()));
        let text = json(Err(missing));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["reason"], "InternalError");
        assert_eq!(value["code"], 500);
        let message = value["message"].as_str().expect("a message");
        assert!(
            message.starts_with("Internal error occurred: error executing command in container: ")
        );
        assert!(message.contains("x\\\"y"), "{message}");
    }

    #[test]
    fn old_protocols_hear_of_failures_only() {
        assert_eq!(status_text(&Ok(0)), None);
        assert!(status_text(&Ok(7)).expect("a text").contains('7'));
        let text = status_text(&Err(SessionError::Stopping)).expect("a text");
        assert_eq!(text, "Internal error occurred: the agent is stopping");
    }
}
