//! The closed list of what can go wrong, and what to do next.
//!
//! A [`Code`] is stable: scripts, tests and the audit log rely on its spelling. Each one knows its title, the
//! remedy, the HTTP status it travels with and the exit code a command ends with. A [`Problem`] is the RFC 9457
//! document around it. Unknown, expired and spent tokens share [`Code::TokenRefused`]: nobody learns which.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// How a command ends (`contract.md`, "Commands").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It failed, for a reason none of the others names.
    Failed = 1,
    /// The command line or the request was wrong.
    Usage = 2,
    /// A rule refused it: policy, a spent token, a wrong pin.
    Refused = 3,
    /// There is no such thing.
    NotFound = 4,
    /// The other side could not be reached, or is not ready.
    Unreachable = 5,
}

/// A text that names no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no problem code of this name")]
pub struct UnknownCode;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:literal, $exit:ident, $title:literal, $remedy:literal;)+) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Code {
            /// Every code, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The stable spelling, in snake case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One line for a person, without particulars.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)+ }
            }

            /// What to do next.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)+ }
            }

            /// The HTTP status it travels with.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// How a command ends that meets it.
            pub const fn exit(self) -> Exit {
                match self { $(Self::$name => Exit::$exit,)+ }
            }
        }
    };
}

codes! {
    /// The request cannot be read.
    MalformedRequest = "malformed_request", 400, Usage,
        "The request cannot be read.", "Correct the request as the detail says and send it again.";
    /// The body is larger than this door takes.
    TooLarge = "too_large", 413, Usage,
        "The request is too large.", "Send less; the limit is in the detail.";
    /// The body has a media type that is not spoken here.
    UnsupportedMediaType = "unsupported_media_type", 415, Usage,
        "This media type is not accepted here.", "Send the media type named in the API description.";
    /// No credential, or one that proves nothing.
    Unauthenticated = "unauthenticated", 401, Refused,
        "Who is asking was not proven.", "Show a valid credential: an operator's token, or a device's certificate.";
    /// The enrolment token opens nothing here; which reason is told to the audit log alone.
    TokenRefused = "token_refused", 401, Refused,
        "The enrolment token was refused.",
        "Ask the operator for a new token; the operator finds the reason in `muster audit tail`.";
    /// Too many attempts.
    RateLimited = "rate_limited", 429, Refused,
        "Too many attempts.", "Wait as long as Retry-After says, then try again.";
    /// The caller is known and may not do this.
    Forbidden = "forbidden", 403, Refused,
        "This caller may not do that.", "Ask an operator who may, or use another credential.";
    /// There is nothing here.
    NotFound = "not_found", 404, NotFound,
        "There is no such thing.", "Check the name or id; list what there is.";
    /// The thing exists and takes other methods.
    MethodNotAllowed = "method_not_allowed", 405, Usage,
        "This method is not allowed here.", "Use a method named in the Allow header.";
    /// The state it is in does not allow it.
    Conflict = "conflict", 409, Refused,
        "The present state does not allow that.", "Look at the present state, then decide again.";
    /// It changed since it was read.
    PreconditionFailed = "precondition_failed", 412, Refused,
        "It has changed since it was read.", "Read it again and repeat the change on the new version.";
    /// An idempotency key came back with another request.
    IdempotencyMismatch = "idempotency_mismatch", 422, Refused,
        "This Idempotency-Key was used for another request.", "Use a new Idempotency-Key for a new request.";
    /// A field has a value that is not allowed.
    ValidationFailed = "validation_failed", 422, Usage,
        "A value is not allowed.", "Correct the field named and send the request again.";
    /// No profile of that name.
    ProfileUnknown = "profile_unknown", 422, Usage,
        "There is no such profile.", "Choose one that `muster profile list` shows.";
    /// A device's path names another profile than its record. To a token this is [`Code::TokenRefused`].
    ProfileMismatch = "profile_mismatch", 403, Refused,
        "This path belongs to another profile.", "Use the path of the device's own profile, or the one without a profile.";
    /// The certificate request cannot be read.
    CsrMalformed = "csr_malformed", 400, Refused,
        "The certificate request cannot be read.", "Send a PKCS #10 request: base64, PEM or DER.";
    /// The certificate request's signature is not by its own key.
    CsrSignatureInvalid = "csr_signature_invalid", 422, Refused,
        "The certificate request is not signed by its own key.", "Make the request again with the device's private key.";
    /// The signature algorithm, or its pairing with the key, is not allowed.
    CsrAlgorithmRefused = "csr_algorithm_refused", 422, Refused,
        "The certificate request's signature algorithm is not allowed.", "Sign with the hash that belongs to the key; the profile names the algorithms.";
    /// The key's kind, curve or size is not allowed.
    CsrKeyRefused = "csr_key_refused", 422, Refused,
        "The certificate request's key is not allowed.", "Make a key of a kind the profile allows and ask again.";
    /// The key already belongs to a device or to an authority.
    CsrKeyInUse = "csr_key_in_use", 409, Refused,
        "This key is already in use.", "Make a new key; a key is never shared or used in a second life.";
    /// The request names another serial number than token or record.
    CsrSerialMismatch = "csr_serial_mismatch", 422, Refused,
        "The certificate request names another serial number.", "Enrol with the serial number the token is bound to, or leave it out.";
    /// A renewal's names differ from those of the certificate shown.
    CsrNamesMismatch = "csr_names_mismatch", 422, Refused,
        "The certificate request's names differ from the certificate's.", "Copy subject and subjectAltName from the current certificate, byte for byte.";
    /// A person has to decide first.
    PendingApproval = "pending_approval", 202, Refused,
        "An operator has to approve this device first.", "Send the same request again after Retry-After; `muster device approve` lets it in.";
    /// The certificate shown does not open this door.
    CertificateRefused = "certificate_refused", 403, Refused,
        "The certificate is not accepted here.", "Ask the operator; `muster device explain` tells the rule.";
    /// The certificate shown has expired, and no grace applies.
    CertificateExpired = "certificate_expired", 403, Refused,
        "The certificate has expired.", "Enrol the device again with a new token.";
    /// The device's state does not allow it.
    DeviceStateRefused = "device_state_refused", 409, Refused,
        "The device's state does not allow that.", "Look at `muster device show`, then decide again.";
    /// Beyond the budget of destructive acts.
    CoolingOff = "cooling_off", 429, Refused,
        "This is beyond what may be destroyed at a time, so it waits.",
        "If it is meant, ask for the very same again after Retry-After; `muster rails` shows the budget and what waits.";
    /// Too much is waiting to be written.
    StoreBusy = "store_busy", 503, Unreachable,
        "The server is busy.", "Try again after Retry-After.";
    /// The disk is full: reads go on, writes do not.
    StoreFull = "store_full", 507, Failed,
        "The server has no space left to write.", "Free space on the server's data directory; it resumes by itself.";
    /// Started, but not serving yet.
    NotReady = "not_ready", 503, Unreachable,
        "The server is not ready.", "Wait until /readyz answers 200.";
    /// Our fault.
    Internal = "internal", 500, Failed,
        "Something went wrong inside the server.", "Give the request id to whoever runs the server; the log tells more.";
}

