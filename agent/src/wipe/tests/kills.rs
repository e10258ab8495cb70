//! The power fails before the N-th step of a wipe, for N = 1, 2, 3 … until a run is clean, on every level; the engine is
//! then asked for the same phase again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::*;

/// From step `n` on everything comes to nothing.
fn killed_at(device: &Device, n: usize) -> (Engine, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let steps = Arc::clone(&count);
    let gate = move |_| {
        let is_alive = steps.fetch_add(1, Ordering::Relaxed) < n;
        if is_alive { Ok(()) } else { Err(io::Error::from(Errno::IO)) }
    };
    (device.engine().gated(Box::new(gate)), count)
}

/// Runs every phase, the first time with a kill at step `n`, then again from the phase that was cut off.
fn survives(device: &Device, level: Level, n: usize) -> (Vec<PhaseReport>, bool) {
    let (engine, count) = killed_at(device, n);
    let mut reports = Vec::new();
    for phase in [ReceiptPhase::Accepted].into_iter().chain(DEEDS) {
        let report = match engine.phase(&task(level), phase, device) {
            Ok(report) if count.load(Ordering::Relaxed) <= n => report,
            // A report of a dead engine reaches nobody.
            _ => device.engine().phase(&task(level), phase, device).unwrap(),
        };
        reports.push(report);
    }
    (reports, count.load(Ordering::Relaxed) <= n)
}

fn count_kills(level: Level, make: fn() -> Device) -> usize {
    for n in 0.. {
        let device = make();
        let outside = device.outside();
        let (reports, is_clean) = survives(&device, level, n);
        for report in &reports {
            assert_eq!(report.outcome, ReceiptOutcome::Done, "{level}, step {n}: {report:?}");
        }
        let last = reports.last().unwrap();
        for gone in ["/srv/secret", "/srv/config"] {
            assert!(!device.at(gone).exists(), "{level}, step {n}: {gone}");
            assert!(last.items.iter().any(|item| item.what == gone), "{level}, step {n}: {gone} is not told");
        }
        if level >= Level::Clear {
            assert_eq!(fs::read_dir(device.at("/srv/data")).unwrap().count(), 0, "{level}, step {n}");
            assert_eq!(find(last, "/srv/data/one").size_bytes, 3, "{level}, step {n}");
        }
        if level >= Level::CryptoErase {
            assert!(!opens(&device.at("/home/volume")), "{level}, step {n}");
            assert_eq!(find(last, "key slots of").fate, ItemFate::KeyDestroyed, "{level}, step {n}");
        } else {
            assert_eq!(device.outside(), outside, "{level}, step {n}");
        }
        if is_clean {
            return n;
        }
    }
    unreachable!("the numbers do not end");
}

#[test]
fn killed_at_any_step_a_retirement_ends_the_same() {
    assert!(count_kills(Level::Retire, Device::furnished) > 20);
}

#[test]
fn killed_at_any_step_a_clearing_ends_the_same() {
    assert!(count_kills(Level::Clear, Device::furnished) > 30);
}

#[test]
fn killed_at_any_step_a_crypto_erase_ends_the_same() {
    assert!(count_kills(Level::CryptoErase, Device::with_everything) > 30);
}

#[test]
fn killed_at_any_step_a_factory_reset_ends_the_same() {
    assert!(count_kills(Level::FactoryReset, Device::with_everything) > 30);
}
