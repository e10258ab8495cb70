//! The table of contract.md, row by row, and every combination the rows leave out.

use super::*;
use CertificateStatus::{Current, Issued, Revoked, Superseded};

const NOT_AFTER: i64 = 1_000_000;
const GRACE_S: u32 = 500;
const DOOM: i64 = NOT_AFTER - 100;

const ACTIVE: DeviceStanding = DeviceStanding::Active { grace_s: GRACE_S };
const NO_GRACE: DeviceStanding = DeviceStanding::Active { grace_s: 0 };
const HELD: DeviceStanding = DeviceStanding::Held { grace_s: GRACE_S };
const LEAVING: DeviceStanding = DeviceStanding::Deprovisioning { doomed_from: DOOM, order: Order::Open };
const LEAVING_IDLE: DeviceStanding =
    DeviceStanding::Deprovisioning { doomed_from: DOOM, order: Order::Closed };
const DOOMED: DeviceStanding = DeviceStanding::Deprovisioning { doomed_from: 0, order: Order::Open };
const PROVEN: DeviceStanding = DeviceStanding::Proven { until: NOT_AFTER + 50 };
const RETIRED: DeviceStanding = DeviceStanding::Retired;

const EARLY: i64 = DOOM - 1;
const LATE: i64 = DOOM;
const LAST: i64 = NOT_AFTER;
const EXPIRED: i64 = NOT_AFTER + 1;
const GRACE_ENDS: i64 = NOT_AFTER + GRACE_S as i64;

const DOORS: [Door; 4] = [Door::Handshake, Door::Https, Door::Renew, Door::Gate];

fn facts(certificate: CertificateStatus, device: DeviceStanding) -> Facts {
    Facts { certificate, device, not_after: NOT_AFTER }
}

