//! How a command fails: one sentence, what to do next, an exit code.
//!
//! A failure is the server's problem document, passed on as it came, or one of our own. People read it as two
//! lines on standard error; with `--json` it is a problem document there, ours being shaped like the server's.

use crate::app::found::FoundError;
use crate::config::ConfigError;
use muster_wire::failure::Failure;
use muster_wire::problem::{Code, Exit, Problem};
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{what}")]
    Usage {
        /// One sentence.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// A rule on this side refused.
    #[error("{what}")]
    Refused {
        /// One sentence.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// The thing named is not there.
    #[error("{what}")]
    NotFound {
        /// One sentence.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// It was tried and did not succeed.
    #[error("{what}")]
    Failed {
        /// One sentence.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// The server does not answer.
    #[error("The server at {server} cannot be reached")]
    Unreachable {
        /// The address that was tried.
        server: String,
        /// What the connection said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// There is no running server to talk to.
    #[error("{what}")]
    NotRunning {
        /// One sentence.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// The other side showed a certificate that does not lead to the pinned root.
    #[error("The server at {server} is not the one this credential belongs to")]
    WrongServer {
        /// The address that was tried.
        server: String,
        /// What the handshake said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server's certificate is good, but not at the time that this machine has.
    #[error("The certificate of the server at {server} is not valid now, by this machine's clock")]
    WrongTime {
        /// The address that was tried.
        server: String,
        /// What the handshake said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server refused and said why.
    #[error("{}", sentence(.problem))]
    Problem {
        /// What it said.
        problem: Box<Problem>,
        /// How long to wait before another attempt, in seconds.
        retry_after_s: Option<u64>,
    },
    /// The server answered with something that this program does not understand.
    #[error("The server at {server} answered {status} with {what}")]
    Answer {
        /// The address that was asked.
        server: String,
        /// The HTTP status.
        status: u16,
        /// What the body was.
        what: String,
    },
    /// A file or directory could not be worked with.
    #[error("Cannot {verb} {}", .path.display())]
    File {
        /// What was tried, as a verb: `read`, `write`.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Standard output could not be written to.
    #[error("Cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// The command line asks for something that cannot be.
    pub fn usage(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), remedy: remedy.into() }
    }

    /// A rule on this side refused.
    pub fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), remedy: remedy.into() }
    }

    /// The thing named is not there.
    pub fn not_found(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), remedy: remedy.into() }
    }

    /// It was tried and did not succeed.
    pub fn failed(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), remedy: remedy.into() }
    }

    /// What another room of this program says in one line, `sentence; what to do`, with its causes.
    pub fn told(cause: &(dyn StdError + 'static)) -> Self {
        let (what, remedy) = in_two(cause);
        Self::Failed { what, remedy: remedy.unwrap_or_else(look) }
    }

    /// What founding says, or that nothing was founded: then what the command line names is not there.
    pub fn founding(cause: &FoundError) -> Self {
        match (Self::told(cause), cause) {
            (Self::Failed { what, remedy }, FoundError::NotFounded { .. }) => Self::NotFound { what, remedy },
            (other, _) => other,
        }
    }

    /// The same, when the command line or the settings are to blame.
    pub fn told_usage(cause: &(dyn StdError + 'static)) -> Self {
        let (what, remedy) = in_two(cause);
        Self::Usage { what, remedy: remedy.unwrap_or_else(look) }
    }

    /// Settings that cannot be used: the file is not there or not readable, or what stands in it is wrong.
    pub fn settings(cause: ConfigError) -> Self {
        match cause {
            ConfigError::Unreadable { path, source } => {
                Self::File { verb: "read", path: path.into(), source }
            }
            wrong @ (ConfigError::Syntax { .. }
            | ConfigError::UnknownKey { .. }
            | ConfigError::BadValue { .. }) => {
                let (what, remedy) = in_two(&wrong);
                let correct = "Correct that; `muster serve --help` lists every key and what it takes.";
                Self::Usage { what, remedy: remedy.unwrap_or_else(|| correct.to_owned()) }
            }
        }
    }

    /// For `map_err`: `verb` was tried on `path`.
    pub fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { verb, path, source }
    }

    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::Refused { .. } | Self::WrongServer { .. } | Self::WrongTime { .. } => Exit::Refused,
            Self::NotFound { .. } => Exit::NotFound,
            Self::Failed { .. } | Self::Output(_) => Exit::Failed,
            // What was to be read is not there. A place that cannot be written to is a failure like any other.
            Self::File { verb: "read", source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            Self::File { .. } => Exit::Failed,
            Self::Unreachable { .. } | Self::NotRunning { .. } => Exit::Unreachable,
            Self::Problem { problem, .. } => problem.code.exit(),
            Self::Answer { status, .. } => exit_of_status(*status),
        }
    }

    /// Whether the reader of our output went away: `muster … | head` is no failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do next.
    pub fn remedy(&self) -> String {
        match self {
            Self::Usage { remedy, .. }
            | Self::Refused { remedy, .. }
            | Self::NotFound { remedy, .. }
            | Self::Failed { remedy, .. }
            | Self::NotRunning { remedy, .. } => remedy.clone(),
            Self::Unreachable { .. } => {
                "Check that it runs and that the address is right; `muster doctor` looks at both.".into()
            }
            Self::WrongServer { .. } => {
                "Do not go on: check --server and --credential, and whether somebody sits in between.".into()
            }
            Self::WrongTime { .. } => {
                "Compare the clocks of both machines with the true time, set the wrong one, then run it again.".into()
            }
            // That one says until when by itself.
            Self::Problem { problem, .. } if problem.code == Code::CoolingOff => problem.remedy.clone(),
            Self::Problem { problem, retry_after_s: Some(seconds) } => {
                format!("{} (Retry-After: {seconds} s)", problem.remedy)
            }
            Self::Problem { problem, retry_after_s: None } if problem.code == Code::Unauthenticated => {
                "Use a credential that is in force: --credential, or ask another operator for one (`muster operator add`)."
                    .into()
            }
            Self::Problem { problem, retry_after_s: None } => problem.remedy.clone(),
            Self::Answer { .. } => {
                "Check that the address is the admin listener of a Muster server of this version.".into()
            }
            Self::File { source, .. } => remedy_of_io(source.kind()).into(),
            Self::Output(_) => "Check where the output goes: a full disk, a closed pipe.".into(),
        }
    }

    /// The failure in two lines for a person.
    pub fn for_people(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !line.contains(&text) {
                line = format!("{}: {text}", line.trim_end_matches('.'));
            }
            cause = inner.source();
        }
        if !line.ends_with(['.', '?', '!']) {
            line.push('.');
        }
        let mut remedy = self.remedy();
        if !remedy.ends_with(['.', ')', '?']) {
            remedy.push('.');
        }
        format!("error: {}\nnext:  {}", super::table::plain(&line), super::table::plain(&remedy))
    }

    /// The failure as a program reads it: what the server said as it came, ours in the same shape.
    pub fn for_machines(&self) -> Failure {
        if let Self::Problem { problem, retry_after_s } = self {
            return Failure::from(&**problem).with_retry_after_s(*retry_after_s);
        }
        let code = match self.exit() {
            Exit::Usage => "usage",
            Exit::Refused => "refused",
            Exit::NotFound => "not_found",
            Exit::Unreachable => "unreachable",
            Exit::Done | Exit::Failed => "failed",
        };
        let mut detail = Vec::new();
        let mut cause = self.source();
        while let Some(inner) = cause {
            detail.push(inner.to_string());
            cause = inner.source();
        }
        Failure::own(code, self.to_string(), self.remedy(), self.exit())
            .with_detail((!detail.is_empty()).then(|| detail.join(": ")))
    }

    /// The same on one line.
    pub fn in_json(&self) -> String {
        serde_json::to_string(&self.for_machines()).unwrap_or_default()
    }
}

