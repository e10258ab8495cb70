//! `muster rails` and `muster freeze`: what may be destroyed at a time, and the handle that stops everything.

use super::Context;
use super::approver_key;
use super::client::Client;
use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column};
use super::warrant_paper::devices;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use muster_wire::envelope::{MultiSigned, SignedByMany};
use muster_wire::key::Signer;
use muster_wire::lift::{Lift, Waiver};
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What `muster rails` takes.
#[derive(Args, Debug)]
pub struct RailsArgs {
    /// Sign, as an approver, that this act needs not wait: its name, or how that begins
    #[arg(long, value_name = "NAME", requires = "key")]
    waive: Option<String>,
    /// The approver's private key
    #[arg(long, value_name = "FILE", requires = "waive")]
    key: Option<PathBuf>,
    /// Say what would happen, and do nothing
    #[arg(long, requires = "waive")]
    dry_run: bool,
}

/// What `muster freeze` takes.
#[derive(Args, Debug)]
pub struct FreezeArgs {
    /// End the freeze: sign for it as an approver
    #[arg(long, requires = "key")]
    lift: bool,
    /// The approver's private key
    #[arg(long, value_name = "FILE", requires = "lift")]
    key: Option<PathBuf>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
}

const BUDGET: &[Column] = &[
    column("devices in 24 h", "/used_day"),
    column("of", "/day"),
    column("devices in an hour", "/used_hour"),
    column("of", "/hour"),
];

const WAITING: &[Column] = &[
    column("NAME", "/name"),
    column("ACT", "/act"),
    column("DEVICES", "/devices"),
    column("BY", "/by"),
    column("SINCE", "/since"),
    column("MAY BE ASKED FOR AGAIN", "/until"),
    column("WAIVED BY", "/signed_by"),
    column("OF", "/required"),
];

const WAIVED: &[Column] = &[
    column("name", "/name"),
    column("act", "/act"),
    column("devices", "/devices"),
    column("by", "/by"),
    column("since", "/since"),
    column("may be asked for again", "/until"),
    column("waived by", "/signed_by"),
    column("of", "/required"),
];

/// As much of a name as is shown; its beginning is enough to name it.
const NAME_CHARS: usize = 12;

/// How a wait ends before its time.
const HOW_TO_WAIVE: &str = "Waiting. Approvers can waive a wait: `muster rails --waive NAME --key FILE`. Then ask for the act again.";

/// What to do about an act that waits no longer.
const READY: &str = "Waited long enough, or waived: done as soon as it is asked for again.";

const FREEZE: &[Column] = &[
    column("state", "/state"),
    column("since", "/began_at"),
    column("by", "/by"),
    column("approvers needed", "/required"),
    column("signed by", "/signed_by"),
];

/// How a freeze ends.
pub(super) const HOW_TO_LIFT: &str = "To lift it, approvers run `muster freeze --lift --key FILE`.";

/// Shows the budget, what waits, and whether there is a freeze; or signs that something needs not wait.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; a key that cannot be used; nobody who consents.
pub async fn run(context: &Context, args: &RailsArgs) -> Result<Exit, Error> {
    match (&args.waive, &args.key) {
        (Some(name), Some(key)) => waive(context, name, key, args.dry_run).await,
        _ => show(context).await,
    }
}

async fn waive(context: &Context, name: &str, key: &Path, dry_run: bool) -> Result<Exit, Error> {
    let client = context.client()?;
    let rails = client.get(&["v1", "rails"], &[]).await?;
    let waiting = named(&rails, name)?;
    let bytes = waiting.get("waiver").and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let document = bytes.as_deref().and_then(|bytes| MultiSigned::<Waiver>::parse_unfinished(bytes).ok());
    let document = document.and_then(|waiver| waiver.read_unverified().ok()).ok_or_else(unreadable)?;
    let consequence = waived(&document, name)?;
    let signer = approver_key::read(key)?;
    tell_if_unasked(context, &consequence, dry_run);
    let intent = Intent { action: "rails.waive", consequence, target: waiting };
    if consent(context, &intent, dry_run)? == Verdict::OnlyShown {
        return Ok(Exit::Done);
    }
    let body = json!({"signature": signed(&document, &signer)?});
    let shown = client.post(&["v1", "rails", &document.what.to_hex(), "signatures"], &body).await?;
    context.out.item(&with_name(shown.clone()), WAIVED)?;
    approver_key::tell_if_again(context, (waiting, &shown), "/waiver");
    Ok(Exit::Done)
}

