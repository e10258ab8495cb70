//! The writer is killed (SIGKILL) thirty times over one store, in the middle of whatever it does; every
//! acknowledged commit is still there, as a whole, and the store opens each time.

use crate::writer::{Order, acknowledgement, child, verify};
use muster_server::store::embedded::SyncMode;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Times that the writer is killed.
const ROUNDS: u64 = 30;

#[test]
fn a_store_survives_thirty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let first = round * 100_000;
        let order = Order { dir: &store, sync: SyncMode::Guarded, first, count: 100_000, abort_after: 0 };
        let mut writer = child(order).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        // A different number each round, so that the kill meets different moments of sled's life; what was
        // printed before it arrives counts as well.
        let enough = 3 + round as usize * 7 % 40;
        acknowledged.extend(lines.by_ref().filter_map(|line| acknowledgement(&line)).take(enough));
        writer.kill().unwrap();
        acknowledged.extend(lines.filter_map(|line| acknowledgement(&line)));
        assert!(!writer.wait().unwrap().success());
        if round % 5 == 4 {
            assert_eq!(verify(&store, &acknowledged), Ok(()), "after kill {round}");
        }
    }
    assert!(acknowledged.len() >= 30 * 3, "{} acknowledged", acknowledged.len());
}
