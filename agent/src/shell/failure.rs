//! Why a command failed, whichever part of the agent it was, as one sentence, one remedy and one exit code.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, ErrorKind};

use muster_wire::enrollment::EnrollmentError;
use muster_wire::failure;
use muster_wire::problem::{Code, Exit, Problem};

use super::files::FileError;
use super::journal::JournalError;
use super::keystore::KeystoreError;
use super::lock::LockError;
use crate::apply::ApplyError;
use crate::core::Refusal;
use crate::wipe::WipeError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The core decided so.
    #[error(transparent)]
    Refusal(#[from] Box<Refusal>),
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The identity cannot be used.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// Another agent is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file named on the command line does not exist.
    #[error("there is no file {name}")]
    NoSource {
        /// Its name.
        name: String,
    },
    /// The enrolment string could not be read from where it should be.
    #[error("cannot read the enrolment string")]
    Source(#[source] io::Error),
    /// The enrolment string is none.
    #[error("this is no enrolment string")]
    NotEnrolment(#[source] EnrollmentError),
    /// The enrolment string stands on the command line.
    #[error("an enrolment string on the command line can be read by every user of this machine")]
    OnCommandLine,
    /// `--auth` is no digest.
    #[error("--auth is no SHA-256 digest")]
    NotDigest,
    /// The command line is not one of ours.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
    },
    /// A path cannot be made absolute, or is not text.
    #[error("the path {path} cannot be used")]
    Path {
        /// The path.
        path: String,
    },
    /// The runtime did not start.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// The file `authority` is missing or damaged.
    #[error("the file `authority` does not hold the authority that this device obeys")]
    AuthorityLost,
    /// A document could not be signed.
    #[error("cannot sign with this device's key")]
    Sign(#[source] muster_wire::key::SignError),
    /// Too few enrolment strings for as many devices.
    #[error("there are {found} enrolment strings for {wanted} devices")]
    TooFewStrings {
        /// How many lines held one.
        found: usize,
        /// How many devices were asked for.
        wanted: usize,
    },
    /// Simulated devices failed.
    #[error("{failed} simulated devices failed")]
    Simulated {
        /// How many.
        failed: usize,
    },
    /// `doctor` found something.
    #[error("{failed} of {checks} checks failed")]
    Unwell {
        /// How many checks failed.
        failed: usize,
        /// Of how many.
        checks: usize,
    },
    /// The desired state cannot be compared or put in place.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A wipe, or its rehearsal, cannot look or record.
    #[error(transparent)]
    Wipe(#[from] WipeError),
    /// `plan` found something that cannot be done.
    #[error("{blocked} of {steps} changes cannot be made")]
    Blocked {
        /// How many cannot.
        blocked: usize,
        /// Of how many.
        steps: usize,
    },
}

impl Failure {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refusal(refusal) => refusal.code(),
            Self::File(_) | Self::Source(_) | Self::Path { .. } | Self::Lock(LockError::File(_)) => "file",
            Self::Journal(JournalError::Damaged { .. }) => "journal_damaged",
            Self::Journal(_) => "journal",
            Self::Keystore(KeystoreError::Serial(_)) => "serial_malformed",
            Self::Keystore(_) | Self::Sign(_) => "identity",
            Self::AuthorityLost => "authority_lost",
            Self::TooFewStrings { .. } => "usage",
            Self::Simulated { .. } => "simulation",
            Self::Lock(LockError::Running { .. }) => "agent_runs",
            Self::Lock(LockError::Held { .. }) => "locked",
            Self::Lock(LockError::NotOurs(_)) => "state_dir_unsafe",
            Self::NoSource { .. } => "not_found",
            Self::NotEnrolment(_) => "enrolment_malformed",
            Self::OnCommandLine => "enrolment_on_command_line",
            Self::NotDigest => "digest_malformed",
            Self::Usage { .. } => "usage",
            Self::Runtime(_) => "internal",
            Self::Unwell { .. } => "unwell",
            Self::Apply(_) => "apply",
            Self::Wipe(_) => "wipe",
            Self::Blocked { .. } => "blocked",
        }
    }

    /// How the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refusal(refusal) => refusal.exit(),
            Self::NoSource { .. } => Exit::NotFound,
            Self::Lock(LockError::NotOurs(_)) => Exit::Refused,
            Self::Source(error) if !says_nothing_of_its_content(error) => Exit::Usage,
            Self::Keystore(KeystoreError::Serial(_))
            | Self::NotEnrolment(_)
            | Self::OnCommandLine
            | Self::NotDigest
            | Self::TooFewStrings { .. }
            | Self::Usage { .. }
            | Self::Path { .. } => Exit::Usage,
            Self::File(_)
            | Self::Journal(_)
            | Self::Keystore(_)
            | Self::Lock(_)
            | Self::Source(_)
            | Self::Runtime(_)
            | Self::AuthorityLost
            | Self::Simulated { .. }
            | Self::Sign(_)
            | Self::Unwell { .. }
            | Self::Apply(_)
            | Self::Wipe(_)
            | Self::Blocked { .. } => Exit::Failed,
        }
    }

    /// What the person at the device should do.
    pub fn remedy(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Refusal(refusal) => return refusal.remedy(),
            Self::File(error) | Self::Lock(LockError::File(error)) => error.remedy(),
            Self::Journal(error) => error.remedy(),
            Self::Keystore(error) => error.remedy(),
            Self::Lock(LockError::Running { .. }) => {
                "it renews by itself, and `muster-agent status` tells how it is; to do this by hand all the same, \
                 stop it first (`systemctl stop muster-agent`)"
            }
            Self::AuthorityLost => {
                "run `muster-agent renew`, which fetches it again and checks it against the pin"
            }
            Self::TooFewStrings { .. } => "make them with `muster token create --count N`, one in a line",
            Self::Simulated { .. } => "the first of their failures are listed",
            Self::Sign(_) => "run `muster-agent doctor`",
            Self::Lock(LockError::Held { .. }) => "wait until it is done, then run the same command again",
            Self::Lock(LockError::NotOurs(error)) => return Cow::Owned(error.remedy()),
            Self::NoSource { .. } => {
                "name the file that holds the enrolment string, or `-` for standard input"
            }
            Self::Source(error) if error.kind() == ErrorKind::PermissionDenied => {
                "run as a user who may read that file, or pass the string on standard input"
            }
            Self::Source(_) => "give it in a file of one line, or on standard input",
            Self::NotEnrolment(_) => "copy the whole string, as `muster token create` printed it",
            Self::OnCommandLine => {
                "put it in a file or pass `-` and standard input; or add --insecure-argv if nobody else is here"
            }
            Self::NotDigest => {
                "give the 64 hexadecimal digits that `muster init` printed, or the same in base64url"
            }
            Self::Usage { .. } => "see `muster-agent --help`",
            Self::Path { .. } => "name an existing place with --state-dir or --root",
            Self::Runtime(_) => "check the limits on open files and memory, then run the same command again",
            Self::Unwell { .. } => "follow the remedies above",
            Self::Apply(error) => error.remedy(),
            Self::Wipe(WipeError::Root(_)) => {
                "check that the tree exists that `muster-agent status` names as root"
            }
            Self::Wipe(_) => {
                "make room in the state directory and make it writable; the wipe goes on from there"
            }
            Self::Blocked { .. } => {
                "remove what stands in the way, or have the baseline changed with `muster baseline set`"
            }
        })
    }

    /// The failure and its causes in one line, without anything that a terminal would obey.
    pub fn sentence(&self) -> String {
        let mut sentence = self.to_string();
        if let Some(causes) = self.causes() {
            sentence.push_str(": ");
            sentence.push_str(&causes);
        }
        sentence.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }

    /// The failure as a program reads it: what the server said as it came, ours in the same shape.
    pub fn for_machines(&self) -> failure::Failure {
        let refusal = if let Self::Refusal(refusal) = self { Some(&**refusal) } else { None };
        if let Some(Refusal::Problem(problem)) = refusal {
            return failure::Failure::from(&**problem);
        }
        if let Some(Refusal::Pending { retry_after_s }) = refusal {
            let problem = Problem { remedy: self.remedy().into(), ..Problem::new(Code::PendingApproval) };
            return failure::Failure::from(&problem).with_retry_after_s(*retry_after_s);
        }
        failure::Failure::own(self.code(), self.to_string(), self.remedy(), self.exit())
            .with_detail(self.causes())
    }

    fn causes(&self) -> Option<String> {
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(current) = cause {
            causes.push(current.to_string());
            cause = current.source();
        }
        (!causes.is_empty()).then(|| causes.join(": "))
    }
}

/// Whether a source could not be read at all, rather than held what no enrolment string is.
fn says_nothing_of_its_content(error: &io::Error) -> bool {
    !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::FileTooLarge)
}
