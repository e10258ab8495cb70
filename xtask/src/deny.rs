//! cargo-deny: licences, bans and sources in `cargo xtask ci`; advisories by hand, from a database on disk.
//!
//! No registry carries a built cargo-deny, so the first use builds it, without optimisation, into `target/tools`:
//! about a minute on two cores.

use crate::task::{Failure, Workspace};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// How the task is spelled.
pub(crate) const USAGE: &str =
    "usage: cargo xtask advisories --db DIR   (a checkout of RustSec's advisory-db)";

/// The directory in which cargo-deny looks for RustSec's database: the name holds a hash of its address.
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// Licences, bans and sources of every dependency, as `deny.toml` says.
pub(crate) fn check(workspace: &Workspace) -> Result<(), Failure> {
    let mut command = deny(workspace)?;
    // Duplicates are reported in a few lines each; `cargo deny check` alone draws who pulls them in.
    command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    settle(command, "change the dependency, or deny.toml with a dated reason")
}

/// Every dependency against a database of advisories on disk.
pub(crate) fn advisories(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let [flag, directory] = arguments else { return Err(Failure::Usage { text: USAGE.to_owned() }) };
    if flag != "--db" {
        return Err(Failure::Usage { text: USAGE.to_owned() });
    }
    let database = std::path::absolute(directory).map_err(Failure::file(Path::new(directory)))?;
    if !database.join("crates").is_dir() {
        return Err(Failure::red(
            format!("{} is no advisory database: it has no `crates`", database.display()),
            "git clone https://github.com/RustSec/advisory-db, and name that directory",
        ));
    }
    place(workspace, &database)?;
    println!("advisories as of {}", age(&database));
    // The database is taken as it is, so nothing may be fetched while it is read; crates must be here already.
    settle(workspace.cargo_with(&["fetch", "--locked"]), "look whether cargo reaches its registry")?;
    let mut command = deny(workspace)?;
    command.args(["--offline", "check", "advisories"]);
    settle(command, "update the dependency, or write a dated exception into deny.toml")
}

/// Puts the database where cargo-deny looks for a clone of its own.
fn place(workspace: &Workspace, database: &Path) -> Result<(), Failure> {
    let clone = workspace.root.join("target/advisories").join(DATABASE);
    let marker = clone.join(".git");
    std::fs::create_dir_all(&marker).map_err(Failure::file(&marker))?;
    // cargo-deny reads the age of its clone from this file; the true age is printed beside the answer.
    let fetched = marker.join("FETCH_HEAD");
    std::fs::write(&fetched, "").map_err(Failure::file(&fetched))?;
    let link = clone.join("crates");
    if link.is_symlink() {
        std::fs::remove_file(&link).map_err(Failure::file(&link))?;
    }
    std::os::unix::fs::symlink(database.join("crates"), &link).map_err(Failure::file(&link))
}

fn age(database: &Path) -> String {
    let asked = Command::new("git").arg("-C").arg(database).args(["log", "-1", "--format=%cs"]).output();
    let date = asked.ok().filter(|answer| answer.status.success());
    let date = date.map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned());
    date.unwrap_or_else(|| "an unknown day: the directory is no git checkout".to_owned())
}

/// cargo-deny, built first when it is not there.
fn deny(workspace: &Workspace) -> Result<Command, Failure> {
    let home = workspace.target.join("tools");
    let program = home.join("bin/cargo-deny");
    if !is_version(&program) {
        println!("building cargo-deny {VERSION} into {}", home.display());
        let mut install = workspace.cargo();
        install.args([
            "install",
            "cargo-deny",
            "--quiet",
            "--locked",
            "--debug",
            "--force",
            "--version",
            VERSION,
        ]);
        install.arg("--root").arg(&home).env("CARGO_PROFILE_DEV_DEBUG", "0");
        settle(install, "look whether cargo reaches its registry")?;
    }
    let mut command = Command::new(program);
    command.current_dir(&workspace.root).arg("--locked");
    Ok(command)
}

fn is_version(program: &PathBuf) -> bool {
    let asked = Command::new(program).arg("--version").output();
    asked.is_ok_and(|answer| answer.stdout.trim_ascii() == format!("cargo-deny {VERSION}").as_bytes())
}

fn settle(mut command: Command, remedy: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|cause| Failure::Spawn { program: program.clone(), cause })?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::red(format!("{program} ended with {status}"), remedy))
    }
}