/// What signing `document` comes to, in a sentence made of what is signed.
///
/// # Errors
/// [`Error::Refused`] where it waives another act than the one that was called `name`.
fn waived(document: &Waiver, name: &str) -> Result<String, Error> {
    let what = document.what.to_hex();
    if !what.starts_with(name) {
        return Err(Error::refused(
            format!("The server sent the waiver of {what}, which is not called {name}; nothing was signed"),
            "Do not sign it. Compare `muster rails` on another machine and look at `muster audit verify`.",
        ));
    }
    Ok(format!(
        "{} on {} of {}, called {what}, which {} asked for at {}, need not wait once enough approvers have signed. It is done \
         when it is asked for again.",
        document.act,
        devices(document.devices),
        document.trust_domain.as_str(),
        document.by,
        document.since,
    ))
}

/// The one act that waits whose name begins so.
fn named<'r>(rails: &'r Value, name: &str) -> Result<&'r Value, Error> {
    let waiting = rails.get("waiting").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_it = |one: &&Value| {
        one.get("key").and_then(Value::as_str).is_some_and(|key| !name.is_empty() && key.starts_with(name))
    };
    match waiting.iter().filter(is_it).collect::<Vec<_>>()[..] {
        [one] => Ok(one),
        _ if waiting.is_empty() => Err(Error::not_found(
            "Nothing waits: there is no wait to waive",
            "`muster rails` shows the budget; what is beyond it waits once it has been asked for.",
        )),
        _ => Err(Error::not_found(
            format!("No one act that waits is called {name}"),
            "`muster rails` names what waits.",
        )),
    }
}

fn with_name(mut waiting: Value) -> Value {
    let name = waiting.get("key").and_then(Value::as_str).map(|key| key.chars().take(NAME_CHARS).collect());
    if let (Some(fields), Some::<String>(name)) = (waiting.as_object_mut(), name) {
        fields.insert("name".to_owned(), json!(name));
    }
    waiting
}

fn signed<D: SignedByMany>(document: &D, signer: &impl Signer) -> Result<String, Error> {
    let mut copy = MultiSigned::unsigned(document);
    copy.add_signature(signer)
        .map_err(|cause| Error::failed(format!("The key cannot sign: {cause}"), "Try another copy of it."))?;
    Ok(STANDARD.encode(copy.to_bytes()))
}

async fn show(context: &Context) -> Result<Exit, Error> {
    let shown = context.client()?.get(&["v1", "rails"], &[]).await?;
    match context.out.reader {
        Reader::Program => context.out.json(&shown)?,
        Reader::Person => {
            let waiting = shown.get("waiting").and_then(Value::as_array).cloned().unwrap_or_default();
            let waiting: Vec<Value> = waiting.into_iter().map(with_name).collect();
            let mut text = table::record(&shown, BUDGET, context.out.look);
            let is_ready = |one: &Value| one.get("ready").and_then(Value::as_bool).unwrap_or(false);
            let (ready, waiting): (Vec<Value>, Vec<Value>) = waiting.into_iter().partition(is_ready);
            for (acts, what) in [(waiting, HOW_TO_WAIVE), (ready, READY)] {
                if let Some(acts) = table::listing(&acts, WAITING, context.out.look) {
                    text = format!("{text}\n\n{what}\n{acts}");
                }
            }
            if let Some(frozen) = shown.get("frozen").filter(|frozen| !frozen.is_null()) {
                let frozen = table::record(frozen, FREEZE, context.out.look);
                text = format!("{text}\n\nFrozen: nothing leaves. {HOW_TO_LIFT}\n{frozen}");
            }
            context.out.line(&text)?;
        }
    }
    Ok(Exit::Done)
}

/// How much the budget still allows, as `rails` tells it; empty where they could not be read.
pub(super) fn budget_left(rails: &Value) -> String {
    if rails.is_null() {
        return String::new();
    }
    let number = |field: &str| rails.get(field).and_then(Value::as_u64).unwrap_or(0);
    let [day, hour] = [("day", "used_day"), ("hour", "used_hour")]
        .map(|(all, used)| number(all).saturating_sub(number(used)));
    format!(
        "The budget has room for {} in these 24 hours (of {}), for {} in this hour (of {}).",
        devices(day),
        number("day"),
        devices(hour),
        number("hour"),
    )
}

