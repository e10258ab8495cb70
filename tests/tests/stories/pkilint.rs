//! An auditor lints what a real server handed out: nothing at WARNING or above, but the two known false alarms.
//!
//! pkilint rejects every URI whose scheme it does not know, `spiffe:` included, and the host name `localhost` (RFC
//! 6761 §6.3). Each is allowed by its code, its field and its value; anything else fails.

use muster_tests::est::{self, Pledge};
use muster_tests::judge::{Finding, curl, openssl, pkilint};
use muster_tests::{Identity, Launch, Server, Site, Tls};
use std::path::{Path, PathBuf};

/// A directory of things to judge.
struct Bench(tempfile::TempDir);

impl Bench {
    fn write(&self, name: &str, der: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, der).unwrap();
        path
    }

    async fn certificate(&self, der: &[u8]) -> Vec<Finding> {
        pkilint("lint_pkix_cert", &[], &self.write("certificate.der", der)).await
    }

    async fn list(&self, kind: &str, der: &[u8]) -> Vec<Finding> {
        pkilint("lint_crl", &["--type", kind, "--profile", "PKIX"], &self.write("list.der", der)).await
    }
}

/// What is found beside the false alarm of `code` at a node that ends in `field`, about `value`.
fn beside(found: Vec<Finding>, code: &str, field: &str, value: &str) -> Vec<Finding> {
    let message = format!("\"{value}\"");
    let expected = |finding: &Finding| {
        finding.code == code && finding.node.ends_with(field) && finding.message.contains(&message)
    };
    assert_eq!(found.iter().filter(|finding| expected(finding)).count(), 1, "known to be there: {found:?}");
    found.into_iter().filter(|finding| !expected(finding)).collect()
}

const NONE: Vec<Finding> = Vec::new();

/// A server with a name as it would have on a network: pkilint takes no URL at `localhost` either.
async fn named() -> Server {
    let site = Site::empty();
    let _ =
        site.muster(&Launch::plain(), &["init", "--solo", "--public-name", "muster.example.org"]).await.ok();
    site.serve().await
}

/// The revocation list that a certificate names, fetched with curl, from this machine whatever name and port say.
async fn list_of(server: &Server, bench: &Bench, der: &[u8]) -> Vec<u8> {
    let file = bench.write("named.der", der).display().to_string();
    let arguments = ["x509", "-inform", "DER", "-in", &file, "-noout", "-ext", "crlDistributionPoints"];
    let text = openssl(&arguments, b"").await.ok().text();
    let url = text.lines().find_map(|line| line.trim().strip_prefix("URI:")).expect("a distribution point");
    let (_, here) = server.endpoints().status.split_once("://").expect("a URL");
    curl(&["--fail", "--connect-to", &format!("::{here}"), url]).await.ok().stdout
}

async fn device(server: &Server, profile: &str, pledge: Pledge) -> Identity {
    let minted = server.mint(profile).await;
    let answer = est::enroll(server, &minted.token, &pledge.csr).await.expect("an answer");
    pledge.identity(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_server_signs_is_without_findings_but_the_two_known_false_alarms() {
    let (server, bench) = (named().await, Bench(tempfile::tempdir().unwrap()));
    let (uri, name) = ("pkix.invalid_uri_syntax", "pkix.invalid_domain_name_syntax");
    let uri_field = "subjectAltName.0.uniformResourceIdentifier";

    let laptop = device(&server, "laptop-linux", Pledge::claiming("C02XL0GTJG5H")).await;
    let sensor = device(&server, "sensor-linux", Pledge::new("sensor")).await;
    for identity in [&laptop, &sensor] {
        let found = bench.certificate(identity.leaf()).await;
        assert_eq!(beside(found, uri, uri_field, &est::device_uri(identity.leaf())), NONE);
    }

    let mut door = est::connect(&server).await.expect("a connection");
    let authorities = est::certificates(&door.get(&est::path(None, "cacerts")).await.expect("an answer"));
    assert_eq!(authorities.len(), 3, "root, issuing CA, server-names CA");
    for der in &authorities {
        assert_eq!(bench.certificate(der).await, NONE);
    }
    chain(&bench, &authorities[0], &authorities[1]).await;
    chain(&bench, &authorities[0], &authorities[2]).await;
    chain(&bench, &authorities[1], laptop.leaf()).await;

    for listener in [&server.endpoints().device, &server.endpoints().admin] {
        let stream = Tls::anonymous(&server).open(listener).await.expect("a connection");
        let shown = stream.get_ref().1.peer_certificates().expect("a server shows a certificate")[0].to_vec();
        let found = bench.certificate(&shown).await;
        assert_eq!(beside(found, name, "subjectAltName.0.dNSName", "localhost"), NONE);
    }

    assert_eq!(
        bench.list("CRL", &list_of(&server, &bench, laptop.leaf()).await).await,
        NONE,
        "an empty shard"
    );
    server.revoke(&est::device_id(laptop.leaf()), "key_compromise").await;
    assert_eq!(
        bench.list("CRL", &list_of(&server, &bench, laptop.leaf()).await).await,
        NONE,
        "a shard with an entry"
    );
    assert_eq!(
        bench.list("ARL", &list_of(&server, &bench, &authorities[1]).await).await,
        NONE,
        "the root's list"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_issuing_ca_its_leaves_and_the_lists_of_both_are_without_findings() {
    let (server, bench) = (named().await, Bench(tempfile::tempdir().unwrap()));
    let before = device(&server, "sensor-linux", Pledge::new("sensor")).await;
    assert_eq!(est::prove(&server, &before).await.expect("an answer").status, 200);
    let site = server.stop().await;
    let steps: [&[&str]; 2] =
        [&["ca", "rotate", "issuing"], &["ca", "activate", "issuing", "--although-missing", "1"]];
    for step in steps {
        let _ = site.muster(&Launch::plain(), step).await.ok();
    }
    let server = site.serve().await;
    let after = device(&server, "sensor-linux", Pledge::new("sensor")).await;
    let mut door = est::connect(&server).await.expect("a connection");
    let authorities = est::certificates(&door.get(&est::path(None, "cacerts")).await.expect("an answer"));
    assert_eq!(authorities.len(), 4, "root, issuing CA, the one before, server-names CA");
    // A set has the order of its bytes; the root is its shortest.
    let says = |der: &[u8], words: &[u8]| der.windows(words.len()).any(|window| window == words);
    let (new, others): (Vec<_>, Vec<_>) =
        authorities.iter().partition(|der| says(der, b"Muster Issuing CA 2"));
    let former = others.iter().find(|der| says(der, b"Muster Issuing CA")).expect("it is served");
    assert_eq!(bench.certificate(new[0]).await, NONE);
    chain(&bench, &authorities[0], new[0]).await;
    chain(&bench, new[0], after.leaf()).await;
    chain(&bench, former, before.leaf()).await;
    for identity in [&before, &after] {
        assert_eq!(bench.list("CRL", &list_of(&server, &bench, identity.leaf()).await).await, NONE);
        server.revoke(&est::device_id(identity.leaf()), "key_compromise").await;
        assert_eq!(bench.list("CRL", &list_of(&server, &bench, identity.leaf()).await).await, NONE);
    }
}

/// The chain of two certificates is without findings.
async fn chain(bench: &Bench, issuer: &[u8], subject: &[u8]) {
    let issuer = bench.write("issuer.der", issuer).display().to_string();
    let subject = bench.write("subject.der", subject);
    let found = pkilint("lint_pkix_signer_signee_cert_chain", &[&issuer], Path::new(&subject)).await;
    assert_eq!(found, NONE);
}
