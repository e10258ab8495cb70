//! What pkilint says about what we make: nothing at WARNING or above, but for two false alarms it is known for.
//!
//! pkilint rejects every URI whose scheme it does not know, `spiffe:` included, and the host name `localhost` (RFC
//! 6761 §6.3). Both are allowed by exact field, code and value; anything else fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails where it stands"
)]

mod founding;

use std::path::{Path, PathBuf};
use std::process::Command;

use founding::{Bench, NOW_S, URI, found, serial};
use muster_pki::crl::{Reason, Revoked, Scope, sign_list};
use muster_pki::key::Algorithm;

/// Where the linters are; without them nothing here was judged.
fn linters() -> PathBuf {
    match std::env::var_os("MUSTER_PKILINT_BIN") {
        Some(directory) => PathBuf::from(directory),
        None => panic!("set MUSTER_PKILINT_BIN to the directory with lint_pkix_cert and lint_crl"),
    }
}

/// The findings of one linter, one line each: field, validator, severity, code, message.
fn findings(linter: &str, arguments: &[&str], files: &[&Path]) -> Vec<String> {
    let program = linters().join(linter);
    let output = Command::new(&program)
        .args(["lint", "--severity", "WARNING", "--format", "CSV"])
        .args(arguments)
        .args(files)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let header = lines.next();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        header,
        Some("node_path,validator,severity,code,message"),
        "{linter} did not run: {complaint}"
    );
    lines.map(str::to_owned).collect()
}

fn certificate(bench: &Bench, der: &[u8]) -> Vec<String> {
    findings("lint_pkix_cert", &[], &[&bench.write("certificate.der", der)])
}

/// The one false alarm about a device's leaf.
fn about_the_uri() -> String {
    format!(
        "certificate.tbsCertificate.extensions.1.extnValue.subjectAltName.0.uniformResourceIdentifier,\
         GeneralNameUriSyntaxValidator,ERROR,pkix.invalid_uri_syntax,\"Invalid URI syntax: \"\"{URI}\"\"\""
    )
}

/// The one false alarm about a server's certificate, whose second name is `localhost`.
fn about_localhost() -> String {
    "certificate.tbsCertificate.extensions.1.extnValue.subjectAltName.1.dNSName,\
     GeneralNameDnsNameSyntaxValidator,ERROR,pkix.invalid_domain_name_syntax,\
     \"Invalid domain name syntax: \"\"localhost\"\"\""
        .to_owned()
}

#[test]
fn authorities_are_without_findings() {
    let (house, bench) = (found(), Bench::new());
    for office in [&house.root, &house.issuing, &house.server_names] {
        assert_eq!(certificate(&bench, office.certificate.der()), Vec::<String>::new());
    }
    let root = bench.write("root.der", house.root.certificate.der());
    for office in [&house.issuing, &house.server_names] {
        let below = bench.write("below.der", office.certificate.der());
        let found = findings("lint_pkix_signer_signee_cert_chain", &[], &[&root, &below]);
        assert_eq!(found, Vec::<String>::new());
    }
}

#[test]
fn leaves_of_every_kind_of_key_are_without_findings_but_for_the_scheme_of_their_uri() {
    let (house, bench) = (found(), Bench::new());
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Ed25519] {
        let (_, issued) = house.leaf_of(algorithm, serial(5));
        assert_eq!(certificate(&bench, &issued.der), [about_the_uri()], "{algorithm}");
    }
    bench.openssl_ok("req -new -newkey rsa:2048 -nodes -keyout key.pem -subj /CN=x -out request.pem");
    let request = std::fs::read(bench.path().join("request.pem")).unwrap();
    let issued = house.leaf(&request, serial(6));
    assert_eq!(certificate(&bench, &issued.der), [about_the_uri()], "RSA");
    let issuer = bench.write("issuer.der", house.issuing.certificate.der());
    let leaf = bench.write("leaf.der", &issued.der);
    let found = findings("lint_pkix_signer_signee_cert_chain", &[], &[&issuer, &leaf]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn server_certificates_are_without_findings_but_for_localhost() {
    let (house, bench) = (found(), Bench::new());
    let (_, issued) = house.server(&["muster.example.org", "localhost"]);
    assert_eq!(certificate(&bench, &issued.der), [about_localhost()]);
}

#[test]
fn lists_full_and_empty_are_without_findings() {
    let (house, bench) = (found(), Bench::new());
    let revoked = |fill: u8, reason| Revoked { serial: serial(fill), at_s: NOW_S - 1, reason };
    let shard = |fill: u8| Scope::Leaves { shard: serial(fill).shard() };
    let mut lists = Vec::new();
    for reason in
        [Reason::Unspecified, Reason::KeyCompromise, Reason::CertificateHold, Reason::PrivilegeWithdrawn]
    {
        lists.push(sign_list(&house.issuing.authority(), shard(5), &[revoked(5, reason)], 7, NOW_S).unwrap());
    }
    lists.push(sign_list(&house.issuing.authority(), shard(5), &[], 8, NOW_S).unwrap());
    for list in lists {
        let file = bench.write("list.der", &list);
        let found = findings("lint_crl", &["--type", "CRL", "--profile", "PKIX"], &[&file]);
        assert_eq!(found, Vec::<String>::new());
    }
    let list = sign_list(&house.root.authority(), Scope::Authorities, &[], 1, NOW_S).unwrap();
    let file = bench.write("root.der", &list);
    let found = findings("lint_crl", &["--type", "ARL", "--profile", "PKIX"], &[&file]);
    assert_eq!(found, Vec::<String>::new());
}
