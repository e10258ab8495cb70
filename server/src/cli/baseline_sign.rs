//! An approver's signature on a baseline, made on the approver's own machine.
//!
//! What is shown is read from the very bytes that are signed. Deviations for sites and labels make several baselines of
//! one generation: all of them are shown, and all of them signed.

use super::baseline::SignArgs;
use super::client::Client;
use super::confirm::{Intent, Verdict, consent_by, somebody_is_there};
use super::error::Error;
use super::table::{self, Column, column};
use super::{Context, approver_key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::desired::{Baseline, Content, FileEntry, Setting};
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::MultiSigned;
use serde::Deserialize;
use serde_json::{Value, json};

const ITEMS: &[Column] = &[
    column("BASELINE", "/baseline"),
    column("SECTION", "/section"),
    column("MODE", "/mode"),
    column("ITEM", "/item"),
    column("VALUE", "/value"),
];

/// Who has signed what, of one generation.
const PAPERS: &[Column] = &[
    column("BASELINE", "/sha256"),
    column("DEVICES", "/devices"),
    column("NEEDS", "/required"),
    column("SIGNED BY", "/signed_by"),
];

/// The baselines of a profile as the API gives them.
#[derive(Deserialize)]
struct Given {
    profile: String,
    generation: u64,
    items: Vec<GivenPaper>,
}

#[derive(Deserialize)]
struct GivenPaper {
    devices: u64,
    document: String,
}

/// One of them, read from its bytes.
struct Paper {
    devices: u64,
    digest: Sha256Digest,
    baseline: Baseline,
}

/// Signs every baseline of the generation that `args` names.
///
/// # Errors
/// [`Error::Refused`] where nobody agrees or the generation is no longer there; whatever the server or the key file does
/// not allow.
pub(super) async fn sign(context: &Context, client: &Client, args: &SignArgs) -> Result<(), Error> {
    let profile = profile_of(client, args.generation).await?;
    let path = ["v1", "baselines", profile.as_str(), "papers"];
    let before = client.get(&path, &[]).await?;
    let given: Given = Deserialize::deserialize(&before)
        .map_err(|error: serde_json::Error| not_understood(&error.to_string()))?;
    if given.generation != args.generation || given.profile != profile {
        return Err(gone(args.generation, &profile, given.generation));
    }
    let papers = given.items.into_iter().map(Paper::read).collect::<Result<Vec<_>, _>>()?;
    if let Some(other) = papers.iter().find(|paper| paper.baseline.profile != profile) {
        return Err(Error::refused(
            format!(
                "What is to be signed is for {}, not for {profile}; nothing was signed",
                other.baseline.profile
            ),
            "Do not sign it. Compare `muster baseline show` on another machine and look at `muster audit verify`.",
        ));
    }
    if agree(context, (&profile, args), &papers)? == Verdict::OnlyShown {
        return Ok(());
    }
    let key = approver_key::read(&args.key)?;
    let mut shown = Value::Null;
    for paper in &papers {
        let mut signed = MultiSigned::unsigned(&paper.baseline);
        signed.add_signature(&key).map_err(|cause| {
            Error::failed(format!("The key cannot sign: {cause}"), "Use another key file.")
        })?;
        let body = json!({"signed": STANDARD.encode(signed.to_bytes())});
        shown = client.post(&["v1", "baselines", &profile, "signatures"], &body).await?;
    }
    approver_key::tell_if_again(context, (&before, &shown), "/items");
    context.out.items(told(shown), PAPERS, "There is nothing to sign.")
}

/// Who has signed what, without what is signed: that is for programs that sign.
pub(super) fn told(mut papers: Value) -> Vec<Value> {
    let items = papers.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
    let mut items = items.unwrap_or_default();
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.remove("document");
    }
    items
}

/// The profile whose baseline is of this generation; no two have the same but the first.
async fn profile_of(client: &Client, generation: u64) -> Result<String, Error> {
    let all = client.list(&["v1", "baselines"], &[], None).await?;
    let is_meant = |item: &&Value| {
        let is_set = item.get("set_at").is_some_and(|at| !at.is_null());
        is_set && item.get("generation").and_then(Value::as_u64) == Some(generation)
    };
    let found = all.iter().find(is_meant).and_then(|item| item.get("profile")).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| {
        Error::not_found(
            format!("No baseline of generation {generation} is set"),
            "See `muster baseline show`: it lists the generations.",
        )
    })
}

impl Paper {
    fn read(given: GivenPaper) -> Result<Self, Error> {
        let bytes = STANDARD.decode(given.document).map_err(|error| not_understood(&error.to_string()))?;
        let signed = MultiSigned::<Baseline>::parse(&bytes);
        let signed = signed.map_err(|error| not_understood(&error.to_string()))?;
        let baseline = signed.read_unverified().map_err(|error| not_understood(&error.to_string()))?;
        Ok(Self { devices: given.devices, digest: signed.payload_digest(), baseline })
    }

