//! What the agent does: the command line, the files, the sockets, the keys.

pub mod backoff;
pub mod cli;
pub mod files;
pub mod journal;
pub mod lock;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        cli::Command::Enroll(_) | cli::Command::Status | cli::Command::Renew(_) | cli::Command::Doctor => {
            unimplemented!("the loop follows")
        }
    }
}
