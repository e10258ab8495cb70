//! A device that is let go, the real program over real MQTT: ordered, wiped, proven, gone; and enrolled again.

use std::fs;

use ed25519_dalek::SigningKey;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{MultiSigned, payload_digest, sign1};
use muster_wire::id::{DeviceId, WarrantId};
use muster_wire::merkle::{prove_inclusion, root_of};
use muster_wire::order::{Action, Order};
use muster_wire::receipt::{ItemFate, ReceiptOutcome, ReceiptPhase};
use muster_wire::time::Timestamp;
use muster_wire::topic::Channel;
use muster_wire::warrant::{Level, Target, Warrant};
use serde_json::Value;

use crate::fleet::ed25519;
use crate::gate::Flaws;
use crate::program::{Device, now};
use crate::running::{Running, enrolled, events, order, receipts, until};
use crate::stub::Stub;

const MANAGED: &str = "root/var/lib/muster-agent/managed";

/// The fleet's one approver.
fn approver() -> SigningKey {
    ed25519(3).0
}

pub(crate) fn warranted(device: DeviceId, n: u8, action: Action, approver: &SigningKey) -> Order {
    let target = Target { device, serial: None, owner: None, kind: action.kind(), level: action.level() };
    let leaves = [target.leaf_hash()];
    let warrant = Warrant {
        id: WarrantId::from_parts(1, [n; 10]),
        kind: action.kind(),
        level: action.level(),
        plan: action.plan(),
        root: root_of(&leaves),
        count: 1,
        not_after: Timestamp(now() + 365 * 86_400),
        authority_version: 1,
    };
    let mut signed = MultiSigned::unsigned(&warrant);
    signed.add_signature(approver).unwrap();
    Order {
        warrant: Some(signed.to_bytes()),
        leaf: Some(target),
        inclusion: prove_inclusion(&leaves, 0),
        ..order(device, n, action)
    }
}

fn push(stub: &Stub, device: DeviceId, order: &Order) {
    stub.gate.push(device, Channel::Order, sign1(order, &ed25519(1).0).unwrap());
}

fn clear() -> Action {
    Action::Wipe { level: Level::Clear, data_roots: vec!["/var/lib/muster-agent/managed/data".into()] }
}

/// Files in and around a data root.
fn furnish(device: &Device) {
    let data = device.state().join(MANAGED).join("data/deep");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("letter"), "dear").unwrap();
    fs::write(device.state().join(MANAGED).join("data/ledger"), vec![1; 70_000]).unwrap();
    fs::write(device.state().join("root/precious"), "outside").unwrap();
}

fn phases(stub: &Stub) -> Vec<(ReceiptPhase, ReceiptOutcome)> {
    receipts(stub).iter().map(|receipt| (receipt.phase, receipt.outcome)).collect()
}

