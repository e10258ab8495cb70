//! Why a command ends without having done what it was asked, and what the person at the device should do next.
//!
//! Each refusal is one clear sentence, one stable code, one remedy and one exit code (contract.md, "Commands").

use std::borrow::Cow;
use std::error::Error;

use muster_wire::digest::Sha256Digest;
use muster_wire::problem::{Code, Exit, Problem};
use muster_wire::time::Timestamp;

use super::answer::{Trouble, TroubleKind};

/// Why the command ends here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// `--auth` names another authority than the enrolment string.
    #[error("the enrolment string names the authority {named}, not the one insisted on")]
    InsistedAuthority {
        /// What the string names.
        named: Sha256Digest,
    },
    /// The first authority document is not the pinned one, or the chain after it does not hold.
    #[error("the server's authority documents are not those that the enrolment string pins")]
    Authority(#[source] Box<dyn Error + Send + Sync>),
    /// None of the certificates served is the pinned root.
    #[error("the server's certification authority is not the one that the enrolment string pins")]
    RootPin,
    /// Authority and discovery name different trust domains.
    #[error("the server calls itself {served}, but its authority is for {founded}")]
    TrustDomain {
        /// What the discovery document says.
        served: String,
        /// What the authority says.
        founded: String,
    },
    /// Enrolled with another string.
    #[error("this device is already enrolled at {server}")]
    EnrolledElsewhere {
        /// Where.
        server: String,
    },
    /// Half enrolled with another string, and holding its certificate.
    #[error("an enrolment at {server} with another string is unfinished")]
    Unfinished {
        /// Where.
        server: String,
    },
    /// The tree was fixed at enrolment.
    #[error("the root was fixed at enrolment as {fixed}")]
    RootFixed {
        /// As what.
        fixed: String,
    },
    /// There is nothing to renew.
    #[error("this device is not enrolled")]
    NotEnrolled,
    /// The journal says enrolled; key and certificate say otherwise.
    #[error(
        "the journal says that this device is enrolled, but its key and certificate are missing or do not fit"
    )]
    IdentityLost,
    /// Key and certificate say enrolled; the journal knows of nothing.
    #[error("an identity lies here without the journal that belongs to it")]
    JournalLost,
    /// An operator has to approve first.
    #[error("the server wants an operator to approve this device first")]
    Pending {
        /// When to ask again.
        retry_after_s: Option<u64>,
    },
    /// The server said why not.
    #[error("the server refused: {}{}", _0.title, detail(_0))]
    Problem(Box<Problem>),
    /// The server said no in words that are not ours.
    #[error("the server answered with HTTP status {status}, which says nothing to a muster-agent")]
    Status {
        /// The status.
        status: u16,
    },
    /// An answer that is not what it should be.
    #[error("the server's {what} cannot be read")]
    Unreadable {
        /// Which answer.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The certificate is for another key.
    #[error("the server sent a certificate for another key")]
    ForeignKey,
    /// The certificate names no device of this trust domain, or another device than before.
    #[error("the server sent a certificate with a name that is not this device's")]
    ForeignName,
    /// The certificate does not lead to the pinned root, or is not for a device.
    #[error("the server sent a certificate that does not lead to the pinned root")]
    ForeignIssuer(#[source] Box<dyn Error + Send + Sync>),
    /// The clocks disagree.
    #[error(
        "by this device's clock it is {now}, outside the certificate's life from {not_before} to {not_after}"
    )]
    Clock {
        /// This device's time.
        now: Timestamp,
        /// First second of the certificate.
        not_before: Timestamp,
        /// Last second of the certificate.
        not_after: Timestamp,
    },
    /// The server answered, but does not know who asked.
    #[error("the server did not recognise the certificate that was shown to it")]
    Unrecognised,
    /// There was no answer.
    #[error("{}", no_answer(_0))]
    Unanswered(Trouble),
    /// An event came that nobody awaits: a fault of the shell.
    #[error("internal fault: an answer came that nobody had asked for")]
    OutOfOrder,
}