/// A sentence with its causes, and what to do next: the remedy of whichever of them names one, the outermost first.
fn in_two(error: &(dyn StdError + 'static)) -> (String, Option<String>) {
    let mut what = String::new();
    let mut remedy = None;
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        let (said, advice) = text.split_once("; ").map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        if what.is_empty() {
            said.clone_into(&mut what);
        } else if !what.contains(said) {
            what = format!("{what}: {said}");
        }
        remedy = remedy.or_else(|| advice.map(capitalised));
        let denied =
            inner.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        if denied {
            remedy = Some(remedy_of_io(io::ErrorKind::PermissionDenied).to_owned());
        }
        cause = inner.source();
    }
    (what, remedy)
}

/// What to do about an error that names nothing.
fn look() -> String {
    "See what it names, then run it again.".to_owned()
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// Title, detail and whatever helps to find the occurrence again, in one sentence.
fn sentence(problem: &Problem) -> String {
    let mut text = match &problem.detail {
        // The title says it in general, the detail of what.
        Some(detail) if matches!(problem.code, Code::NotFound | Code::Forbidden) => detail.clone(),
        Some(detail) => format!("{}: {detail}", problem.title.trim_end_matches('.')),
        None => problem.title.clone(),
    };
    let named =
        |field: &String| problem.detail.as_ref().is_some_and(|detail| detail.starts_with(field.as_str()));
    if let Some(field) = problem.field.as_ref().filter(|field| !named(field)) {
        text = format!("{} (field {field})", text.trim_end_matches('.'));
    }
    if let (Code::Internal, Some(id)) = (problem.code, &problem.request_id) {
        text = format!("{} (request {id})", text.trim_end_matches('.'));
    }
    text
}

fn remedy_of_io(kind: io::ErrorKind) -> &'static str {
    let told = [
        (io::ErrorKind::NotFound, "Check the path."),
        (
            io::ErrorKind::PermissionDenied,
            "Run it as the user who owns the path, or give that user the right.",
        ),
        (
            io::ErrorKind::AlreadyExists,
            "Nothing is overwritten: choose another name, or move the old one away.",
        ),
        (io::ErrorKind::StorageFull, "Free space on that file system, then run it again."),
    ];
    let found = told.iter().find(|(known, _)| *known == kind);
    found.map_or("Look at the path and the system's message, then run it again.", |(_, remedy)| remedy)
}

