//! `muster device record`: the sanitisation record of a device, for whoever files it, and the proof that a stranger checks.
//!
//! It says what the receipts show and no more. Names come from devices and people, so whatever stands between tags is
//! escaped, and the page runs no script.

use super::Context;
use super::client::Client;
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column, plain, value_at};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What `muster device record` takes.
#[derive(Args, Debug)]
pub struct RecordArgs {
    /// The device
    #[command(flatten)]
    pub device: super::device::Device,
    /// As one page of HTML, to be printed or filed
    #[arg(long)]
    pub html: bool,
    /// Write the signed documents into this new directory, for `docs/verify-wipe.py`
    #[arg(long, value_name = "DIR", conflicts_with = "html")]
    pub proof: Option<PathBuf>,
}

const HEAD: &[Column] = &[
    column("device", "/device"),
    column("serial", "/serial"),
    column("asset", "/asset"),
    column("owner", "/owner"),
    column("site", "/site"),
    column("profile", "/profile"),
    column("outcome", "/outcome"),
    column("level", "/level"),
    column("method", "/method"),
    column("statement", "/statement"),
    column("proven at", "/proven_at"),
    column("warrant", "/warrant/id"),
    column("warrant SHA-256", "/warrant/sha256"),
    column("devices in it", "/warrant/count"),
    column("asked for by", "/warrant/requested_by"),
    column("asked for at", "/warrant/requested_at"),
    column("approved by", "/warrant/signed_by"),
    column("order", "/order"),
    column("certificate", "/certificate/serial"),
    column("authority SHA-256", "/authority_sha256"),
    column("root SPKI SHA-256", "/root_spki_sha256"),
];

const RECEIPTS: &[Column] = &[
    column("PHASE", "/phase"),
    column("OUTCOME", "/outcome"),
    column("SIGNED AT", "/signed_at"),
    column("RECEIVED AT", "/received_at"),
    column("SHA-256", "/sha256"),
];

const ITEMS: &[Column] = &[column("WHAT", "/what"), column("FATE", "/fate"), column("BYTES", "/size_bytes")];

/// Shows the record of the device called `id`.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; [`Error::File`] for a proof that cannot be written.
pub async fn show(context: &Context, client: &Client, id: &str, args: &RecordArgs) -> Result<(), Error> {
    let proof = [("proof", "true")];
    let query: &[(&str, &str)] = if args.proof.is_some() { &proof } else { &[] };
    let record = client.get(&["v1", "devices", id, "record"], query).await?;
    if let Some(directory) = &args.proof {
        write_proof(&record, directory)?;
        context.out.notice(&format!(
            "Written to {}. Anybody can check it: python3 docs/verify-wipe.py {} --authority {} --root {}. These two \
             digests are the server's word: a stranger takes those that `muster init` printed.",
            directory.display(),
            directory.display(),
            value_at(&record, "/authority_sha256"),
            value_at(&record, "/root_spki_sha256"),
        ));
    }
    match (context.out.reader, args.html) {
        (_, true) => context.out.raw(page(&record).as_bytes()),
        (Reader::Program, false) => context.out.json(&record),
        (Reader::Person, false) => context.out.line(&in_words(context, &record)),
    }
}

fn part<'a>(record: &'a Value, pointer: &str) -> &'a [Value] {
    record.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The items of the last receipt, which names everything.
fn items(record: &Value) -> &[Value] {
    part(record, "/receipts").last().map_or(&[], |receipt| part(receipt, "/items"))
}

fn in_words(context: &Context, record: &Value) -> String {
    let look = context.out.look;
    let mut parts = vec![table::record(record, HEAD, look)];
    parts.extend(table::listing(part(record, "/receipts"), RECEIPTS, look));
    parts.extend(table::listing(items(record), ITEMS, look));
    parts.join("\n\n")
}

