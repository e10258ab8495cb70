//! What `doctor` judges without touching anything: modes, clocks, certificates and pins, each with a remedy.

use muster_pki::renewal::{Bounds, Validity, refresh_at};
use muster_wire::digest::Sha256Digest;
use muster_wire::time::Timestamp;
use serde::Serialize;

use super::record::{Past, Retired};
use super::refusal::Refusal;
use super::trust::{Authority, Leaf, Trust};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Pass,
    /// It works, and somebody should look at it.
    Warn,
    /// It does not work, or it is not safe.
    Fail,
    /// There was nothing to check.
    Skip,
}

impl State {
    /// One stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Pass, detail: detail.into(), remedy: None }
    }

    /// Nothing to check.
    pub fn skip(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Skip, detail: detail.into(), remedy: None }
    }

    /// It works, and somebody should look at it.
    pub fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work, or it is not safe.
    pub fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// What the core refused.
    pub fn refused(name: &'static str, refusal: &Refusal) -> Self {
        Self::fail(name, refusal.to_string(), refusal.remedy())
    }

    /// Whether it failed.
    pub fn has_failed(&self) -> bool {
        self.state == State::Fail
    }
}

/// What may be wrong with whose a file of the agent's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It leads somewhere else.
    Link,
    /// It is somebody else's.
    Owner {
        /// Whose, by user id.
        owner: u32,
        /// As whom the agent runs.
        us: u32,
    },
    /// Others may do something with it.
    Mode {
        /// The permission bits.
        mode: u32,
    },
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link => f.write_str("is a symbolic link"),
            Self::Owner { owner, us } => write!(f, "belongs to user {owner}, and this is user {us}"),
            Self::Mode { mode } => write!(f, "has mode {mode:04o}"),
        }
    }
}

impl Fault {
    /// Whether more than reading is open to others.
    pub fn lets_others_write(&self) -> bool {
        match self {
            Self::Link | Self::Owner { .. } => true,
            Self::Mode { mode } => mode & 0o022 != 0,
        }
    }

    /// What to do about it, where it is `path` that has the fault.
    pub fn remedy(&self, path: &str) -> String {
        match self {
            Self::Link => format!("remove the link {path}"),
            Self::Owner { owner, us } => format!("run as user {owner}, or `chown {us} {path}`"),
            Self::Mode { .. } => format!("chmod go= {path}"),
        }
    }
}

/// What is wrong with one of the agent's files, if anything: it is no link, its `(owner, us)` are one user, and
/// nobody else may do anything with it.
pub fn fault(is_link: bool, (owner, us): (u32, u32), mode: u32) -> Option<Fault> {
    if is_link {
        Some(Fault::Link)
    } else if owner != us {
        Some(Fault::Owner { owner, us })
    } else if mode & 0o077 != 0 {
        Some(Fault::Mode { mode: mode & 0o7777 })
    } else {
        None
    }
}

/// The same as a check of `path`.
pub fn owned(path: &str, fault: Option<Fault>) -> Option<Check> {
    let fault = fault?;
    Some(Check::fail("modes", format!("{path} {fault}"), fault.remedy(path)))
}

/// That this device was let go, or is being wiped; nothing else of it is to be checked then.
pub fn letting_go(past: &Past) -> Option<Check> {
    const NAME: &str = "letting_go";
    if let Some(Retired { at, is_acknowledged, .. }) = past.retired {
        let heard = if is_acknowledged {
            "the server has its proof"
        } else {
            "the order ended before the server had its proof"
        };
        let detail = format!(
            "this device was let go: it wiped itself, which ended at {at}, and {heard}; `muster-agent enroll` with a new string begins another life"
        );
        return Some(Check::pass(NAME, detail));
    }
    let goes_on = "let `muster-agent run` go on: it ends by itself";
    if past.wiped.is_some() {
        let detail =
            "this device was let go and has wiped itself; the server has not confirmed the last receipt yet";
        return Some(Check::warn(NAME, detail, goes_on));
    }
    past.is_wiping().then(|| Check::warn(NAME, "this device is being let go: it is wiping itself", goes_on))
}

/// The system clock against the moment this agent was built.
pub fn clock(system: Timestamp, floor: Timestamp) -> Check {
    if system < floor {
        let detail = format!("it says {system}, which is before this agent was built ({floor})");
        return Check::fail("clock", detail, "set this device's clock");
    }
    Check::pass("clock", format!("it says {system}"))
}

/// How far the clocks of device and server may differ, in seconds: by so much certificates are dated back, so that
/// a new one is valid at once on a device that is late.
const CLOCKS_APART_S: i64 = 300;

/// The system clock against the server's, as its answer tells it. Which of the two is wrong nobody knows.
pub fn server_clock(system: Timestamp, server: Option<Timestamp>) -> Check {
    const NAME: &str = "server_clock";
    let Some(server) = server else { return Check::skip(NAME, "the server did not say what time it is") };
    let ahead_s = system.seconds().saturating_sub(server.seconds());
    if ahead_s.saturating_abs() <= CLOCKS_APART_S {
        return Check::pass(NAME, format!("it is {server} there and {system} here"));
    }
    let way = if ahead_s > 0 { "ahead of" } else { "behind" };
    let detail = format!(
        "this device's clock is {} seconds {way} the server's: it is {system} here and {server} there",
        ahead_s.saturating_abs()
    );
    Check::fail(NAME, detail, "compare both with the true time and set the wrong one")
}

