//! `muster-agent doctor`: looks at everything an enrolment or a renewal leans on, in the order in which they lean,
//! and changes nothing but a probe file that it removes again.
//!
//! A check that cannot be made because another failed is skipped rather than blamed.

use std::fs;
use std::io;
use std::path::Path;

use muster_wire::time::Timestamp;

use super::commands::{block_on, server_of};
use super::failure::Failure;
use super::files;
use super::http::{Client, HANDSHAKE, Server};
use super::journal;
use super::output::{self, Manner};
use super::own;
use super::place::Place;
use super::tls;
use crate::clock::{self, Clock};
use crate::core::checkup;
pub use crate::core::checkup::Check;
use crate::core::record::{Accepted, Past};
use crate::core::{Caller, Leaf, Refusal, Request, Trouble};

/// Looks, prints, and fails when something failed.
///
/// # Errors
/// [`Failure::Unwell`] when a check failed.
pub fn doctor(place: &Place, manner: Manner) -> Result<(), Failure> {
    let clock = Clock::system();
    let checks = look(place, &clock)?;
    output::checks(manner, &checks);
    let failed = checks.iter().filter(|check| check.has_failed()).count();
    if failed == 0 { Ok(()) } else { Err(Failure::Unwell { failed, checks: checks.len() }) }
}

fn look(place: &Place, clock: &Clock) -> Result<Vec<Check>, Failure> {
    let mut checks = vec![state_dir(place, &place.root)];
    let is_there = !checks.iter().any(Check::has_failed);
    let past = if is_there { files_of(place, &mut checks) } else { None };
    if let (Some(past), Some(first)) = (&past, checks.first_mut()) {
        // The journal knows the root that was named at enrolment.
        *first = state_dir(place, &place.root_for(past));
    }
    if let Some(letting_go) = past.as_ref().and_then(checkup::letting_go) {
        // Of a life that is over, or ends, nothing else is to be in order.
        return Ok(vec![letting_go]);
    }
    checks.push(checkup::clock(Timestamp(clock::system_s()), Timestamp(clock::floor_s())));
    let accepted = past.as_ref().and_then(|past| past.accepted.as_ref());
    let Some(accepted) = accepted else {
        let enrolled = |detail| Check::skip("enrolment", detail);
        checks.push(match past {
            Some(_) => enrolled("this device is not enrolled, so there is nothing more to check"),
            None => enrolled("what could not be read above says whether this device is enrolled"),
        });
        return Ok(checks);
    };
    let is_identity_usable = identity(place, accepted, clock, &mut checks);
    let caller = if is_identity_usable { Caller::Current } else { Caller::Anonymous };
    checks.extend(block_on(network(place, server_of(accepted), caller, clock))?);
    Ok(checks)
}

/// The files in a state directory that exists; what they say, when they can be read.
fn files_of(place: &Place, checks: &mut Vec<Check>) -> Option<Past> {
    checks.extend([modes(place), writable(place)]);
    let (check, past) = read_journal(place);
    checks.push(check);
    past
}

fn state_dir(place: &Place, root: &Path) -> Check {
    let shown = place.state_dir.display();
    match fs::metadata(&place.state_dir) {
        Ok(found) if found.is_dir() => Check::pass("state_dir", format!("{shown}, root {}", root.display())),
        Ok(_) => {
            Check::fail("state_dir", format!("{shown} is no directory"), "name another with --state-dir")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let remedy = "run as the user who owns it (usually root)";
            Check::fail("state_dir", format!("{shown}: {error}"), remedy)
        }
        Err(error) => Check::fail(
            "state_dir",
            format!("{shown}: {error}"),
            "`muster-agent enroll` makes it; if it was made before, check the path",
        ),
    }
}

/// Every file of ours that exists, and the directories around them.
fn modes(place: &Place) -> Check {
    let keys = place.keys();
    let identity = ["key.pem", "certificate.pem", "next-key.pem", "next-certificate.pem"];
    let mut paths = vec![place.state_dir.clone(), keys.dir().to_owned()];
    paths.extend(identity.map(|name| keys.dir().join(name)));
    paths.extend([place.journal(), place.trust(), place.authority(), place.state_dir.join("lock")]);
    let foreign = paths.iter().find_map(|path| {
        // The state directory itself may be a link of ours to another disk.
        let look = if *path == place.state_dir { fs::metadata } else { fs::symlink_metadata };
        checkup::owned(&path.display().to_string(), own::fault(&look(path).ok()?))
    });
    let trap = own::demand(&place.state_dir).err();
    let trap = trap.and_then(|trap| checkup::owned(&trap.path.display().to_string(), Some(trap.fault)));
    trap.or(foreign)
        .unwrap_or_else(|| Check::pass("modes", "only the owner may read or change the agent's files"))
}

fn writable(place: &Place) -> Check {
    if own::demand(&place.state_dir).is_err() {
        return Check::skip("writable", "nothing is written in a directory that is not ours alone");
    }
    let probe = place.state_dir.join("probe");
    match files::write_atomic(&probe, &[0; 4096]).and_then(|()| files::remove(&probe)) {
        Ok(()) => Check::pass("writable", "4 KiB were written, made durable and removed"),
        Err(error) => {
            let remedy = error.remedy();
            Check::fail("writable", Failure::from(error).sentence(), remedy)
        }
    }
}

