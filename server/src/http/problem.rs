//! RFC 9457 problem documents: the one place that turns an error into an answer.

use super::timestamp;
use crate::app;
use crate::domain::refusal::Refusal;
use crate::domain::signature::SignatureFlaw;
use crate::domain::text::roughly_in;
use crate::doors::body::BodyError;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use muster_wire::problem::{Code, PROBLEM_MEDIA_TYPE, Problem};

/// Why a request has no good answer, at the edge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The verb says so.
    #[error(transparent)]
    App(#[from] app::Error),
    /// The body could not be taken.
    #[error("the body could not be read")]
    Body(#[from] BodyError),
    /// A part of the request is not what it must be.
    #[error("{part} {expected}")]
    Malformed {
        /// Which part: a header, a query key, the body.
        part: &'static str,
        /// What it must be, as the end of a sentence.
        expected: String,
    },
    /// The body has another media type.
    #[error("the media type must be {expected}")]
    MediaType {
        /// Which is wanted.
        expected: &'static str,
    },
    /// The body is compressed or the like.
    #[error("the body is encoded")]
    Encoded,
    /// `If-Match` names another version.
    #[error("the record has changed")]
    Precondition,
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        Self::App(refusal.into())
    }
}

/// The answer to `error`. What the caller may not know stays in the log, under `request_id`.
pub fn respond(error: &HttpError, request_id: &str) -> Response {
    let (problem, retry_after_s) = problem(error);
    if problem.status >= 500 {
        let causes = causes(error);
        tracing::error!(request_id, code = problem.code.as_str(), causes, "request failed");
    }
    // Refused tokens look alike to the last byte; the id is in the header.
    let alike = problem.code == Code::TokenRefused;
    let mut response = of(&if alike { problem } else { problem.with_request_id(request_id) });
    if let Some(seconds) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A problem document as a response.
pub fn of(problem: &Problem) -> Response {
    let body = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if problem.status == 401 {
        headers.append(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"muster\", charset=\"UTF-8\""),
        );
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
    }
    response
}

/// The refusal behind `error`, where no verb has written it down: what a request is, not who sent it.
pub fn unwritten(error: &HttpError) -> Option<Refusal> {
    match error {
        HttpError::Malformed { part, .. } => {
            Some(Refusal::by("request.malformed", Code::MalformedRequest).at(part))
        }
        HttpError::MediaType { .. } | HttpError::Encoded => {
            Some(Refusal::by("request.media_type", Code::UnsupportedMediaType))
        }
        HttpError::Precondition => Some(Refusal::by("request.precondition", Code::PreconditionFailed)),
        HttpError::App(app::Error::Invalid { field, .. }) => {
            Some(Refusal::by("request.invalid", Code::ValidationFailed).at(field))
        }
        HttpError::App(app::Error::NotFound { .. }) => Some(Refusal::by("request.not_found", Code::NotFound)),
        // A verb writes down its own refusals; a failure is none; a body is judged before any handler.
        HttpError::App(_) | HttpError::Body(_) => None,
    }
}

fn problem(error: &HttpError) -> (Problem, Option<u64>) {
    match error {
        HttpError::App(error) => of_verb(error),
        HttpError::Body(BodyError::TooLarge { limit_bytes }) => (
            Problem::new(Code::TooLarge).with_detail(format!("The body may have {limit_bytes} bytes.")),
            None,
        ),
        HttpError::Body(error) => (Problem::new(Code::MalformedRequest).with_detail(error.to_string()), None),
        HttpError::Malformed { part, expected } => {
            let detail = format!("{part} {expected}");
            (Problem::new(Code::MalformedRequest).with_detail(detail).with_field(*part), None)
        }
        HttpError::MediaType { expected } => {
            let detail = format!("The media type must be {expected}.");
            (Problem::new(Code::UnsupportedMediaType).with_detail(detail), None)
        }
        HttpError::Encoded => {
            let detail = "The body must be sent as it is, without Content-Encoding.";
            (Problem::new(Code::UnsupportedMediaType).with_detail(detail), None)
        }
        HttpError::Precondition => (Problem::new(Code::PreconditionFailed), None),
    }
}

