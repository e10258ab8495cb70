//! Leases as the server grants and renews them.

use super::*;
use muster_wire::desired::Lapse;

const LEASE: &str = "profile = \"sensor-linux\"\n[lease]\nlasts_hours = 3\non_lapse = \"lock\"\n";

#[tokio::test]
async fn a_lease_is_renewed_by_every_session_and_thrice_while_one_lasts() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.set(LEASE).await;
    site.says(&life, |_| {}).await.unwrap();
    let head = site.head(&life);
    assert_eq!((head.lease.lasts_s, head.lease.on_lapse), (3 * 3600, Lapse::Lock));
    let told = |due: &[Outgoing]| due.iter().filter(|one| one.channel == Channel::Desired).count();
    let mut sent: HashSet<Mark> = site.due(&life).iter().map(|one| one.mark).collect();
    let mut turns = 0;
    for _ in 0..60 {
        site.clock.advance_ms(6 * 60_000);
        let due = site.app.due(life.id, Topics::DESIRED, &sent).unwrap();
        turns += told(&due);
        sent.extend(due.iter().map(|one| one.mark));
    }
    assert_eq!(turns, 6, "in six hours");
    assert!(site.head(&life).issued_at > head.issued_at);
}

#[tokio::test]
async fn a_server_whose_clock_was_set_back_goes_on_signing_newer_heads_after_a_restart_too() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.set(LEASE).await;
    site.clock.advance_ms(86_400_000);
    let before = site.head(&life).issued_at;
    let _ = site.enroll(None).await;
    site.clock.advance_ms(-366 * 86_400_000);
    assert!(site.head(&life).issued_at >= before);
    let site = site.restarted(|_| {}).await;
    assert!(site.head(&life).issued_at >= before);
}

#[tokio::test]
async fn a_freeze_keeps_back_what_is_new_and_lets_no_lease_lapse() {
    let site = Site::found();
    let life = site.enroll(None).await;
    site.set(LEASE).await;
    let generation = site.head(&life).generation;
    let _ = site.app.freeze(site.operator()).await.unwrap();
    assert_eq!(site.due(&life), [], "it is not in place yet");
    site.says(&life, |report| report.generation = Some(generation)).await.unwrap();
    let due = site.due(&life);
    assert_eq!(due.iter().map(|one| one.channel).collect::<Vec<_>>(), [Channel::Desired]);
    site.set(&format!("{LEASE}[baseline.sysctl]\n\"kernel.kptr_restrict\" = \"2\"\n")).await;
    assert_eq!(site.due(&life), [], "the next one waits");
}
