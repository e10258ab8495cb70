use super::*;

const DEVICE: [u8; 16] = [7; 16];

fn meter(boot: &str, age_s: u64, found: Option<LeaseSheet>) -> Meter {
    let boot = Boot { id: boot.into(), age: Duration::from_secs(age_s) };
    Meter::new(DeviceId::from_bytes(DEVICE), boot, found)
}

fn word(issued_at_s: i64) -> Mark {
    Mark { command_since: 1, restore_epoch: 0, counter: 1, issued_at_s }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const LEASE: Lease = Lease { lasts_s: 1_000, on_lapse: Lapse::Lock };

#[test]
fn time_is_summed_over_boots_and_over_restarts_within_one() {
    let mut first = meter("a", 50, None);
    assert!(first.hear(word(1), LEASE, s(10)));
    let sheet = first.mark(s(110)).unwrap();
    assert_eq!(sheet.used_ms, 100_000, "the age of the boot before the word counts for nothing");
    let mut restarted = meter("a", 200, Some(sheet));
    assert_eq!(restarted.used(Duration::ZERO), s(140), "the agent was not running, the device was");
    let sheet = restarted.mark(s(60)).unwrap();
    let rebooted = meter("b", 30, Some(sheet));
    assert_eq!(rebooted.used(s(70)), s(300), "all of another boot counts");
    assert!(!rebooted.has_lapsed(Duration::from_millis(769_999)));
    assert!(rebooted.has_lapsed(s(770)));
}

#[test]
fn a_kernel_that_names_no_boot_is_told_by_its_age() {
    let mut first = meter("", 500, None);
    assert!(first.hear(word(1), LEASE, s(0)));
    let sheet = first.mark(s(100)).unwrap();
    assert_eq!(meter("", 20, Some(sheet.clone())).used(s(0)), s(120));
    assert_eq!(meter("", 700, Some(sheet)).used(s(0)), s(200));
}

#[test]
fn only_what_is_newer_than_all_before_renews() {
    let mut meter = meter("a", 0, None);
    assert!(meter.hear(word(100), LEASE, s(0)));
    for old in [word(100), word(99), word(i64::MIN), Mark { counter: 0, ..word(200) }] {
        assert!(!meter.hear(old, LEASE, s(500)), "{old:?}");
    }
    assert_eq!(meter.used(s(500)), s(500));
    let newer = [
        word(101),
        Mark { counter: 2, ..word(0) },
        Mark { restore_epoch: 1, counter: 0, ..word(0) },
        Mark { command_since: 2, restore_epoch: 0, counter: 0, issued_at_s: -1 },
    ];
    for new in newer {
        assert!(meter.hear(new, LEASE, s(600)), "{new:?}");
        assert_eq!(meter.used(s(600)), Duration::ZERO);
    }
}

#[test]
fn a_word_without_a_lease_ends_the_one_there_was_and_no_old_one_brings_it_back() {
    let mut meter = meter("a", 0, None);
    assert!(meter.hear(word(100), LEASE, s(0)));
    assert!(meter.hear(word(200), Lease { lasts_s: 0, ..LEASE }, s(1)));
    assert_eq!((meter.sheet(), meter.has_lapsed(s(1 << 40))), (None, false));
    assert!(!meter.hear(word(150), LEASE, s(2)));
}

#[test]
fn lengths_beyond_all_time_neither_lapse_nor_panic() {
    for lasts_s in [u64::MAX, u64::MAX / 1000, u64::MAX - 1] {
        let mut meter = meter("a", u64::MAX / 1_000_000_000, None);
        assert!(meter.hear(word(1), Lease { lasts_s, ..LEASE }, s(1)));
        assert!(!meter.has_lapsed(s(u64::MAX / 4_000)));
        let until = meter.sheet().unwrap().lasts();
        assert!(Meter::look_at(until - meter.used(s(10)), s(10)) <= s(10 + 3600));
        assert!(meter.mark(s(u64::MAX)).is_some());
    }
}

#[test]
fn marks_come_when_the_agent_has_run_twice_as_long_and_once_an_hour() {
    let mut meter = meter("a", 0, None);
    assert!(meter.hear(word(1), Lease { lasts_s: 14 * 86_400, ..LEASE }, s(0)));
    let until = meter.sheet().unwrap().lasts();
    let (mut now, mut marks) = (Duration::ZERO, Vec::new());
    while now < s(86_400) {
        now = Meter::look_at(until - meter.used(now), now);
        marks.push(now.as_secs());
    }
    assert_eq!(marks[..8], [60, 120, 240, 480, 960, 1920, 3840, 7440]);
    assert!(marks.len() <= 30, "{} in a day", marks.len());
    let late = until - s(10);
    assert_eq!(Meter::look_at(until - meter.used(late), late), until, "and at the end of the lease");
}

#[test]
fn the_sheet_of_another_device_is_not_this_ones() {
    let mut other = Meter::new(DeviceId::from_bytes([8; 16]), Boot::default(), None);
    assert!(other.hear(word(1), LEASE, s(0)));
    assert_eq!(meter("a", 0, other.mark(s(999))).sheet(), None);
}

#[test]
fn a_sheet_reads_back() {
    let mut meter = meter("6b0f-1", 3, None);
    assert!(meter.hear(word(5), LEASE, s(0)));
    let sheet = meter.mark(s(7)).unwrap();
    let bytes = crate::core::sheet::write(&sheet).unwrap();
    assert_eq!(crate::core::sheet::read::<LeaseSheet>(&bytes).unwrap(), sheet);
}

#[test]
fn a_session_ends_the_time_apart_and_only_a_farewell_holds_the_lease_still() {
    for (farewell, used) in [(false, 250), (true, 150)] {
        let mut meter = meter("a", 0, None);
        assert!(meter.hear(word(1), LEASE, s(0)));
        assert_eq!(meter.apart(s(100)), s(100));
        meter.met(s(100), s(200), farewell);
        assert_eq!((meter.used(s(250)), meter.apart(s(250))), (s(used), s(50)));
        let sheet = meter.mark(s(250)).unwrap();
        let rebooted = self::meter("b", 30, Some(sheet));
        assert_eq!((rebooted.used(s(0)), rebooted.apart(s(0))), (s(used + 30), s(80)));
    }
}

#[test]
fn a_device_that_looks_each_hour_and_was_not_heard_of_for_two_slept() {
    assert!(!Meter::slept(s(100), s(99 + 2 * 3_600)) && Meter::slept(s(100), s(100 + 2 * 3_600)));
}
