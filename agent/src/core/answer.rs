//! What comes back from the server, or does not, and how it is read.
//!
//! Nothing here trusts an answer: sizes were capped by the shell, and every field is checked where it is used.

use std::time::Duration;

use muster_wire::discovery::Discovery;
use muster_wire::problem::Problem;
use muster_wire::time::Timestamp;

use super::refusal::Refusal;

/// An HTTP answer, as far as the core looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Retry-After in seconds, when it was a number.
    pub retry_after_s: Option<u64>,
    /// Date, the server's clock, when it was there and readable.
    pub date: Option<Timestamp>,
    /// The body, within the cap of its request.
    pub body: Vec<u8>,
}

/// There was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which kind, which decides what to do about it.
    pub kind: TroubleKind,
    /// `host:port`.
    pub server: String,
    /// What the layer below said, for a person.
    pub detail: String,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TroubleKind {
    /// The name has no address.
    Resolve,
    /// No address took the connection.
    Connect,
    /// It took longer than allowed.
    Timeout,
    /// The server closed before it had answered.
    Closed,
    /// The server's certificate does not lead to the pinned root.
    Pin,
    /// The server's certificate does not carry the name that was asked for.
    Name,
    /// By this device's clock the server's certificate is not valid yet, or no longer.
    Clock,
    /// The server refused this device's certificate in the handshake.
    Rejected,
    /// The TLS handshake failed for another reason.
    Tls,
    /// The answer is larger than such an answer can be.
    TooLarge,
    /// What came back is not HTTP.
    Protocol,
    /// The connection could not even be prepared: a file on this device is unusable.
    Local,
}

impl TroubleKind {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn may_pass(self) -> bool {
        match self {
            Self::Resolve | Self::Connect | Self::Timeout | Self::Closed => true,
            Self::Pin
            | Self::Name
            | Self::Clock
            | Self::Rejected
            | Self::Tls
            | Self::TooLarge
            | Self::Protocol
            | Self::Local => false,
        }
    }
}

impl Answer {
    /// How long the server asked to wait.
    pub fn retry_after(&self) -> Duration {
        Duration::from_secs(self.retry_after_s.unwrap_or(0))
    }

    /// The body, when the status is 200.
    ///
    /// # Errors
    /// [`Refusal::Pending`] for 202, [`Refusal::Problem`] for a problem document, [`Refusal::Status`] otherwise.
    pub(super) fn body(self) -> Result<Vec<u8>, Refusal> {
        match self.status {
            200 => Ok(self.body),
            202 => Err(Refusal::Pending { retry_after_s: self.retry_after_s }),
            status => match serde_json::from_slice::<Problem>(&self.body) {
                Ok(problem) => Err(Refusal::Problem(Box::new(problem))),
                Err(_) => Err(Refusal::Status { status }),
            },
        }
    }

    /// What the server calls the device that asked with its certificate.
    ///
    /// # Errors
    /// The [`Refusal`] that says why it calls it nothing.
    pub fn state_of_caller(self) -> Result<String, Refusal> {
        self.discovery()?.device.map(|caller| caller.state).ok_or(Refusal::Unrecognised)
    }

    /// The discovery document, when the status is 200.
    ///
    /// # Errors
    /// As [`Answer::body`], and [`Refusal::Unreadable`] when it is no such document.
    pub(super) fn discovery(self) -> Result<Discovery, Refusal> {
        let body = self.body()?;
        serde_json::from_slice(&body)
            .map_err(|source| Refusal::Unreadable { what: "discovery document", source: Box::new(source) })
    }
}

#[cfg(test)]
mod tests {
    use muster_wire::problem::Code;

    use super::*;

    fn answer(status: u16, body: &[u8]) -> Answer {
        Answer { status, retry_after_s: None, date: None, body: body.to_vec() }
    }

    #[test]
    fn a_problem_document_keeps_its_code() {
        let body = serde_json::to_vec(&Problem::new(Code::TokenRefused)).unwrap();
        match answer(401, &body).body() {
            Err(Refusal::Problem(problem)) => assert_eq!(problem.code, Code::TokenRefused),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_page_is_reported_by_its_status() {
        let refusal = answer(502, b"\xff<html>").body().unwrap_err();
        assert!(matches!(refusal, Refusal::Status { status: 502 }));
    }

    #[test]
    fn a_discovery_document_that_is_not_utf_8_is_unreadable() {
        let refusal = answer(200, b"{\"trust_domain\":\"\xff\"}").discovery().unwrap_err();
        assert!(matches!(refusal, Refusal::Unreadable { .. }));
    }
}
