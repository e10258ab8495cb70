//! The operator's commands: thin clients of the REST API.
//!
//! One file per family of commands. Every command prints a table for people and, with `--json`, something stable
//! for programs; every failure is one sentence and what to do next ([`error`]), and ends with one of the exit
//! codes of `contract.md`. Nothing here decides what the server decides: a command asks, shows, and asks a person
//! before it destroys.

mod approver_key;
pub mod audit;
pub mod authority;
mod authority_paper;
pub mod authority_sign;
pub mod baseline;
mod baseline_sign;
pub mod ca;
pub mod client;
pub mod confirm;
pub mod connection;
pub mod credential;
pub mod device;
mod difference;
pub mod doctor;
pub mod error;
mod foresee;
pub mod init;
pub mod observer;
pub mod operator;
pub mod order;
pub mod output;
pub mod profile;
pub mod rails;
pub mod record;
pub mod shell;
pub mod table;
pub mod token;
pub mod verify;
pub mod warrant;
mod warrant_paper;
mod warrant_sign;

use crate::clock::Clock;
use crate::config::KEYS;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use client::Client;
use error::Error;
use muster_wire::problem::Exit;
use output::Output;
use std::ffi::OsString;
use std::path::PathBuf;

/// Where a server lives when nobody says otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/muster";

/// `muster`: enrols devices, keeps them fit, lets them go safely.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    about = "Enrols devices, keeps them fit, lets them go safely.",
    after_help = "Begin with `muster demo`: the life of one device on this machine.\n\
                  Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 not found, 5 unreachable."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Data directory of a local server [env: MUSTER_DATA_DIR] [default: /var/lib/muster]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub data_dir: Option<PathBuf>,
    /// Admin listener to talk to, https://host:port [env: MUSTER_SERVER]
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    pub server: Option<String>,
    /// Credential file of an operator [env: MUSTER_CREDENTIAL]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub credential: Option<PathBuf>,
    /// Print JSON; on failure the last line on standard error is a problem document
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Do not ask before destroying something
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub yes: bool,
}

impl Global {
    /// The data directory: as given, as `MUSTER_DATA_DIR` says, or the default.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir_from(|name| std::env::var_os(name))
    }

    fn data_dir_from(&self, environment: impl Fn(&str) -> Option<OsString>) -> PathBuf {
        let variable = || environment("MUSTER_DATA_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.data_dir.clone().or_else(variable).unwrap_or_else(|| DEFAULT_DATA_DIR.into())
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole life of a device on this machine, every step against running processes
    Demo(DemoArgs),
    /// Serve devices and operators until told to stop
    #[command(after_long_help = settings_help())]
    Serve(ServeArgs),
    /// A command for an operator.
    #[command(flatten)]
    Operate(Operation),
}

/// Every setting with its default, for `muster serve --help`.
fn settings_help() -> String {
    let mut text = String::from(
        "Settings, in the file or as a variable (listen.device is MUSTER_LISTEN_DEVICE); variables win:\n",
    );
    for key in KEYS {
        let default = if key.default.is_empty() { "unset" } else { key.default };
        text.push_str(&format!("\n  {} [default: {default}]\n      {}\n", key.name, key.help));
    }
    text
}

/// What `muster demo` takes.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Keep the directory with everything the demo made
    #[arg(long)]
    pub keep: bool,
}

/// What `muster serve` takes.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Settings file; `<data-dir>/muster.toml` when it is there
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Every command but `serve` and `demo`.
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Found a server: certificate authorities, keys and the authority document
    Init(init::InitArgs),
    /// Approvers' keys, and who may call the REST API
    #[command(subcommand)]
    Operator(operator::OperatorCommand),
    /// Who may hear events over MQTT
    #[command(subcommand)]
    Observer(observer::ObserverCommand),
    /// Who may order what
    #[command(subcommand)]
    Authority(authority::AuthorityCommand),
    /// One-time enrolment tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Devices
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// What approvers allow, and their signatures
    #[command(subcommand)]
    Warrant(warrant::WarrantCommand),
    /// What was asked of devices, and what came of it
    #[command(subcommand)]
    Order(order::OrderCommand),
    /// What devices of a profile should be like
    #[command(subcommand)]
    Baseline(baseline::BaselineCommand),
    /// Firmware profiles: what a device of a kind should be
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// The certificate authorities
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// How much may be destroyed at a time, and what waits
    Rails(rails::RailsArgs),
    /// Let nothing leave to any device until approvers lift it
    Freeze(rails::FreezeArgs),
    /// The tamper-evident log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look at a server from all sides and say what is wrong
    Doctor,
    /// Print completions for a shell
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write one for every command
    Man(shell::ManArgs),
}

/// What a running command has at hand.
#[derive(Clone, Debug)]
pub struct Context {
    /// What every command takes.
    pub global: Global,
    /// Where it prints.
    pub out: Output,
    /// What time it is.
    pub clock: Clock,
}

