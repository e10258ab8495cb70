//! The network between devices and server: packets lost by chance, or all of them for a while.
//!
//! Only in a network namespace that leads nowhere. There the packet filter drops what comes in, which
//! neither side is told: one in ten, in both directions, on the ports of devices alone. Operators are served without loss,
//! so that looking does not depend on luck.

use super::options::Network;
use crate::Endpoints;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Of a hundred packets, so many are lost.
const LOST_PERCENT: u32 = 10;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Everything arrives.
    Fair,
    /// One packet in ten is lost.
    Rain,
    /// Nothing arrives.
    Storm,
}

/// The line between devices and server.
#[derive(Debug)]
pub(super) struct Line {
    network: Network,
    ports: String,
}

impl Line {
    /// The line to a server at `endpoints`.
    ///
    /// # Errors
    /// One sentence that says why packets cannot be lost here.
    pub(super) fn to(endpoints: &Endpoints, network: Network) -> Result<Self, String> {
        let port = |url: &str| url.trim_end_matches('/').rsplit(':').next().unwrap_or_default().to_owned();
        let ports = format!("{{ {}, {} }}", port(&endpoints.device), port(&endpoints.mqtt));
        let line = Self { network, ports };
        line.becomes(Weather::Rain)?;
        line.becomes(Weather::Fair)?;
        Ok(line)
    }

    /// Has the weather change.
    ///
    /// # Errors
    /// One sentence that says why not.
    pub(super) fn becomes(&self, weather: Weather) -> Result<(), String> {
        match self.network {
            Network::Whole => Ok(()),
            Network::Lossy => filter(&rules(&self.ports, weather)).map(drop),
        }
    }

    /// How many packets were lost since the weather last changed.
    pub(super) fn lost(&self) -> u64 {
        match self.network {
            Network::Whole => 0,
            Network::Lossy => filter("list table inet muster_soak\n").map_or(0, |text| counted(&text)),
        }
    }
}

/// Makes the loopback work, and refuses to go on where anybody else uses the network.
///
/// # Errors
/// One sentence.
pub(super) fn enter() -> Result<(), String> {
    // A new namespace has no route to anywhere, though some kernels put idle tunnels beside the loopback.
    let routes = std::fs::read_to_string("/proc/self/net/route").map_err(|cause| cause.to_string())?;
    if routes.lines().count() > 1 {
        return Err(
            "this is no network namespace of our own: it has routes; use `cargo xtask soak`".to_owned()
        );
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    match up {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the loopback does not come up: ip ended with {status}")),
        Err(cause) => Err(format!("the loopback does not come up: ip: {cause}")),
    }
}

fn rules(ports: &str, weather: Weather) -> String {
    let lose = match weather {
        Weather::Fair => return "table inet muster_soak\ndelete table inet muster_soak\n".to_owned(),
        Weather::Rain => format!("numgen random mod 100 < {LOST_PERCENT} "),
        Weather::Storm => String::new(),
    };
    format!(
        "table inet muster_soak\ndelete table inet muster_soak\ntable inet muster_soak {{\n\
         chain arriving {{\ntype filter hook input priority 0;\n\
         tcp dport {ports} {lose}counter drop\ntcp sport {ports} {lose}counter drop\n}}\n}}\n"
    )
}

fn counted(listing: &str) -> u64 {
    let counts = listing.split("packets ").skip(1);
    counts.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

fn filter(script: &str) -> Result<String, String> {
    let failed = |why: String| format!("packets cannot be lost here (nft, numgen): {why}; or use --no-loss");
    let child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|cause| failed(cause.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it did not read it complains about by its exit code.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(|cause| failed(cause.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("no reason given").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rain_loses_some_and_a_storm_all_of_both_directions() {
        let (rain, storm) = (rules("{ 1, 2 }", Weather::Rain), rules("{ 1, 2 }", Weather::Storm));
        for side in ["dport", "sport"] {
            assert!(rain.contains(&format!("tcp {side} {{ 1, 2 }} numgen random mod 100 < 10 counter drop")));
            assert!(storm.contains(&format!("tcp {side} {{ 1, 2 }} counter drop")));
        }
        assert!(!rules("{ 1, 2 }", Weather::Fair).contains("drop"));
    }

    #[test]
    fn lost_packets_are_counted_over_both_directions() {
        let listing =
            "tcp dport 1 counter packets 3 bytes 90 drop\ntcp sport 1 counter packets 4 bytes 7 drop\n";
        assert_eq!(counted(listing), 7);
    }
}
