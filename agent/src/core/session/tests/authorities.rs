//! A generation may come with another issuing CA: the authorities are asked for before its baseline.

use super::*;

fn desire(world: &mut World, counter: u64) -> Vec<&'static str> {
    let generation = Generation { restore_epoch: 0, counter };
    let payload = sign1(&DesiredHead { generation, ..head(NOW, 3600) }, &secret(1).0).unwrap();
    world.effects.clear();
    let incoming = Incoming { channel: Channel::Desired, payload, packet: 0 };
    world.handle(Event::Received(world.open.unwrap(), incoming), usize::MAX);
    let about = |effect: &&str| matches!(*effect, "authorities" | "fetch");
    world.effects.iter().copied().filter(about).collect()
}

fn connected() -> World {
    let mut world = World::new();
    world.connect(usize::MAX);
    world.connect(usize::MAX);
    world
}

#[test]
fn the_first_generation_of_all_brings_no_authority_and_any_later_one_may() {
    assert_eq!(desire(&mut connected(), 1), ["fetch"]);
    assert_eq!(desire(&mut connected(), 2), ["authorities"], "nothing is fetched before they are known");
}

#[test]
fn the_authorities_are_asked_for_again_until_they_come() {
    let mut world = connected();
    desire(&mut world, 2);
    world.effects.clear();
    world.since_start += Duration::from_secs(120);
    world.handle(Event::Woke, usize::MAX);
    assert!(world.effects.contains(&"authorities"), "{:?}", world.effects);
    assert!(!world.effects.contains(&"fetch"));
}

#[test]
fn a_list_of_authorities_without_the_pinned_root_is_refused_and_told() {
    let mut world = connected();
    let body = muster_pki::armor::base64(&muster_pki::cms::certs_only(&[])).into_bytes();
    world.server.authorities = Some(Answer { status: 200, retry_after_s: None, date: None, body });
    assert_eq!(desire(&mut world, 2), ["authorities"]);
    let told = world.disk.outbox.values().any(|kept| {
        matches!(kept, Kept::Event(report) if report.kind == EventKind::Refused
            && report.detail.contains("authorities"))
    });
    assert!(told, "nobody is told");
    assert_eq!(world.session.in_force.generation(), None);
}
