//! A01: a thousand claims of one token at once, and kill -9 in between.
//!
//! One certificate comes of it. The same token with the same key gets the same bytes; another key is refused, and
//! that is recorded.

use super::siege::{Siege, patient, refused};
use muster_tests::est::{self, Pledge, leaf};
use muster_tests::{Server, Site};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Claims at once.
const CLAIMS: usize = 1_000;
/// Claims after the kill.
const LATER: usize = 100;
/// Keys that they are made with; each key claims equally often.
const KEYS: usize = 50;

/// What the claims got, by the number of the key.
#[derive(Default)]
struct Outcome {
    certificates: BTreeSet<(usize, Vec<u8>)>,
    refused: usize,
    lost: usize,
}

/// Claims `token` `count` times at once; kills the server as soon as `kill_after` claims have been answered.
async fn claim(
    server: Server,
    token: &str,
    keys: &Arc<Vec<Pledge>>,
    count: usize,
    kill_after: Option<usize>,
) -> (Result<Server, Site>, Outcome) {
    let (answered, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let server = Arc::new(server);
    let mut claims = JoinSet::new();
    for n in 0..count {
        let (server, keys, token) = (Arc::clone(&server), Arc::clone(keys), token.to_owned());
        let (answered, enough) = (Arc::clone(&answered), Arc::clone(&enough));
        claims.spawn(async move {
            let answer = est::enroll(&server, &token, &keys[n % KEYS].csr).await;
            drop(server);
            if answered.fetch_add(1, Ordering::SeqCst) + 1 == kill_after.unwrap_or(count) {
                enough.notify_one();
            }
            (n % KEYS, answer)
        });
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    if kill_after.is_some() {
        enough.notified().await;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    let mut outcome = Outcome::default();
    while let Some(claimed) = claims.join_next().await {
        match claimed.unwrap() {
            (key, Ok(answer)) if answer.status == 200 => {
                outcome.certificates.insert((key, leaf(&answer)));
            }
            (_, Ok(answer)) => {
                refused(&answer, 401, "token_refused");
                outcome.refused += 1;
            }
            (_, Err(_)) => outcome.lost += 1,
        }
    }
    let server = Arc::into_inner(server).expect("every claim has ended");
    let left = if kill_after.is_some() { Err(server.kill()) } else { Ok(server) };
    (left, outcome)
}

/// A thousand connections are two thousand descriptors, one half of them ours.
fn allow_many_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_claims_of_one_token_make_one_certificate_whenever_the_server_is_killed() {
    allow_many_descriptors();
    let mut server = Server::on(Site::founded().await, patient()).await;
    for kill_after in [1, CLAIMS / 3] {
        // A key that was certified once is refused as such, whatever became of the token.
        let keys: Arc<Vec<Pledge>> = Arc::new((0..KEYS).map(|_| Pledge::new("")).collect());
        let siege = Siege::of(server).await;
        let token = siege.token("sensor-linux").await;
        let (left, before) = claim(siege.into_server(), &token, &keys, CLAIMS, Some(kill_after)).await;
        assert!(before.lost > 0, "nothing was under way when the server was killed");
        let siege = Siege::of(Server::on(left.err().unwrap(), patient()).await).await;
        let (left, after) = claim(siege.into_server(), &token, &keys, LATER, None).await;
        assert_eq!(after.lost, 0);
        assert_eq!(after.refused, LATER - LATER / KEYS, "every other key is refused every time");
        let all: BTreeSet<_> = before.certificates.union(&after.certificates).collect();
        assert_eq!(all.len(), 1, "one certificate, the same bytes before and after the kill");
        server = left.ok().unwrap();
    }
    let siege = Siege::of(server).await;
    let fresh = siege.token("sensor-linux").await;
    let spent = Pledge::new("");
    let _ = est::enroll(siege.server(), &fresh, &spent.csr).await.unwrap();
    let other = est::enroll(siege.server(), &fresh, &Pledge::new("").csr).await.unwrap();
    refused(&other, 401, "token_refused");
    let devices = siege.server().cli(&["device", "list"]).await;
    let server = siege.lift(1, &["token.spent"]).await;
    assert_eq!(devices.as_array().unwrap().len(), 3, "a life for each of three tokens");
    let _ = server.stop().await;
}
