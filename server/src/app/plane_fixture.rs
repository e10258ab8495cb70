//! Devices that speak to an installation, for tests of what a session is served by.

use super::fixture::{Bench, UNLIMITED};
use super::{Answer, App, Enroll, LogSource};
use crate::ca::{fresh_ed25519, random};
use crate::clock::ManualClock;
use crate::domain::device::{Device, DeviceState};
use crate::domain::policy::{Act, Permit, Principal, act};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use muster_pki::certificate::Certificate;
use muster_pki::key::DeviceKey;
use muster_pki::name::Subject;
use muster_pki::request::build_request;
use muster_wire::id::{DeviceId, ReportId};
use std::sync::Arc;

/// An installation with devices of the profile `sensor-linux`.
pub(super) struct Site {
    pub(super) app: Arc<App>,
    pub(super) clock: ManualClock,
    bench: Bench,
}

/// A device with a certificate that it has used.
pub(super) struct Life {
    pub(super) id: DeviceId,
    pub(super) key: SigningKey,
    pub(super) der: Vec<u8>,
}

impl Site {
    pub(super) fn found() -> Self {
        Self::found_by(&[fresh_ed25519()])
    }

    /// The same with these approvers; one alone approves everything.
    pub(super) fn found_by(approvers: &[SigningKey]) -> Self {
        let bench = Bench::founded_by(UNLIMITED, approvers);
        Self { app: Arc::clone(&bench.app), clock: bench.clock.clone(), bench }
    }

    /// The same installation, after `change` was made to its directory while nobody served it.
    pub(super) async fn restarted(self, change: impl FnOnce(&std::path::Path) + Send + 'static) -> Self {
        let Self { app, clock, bench } = self;
        drop(app);
        let bench = bench.restarted(change).await;
        Self { app: Arc::clone(&bench.app), clock, bench }
    }

    /// The same installation, served with these rails from now on.
    pub(super) async fn on_rails(self, rails: crate::domain::rails::Limits) -> Self {
        let Self { app, clock, bench } = self;
        drop(app);
        let bench = bench.on_rails(rails).await;
        Self { app: Arc::clone(&bench.app), clock, bench }
    }

    /// The rules behind every refusal in the log, oldest first.
    pub(super) fn refusals(&self) -> Vec<String> {
        self.bench.refusals()
    }

    /// The events of the alarms that were raised since this was last asked.
    pub(super) fn alarms(&self) -> Vec<&'static str> {
        self.bench.alarms()
    }

    /// Leave for the act `A` as `principal` has it.
    pub(super) fn permit<A: Act>(&self, principal: Principal) -> Permit<A> {
        self.bench.permit(principal)
    }

    /// Leave for the act `A` as an operator has it.
    pub(super) fn operator<A: Act>(&self) -> Permit<A> {
        self.permit(Principal::Operator("admin".into()))
    }

    /// Enrols a device at `site`; it has used its certificate.
    pub(super) async fn enroll(&self, site: Option<&str>) -> Life {
        let token = self.bench.tokens(site, 1).await.remove(0);
        let key = fresh_ed25519();
        let body = build_request(&pair(&key), &Subject::new("device").unwrap()).unwrap();
        let credential = Some(token.reveal());
        let from = std::net::IpAddr::from([127, 0, 0, 1]);
        let asked = Enroll { label: None, credential, body: &body, from };
        let answer = self.app.simple_enroll(self.permit(Principal::Anonymous), asked).await.unwrap();
        let Answer::Certificate(der) = answer else { panic!("{answer:?}") };
        let certificate = Certificate::parse(&der).unwrap();
        let id: DeviceId = certificate.uris()[0].rsplit('/').next().unwrap().parse().unwrap();
        self.app.promote(id, &certificate.serial().unwrap()).await.unwrap();
        Life { id, key, der }
    }

    /// The record of a device.
    pub(super) fn device(&self, id: DeviceId) -> Device {
        self.app.device(id).unwrap().record
    }

    /// The state of a device.
    pub(super) fn state(&self, id: DeviceId) -> DeviceState {
        self.device(id).state
    }

    /// How many commits there were.
    pub(super) fn commits(&self) -> u64 {
        self.app.store.metrics().commits
    }

    /// How many audit entries there are.
    pub(super) fn entries(&self) -> u64 {
        crate::audit::size(&LogSource(self.app.store.clone())).unwrap()
    }

    /// The actions of the audit entries about a device, oldest first.
    pub(super) fn actions(&self, id: DeviceId) -> Vec<String> {
        let history = self.app.history(&self.operator::<act::ReadDevice>(), id, None, 1_000).unwrap();
        history.items.iter().map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
    }
}

/// A fresh name for a report.
pub(super) fn report_id() -> ReportId {
    ReportId::from_bytes(random())
}

/// `key` as a request is made with it.
pub(super) fn pair(key: &SigningKey) -> DeviceKey {
    DeviceKey::from_pkcs8(key.to_pkcs8_der().unwrap().as_bytes()).unwrap()
}

/// The rule by which something was refused.
pub(super) fn rule(error: &super::Error) -> &'static str {
    let Some(refusal) = error.refusal() else { panic!("{error}") };
    refusal.rule
}
