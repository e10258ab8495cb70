//! `muster`: server, operator CLI and demo in one binary.

use muster_server::cli::{self, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(parsed) => match parsed.command {
            Command::Serve(_) | Command::Demo(_) => muster_wire::problem::Exit::Failed,
            Command::Operate(operation) => cli::run(parsed.global, operation),
        },
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}