impl Context {
    /// The context of this process.
    pub fn of_process(global: Global) -> Self {
        let out = Output::of_process(global.json);
        Self { global, out, clock: Clock::system() }
    }

    /// A client of the server that options, environment or data directory lead to.
    ///
    /// # Errors
    /// As [`credential::find`] and [`Client::new`].
    pub fn client(&self) -> Result<Client, Error> {
        let access = credential::find(&self.global, |name| std::env::var_os(name))?;
        Client::new(&access)
    }
}

/// Reads the command line. Help and version are printed and answer [`Exit::Done`], mistakes [`Exit::Usage`].
///
/// # Errors
/// The exit code to end with when there is nothing to run.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    Cli::try_parse_from(&arguments).map_err(|mistake| {
        if !mistake.use_stderr() {
            // A closed pipe behind `muster --help | head` is nobody's failure.
            let _ = mistake.print();
            return Exit::Done;
        }
        if arguments.iter().any(|argument| argument == "--json") {
            let what = mistake.render().to_string();
            let first = what.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            output::say(&Error::usage(first, "See `muster --help`.").in_json());
        } else {
            let _ = mistake.print();
        }
        Exit::Usage
    })
}

/// Runs `operation` to its end and says how it went.
pub fn run(global: Global, operation: Operation) -> Exit {
    let context = Context::of_process(global);
    run_in(&context, operation).unwrap_or_else(|error| report(&error, &context.out))
}

fn run_in(context: &Context, operation: Operation) -> Result<Exit, Error> {
    // Founding waits for the store itself, and so stands outside the runtime.
    if let Operation::Init(args) = operation {
        return init::run(context, &args);
    }
    if let Operation::Operator(operator::OperatorCommand::Add { name, out, offline: true }) = operation {
        return operator::add_offline(context, &name, out).map(|()| Exit::Done);
    }
    if let Operation::Ca(command) = &operation
        && ca::offline(context, command)?
    {
        return Ok(Exit::Done);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Error::failed(format!("No task can be run: {cause}"), "Free some memory."))?;
    runtime.block_on(dispatch(context, operation))
}

/// Says on standard error why a command failed, and answers its exit code.
pub fn report(error: &Error, out: &Output) -> Exit {
    if error.is_closed_pipe() {
        return Exit::Done;
    }
    output::say(&if out.is_json() { error.in_json() } else { error.for_people() });
    error.exit()
}

/// For clap: how many, of which none makes no sense.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number, 1 or more".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// The command line as clap knows it, for completions and manual pages.
pub fn definition() -> clap::Command {
    Cli::command()
}

