//! `muster observer`: who may hear the event topics over MQTT.
//!
//! The private key is made where it is used; only its request comes here. What comes back is a certificate for the
//! gate, under `muster/events/` and nowhere else.

use super::Context;
use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::output::Reader;
use super::table::{Column, column, value_at};
use clap::Subcommand;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The commands about observers.
#[derive(Debug, Subcommand)]
pub enum ObserverCommand {
    /// Give an observer a certificate; it is printed, or written to --out
    Add {
        /// Its name, which is its MQTT client id
        #[arg(value_name = "NAME")]
        name: String,
        /// Certificate request (PKCS #10) of its key, PEM or DER; `-` for standard input
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
        /// Where the certificate goes, PEM
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List observers
    List,
    /// End an observer's certificate and its session
    Revoke {
        /// Name of the observer
        #[arg(value_name = "NAME")]
        name: String,
        /// Why
        #[arg(long, value_name = "REASON", default_value = "unspecified")]
        reason: String,
        /// Say what would happen, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

const LISTING: &[Column] = &[
    column("NAME", "/name"),
    column("STATE", "/state"),
    column("SERIAL", "/certificate/serial"),
    column("UNTIL", "/certificate/not_after"),
    column("ADDED", "/created_at"),
    column("BY", "/created_by"),
];

/// Largest request that is read, in bytes.
const CSR_MAX: u64 = 64 * 1024;

/// Runs one of the commands about observers.
///
/// # Errors
/// Whatever the server refuses, the way there does not allow, or a file that cannot be worked with.
pub async fn run(context: &Context, command: ObserverCommand) -> Result<Exit, Error> {
    match command {
        ObserverCommand::Add { name, csr, out } => add(context, &name, &csr, out.as_deref()).await?,
        ObserverCommand::List => {
            let items = context.client()?.list(&["v1", "observers"], &[], None).await?;
            context.out.items(items, LISTING, "No observers.")?;
        }
        ObserverCommand::Revoke { name, reason, dry_run } => revoke(context, &name, &reason, dry_run).await?,
    }
    Ok(Exit::Done)
}

async fn add(context: &Context, name: &str, csr: &Path, out: Option<&Path>) -> Result<(), Error> {
    let request = read_request(csr)?;
    let mut added =
        context.client()?.post(&["v1", "observers"], &json!({"name": name, "csr": request})).await?;
    let pem = added.get("pem").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(out) = out {
        std::fs::write(out, &pem).map_err(Error::file("write", out))?;
    }
    match (context.out.reader, out) {
        (Reader::Program, _) => {
            if let (Some(fields), Some(out)) = (added.as_object_mut(), out) {
                fields.insert("certificate_file".into(), json!(out.display().to_string()));
            }
            context.out.json(&added)
        }
        (Reader::Person, None) => context.out.raw(pem.as_bytes()),
        (Reader::Person, Some(out)) => {
            context.out.line(&format!("{} holds the certificate of {name}.", out.display()))?;
            context.out.notice("The root that the gate's own certificate leads to: muster ca show --pem");
            Ok(())
        }
    }
}

/// The request as text: PEM or base64 as it stands, DER in base64.
fn read_request(file: &Path) -> Result<String, Error> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(CSR_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(CSR_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(Error::file("read", file))?;
    if bytes.len() as u64 > CSR_MAX {
        return Err(Error::usage(
            format!("{} is too large for a certificate request", file.display()),
            "Name the request, for instance as `openssl req -new` writes it.",
        ));
    }
    Ok(String::from_utf8(bytes).unwrap_or_else(|der| muster_pki::armor::base64(der.as_bytes())))
}

async fn revoke(context: &Context, name: &str, reason: &str, dry_run: bool) -> Result<(), Error> {
    let client = context.client()?;
    let observers = client.list(&["v1", "observers"], &[], None).await?;
    let named = |observer: &&Value| observer.get("name").and_then(Value::as_str) == Some(name);
    let Some(target) = observers.iter().find(named) else {
        return Err(Error::not_found(
            format!("There is no observer called {name}"),
            "Look for the name with `muster observer list`.",
        ));
    };
    let consequence = format!(
        "Observer {name} (certificate {}) will be cut and refused; there is no way back but a new key.",
        value_at(target, "/certificate/serial"),
    );
    let intent = Intent { action: "observer.revoke", consequence, target };
    if consent(context, &intent, dry_run)? == Verdict::Go {
        let item =
            client.post(&["v1", "observers", &format!("{name}:revoke")], &json!({"reason": reason})).await?;
        context.out.item(
            &item,
            &[column("observer", "/name"), column("state", "/state"), column("revoked", "/revoked_at")],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_der_travels_as_base64_and_one_in_pem_as_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("r.csr");
        std::fs::write(&file, [0x30, 0x82, 0xff, 0xfe]).unwrap();
        assert_eq!(read_request(&file).unwrap(), "MIL//g==");
        std::fs::write(&file, "-----BEGIN CERTIFICATE REQUEST-----\n").unwrap();
        assert!(read_request(&file).unwrap().starts_with("-----BEGIN"));
        std::fs::write(&file, vec![b'a'; 70_000]).unwrap();
        assert_eq!(read_request(&file).unwrap_err().exit() as u8, 2);
    }
}