/// The life of the certificate in use.
pub fn expiry(leaf: &Leaf, now: Timestamp) -> Check {
    let life = Validity { not_before_s: leaf.not_before.seconds(), not_after_s: leaf.not_after.seconds() };
    let bounds = Bounds { min_wait_s: i64::MIN / 4, max_wait_s: i64::MAX / 4 };
    let due = Timestamp(refresh_at(life, bounds, 0.0, now.seconds()));
    if now < leaf.not_before {
        let detail = format!("it is not valid before {}, and it is {now}", leaf.not_before);
        Check::fail("expiry", detail, "set this device's clock")
    } else if now > leaf.not_after {
        let detail = format!("it expired at {}", leaf.not_after);
        Check::fail("expiry", detail, "run `muster-agent renew`; if that is refused, enrol with a new string")
    } else if now >= due {
        let detail = format!("it expires at {} and should have been renewed at {due}", leaf.not_after);
        Check::warn("expiry", detail, "run `muster-agent renew`")
    } else {
        Check::pass("expiry", format!("it expires at {}, to be renewed at {due}", leaf.not_after))
    }
}

/// The `trust` file against the pinned root, and the certificate in use against both.
pub fn chain(trust: Option<&Trust>, leaf: &Leaf, public_key: Option<&[u8]>, now: Timestamp) -> Check {
    let Some(trust) = trust else {
        let remedy = "run `muster-agent renew`, which fetches it again and checks it against the pin";
        return Check::fail("trust", "the file `trust` is missing or does not hold the pinned root", remedy);
    };
    let Some(public_key) = public_key else {
        return Check::refused("trust", &Refusal::IdentityLost);
    };
    // Its dates are a check of their own.
    let inside = now.clamp(leaf.not_before, leaf.not_after.max(leaf.not_before));
    match trust.verify(leaf, public_key, inside) {
        Ok(()) => Check::pass("trust", "the certificate fits the key and leads to the pinned root"),
        Err(Refusal::ForeignKey) => Check::refused("trust", &Refusal::IdentityLost),
        Err(refusal) => Check::refused("trust", &refusal),
    }
}

/// The `authority` file against the pinned digest.
pub fn authority(text: Option<&[u8]>, pin: &Sha256Digest, now: Timestamp) -> Check {
    let remedy = "run `muster-agent renew`, which fetches it again and checks it against the pin";
    let Some(text) = text else {
        return Check::fail("authority", "the file `authority` is missing", remedy);
    };
    match Authority::version_in_file(text, pin, now) {
        Ok(version) => Check::pass("authority", format!("version {version}, from the pinned first document")),
        Err(_) => Check::fail("authority", "the chain in the file `authority` does not hold", remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_may_read_fails_with_the_command_that_repairs_it() {
        let seen = |is_link, owner, mode| owned("key.pem", fault(is_link, (owner, 0), mode));
        assert_eq!(seen(false, 0, 0o100_600), None);
        let check = seen(false, 0, 0o100_640).unwrap();
        assert_eq!((check.state, check.remedy.as_deref()), (State::Fail, Some("chmod go= key.pem")));
        assert!(check.detail.contains("0640"), "{}", check.detail);
    }

    #[test]
    fn a_file_of_somebody_else_and_a_link_fail_as_such_whatever_their_mode() {
        assert_eq!(fault(false, (65_534, 0), 0o100_600), Some(Fault::Owner { owner: 65_534, us: 0 }));
        let link = owned("journal", fault(true, (0, 0), 0o120_777)).unwrap();
        assert_eq!(link.detail, "journal is a symbolic link");
        assert!(link.remedy.is_some_and(|remedy| remedy.contains("remove the link")));
    }

    #[test]
    fn a_clock_from_before_the_build_fails() {
        assert!(clock(Timestamp(0), Timestamp(1)).has_failed());
        assert!(!clock(Timestamp(1), Timestamp(1)).has_failed());
    }

    #[test]
    fn clocks_more_than_five_minutes_apart_fail_either_way_and_say_by_how_much() {
        let here = Timestamp(1_000_000);
        let there = |seconds| server_clock(here, Some(here.plus_seconds(seconds)));
        for near in [-300, 0, 300] {
            assert_eq!(there(near).state, State::Pass, "{near}");
        }
        for (far, words) in [(301, "301 seconds behind"), (-301, "301 seconds ahead of")] {
            let check = there(far);
            assert_eq!(check.state, State::Fail);
            assert!(check.detail.contains(words), "{}", check.detail);
        }
        assert_eq!(server_clock(here, None).state, State::Skip);
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_life_and_fails_after_its_end() {
        let leaf = Leaf {
            der: Vec::new(),
            sha256: Sha256Digest::of(b""),
            spki: Sha256Digest::of(b""),
            serial: String::new(),
            not_before: Timestamp(0),
            not_after: Timestamp(300),
            trust_domain: String::new(),
            device: muster_wire::id::DeviceId::from_bytes([0; 16]),
            hardware_serial: None,
        };
        let states = [-1, 0, 199, 200, 300, 301].map(|now| expiry(&leaf, Timestamp(now)).state);
        assert_eq!(states, [State::Fail, State::Pass, State::Pass, State::Warn, State::Warn, State::Fail]);
    }
}
