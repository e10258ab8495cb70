//! What issuance costs, in microseconds of CPU per operation on one thread.
//!
//! `cargo bench -p muster-pki` prints one line an operation: the median and the least of eleven batches. Without
//! `--bench` (as under `cargo test`) each operation runs once, to prove that it still works.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark that fails should say where")]

use std::hint::black_box;
use std::time::Instant;

use muster_pki::certificate::Certificate;
use muster_pki::chain::Issuers;
use muster_pki::cms::certs_only;
use muster_pki::crl::{Reason, Revoked, Scope, sign_list};
use muster_pki::csr::VerifiedCsr;
use muster_pki::hierarchy::{Authority, found_issuing, found_root};
use muster_pki::issuer::{CaCertificate, CaKey, CaSigner as _, LeafTerms, prepare};
use muster_pki::key::{Algorithm, DeviceKey};
use muster_pki::name::Subject;
use muster_pki::profile::{IssuerUrls, LeafNames, LeafProfile};
use muster_pki::request::build_request;
use muster_pki::serial::Serial;
use rustls::crypto::aws_lc_rs;

const NOW_S: i64 = 1_800_000_000;

/// Nanoseconds that this thread has spent on a processor; wall time where the kernel does not tell.
fn cpu_ns(started: Instant) -> u128 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    spent.unwrap_or_else(|| started.elapsed().as_nanos())
}

/// Prints the cost of `operation`, timed over eleven batches of `count`.
fn time<T>(name: &str, count: u32, mut operation: impl FnMut() -> T) {
    let (batches, count) =
        if std::env::args().any(|argument| argument == "--bench") { (11, count) } else { (1, 1) };
    let started = Instant::now();
    let mut costs: Vec<f64> = (0..batches)
        .map(|_| {
            let before = cpu_ns(started);
            (0..count).for_each(|_| {
                black_box(operation());
            });
            u32::try_from(cpu_ns(started) - before).map_or(f64::NAN, f64::from) / f64::from(count) / 1000.0
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    let median = costs.get(costs.len() / 2).copied().unwrap_or(f64::NAN);
    let least = costs.first().copied().unwrap_or(f64::NAN);
    println!("{name:<44} median {median:>9.1} µs   least {least:>9.1} µs");
}

fn serial(number: u32) -> Serial {
    let mut random = [0; 16];
    random[4..8].copy_from_slice(&number.to_be_bytes());
    Serial::from_random(random)
}

/// An issuing authority beneath a root, and where it publishes.
fn found() -> (CaKey, CaCertificate, IssuerUrls) {
    let root_key = CaKey::generate(Algorithm::P384).unwrap();
    let root = found_root(&root_key, &Subject::new("root").unwrap(), serial(1), NOW_S).unwrap();
    let urls = IssuerUrls::new("http://status.example.org:8080", "issuing").unwrap();
    let root = Authority { certificate: &root, key: &root_key, urls: &urls };
    let key = CaKey::generate(Algorithm::P256).unwrap();
    let name = Subject::new("issuing").unwrap();
    let certificate = found_issuing(&root, key.spki_der(), &name, serial(2), NOW_S).unwrap();
    (key, certificate, urls)
}

fn main() {
    let (key, ca, urls) = found();
    let device = DeviceKey::generate(Algorithm::P256).unwrap();
    let body = build_request(&device, &Subject::new("hint").unwrap()).unwrap();
    let accepted = [Algorithm::P256];
    let csr = VerifiedCsr::parse(&body, &accepted).unwrap();
    let profile = LeafProfile::p256(30 * 86_400);
    let names = LeafNames {
        uri: "spiffe://example.org/device/0198c0de-0000-7000-8000-000000000001".to_owned(),
        common_name: "0198c0de-0000-7000-8000-000000000001".to_owned(),
        serial_number: Some("SN-0042".to_owned()),
    };
    let terms = LeafTerms { profile: &profile, names: &names, urls: &urls, serial: serial(3) };
    let leaf = prepare(&csr, &terms, &ca, NOW_S).unwrap().sign(&key).unwrap();
    let issuers = Issuers::new(&[ca.der()], aws_lc_rs::default_provider().into()).unwrap();
    let authority = Authority { certificate: &ca, key: &key, urls: &urls };
    let entry = |number: u32| Revoked { serial: serial(number), at_s: NOW_S, reason: Reason::KeyCompromise };
    let many: Vec<Revoked> = (0..10_000).map(entry).collect();

    time("CSR: walk, parse, prove possession (P-256)", 500, || VerifiedCsr::parse(&body, &accepted).unwrap());
    time("issue: write and lint", 1000, || prepare(&csr, &terms, &ca, NOW_S).unwrap());
    time("issue: write, lint and sign (P-256)", 500, || {
        prepare(&csr, &terms, &ca, NOW_S).unwrap().sign(&key).unwrap()
    });
    time("sign alone (P-256)", 1000, || key.sign(&leaf.der).unwrap());
    time("certs-only message of the leaf", 100_000, || certs_only(&[&leaf.der]));
    time("read a leaf", 50_000, || Certificate::parse(&leaf.der).unwrap().not_after_s());
    time("verify a bare leaf", 500, || issuers.verify_device_leaf(&leaf.der, NOW_S).unwrap());
    time("device: request (P-256)", 500, || build_request(&device, &Subject::new("hint").unwrap()).unwrap());
    let shard = Scope::Leaves { shard: 0 };
    time("empty list", 500, || sign_list(&authority, shard, &[], 7, NOW_S).unwrap());
    time("list of 200", 100, || sign_list(&authority, shard, &many[..200], 7, NOW_S).unwrap());
    time("list of 10,000", 5, || sign_list(&authority, shard, &many, 7, NOW_S).unwrap());
    let length = sign_list(&authority, shard, &many, 7, NOW_S).unwrap().len();
    println!("a list of 10,000 has {length} bytes");
}