#[test]
fn a_device_is_wiped_under_a_warrant_proves_it_forgets_itself_and_may_begin_anew() {
    let (stub, device, id) = enrolled();
    furnish(&device);
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    push(&stub, id, &warranted(id, 1, clear(), &approver()));
    assert_eq!(running.ended(), 0, "its life is over");
    assert_eq!(
        phases(&stub),
        ReceiptPhase::ALL.iter().map(|phase| (*phase, ReceiptOutcome::Done)).collect::<Vec<_>>()
    );
    let receipts = receipts(&stub);
    let mut previous = None;
    for receipt in &receipts {
        assert_eq!((receipt.previous, receipt.level), (previous, Some(Level::Clear)));
        previous = Some(payload_digest(receipt));
    }
    let told = |what: &str| {
        receipts[4].items.iter().find(|item| item.what.ends_with(what)).map(|item| item.size_bytes)
    };
    assert_eq!((told("data/deep/letter"), told("data/ledger")), (Some(4), Some(70_000)));
    assert!(!device.state().join(MANAGED).join("data/ledger").exists());
    assert_eq!(fs::read_to_string(device.state().join("root/precious")).unwrap(), "outside");

    for gone in ["identity/key.pem", "identity/certificate.pem", "trust", "authority", "wipe", "outbox"] {
        assert!(!device.state().join(gone).exists(), "{gone}");
    }
    let status = device.run(&["status"]).json;
    assert_eq!((&status["state"], &status["certificate"]), (&Value::from("retired"), &Value::Null));
    assert_eq!(device.run(&["run"]).exit, 0);
    let doctor = device.run(&["doctor"]);
    let checks = doctor.json["checks"].as_array().unwrap();
    assert_eq!((doctor.exit, checks.len()), (0, 1), "nothing is wrong with a device that was let go");
    assert!(checks[0]["detail"].as_str().unwrap().contains("let go"), "{}", doctor.json);
    assert_eq!(device.run(&["renew"]).error["code"], Value::from("not_enrolled"));
    let session = device.state().join("session");
    let former = fs::read_to_string(&session).unwrap().replace("\"generation\":null", "\"generation\":[0,7]");
    assert!(former.contains("[0,7]") && former.contains(&id.to_string()), "{former}");
    fs::write(&session, former).unwrap();
    assert_eq!(
        device.run(&["status"]).json["generation"],
        Value::Null,
        "nothing is in force in a life that is over"
    );

    let mut string = stub.fleet.lock().unwrap().mint("127.0.0.1", 0);
    string.port = stub.port;
    let again = device.enroll(&string);
    assert_eq!((again.exit, again.json["outcome"].as_str()), (0, Some("enrolled")), "{}", again.stderr);
    let status = device.run(&["status"]).json;
    assert_eq!(
        (&status["state"], &status["generation"], &status["checkpoint"]),
        (&Value::from("commissioning"), &Value::Null, &Value::Null),
        "a new life knows nothing of the former: {status}"
    );
    assert_ne!(again.json["device"], Value::from(id.to_string()));
}

#[test]
fn killed_again_and_again_it_comes_to_the_same_end() {
    let (stub, device, id) = enrolled();
    furnish(&device);
    stub.gate.flaws.lock().unwrap().never_acks = true;
    let running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    push(&stub, id, &warranted(id, 1, clear(), &approver()));
    until("the receipt for armed", || phases(&stub).get(1).copied());
    drop(running);
    assert!(device.state().join(MANAGED).join("data/ledger").exists(), "nothing before the word on armed");
    // The letterbox is all that is left of the server, and the power fails once more.
    *stub.gate.flaws.lock().unwrap() = Flaws { says_farewell: true, ..Flaws::default() };
    let running = Running::start(&device);
    until("the deed", || (!device.state().join(MANAGED).join("data/ledger").exists()).then_some(()));
    drop(running);
    let mut last = Running::start(&device);
    assert_eq!(last.ended(), 0);
    let mut proven = receipts(&stub);
    proven.retain(|receipt| receipt.phase == ReceiptPhase::Verified);
    proven.dedup();
    assert_eq!(proven.iter().map(|receipt| receipt.outcome).collect::<Vec<_>>(), [ReceiptOutcome::Done]);
}

#[test]
fn a_device_whose_certificate_expired_long_ago_is_wiped_all_the_same() {
    let (stub, device, id) = enrolled();
    furnish(&device);
    *stub.gate.flaws.lock().unwrap() = Flaws { says_farewell: true, ..Flaws::default() };
    let mut running = Running::start_off(&device, "+40d");
    until("the session", || stub.gate.is_connected(id).then_some(()));
    let order = warranted(id, 1, clear(), &approver());
    push(&stub, id, &Order { expires: Timestamp(now() + 60 * 86_400), ..order });
    assert_eq!(running.ended(), 0);
    assert_eq!(phases(&stub).last(), Some(&(ReceiptPhase::Verified, ReceiptOutcome::Done)));
    assert!(stub.gate.heard_on(Channel::Renew).is_empty());
}

#[test]
fn a_policy_on_the_device_refuses_and_the_device_goes_on() {
    let (stub, device, id) = enrolled();
    furnish(&device);
    fs::create_dir_all(device.state().join("root/etc/muster")).unwrap();
    fs::write(device.state().join("root/etc/muster/wipe-policy"), "refuse clear\n").unwrap();
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    push(&stub, id, &warranted(id, 1, clear(), &approver()));
    let refused = until("the receipt", || receipts(&stub).pop());
    assert_eq!((refused.phase, refused.outcome), (ReceiptPhase::Accepted, ReceiptOutcome::Refused));
    assert_eq!(refused.items[0].what, "refused: this device's wipe-policy refuses clear");
    assert_eq!(refused.items[0].fate, ItemFate::Kept);
    assert!(device.state().join(MANAGED).join("data/ledger").exists());
    assert_eq!(running.terminate(), 0);
    assert_eq!(device.run(&["status"]).json["state"], "enrolled");
}

