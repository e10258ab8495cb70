//! The real program killed at, or failed by, its N-th call that makes something durable, for N = 1, 2, 3 … until a
//! run is clean. strace counts the calls, so no crash point is chosen by hand.

use muster_pki::armor;
use muster_wire::enrollment::EnrollmentString;
use serde_json::Value;

use crate::program::{Device, stub};
use crate::stub::Stub;

/// What the agent's files are made durable and moved with.
const CALLS: [&str; 3] = ["fsync", "fdatasync", "rename"];

fn strace(call: &str, fault: &str) -> Vec<String> {
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e"];
    let faults = [format!("trace={call}"), "-e".to_owned(), format!("inject={call}:{fault}")];
    words.map(str::to_owned).into_iter().chain(faults).collect()
}

/// The device holds the one certificate that the server knows, and nothing is left half done.
fn assert_settled(stub: &Stub, device: &Device, when: &str) {
    let fleet = stub.fleet.lock().unwrap();
    assert_eq!(fleet.devices.len(), 1, "{when}");
    assert!(fleet.devices[0].issued.is_none(), "{when}");
    let current = fleet.devices[0].current.clone().unwrap();
    assert_eq!(device.certificate(), armor::pem("CERTIFICATE", &current.der).into_bytes(), "{when}");
    for name in ["next-key.pem", "next-certificate.pem"] {
        assert!(!device.state().join("identity").join(name).exists(), "{when}: {name}");
    }
}

/// Runs `words` with `fault` at the N-th `call` until it does not come any more, and each time again without it.
fn count(call: &str, fault: &dyn Fn(usize) -> String, words: &[&str], must_say: Option<&str>) -> usize {
    for n in 1.. {
        let (stub, string) = stub();
        let device = Device::new();
        if words == ["renew"] {
            assert_eq!(device.enroll(&string).exit, 0);
        }
        let input = EnrollmentString::reveal(&string);
        let first = device.run_under(&strace(call, &fault(n)), words, input.as_bytes());
        let when = format!("{words:?}, {call} {n}");
        let is_clean = first.exit == 0;
        if let Some(remedy) = must_say.filter(|_| !is_clean) {
            assert_eq!(
                (first.exit, first.error["remedy"].as_str()),
                (1, Some(remedy)),
                "{when}: {}",
                first.stderr
            );
        }
        let again = device.run_under(&["env".to_owned()], words, input.as_bytes());
        assert_eq!(again.exit, 0, "{when}: {}", again.stderr);
        assert_ne!(again.json["outcome"], Value::Null, "{when}");
        assert_settled(&stub, &device, &when);
        if is_clean {
            return n - 1;
        }
    }
    unreachable!("the numbers do not end");
}

#[test]
fn killed_at_any_call_the_same_command_enrols_once() {
    let kill = |n| format!("signal=KILL:when={n}");
    let counted = CALLS.map(|call| count(call, &kill, &["enroll", "-"], None));
    assert!(counted[0] >= 10 && counted[1] >= 2 && counted[2] >= 5, "{CALLS:?}: {counted:?}");
}

#[test]
fn killed_at_any_call_the_same_command_renews_and_the_device_keeps_a_way_in() {
    let kill = |n| format!("signal=KILL:when={n}");
    let counted = CALLS.map(|call| count(call, &kill, &["renew"], None));
    assert!(counted[0] >= 6 && counted[1] >= 1 && counted[2] >= 4, "{CALLS:?}: {counted:?}");
}

#[test]
fn on_a_full_disk_it_says_so_and_the_same_command_ends_well_later() {
    let remedy = "free some space there, then run the same command again";
    let full = |n| format!("error=ENOSPC:when={n}+");
    for words in [&["enroll", "-"][..], &["renew"]] {
        for call in ["fdatasync", "rename"] {
            assert!(count(call, &full, words, Some(remedy)) >= 1);
        }
    }
}
