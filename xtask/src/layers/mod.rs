//! `cargo xtask layers`: which way the arrows run.
//!
//! Reads every crate's manifest and every source file and names file and line of each arrow that the tables in
//! [`rules`] do not draw. It refuses to guess: a room that no table knows, a glob over the crate root and a
//! `#[path]` attribute are violations too, because behind them an arrow could hide.

mod manifests;
mod paths;
mod rules;
mod secrets;
mod sources;
#[cfg(test)]
mod tests;

use crate::task::{Failure, Workspace};
use std::fmt;
use std::path::{Path, PathBuf};

/// One arrow that must not be there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// File, relative to the root of the workspace.
    pub(crate) file: PathBuf,
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// What is there and which rule forbids it.
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// What was looked at and what was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Number of files read.
    pub(crate) files: usize,
    /// Forbidden arrows, in order of file and line.
    pub(crate) violations: Vec<Violation>,
}

/// Prints every violation; red when there is one.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let findings = check(&workspace.root)?;
    for violation in &findings.violations {
        println!("{violation}");
    }
    if !findings.violations.is_empty() {
        return Err(Failure::red(
            format!("{} forbidden arrows or loud secrets", findings.violations.len()),
            "move the code to the room that may say it, or change xtask/src/layers/rules.rs with an ADR",
        ));
    }
    println!("layers: {} files, every arrow runs the right way, no secret prints itself", findings.files);
    Ok(())
}

/// Looks at every crate of the workspace in `root`.
pub(crate) fn check(root: &Path) -> Result<Findings, Failure> {
    let mut findings = Findings::default();
    for member in manifests::members(root)? {
        manifests::check(root, &member, &mut findings)?;
        sources::check(root, &member, &mut findings)?;
        secrets::check(root, &member, &mut findings)?;
    }
    findings.violations.sort();
    findings.violations.dedup();
    Ok(findings)
}
