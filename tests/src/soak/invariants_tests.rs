//! Every rule is shown something wrong, beside the same thing as it should be.

use super::*;
use crate::soak::snapshot::Vitals;
use serde_json::json;

fn checker() -> Checker {
    Checker::new(Bounds { resident_bytes: 1000, descriptors: 10 })
}

fn device(id: &str) -> Device {
    Device {
        id: id.into(),
        state: "active".into(),
        serial: Some(format!("{id}01")),
        status: "current".into(),
        desired: Some(2),
        reported: Some(2),
        ..Device::default()
    }
}

fn order(phase: &str) -> Order {
    Order { id: "o".into(), device: "a".into(), kind: "k".into(), phase: phase.into(), sequence: 1 }
}

fn with_devices(devices: &[Device]) -> Snapshot {
    Snapshot { at: Duration::from_secs(100), devices: Some(devices.to_vec()), ..Snapshot::default() }
}

fn with_order(phase: &str) -> Snapshot {
    Snapshot { orders: Some(vec![order(phase)]), ..Snapshot::default() }
}

/// The rules broken by these moments, one after the other.
fn broken(moments: &[Snapshot], promises: &Promises) -> Vec<&'static str> {
    let mut checker = checker();
    moments.iter().for_each(|moment| checker.see(moment, promises));
    checker.found().iter().map(|violation| violation.rule).collect()
}

/// The rules broken by a device that looks like this and then like that.
fn turned(before: Device, after: Device) -> Vec<&'static str> {
    broken(&[with_devices(&[before]), with_devices(&[after])], &Promises::default())
}

fn promised(path: &str, said: &serde_json::Value) -> Promises {
    let mut promises = Promises::default();
    promises.made(path, said, Duration::from_secs(1));
    promises
}

#[test]
fn a_fleet_in_good_order_breaks_no_rule() {
    let held = Device { state: "quarantined".into(), held: true, ..device("b") };
    let moment = with_devices(&[device("a"), held]);
    assert_eq!(broken(&[moment.clone(), moment], &Promises::default()), [""; 0]);
}

#[test]
fn a_device_that_is_gone_is_seen() {
    let moments = [with_devices(&[device("a"), device("b")]), with_devices(&[device("a")])];
    assert_eq!(broken(&moments, &Promises::default()), ["no device is lost"]);
}

#[test]
fn a_certificate_of_two_devices_is_seen() {
    let second = Device { serial: device("a").serial, ..device("b") };
    let moment = with_devices(&[device("a"), second]);
    assert_eq!(broken(&[moment], &Promises::default()), ["one certificate belongs to one device"]);
}

#[test]
fn two_open_lives_of_one_thing_are_seen_and_a_closed_one_is_none() {
    let life = |id: &str| Device { asset: Some("thing".into()), ..device(id) };
    let closed = Device { state: "retired".into(), status: "superseded".into(), ..life("a") };
    let rules = |first| broken(&[with_devices(&[first, life("b")])], &Promises::default());
    assert_eq!(rules(life("a")), ["one thing has one open life"]);
    assert_eq!(rules(closed), [""; 0]);
}

#[test]
fn a_former_certificate_that_comes_back_is_seen() {
    let with = |serial: &str| with_devices(&[Device { serial: Some(serial.into()), ..device("a") }]);
    assert_eq!(broken(&[with("1"), with("2"), with("2")], &Promises::default()), [""; 0]);
    assert_eq!(
        broken(&[with("1"), with("2"), with("1")], &Promises::default()),
        ["no certificate comes back"]
    );
}

#[test]
fn a_generation_that_goes_back_is_seen_and_so_is_one_that_is_forgotten() {
    for reported in [Some(1), None] {
        let after = Device { reported, ..device("a") };
        assert_eq!(turned(device("a"), after), ["no generation goes back"], "{reported:?}");
    }
}

#[test]
fn a_life_after_the_end_is_seen_and_so_is_a_second_commissioning() {
    let retired = Device { state: "retired".into(), status: "revoked".into(), ..device("a") };
    assert_eq!(turned(device("a"), retired.clone()), [""; 0]);
    assert_eq!(turned(retired.clone(), device("a")), ["the end is the end"]);
    let undead = Device { status: "current".into(), ..retired };
    assert_eq!(turned(device("a"), undead), ["the end is the end"]);
    let again = Device { state: "commissioning".into(), ..device("a") };
    assert_eq!(turned(device("a"), again), ["nobody is commissioned twice"]);
}

#[test]
fn a_revocation_that_did_not_stay_or_did_not_cut_is_seen() {
    let promises = promised("/v1/devices/a:revoke", &json!({}));
    let rules = |device: Device| broken(&[with_devices(&[device])], &promises);
    assert_eq!(rules(device("a")), ["what was answered is so"]);
    let revoked = Device {
        state: "retired".into(),
        status: "revoked".into(),
        retirement: Some("without_proof".into()),
        ..device("a")
    };
    assert_eq!(rules(revoked.clone()), [""; 0]);
    let connected = Device { connected: true, ..revoked };
    assert_eq!(rules(connected.clone()), ["the revoked are cut"]);
    let soon = Snapshot { at: Duration::from_secs(2), ..with_devices(&[connected]) };
    assert_eq!(broken(&[soon], &promises), [""; 0], "within the time that a cut may take");
}

#[test]
fn a_former_life_that_goes_on_is_seen() {
    let mut promises = Promises::default();
    promises.is_superseded("a");
    let gone = Device { state: "retired".into(), status: "superseded".into(), ..device("a") };
    let connected = Device { connected: true, ..gone.clone() };
    assert_eq!(broken(&[with_devices(&[gone])], &promises), [""; 0]);
    for wrong in [connected, device("a")] {
        assert_eq!(broken(&[with_devices(&[wrong])], &promises), ["what was answered is so"]);
    }
}

