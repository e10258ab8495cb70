//! The steps in which somebody else judges: openssl over certificates and revocation lists, the checker over the log.

use super::call::{Call, is, last_json, text};
use super::stage::{Broken, Program, until};
use super::story::{CERTIFICATE, Outcome, SECOND, SERIAL, Story, TRUST_DOMAIN, fetch};
use super::teller::Teller;
use crate::cli::table::value_at;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Where the second device keeps its certificate.
const OF_SECOND: &str = "second/identity/certificate.pem";
/// What a stranger checks the log with.
const SCRIPT: &str = include_str!("../../../docs/verify-audit.py");
/// Where the demo puts it.
const CHECKER: &str = "verify-audit.py";
/// Where the log is exported to.
const COPY: &str = "audit-copy";

impl Story {
    /// openssl has to find the way from leaf to root, for a TLS client, by the letter of RFC 5280.
    pub(super) async fn judge(&self, teller: &mut Teller) -> Outcome {
        let authorities = self.muster(teller, &["ca", "show"]).await?;
        for (name, file) in [("root", "root.pem"), ("issuing", "issuing.pem")] {
            let path = self.stage.path(file);
            let pem = text(&authorities, &format!("/{name}/pem"))?;
            std::fs::write(&path, pem).map_err(Broken::system("write", &path))?;
        }
        let look =
            ["x509", "-in", CERTIFICATE, "-noout", "-subject", "-ext", "subjectAltName,extendedKeyUsage"];
        let seen = self.run(teller, &Call::of(Program::Openssl, &look)).await?.stdout;
        teller.output(&seen);
        let strict = ["verify", "-x509_strict", "-purpose", "sslclient"];
        let call = Call::of(Program::Openssl, &[strict.as_slice(), CHAIN, &[CERTIFICATE]].concat());
        let verdict = self.run(teller, &call).await?.stdout;
        teller.output(&verdict);
        let name = format!("spiffe://{TRUST_DOMAIN}/device/{}", self.device);
        if !seen.contains(&name) {
            return Err(Broken::unexpected(format!("the certificate does not carry the name {name}")));
        }
        let url = self.list_named_in(teller, CERTIFICATE).await?;
        self.fetch_list(&url).await?;
        self.check_list(teller, &url, (CERTIFICATE, 0)).await?;
        Ok(json!({"openssl": verdict.trim(), "name": name}))
    }

    /// The list that the certificate itself names has to name the certificate, and openssl has to heed it.
    pub(super) async fn crl(&self, teller: &mut Teller) -> Outcome {
        let url = self.is_revoked(teller, OF_SECOND, SECOND).await?;
        Ok(json!({"url": url, "openssl": "certificate revoked"}))
    }

    /// Has openssl find the certificate of `device` revoked; answers where the list is.
    pub(super) async fn is_revoked(
        &self,
        teller: &mut Teller,
        certificate: &str,
        device: &str,
    ) -> Result<String, Broken> {
        let url = self.list_named_in(teller, certificate).await?;
        let shown = self.look(&["device", "show", device]).await?;
        let serial = text(&shown, "/certificate/serial")?.to_lowercase();
        // A change may take a second to be signed.
        until("the revoked certificate's appearance in the list", async || {
            let list = self.fetch_list(&url).await?.to_lowercase();
            Ok(list.contains(&serial).then_some(()))
        })
        .await?;
        let verdict = self.check_list(teller, &url, (certificate, 2)).await?;
        if !verdict.contains("certificate revoked") {
            return Err(Broken::unexpected("openssl gives another reason than the revocation"));
        }
        Ok(url)
    }

    async fn list_named_in(&self, teller: &mut Teller, certificate: &str) -> Result<String, Broken> {
        let look = ["x509", "-in", certificate, "-noout", "-ext", "crlDistributionPoints"];
        let seen = self.run(teller, &Call::of(Program::Openssl, &look)).await?.stdout;
        let url = seen.split_whitespace().find_map(|word| word.strip_prefix("URI:"));
        url.map(str::to_owned).ok_or_else(|| Broken::unexpected("the certificate names no revocation list"))
    }

    /// Fetches the list, has openssl read it, and answers it in words.
    async fn fetch_list(&self, url: &str) -> Result<String, Broken> {
        let (_, body) = fetch(url).await?;
        let path = self.stage.path("shard.crl");
        std::fs::write(&path, &body).map_err(Broken::system("write", &path))?;
        let read = Call::of(Program::Openssl, READ_LIST);
        read.judge(self.stage.run(&read).await?)?;
        let text = self.stage.path("crl.pem");
        std::fs::read_to_string(&text).map_err(Broken::system("read", &text))
    }

    /// Has openssl judge a certificate with the list fetched last; it has to end with `exit`.
    async fn check_list(
        &self,
        teller: &mut Teller,
        url: &str,
        (certificate, exit): (&str, i32),
    ) -> Result<String, Broken> {
        teller.command(&format!("curl -o shard.crl {url}"));
        teller.command(&Call::of(Program::Openssl, READ_LIST).shown());
        let check = ["verify", "-crl_check", "-CRLfile", "crl.pem"];
        let call =
            Call::of(Program::Openssl, &[check.as_slice(), CHAIN, &[certificate]].concat()).ending(exit);
        let ran = self.run(teller, &call).await?;
        let verdict = ran.stdout + &ran.stderr;
        teller.output(&verdict);
        Ok(verdict)
    }

