//! `muster`: server, operator CLI and demo in one binary.

use mimalloc::MiMalloc;
use muster_server::cli::error::Error;
use muster_server::cli::output::{Output, say};
use muster_server::cli::{self, Command, Global, ServeArgs};
use muster_server::config::misspelt;
use muster_server::demo;
use muster_server::serve::{self, ServeError, ServeOptions};
use muster_wire::problem::Exit;
use std::process::ExitCode;

/// Why not the system's: docs/adr/0009-mimalloc.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(parsed) => match parsed.command {
            Command::Serve(args) => serve(&parsed.global, args),
            Command::Demo(args) => demo::run(&args, parsed.global.json),
            Command::Operate(operation) => {
                warn(&parsed.global);
                cli::run(parsed.global, operation)
            }
        },
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}

/// Tells a person of variables that are set in vain; a program finds on standard error what is about to be signed, and
/// as the last line of a failure a problem document.
fn warn(global: &Global) {
    if !global.json {
        misspelt::warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
    }
}

fn serve(global: &Global, args: ServeArgs) -> Exit {
    let served = serve::run(&ServeOptions { data_dir: global.data_dir(), config: args.config });
    let failure = match served {
        Ok(()) => return Exit::Done,
        Err(ServeError::Config(cause)) => Error::settings(cause),
        Err(ServeError::Found(cause)) => Error::founding(&cause),
        Err(error) => Error::told(&error),
    };
    cli::report(&failure, &Output::of_process(global.json))
}
