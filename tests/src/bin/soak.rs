//! `soak`: what `cargo xtask soak` starts, in a network namespace and among processes of its own.
//!
//! `MUSTER_SOAK_DIR` names the directory for logs.

use muster_tests::soak::{Options, soak};
use std::path::PathBuf;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed[..4]).is_err() {
        eprintln!("red: the system gives no randomness for a seed; use --seed");
        return ExitCode::from(1);
    }
    let options = match Options::read(std::env::args().skip(1), u64::from_le_bytes(seed)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    let archive = std::env::var_os("MUSTER_SOAK_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    match Box::pin(soak(options, &archive)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(why) => {
            eprintln!("red: {why}");
            ExitCode::from(1)
        }
    }
}
