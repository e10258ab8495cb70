//! Developer tasks: `cargo xtask <task>`.
//!
//! A task is one file; what it may assume about the machine is in its header. Tasks print what they do, one
//! headline per step, and end with exit code 0 (done), 1 (red) or 2 (usage).

mod bench;
mod ci;
mod demo;
mod deny;
mod layers;
mod packages;
#[cfg(test)]
mod readme;
mod soak;
mod task;
mod test;

use std::process::ExitCode;
use task::{Failure, Workspace};

const USAGE: &str = "usage: cargo xtask <task>
  ci                                                    the whole proof of a change; what .ci/run calls
  test [--stories | --attacks] [--repeat N] [NAME]      every test; installs what they use
  demo [--keep] [--json]                                builds both programs and runs `muster demo`
  soak [--minutes N | --seconds N] [--agents N] [--seed S] [--no-loss] [--json FILE]
                                                        a fleet on a bad line, judged every second; 15 minutes, 500 agents
  bench [NAME…] [--json FILE]                           figures beside gates and targets; NAME is a row, M1 for instance
  layers                                                file and line of every forbidden arrow
  advisories --db DIR                                   dependencies against a checkout of RustSec's database";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let task = arguments.remove(0);
    match run(&task, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn run(task: &str, arguments: &[String]) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    match (task, arguments) {
        ("ci", []) => ci::run(&workspace),
        ("test", _) => test::run(&workspace, arguments),
        ("demo", _) => demo::run(&workspace, arguments),
        ("bench", _) => bench::run(&workspace, arguments),
        ("soak", _) => soak::run(&workspace, arguments),
        ("layers", []) => layers::run(&workspace),
        ("advisories", _) => deny::advisories(&workspace, arguments),
        _ => Err(Failure::Usage { text: USAGE.to_owned() }),
    }
}