fn of_verb(error: &app::Error) -> (Problem, Option<u64>) {
    match error {
        app::Error::Refused(refusal) => (of_refusal(refusal), None),
        app::Error::Signature { refusal, flaw } => (of_signature(refusal, flaw), None),
        app::Error::Invalid { field, expected } => {
            let detail = format!("{field} {expected}");
            (Problem::new(Code::ValidationFailed).with_detail(detail).with_field(*field), None)
        }
        app::Error::NotFound { kind: kind @ "freeze" } => {
            let detail = format!("There is no {kind}: nothing is held back.");
            let remedy = "There is nothing to lift; `muster rails` says whether there is a freeze.".to_owned();
            (Problem { remedy, ..Problem::new(Code::NotFound).with_detail(detail) }, None)
        }
        app::Error::NotFound { kind } => {
            (Problem::new(Code::NotFound).with_detail(format!("There is no such {kind}.")), None)
        }
        app::Error::RateLimited { retry_after_s } => (Problem::new(Code::RateLimited), Some(*retry_after_s)),
        app::Error::CoolingOff { retry_after_s, until } => (
            Problem {
                remedy: "If it is meant, ask for the very same again then, or let approvers waive the wait (`muster rails \
                         --waive`); `muster rails` shows the budget and what waits."
                    .to_owned(),
                ..Problem::new(Code::CoolingOff).with_detail(format!(
                    "asked for again after {}, {}, it is done",
                    timestamp(*until),
                    roughly_in(*retry_after_s)
                ))
            },
            Some(*retry_after_s),
        ),
        app::Error::Contended => (Problem::new(Code::StoreBusy), Some(1)),
        app::Error::Busy { retry_after_s } => {
            (Problem::new(Code::StoreBusy), Some(u64::from(*retry_after_s)))
        }
        app::Error::NoSpace => (Problem::new(Code::StoreFull), None),
        app::Error::Stopped => (Problem::new(Code::NotReady), Some(1)),
        app::Error::Load(_) | app::Error::Internal { .. } => (Problem::new(Code::Internal), None),
    }
}

/// What the state is that does not allow something, where neither code nor field says it.
const REASONS: &[(&str, &str)] = &[
    ("operator.last", "This is the last operator: add another before it goes."),
    ("operator.name_taken", "There is an operator of this name."),
    ("observer.name_taken", "There is an observer of this name whose certificate is valid."),
    ("token.already_spent", "The token is spent: `muster device revoke` ends the device that came of it."),
    (
        "warrant.too_few_approvers",
        "There are fewer approvers than this kind needs: ask for a milder level, or let a successor of the authority \
         document name more of them (`muster authority propose`).",
    ),
    (
        "warrant.too_many_for_approvers",
        "More than 10 devices in one warrant need more approvers than there are: ask for warrants over 10 devices or \
         fewer.",
    ),
    (
        "record.unproven",
        "There is a record only of a wipe that is proven: `muster device show` says how far this one is.",
    ),
    ("warrant.needs_none", "No approver is needed for this: `muster order make` orders it."),
    ("warrant.device_leaving", "A device is being let go already: `muster device show` names its phase."),
    ("warrant.device_state", "Only devices that are commissioning, active or quarantined can be named."),
    (
        "warrant.level_of_profile",
        "The profile of a device does not have this level: `muster profile show` names those it has.",
    ),
    (
        "warrant.plans_differ",
        "The profiles of these devices wipe different data: ask for one warrant for each profile.",
    ),
    (
        "authority.proposal_changed",
        "Somebody else has proposed, or has signed the proposal that waits, since you looked: see `muster authority show \
         --pending`, then propose again.",
    ),
    (
        "baseline.built_in",
        "The profile's own baseline needs nobody's signature; set one with `muster baseline set` first.",
    ),
    ("baseline.envelope", "It is no signed baseline."),
    (
        "baseline.other",
        "It is another baseline than any that this profile comes to now; look at it again and sign that.",
    ),
    ("baseline.signer", "It is not signed by approvers who count now, or by others as well."),
    ("warrant.signer", "It is not signed by approvers who count now, or by others as well."),
    ("warrant.other", "What was signed is not this warrant."),
    ("warrant.ended", "The warrant is done, stopped or lapsed."),
    (
        "retire.not_doomed",
        "Its deadline has not passed: wait for it, or stop the warrant and revoke the device.",
    ),
    (
        "retire.not_leaving",
        "It is not being let go: `muster device deprovision` or `muster device revoke` begins that.",
    ),
    (
        "rails.protected",
        "The device is labelled protected: an operator has to run `muster device unprotect` first.",
    ),
    ("rails.personal", "The device is somebody's own: only wipes of level retire are allowed."),
    (
        "rails.too_many_wait",
        "Too many acts beyond the budget wait already, or too many of yours: `muster rails` lists them.",
    ),
    ("order.too_many_open", "Too many of the device's orders are open: wait until some have come back."),
];

