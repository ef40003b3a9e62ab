//! What the error stream says in the end.

use serde::Serialize;

use super::version::json_status;

/// How a session ended, for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The exit code.
    Exited(i32),
    /// It did not work; a sentence.
    Failed(String),
}

/// metav1.Status, as far as client-go's decoder looks at it.
#[derive(Serialize)]
struct Status {
    metadata: Empty,
    #[serde(rename = "status")]
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Ending {
    /// The error stream's bytes. Before v4, nothing at all is success.
    pub fn body(&self, version: u8) -> Vec<u8> {
        if json_status(version) {
            // Strings and numbers: this does not fail.
            serde_json::to_vec(&self.status()).unwrap_or_default()
        } else {
            self.message().unwrap_or_default().into_bytes()
        }
    }

    fn message(&self) -> Option<String> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => {
                Some(format!("command terminated with non-zero exit code: exit status {}", exit_code(*code)))
            }
            Self::Failed(text) => Some(format!("Internal error occurred: {text}")),
        }
    }

    fn status(&self) -> Status {
        let mut status = Status {
            metadata: Empty {},
            result: "Failure",
            message: self.message(),
            reason: None,
            details: None,
            code: None,
        };
        match self {
            Self::Exited(0) => status.result = "Success",
            Self::Exited(code) => {
                status.reason = Some("NonZeroExitCode");
                let message = exit_code(*code).to_string();
                status.details = Some(Details { causes: [Cause { reason: "ExitCode", message }] });
            }
            // client-go prints the message and exits with 1.
            Self::Failed(_) => {
                status.reason = Some("InternalError");
                status.code = Some(500);
            }
        }
        status
    }
}

/// client-go reads the code as 8 bits without a sign, and fails on any other.
fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn text(ending: &Ending, version: u8) -> String {
        String::from_utf8(ending.body(version)).unwrap()
    }

    #[test]
    fn status_in_each_version() {
        let success = Ending::Exited(0);
        assert_eq!(text(&success, 4), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(text(&success, 3), "");
        let three = Ending::Exited(3);
        assert_eq!(
            text(&three, 5),
            concat!(
                r#"{"metadata":{},"status":"Failure","message":"#,
                r#""command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","#,
                r#""details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
            )
        );
        assert_eq!(text(&three, 1), "command terminated with non-zero exit code: exit status 3");
        let failed = Ending::Failed("no \"x\"".into());
        assert_eq!(
            text(&failed, 4),
            concat!(
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no \"x\"","#,
                r#""reason":"InternalError","code":500}"#
            )
        );
        assert_eq!(text(&failed, 2), "Internal error occurred: no \"x\"");
    }

    #[test]
    fn codes_fit_what_clients_read() {
        assert_eq!([exit_code(137), exit_code(-1), exit_code(256)], [137, 255, 255]);
    }
}