#[test]
fn a_rehearsal_names_what_would_go_and_what_would_stay_and_changes_nothing() {
    let (_stub, device, _) = enrolled();
    furnish(&device);
    let managed = device.state().join(MANAGED);
    fs::hard_link(managed.join("data/ledger"), device.state().join("root/second-name")).unwrap();
    let told = device.run(&["wipe", "--rehearse", "--level", "clear"]);
    assert_eq!(told.exit, 0, "{}", told.stderr);
    assert_eq!(
        (told.json["level"].as_str(), told.json["honest_level"].as_str()),
        (Some("clear"), Some("deleted"))
    );
    let removed = told.json["would_remove"].as_array().unwrap();
    let bytes = |name: &str| {
        removed
            .iter()
            .find(|item| item["path"].as_str().unwrap().ends_with(name))
            .map(|item| item["bytes"].clone())
    };
    assert_eq!((bytes("/letter"), bytes("/ledger")), (Some(4.into()), Some(70_000.into())));
    let key = device.state().join("identity/key.pem").display().to_string();
    assert_eq!(
        removed.iter().filter(|item| item["path"] == key && item["what"] == "own").count(),
        1,
        "{removed:?}"
    );
    assert!(
        told.json["stays"]
            .as_array()
            .unwrap()
            .iter()
            .any(|what| what.as_str().unwrap().contains("outside the roots"))
    );
    let missed = told.json["missed"].as_array().unwrap();
    assert!(missed.iter().any(|item| item.as_str().unwrap().contains("other names")), "{missed:?}");
    assert!(managed.join("data/ledger").exists());
    let beyond = device.run(&["wipe", "--rehearse", "--level", "clear", "--data-root", "/home"]);
    assert_eq!(beyond.json["would_remove"], Value::Array(vec![]));
    assert!(beyond.json["missed"][0].as_str().unwrap().contains("/home"));
}

#[test]
fn what_no_approver_signed_wipes_nothing_and_leaves_an_event_and_no_receipt() {
    let (stub, device, id) = enrolled();
    furnish(&device);
    let mut running = Running::start(&device);
    until("the session", || stub.gate.is_connected(id).then_some(()));
    let forger = ed25519(9).0;
    push(&stub, id, &warranted(id, 1, clear(), &forger));
    push(&stub, id, &warranted(id, 1, clear(), &ed25519(1).0));
    push(&stub, id, &order(id, 1, clear()));
    // The command key is somebody else's.
    let stolen = sign1(&warranted(id, 1, clear(), &approver()), &forger).unwrap();
    stub.gate.push(id, Channel::Order, stolen);
    for what in malleable(&sign1(&warranted(id, 1, clear(), &approver()), &ed25519(1).0).unwrap()) {
        stub.gate.push(id, Channel::Order, what);
    }
    until("every PUBACK", || (stub.gate.confirmed.lock().unwrap().len() >= 6).then_some(()));
    until("the events", || (events(&stub).len() >= 3).then_some(()));
    assert!(receipts(&stub).is_empty());
    assert!(device.state().join(MANAGED).join("data/ledger").exists());
    assert_eq!(running.terminate(), 0);
    assert!(!fs::read_to_string(device.state().join("journal")).unwrap().contains("\"taken\""));
}

/// The same message with S + L for S, and with a small-order point for R and zero for S.
fn malleable(message: &[u8]) -> [Vec<u8>; 2] {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let start = message.len() - 32;
    let mut added = message.to_vec();
    let mut carry = 0_u16;
    for (byte, l) in added[start..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    let mut small = message.to_vec();
    small[start - 32..].fill(0);
    small[start - 32] = 1;
    assert_ne!(Sha256Digest::of(&added), Sha256Digest::of(message));
    [added, small]
}