    /// The log leaves the server and is checked where no server is.
    pub(super) async fn audit(&self, teller: &mut Teller) -> Outcome {
        self.muster(teller, &["audit", "export", COPY]).await?;
        let call = Call::of(Program::Muster, &["audit", "verify", COPY, "--json"]);
        let report = last_json(&self.run(teller, &call).await?.stdout);
        let root = text(&report, "/root_sha256")?;
        teller.output(&format!("{} entries, root {root}", value_at(&report, "/size")));
        if report.get("ok") != Some(&Value::Bool(true)) {
            return Err(Broken::unexpected("the log does not hold"));
        }
        Ok(json!({"size": report.get("size"), "root_sha256": root}))
    }

    /// One entry, its place in the tree and the signed root are all that a stranger needs.
    pub(super) async fn inclusion(&self, teller: &mut Teller) -> Outcome {
        let history = self.look(&["device", "history", SERIAL]).await?;
        let mut entries = history.as_array().into_iter().flatten();
        let end = entries.find(|entry| is(entry, "/new_state", "retired(proven)"));
        let end = end.ok_or_else(|| Broken::unexpected("the log does not say that the wipe is proven"))?;
        let number = value_at(end, "/seq");
        if !self.stage.has(Program::Python) {
            teller.output(
                "python3 is not on this machine: docs/verify-audit.py proves an entry to whoever has it",
            );
            return Ok(json!({"audit_entry": end.get("seq"), "checked": false}));
        }
        let script = self.stage.path(CHECKER);
        std::fs::write(&script, SCRIPT).map_err(Broken::system("write", &script))?;
        let call = Call::of(Program::Python, &[CHECKER, COPY, "--entry", &number]);
        let report = last_json(&self.run(teller, &call).await?.stdout);
        let path = report.get("inclusion").and_then(Value::as_array).map_or(0, Vec::len);
        let words = ["/entry/seq", "/entry/action", "/entry/object", "/entry/new_state"];
        teller.output(&words.map(|at| value_at(&report, at)).join("  "));
        teller.output(&format!("{path} hashes from there to the root {}", value_at(&report, "/root_sha256")));
        if report.get("entry") != Some(end) {
            return Err(Broken::unexpected("the entry proven is not the one in the device's history"));
        }
        Ok(json!({"audit_entry": end.get("seq"), "hashes": path, "checked": true}))
    }

    /// A check that finds nothing is worth nothing: it has to find this. The copy is mended afterwards.
    pub(super) async fn tamper(&self, teller: &mut Teller) -> Outcome {
        let file = largest_file(&self.stage.path(COPY))?;
        let good = std::fs::read(&file).map_err(Broken::system("read", &file))?;
        let middle = good.len() / 2;
        let changed: Vec<u8> =
            good.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == middle)).collect();
        std::fs::write(&file, changed).map_err(Broken::system("write", &file))?;
        let shown = file.strip_prefix(self.directory()).unwrap_or(&file).display().to_string();
        teller.command(&format!("# one bit turned in byte {middle} of {shown}"));
        let call = Call::of(Program::Muster, &["audit", "verify", COPY, "--json"]).ending(1);
        let checked = self.run(teller, &call).await;
        std::fs::write(&file, good).map_err(Broken::system("write", &file))?;
        let report = last_json(&checked?.stdout);
        teller.output(&value_at(&report, "/problem"));
        Ok(
            json!({"file": shown, "byte": middle, "problem": report.get("problem"), "first_bad": report.get("first_bad")}),
        )
    }
}

/// How openssl reads a list.
const READ_LIST: &[&str] = &["crl", "-inform", "DER", "-in", "shard.crl", "-text", "-out", "crl.pem"];

/// What openssl is told of the way to the root.
const CHAIN: &[&str] = &["-CAfile", "root.pem", "-untrusted", "issuing.pem"];

/// The largest file beneath `directory`: the entries, most likely.
fn largest_file(directory: &Path) -> Result<PathBuf, Broken> {
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).map_err(Broken::system("read", &next))?.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if largest.as_ref().is_none_or(|(size, _)| metadata.len() > *size) {
                largest = Some((metadata.len(), entry.path()));
            }
        }
    }
    largest.map(|(_, path)| path).ok_or_else(|| Broken::unexpected("the export holds no file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_file_is_found_at_any_depth() {
        let directory = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("small"), "x").unwrap();
        std::fs::write(directory.path().join("a/b/large"), "xxx").unwrap();
        assert!(largest_file(directory.path()).unwrap().ends_with("a/b/large"));
    }

    #[test]
    fn an_empty_export_is_no_proof() {
        let directory = tempfile::TempDir::new().unwrap();
        assert!(largest_file(directory.path()).is_err());
    }
}
