//! `muster`: server, operator CLI and demo in one binary.

use muster_server::cli::{self, Command};
use muster_server::demo;
use muster_server::serve::{self, ServeOptions};
use muster_wire::problem::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(parsed) => match parsed.command {
            Command::Serve(args) => {
                let data_dir = parsed.global.data_dir();
                let served = serve::run(&ServeOptions { data_dir, config: args.config });
                served.map_or_else(|error| failed(&error), |()| Exit::Done)
            }
            Command::Demo(args) => demo::run(&args, parsed.global.json),
            Command::Operate(operation) => cli::run(parsed.global, operation),
        },
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}

/// Tells on standard error why the server does not run, with its causes.
fn failed(error: &dyn std::error::Error) -> Exit {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    eprintln!("muster serve: {text}");
    Exit::Failed
}
