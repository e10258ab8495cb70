//! A31, lease tricks: whoever has every key of the server may grant any lease, and destroys nothing by it.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

const MORE: &str = "/var/lib/muster-agent/managed/more";

fn file(path: &str, content: &str) -> String {
    format!("[[baseline.files]]\npath = \"{path}\"\ncontent = \"{content}\"\nmode = \"0644\"\n")
}

/// A lease that lapses at once.
fn at_once(on_lapse: Lapse) -> Lease {
    Lease { lasts_s: 1, on_lapse }
}

impl Scene {
    /// A head of the thief's with this lease, for a baseline that nobody has.
    fn leased(&self, lease: Lease, counter: u64, issued_at: Timestamp) -> (&'static str, Vec<u8>) {
        let head = DesiredHead {
            device: self.device(),
            generation: Generation { restore_epoch: 0, counter },
            baseline: Sha256Digest([0x31; 32]),
            certificate: CertificatePolicy {
                key: IdentityKey::P256,
                validity_s: 86_400,
                renew_after_percent: 66,
            },
            intervals: Intervals { state_s: 300, posture_s: 300, drift_s: 300 },
            lease,
            issued_at,
        };
        ("desired", sign1(&head, &self.command_key()).unwrap())
    }

    /// A wipe that waits for a lapse, under a warrant that `signers` have signed.
    fn waiting(&self, signers: &[SigningKey]) -> Order {
        let action = Action::WipeOnLapse { after_s: 1, level: Level::Clear, data_roots: Vec::new() };
        self.warranted(action, signers)
    }

