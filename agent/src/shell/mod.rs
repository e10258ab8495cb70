//! What the agent does: the command line, the files, the sockets, the keys. What it decides is in [`crate::core`].

pub mod backoff;
pub mod boottime;
pub mod cli;
pub mod commands;
pub mod deeds;
pub mod doctor;
mod environment;
pub mod failure;
pub mod files;
pub mod http;
pub mod journal;
pub mod keystore;
pub mod lock;
pub mod mqtt;
pub mod outbox;
pub mod output;
pub mod own;
pub mod place;
pub mod run;
pub mod session;
pub mod simulate;
mod terminal;
pub mod tls;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use muster_wire::problem::Exit;

use cli::{Cli, Command};
use failure::Failure;
use output::Manner;
use place::Place;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let (result, manner) = match Cli::try_parse_from(&words) {
        Ok(cli) => {
            let manner = if cli.global.json { Manner::Json } else { Manner::Text };
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            output::warnings(manner, &environment::in_vain(names));
            (run(&cli, manner), manner)
        }
        Err(mistake) if mistake.use_stderr() && words.iter().any(|word| word == "--json") => {
            let what = mistake.render().to_string();
            let first = what.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            (Err(Failure::Usage { what: first }), Manner::Json)
        }
        Err(mistake) => {
            // Nobody may be reading any more; the exit code is what counts.
            let _ = mistake.print();
            return ExitCode::from(if mistake.use_stderr() { Exit::Usage } else { Exit::Done } as u8);
        }
    };
    let exit = match result {
        Ok(()) => Exit::Done,
        Err(failure) => {
            output::failure(manner, &failure);
            failure.exit()
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: &Cli, manner: Manner) -> Result<(), Failure> {
    let place = Place::new(&cli.global)?;
    match &cli.command {
        Command::Enroll(args) => commands::enroll(&place, args, manner),
        Command::Simulate(args) => simulate::simulate(&cli.global, args, manner),
        Command::Run => commands::run(&place, manner),
        Command::Status => commands::status(&place, manner),
        Command::Renew(args) => commands::renew(&place, args, manner),
        Command::Posture => commands::posture(&place, manner),
        Command::Doctor => doctor::doctor(&place, manner),
        Command::Plan => commands::plan(&place, manner),
        Command::Wipe(args) => commands::wipe(&place, args, manner),
    }
}
