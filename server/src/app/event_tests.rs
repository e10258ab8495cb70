//! What entries tell.

use super::*;
use crate::domain::ledger::Draft;
use crate::domain::policy::Caller;
use serde_json::{Value, json};

const DEVICE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const SERIAL: &str = "40000000000000000000000000000001";
const OTHER: &str = "40000000000000000000000000000002";

fn draft(action: &str) -> Draft {
    Caller::server().entry(action, 1_767_225_600_999, format!("device/{DEVICE}"))
}

fn told_by(draft: &Draft) -> Vec<(String, Value)> {
    let events = events(&Entry::new(draft, 17));
    let parsed = |event: &Event| serde_json::from_str::<Value>(&event.body).unwrap();
    events.iter().map(|event| (event.place.unwrap().to_string(), parsed(event))).collect()
}

#[test]
fn an_enrolment_tells_of_the_device_and_then_of_its_certificate() {
    let draft = draft("est.simpleenroll")
        .states("", "commissioning")
        .facts([("certificate_serial", SERIAL.into()), ("certificate_sha256", "ab".repeat(32))]);
    let told = told_by(&draft);
    assert_eq!(told[0].0, "17.0");
    assert_eq!(
        told[0].1,
        json!({
            "v": 1, "topic": "devices", "seq": 17, "at": "2026-01-01T00:00:00Z", "actor": "server",
            "action": "est.simpleenroll", "device": DEVICE, "from": null, "to": "commissioning",
        })
    );
    assert_eq!((told[1].0.as_str(), told.len()), ("17", 2));
    let certificate = json!([{ "serial": SERIAL, "sha256": "ab".repeat(32), "status": "issued" }]);
    assert_eq!(told[1].1["certificates"], certificate);
}

#[test]
fn a_revocation_names_every_certificate_that_ended() {
    let draft = draft("device.revoke")
        .states("active", "retired(without_proof)")
        .because("key_compromise")
        .facts([("revoked_serials", format!("{SERIAL} {OTHER}"))]);
    let told = told_by(&draft);
    assert_eq!(told[0].1["to"], "retired(without_proof)");
    assert_eq!(told[1].1["reason"], "key_compromise");
    let statuses: Vec<_> =
        told[1].1["certificates"].as_array().unwrap().iter().map(|c| &c["status"]).collect();
    assert_eq!(statuses, ["revoked", "revoked"]);
}

#[test]
fn a_quarantine_and_its_end_are_told_of_the_device_and_of_its_certificates() {
    let hold =
        draft("device.quarantine").states("active", "quarantined").facts([("held_serials", SERIAL.into())]);
    let told = told_by(&hold);
    assert_eq!(
        (&told[0].1["to"], &told[1].1["certificates"][0]["status"]),
        (&json!("quarantined"), &json!("held"))
    );
    let go =
        draft("device.release").states("quarantined", "active").facts([("released_serials", SERIAL.into())]);
    assert_eq!(told_by(&go)[1].1["certificates"][0]["status"], "released");
}

#[test]
fn a_first_use_makes_one_current_and_the_former_superseded() {
    let draft = draft("certificate.promote")
        .states("issued", "current")
        .facts([("certificate_serial", SERIAL.into()), ("revoked_serials", OTHER.into())]);
    let told = told_by(&draft);
    assert_eq!(told.len(), 1, "the device's state has not changed");
    assert_eq!(told[0].1["certificates"][0]["status"], "current");
    assert_eq!(told[0].1["certificates"][1]["status"], "superseded");
}

#[test]
fn verdicts_orders_and_reports_have_their_topics() {
    let posture = draft("report.posture")
        .states("pass", "grace")
        .facts([("failing", "firewall swap_encryption".into())]);
    let told = told_by(&posture);
    assert_eq!(
        (&told[0].1["topic"], &told[0].1["failing"]),
        (&json!("posture"), &json!(["firewall", "swap_encryption"]))
    );
    let order = draft("order.receipt").states("delivered", "done").facts([
        ("order", DEVICE.into()),
        ("kind", "collect_posture".into()),
        ("order_counter", "3".into()),
    ]);
    let told = told_by(&order);
    assert_eq!(told[0].1["order"], json!({ "id": DEVICE, "kind": "collect_posture", "sequence": 3 }));
    let report = draft("report.state").states("", "generation 4").facts([("drift", "files".into())]);
    let told = told_by(&report);
    assert_eq!((&told[0].1["generation"], &told[0].1["drift"]), (&json!(4), &json!(["files"])));
}

#[test]
fn refusals_and_what_has_no_topic_tell_nothing() {
    let mut refused = draft("device.revoke").states("active", "retired");
    refused.outcome = Outcome::Refused;
    assert!(told_by(&refused).is_empty());
    let mut token = draft("token.create").states("", "open");
    token.object = "token/x".into();
    assert!(told_by(&token).is_empty());
    assert!(told_by(&draft("device.approve").states("pending", "pending")).is_empty());
}

#[test]
fn what_a_device_supplied_stays_inside_a_string() {
    let hostile = "\"},\ndata: {\"topic\":\"devices\"}\n\n\u{2028}</script>";
    let mut entry = draft("report.posture").states("pass", "fail").facts([("failing", hostile.into())]);
    entry.reason = hostile.into();
    let events = events(&Entry::new(&entry, 1));
    assert_eq!(events.len(), 1);
    assert!(!events[0].body.contains('\n'), "{}", events[0].body);
    let parsed: Value = serde_json::from_str(&events[0].body).unwrap();
    assert_eq!(parsed["reason"], hostile);
    assert_eq!(events[0].topic.topic(), "muster/events/posture");
}

#[test]
fn a_place_has_one_spelling_and_knows_what_comes_next() {
    for text in ["0", "17", "17.0", "18446744073709551615"] {
        assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
    }
    for text in ["", "x", "-1", "1.", ".1", "1.2.3", "+1", "18446744073709551616", "1.70000"] {
        assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
    }
    let at = |text: &str| text.parse::<Place>().unwrap();
    assert_eq!((at("17").next_entry(), at("17.0").next_entry()), (18, 17));
    assert!(at("17.0") < at("17.1") && at("17.1") < at("17") && at("17") < at("18.0"));
}
