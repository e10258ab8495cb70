//! The bus with a real router and a founded installation.

use super::*;
use crate::app::fixture::{Bench, UNLIMITED};
use crate::domain::policy::Principal;
use crate::doors::fixture::{SOON, device};
use crate::doors::registry::Presence;

struct Running {
    bench: Bench,
    bus: Arc<Bus>,
    _stop: oneshot::Sender<()>,
}

impl Running {
    async fn start() -> Self {
        let bench = Bench::founded(UNLIMITED);
        let bus = Arc::new(Bus::default());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(Arc::clone(&bus).run(Arc::clone(&bench.app), async move { drop(stopped.await) }));
        Self { bench, bus, _stop: stop }
    }

    async fn attach(&self) -> Attached {
        let again = async {
            loop {
                let permit = self.bench.permit(Principal::Observer("dashboard".into()));
                match self.bus.attach(&permit, Arc::clone(&self.bench.app.doors().counters)).await {
                    Ok(attached) => return attached,
                    Err(BusError::Down) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(SOON, again).await.unwrap()
    }

    fn presence(&self, generation: u64) {
        self.bench.app.event_feed().presence(Presence { device: device(1), generation, online: true }, 1);
    }
}

async fn hear(attached: &mut Attached) -> Option<(EventTopic, String)> {
    let (topic, body) = timeout(SOON, attached.events.recv()).await.expect("in time")?;
    Some((topic, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_observer_hears_every_event_in_order_and_without_its_number() {
    let running = Running::start().await;
    let (mut first, mut second) = (running.attach().await, running.attach().await);
    for generation in 0..300 {
        running.presence(generation);
    }
    for attached in [&mut first, &mut second] {
        for generation in 0..300 {
            let (topic, body) = hear(attached).await.unwrap();
            assert_eq!(topic, EventTopic::Presence);
            assert!(
                body.starts_with('{') && body.contains(&format!("\"generation\":{generation}")),
                "{body}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_heard() {
    let running = Running::start().await;
    let mut attached = running.attach().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let permit = running.bench.permit(Principal::Operator("admin".into()));
    running.bench.app.add_observer(permit, "other".parse().unwrap(), csr.der()).await.unwrap();
    let (topic, body) = hear(&mut attached).await.unwrap();
    assert_eq!(topic, EventTopic::Certificates);
    assert!(body.contains("\"observer\":\"other\""), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_is_built_anew_and_its_observers_are_cut() {
    let running = Running::start().await;
    let mut attached = running.attach().await;
    // What kills rumqttd's router: a topic that begins with a character of more than one byte.
    let current = running.bus.current().clone().unwrap();
    let (mut killer, _rx) = link(&current, "killer").await.unwrap();
    killer.try_publish("é", Bytes::new()).unwrap();
    assert_eq!(hear(&mut attached).await, None, "cut");
    let counters = &running.bench.app.doors().counters.bus;
    timeout(SOON, async {
        while counters.rebuilt.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut again = running.attach().await;
    running.presence(7);
    assert!(hear(&mut again).await.unwrap().1.contains("\"generation\":7"));
    let readiness = running.bench.permit::<act::ReadHealth>(Principal::Anonymous);
    assert!(running.bench.app.readiness(&readiness).is_ok(), "no part of readiness");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_only_so_many_observers_and_who_goes_makes_room() {
    let running = Running::start().await;
    let mut all = Vec::new();
    for _ in 0..OBSERVERS {
        all.push(running.attach().await);
    }
    let permit = running.bench.permit(Principal::Observer("late".into()));
    let counters = || Arc::clone(&running.bench.app.doors().counters);
    assert!(matches!(running.bus.attach(&permit, counters()).await, Err(BusError::Full)));
    all.truncate(1);
    running.presence(1);
    assert!(hear(&mut all[0]).await.is_some());
    drop(running.attach().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observer_for_whom_an_event_is_missing_is_cut() {
    let running = Running::start().await;
    let mut attached = running.attach().await;
    let current = running.bus.current().clone().unwrap();
    let (mut publisher, _rx) = link(&current, "publisher").await.unwrap();
    for number in [1_u64, 2, 4] {
        publisher
            .try_publish("muster/events/orders", [number.to_be_bytes().as_slice(), b"{}"].concat())
            .unwrap();
    }
    assert!(hear(&mut attached).await.is_some() && hear(&mut attached).await.is_some());
    assert_eq!(hear(&mut attached).await, None);
    assert_eq!(running.bench.app.doors().counters.bus.lagged.get(), 1);
}
