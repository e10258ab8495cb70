//! Renewing, in memory: make before break, wherever a kill comes.

use std::time::Duration;

use muster_agent::core::{Door, Event, Outcome, Refusal, RenewOrder};
use muster_wire::problem::Exit;

use crate::disk::{Disk, End};
use crate::enrolling::{NOW, enroll};
use crate::fleet::{Asked, Fault, Fleet};

fn renew() -> Event {
    Event::Renew(RenewOrder { patience: Duration::ZERO, door: Door::Est })
}

/// The same, as the running agent does it in its session, where the authorities are those of last time.
fn renew_in_session() -> Event {
    Event::Renew(RenewOrder { patience: Duration::ZERO, door: Door::Session })
}

fn enrolled() -> (Fleet, Disk) {
    let mut fleet = Fleet::founded(NOW);
    let string = fleet.mint("fleet.example", 8443);
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    (fleet, disk)
}

#[track_caller]
fn assert_renewed_once(fleet: &Fleet, disk: &Disk, former: &[u8]) {
    let device = &fleet.devices[0];
    let current = device.current.as_ref().unwrap();
    assert_ne!(current.der, former);
    assert_eq!(disk.identity(), Some(&current.der[..]));
    assert!(device.issued.is_none(), "a second certificate waits at the server");
    assert!(!disk.has_next());
}

#[test]
fn a_renewal_brings_another_key_and_the_former_is_gone() {
    let (mut fleet, mut disk) = enrolled();
    let former = disk.identity().unwrap().to_vec();
    assert_eq!(disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome(), Outcome::Renewed);
    assert_renewed_once(&fleet, &disk, &former);
    assert_eq!(fleet.devices[0].former.len(), 1);
}

#[test]
fn a_renewal_killed_anywhere_ends_renewed_once_and_never_leaves_the_device_without_a_way_in() {
    let mut kills = 0;
    loop {
        let (mut fleet, mut disk) = enrolled();
        let former = disk.identity().unwrap().to_vec();
        if let End::Done(outcome) = disk.run(&mut fleet, renew(), NOW, kills) {
            assert_eq!(outcome, Outcome::Renewed);
            break;
        }
        assert_eq!(
            disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome(),
            Outcome::Renewed,
            "{kills} steps"
        );
        assert_renewed_once(&fleet, &disk, &former);
        assert_eq!(fleet.devices[0].former.len(), 1, "killed after {kills} steps");
        kills += 1;
    }
    assert!(kills > 9, "only {kills} places to be killed");
}

#[test]
fn a_journal_cut_after_any_record_is_mended_by_the_next_renewal() {
    let (mut fleet, mut disk) = enrolled();
    disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome();
    let whole = disk.journal.clone();
    for kept in 2..=whole.len() {
        disk.journal.truncate(0);
        disk.journal.extend_from_slice(&whole[..kept]);
        disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome();
        assert_eq!(disk.identity(), fleet.devices[0].current.as_ref().map(|cert| &cert.der[..]));
    }
}

#[test]
fn a_refused_renewal_leaves_the_current_certificate_working() {
    let (mut fleet, mut disk) = enrolled();
    for fault in [Fault::ForeignKey, Fault::ForeignName, Fault::TwoCertificates] {
        fleet.fault = fault;
        disk.run(&mut fleet, renew(), NOW, usize::MAX).refusal();
        fleet.fault = Fault::None;
        let shown = disk.identity().unwrap().to_vec();
        assert_eq!(fleet.answer(&Asked::Discovery, Some(&shown)).status, 200, "{fault:?}");
    }
    disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome();
}

#[test]
fn a_waiting_certificate_that_is_no_longer_welcome_is_replaced() {
    let (mut fleet, mut disk) = enrolled();
    let former = disk.identity().unwrap().to_vec();
    // Killed with the certificate on disk and unproven; meanwhile the server has dropped it.
    let mut lives = 0;
    while !disk.has_next() || fleet.devices[0].issued.is_none() {
        disk.run(&mut fleet, renew(), NOW, lives);
        lives += 1;
    }
    disk.run(&mut fleet, renew(), NOW, 2);
    let dropped = fleet.devices[0].issued.take().unwrap();
    fleet.devices[0].former.push(dropped);
    assert_eq!(disk.run(&mut fleet, renew(), NOW, usize::MAX).outcome(), Outcome::Renewed);
    assert_renewed_once(&fleet, &disk, &former);
}

#[test]
fn a_device_that_was_never_enrolled_has_nothing_to_renew() {
    let mut fleet = Fleet::founded(NOW);
    let refusal = Disk::default().run(&mut fleet, renew(), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::NotEnrolled));
    assert_eq!(refusal.exit(), Exit::NotFound);
}

#[test]
fn a_revoked_device_is_told_so() {
    let (mut fleet, mut disk) = enrolled();
    fleet.fault = Fault::Forgetful;
    let refusal = disk.run(&mut fleet, renew(), NOW, usize::MAX).refusal();
    assert_eq!((refusal.code(), refusal.exit()), ("certificate_refused", Exit::Refused));
}

#[test]
fn a_certificate_by_an_issuing_authority_that_is_new_is_taken_wherever_a_kill_comes() {
    let mut kills = 0;
    loop {
        let (mut fleet, mut disk) = enrolled();
        let former = disk.identity().unwrap().to_vec();
        fleet.rotate_issuing();
        if let End::Done(outcome) = disk.run(&mut fleet, renew_in_session(), NOW, kills) {
            assert_eq!(outcome, Outcome::Renewed);
            assert_renewed_once(&fleet, &disk, &former);
            let trust = disk.trust.clone().unwrap();
            assert!(trust_holds(&trust, fleet.issuing()), "the new authority is not kept");
            break;
        }
        let again = disk.run(&mut fleet, renew_in_session(), NOW, usize::MAX).outcome();
        assert_eq!(again, Outcome::Renewed, "{kills} steps");
        assert_renewed_once(&fleet, &disk, &former);
        kills += 1;
    }
    assert!(kills > 8, "only {kills} places to be killed");
}

#[test]
fn a_certificate_by_an_authority_that_the_server_does_not_serve_is_refused() {
    let (mut fleet, mut disk) = enrolled();
    fleet.rotate_issuing();
    fleet.fault = Fault::ForeignIssuer;
    for door in [renew(), renew_in_session()] {
        let refusal = disk.run(&mut fleet, door, NOW, usize::MAX).refusal();
        assert!(matches!(refusal, Refusal::ForeignIssuer(_)), "{refusal}");
        assert!(!disk.has_next());
    }
    fleet.fault = Fault::None;
    assert_eq!(disk.run(&mut fleet, renew_in_session(), NOW, usize::MAX).outcome(), Outcome::Renewed);
}

fn trust_holds(pem: &[u8], der: &[u8]) -> bool {
    let wanted = muster_pki::armor::pem("CERTIFICATE", der);
    String::from_utf8_lossy(pem).contains(wanted.trim())
}