/// One line of the table: who, when, and what the line grants; `Err` is "none".
type Row =
    (&'static str, CertificateStatus, DeviceStanding, i64, Result<(Topics, Renew), Refusal>, Published);

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("issued (not yet used)",            Issued,     ACTIVE,       EARLY,          Ok((Topics::ALL, Renew::Yes)),           Published::Good),
    ("issued, its last second",          Issued,     ACTIVE,       LAST,           Ok((Topics::ALL, Renew::Yes)),           Published::Good),
    ("current",                          Current,    ACTIVE,       EARLY,          Ok((Topics::ALL, Renew::Yes)),           Published::Good),
    ("current, its last second",         Current,    ACTIVE,       LAST,           Ok((Topics::ALL, Renew::Yes)),           Published::Good),
    ("current, held",                    Current,    HELD,         EARLY,          Ok((Topics::HELD, Renew::Held)),         Published::Hold),
    ("issued while held",                Issued,     HELD,         EARLY,          Ok((Topics::HELD, Renew::Held)),         Published::Hold),
    ("expired within grace",             Current,    ACTIVE,       EXPIRED,        Ok((Topics::GRACE, Renew::Recorded)),    Published::Good),
    ("last second of grace",             Current,    ACTIVE,       GRACE_ENDS,     Ok((Topics::GRACE, Renew::Recorded)),    Published::Good),
    ("grace is over",                    Current,    ACTIVE,       GRACE_ENDS + 1, Err(Refusal::Expired),                   Published::Good),
    ("expired, policy without grace",    Current,    NO_GRACE,     EXPIRED,        Err(Refusal::Expired),                   Published::Good),
    ("issued and expired: no grace",     Issued,     ACTIVE,       EXPIRED,        Err(Refusal::Expired),                   Published::Good),
    ("held, expired within grace",       Current,    HELD,         EXPIRED,        Ok((Topics::GRACE, Renew::RecordedHeld)), Published::Hold),
    ("held, grace is over",              Current,    HELD,         GRACE_ENDS + 1, Err(Refusal::Expired),                   Published::Hold),
    ("held, issued and expired",         Issued,     HELD,         EXPIRED,        Err(Refusal::Expired),                   Published::Hold),
    ("deprovisioning",                   Current,    LEAVING,      EARLY,          Ok((Topics::FAREWELL, Renew::No)),       Published::Good),
    ("deprovisioning, no order yet",     Current,    LEAVING_IDLE, EARLY,          Ok((Topics::FAREWELL, Renew::No)),       Published::Good),
    ("issued, then deprovisioning",      Issued,     LEAVING,      EARLY,          Ok((Topics::FAREWELL, Renew::No)),       Published::Good),
    ("proven",                           Current,    PROVEN,       EARLY,          Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("proven, its last second",          Current,    PROVEN,       NOT_AFTER + 50, Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("proven too long ago",              Current,    PROVEN,       NOT_AFTER + 51, Err(Refusal::Retired),                   Published::Revoked),
    ("doomed: its deadline passed",      Current,    LEAVING,      LATE,           Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("doomed for good",                  Current,    DOOMED,       EARLY,          Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("doomed, even expired",             Current,    LEAVING,      EXPIRED,        Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("doomed, long expired",             Current,    DOOMED,       GRACE_ENDS + 9, Ok((Topics::FAREWELL, Renew::No)),       Published::Revoked),
    ("doomed, no open order",            Current,    LEAVING_IDLE, LATE,           Err(Refusal::NoOpenOrder),               Published::Revoked),
    ("doomed by expiry, no open order",  Current,    LEAVING_IDLE, EXPIRED,        Err(Refusal::NoOpenOrder),               Published::Revoked),
    ("superseded",                       Superseded, ACTIVE,       EARLY,          Err(Refusal::Superseded),                Published::Revoked),
    ("superseded, of a doomed device",   Superseded, DOOMED,       EARLY,          Err(Refusal::Superseded),                Published::Revoked),
    ("superseded, of a proven device",   Superseded, PROVEN,       EARLY,          Err(Refusal::Superseded),                Published::Revoked),
    ("revoked",                          Revoked,    ACTIVE,       EARLY,          Err(Refusal::Revoked),                   Published::Revoked),
    ("revoked, held",                    Revoked,    HELD,         EARLY,          Err(Refusal::Revoked),                   Published::Revoked),
    ("revoked within grace",             Revoked,    ACTIVE,       EXPIRED,        Err(Refusal::Revoked),                   Published::Revoked),
    ("revoked, of a doomed device",      Revoked,    DOOMED,       EARLY,          Err(Refusal::Revoked),                   Published::Revoked),
    ("retired",                          Current,    RETIRED,      EARLY,          Err(Refusal::Retired),                   Published::Revoked),
    ("retired, issued",                  Issued,     RETIRED,      EARLY,          Err(Refusal::Retired),                   Published::Revoked),
];

fn expected(row: &Row, door: Door) -> Result<Admission, Refusal> {
    let (_, certificate, _, _, grant, _) = row;
    let (topics, renew) = (*grant)?;
    if door == Door::Renew && renew == Renew::No {
        return Err(Refusal::MayNotRenew);
    }
    Ok(Admission { promote: *certificate == Issued && door != Door::Handshake, topics, renew })
}

#[test]
fn every_row_of_the_table_holds_at_every_door() {
    for row in TABLE {
        let (name, certificate, device, now, _, _) = row;
        for door in DOORS {
            let got = admit(Some(&facts(*certificate, *device)), door, *now);
            assert_eq!(got, expected(row, door), "{name} at {door:?}");
        }
    }
}

#[test]
fn every_row_of_the_table_is_published_as_it_says() {
    for (name, certificate, device, now, _, told) in TABLE {
        assert_eq!(published(Some(&facts(*certificate, *device)), *now), *told, "{name}");
    }
}

#[test]
fn an_unknown_serial_opens_no_door() {
    for door in DOORS {
        assert_eq!(admit(None, door, EARLY), Err(Refusal::Unknown));
    }
    assert_eq!(published(None, EARLY), Published::Unknown);
}

#[test]
fn superseded_and_revoked_open_no_door_whatever_the_device_and_the_time() {
    for certificate in [Superseded, Revoked] {
        for device in [ACTIVE, NO_GRACE, HELD, LEAVING, LEAVING_IDLE, DOOMED, PROVEN, RETIRED] {
            for now in [0, EARLY, LATE, LAST, EXPIRED, GRACE_ENDS, i64::MAX] {
                for door in DOORS {
                    assert!(admit(Some(&facts(certificate, device)), door, now).is_err());
                }
            }
        }
    }
}

#[test]
fn only_the_doomed_the_proven_and_the_graced_enter_after_expiry() {
    let after_expiry = [
        (ACTIVE, Ok(Topics::GRACE)),
        (HELD, Ok(Topics::GRACE)),
        (NO_GRACE, Err(Refusal::Expired)),
        (LEAVING, Ok(Topics::FAREWELL)),
        (LEAVING_IDLE, Err(Refusal::NoOpenOrder)),
        (DOOMED, Ok(Topics::FAREWELL)),
        (PROVEN, Ok(Topics::FAREWELL)),
        (RETIRED, Err(Refusal::Retired)),
    ];
    for (device, want) in after_expiry {
        let got = admit(Some(&facts(Current, device)), Door::Gate, EXPIRED).map(|admission| admission.topics);
        assert_eq!(got, want, "{device:?}");
    }
}

#[test]
fn the_topic_sets_are_those_of_the_contract() {
    let held = [
        Topics::ORDER,
        Topics::ACK,
        Topics::DESIRED,
        Topics::RECEIPT,
        Topics::REPORT_STATE,
        Topics::REPORT_POSTURE,
        Topics::RENEW,
        Topics::CREDENTIAL,
    ];
    assert!(held.iter().all(|topic| Topics::HELD.contains(*topic)));
    assert!(!Topics::HELD.contains(Topics::REPORT_EVENT));
    assert!(Topics::ALL.contains(Topics::REPORT_EVENT) && Topics::ALL.contains(Topics::HELD));
    assert!(!Topics::FAREWELL.contains(Topics::DESIRED) && !Topics::FAREWELL.contains(Topics::RENEW));
    assert!(!Topics::GRACE.contains(Topics::ORDER));
    assert!(!Topics::NONE.contains(Topics::ORDER));
}

const KEY: [u8; 32] = [1; 32];
const OTHER: [u8; 32] = [2; 32];

fn earlier(status: CertificateStatus) -> Earlier {
    Earlier { spki_sha256: KEY, issued_at: 1_000, status }
}

#[test]
fn a_spent_token_gets_the_same_bytes_only_for_its_key_while_issued_and_for_a_day() {
    let last = 1_000 + SAME_BYTES_FOR_S;
    assert_eq!(spent_token(&earlier(Issued), &KEY, 1_000), SpentToken::SameBytes);
    assert_eq!(spent_token(&earlier(Issued), &KEY, last), SpentToken::SameBytes);
    assert_eq!(spent_token(&earlier(Issued), &KEY, last + 1), SpentToken::Refused);
    assert_eq!(spent_token(&earlier(Issued), &OTHER, 1_000), SpentToken::Refused);
    for status in [Current, Superseded, Revoked] {
        assert_eq!(spent_token(&earlier(status), &KEY, 1_000), SpentToken::Refused, "{status:?}");
    }
}

#[test]
fn a_renewal_repeats_replaces_or_issues() {
    let late = 1_000 + SAME_BYTES_FOR_S + 1;
    assert_eq!(renewal(None, &KEY, 1_000), Renewal::Issue);
    assert_eq!(renewal(Some(&earlier(Issued)), &KEY, 1_000), Renewal::SameBytes);
    assert_eq!(renewal(Some(&earlier(Issued)), &OTHER, 1_000), Renewal::Replace);
    assert_eq!(renewal(Some(&earlier(Issued)), &KEY, late), Renewal::Replace);
    for status in [Current, Superseded, Revoked] {
        assert_eq!(renewal(Some(&earlier(status)), &KEY, 1_000), Renewal::Issue, "{status:?}");
    }
}
