//! `cargo xtask ci`: the whole proof of a change, cheapest step first, stopping at the first red.

use crate::task::{Failure, Workspace};
use crate::{deny, layers, soak, test};
use std::time::Instant;

/// One step: its headline, and what it runs.
type Step = (&'static str, fn(&Workspace) -> Result<(), Failure>);

const STEPS: &[Step] = &[
    ("fmt", |workspace| cargo(workspace, &["fmt", "--all", "--check"], "run `cargo fmt --all`")),
    ("layers", layers::run),
    ("deny", deny::check),
    ("clippy", |workspace| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        cargo(workspace, &arguments, "mend what clippy names; an exception needs its reason")
    }),
    ("doc", |workspace| {
        let mut command = workspace.cargo_with(&["doc", "--workspace", "--no-deps", "--locked"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        settle(command, "mend the documentation that rustdoc names")
    }),
    ("test", |workspace| test::run(workspace, &[])),
    ("soak", soak::minute),
];

/// Runs every step; says how long each took.
pub(crate) fn run(workspace: &Workspace) -> Result<(), Failure> {
    let begun = Instant::now();
    let count = STEPS.len();
    for (at, (name, step)) in STEPS.iter().enumerate() {
        println!("── {} of {count}: {name}", at + 1);
        let step_begun = Instant::now();
        if let Err(failure) = step(workspace) {
            println!(
                "── {name} is red after {:.1} s; the steps after it did not run",
                step_begun.elapsed().as_secs_f64()
            );
            return Err(failure);
        }
        println!("── {name} is green after {:.1} s", step_begun.elapsed().as_secs_f64());
    }
    println!("── all {count} green after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(workspace: &Workspace, arguments: &[&str], remedy: &str) -> Result<(), Failure> {
    settle(workspace.cargo_with(arguments), remedy)
}

fn settle(mut command: std::process::Command, remedy: &str) -> Result<(), Failure> {
    let status = command.status().map_err(|cause| Failure::Spawn { program: "cargo".into(), cause })?;
    if status.success() { Ok(()) } else { Err(Failure::red(format!("cargo ended with {status}"), remedy)) }
}