/// The exit code for a status whose body said nothing that we understand.
fn exit_of_status(status: u16) -> Exit {
    match status {
        404 => Exit::NotFound,
        400 | 405 | 413 | 415 | 422 => Exit::Usage,
        401 | 403 | 409 | 412 | 429 => Exit::Refused,
        502..=504 => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: Code) -> Error {
        Error::Problem {
            problem: Box::new(Problem::new(code).with_detail("serial S-1")),
            retry_after_s: None,
        }
    }

    #[test]
    fn a_problem_ends_with_the_exit_code_of_its_code() {
        for code in Code::ALL {
            assert_eq!(problem(*code).exit() as u8, code.exit_code(), "{code}");
        }
    }

    #[test]
    fn our_own_failures_have_the_documented_exit_codes() {
        let io = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let cases = [
            (Error::usage("a", "b"), 2),
            (Error::refused("a", "b"), 3),
            (Error::WrongServer { server: "s".into(), source: Box::new(io()) }, 3),
            (Error::WrongTime { server: "s".into(), source: Box::new(io()) }, 3),
            (Error::not_found("a", "b"), 4),
            (Error::file("read", Path::new("/x"))(io::ErrorKind::NotFound.into()), 4),
            (Error::file("read", Path::new("/x"))(io::ErrorKind::PermissionDenied.into()), 1),
            (Error::Unreachable { server: "s".into(), source: Box::new(io()) }, 5),
            (Error::NotRunning { what: "a".into(), remedy: "b".into() }, 5),
            (Error::failed("a", "b"), 1),
            (Error::Answer { server: "s".into(), status: 404, what: "text".into() }, 4),
            (Error::Answer { server: "s".into(), status: 502, what: "text".into() }, 5),
        ];
        for (error, exit) in cases {
            assert_eq!(error.exit() as u8, exit, "{error}");
            assert_eq!(error.for_machines().exit, exit, "{error}");
        }
    }

    #[test]
    fn people_get_one_sentence_and_what_to_do_next() {
        let text = problem(Code::ProfileUnknown).for_people();
        assert_eq!(
            text,
            "error: There is no such profile: serial S-1.\nnext:  Choose one that `muster profile list` shows."
        );
    }

    #[test]
    fn what_other_rooms_say_becomes_a_sentence_and_a_remedy() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot listen on 127.0.0.1:1; choose another port")]
        struct Other(#[source] io::Error);
        let error = Error::told(&Other(io::Error::other("in use")));
        assert_eq!(
            error.for_people(),
            "error: cannot listen on 127.0.0.1:1: in use.\nnext:  Choose another port."
        );
    }

    #[test]
    fn a_remedy_that_a_cause_names_is_told_and_a_denied_permission_is_never_mistaken_for_a_full_disk() {
        #[derive(Debug, thiserror::Error)]
        #[error("the keys could not be read")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("a.key is missing; restore it")]
        struct Inner(#[source] io::Error);
        let missing = Error::told(&Outer(Inner(io::Error::other("no such file"))));
        assert_eq!(
            missing.for_people(),
            "error: the keys could not be read: a.key is missing: no such file.\nnext:  Restore it."
        );
        let denied = Error::told(&Outer(Inner(io::ErrorKind::PermissionDenied.into())));
        assert!(denied.for_people().contains("Run it as the user who owns the path"), "{denied}");
    }

    #[test]
    fn the_cause_is_told_once() {
        let error = Error::file("read", Path::new("/x/a.pub"))(io::Error::other("the disk is on fire"));
        assert!(error.for_people().starts_with("error: Cannot read /x/a.pub: the disk is on fire.\n"));
    }

    #[test]
    fn machines_get_the_servers_document_as_it_came() {
        let document = problem(Code::Conflict).for_machines();
        assert_eq!((document.code.as_str(), document.detail.as_deref()), ("conflict", Some("serial S-1")));
        assert_eq!((document.status, document.exit), (Some(409), 3));
    }

    #[test]
    fn a_file_to_be_read_that_is_not_there_is_not_found_and_a_place_to_write_to_is_a_failure() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Error::file("read", Path::new("a.pub"))(missing()).exit(), Exit::NotFound);
        assert_eq!(Error::file("create", Path::new("x/a.key"))(missing()).exit(), Exit::Failed);
        let settings = ConfigError::Unreadable { path: "m.toml".into(), source: missing() };
        assert_eq!(Error::settings(settings).exit(), Exit::NotFound);
    }

    #[test]
    fn a_data_directory_in_which_nothing_was_founded_is_not_found_and_says_how_it_is_founded() {
        let error = Error::founding(&FoundError::NotFounded { dir: "d".into() });
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.remedy().contains("muster init --data-dir d"), "{}", error.remedy());
        assert_eq!(Error::founding(&FoundError::Interrupted { dir: "d".into() }).exit(), Exit::Failed);
    }

    #[test]
    fn settings_that_are_wrong_are_a_mistake_with_a_remedy_of_its_own() {
        for text in ["listen = [", "[log]\nformat = \"loud\"", "[listen]\ndevcie = \"x\""] {
            let cause = crate::config::Settings::default().apply_file("m.toml", text).unwrap_err();
            let error = Error::settings(cause);
            assert_eq!(error.exit(), Exit::Usage, "{text}");
            assert!(!error.remedy().contains("See what it names"), "{}", error.for_people());
            assert!(!error.for_people().contains("?."), "{}", error.for_people());
        }
    }

    #[test]
    fn what_is_not_there_is_said_once() {
        let lost = Problem::new(Code::NotFound).with_detail("There is no such profile.");
        let error = Error::Problem { problem: Box::new(lost), retry_after_s: None };
        assert!(
            error.for_people().starts_with("error: There is no such profile.\n"),
            "{}",
            error.for_people()
        );
        let wrong =
            Problem::new(Code::ValidationFailed).with_detail("site must be shorter").with_field("site");
        let error = Error::Problem { problem: Box::new(wrong), retry_after_s: None };
        assert!(!error.to_string().contains("(field site)"), "{error}");
    }

    #[test]
    fn an_operator_whose_credential_is_void_is_not_told_of_devices() {
        let error = problem(Code::Unauthenticated);
        assert!(!error.remedy().contains("device"), "{}", error.remedy());
    }

    #[test]
    fn what_the_server_says_cannot_steer_the_terminal() {
        let hostile = Problem::new(Code::Conflict).with_detail("\u{1b}[2Jgone");
        let error = Error::Problem { problem: Box::new(hostile), retry_after_s: None };
        assert!(!error.for_people().contains('\u{1b}'));
    }
}
