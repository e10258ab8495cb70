//! Who is asking: by client certificate at the devices' door, by credential at the operators', nobody elsewhere.

use super::problem::HttpError;
use crate::app::App;
use crate::domain::admission::{Admission, Door, Refusal};
use crate::domain::policy::Principal;
use crate::doors::Doors;
use crate::doors::http::Verdict;
use crate::doors::peer::Peer;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use muster_wire::problem::{Code, Problem};
use zeroize::Zeroizing;

/// Where a request came in; each listener recognises one kind of caller and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// Devices, by certificate. An operator's credential means nothing here.
    Device,
    /// Operators, by credential. Client certificates are not even asked for here.
    Admin,
    /// Anyone.
    Status,
}

/// A caller.
pub struct Who {
    /// Who it is.
    pub principal: Principal,
    /// The other end of the connection.
    pub peer: Peer,
    /// What the certificate may do, if one was shown.
    pub admission: Option<Admission>,
}

/// Recognises the caller. The first authenticated use of an issued certificate makes it the current one, durably,
/// before the request goes on (contract.md, "Certificate status × door").
///
/// # Errors
/// [`HttpError`] where the store cannot be read or the promotion is not taken.
pub async fn who(app: &App, entrance: Entrance, parts: &mut Parts) -> Result<Who, HttpError> {
    // Two would be two callers, of whom one is not asked (RFC 9110 §5.3).
    if parts.headers.get_all(AUTHORIZATION).iter().nth(1).is_some() {
        let expected = "must stand in the request once".to_owned();
        return Err(HttpError::Malformed { part: "Authorization", expected });
    }
    let missing = || HttpError::Malformed { part: "connection", expected: "has no peer".to_owned() };
    let peer = parts.extensions.get::<Peer>().cloned().ok_or_else(missing)?;
    let admission = parts.extensions.get::<Admission>().copied();
    let principal = match entrance {
        Entrance::Status => Principal::Anonymous,
        Entrance::Admin => app.recognise(bearer(parts))?,
        Entrance::Device => match (&peer.certificate, admission) {
            (Some(certificate), Some(admission)) => {
                if admission.promote {
                    app.promote(certificate.device, &certificate.serial).await?;
                }
                Principal::Device(certificate.device)
            }
            (Some(_) | None, _) => Principal::Anonymous,
        },
    };
    Ok(Who { principal, peer, admission })
}

/// Judges the peer of a connection for one more request, by the table status × door.
pub fn judge(doors: &Doors, peer: &Peer) -> Verdict {
    let Some(certificate) = &peer.certificate else { return Verdict::Admit(None) };
    match doors.judge(certificate, Door::Https) {
        Ok(admission) => Verdict::Admit(Some(admission)),
        Err(refusal) => {
            let code =
                if refusal == Refusal::Expired { Code::CertificateExpired } else { Code::CertificateRefused };
            Verdict::Refuse(Box::new(super::problem::of(&Problem::new(code))))
        }
    }
}

/// The credential of an `Authorization: Bearer` header.
fn bearer(parts: &Parts) -> Option<&str> {
    scheme(parts.headers.get(AUTHORIZATION)?.to_str().ok()?, "bearer")
}

/// The enrolment token of a request: `Bearer` as it stands, `Basic` as the password, any user name (RFC 7617).
///
/// `None` where there is no such header; an unreadable one is an empty token, which is refused like any other.
pub fn token(parts: &Parts) -> Option<Zeroizing<String>> {
    let text = parts.headers.get(AUTHORIZATION)?.to_str().unwrap_or_default();
    if let Some(token) = scheme(text, "bearer") {
        return Some(Zeroizing::new(token.to_owned()));
    }
    let password = || {
        let pair = Zeroizing::new(STANDARD.decode(scheme(text, "basic")?).ok()?);
        let pair = std::str::from_utf8(&pair).ok()?;
        pair.split_once(':').map(|(_, password)| Zeroizing::new(password.to_owned()))
    };
    Some(password().unwrap_or_default())
}

fn scheme<'a>(header: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = header.split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(authorization: &str) -> Parts {
        http::Request::get("/").header(AUTHORIZATION, authorization).body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_password_is_the_token_and_any_user_name_will_do() {
        let header = format!("Basic {}", STANDARD.encode("anyone:muster_x"));
        assert_eq!(token(&parts(&header)).unwrap().as_str(), "muster_x");
        assert_eq!(token(&parts("bEaReR muster_y")).unwrap().as_str(), "muster_y");
    }

    #[test]
    fn what_cannot_be_read_is_an_empty_token() {
        for header in ["Basic !!!", "Basic", "Digest x", "Bearer"] {
            assert_eq!(token(&parts(header)).unwrap().as_str(), "", "{header}");
        }
    }
}
