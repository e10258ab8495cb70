//! The two vocabularies between core and shell: what happened, and what to do.

use std::time::Duration;

use muster_wire::digest::Sha256Digest;
use zeroize::Zeroizing;

use super::answer::{Answer, Trouble};
use super::enroll::EnrollOrder;
use super::prove::Done;
use super::record::Record;
use super::refusal::Refusal;
use super::renew::RenewOrder;
use super::trust::Trust;

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A person wants this device enrolled.
    Enroll(Box<EnrollOrder>),
    /// A person wants this device's certificate replaced.
    Renew(RenewOrder),
    /// The server answered what was asked last.
    Answered(Answer),
    /// It did not.
    Unanswered(Trouble),
    /// The key that was asked for is durable.
    KeyReady(KeyReady),
    /// The pause is over; it took this long.
    Paused(Duration),
    /// The session that was asked for is open: the server has accepted the certificate.
    Connected,
}

/// A key on the device, and a request that proves its possession.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReady {
    /// The key's SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// PKCS#10 in DER.
    pub csr: Vec<u8>,
}

impl KeyReady {
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.spki)
    }
}

/// Something to do. The shell does each before it looks at the next.
#[derive(Debug)]
pub enum Effect {
    /// Ask the server; the answer comes as [`Event::Answered`] or [`Event::Unanswered`].
    Ask(Request),
    /// Make a file hold these bytes, atomically and durably.
    Store(Document, Vec<u8>),
    /// Make the next key unless there is one, durably, and a request with it; then [`Event::KeyReady`].
    MakeKey(Names),
    /// Append to the journal, durably.
    Record(Box<Record>),
    /// Move the next key, then the next certificate, over the current ones.
    Promote,
    /// Remove the next certificate, then the next key.
    DiscardNext,
    /// Wait, then [`Event::Paused`].
    Pause {
        /// How many attempts have failed.
        attempt: u32,
        /// What the server asked for.
        at_least: Duration,
        /// What is left of the person's patience.
        at_most: Duration,
    },
    /// The command is over.
    Finish(Result<Box<Done>, Box<Refusal>>),
}

/// What to ask the server for. All go to the one server named at enrolment, over pinned TLS.
#[derive(Clone)]
pub enum Request {
    /// `GET /.well-known/muster`; with a certificate it proves that the certificate works.
    Discovery(Caller),
    /// `GET /.well-known/est/cacerts`.
    CaCerts(Caller),
    /// `POST /.well-known/est/simpleenroll`, anonymous but for the token.
    SimpleEnroll {
        /// The token's text.
        bearer: Zeroizing<String>,
        /// PKCS#10 in DER.
        csr: Vec<u8>,
    },
    /// `POST /.well-known/est/simplereenroll` with the current certificate.
    SimpleReenroll {
        /// PKCS#10 in DER.
        csr: Vec<u8>,
    },
    /// `GET /.well-known/muster/baselines/<digest>` with the current certificate.
    Baseline(Sha256Digest),
    /// A signed `renew` over the live session; the answer is what comes on `credential`.
    RenewInSession {
        /// PKCS#10 in DER.
        csr: Vec<u8>,
    },
    /// A session of its own; answered by [`Event::Connected`] once the server has accepted it.
    Session(Caller),
}

impl std::fmt::Debug for Request {
    /// What is asked for, without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Discovery(caller) => f.debug_tuple("Discovery").field(caller).finish(),
            Self::CaCerts(caller) => f.debug_tuple("CaCerts").field(caller).finish(),
            Self::SimpleEnroll { .. } => f.debug_struct("SimpleEnroll").finish_non_exhaustive(),
            Self::SimpleReenroll { .. } => f.debug_struct("SimpleReenroll").finish_non_exhaustive(),
            Self::Baseline(digest) => f.debug_tuple("Baseline").field(digest).finish(),
            Self::RenewInSession { .. } => f.debug_struct("RenewInSession").finish_non_exhaustive(),
            Self::Session(caller) => f.debug_tuple("Session").field(caller).finish(),
        }
    }
}

/// With which certificate to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// None.
    Anonymous,
    /// The one in use.
    Current,
    /// The one that is to follow it.
    Next,
}

/// The files that the core fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// `trust`: the root and the authorities below it, PEM.
    Trust,
    /// `authority`: the chain of authority documents, one in base64 per line, oldest first.
    Authority,
    /// `identity/next-certificate.pem`.
    NextCertificate,
}

/// What a request says about the device. The server believes none of it; it compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// A first request: at most a serial number.
    First {
        /// The serial number that the person gave.
        serial: Option<String>,
    },
    /// A renewal: the names of this certificate (DER), to the byte (RFC 7030 §4.2.2).
    Like(Vec<u8>),
}

/// What the files hold, as found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// SPKI digest of `identity/key.pem`.
    pub key: Option<Sha256Digest>,
    /// DER of `identity/certificate.pem`.
    pub certificate: Option<Vec<u8>>,
    /// SPKI digest of `identity/next-key.pem`.
    pub next_key: Option<Sha256Digest>,
    /// DER of `identity/next-certificate.pem`.
    pub next_certificate: Option<Vec<u8>>,
    /// `trust`.
    pub trust: Option<Trust>,
    /// `authority`, as it is.
    pub authority: Option<Vec<u8>>,
}
