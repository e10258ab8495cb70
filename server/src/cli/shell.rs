//! `muster completions` and `muster man`: what a shell and a manual reader want.

use super::error::Error;
use super::{Context, definition};
use clap::Args;
use clap_complete::Shell;
use muster_wire::problem::Exit;
use std::path::PathBuf;

/// What `muster completions` takes.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// What `muster man` takes.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write one page for every command into this directory instead, which is made where it is not there
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints the completions of one shell.
///
/// # Errors
/// [`Error::Output`] when standard output cannot be written.
pub fn completions(context: &Context, args: &CompletionsArgs) -> Result<Exit, Error> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "muster", &mut text);
    context.out.raw(&text)?;
    Ok(Exit::Done)
}

/// Prints the manual page, or writes one for every command.
///
/// # Errors
/// [`Error::Output`] or [`Error::File`] when it cannot be written.
pub fn man(context: &Context, args: &ManArgs) -> Result<Exit, Error> {
    match &args.directory {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
            clap_mangen::generate_to(definition(), directory)
                .map_err(Error::file("write pages to", directory))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(definition()).render(&mut page).map_err(Error::Output)?;
            context.out.raw(&page)?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_gets_completions_and_every_command_a_page() {
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut definition(), "muster", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("completions"), "{shell}");
        }
        let directory = tempfile::TempDir::new().unwrap();
        clap_mangen::generate_to(definition(), directory.path()).unwrap();
        for page in ["muster.1", "muster-token-create.1", "muster-device-revoke.1"] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
    }
}
