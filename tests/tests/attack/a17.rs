//! A17: another's client id; the same device twice; a hundred reconnects a second.
//!
//! The newer session of a device takes the place of the older, since only a device that lost its connection knows that it
//! did. Two that have one key can so cut each other for ever; the gate damps that, writes it down, and serves all others
//! meanwhile.

use super::a16::{WELCOME, connect};
use super::packets::{Beside, LATER, OTHER_ID, Session};
use super::siege::{Device, Siege};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn anothers_client_id_opens_nothing_and_cuts_nobody() {
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let (attacker, victim) = (siege.device("sensor-linux").await, siege.device("sensor-linux").await);
    let mut session = Session::begin(siege.server(), &victim).await;
    let own = [attacker.id.to_uppercase(), format!("{} ", attacker.id), attacker.id.replace('-', "")];
    for id in [&victim.id, "dashboard", &own[0], &own[1], &own[2]] {
        let (mut refused, answer) = Session::tried(siege.server(), &attacker, &connect(id, 2, b"")).await;
        assert_eq!(answer, OTHER_ID, "{id}");
        assert_eq!(refused.closes().await, [], "{id}");
        session.goes_on().await;
    }
    beside.goes_on(siege.server()).await;
    let of_attacker = format!("device/{}", attacker.id);
    let server = siege.lift(Beside::ISSUED + 2, &["gate.client_id"]).await;
    let refused = server.audited("gate.session", "refused").await;
    assert!(refused.iter().all(|entry| entry["object"] == of_attacker.as_str()), "{refused:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_session_of_a_device_takes_the_place_of_the_older() {
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let device = siege.device("sensor-linux").await;
    let mut older = Session::begin(siege.server(), &device).await;
    older.goes_on().await;
    for _ in 0..3 {
        let mut newer = Session::begin(siege.server(), &device).await;
        assert_eq!(older.closes().await, [], "the older one is cut without a word");
        newer.goes_on().await;
        assert_eq!(
            shown(&siege, &device).await["connected"],
            true,
            "the end of the older is not the device's"
        );
        older = newer;
    }
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(Beside::ISSUED + 1, &[]).await;
}

/// What an operator sees of a device.
async fn shown(siege: &Siege, device: &Device) -> Value {
    siege.rest(http::Method::GET, &format!("/v1/devices/{}", device.id), None).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_have_one_key_and_fight_are_damped_and_told_of() {
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let device = siege.device("sensor-linux").await;
    let hello = connect(&device.id, 2, b"");
    let (mut last, mut begun) = (Session::begin(siege.server(), &device).await, 1);
    let answer = loop {
        // Each comes back as soon as the other has cut it.
        let (session, answer) = Session::tried(siege.server(), &device, &hello).await;
        if answer != WELCOME {
            break answer;
        }
        assert_eq!(std::mem::replace(&mut last, session).closes().await, []);
        begun += 1;
        assert!(begun <= 60, "a fight is damped");
    };
    assert_eq!(answer, LATER);
    assert!(begun >= 30, "a few reconnections are no fight: {begun}");
    last.goes_on().await;
    assert_eq!(shown(&siege, &device).await["connected"], true, "who was in stays in");
    beside.goes_on(siege.server()).await;
    let id = device.id.clone();
    let server = siege.lift(Beside::ISSUED + 1, &["gate.damped"]).await;
    let history = server.history(&id).await;
    assert!(history.contains("gate.damped"), "whoever looks at the device finds it: {history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reconnects_a_second_hold_up_nobody_else() {
    let siege = Siege::begin().await;
    let mut beside = Beside::begin(&siege).await;
    let device = siege.device("sensor-linux").await;
    let (mut let_in, mut attempts) = (0, Vec::new());
    let began = Instant::now();
    for n in 0..300_u32 {
        tokio::time::sleep_until((began + Duration::from_millis(10) * n).into()).await;
        let (server, device) = (siege.server().endpoints().mqtt.clone(), device.clone());
        let tls = muster_tests::Tls::with(siege.server(), &device.identity);
        attempts.push(tokio::spawn(async move {
            let Ok(stream) = tls.open(&server).await else { return Vec::new() };
            Session::of(stream).answer_to(&connect(&device.id, 2, b"")).await
        }));
        if n % 100 == 50 {
            let asked = Instant::now();
            beside.goes_on(siege.server()).await;
            assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        }
    }
    for attempt in attempts {
        let answer = attempt.await.unwrap();
        let_in += usize::from(answer == WELCOME);
        assert!([WELCOME, LATER, b""].contains(&answer.as_slice()), "{answer:x?}");
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((20..=31 + seconds / 2).contains(&let_in), "{let_in} of 300 were let in within {seconds} s");
    beside.goes_on(siege.server()).await;
    let _ = siege.lift(Beside::ISSUED + 1, &["gate.damped"]).await;
}