fn write_proof(record: &Value, directory: &Path) -> Result<(), Error> {
    std::fs::create_dir(directory).map_err(Error::file("create", directory))?;
    let unreadable = || {
        Error::failed("The server's proof is not readable", "Check that server and CLI are of one version.")
    };
    let files = record.get("proof").and_then(Value::as_object).ok_or_else(unreadable)?;
    for (name, content) in files {
        let sane = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let content = content.as_str().and_then(|text| STANDARD.decode(text).ok()).filter(|_| sane);
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
        }
        std::fs::write(&path, content.ok_or_else(unreadable)?).map_err(Error::file("write", &path))?;
    }
    Ok(())
}

/// One page without script, style sheet or picture from elsewhere.
fn page(record: &Value) -> String {
    let mut page = String::from(START);
    let _ = writeln!(page, "<p>{}</p>", escaped(&value_at(record, "/statement")));
    page.push_str("<table>\n");
    for row in HEAD.iter().filter(|row| row.pointer != "/statement") {
        let _ = writeln!(
            page,
            "<tr><th>{}</th><td>{}</td></tr>",
            row.heading,
            escaped(&value_at(record, row.pointer))
        );
    }
    page.push_str("</table>\n");
    grid(&mut page, "Receipts, signed by the device", part(record, "/receipts"), RECEIPTS);
    grid(&mut page, "What became of what", items(record), ITEMS);
    page.push_str(END);
    page
}

fn grid(page: &mut String, title: &str, rows: &[Value], columns: &[Column]) {
    let _ = writeln!(page, "<h2>{title}</h2>\n<table>\n<tr>");
    for column in columns {
        let _ = writeln!(page, "<th>{}</th>", column.heading);
    }
    page.push_str("</tr>\n");
    for row in rows {
        page.push_str("<tr>");
        for column in columns {
            let _ = write!(page, "<td>{}</td>", escaped(&value_at(row, column.pointer)));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
}

/// `text` as it may stand between two tags.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

const START: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<title>Sanitisation record</title>
<style>
body { font: 11pt/1.4 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100%; margin: 1em 0 }
th, td { border: 1px solid #999; padding: .3em .6em; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { background: #eee; white-space: nowrap }
.signed { margin-top: 4em; display: flex; gap: 4em }
.signed div { border-top: 1px solid #000; flex: 1; padding-top: .3em }
</style>
</head>
<body>
<h1>Sanitisation record</h1>
";

const END: &str = "<p>This page shows what the device has signed; it proves nothing by itself. The signed documents, written by
<code>muster device record D --proof DIR</code>, can be checked without Muster: <code>docs/verify-wipe.py</code>.</p>
<div class=\"signed\"><div>Name and date</div><div>Signature</div></div>
</body>
</html>
";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_shows_what_a_device_said_and_runs_none_of_it() {
        let record = json!({
            "device": "d", "owner": "<script>alert('1')</script>", "statement": "a & b",
            "receipts": [{"phase": "verified", "items": [{"what": "\"><img src=x>\u{202e}", "fate": "deleted", "size_bytes": 3}]}],
        });
        let page = page(&record);
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;") && page.contains("a &amp; b")
        );
        assert!(
            page.contains("&quot;&gt;&lt;img src=x&gt;")
                && !page.contains("<img")
                && !page.contains("<script")
        );
        assert!(page.contains("<td>deleted</td><td>3</td>"));
    }

    #[test]
    fn a_proof_is_written_beneath_its_directory_alone() {
        let place = tempfile::tempdir().unwrap();
        let content = STANDARD.encode("x");
        let good = place.path().join("good");
        write_proof(&json!({"proof": {"receipts/1.cose": content, "root.pem": content}}), &good).unwrap();
        assert_eq!(std::fs::read(good.join("receipts/1.cose")).unwrap(), b"x");
        assert!(write_proof(&json!({"proof": {"root.pem": content}}), &good).is_err(), "it is there already");
        for (n, name) in ["../out", "/tmp/out", "a//b", "."].iter().enumerate() {
            let bad = place.path().join(n.to_string());
            assert!(write_proof(&json!({"proof": {*name: content}}), &bad).is_err(), "{name}");
        }
        assert!(!place.path().join("out").exists());
    }
}
