//! How `muster` and `muster-agent` tell a program why a command failed: one shape for both.
//!
//! With `--json` a command that fails prints one [`Failure`] on one line of standard error: a problem document
//! (RFC 9457) with the process's exit code in it. What the server refused is passed on as the server said it; what
//! a program found out by itself has a code of its own, no `status`, since no server answered, and the same members.

use crate::problem::{Exit, Problem};
use serde::{Deserialize, Serialize};

/// Why a command failed, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `urn:muster:problem:<code>`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// What happened, the same for every occurrence that a server tells of.
    pub title: String,
    /// The HTTP status, where a server answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What is particular to this occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// One stable word.
    pub code: String,
    /// What to do next.
    pub remedy: String,
    /// Under which id the server wrote the occurrence down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The field that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How long to wait before another attempt, in seconds, where the server said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// The exit code of the process that prints this.
    pub exit: u8,
}

impl Failure {
    /// What a program found out by itself: a code, one sentence, what to do next, and how it ends.
    pub fn own(code: &str, title: impl Into<String>, remedy: impl Into<String>, exit: Exit) -> Self {
        Self {
            type_uri: format!("urn:muster:problem:{code}"),
            title: title.into(),
            status: None,
            detail: None,
            code: code.to_owned(),
            remedy: remedy.into(),
            request_id: None,
            field: None,
            rule: None,
            retry_after_s: None,
            exit: exit as u8,
        }
    }

    /// The same with the causes of this occurrence, if there are any.
    #[must_use]
    pub fn with_detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }

    /// The same with how long the server asked to wait, if it did.
    #[must_use]
    pub fn with_retry_after_s(mut self, retry_after_s: Option<u64>) -> Self {
        self.retry_after_s = retry_after_s;
        self
    }
}

impl From<&Problem> for Failure {
    fn from(problem: &Problem) -> Self {
        Self {
            type_uri: problem.type_uri.clone(),
            title: problem.title.clone(),
            status: Some(problem.status),
            detail: problem.detail.clone(),
            code: problem.code.as_str().to_owned(),
            remedy: problem.remedy.clone(),
            request_id: problem.request_id.clone(),
            field: problem.field.clone(),
            rule: problem.rule.clone(),
            retry_after_s: None,
            exit: problem.code.exit_code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn what_the_server_said_is_passed_on_with_the_exit_code_added() {
        for code in Code::ALL {
            let problem =
                Problem::new(*code).with_detail("serial S-1").with_field("/serial").with_request_id("r");
            let mut told = serde_json::to_value(Failure::from(&problem)).unwrap();
            let exit = told.as_object_mut().unwrap().remove("exit");
            assert_eq!(exit, Some(code.exit_code().into()));
            assert_eq!(told, serde_json::to_value(&problem).unwrap(), "{code}");
        }
    }

    #[test]
    fn a_failure_without_a_server_has_no_status_and_leaves_out_what_is_not_said() {
        let told = Failure::own("locked", "another agent is at work", "wait", Exit::Failed);
        let expected = serde_json::json!({
            "type": "urn:muster:problem:locked", "title": "another agent is at work", "code": "locked",
            "remedy": "wait", "exit": 1,
        });
        assert_eq!(serde_json::to_value(told).unwrap(), expected);
    }
}
