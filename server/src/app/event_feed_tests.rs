//! Subscriptions to a founded installation.

use super::*;
use crate::app::fixture::{Bench, UNLIMITED};
use crate::domain::policy::Principal;
use crate::doors::fixture::device;
use serde_json::Value;
use std::time::Duration;

fn operator(bench: &Bench, name: &str, after: Option<&str>, wanted: Wanted) -> Result<Subscription, Error> {
    let permit = bench.permit(Principal::Operator(name.into()));
    bench.app.events(&permit, after.map(|place| place.parse().unwrap()), wanted)
}

fn subscribe(bench: &Bench, after: Option<&str>, wanted: Wanted) -> Subscription {
    operator(bench, "admin", after, wanted).unwrap()
}

/// Enrols one device, which is two events of one entry, and answers the places told to `listener`.
async fn enrol(bench: &Bench) {
    let token = bench.tokens(None, 1).await.remove(0);
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let request = crate::app::Enroll {
        label: None,
        credential: Some(token.reveal()),
        body: request.der(),
        from: std::net::IpAddr::from([127, 0, 0, 1]),
    };
    bench.app.simple_enroll(bench.permit(Principal::Anonymous), request).await.unwrap();
}

async fn next(listener: &mut Subscription) -> Arc<Event> {
    tokio::time::timeout(Duration::from_secs(5), listener.next()).await.unwrap().unwrap()
}

fn body(event: &Event) -> Value {
    serde_json::from_str(&event.body).unwrap()
}

#[tokio::test]
async fn a_listener_hears_what_is_committed_from_then_on() {
    let bench = Bench::founded(UNLIMITED);
    enrol(&bench).await;
    let mut listener = subscribe(&bench, None, Wanted::ALL);
    enrol(&bench).await;
    let (first, second) = (next(&mut listener).await, next(&mut listener).await);
    assert_eq!((first.topic, second.topic), (EventTopic::Devices, EventTopic::Certificates));
    assert_eq!(body(&first)["seq"], body(&second)["seq"]);
    assert!(tokio::time::timeout(Duration::from_millis(50), listener.next()).await.is_err(), "nothing older");
}

#[tokio::test]
async fn whoever_comes_again_with_any_id_misses_nothing_and_hears_nothing_twice() {
    let bench = Bench::founded(UNLIMITED);
    for _ in 0..3 {
        enrol(&bench).await;
    }
    let mut whole = subscribe(&bench, Some("0"), Wanted::ALL);
    let mut told = Vec::new();
    for _ in 0..6 {
        told.push(next(&mut whole).await);
    }
    for cut in 1..6 {
        let last = told[cut - 1].place.unwrap().to_string();
        let mut again = subscribe(&bench, Some(&last), Wanted::ALL);
        for event in &told[cut..] {
            assert_eq!(&next(&mut again).await, event, "after {last}");
        }
        assert!(tokio::time::timeout(Duration::from_millis(20), again.next()).await.is_err());
    }
}

#[tokio::test]
async fn only_the_topics_asked_for_are_told() {
    let bench = Bench::founded(UNLIMITED);
    enrol(&bench).await;
    let wanted = Wanted::NONE.and(EventTopic::Certificates);
    let mut listener = subscribe(&bench, Some("0"), wanted);
    let presence = Presence { device: device(1), generation: 1, online: true };
    bench.app.event_feed().presence(presence, 1);
    enrol(&bench).await;
    for _ in 0..2 {
        assert_eq!(next(&mut listener).await.topic, EventTopic::Certificates);
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), listener.next()).await.is_err());
}

#[tokio::test]
async fn presence_is_told_without_a_place() {
    let bench = Bench::founded(UNLIMITED);
    let mut listener = subscribe(&bench, None, Wanted::ALL);
    bench
        .app
        .event_feed()
        .presence(Presence { device: device(1), generation: 9, online: true }, 1_767_225_600);
    let event = next(&mut listener).await;
    assert_eq!((event.place, &body(&event)["online"]), (None, &Value::Bool(true)));
    assert_eq!(body(&event)["generation"], 9);
}

#[tokio::test]
async fn a_checkpoint_is_told_and_the_newest_again_to_who_comes_later() {
    let bench = Bench::founded(UNLIMITED);
    let mut listener = subscribe(&bench, None, Wanted::NONE.and(EventTopic::Checkpoints));
    enrol(&bench).await;
    bench.app.publish_checkpoint().unwrap();
    let told = next(&mut listener).await;
    assert!(body(&told)["checkpoint"]["size"].as_u64().unwrap() > 2);
    let mut late = subscribe(&bench, None, Wanted::ALL);
    assert_eq!(next(&mut late).await, told);
}

#[tokio::test]
async fn a_listener_too_slow_for_presence_is_cut_and_the_feed_waits_for_nobody() {
    let bench = Bench::founded(UNLIMITED);
    let mut slow = subscribe(&bench, None, Wanted::ALL);
    let mut indifferent = subscribe(&bench, None, Wanted::NONE.and(EventTopic::Devices));
    for generation in 0..2 * RING as u64 {
        bench.app.event_feed().presence(Presence { device: device(1), generation, online: true }, 1);
    }
    assert_eq!(slow.next().await.unwrap_err(), Ended::Slow);
    enrol(&bench).await;
    assert_eq!(next(&mut indifferent).await.topic, EventTopic::Devices);
}

#[tokio::test]
async fn an_operator_who_is_removed_hears_nothing_more() {
    let bench = Bench::founded(UNLIMITED);
    let admin = || bench.permit(Principal::Operator("admin".into()));
    bench.app.add_operator(admin(), "bob", None).await.unwrap();
    let mut bob = operator(&bench, "bob", None, Wanted::ALL).unwrap();
    bench.app.remove_operator(admin(), "bob").await.unwrap();
    enrol(&bench).await;
    assert_eq!(bob.next().await.unwrap_err(), Ended::Dismissed);
}

#[tokio::test]
async fn the_stop_ends_every_subscription_and_there_are_only_so_many() {
    let bench = Bench::founded(UNLIMITED);
    let mut all: Vec<Subscription> =
        (0..SUBSCRIPTIONS).map(|_| subscribe(&bench, None, Wanted::ALL)).collect();
    assert!(matches!(operator(&bench, "admin", None, Wanted::ALL), Err(Error::Busy { .. })));
    assert_eq!(bench.app.event_feed().subscriptions(), SUBSCRIPTIONS);
    bench.app.event_feed().close();
    assert_eq!(all[0].next().await.unwrap_err(), Ended::Stopping);
    drop(all);
    assert_eq!(bench.app.event_feed().subscriptions(), 0);
}
