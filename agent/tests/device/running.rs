//! The running agent, the real program over real MQTT: connected, obeying, renewing, and gone when told to.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use muster_wire::cbor;
use muster_wire::checkpoint::Checkpoint;
use muster_wire::desired::{
    Baseline, CertificatePolicy, DesiredHead, Generation, IdentityKey, Intervals, Lapse, Lease,
};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, sign1};
use muster_wire::id::{DeviceId, OrderId};
use muster_wire::merkle::{ConsistencyProof, TreeHead};
use muster_wire::order::{Action, Order, Sequence};
use muster_wire::posture::{EventKind, EventReport, StateReport};
use muster_wire::receipt::{Receipt, ReceiptOutcome};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use serde_json::Value;

use crate::fleet::{Fleet, TRUST_DOMAIN, ed25519};
use crate::gate::Flaws;
use crate::program::{Device, now, stub};
use crate::stub::Stub;

/// An agent that runs until it is dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub(crate) fn start(device: &Device) -> Self {
        Self::start_with(device, &[])
    }

    /// An agent that believes the calendar to be off by `offset`, as libfaketime writes it.
    pub(crate) fn start_off(device: &Device, offset: &str) -> Self {
        Self::start_with(device, &off(offset))
    }

    fn start_with(device: &Device, variables: &[(&str, &str)]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_muster-agent"))
            .envs(variables.iter().copied())
            .args(["run", "--json", "--state-dir"])
            .arg(device.state())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Its exit code, once it has ended by itself; a minute is never.
    pub(crate) fn ended(&mut self) -> i32 {
        until("its end", || self.0.try_wait().unwrap()).code().unwrap()
    }

    pub(crate) fn terminate(&mut self) -> i32 {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().code().unwrap()
    }
}

/// What makes a program believe the calendar to be off by `offset`.
fn off(offset: &str) -> [(&str, &str); 3] {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    assert!(std::path::Path::new(LIBRARY).exists(), "install libfaketime");
    [("LD_PRELOAD", LIBRARY), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]
}

/// Asks until it is so; two minutes are never.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if let Some(answer) = condition() {
            return answer;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("waited in vain: {what}");
}