fn detail(problem: &Problem) -> String {
    problem.detail.as_ref().map(|detail| format!(" {detail}")).unwrap_or_default()
}

fn no_answer(trouble: &Trouble) -> String {
    let Trouble { server, detail, .. } = trouble;
    match trouble.kind {
        TroubleKind::Resolve => format!("the name of {server} cannot be resolved: {detail}"),
        TroubleKind::Connect => format!("{server} cannot be reached: {detail}"),
        TroubleKind::Timeout => format!("{server} did not answer in time: {detail}"),
        TroubleKind::Closed => format!("{server} closed the connection before it had answered: {detail}"),
        TroubleKind::Pin => format!("{server} is not the pinned server: {detail}"),
        TroubleKind::Name => format!("the certificate of {server} is for another name: {detail}"),
        TroubleKind::Clock => {
            format!("the certificate of {server} is not valid by this device's clock: {detail}")
        }
        TroubleKind::Rejected => format!("{server} refused this device's certificate: {detail}"),
        TroubleKind::Tls => format!("no secure connection to {server}: {detail}"),
        TroubleKind::TooLarge => format!("{server} sent more than such an answer can hold: {detail}"),
        TroubleKind::Protocol => format!("{server} does not speak HTTP as a Muster server does: {detail}"),
        TroubleKind::Local => format!("cannot prepare a connection to {server}: {detail}"),
    }
}

const NEW_START: &str = "to start a new life, move the state directory aside and enrol with a new string";
const SET_CLOCK: &str = "set this device's clock, then run the same command again";