/// The rule and the field are for the operator; a caller with a token learns neither, since they would tell apart
/// what must look alike.
fn of_refusal(refusal: &Refusal) -> Problem {
    let mut problem = Problem::new(refusal.code);
    if refusal.code == Code::TokenRefused || refusal.code == Code::Unauthenticated {
        return problem;
    }
    if let Some((_, words)) = REASONS.iter().find(|(rule, _)| *rule == refusal.rule) {
        problem = problem.with_detail(*words);
    }
    let problem = problem.with_rule(refusal.rule);
    match refusal.field {
        Some(field) => problem.with_field(field),
        None => problem,
    }
}

/// It is not the caller who may not, but the key that does not count.
fn of_signature(refusal: &Refusal, flaw: &SignatureFlaw) -> Problem {
    let detail = format!("The signature does not count: {flaw}.");
    Problem { remedy: flaw.remedy(), ..of_refusal(refusal).with_detail(detail) }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_tokens_look_alike_whatever_the_rule() {
        let rules = ["token.unknown", "token.spent", "token.expired", "token.label", "token.revoked"];
        let answers = rules.map(|rule| of_refusal(&Refusal::by(rule, Code::TokenRefused).at("serialNumber")));
        for answer in &answers {
            assert_eq!(serde_json::to_string(answer).unwrap(), serde_json::to_string(&answers[0]).unwrap());
        }
    }

    #[test]
    fn a_refusal_without_credential_asks_for_one() {
        let response = respond(&Refusal::by("policy.sign_in_first", Code::Unauthenticated).into(), "r1");
        assert_eq!(response.status(), 401);
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    }

    #[test]
    fn a_signature_is_refused_by_the_name_of_its_key_and_not_of_the_credential() {
        let flaw = SignatureFlaw::Stranger { key: muster_wire::KeyId([7; 8]), version: 3 };
        let refusal = Refusal::by("warrant.signer", Code::Forbidden).at("signed");
        let (problem, _) = of_verb(&app::Error::Signature { refusal, flaw });
        let detail = problem.detail.unwrap();
        assert!(detail.contains("key 0707070707070707 "), "{detail}");
        assert!(!problem.remedy.contains("credential"), "{}", problem.remedy);
        assert_eq!((problem.status, problem.rule.as_deref()), (403, Some("warrant.signer")));
    }

    #[test]
    fn a_full_store_says_so_and_nothing_more() {
        let (problem, _) = of_verb(&app::Error::NoSpace);
        assert_eq!((problem.status, problem.code.as_str()), (507, "store_full"));
    }
}
