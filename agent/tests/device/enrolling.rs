//! Enrolling, in memory: what is refused, and what a kill or a lost journal leaves to the next run.

use std::path::PathBuf;
use std::time::Duration;

use muster_agent::core::{EnrollOrder, Event, Outcome, Refusal};
use muster_wire::digest::Sha256Digest;
use muster_wire::enrollment::EnrollmentString;
use muster_wire::problem::{Code, Exit};

use crate::disk::{Disk, End};
use crate::fleet::{Fault, Fleet};

pub(crate) const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn order(string: &EnrollmentString) -> EnrollOrder {
    EnrollOrder {
        string: string.clone(),
        insisted: None,
        serial: None,
        root: PathBuf::from("/r"),
        patience: Duration::ZERO,
    }
}

pub(crate) fn enroll(string: &EnrollmentString) -> Event {
    Event::Enroll(Box::new(order(string)))
}

fn fleet_and_string() -> (Fleet, EnrollmentString) {
    let mut fleet = Fleet::founded(NOW);
    let string = fleet.mint("fleet.example", 8443);
    (fleet, string)
}

#[test]
fn a_device_is_enrolled_and_its_certificate_is_current() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    assert_eq!(disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome(), Outcome::Enrolled);
    let current = fleet.devices[0].current.as_ref().unwrap();
    assert_eq!(disk.identity(), Some(&current.der[..]));
    assert!(!disk.has_next());
}

#[test]
fn an_enrolment_killed_anywhere_ends_enrolled_once_by_the_same_command() {
    let mut kills = 0;
    loop {
        let (mut fleet, string) = fleet_and_string();
        let mut disk = Disk::default();
        let first = disk.run(&mut fleet, enroll(&string), NOW, kills);
        if let End::Done(outcome) = first {
            assert_eq!(outcome, Outcome::Enrolled);
            break;
        }
        assert!(matches!(first, End::Killed), "{first:?}");
        disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
        assert_eq!(fleet.devices.len(), 1, "killed after {kills} steps");
        let current = fleet.devices[0].current.as_ref().unwrap();
        assert_eq!(disk.identity(), Some(&current.der[..]), "killed after {kills} steps");
        assert!(!disk.has_next(), "killed after {kills} steps");
        kills += 1;
    }
    assert!(kills > 12, "only {kills} places to be killed");
}

#[test]
fn an_enrolment_killed_again_and_again_one_step_later_each_time_ends_enrolled_once() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    let mut lives = 0;
    while let End::Killed = disk.run(&mut fleet, enroll(&string), NOW, lives) {
        lives += 1;
    }
    assert_eq!(fleet.devices.len(), 1);
    assert_eq!(disk.identity(), fleet.devices[0].current.as_ref().map(|cert| &cert.der[..]));
}

#[test]
fn a_journal_cut_after_any_record_is_mended_by_the_same_command() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    let whole = disk.journal.clone();
    assert!(whole.len() >= 2);
    for kept in 0..=whole.len() {
        disk.journal.truncate(0);
        disk.journal.extend_from_slice(&whole[..kept]);
        disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
        assert_eq!(fleet.devices.len(), 1, "{kept} records kept");
        assert_eq!(disk.journal, whole, "{kept} records kept");
    }
}

#[test]
fn the_same_string_again_changes_nothing_and_asks_nobody() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    let before = disk.identity().unwrap().to_vec();
    disk.unreachable = u32::MAX;
    assert_eq!(disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome(), Outcome::AlreadyEnrolled);
    assert_eq!(disk.identity(), Some(&before[..]));
}

#[test]
fn another_string_is_refused_once_enrolled() {
    let (mut fleet, string) = fleet_and_string();
    let other = fleet.mint("fleet.example", 8443);
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    let refusal = disk.run(&mut fleet, enroll(&other), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::EnrolledElsewhere { .. }), "{refusal}");
    assert_eq!(refusal.exit(), Exit::Refused);
    assert_eq!(fleet.devices.len(), 1);
}

#[test]
fn another_string_is_refused_while_a_certificate_waits_for_its_proof() {
    let (mut fleet, string) = fleet_and_string();
    let other = fleet.mint("fleet.example", 8443);
    let mut disk = Disk::default();
    fleet.fault = Fault::Forgetful;
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).refusal();
    fleet.fault = Fault::None;
    let refusal = disk.run(&mut fleet, enroll(&other), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::Unfinished { .. }), "{refusal}");
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    assert_eq!(fleet.devices.len(), 1);
}

#[test]
fn a_refused_token_may_be_followed_by_a_good_one_with_a_key_of_its_own() {
    let (mut fleet, string) = fleet_and_string();
    let mut stranger = Fleet::founded(NOW);
    stranger.mint("x", 1);
    let mut unknown = string.clone();
    unknown.token = muster_wire::enrollment::Token::from_entropy(&[9; 24]);
    let mut disk = Disk::default();
    let refusal = disk.run(&mut fleet, enroll(&unknown), NOW, usize::MAX).refusal();
    assert!(matches!(&refusal, Refusal::Problem(problem) if problem.code == Code::TokenRefused));
    assert_eq!(refusal.exit(), Exit::Refused);
    assert!(disk.has_next(), "the refused key is kept for the same command");
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    assert_eq!(fleet.devices.len(), 1);
}

