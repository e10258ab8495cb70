//! `cargo xtask demo`: builds both programs and lets `muster demo` tell the story.

use crate::task::{Failure, Workspace};

/// Runs `muster demo` with `arguments`; its exit code decides.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let spawn = |program: &str| {
        let program = program.to_owned();
        move |cause| Failure::Spawn { program, cause }
    };
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--package", "muster-server", "--package", "muster-agent", "--bins"]);
    if !build.status().map_err(spawn("cargo"))?.success() {
        return Err(Failure::red("the programs do not build", "read the first error above"));
    }
    let muster = workspace.target.join("debug/muster");
    let mut story = std::process::Command::new(&muster);
    story.arg("demo").args(arguments).current_dir(&workspace.root);
    if !story.status().map_err(spawn("muster"))?.success() {
        return Err(Failure::red("a step of the demo does not hold", "the step is named above"));
    }
    Ok(())
}