#[test]
fn a_hold_that_did_not_stay_or_did_not_reach_the_certificate_is_seen() {
    let held = Device { state: "quarantined".into(), held: true, ..device("a") };
    let half = Device { held: false, ..held.clone() };
    assert_eq!(broken(&[with_devices(&[half])], &Promises::default()), ["the held are held"]);
    for (verb, as_promised, otherwise) in
        [("quarantine", held.clone(), device("a")), ("release", device("a"), held)]
    {
        let promises = promised(&format!("/v1/devices/a:{verb}"), &json!({}));
        assert_eq!(broken(&[with_devices(&[as_promised])], &promises), [""; 0]);
        assert_eq!(broken(&[with_devices(&[otherwise])], &promises), ["what was answered is so"]);
    }
}

#[test]
fn an_order_that_is_lost_or_another_is_seen() {
    let promises = promised("/v1/orders", &json!({"id": "o", "device": "a", "kind": "k", "sequence": 1}));
    assert_eq!(broken(&[with_order("ordered")], &promises), [""; 0]);
    let none = Snapshot { orders: Some(Vec::new()), ..Snapshot::default() };
    assert_eq!(broken(std::slice::from_ref(&none), &promises), ["what was answered is so"]);
    let of_another = Order { device: "b".into(), ..order("ordered") };
    let moment = Snapshot { orders: Some(vec![of_another]), ..Snapshot::default() };
    assert_eq!(broken(&[moment], &promises), ["what was answered is so"]);
    assert_eq!(broken(&[with_order("ordered"), none], &Promises::default()), ["no order is lost"]);
}

#[test]
fn an_order_that_ends_twice_is_seen() {
    for (before, after, is_good) in [
        ("ordered", "delivered", true),
        ("delivered", "done", true),
        ("expired", "done", true),
        ("done", "done", true),
        ("done", "refused", false),
        ("done", "delivered", false),
        ("refused", "done", false),
        ("delivered", "ordered", false),
    ] {
        let rules = broken(&[with_order(before), with_order(after)], &Promises::default());
        assert_eq!(rules.is_empty(), is_good, "{before} to {after}: {rules:?}");
    }
}

#[test]
fn a_token_that_is_lost_or_open_again_is_seen() {
    let seen = |tokens: &[(&str, &str)]| Snapshot {
        tokens: Some(tokens.iter().map(|(id, state)| ((*id).into(), (*state).into())).collect()),
        ..Snapshot::default()
    };
    let mut promises = promised("/v1/tokens", &json!([{"id": "t"}]));
    assert_eq!(broken(&[seen(&[("t", "open")])], &promises), [""; 0]);
    assert_eq!(broken(&[seen(&[])], &promises), ["what was answered is so"]);
    assert_eq!(broken(&[seen(&[("t", "revoked")])], &promises), ["what was answered is so"]);
    promises.made("/v1/tokens/t:revoke", &json!({}), Duration::ZERO);
    assert_eq!(broken(&[seen(&[("t", "open")])], &promises), ["what was answered is so"]);
}

#[test]
fn a_baseline_that_is_lost_is_seen() {
    let seen = |generation| Snapshot {
        generations: Some([("p".to_owned(), generation)].into()),
        ..Snapshot::default()
    };
    let promises = promised("/v1/baselines", &json!({"baseline": {"profile": "p", "generation": 5}}));
    assert_eq!(broken(&[seen(5), seen(6)], &promises), [""; 0]);
    assert_eq!(broken(&[seen(4)], &promises), ["what was answered is so"]);
    assert_eq!(broken(&[seen(9), seen(8)], &Promises::default()), ["no generation goes back"]);
}

#[test]
fn a_revoked_certificate_that_its_list_does_not_name_is_seen() {
    let promises = promised("/v1/devices/a:revoke", &json!({"certificate": {"serial": "0a0b"}}));
    let seen = |list: &str, serials: &[&str]| Snapshot {
        lists: [(list.to_owned(), serials.iter().map(|serial| (*serial).to_owned()).collect())].into(),
        ..Snapshot::default()
    };
    assert_eq!(broken(&[seen("0b", &["0a0b", "ff0b"])], &promises), [""; 0]);
    assert_eq!(broken(&[seen("0b", &["ff0b"])], &promises), ["the lists name the revoked"]);
    assert_eq!(broken(&[seen("0c", &[])], &promises), [""; 0], "another list says nothing about it");
}

#[test]
fn a_server_that_grows_or_gives_alarm_is_seen() {
    let seen = |resident_bytes, descriptors, stray| Snapshot {
        vitals: Some(Vitals { resident_bytes, descriptors }),
        alarms: [("stray".to_owned(), stray)].into(),
        ..Snapshot::default()
    };
    assert_eq!(broken(&[seen(1000, 10, 0)], &Promises::default()), [""; 0]);
    for moment in [seen(1001, 10, 0), seen(1000, 11, 0)] {
        assert_eq!(broken(&[moment], &Promises::default()), ["the server stays within bounds"]);
    }
    assert_eq!(broken(&[seen(1, 1, 1)], &Promises::default()), ["no alarm is given"]);
}

#[test]
fn a_panic_and_what_others_noticed_are_passed_on_once() {
    let moment = Snapshot {
        panics: vec!["serve.log: thread 'main' panicked at x".into()],
        noticed: vec![("the audit log verifies", "no".into())],
        ..Snapshot::default()
    };
    let rules = broken(&[moment.clone(), moment], &Promises::default());
    assert_eq!(rules, ["nothing panics", "the audit log verifies"]);
}