    /// Every single thing that it puts in place.
    fn items(&self) -> Vec<Value> {
        let sections = self.baseline.sections.iter();
        let items = sections.flat_map(|section| {
            let of = (section.content.kind().as_str(), section.mode.as_str());
            things(&section.content).into_iter().map(move |(item, value)| (of, item, value))
        });
        let name = self.digest.to_hex();
        let name = name.get(..12).unwrap_or_default().to_owned();
        items
            .map(|((section, mode), item, value)| {
                json!({"baseline": name, "section": section, "mode": mode, "item": item, "value": value})
            })
            .collect()
    }
}

fn things(content: &Content) -> Vec<(String, String)> {
    let settings = |settings: &[Setting]| {
        settings.iter().map(|setting| (setting.key.clone(), setting.value.clone())).collect()
    };
    match content {
        Content::Files(files) => files.iter().map(|file| (file.path.clone(), file_in_words(file))).collect(),
        Content::Sysctl(all) | Content::Ssh(all) => settings(all),
        Content::SystemdUnits(units) => {
            units.iter().map(|unit| (unit.name.clone(), format!("{unit:?}"))).collect()
        }
        Content::Time(time) => time.servers.iter().map(|server| (server.clone(), String::new())).collect(),
        Content::Packages(packages) => {
            packages.iter().map(|package| (package.name.clone(), format!("{package:?}"))).collect()
        }
        Content::Agent(agent) => {
            agent.declared_roots.iter().map(|root| (root.clone(), "declared root".to_owned())).collect()
        }
    }
}

fn file_in_words(file: &FileEntry) -> String {
    let FileEntry { mode, owner, group, content, .. } = file;
    let sha256 = Sha256Digest::of(content).to_hex();
    format!("{mode:04o} {owner}:{group}, {} bytes, SHA-256 {sha256}", content.len())
}

/// Shows what is about to be signed. Whoever gives a key and has no terminal has agreed by that; a person types the
/// generation.
fn agree(context: &Context, (profile, args): (&str, &SignArgs), papers: &[Paper]) -> Result<Verdict, Error> {
    let items: Vec<Value> = papers.iter().flat_map(Paper::items).collect();
    if let Some(listing) = table::listing(&items, ITEMS, context.out.look) {
        // A dry run with --json has the items in its answer; what is signed is told whoever reads.
        if args.dry_run { context.out.notice(&listing) } else { context.out.tell(&listing) }
    }
    let devices = papers.iter().map(|paper| paper.devices).sum();
    let consequence = format!(
        "Generation {} of {profile}, for {}, and for every device that it is set for later.",
        args.generation,
        super::warrant_paper::devices(devices)
    );
    if !args.dry_run && (context.global.yes || !somebody_is_there()) {
        context.out.tell(&table::plain(&consequence));
        return Ok(Verdict::Go);
    }
    let target = json!({"profile": profile, "generation": args.generation, "items": items});
    let intent = Intent { action: "baseline.sign", consequence, target: &target };
    consent_by(context, &intent, args.dry_run, &args.generation.to_string())
}

fn not_understood(what: &str) -> Error {
    Error::failed(
        format!("What the server gave to be signed is not understood: {what}"),
        "Use the muster of the server's release.",
    )
}

fn gone(wanted: u64, profile: &str, found: u64) -> Error {
    Error::refused(
        format!("The baseline of {profile} is of generation {found} by now, not {wanted}"),
        format!("See `muster baseline show {profile}`, and sign that if it is meant."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::desired::{Mode, Section};

    fn given(content: &[u8]) -> GivenPaper {
        let file = FileEntry {
            path: "/etc/motd".into(),
            mode: 0o640,
            owner: "root".into(),
            group: "root".into(),
            content: content.to_vec(),
        };
        let sections = vec![
            Section { mode: Mode::Enforce, content: Content::Files(vec![file]) },
            Section {
                mode: Mode::Enforce,
                content: Content::Sysctl(vec![Setting { key: "kernel.x".into(), value: "2".into() }]),
            },
        ];
        let mut signed = MultiSigned::unsigned(&Baseline { profile: "laptop-linux".into(), sections });
        signed.add_signature(&ed25519_dalek::SigningKey::from_bytes(&[1; 32])).unwrap();
        GivenPaper { devices: 3, document: STANDARD.encode(signed.to_bytes()) }
    }

    #[test]
    fn every_thing_that_is_signed_is_shown_with_what_it_becomes() {
        let shown = Paper::read(given(b"hello")).unwrap().items();
        assert_eq!((&shown[0]["item"], &shown[1]["item"]), (&json!("/etc/motd"), &json!("kernel.x")));
        let words = shown[0]["value"].as_str().unwrap().to_owned();
        assert!(words.starts_with("0640 root:root, 5 bytes, SHA-256 2cf24dba"), "{words}");
        assert_eq!(shown[1]["value"], "2");
        assert_ne!(Paper::read(given(b"hellO")).unwrap().items()[0]["value"], shown[0]["value"]);
    }
}
