//! What the agent does: the command line, the files, the sockets, the keys. What it decides is in [`crate::core`].

pub mod backoff;
pub mod cli;
pub mod commands;
pub mod doctor;
pub mod failure;
pub mod files;
pub mod http;
pub mod journal;
pub mod keystore;
pub mod lock;
pub mod output;
pub mod place;
pub mod run;
pub mod tls;

use std::process::ExitCode;

use clap::Parser;
use muster_wire::problem::Exit;

use cli::{Cli, Command};
use output::Manner;
use place::Place;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let manner = if cli.global.json { Manner::Json } else { Manner::Text };
    let result = Place::new(&cli.global).and_then(|place| match &cli.command {
        Command::Enroll(args) => commands::enroll(&place, args, manner),
        Command::Status => commands::status(&place, manner),
        Command::Renew(args) => commands::renew(&place, args, manner),
        Command::Doctor => doctor::doctor(&place, manner),
    });
    let exit = match result {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output::failure(manner, &failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}