    /// The agent hears `messages` from the thief until it tells of something that contains `why`.
    async fn hears(&self, messages: Vec<(&'static str, Vec<u8>)>, why: &str) {
        let mut gate = FalseGate::says(self.server().site(), messages).await;
        self.gate.forward_to(gate.url());
        let running = self.sensor.start();
        let _ = gate.hears(why, |event| event.detail.contains(why)).await;
        assert_eq!(running.terminate().await, Some(0));
        self.stands();
    }

    /// The agent hears `messages` from the thief until its lease lasts so long and has lapsed, or not.
    async fn becomes(&self, messages: Vec<(&'static str, Vec<u8>)>, lasts_s: u64, stale: bool) {
        let gate = FalseGate::says(self.server().site(), messages).await;
        self.gate.forward_to(gate.url());
        let running = self.sensor.start();
        muster_tests::eventually("the lease is as the newest word says", async || {
            let status = self.sensor.status().await;
            (status["lease"]["lasts_s"] == lasts_s && status["stale"] == stale).then_some(())
        })
        .await;
        assert_eq!(running.terminate().await, Some(0));
        self.stands();
    }

    /// Gives the device programs that lock and unlock it.
    fn can_lock(&self) {
        for hook in ["lock", "unlock"] {
            let path = format!("/etc/muster/hooks/{hook}");
            let trace = self.sensor.path("trace").display().to_string();
            let _ = self.sensor.put(&path, &format!("#!/bin/sh\necho {hook} >> {trace}\n"));
            for part in ["/etc", "/etc/muster", "/etc/muster/hooks", &path] {
                std::fs::set_permissions(self.sensor.within(part), std::fs::Permissions::from_mode(0o755))
                    .unwrap();
            }
        }
    }

    fn trace(&self) -> String {
        std::fs::read_to_string(self.sensor.path("trace")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_server_and_any_lease_destroys_nothing() {
    let scene = Scene::set().await;
    let keys = [scene.command_key(), scene.audit_key()];
    let alice = scene.key(&scene.server().site().path("alice.key"));

    // Forged warrants for a wipe on lapse: none is placed.
    let unsigned = "the warrant does not cover this order";
    let bare = Order { warrant: None, ..scene.waiting(&[]) };
    scene.refuses(&bare, "this order needs a warrant").await;
    scene.refuses(&scene.waiting(&keys), unsigned).await;
    scene.refuses(&scene.waiting(&[stranger()]), unsigned).await;
    scene.refuses(&scene.waiting(std::slice::from_ref(&alice)), unsigned).await;
    let [command, audit] = keys;
    scene.refuses(&scene.waiting(&[alice.clone(), command, audit]), unsigned).await;

    // A lease of a second that would clear, beside such an order: the device tells, and is done.
    let order = ("order", sign1(&scene.waiting(&[alice]), &scene.command_key()).unwrap());
    let lease = scene.leased(at_once(Lapse::Clear), 100, now());
    scene.hears(vec![order, lease], "its approvers have placed no warrant").await;
    assert_eq!(scene.sensor.status().await["lease"]["lapsed"], true);

    // Words of the far past renew nothing, and lengths beyond all time are only long.
    let past = scene.leased(Lease { lasts_s: 3_600, on_lapse: Lapse::Report }, 100, Timestamp(i64::MIN));
    for (counter, lasts_s) in (101..).zip([u64::MAX, u64::MAX / 1000 + 1, 1 << 63]) {
        let long = scene.leased(Lease { lasts_s, on_lapse: Lapse::Clear }, counter, FAR_AHEAD);
        scene.becomes(vec![past.clone(), long], lasts_s, false).await;
        let again = scene.leased(at_once(Lapse::Clear), counter, Timestamp(i64::MAX));
        scene.becomes(vec![again, past.clone()], 1, true).await;
    }
    scene.is_lifted();
    let _running = scene.sensor.start();
    let order = scene.server().order("collect_posture", &scene.sensor.id()).await;
    let _ = scene.server().done(&order).await;
    assert!(scene.server().history(&scene.sensor.id()).await.contains("lease_lapsed"));
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_thief_locked_with_a_lease_is_unlocked_by_a_successor() {
    let scene = Scene::set().await;
    scene.can_lock();
    let last = scene.leased(at_once(Lapse::Lock), u64::MAX, Timestamp(i64::MAX));
    scene.hears(vec![last], "this device was locked").await;
    assert_eq!(scene.trace().lines().next(), Some("lock"), "which can be taken back");

    scene.is_lifted();
    let server = scene.server();
    let _ = server.succeed(&["--new-command-key"]).await;
    let _running = scene.sensor.start();
    muster_tests::eventually("a word under another key is newer than any of the thief's", async || {
        (scene.trace().lines().last() == Some("unlock")).then_some(())
    })
    .await;
    // He asked for the highest generation that there is; a baseline comes through all the same.
    let more = format!("profile = \"sensor-linux\"\n{}{}", file(NOTICE, "ours"), file(MORE, "more"));
    let generation = server.set_baseline(&more).await;
    let id = scene.sensor.id();
    let reported = |device: &Value| device["generation"]["reported"] == generation;
    let _ = server.device_when(&id, "the next baseline is in place", reported).await;
    assert_eq!(scene.sensor.file(MORE), "more");
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_approvers_placed_for_two_weeks_a_lease_of_a_second_does_not_set_off() {
    let scene = Scene::set().await;
    let (server, id) = (scene.server(), scene.sensor.id());
    let running = scene.sensor.start();
    let asked =
        ["warrant", "request", "--kind", "wipe_on_lapse", "--after", "336h", "--device", &id, "--yes"];
    let warrant = server.cli(&asked).await["warrant"].as_str().unwrap().to_owned();
    for name in ["alice", "bob"] {
        let _ = server.sign_warrant(&warrant, name).await;
    }
    muster_tests::eventually("it is placed", async || {
        (scene.sensor.status().await["clears"]["after_s"] == 1_209_600).then_some(())
    })
    .await;
    assert_eq!(running.terminate().await, Some(0));

    let lease = scene.leased(at_once(Lapse::Clear), 100, FAR_AHEAD);
    scene.hears(vec![lease], "the desired state is stale").await;
    let status = scene.sensor.status().await;
    assert_eq!(status["lease"]["lapsed"], true, "{status}");
    assert_eq!(status["clears"]["after_s"], 1_209_600, "it waits on: {status}");
    let running = scene.sensor.start();
    scene.is_lifted();
    let order = server.order("collect_posture", &id).await;
    let _ = server.done(&order).await;
    assert_eq!(running.terminate().await, Some(0));
    scene.stands();
    let _ = scene.siege.lift(1, &[]).await;
}
