//! `cargo xtask soak`: a fleet on a bad line for fifteen minutes, in a network of its own, judged every second.
//!
//! Builds the programs, then starts `soak` of the tests' crate by `unshare`, with network and processes of its own: what
//! it does to packets reaches nobody else, and when it ends, however it ends, the kernel ends whatever it started. Whoever
//! is not root becomes it inside a user namespace, where the system allows that.

use crate::packages;
use crate::task::{Failure, Workspace};
use std::path::Path;
use std::process::Command;

/// The minute that is part of `cargo xtask ci`: few enough devices to gather in seconds on two busy cores.
const MINUTE: [&str; 4] = ["--seconds", "60", "--agents", "100"];

/// Runs the soak that `arguments` ask for.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    packages::ensure()?;
    build(workspace)?;
    let place = workspace.target.join("soak");
    make_empty(&place)?;
    let is_lossy = !arguments.iter().any(|word| word == "--no-loss");
    let mut soak = if is_lossy { apart() } else { Command::new("setpriv") };
    if !is_lossy {
        soak.args(["--pdeathsig", "KILL", "--"]);
    }
    soak.arg(workspace.target.join("debug/soak")).args(arguments).current_dir(&workspace.root);
    soak.env("MUSTER_SOAK_DIR", place.join("logs")).env("TMPDIR", place.join("places"));
    soak.env("MUSTER_BIN", workspace.target.join("debug/muster"));
    soak.env("MUSTER_AGENT_BIN", workspace.target.join("debug/muster-agent"));
    let status = soak.status().map_err(|cause| Failure::Spawn { program: "unshare".into(), cause })?;
    // Whatever a killed run could not remove.
    std::fs::remove_dir_all(place.join("places")).map_err(Failure::file(&place))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(2) => Err(Failure::Usage { text: "see `cargo xtask`".to_owned() }),
        _ => Err(Failure::red(
            "the soak did not hold, or could not be run",
            format!("read the list above; logs are in {}; --seed repeats it", place.join("logs").display()),
        )),
    }
}

/// The minute of it that belongs to the proof of every change.
pub(crate) fn minute(workspace: &Workspace) -> Result<(), Failure> {
    run(workspace, &MINUTE.map(str::to_owned))
}

/// A command that runs what follows with network and processes of its own, which end with it and with us.
fn apart() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare"]);
    if !is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn make_empty(place: &Path) -> Result<(), Failure> {
    if place.exists() {
        std::fs::remove_dir_all(place).map_err(Failure::file(place))?;
    }
    std::fs::create_dir_all(place.join("places")).map_err(Failure::file(place))
}

fn build(workspace: &Workspace) -> Result<(), Failure> {
    // As the tests are built, so that nothing is compiled twice.
    let mut build = workspace.cargo_with(&["build", "--workspace", "--bins", "--tests", "--locked"]);
    let status = build.status().map_err(|cause| Failure::Spawn { program: "cargo".into(), cause })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::red("the workspace does not build", "read the first error above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_apart_in_network_and_processes_and_ends_with_us() {
        let command = format!("{:?}", apart());
        for word in ["--pdeathsig\" \"KILL", "--net", "--pid", "--kill-child"] {
            assert!(command.contains(word), "{word}: {command}");
        }
    }

    #[test]
    fn a_place_is_empty_whatever_was_left_there() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("soak");
        for _ in 0..2 {
            make_empty(&place).unwrap();
            assert_eq!(std::fs::read_dir(place.join("places")).unwrap().count(), 0);
            std::fs::write(place.join("places/left"), "x").unwrap();
        }
    }
}
