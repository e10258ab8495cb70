//! The words of the command line, and nothing that happens after them (contract.md, "Commands").
//!
//! What does not exist yet is absent rather than stubbed: naming it is a usage error.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_wire::warrant::Level;

/// Muster's agent: what runs on the device.
#[derive(Parser, Debug)]
#[command(name = "muster-agent", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command understands.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Where the agent keeps its identity and its journal [default: /var/lib/muster-agent]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The tree this device manages; fixed at enrolment [default: /, or DIR/root beneath --state-dir DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands of this agent.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Enrol this device with an enrolment string; run it again after any interruption
    Enroll(Enroll),
    /// Stay connected: follow the desired state, report, obey orders, renew by itself; ends on SIGTERM
    Run,
    /// Say what this device is and what it last heard; asks nobody
    Status,
    /// Replace the certificate and its key, keeping the old ones until the new ones have worked
    Renew(Renew),
    /// Say how this device stands: encryption, firewall, updates and the like, each with what shows it
    Posture,
    /// Be many devices at once, each whole and with a state directory of its own
    Simulate(Simulate),
    /// Look for what would keep this device from working, and say how to repair it
    Doctor,
    /// Say what applying the desired state that was last received would change; changes nothing
    Plan,
    /// Say what a wipe would destroy and what it would miss; changes nothing
    Wipe(Wipe),
}

/// Arguments of `wipe`. Wiping itself is ordered by approvers and by nobody at the device.
#[derive(Args, Debug)]
pub struct Wipe {
    /// Only rehearse it
    #[arg(long, required = true)]
    pub rehearse: bool,
    /// How far [retire, clear, crypto-erase, factory-reset]
    #[arg(long, value_name = "LEVEL", default_value = "retire", value_parser = level)]
    pub level: Level,
    /// A data root, as the profile will name it; may be given again [default: every declared root]
    #[arg(long = "data-root", value_name = "PATH")]
    pub data_roots: Vec<String>,
}

fn level(text: &str) -> Result<Level, String> {
    let known = || Level::ALL.iter().map(|level| level.as_str()).collect::<Vec<_>>().join(", ");
    Level::from_word(text).ok_or_else(|| format!("the levels are {}", known()))
}

/// Arguments of `simulate`.
#[derive(Args, Debug)]
pub struct Simulate {
    /// How many devices
    #[arg(long, value_name = "N")]
    pub count: usize,
    /// The file that holds the enrolment strings, one in a line; `-` reads standard input
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    pub server_string: String,
    /// End after so many seconds [default: when told to]
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// End when every device has come so far
    #[arg(long, value_name = "MILESTONE")]
    pub until: Option<Milestone>,
}

/// How far a simulated device has come.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// It has a certificate that works.
    Enrolled,
    /// Its session is open.
    Connected,
    /// Its desired state is in place.
    Applied,
}

/// Arguments of `enroll`.
#[derive(Args, Debug)]
pub struct Enroll {
    /// The file that holds the enrolment string; `-` or nothing reads standard input
    #[arg(value_name = "FILE|-")]
    pub source: Option<String>,
    /// This device's serial number, compared with the one the token is bound to
    #[arg(long, value_name = "S")]
    pub serial: Option<String>,
    /// Insist on this authority, as `muster init` printed it (64 hex digits, or base64url)
    #[arg(long, value_name = "DIGEST")]
    pub auth: Option<String>,
    /// How long to wait for an approval, or for a server that cannot be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
    /// Take the string itself as argument, where other users of this machine may read it
    #[arg(long)]
    pub insecure_argv: bool,
}

/// Arguments of `renew`.
#[derive(Args, Debug)]
pub struct Renew {
    /// How long to wait for an approval, or for a server that cannot be reached
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub wait: u64,
}

impl Enroll {
    /// How long the person is willing to wait.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

impl Renew {
    /// How long the person is willing to wait.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nobody_at_the_device_wipes_it_by_a_command() {
        assert!(Cli::try_parse_from(["muster-agent", "wipe"]).is_err());
        assert!(Cli::try_parse_from(["muster-agent", "wipe", "--level", "clear"]).is_err());
        assert!(Cli::try_parse_from(["muster-agent", "wipe", "--rehearse", "--level", "purge"]).is_err());
        let cli =
            Cli::try_parse_from(["muster-agent", "wipe", "--rehearse", "--level", "crypto-erase"]).unwrap();
        assert!(matches!(cli.command, Command::Wipe(Wipe { level: Level::CryptoErase, .. })));
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["muster-agent", "status", "--json", "--state-dir", "/s"]).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.state_dir, Some(PathBuf::from("/s")));
    }

    #[test]
    fn a_dash_means_standard_input() {
        let cli = Cli::try_parse_from(["muster-agent", "enroll", "-"]).unwrap();
        assert!(matches!(cli.command, Command::Enroll(Enroll { source: Some(source), .. }) if source == "-"));
    }
}
