//! The power goes at the worst moment: server and agent are killed at every call after which the disk is another.
//!
//! Crash points are counted, not chosen: the program runs under strace and is killed at its N-th `fdatasync`, `fsync`
//! or `rename`, for N = 1, 2, 3 … until a run is clean. Every N is tried. What a power cut drops from the page cache
//! is the business of the store's own power-cut test; here it is the order of effects that is on trial.

use muster_tests::faults::kill_at;
use muster_tests::{Agent, Launch, Minted, Proxy, Run, Server, Site, est};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use tokio::task::JoinSet;

/// What a crash is counted by. The three spellings of a rename are one.
const CALLS: [&str; 3] = ["fdatasync", "fsync", "rename,renameat,renameat2"];
/// Installations that are founded at the same time.
const AT_ONCE: u32 = 4;
/// SIGKILL.
const KILL: i32 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn a_founding_killed_anywhere_is_refused_or_whole_and_the_same_command_mends_it() {
    for call in CALLS {
        let mut crashes = 0;
        for first in (1..).step_by(AT_ONCE as usize) {
            let mut tried = JoinSet::new();
            for n in first..first + AT_ONCE {
                tried.spawn(founded_in_spite_of(call, n));
            }
            let killed = tried.join_all().await.into_iter().filter(|killed| *killed).count();
            crashes += killed;
            if killed < AT_ONCE as usize {
                break;
            }
        }
        assert!(crashes > 3, "a founding makes only {crashes} calls of {call}");
    }
}

/// Founds with a kill at the `n`-th `call`, then again without. Whether it was killed.
async fn founded_in_spite_of(call: &'static str, n: u32) -> bool {
    let site = Site::empty();
    let first = site.init(&kill_at(call, n), &["--solo"]).await;
    if first.code == Some(0) {
        return false;
    }
    assert_eq!(first.code, None, "{first:?}");
    let server = match Server::try_on(site, Launch::plain()).await {
        // The last thing a founding does is to say that it is over: killed after that, it is whole.
        Ok(server) => server,
        Err((site, status)) => {
            // Begun and not finished is a failure; before anything is there, nothing was founded.
            let code = if site.log().contains("was interrupted") { 1 } else { 4 };
            assert_eq!(status.code(), Some(code), "{call} {n}: {}", site.log());
            assert!(site.log().contains("muster init"), "{call} {n}: {}", site.log());
            let _ = site.init(&Launch::plain(), &["--solo"]).await.ok();
            site.serve().await
        }
    };
    let minted = server.mint("sensor-linux").await;
    let pledge = est::Pledge::new("");
    let answer = est::enroll(&server, &minted.token, &pledge.csr).await.expect("an answer");
    est::assert_certifies(&est::leaf(&answer), &pledge);
    server.verify_audit().await;
    true
}

/// A device's day, as far as its answers were received.
#[derive(Default)]
struct Told {
    token: Option<Minted>,
    enrolled: bool,
    /// Asked for; then the new certificate may be the one that counts, though the agent does not know it yet.
    renewing: bool,
    renewed: bool,
    revoking: bool,
    revoked: bool,
}

/// A device, the thing it is, and what it was told.
struct Life {
    agent: Agent,
    serial: String,
    told: Told,
}

impl Life {
    fn new(serial: String) -> Self {
        Self { agent: Agent::new(), serial, told: Told::default() }
    }

    /// Lives until somebody does not answer: token, enrolment, renewal, revocation.
    async fn go_on(&mut self, server: &Server) -> Result<(), Run> {
        if self.told.token.is_none() {
            let arguments = ["token", "create", "--profile", "laptop-linux", "--serial", &self.serial];
            let made = answered(server.try_cli(&arguments).await)?.json();
            let text = |name: &str| made[0][name].as_str().expect("a token").to_owned();
            self.told.token =
                Some(Minted { id: text("id"), token: text("token"), enrollment: text("enrollment") });
        }
        if self.told.revoking {
            return self.be_revoked(server).await;
        }
        let enrollment = &self.told.token.as_ref().expect("minted above").enrollment;
        let arguments = ["--serial", self.serial.as_str(), "--wait", "0"];
        let _ = answered(self.agent.enroll_with(enrollment, &arguments).await)?;
        self.told.enrolled = true;
        if !self.told.renewed {
            self.told.renewing = true;
            let _ = answered(self.agent.run(&["renew", "--wait", "0"]).await)?;
            self.told.renewed = true;
        }
        self.be_revoked(server).await
    }

    async fn be_revoked(&mut self, server: &Server) -> Result<(), Run> {
        self.told.revoking = true;
        let device = self.agent.status().await["device"].as_str().expect("an id").to_owned();
        let arguments = ["device", "revoke", &device, "--reason", "key_compromise", "--yes"];
        match answered(server.try_cli(&arguments).await) {
            // Done before, and the answer was lost.
            Err(run) if run.code == Some(3) && run.stderr.contains("device_state_refused") => {}
            Err(run) => return Err(run),
            Ok(_) => {}
        }
        self.told.revoked = true;
        Ok(())
    }