pub(crate) fn enrolled() -> (Stub, Device, DeviceId) {
    let (stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let id = stub.fleet.lock().unwrap().devices[0].id;
    (stub, device, id)
}

/// Enrolled so long ago that 25 of the 30 days of its certificate are over.
fn aged() -> (Stub, Device, DeviceId) {
    let mut fleet = Fleet::founded(now() - 25 * 86_400);
    let mut string = fleet.mint("127.0.0.1", 0);
    let stub = Stub::serve(fleet, now());
    string.port = stub.port;
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    stub.fleet.lock().unwrap().now = now();
    let id = stub.fleet.lock().unwrap().devices[0].id;
    (stub, device, id)
}

/// The certificate in use at the server, and on the device.
fn renewed(stub: &Stub, device: &Device, former: &[u8]) -> Option<()> {
    let current = stub.fleet.lock().unwrap().devices[0].current.clone()?.der;
    let held = device.certificate();
    (held != former && held == muster_pki::armor::pem("CERTIFICATE", &current).into_bytes()).then_some(())
}

#[test]
fn with_the_gate_shut_a_certificate_that_is_due_is_renewed_over_est() {
    let (stub, device, id) = aged();
    stub.gate.flaws.lock().unwrap().is_shut = true;
    let former = device.certificate();
    let mut running = Running::start(&device);
    until("the renewal", || renewed(&stub, &device, &former));
    assert!(stub.gate.heard_on(Channel::Renew).is_empty());
    *stub.gate.flaws.lock().unwrap() = Flaws::default();
    until("the session", || stub.gate.is_connected(id).then_some(()));
    assert_eq!(running.terminate(), 0);
}

#[test]
fn a_device_that_finds_its_certificate_expired_renews_over_est_and_goes_on() {
    let (stub, device, id) = aged();
    let former = device.certificate();
    let mut running = Running::start_off(&device, "+6d");
    until("the renewal", || renewed(&stub, &device, &former));
    assert!(stub.gate.heard_on(Channel::Renew).is_empty());
    until("the session", || stub.gate.is_connected(id).then_some(()));
    assert_eq!(running.terminate(), 0);
}

#[test]
fn a_clock_in_1970_or_a_year_ago_hinders_nothing() {
    for offset in ["-365d", "@1970-01-01 00:00:10"] {
        let (stub, device, id) = enrolled();
        let former = device.certificate();
        let mut running = Running::start_off(&device, offset);
        until("the session", || stub.gate.is_connected(id).then_some(()));
        until("a state report", || stub.gate.heard_on(Channel::ReportState).pop());
        assert_eq!(running.terminate(), 0);
        assert_eq!(device.certificate(), former, "{offset}");
    }
}

#[test]
fn a_device_without_a_calendar_is_not_shut_out_by_a_servers_newer_certificate() {
    // Founded and enrolled two days ago; the server has started anew since.
    let mut fleet = Fleet::founded(now() - 2 * 86_400);
    let mut string = fleet.mint("127.0.0.1", 0);
    let stub = Stub::serve(fleet, now());
    string.port = stub.port;
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let id = stub.fleet.lock().unwrap().devices[0].id;
    let former = device.certificate();
    let mut running = Running::start_off(&device, "@1970-01-01 00:00:10");
    until("the session", || stub.gate.is_connected(id).then_some(()));
    assert_eq!(running.terminate(), 0);
    assert_eq!(device.certificate(), former);
}

#[test]
fn a_device_without_a_calendar_renews_in_its_session() {
    let (stub, device, id) = aged();
    stub.fleet.lock().unwrap().date = Some(Timestamp(now()));
    let former = device.certificate();
    let mut running = Running::start_off(&device, "@1970-01-01 00:00:10");
    until("the session", || stub.gate.is_connected(id).then_some(()));
    stub.fleet.lock().unwrap().now = now() + 60;
    push_order(&stub, id, 1, Action::RotateIdentity);
    until("the renewal", || renewed(&stub, &device, &former));
    assert_eq!(stub.gate.heard_on(Channel::Renew).len(), 1);
    assert_eq!(running.terminate(), 0);
}

#[test]
fn a_device_without_a_calendar_renews_by_the_date_in_the_servers_answers() {
    let (stub, device, _) = aged();
    let former = device.certificate();
    let mut wrapper = vec!["/usr/bin/env".to_owned()];
    wrapper.extend(off("@1970-01-01 00:00:10").map(|(name, value)| format!("{name}={value}")));
    let ran_at = |date: i64| {
        let mut fleet = stub.fleet.lock().unwrap();
        (fleet.now, fleet.date) = (now() + 60, Some(Timestamp(date)));
        drop(fleet);
        device.run_under(&wrapper, &["renew"], b"")
    };
    // Whoever has the server's key has no say beyond the end of its certificate.
    let beyond = ran_at(now() + 20 * 365 * 86_400);
    assert_eq!((beyond.exit, &beyond.error["code"]), (1, &Value::from("clock")), "{}", beyond.stderr);
    assert_eq!(ran_at(now()).exit, 0);
    renewed(&stub, &device, &former).unwrap();
}

pub(crate) fn order(device: DeviceId, n: u8, action: Action) -> Order {
    let head = TreeHead { size: 0, root: muster_wire::merkle::root_of(&[]) };
    let checkpoint = Checkpoint { origin: format!("{TRUST_DOMAIN}/audit"), head };
    Order {
        device,
        id: OrderId::from_parts(1, [n; 10]),
        sequence: Sequence { authority_version: 1, restore_epoch: 0, counter: u64::from(n) },
        action,
        warrant: None,
        leaf: None,
        inclusion: None,
        issued_at: Timestamp(now()),
        expires: Timestamp(now() + 3600),
        checkpoint: checkpoint.sign(&ed25519(2).0).unwrap(),
        consistency: ConsistencyProof { from_size: 0, path: Vec::new() },
    }
}

fn push_order(stub: &Stub, device: DeviceId, n: u8, action: Action) {
    stub.gate.push(device, Channel::Order, sign1(&order(device, n, action), &ed25519(1).0).unwrap());
}

pub(crate) fn receipts(stub: &Stub) -> Vec<Receipt> {
    stub.gate.receipts.lock().unwrap().clone()
}

pub(crate) fn events(stub: &Stub) -> Vec<EventReport> {
    let payloads = stub.gate.heard_on(Channel::ReportEvent);
    payloads.iter().map(|bytes| cbor::decode(bytes).unwrap()).collect()
}

fn head(device: DeviceId, counter: u64) -> DesiredHead {
    DesiredHead {
        device,
        generation: Generation { restore_epoch: 0, counter },
        baseline: Sha256Digest([7; 32]),
        certificate: CertificatePolicy {
            key: IdentityKey::P256,
            validity_s: 86_400,
            renew_after_percent: 66,
        },
        intervals: Intervals { state_s: 3600, posture_s: 3600, drift_s: 3600 },
        lease: Lease { lasts_s: 0, on_lapse: Lapse::Report },
        issued_at: Timestamp(now()),
    }
}

#[test]
fn it_connects_reports_says_so_and_ends_when_told_to() {
    let (stub, device, id) = enrolled();
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    until("a state report", || stub.gate.heard_on(Channel::ReportState).pop());
    until("a posture report", || stub.gate.heard_on(Channel::ReportPosture).pop());
    let status = until("the status", || {
        let status = device.run(&["status"]).json;
        (status["connected"] == true).then_some(status)
    });
    // What the server called it at enrolment is not what it is by now: it is welcome, and that is all it hears.
    assert_eq!((&status["state"], &status["said"]["word"]), (&"enrolled".into(), &"commissioning".into()));

    let refused = device.run(&["renew"]);
    assert_eq!((refused.exit, &refused.error["code"]), (1, &Value::from("agent_runs")), "{}", refused.stderr);

    assert_eq!(running.terminate(), 0);
    until("a goodbye", || (*stub.gate.goodbyes.lock().unwrap() == 1).then_some(()));
    assert_eq!(device.run(&["status"]).json["connected"], false);
}

#[test]
fn a_killed_agent_is_not_said_to_be_connected() {
    let (stub, device, id) = enrolled();
    let running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    until("the status", || (device.run(&["status"]).json["connected"] == true).then_some(()));
    drop(running);
    assert_eq!(device.run(&["status"]).json["connected"], false);
}

#[test]
fn a_session_that_is_cut_is_opened_again() {
    let (stub, device, id) = enrolled();
    let _running = Running::start(&device);
    for connects in 1..4 {
        until("the session", || (*stub.gate.connects.lock().unwrap() >= connects).then_some(()));
        until("the session", || stub.gate.is_connected(id).then_some(()));
        stub.gate.cut();
    }
}

#[test]
fn a_device_that_is_not_enrolled_has_nothing_to_run_for() {
    let refused = Device::new().run(&["run"]);
    assert_eq!(
        (refused.exit, &refused.error["code"]),
        (4, &Value::from("not_enrolled")),
        "{}",
        refused.stderr
    );
}

#[test]
fn an_order_is_obeyed_once_and_its_receipt_is_sent_until_it_is_signed_for() {
    let (stub, device, id) = enrolled();
    stub.gate.flaws.lock().unwrap().never_acks = true;
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    push_order(&stub, id, 1, Action::CollectPosture);
    until("the receipt", || receipts(&stub).pop());
    // Delivered again, as after a lost PUBACK.
    push_order(&stub, id, 1, Action::CollectPosture);
    until("its PUBACK", || (stub.gate.confirmed.lock().unwrap().len() == 2).then_some(()));
    assert_eq!(running.terminate(), 0);
    assert_eq!(receipts(&stub).len(), 1);

    *stub.gate.flaws.lock().unwrap() = Flaws::default();
    let mut running = Running::start(&device);
    until("the receipt again", || (receipts(&stub).len() == 2).then_some(()));
    until("nothing owed", || {
        let left = std::fs::read_dir(device.state().join("outbox")).unwrap().count();
        (left == 0).then_some(())
    });
    assert_eq!(running.terminate(), 0);
    let both = receipts(&stub);
    assert_eq!(both[0], both[1]);
    assert_eq!(both[0].outcome, ReceiptOutcome::Done);
}

#[test]
fn an_order_to_rotate_brings_another_certificate_over_the_session_and_a_receipt_under_it() {
    let (stub, device, id) = enrolled();
    let former = device.certificate();
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    push_order(&stub, id, 1, Action::RotateIdentity);
    let receipt = until("the receipt", || receipts(&stub).pop());
    assert_eq!(receipt.outcome, ReceiptOutcome::Done);
    assert_ne!(device.certificate(), former);
    let fleet_current = stub.fleet.lock().unwrap().devices[0].current.clone().unwrap().der;
    assert_eq!(receipt.certificate, Sha256Digest::of(&fleet_current));
    assert_eq!(receipt.evidence, receipt.certificate);
    assert_eq!((stub.gate.heard_on(Channel::Renew).len(), *stub.gate.connects.lock().unwrap()), (1, 2));
    assert!(stub.gate.is_connected(id));
    assert_eq!(running.terminate(), 0);
    assert!(!device.state().join("identity/next-key.pem").exists());
}

#[test]
fn what_is_not_signed_by_the_command_key_is_refused_and_told_once() {
    let (stub, device, id) = enrolled();
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    let forged = sign1(&order(id, 1, Action::CollectPosture), &ed25519(9).0).unwrap();
    stub.gate.push(id, Channel::Order, forged.clone());
    stub.gate.push(id, Channel::Order, forged);
    until("both PUBACKs", || (stub.gate.confirmed.lock().unwrap().len() == 2).then_some(()));
    until("the event", || events(&stub).into_iter().find(|event| event.kind == EventKind::Refused));
    assert!(receipts(&stub).is_empty());
    assert_eq!(running.terminate(), 0);
    assert!(!std::fs::read_to_string(device.state().join("journal")).unwrap().contains("taken"));
}

#[test]
fn a_desired_state_is_put_in_place_and_reported_and_never_goes_back() {
    let (stub, device, id) = enrolled();
    let baseline = Baseline { profile: "laptop-linux".into(), sections: Vec::new() };
    let mut signed = MultiSigned::unsigned(&baseline);
    signed.add_signature(&ed25519(1).0).unwrap();
    stub.fleet.lock().unwrap().baseline = Some(signed.to_bytes());
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    let push = |counter| {
        let head = DesiredHead { baseline: signed.payload_digest(), ..head(id, counter) };
        stub.gate.push(id, Channel::Desired, sign1(&head, &ed25519(1).0).unwrap());
    };
    let reported = || {
        let state = stub.gate.heard_on(Channel::ReportState).pop()?;
        cbor::decode::<StateReport>(&state).unwrap().generation.map(|generation| generation.counter)
    };
    stub.fleet.lock().unwrap().rotate_issuing();
    push(5);
    until("the report", || (reported() == Some(5)).then_some(()));
    let trust = std::fs::read_to_string(device.state().join("trust")).unwrap();
    let served = muster_pki::armor::pem("CERTIFICATE", stub.fleet.lock().unwrap().issuing());
    assert!(trust.contains(served.trim()), "a generation was reported before the authorities were known");
    until("the status", || (device.run(&["status"]).json["generation"] == 5).then_some(()));
    push(4);
    until("the event", || events(&stub).into_iter().find(|event| event.kind == EventKind::Refused));
    assert_eq!(running.terminate(), 0);
    assert_eq!(reported(), Some(5));
}
