//! What openssl says about what we make: requests, certificates, chains, revocation lists, messages.

mod founding;

use founding::{ALL, Bench, DAY_S, House, NOW_S, URI, found, serial};
use muster_pki::armor::pem;
use muster_pki::cms::certs_only;
use muster_pki::crl::{Reason, Revoked, Scope, sign_list};
use muster_pki::csr::VerifiedCsr;
use muster_pki::key::{Algorithm, DeviceKey, PublicKey};
use muster_pki::name::Subject;
use muster_pki::request::{build_renewal, build_request};
use muster_pki::serial::Serial;

/// Writes the authorities and their lists for `revoked` in the shard of the leaf.
fn lay_out(house: &House, bench: &Bench, leaf: Serial, revoked: &[Revoked]) {
    bench.write("root.pem", house.root.certificate.to_pem());
    bench.write("issuing.pem", house.issuing.certificate.to_pem());
    bench.write("names.pem", house.server_names.certificate.to_pem());
    let scope = Scope::Leaves { shard: leaf.shard() };
    let list = sign_list(&house.issuing.authority(), scope, revoked, 7, NOW_S).unwrap();
    let root_list = sign_list(&house.root.authority(), Scope::Authorities, &[], 1, NOW_S).unwrap();
    let server_scope = Scope::Leaves { shard: serial(9).shard() };
    let server_list = sign_list(&house.server_names.authority(), server_scope, &[], 1, NOW_S).unwrap();
    bench.write("lists.pem", [&list, &root_list, &server_list].map(|der| pem("X509 CRL", der)).concat());
    bench.write("list.der", &list);
}

fn verify(bench: &Bench, at_s: i64, rest: &str) -> (bool, String) {
    let line = format!(
        "verify -x509_strict -crl_check_all -extended_crl -CRLfile lists.pem -CAfile root.pem -attime {at_s} {rest}"
    );
    let output = bench.openssl(&line);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn every_kind_of_leaf_verifies_with_its_list_until_its_last_second() {
    let (house, bench) = (found(), Bench::new());
    for (at, algorithm) in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519].into_iter().enumerate() {
        let number = serial(0x10 + u8::try_from(at).unwrap());
        let (_, issued) = house.leaf_of(algorithm, number);
        lay_out(&house, &bench, number, &[]);
        bench.write("leaf.pem", pem("CERTIFICATE", &issued.der));
        let line = "-untrusted issuing.pem -purpose sslclient leaf.pem";
        let (good, text) = verify(&bench, NOW_S, line);
        assert!(good, "{algorithm}: {text}");
        let (good, text) = verify(&bench, NOW_S, "-untrusted issuing.pem -purpose sslserver leaf.pem");
        assert!(!good, "{algorithm} must not be a server: {text}");
        assert_eq!(issued.not_after_s, NOW_S + 30 * DAY_S);
    }
}