impl Code {
    /// The `type` of a problem document.
    pub fn urn(self) -> String {
        format!("urn:muster:problem:{}", self.as_str())
    }

    /// The exit code of a command that meets it: [`Code::exit`] as a number.
    pub const fn exit_code(self) -> u8 {
        self.exit() as u8
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// An RFC 9457 problem document (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:muster:problem:<code>`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The code's title.
    pub title: String,
    /// The HTTP status it came with.
    pub status: u16,
    /// Particulars of this occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The stable code.
    pub code: Code,
    /// What to do next.
    pub remedy: String,
    /// The request it answers, as it stands in the server's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The field that was wrong, as a JSON pointer or a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// The media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

impl Problem {
    /// The document of `code` without particulars.
    pub fn new(code: Code) -> Self {
        Self {
            type_uri: code.urn(),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: None,
            code,
            remedy: code.remedy().to_owned(),
            request_id: None,
            field: None,
            rule: None,
        }
    }

    /// The same with particulars of this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with the field that was wrong.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The same with the rule that refused.
    #[must_use]
    pub fn with_rule(mut self, rule: impl Into<String>) -> Self {
        self.rule = Some(rule.into());
        self
    }

    /// The same with the request it answers.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_spelled_once_in_snake_case() {
        let spellings: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(spellings.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert_eq!(code.as_str().parse(), Ok(*code));
        }
    }

    #[test]
    fn every_code_says_what_to_do_next() {
        for code in Code::ALL {
            assert!(code.title().ends_with('.') && code.remedy().ends_with('.'), "{code}");
            assert!((200..600).contains(&code.http_status()), "{code}");
            assert!((1..=5).contains(&code.exit_code()), "{code}");
        }
    }

    #[test]
    fn tokens_are_refused_alike() {
        let code = Code::TokenRefused;
        assert_eq!((code.http_status(), code.exit_code()), (401, 3));
        for word in code.title().split(' ').chain(code.remedy().split(' ')) {
            assert!(!["expired", "spent", "unknown", "used", "revoked"].contains(&word), "{word}");
        }
    }

    #[test]
    fn a_problem_reads_back_and_leaves_out_what_is_not_said() {
        let problem = Problem::new(Code::ValidationFailed).with_field("/ttl").with_detail("too long");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:muster:problem:validation_failed");
        assert_eq!(json["status"], 422);
        assert!(json.get("rule").is_none());
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
