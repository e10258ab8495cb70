//! An installation for tests: founded in a temporary directory, its store watched, its clock set by hand.

use super::{App, EngineSource, EventFeed, Founding, Issuance, Local, Parts, RevocationChanges, feed, found};
use crate::alarm::{Alarms, Raised};
use crate::audit::{self, AuditKey, Pace};
use crate::ca::keystore::Keystore;
use crate::ca::{Ca, fresh_ed25519};
use crate::clock::{Clock, ManualClock};
use crate::config::Settings;
use crate::domain::policy::{self, Act, Caller, Permit, Principal};
use crate::domain::quarantine::Budget;
use crate::domain::rails::Limits;
use crate::domain::token::Binding;
use crate::doors::Doors;
use crate::store::collections::ALL;
use crate::store::embedded::{self, Founding as Open};
use crate::store::{self, Change, Engine, EngineError, Health, Store, Versioned};
use ed25519_dalek::SigningKey;
use muster_wire::discovery::Endpoints;
use muster_wire::enrollment::Token;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// No limit on what is issued.
pub(crate) const UNLIMITED: Issuance =
    Issuance { device_renewals_per_hour: 0, batch_enrolments_per_minute: 0, site_enrolments_per_minute: 0 };

/// Everything may be destroyed at once.
pub(crate) const NO_RAILS: Limits =
    Limits { day_least: u32::MAX, day_percent: 100, hour: u32::MAX, cooling_off_s: 14_400 };

/// Two devices an hour, or half of them.
const RULE_HOLDS: Budget = Budget { least: 2, percent: 50 };

/// The installation. Its verbs run without listeners.
pub(crate) struct Bench {
    pub(crate) app: Arc<App>,
    pub(crate) clock: ManualClock,
    pub(crate) pauses: Pauses,
    /// The first approver; where there is no other, one whose signature is enough for everything.
    pub(crate) approver: SigningKey,
    dir: TempDir,
    raised: Mutex<Raised>,
}

impl Bench {
    /// Founds and opens one.
    pub(crate) fn founded(issuance: Issuance) -> Self {
        Self::founded_by(issuance, &[fresh_ed25519()])
    }

    /// Founds and opens one with these approvers; one alone approves everything.
    pub(crate) fn founded_by(issuance: Issuance, approvers: &[SigningKey]) -> Self {
        let named = |(place, key): (usize, &SigningKey)| {
            (format!("approver {}", place + 1), key.verifying_key().to_bytes())
        };
        let dir = tempfile::tempdir().unwrap();
        let options = found::FoundOptions {
            data_dir: dir.path().to_owned(),
            public_name: "muster.test".into(),
            trust_domain: None,
            approvers: approvers.iter().enumerate().map(named).collect(),
            recovery: Vec::new(),
            solo: approvers.len() == 1,
            settings: Settings::default(),
        };
        // Founding waits for the store itself, which no thread of a runtime may.
        std::thread::spawn(move || found::found(&options).map(drop)).join().unwrap().unwrap();
        let clock = ManualClock::at_ms(Clock::system().now_ms());
        let pauses = Pauses::default();
        let (app, raised) = open(&dir, &clock, &pauses, issuance, &NO_RAILS);
        let approver = approvers[0].clone();
        Self { app, clock, pauses, approver, dir, raised }
    }

    /// The events of the alarms that were raised since this was last asked.
    pub(crate) fn alarms(&self) -> Vec<&'static str> {
        let mut raised = self.raised.lock().unwrap();
        std::iter::from_fn(|| raised.try_recv().ok()).map(|alarm| alarm.event).collect()
    }

    /// The secret of the first operator.
    pub(crate) fn credential(&self) -> String {
        let file = std::fs::read(self.dir.path().join(found::CREDENTIAL)).unwrap();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
        file["token"].as_str().unwrap().to_owned()
    }

    /// Where it keeps everything.
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Leave for the act `A`, as the device door or an operator has it.
    pub(crate) fn permit<A: Act>(&self, principal: Principal) -> Permit<A> {
        policy::decide(Caller { principal, request_id: "r".into() }).unwrap()
    }

    /// Open tokens made by one request.
    pub(crate) async fn tokens(&self, site: Option<&str>, count: u32) -> Vec<Token> {
        let binding =
            Binding { profile: "sensor-linux".into(), site: site.map(str::to_owned), ..Binding::default() };
        let request = super::NewTokens { binding, ttl_s: 86_400, count };
        let permit = self.permit(Principal::Operator("admin".into()));
        let minted = self.app.create_tokens(permit, &request, None).await.unwrap();
        minted.into_iter().map(|one| one.token).collect()
    }

    /// The rules behind every refusal in the log, oldest first.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let permit = self.permit(Principal::Operator("admin".into()));
        let entries = self.app.audit_tail(&permit, None, 10_000).unwrap().items;
        let refused = entries.iter().filter(|entry| entry["outcome"] == "refused");
        refused.map(|entry| entry["reason"].as_str().unwrap().to_owned()).collect()
    }
}

impl Bench {
    /// The same installation, served with these rails from now on.
    pub(crate) async fn on_rails(self, rails: Limits) -> Self {
        let Self { app, clock, pauses, approver, dir, .. } = self;
        app.store().close().await.unwrap();
        drop(app);
        let (app, raised) = open(&dir, &clock, &pauses, UNLIMITED, &rails);
        Self { app, clock, pauses, approver, dir, raised }
    }