#[test]
fn a_server_under_another_root_gets_nothing() {
    let (mut fleet, mut string) = fleet_and_string();
    string.ca = Sha256Digest::of(b"another root");
    let mut disk = Disk::default();
    let refusal = disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::RootPin), "{refusal}");
    assert_eq!(refusal.exit(), Exit::Refused);
    assert!(!disk.has_next() && disk.written.is_empty());
}

#[test]
fn an_authority_other_than_the_pinned_one_is_refused() {
    let (mut fleet, string) = fleet_and_string();
    fleet.fault = Fault::ForeignAuthority;
    let mut disk = Disk::default();
    let refusal = disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::Authority(_)), "{refusal}");
    assert!(!disk.has_next() && disk.written.is_empty());
}

#[test]
fn an_authority_that_the_person_insists_on_beats_the_string() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    let insisted = |digest| Event::Enroll(Box::new(EnrollOrder { insisted: Some(digest), ..order(&string) }));
    let refusal = disk.run(&mut fleet, insisted(Sha256Digest::of(b"mine")), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::InsistedAuthority { .. }));
    assert_eq!(refusal.exit(), Exit::Refused);
    disk.run(&mut fleet, insisted(string.auth), NOW, usize::MAX).outcome();
}

#[test]
fn a_certificate_for_another_key_name_or_in_company_is_not_kept() {
    for fault in [Fault::ForeignKey, Fault::ForeignName, Fault::TwoCertificates] {
        let (mut fleet, string) = fleet_and_string();
        fleet.fault = fault;
        let mut disk = Disk::default();
        let refusal = disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).refusal();
        match fault {
            Fault::ForeignKey => assert!(matches!(refusal, Refusal::ForeignKey), "{refusal}"),
            _ => assert!(matches!(refusal, Refusal::ForeignName), "{refusal}"),
        }
        assert_eq!(refusal.exit(), Exit::Refused);
        assert_eq!(disk.identity(), None);
    }
}

#[test]
fn a_clock_off_by_a_day_is_named_and_the_same_command_ends_well_once_it_is_set() {
    for skew in [-DAY, 31 * DAY] {
        let (mut fleet, string) = fleet_and_string();
        let mut disk = Disk::default();
        let refusal = disk.run(&mut fleet, enroll(&string), NOW + skew, usize::MAX).refusal();
        assert!(matches!(refusal, Refusal::Clock { .. }), "{refusal}");
        assert!(refusal.remedy().contains("clock"));
        disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
        assert_eq!(fleet.devices.len(), 1);
    }
}

#[test]
fn a_device_waits_for_its_approval_no_longer_than_it_was_told() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    fleet.fault = Fault::Pending(3);
    let patient =
        |s| Event::Enroll(Box::new(EnrollOrder { patience: Duration::from_secs(s), ..order(&string) }));
    let refusal = disk.run(&mut fleet, patient(10), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::Pending { retry_after_s: Some(7) }), "{refusal}");
    assert_eq!(disk.paused, Duration::from_secs(7));
    fleet.fault = Fault::Pending(2);
    assert_eq!(disk.run(&mut fleet, patient(14), NOW, usize::MAX).outcome(), Outcome::Enrolled);
}

#[test]
fn a_busy_server_is_waited_for_without_being_told() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    fleet.fault = Fault::Busy(4);
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    assert_eq!(disk.paused, Duration::from_secs(4));
    fleet.fault = Fault::Busy(1000);
    let (mut disk, other) = (Disk::default(), fleet.mint("fleet.example", 8443));
    let refusal = disk.run(&mut fleet, enroll(&other), NOW, usize::MAX).refusal();
    assert_eq!(refusal.exit(), Exit::Unreachable);
    assert_eq!(disk.paused, Duration::from_secs(30));
}

#[test]
fn a_server_out_of_reach_is_told_at_once_unless_there_is_patience() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    disk.unreachable = 3;
    let refusal = disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).refusal();
    assert_eq!((refusal.exit(), disk.unreachable), (Exit::Unreachable, 2));
    let patient = EnrollOrder { patience: Duration::from_secs(60), ..order(&string) };
    disk.run(&mut fleet, Event::Enroll(Box::new(patient)), NOW, usize::MAX).outcome();
}

#[test]
fn nothing_that_is_written_holds_the_token() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    assert!(disk.written.contains("accepted") && !disk.written.contains(string.token.reveal()));
}

#[test]
fn the_root_is_fixed_by_enrolment() {
    let (mut fleet, string) = fleet_and_string();
    let mut disk = Disk::default();
    disk.run(&mut fleet, enroll(&string), NOW, usize::MAX).outcome();
    let moved = EnrollOrder { root: PathBuf::from("/elsewhere"), ..order(&string) };
    let refusal = disk.run(&mut fleet, Event::Enroll(Box::new(moved)), NOW, usize::MAX).refusal();
    assert!(matches!(refusal, Refusal::RootFixed { .. }), "{refusal}");
}