    /// Whatever was answered is true of `server`.
    async fn is_kept_by(&self, server: &Server) {
        let Some(minted) = &self.told.token else { return };
        let tokens = server.tokens().await;
        let token = tokens.iter().find(|token| token["id"] == minted.id.as_str()).expect("a token was given");
        if !self.told.enrolled {
            return;
        }
        assert_eq!(token["state"], "spent", "{token}");
        let identity = self.agent.identity();
        let device = server.device(&est::device_id(identity.leaf())).await;
        assert_eq!(token["device"], device["id"]);
        assert_eq!(device["serial"], self.serial.as_str());
        if self.told.revoked {
            assert_eq!(
                (&device["state"], &device["certificate"]["status"]),
                (&"retired".into(), &"revoked".into())
            );
        } else if !self.told.renewing {
            assert_eq!(est::prove(server, &identity).await.expect("an answer").status, 200);
        }
        if self.told.renewed && !self.told.revoking {
            let sha256 = hex::encode(Sha256::digest(identity.leaf()));
            assert_eq!(device["certificate"]["sha256"], sha256, "{device}");
        }
    }

    /// The thing has had one life, and it is over.
    async fn was_one(&self, server: &Server) {
        let devices = server.devices().await;
        let lives: Vec<&Value> =
            devices.iter().filter(|device| device["serial"] == self.serial.as_str()).collect();
        assert_eq!(lives.len(), 1, "{lives:?}");
        assert_eq!(lives[0]["state"], "retired", "{lives:?}");
    }
}

fn answered(run: Run) -> Result<Run, Run> {
    if run.code == Some(0) { Ok(run) } else { Err(run) }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(KILL)
}

/// Serves `site` under a kill and lets `life` go on until the kill comes. Whether it came.
async fn serve_until_killed(site: Site, launch: Launch, proxy: &Proxy, life: &mut Life) -> (Site, bool) {
    let server = match Server::try_on(site, launch).await {
        Ok(server) => server,
        Err((site, status)) => {
            assert!(was_killed(status), "{status}: {}", site.log());
            return (site, true);
        }
    };
    proxy.forward_to(&server.endpoints().device);
    let (site, status) = match life.go_on(&server).await {
        Ok(()) => server.asked_to_stop().await,
        // Whoever does not answer is dead, or will be in a moment.
        Err(run) => {
            let (site, status) = server.ended().await;
            assert!(was_killed(status), "{status}: {run:?}\n{}", site.log());
            (site, status)
        }
    };
    assert!(was_killed(status) || status.success(), "{status}: {}", site.log());
    (site, was_killed(status))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_anywhere_keeps_what_it_answered_and_every_thing_has_one_life() {
    let proxy = Proxy::bind().await;
    let outside = format!("localhost:{}", proxy.port());
    let mut site = Site::founded().await;
    for call in CALLS {
        for n in 1.. {
            let mut life = Life::new(format!("{}-{n}", &call[..5]));
            let launch = kill_at(call, n).with("MUSTER_ADVERTISE_DEVICE", &outside);
            let killed;
            (site, killed) = serve_until_killed(site, launch, &proxy, &mut life).await;

            let server = Server::on(site, Launch::plain().with("MUSTER_ADVERTISE_DEVICE", &outside)).await;
            proxy.forward_to(&server.endpoints().device);
            life.is_kept_by(&server).await;
            life.go_on(&server).await.unwrap_or_else(|run| panic!("{call} {n}: {run:?}"));
            life.is_kept_by(&server).await;
            life.was_one(&server).await;
            server.verify_audit().await;
            site = server.stop().await;
            if !killed {
                assert!(n > 2, "a day has only {} calls of {call}", n - 1);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_anywhere_ends_enrolled_once_and_renewed() {
    let server = Server::start().await;
    let mut devices = 0;
    for call in CALLS {
        for n in 1.. {
            let minted = server.mint("laptop-linux").await;
            let mut agent = Agent::under(kill_at(call, n));
            let enrolled = agent.enroll(&minted.enrollment).await;
            agent.relaunch(Launch::plain());
            let _ = agent.enroll(&minted.enrollment).await.ok();
            devices += 1;
            assert_eq!(server.devices().await.len(), devices, "{call} {n}: one life for each token");

            agent.relaunch(kill_at(call, n));
            let renewed = agent.renew().await;
            agent.relaunch(Launch::plain());
            let _ = agent.renew().await.ok();
            let identity = agent.identity();
            assert_eq!(est::prove(&server, &identity).await.expect("an answer").status, 200);
            let kept = server.device(&est::device_id(identity.leaf())).await;
            assert_eq!(kept["certificate"]["sha256"], hex::encode(Sha256::digest(identity.leaf())));
            assert_eq!(kept["certificate"]["status"], "current");
            if enrolled.code == Some(0) && renewed.code == Some(0) {
                break;
            }
            assert!(enrolled.code.is_none() || renewed.code.is_none(), "{enrolled:?} {renewed:?}");
        }
    }
    server.verify_audit().await;
}