    /// The same installation, after `change` was made to its directory while nobody served it.
    pub(crate) async fn restarted(self, change: impl FnOnce(&std::path::Path) + Send + 'static) -> Self {
        let Self { app, clock, pauses, approver, dir, .. } = self;
        app.store().close().await.unwrap();
        drop(app);
        let path = dir.path().to_owned();
        std::thread::spawn(move || change(&path)).join().unwrap();
        let (app, raised) = open(&dir, &clock, &pauses, UNLIMITED, &NO_RAILS);
        Self { app, clock, pauses, approver, dir, raised }
    }
}

fn open(
    dir: &TempDir,
    clock: &ManualClock,
    pauses: &Pauses,
    issuance: Issuance,
    rails: &Limits,
) -> (Arc<App>, Mutex<Raised>) {
    let (alarms, raised) = Alarms::queue();
    let dir = dir.path();
    let inner = embedded::open(&embedded::Options::new(dir.join("store"), Open::Existing)).unwrap();
    let engine: Box<dyn Engine> = Box::new(Watched { inner, pauses: pauses.clone() });
    let founding = Founding::read(dir, engine.as_ref()).unwrap();
    let (keys, domain) = (Keystore::of(dir), founding.trust_domain.clone());
    let ca = Ca::open(&keys, domain, &founding.issuers, &founding.succession).unwrap();
    let key = AuditKey::new(founding.trust_domain.as_str(), ca.audit_key()).unwrap();
    let former = founding.former_audit_keys(dir).unwrap();
    let source = EngineSource(engine.as_ref());
    let (log, publisher) = audit::open(&source, &dir.join("audit"), key, &former).unwrap();
    let doors = Doors::new(founding.trust_domain.clone(), clock.clock());
    let revocation_changes = Arc::new(RevocationChanges::default());
    let events = Arc::new(EventFeed::default());
    let first = feed(Arc::clone(&doors.index), Arc::clone(&doors.registry), Arc::clone(&revocation_changes));
    let observer = events.after(first);
    let store = Store::open(engine, ALL, Box::new(log), observer, store::Limits::default()).unwrap();
    super::fill(&doors.index, &store).unwrap();
    let at = |scheme: &str| format!("{scheme}://muster.test:1");
    let app = App::new(Parts {
        urls: found::status_urls(&ca, "http://muster.test:8080").unwrap(),
        endpoints: Endpoints { device: at("https"), mqtt: at("mqtts"), status: at("http") },
        local: Local { device: at("https"), mqtt: at("mqtts"), status: at("http"), admin: at("https") },
        server_hosts: vec!["muster.test".into()],
        device_address: ("muster.test".into(), 8443),
        store,
        ca,
        publisher,
        pace: Pace { interval: Duration::from_secs(1), entries: 256 },
        clock: clock.clock(),
        doors,
        founding,
        revocation_changes,
        events,
        wrong_tokens_per_minute: 30,
        issuance,
        rule_holds: RULE_HOLDS,
        rails: *rails,
        alarms,
    });
    (Arc::new(app.unwrap()), Mutex::new(raised))
}

/// Holds up the next read of a key, to let something else happen in between.
#[derive(Clone, Default)]
pub(crate) struct Pauses(Arc<Mutex<Option<Pause>>>);

struct Pause {
    prefix: Vec<u8>,
    arrived: Sender<()>,
    go: Receiver<()>,
}

/// A read that is held up, or will be; it goes on when this is dropped.
pub(crate) struct Paused {
    arrived: Receiver<()>,
    _go: Sender<()>,
}

impl Paused {
    /// Waits until the read has come.
    pub(crate) fn wait(&self) {
        self.arrived.recv().unwrap();
    }
}

impl Pauses {
    /// Holds up the next read of a key that starts with `prefix`.
    pub(crate) fn next_read(&self, prefix: &[u8]) -> Paused {
        let (tell, arrived) = channel();
        let (release, go) = channel();
        *self.0.lock().unwrap() = Some(Pause { prefix: prefix.to_vec(), arrived: tell, go });
        Paused { arrived, _go: release }
    }

    fn meet(&self, key: &[u8]) {
        let pause = self.0.lock().unwrap().take_if(|pause| key.starts_with(&pause.prefix));
        if let Some(Pause { arrived, go, .. }) = pause {
            arrived.send(()).unwrap();
            // Nothing is ever sent: the end of the sender is the word to go on.
            let _ = go.recv();
        }
    }
}

struct Watched {
    inner: Box<dyn Engine>,
    pauses: Pauses,
}

impl Engine for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, EngineError> {
        self.pauses.meet(key);
        self.inner.get(key)
    }

    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, EngineError> {
        self.inner.scan(prefix, after, limit)
    }

    fn apply(&self, changes: &[Change]) -> Result<(), EngineError> {
        self.inner.apply(changes)
    }

    fn sync(&self) -> Result<u32, EngineError> {
        self.inner.sync()
    }

    fn synced(&self, version: u64) {
        self.inner.synced(version);
    }

    fn health(&self) -> Result<Health, EngineError> {
        self.inner.health()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.inner.close()
    }
}