fn read_journal(place: &Place) -> (Check, Option<Past>) {
    match journal::read(&place.journal()) {
        Ok(contents) => {
            let past = Past::of(&contents.records);
            let count = contents.records.len();
            let check = if place.is_orphaned(&past) {
                Check::refused("journal", &Refusal::JournalLost)
            } else if contents.torn_len == 0 {
                Check::pass("journal", format!("{count} sound records"))
            } else {
                let detail =
                    format!("{count} sound records, then {} bytes torn off by a crash", contents.torn_len);
                Check::warn("journal", detail, "nothing is lost; the next command that writes clears it away")
            };
            (check, Some(past))
        }
        Err(error) => {
            let remedy = error.remedy();
            (Check::fail("journal", Failure::from(error).sentence(), remedy), None)
        }
    }
}

/// The identity with its pins; whether it is complete enough to be shown to the server.
fn identity(place: &Place, accepted: &Accepted, clock: &Clock, checks: &mut Vec<Check>) -> bool {
    let now = clock.now();
    let keys = place.keys();
    let found = keys.held().and_then(|held| Ok((held, keys.public_key()?)));
    let (held, public_key) = match found {
        Ok(found) => found,
        Err(error) => {
            let remedy = error.remedy();
            checks.push(Check::fail("identity", Failure::from(error).sentence(), remedy));
            return false;
        }
    };
    let Some(leaf) = held.certificate.as_deref().and_then(|der| Leaf::read(der).ok()) else {
        let remedy = "run the same `muster-agent enroll` again";
        checks.push(Check::fail("identity", "there is no device certificate yet", remedy));
        return false;
    };
    checks.push(Check::pass("identity", format!("device {}", leaf.device)));
    let trust = place.read_trust(&accepted.root_spki).ok().flatten();
    let chain = checkup::chain(trust.as_ref(), &leaf, public_key.as_deref(), now);
    checks.push(chain);
    checks.push(checkup::expiry(&leaf, now));
    let authority = place.read_authority().ok().flatten();
    checks.push(checkup::authority(authority.as_deref(), &accepted.authority, now));
    held.key == Some(leaf.spki)
}

/// Name, connection, handshake, answer: each only when the one before it passed.
async fn network(place: &Place, server: Server, caller: Caller, clock: &Clock) -> Vec<Check> {
    let keys = place.keys();
    let mut checks = Vec::new();
    let addresses = match server.resolve().await {
        Ok(addresses) => addresses,
        Err(trouble) => return vec![failed("dns", trouble)],
    };
    let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    checks.push(Check::pass("dns", format!("{} is {}", server.host, shown.join(", "))));
    let stream = match server.connect(&addresses).await {
        Ok(stream) => stream,
        Err(trouble) => {
            checks.push(failed("tcp", trouble));
            return checks;
        }
    };
    checks.push(Check::pass("tcp", format!("{} takes connections", server.place())));
    let handshake = tls::handshake(&server, Caller::Anonymous, &keys, clock, stream);
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(_)) => checks.push(Check::pass("tls", "its certificate leads to the pinned root")),
        Ok(Err(trouble)) => {
            checks.push(failed("tls", trouble));
            return checks;
        }
        Err(_) => {
            checks.push(Check::fail("tls", "the handshake took over 10 seconds", "check what sits between"));
            return checks;
        }
    }
    checks.extend(answer(server, caller, clock, place).await);
    checks
}

/// What the server says to this device, and what time it has.
async fn answer(server: Server, caller: Caller, clock: &Clock, place: &Place) -> Vec<Check> {
    let mut client = Client::new(server, clock.clone());
    match client.ask(&Request::Discovery(caller), &place.keys()).await {
        Err(trouble) => vec![failed("answer", trouble)],
        Ok(answer) => {
            let server_time = answer.date;
            let known = match answer.state_of_caller() {
                _ if caller == Caller::Anonymous => Check::skip("answer", "there is no identity to show"),
                Ok(state) => Check::pass("answer", format!("the server knows this device as {state}")),
                Err(refusal) => Check::refused("answer", &refusal),
            };
            vec![known, checkup::server_clock(Timestamp(clock::system_s()), server_time)]
        }
    }
}

fn failed(name: &'static str, trouble: Trouble) -> Check {
    Check::refused(name, &Refusal::Unanswered(trouble))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::core::checkup::State;
    use crate::shell::cli::Global;

    fn place(dir: &Path) -> Place {
        Place::new(&Global { state_dir: Some(dir.to_owned()), root: None, json: false }).unwrap()
    }

    #[test]
    fn a_fresh_device_is_well_and_the_probe_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let checks = look(&place(dir.path()), &Clock::system()).unwrap();
        assert!(checks.iter().all(|check| !check.has_failed()), "{checks:?}");
        assert!(!dir.path().join("probe").exists());
    }

    #[test]
    fn a_key_that_others_may_read_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        files::ensure_dir(place.keys().dir()).unwrap();
        let key = place.keys().dir().join("key.pem");
        fs::write(&key, b"").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(modes(&place).state, State::Fail);
    }

    #[test]
    fn a_state_directory_that_is_not_there_is_not_praised() {
        let dir = tempfile::tempdir().unwrap();
        let checks = look(&place(&dir.path().join("none")), &Clock::system()).unwrap();
        let praised = |name| checks.iter().any(|check| check.name == name && check.state == State::Pass);
        assert!(!praised("modes") && !praised("journal"), "{checks:?}");
    }

    #[test]
    fn a_journal_that_cannot_be_read_does_not_make_a_device_unenrolled() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let place = place(dir.path());
        std::os::unix::fs::symlink("elsewhere", place.journal()).unwrap();
        let checks = look(&place, &Clock::system()).unwrap();
        assert!(checks.iter().any(|check| check.name == "journal" && check.has_failed()), "{checks:?}");
        assert!(!checks.iter().any(|check| check.detail.contains("not enrolled")), "{checks:?}");
    }
}