async fn dispatch(context: &Context, operation: Operation) -> Result<Exit, Error> {
    match operation {
        Operation::Init(args) => init::run(context, &args),
        Operation::Operator(command) => operator::run(context, command).await,
        Operation::Observer(command) => observer::run(context, command).await,
        Operation::Authority(command) => authority::run(context, command).await,
        Operation::Token(command) => token::run(context, command).await,
        Operation::Device(command) => device::run(context, command).await,
        Operation::Warrant(command) => warrant::run(context, command).await,
        Operation::Order(command) => order::run(context, command).await,
        Operation::Baseline(command) => baseline::run(context, command).await,
        Operation::Profile(command) => profile::run(context, command).await,
        Operation::Ca(command) => ca::run(context, command).await,
        Operation::Rails(args) => rails::run(context, &args).await,
        Operation::Freeze(args) => rails::freeze(context, &args).await,
        Operation::Audit(command) => audit::run(context, command).await,
        Operation::Doctor => doctor::run(context).await,
        Operation::Completions(args) => shell::completions(context, &args),
        Operation::Man(args) => shell::man(context, &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        definition().debug_assert();
    }

    #[test]
    fn every_command_of_this_release_is_understood() {
        for line in [
            "muster demo --keep --json",
            "muster init --public-name h.example --approver a.pub --approver b.pub --recovery r.pub --data-dir d",
            "muster init --public-name h.example --solo",
            "muster serve --data-dir d --config f.toml",
            "muster operator keygen a.key",
            "muster operator add alice --out alice.credential",
            "muster operator add alice --offline --data-dir d --out alice.credential",
            "muster operator list --json",
            "muster operator remove alice --yes",
            "muster observer add dashboard --csr d.csr --out d.pem",
            "muster observer list --json",
            "muster observer revoke dashboard --reason key_compromise --yes",
            "muster rails",
            "muster rails --waive 0a1b --key a.key --yes",
            "muster freeze --yes",
            "muster freeze --lift --key a.key",
            "muster device label D site=X protected=yes room-",
            "muster device unprotect D --yes",
            "muster authority show",
            "muster authority show --pending --package p.json",
            "muster authority history --json",
            "muster authority propose --add-approver carol=c.pub --remove-approver bob --required lock=2 --required wipe(clear)=3",
            "muster authority propose --recovery r.pub --remove-recovery safe --new-command-key --new-audit-key",
            "muster authority sign --key a.key --yes",
            "muster authority sign --key a.key --package p.json --out a.sig",
            "muster authority sign --signature a.sig",
            "muster token create --profile p --serial S --site X --owner U --label k=v --label l=w --ttl 1h --count 3 --csv",
            "muster token create --profile p --qr",
            "muster token list --limit 3",
            "muster token show 0198e2c4-0000-7000-8000-000000000001",
            "muster token revoke 0198e2c4-0000-7000-8000-000000000001 --dry-run",
            "muster device list --filter state=active --filter site=X",
            "muster device show D",
            "muster device history D",
            "muster device explain D",
            "muster device approve D",
            "muster device revoke D --reason key_compromise --yes",
            "muster device quarantine D --reason lost",
            "muster device release D",
            "muster device deprovision D",
            "muster device deprovision D --wipe clear --deadline 7d --dry-run --yes",
            "muster device retire D --yes",
            "muster warrant request --kind wipe --level crypto-erase --device D --device E",
            "muster warrant request --kind wipe --level retire --list FILE --valid 30d",
            "muster warrant request --kind lock --filter site=oslo --filter owner=ada",
            "muster warrant list --limit 3",
            "muster warrant show W --package FILE",
            "muster warrant sign W --key FILE",
            "muster warrant sign --package FILE --key K --out SIG",
            "muster warrant sign W --signature SIG",
            "muster warrant stop W --key FILE",
            "muster order make unlock D",
            "muster order list --device D --limit 3",
            "muster order show O",
            "muster order make rotate_identity D",
            "muster baseline set FILE --dry-run",
            "muster baseline show",
            "muster baseline show laptop-linux",
            "muster baseline diff D",
            "muster baseline sign 7 --key FILE --dry-run",
            "muster profile list",
            "muster profile show laptop-linux",
            "muster profile check FILE FILE",
            "muster ca show",
            "muster ca crl",
            "muster ca rotate issuing --root-key root.key --data-dir d",
            "muster ca activate issuing --although-missing 3 --data-dir d",
            "muster ca drop former --data-dir d",
            "muster audit tail",
            "muster audit verify DIR --key FILE",
            "muster audit verify",
            "muster audit export DIR",
            "muster doctor --server https://h:1 --credential c",
            "muster completions bash",
            "muster man",
        ] {
            assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).unwrap_err());
        }
    }

    #[test]
    fn what_cannot_go_together_is_a_mistake() {
        for line in [
            "muster init --public-name h",
            "muster token create --profile p --qr --csv",
            "muster token create --profile p --csv --json",
            "muster token create --profile p --label nonsense",
            "muster token create --profile p --ttl soon",
            "muster token create --profile p --count 0",
            "muster device revoke D",
            "muster device deprovision D --wipe everything",
            "muster device deprovision D --deadline soon",
            "muster warrant request --kind wipe --level retire",
            "muster warrant request --kind wipe --device D --list FILE",
            "muster warrant request --kind dance --device D",
            "muster warrant sign W",
            "muster warrant sign --package FILE --key K",
            "muster warrant sign W --key K --signature SIG",
            "muster warrant stop W",
            "muster device revoke D --reason boredom",
            "muster device list --filter colour=red",
            "muster device list --filter state=nope",
            "muster device list --limit 0",
            "muster order list --limit 0",
            "muster token list --limit 0",
            "muster token list --state xx",
            "muster token create --profile p --ttl 91d",
            "muster audit tail -n 0",
            "muster rails --waive 0a1b",
            "muster freeze --lift",
            "muster freeze --key a.key",
            "muster device label D",
            "muster authority sign",
            "muster authority sign --key a.key --out a.sig",
            "muster authority show --package p.json",
            "muster authority propose --required lock",
            "muster ca rotate root",
            "muster ca activate issuing --although-missing some",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_on_serving_lists_every_setting() {
        let mut serve = definition().find_subcommand("serve").unwrap().clone();
        let help = serve.render_long_help().to_string();
        for key in KEYS {
            assert!(help.contains(key.name), "{}", key.name);
        }
    }

    #[test]
    fn the_data_directory_is_flag_then_variable_then_default() {
        let given = Global { data_dir: Some("given".into()), ..Global::default() };
        let variable = |_: &str| Some(OsString::from("variable"));
        assert_eq!(given.data_dir_from(variable), PathBuf::from("given"));
        assert_eq!(Global::default().data_dir_from(variable), PathBuf::from("variable"));
        assert_eq!(Global::default().data_dir_from(|_| None), PathBuf::from(DEFAULT_DATA_DIR));
    }
}