impl Refusal {
    /// A stable word for scripts: the server's own code where it gave one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InsistedAuthority { .. } | Self::Authority(_) | Self::TrustDomain { .. } => {
                "authority_mismatch"
            }
            Self::RootPin | Self::ForeignIssuer(_) => "pin_mismatch",
            Self::EnrolledElsewhere { .. } => "already_enrolled",
            Self::Unfinished { .. } => "enrolment_unfinished",
            Self::RootFixed { .. } => "root_fixed",
            Self::NotEnrolled => "not_enrolled",
            Self::IdentityLost => "identity_lost",
            Self::JournalLost => "journal_lost",
            Self::Pending { .. } => Code::PendingApproval.as_str(),
            Self::Problem(problem) => problem.code.as_str(),
            Self::Status { .. } | Self::Unreadable { .. } => "answer_unreadable",
            Self::ForeignKey | Self::ForeignName => "certificate_unsuitable",
            Self::Clock { .. } => "clock",
            Self::Unrecognised => "unrecognised",
            Self::Unanswered(trouble) => match trouble.kind {
                TroubleKind::Resolve | TroubleKind::Connect | TroubleKind::Timeout | TroubleKind::Closed => {
                    "unreachable"
                }
                TroubleKind::Pin => "pin_mismatch",
                TroubleKind::Name => "name_mismatch",
                TroubleKind::Clock => "clock",
                TroubleKind::Rejected => Code::CertificateRefused.as_str(),
                TroubleKind::Tls | TroubleKind::TooLarge | TroubleKind::Protocol => "answer_unreadable",
                TroubleKind::Local => "local_fault",
            },
            Self::OutOfOrder => "internal",
        }
    }

    /// Whether the server said that it has nothing to do with this device any more.
    pub fn ends_the_life(&self) -> bool {
        #[expect(clippy::wildcard_enum_match_arm, reason = "few of many")]
        match self {
            Self::Unrecognised => true,
            Self::Problem(problem) => {
                matches!(problem.code, Code::CertificateRefused | Code::DeviceStateRefused)
            }
            Self::Unanswered(trouble) => trouble.kind == TroubleKind::Rejected,
            _ => false,
        }
    }

    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::InsistedAuthority { .. }
            | Self::Authority(_)
            | Self::RootPin
            | Self::TrustDomain { .. }
            | Self::EnrolledElsewhere { .. }
            | Self::Unfinished { .. }
            | Self::RootFixed { .. }
            | Self::ForeignKey
            | Self::ForeignName
            | Self::ForeignIssuer(_)
            | Self::Unrecognised => Exit::Refused,
            Self::NotEnrolled => Exit::NotFound,
            Self::Pending { .. } => Code::PendingApproval.exit(),
            Self::Problem(problem) => problem.code.exit(),
            Self::IdentityLost
            | Self::JournalLost
            | Self::Status { .. }
            | Self::Unreadable { .. }
            | Self::Clock { .. }
            | Self::OutOfOrder => Exit::Failed,
            Self::Unanswered(trouble) => match trouble.kind {
                TroubleKind::Resolve | TroubleKind::Connect | TroubleKind::Timeout | TroubleKind::Closed => {
                    Exit::Unreachable
                }
                TroubleKind::Pin | TroubleKind::Name | TroubleKind::Rejected => Exit::Refused,
                TroubleKind::Clock
                | TroubleKind::Tls
                | TroubleKind::TooLarge
                | TroubleKind::Protocol
                | TroubleKind::Local => Exit::Failed,
            },
        }
    }

    /// What to do next.
    pub fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::InsistedAuthority { .. }
            | Self::Authority(_)
            | Self::RootPin
            | Self::TrustDomain { .. } => {
                "do not trust this server; compare with what `muster init` printed and ask the operator for a new string"
            }
            Self::EnrolledElsewhere { .. } => {
                "`muster-agent status` shows its identity; to start a new life, have the device deprovisioned, move \
                 the state directory aside and enrol again"
            }
            Self::Unfinished { .. } => {
                "run `muster-agent enroll` with that string again; or move the state directory aside to give it up"
            }
            Self::RootFixed { .. } => "leave --root out, or name that one",
            Self::NotEnrolled => "run `muster-agent enroll` with an enrolment string first",
            Self::IdentityLost => {
                "restore identity/ from a backup; or move the state directory aside and enrol with a new string"
            }
            Self::JournalLost => {
                "restore the journal from a backup; or run `muster-agent enroll` with the string that this device \
                 was enrolled with, which takes the identity up again; or move the state directory aside"
            }
            Self::Pending { retry_after_s } => return pending_remedy(*retry_after_s),
            Self::Problem(problem) => return Cow::Owned(problem.remedy.clone()),
            Self::Status { .. } | Self::Unreadable { .. } => {
                "check that the address is that of a Muster device listener and that nothing sits between"
            }
            Self::ForeignKey | Self::ForeignName | Self::ForeignIssuer(_) => {
                "nothing was kept; tell whoever runs the server, its certification authority is at fault"
            }
            Self::Clock { .. } => SET_CLOCK,
            Self::Unrecognised => NEW_START,
            Self::Unanswered(trouble) => trouble_remedy(trouble.kind),
            Self::OutOfOrder => "report this as a fault of muster-agent",
        })
    }
}

fn pending_remedy(retry_after_s: Option<u64>) -> Cow<'static, str> {
    let when = retry_after_s.map(|s| format!(" in {s} seconds or later")).unwrap_or_default();
    Cow::Owned(format!(
        "have it approved with `muster device approve`, then run the same command again{when}; --wait waits for it"
    ))
}

fn trouble_remedy(kind: TroubleKind) -> &'static str {
    match kind {
        TroubleKind::Resolve => {
            "check the name in the enrolment string and this device's DNS, then run it again"
        }
        TroubleKind::Connect | TroubleKind::Timeout => {
            "check the network and that the server runs, then run the same command again; nothing is lost"
        }
        TroubleKind::Closed => "run the same command again; nothing is lost",
        TroubleKind::Pin | TroubleKind::Name => {
            "do not trust this server; check the address and ask the operator for a new enrolment string"
        }
        TroubleKind::Clock => SET_CLOCK,
        TroubleKind::Rejected => NEW_START,
        TroubleKind::Tls | TroubleKind::TooLarge | TroubleKind::Protocol => {
            "check that the address is that of a Muster device listener and that nothing sits between"
        }
        TroubleKind::Local => "run `muster-agent doctor`",
    }
}