/// Says to a person that what was just ordered or signed waits, where there is a freeze. That is done already: where this
/// cannot be asked, nothing has failed and nothing is said.
pub(super) async fn tell_if_frozen(context: &Context, client: &Client) {
    if context.out.is_json() {
        return;
    }
    let rails = client.get(&["v1", "rails"], &[]).await.unwrap_or_default();
    if let Some(frozen) = rails.get("frozen").filter(|frozen| !frozen.is_null()) {
        context.out.notice(&waits_for_lift(frozen));
    }
}

fn waits_for_lift(frozen: &Value) -> String {
    let [since, by] = ["/began_at", "/by"].map(|at| table::value_at(frozen, at));
    format!("It waits: there is a freeze since {since}, begun by {by}, and nothing leaves. {HOW_TO_LIFT}")
}

/// Begins a freeze, or signs for its end.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; a key that cannot be used; nobody who consents.
pub async fn freeze(context: &Context, args: &FreezeArgs) -> Result<Exit, Error> {
    let client = context.client()?;
    let Some(key) = args.key.as_ref().filter(|_| args.lift) else {
        let consequence =
            "No order and no new desired state leaves this server until approvers lift the freeze.";
        let intent =
            Intent { action: "rails.freeze", consequence: consequence.to_owned(), target: &Value::Null };
        if consent(context, &intent, args.dry_run)? == Verdict::Go {
            // Nothing that cannot be read keeps anybody from stopping everything.
            let before = client.get(&["v1", "freeze"], &[]).await.ok();
            let frozen = client.act(&["v1", "freeze"]).await?;
            context.out.item(&frozen, FREEZE)?;
            if before.is_some_and(|before| before == frozen) {
                context.out.notice("There was a freeze already: nothing has changed.");
            }
            context.out.notice(HOW_TO_LIFT);
        }
        return Ok(Exit::Done);
    };
    let frozen = client.get(&["v1", "freeze"], &[]).await?;
    let lift = read(&frozen)?;
    let document = lift.read_unverified().map_err(|_| unreadable())?;
    let signer = approver_key::read(key)?;
    let consequence = format!(
        "The freeze of {} that began at {} ends once enough approvers have signed: orders and desired state leave again.",
        document.trust_domain.as_str(),
        document.began_at,
    );
    tell_if_unasked(context, &consequence, args.dry_run);
    let intent = Intent { action: "rails.lift", consequence, target: &frozen };
    if consent(context, &intent, args.dry_run)? == Verdict::OnlyShown {
        return Ok(Exit::Done);
    }
    let body = json!({"signature": signed(&document, &signer)?});
    let shown = client.post(&["v1", "freeze", "signatures"], &body).await?;
    context.out.item(&shown, FREEZE)?;
    approver_key::tell_if_again(context, (&frozen, &shown), "/lift");
    Ok(Exit::Done)
}

/// Shows what is signed where nobody is asked first.
fn tell_if_unasked(context: &Context, consequence: &str, dry_run: bool) {
    if context.global.yes && !dry_run {
        context.out.tell(&table::plain(consequence));
    }
}

fn read(frozen: &Value) -> Result<MultiSigned<Lift>, Error> {
    let text = frozen.get("lift").and_then(Value::as_str).unwrap_or_default();
    let bytes = STANDARD.decode(text).map_err(|_| unreadable())?;
    MultiSigned::parse_unfinished(&bytes).map_err(|_| unreadable())
}

fn unreadable() -> Error {
    Error::failed(
        "The server sent something that is neither the lift of a freeze nor a waiver",
        "Sign nothing, and look at the server.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::digest::Sha256Digest;
    use muster_wire::time::Timestamp;

    #[test]
    fn what_is_waived_is_what_was_named_and_is_told() {
        let what = Sha256Digest::of(b"revoke one");
        let waiver = Waiver {
            trust_domain: "fleet.example".parse().unwrap(),
            act: "revoke".to_owned(),
            devices: 1,
            what,
            by: "operator/ada".to_owned(),
            since: Timestamp(0),
        };
        let name = what.to_hex();
        let told = waived(&waiver, &name[..12]).unwrap();
        assert!(told.starts_with(&format!("revoke on 1 device of fleet.example, called {name}, ")), "{told}");
        let other = waived(&waiver, "0123456789ab").unwrap_err();
        assert_eq!(other.exit() as u8, 3);
        assert!(other.for_people().contains("nothing was signed"), "{}", other.for_people());
    }
}
