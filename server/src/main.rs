//! `muster`: server, operator CLI and demo in one binary.

use muster_server::cli::{self, Command};
use muster_server::demo;
use muster_wire::problem::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(parsed) => match parsed.command {
            Command::Serve(_) => Exit::Failed,
            Command::Demo(args) => demo::run(&args, parsed.global.json),
            Command::Operate(operation) => cli::run(parsed.global, operation),
        },
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}
