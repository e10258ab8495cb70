//! What every task shares: where the workspace is, how a child process is run, how a task fails.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Why a task ended red, and what to do about it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line was not understood.
    Usage {
        /// The lines that say how it is spelled.
        text: String,
    },
    /// Something that was checked does not hold.
    Red {
        /// What does not hold.
        what: String,
        /// What to do next.
        remedy: String,
    },
    /// A program could not be started.
    Spawn {
        /// The program.
        program: String,
        /// Why it could not be started.
        cause: std::io::Error,
    },
    /// A file could not be read or written.
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
}

impl Failure {
    /// 2 for a wrong command line, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage { .. } => ExitCode::from(2),
            Self::Red { .. } | Self::Spawn { .. } | Self::File { .. } => ExitCode::from(1),
        }
    }

    /// A check that does not hold, and what to do next.
    pub(crate) fn red(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Red { what: what.into(), remedy: remedy.into() }
    }

    /// For `map_err` on what touches `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::File { path, cause }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage { text } => out.write_str(text),
            Self::Red { what, remedy } => write!(out, "red: {what}\ndo:  {remedy}"),
            Self::Spawn { program, cause } => write!(out, "red: cannot start {program}: {cause}"),
            Self::File { path, cause } => write!(out, "red: {}: {cause}", path.display()),
        }
    }
}

/// The root of this repository and the directory that cargo builds into.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// Directory of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from.
    pub(crate) fn find() -> Result<Self, Failure> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().unwrap_or(here).to_owned();
        if !root.join("Cargo.lock").is_file() {
            return Err(Failure::red(
                format!("no workspace at {}", root.display()),
                "run `cargo xtask` inside the clone it was built in",
            ));
        }
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(named) => root.join(named),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// [`Workspace::cargo`] with `arguments`.
    pub(crate) fn cargo_with(&self, arguments: &[&str]) -> Command {
        let mut command = self.cargo();
        command.args(arguments);
        command
    }

    /// Cargo, in the root of the workspace, free of what the outer `cargo run` left in the environment.
    ///
    /// Build scripts watch variables such as `CARGO_MANIFEST_DIR`; inherited from `cargo xtask` they would make
    /// every nested build start over.
    pub(crate) fn cargo(&self) -> Command {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            let left_by_cargo = name.to_str().is_some_and(|name| {
                ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            });
            if left_by_cargo {
                command.env_remove(name);
            }
        }
        command
    }
}
