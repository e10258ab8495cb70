//! Judges that are not ours: openssl, pkilint.

use serde_json::Value;
use std::path::Path;

use crate::run::{Launch, Run, run};
use crate::{Identity, PATIENCE, Server, est, pkilint_program, repository};

/// Runs `openssl` with `input` on standard input.
pub async fn openssl(arguments: &[&str], input: &[u8]) -> Run {
    run(&Launch::plain(), Path::new("openssl"), arguments, input).await
}

/// One complaint of pkilint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `WARNING`, `ERROR`, `FATAL`.
    pub severity: String,
    /// Its stable name, such as `pkix.invalid_uri_syntax`.
    pub code: String,
    /// Where in the structure it was found.
    pub node: String,
    /// In words.
    pub message: String,
}

/// What pkilint's `program` (`lint_pkix_cert`, `lint_crl`, …) says about the PEM or DER in `file`, at WARNING and above.
///
/// # Panics
/// When the program does not answer with JSON.
pub async fn pkilint(program: &str, arguments: &[&str], file: &Path) -> Vec<Finding> {
    let file = file.display().to_string();
    let words: Vec<&str> = ["lint", "-s", "WARNING", "-f", "JSON"]
        .into_iter()
        .chain(arguments.iter().copied())
        .chain([file.as_str()])
        .collect();
    let said = run(&Launch::plain(), &pkilint_program(program), &words, b"").await;
    findings(&said.json())
}

fn findings(report: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    for result in report["results"].as_array().into_iter().flatten() {
        let node = result["node_path"].as_str().unwrap_or_default();
        for description in result["finding_descriptions"].as_array().into_iter().flatten() {
            let text = |name: &str| description[name].as_str().unwrap_or_default().to_owned();
            found.push(Finding {
                severity: text("severity"),
                code: text("code"),
                node: node.to_owned(),
                message: text("message"),
            });
        }
    }
    found
}

/// Fetches `url` with curl, over plain HTTP and with nothing of ours.
pub async fn curl(arguments: &[&str]) -> Run {
    let limit = PATIENCE.as_secs().to_string();
    let words: Vec<&str> = ["--silent", "--show-error", "--max-time", &limit]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    run(&Launch::plain(), Path::new("curl"), &words, b"").await
}

/// What whoever judges a proof takes on trust: two digests that `muster init` printed, in hexadecimal.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// Of the first authority document.
    pub authority: String,
    /// Of the root's public key.
    pub root: String,
}

/// Has the independent script judge the proof in `directory`, with nothing to trust but `trusted`.
pub async fn wipe_proof(directory: &Path, trusted: &Trusted) -> Run {
    wipe_proof_on(&Launch::plain(), directory, trusted).await
}

/// The same on a machine that is set up as `machine` says.
pub async fn wipe_proof_on(machine: &Launch, directory: &Path, trusted: &Trusted) -> Run {
    let script = repository().join("docs/verify-wipe.py").display().to_string();
    let directory = directory.display().to_string();
    let words = [script.as_str(), &directory, "--authority", &trusted.authority, "--root", &trusted.root];
    run(machine, Path::new("python3"), &words, b"").await
}

/// Has the independent script judge the exported log in `directory`, with `known`: what it is told beside that.
pub async fn audit_log(directory: &Path, known: &[&str]) -> Run {
    let script = repository().join("docs/verify-audit.py").display().to_string();
    let directory = directory.display().to_string();
    let words = [&[script.as_str(), &directory], known].concat();
    run(&Launch::plain(), Path::new("python3"), &words, b"").await
}

/// `openssl verify -crl_check` of the leaf of `identity`, with nothing but what `server` hands out, fetched anew, at the
/// time at which it lives.
///
/// # Panics
/// As [`verify_with_crl`].
pub async fn verify(server: &Server, identity: &Identity) -> Run {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut door = est::connect(server).await.expect("a connection");
    let authorities = est::certificates(&door.get(&est::path(None, "cacerts")).await.expect("an answer"));
    let write =
        |name: &str, text: String| std::fs::write(directory.path().join(name), text).expect("it is writable");
    write("certificate.pem", pem(identity.leaf()));
    write("root.pem", pem(&authorities[0]));
    write("cacerts.pem", authorities.iter().map(|der| pem(der)).collect());
    verify_in(directory.path(), &server.clock()).await
}

fn pem(der: &[u8]) -> String {
    muster_pki::armor::pem("CERTIFICATE", der)
}

/// `openssl verify -crl_check` of `certificate.pem` in `directory` against its `root.pem` and `cacerts.pem`, with the
/// revocation list that the certificate itself names, fetched anew.
///
/// # Panics
/// When the certificate names no list, or the list cannot be fetched or read.
pub async fn verify_with_crl(directory: &Path) -> Run {
    verify_in(directory, &Launch::plain()).await
}

async fn verify_in(directory: &Path, clock: &Launch) -> Run {
    let path = |name: &str| directory.join(name).display().to_string();
    let (certificate, der, list) = (path("certificate.pem"), path("shard.der"), path("shard.pem"));
    let shown =
        openssl(&["x509", "-in", &certificate, "-noout", "-ext", "crlDistributionPoints"], b"").await.ok();
    let text = shown.text();
    let url = text.lines().find_map(|line| line.trim().strip_prefix("URI:"));
    let url = url.unwrap_or_else(|| panic!("the certificate names no revocation list: {text}"));
    let _ = curl(&["--fail", "--output", &der, url]).await.ok();
    let _ = openssl(&["crl", "-inform", "DER", "-in", &der, "-out", &list], b"").await.ok();
    let (root, others) = (path("root.pem"), path("cacerts.pem"));
    let arguments =
        ["verify", "-crl_check", "-CRLfile", &list, "-CAfile", &root, "-untrusted", &others, &certificate];
    run(clock, Path::new("openssl"), &arguments, b"").await
}

/// The word that the last receipt of a sanitisation record has earned: no more than every item of it.
///
/// # Panics
/// When the record has no receipt.
pub fn earned(record: &Value) -> &'static str {
    let receipts = record["receipts"].as_array().expect("a record has receipts");
    let items = receipts.last().expect("and a last one")["items"].as_array().expect("of items");
    let has = |fate: &str| items.iter().any(|item| item["fate"] == fate);
    match () {
        () if has("deleted") || has("failed") => "deleted",
        () if has("cleared") => "clear",
        () if has("key_destroyed") => "cryptographic_erase",
        () => "nothing",
    }
}
