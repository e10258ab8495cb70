//! `muster warrant`: what approvers allow, and their signatures.
//!
//! A request goes to the server and approves nothing; it is shown first, and a person types the number of devices.
//! Signing stands in `warrant_sign`.

use super::client::Client;
use super::confirm::{Intent, Verdict, consent_by};
use super::error::Error;
use super::foresee::waits;
use super::rails::budget_left;
use super::table::{self, Column, column, value_at};
use super::warrant_paper::{Paper, devices};
use super::{Context, device, warrant_sign};
use clap::{Args, Subcommand, ValueEnum};
use muster_wire::problem::Exit;
use muster_wire::warrant::Level as WireLevel;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The commands about warrants.
#[derive(Debug, Subcommand)]
pub enum WarrantCommand {
    /// Ask for a warrant over devices; approvers sign it
    Request(RequestArgs),
    /// List warrants
    List {
        /// At most so many
        #[arg(long, value_name = "N", value_parser = super::at_least_one)]
        limit: Option<usize>,
    },
    /// Show a warrant: what is signed, by whom, and every device it names
    Show {
        /// Id of the warrant
        #[arg(value_name = "W")]
        warrant: String,
        /// Write it to a file as well, to be signed where there is no network
        #[arg(long, value_name = "FILE")]
        package: Option<PathBuf>,
    },
    /// Sign a warrant with an approver's key, or hand in a signature that was made elsewhere
    Sign(SignArgs),
    /// Stop a warrant for good; one approver is enough
    Stop {
        /// Id of the warrant
        #[arg(value_name = "W")]
        warrant: String,
        /// Private key of an approver
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Say what would happen, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What `muster warrant request` takes.
#[derive(Args, Debug)]
pub struct RequestArgs {
    /// What is to be done
    #[arg(long, value_enum, value_name = "K")]
    pub kind: Kind,
    /// How far a wipe goes
    #[arg(long, value_enum, value_name = "L")]
    pub level: Option<Level>,
    /// For wipe_on_lapse: for how long a device that is switched on hears no newer word before it wipes itself
    #[arg(long, value_name = "TIME", value_parser = super::token::span, required_if_eq("kind", "wipe_on_lapse"))]
    pub after: Option<u64>,
    /// Id or serial number of a device; may be given again
    #[arg(long = "device", value_name = "D", required_unless_present_any = ["list", "filters"])]
    pub devices: Vec<String>,
    /// File with an id or serial number on each line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["devices", "filters"])]
    pub list: Option<PathBuf>,
    /// Every device with this value of state, profile, site, owner or serial; may be given again
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = device::filter, conflicts_with = "devices")]
    pub filters: Vec<(String, String)>,
    /// How long it may take, and what happens first
    #[command(flatten)]
    pub terms: Terms,
}

/// How long a warrant lives, and whether it is only shown.
#[derive(Args, Clone, Copy, Debug)]
pub struct Terms {
    /// After how long a device without proof is doomed: its certificate is revoked, its order stays open
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = super::token::span)]
    pub deadline: u64,
    /// After how long the warrant ends
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = super::token::span)]
    pub valid: u64,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster warrant sign` takes.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// Id of the warrant
    #[arg(value_name = "W", required_unless_present = "package")]
    pub warrant: Option<String>,
    /// Private key of an approver, as `muster operator keygen` or `ssh-keygen -t ed25519` wrote it
    #[arg(long, value_name = "FILE", required_unless_present = "signature")]
    pub key: Option<PathBuf>,
    /// Sign this file instead of what a server shows; needs no server
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with_all = ["warrant", "signature"])]
    pub package: Option<PathBuf>,
    /// Where the signature on a package goes
    #[arg(long, value_name = "FILE", requires = "package")]
    pub out: Option<PathBuf>,
    /// Hand in this signature instead of making one
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub signature: Option<PathBuf>,
    /// Show what would be signed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What a warrant may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// Wipe, as far as --level says, and let go
    Wipe,
    /// Lock
    Lock,
    /// Clear itself when its lease lapses: placed beforehand, for devices that may never come back
    WipeOnLapse,
}

/// How far a wipe goes; each level does what the one before does, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// Managed secrets and configuration
    Retire,
    /// The profile's data roots too
    Clear,
    /// The volume keys
    CryptoErase,
    /// The platform's factory reset
    FactoryReset,
}

impl Level {
    /// The level as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retire => WireLevel::Retire,
            Self::Clear => WireLevel::Clear,
            Self::CryptoErase => WireLevel::CryptoErase,
            Self::FactoryReset => WireLevel::FactoryReset,
        }
        .as_str()
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Wipe => "wipe",
            Self::Lock => "lock",
            Self::WipeOnLapse => "wipe_on_lapse",
        }
    }
}

const LISTING: &[Column] = &[
    column("ID", "/id"),
    column("KIND", "/kind"),
    column("LEVEL", "/level"),
    column("STATE", "/state"),
    column("DEVICES", "/count"),
    column("ENDED", "/ended"),
    column("PROVEN", "/proven"),
    column("NEEDS", "/required"),
    column("SIGNED BY", "/signed_by"),
    column("UNTIL", "/not_after"),
];

pub(super) const RECORD: &[Column] = &[
    column("id", "/id"),
    column("kind", "/kind"),
    column("level", "/level"),
    column("state", "/state"),
    column("devices", "/count"),
    column("  ordered", "/ordered"),
    column("  ended", "/ended"),
    column("  proven", "/proven"),
    column("approvers needed", "/required"),
    column("signed by", "/signed_by"),
    column("after seconds", "/action/after_s"),
    column("destroys", "/action/data_roots"),
    column("stops", "/action/warrant"),
    column("doomed from", "/deadline"),
    column("not after", "/not_after"),
    column("made by", "/made_by"),
    column("made", "/made_at"),
];

pub(super) const NAMES: &[Column] =
    &[column("DEVICE", "/device"), column("SERIAL", "/serial"), column("OWNER", "/owner")];

/// The devices of a warrant with what came of their orders.
const TARGETS: &[Column] = &[
    column("DEVICE", "/device"),
    column("SERIAL", "/serial"),
    column("OWNER", "/owner"),
    column("ORDER", "/phase"),
    column("REASON", "/reason"),
];

const AIMS: &[Column] = &[
    column("DEVICE", "/device"),
    column("SERIAL", "/serial"),
    column("OWNER", "/owner"),
    column("PROFILE", "/profile"),
    column("SITE", "/site"),
    column("STATE", "/state"),
    column("LAST SEEN", "/last_seen"),
];

const REQUESTED: &[Column] = &[
    column("warrant", "/warrant"),
    column("kind", "/kind"),
    column("level", "/level"),
    column("devices", "/count"),
    column("approvers needed", "/required"),
    column("state", "/state"),
    column("phase", "/phase"),
    column("doomed from", "/deadline"),
    column("not after", "/not_after"),
];

/// Runs one of the commands about warrants.
///
/// # Errors
/// Whatever the server refuses, the way there does not allow, or a file that cannot be read or written.
pub async fn run(context: &Context, command: WarrantCommand) -> Result<Exit, Error> {
    match command {
        WarrantCommand::Request(args) => ask(context, &args).await?,
        WarrantCommand::List { limit } => {
            let items = context.client()?.list(&["v1", "warrants"], &[], limit).await?;
            context.out.items(items, LISTING, "No warrants.")?;
        }
        WarrantCommand::Show { warrant, package } => {
            let shown = fetch(&context.client()?, &warrant).await?;
            show(context, &shown, package.as_deref())?;
        }
        WarrantCommand::Sign(args) => warrant_sign::sign(context, &args).await?,
        WarrantCommand::Stop { warrant, key, dry_run } => {
            warrant_sign::stop(context, (&warrant, &key), dry_run).await?;
        }
    }
    Ok(Exit::Done)
}

/// The warrant of this id, as the server shows it.
pub(super) async fn fetch(client: &Client, warrant: &str) -> Result<Value, Error> {
    client.get(&["v1", "warrants", warrant], &[]).await
}

async fn ask(context: &Context, args: &RequestArgs) -> Result<(), Error> {
    let level = level_of(args.kind, args.level)?;
    let client = context.client()?;
    let devices = named(&client, args).await?;
    let mut body = json!({
        "kind": args.kind.as_str(), "devices": devices,
        "deadline_s": args.terms.deadline, "valid_s": args.terms.valid,
    });
    if let (Some(level), Some(fields)) = (level, body.as_object_mut()) {
        fields.insert("level".into(), json!(level.as_str()));
    }
    if let (Some(after_s), Some(fields)) = (args.after, body.as_object_mut()) {
        fields.insert("after_s".into(), json!(after_s));
    }
    request(context, &client, (&["v1", "warrants"], body), args.terms.dry_run).await
}

/// How far `kind` goes, where `given` stands on the command line.
///
/// # Errors
/// [`Error::Usage`] with the levels that there are and what each does.
fn level_of(kind: Kind, given: Option<Level>) -> Result<Option<Level>, Error> {
    match (kind, given) {
        (Kind::Wipe, None) => Err(Error::usage(
            "A wipe needs a level: how far it goes",
            format!(
                "Add --level with one of these, each of which does what the one before does, and more: {}.",
                levels()
            ),
        )),
        (Kind::Lock, Some(_)) => Err(Error::usage("A lock has no level", "Leave --level out.")),
        // There is one level only at which a device wipes itself.
        (Kind::WipeOnLapse, None | Some(Level::Clear)) => Ok(Some(Level::Clear)),
        (Kind::WipeOnLapse, Some(other)) => Err(Error::usage(
            format!("A device wipes itself at the level clear, not {}", other.as_str()),
            "Leave --level out.",
        )),
        (Kind::Wipe, level) => Ok(level),
        (Kind::Lock, None) => Ok(None),
    }
}

/// The levels with what each does.
fn levels() -> String {
    let told = |level: &Level| {
        let help = level.to_possible_value().and_then(|value| value.get_help().map(ToString::to_string));
        format!("{} ({})", level.as_str(), help.unwrap_or_default().to_lowercase())
    };
    Level::value_variants().iter().map(told).collect::<Vec<_>>().join(", ")
}

/// Shows what a request comes to, asks for consent, and sends it to `path`.
pub(super) async fn request(
    context: &Context,
    client: &Client,
    (path, mut body): (&[&str], Value),
    dry_run: bool,
) -> Result<(), Error> {
    let flag = |body: &mut Value, preview: bool| {
        if let Some(fields) = body.as_object_mut() {
            fields.insert("preview".into(), json!(preview));
        }
    };
    flag(&mut body, true);
    let preview = client.post(path, &body).await?;
    let targets = preview.get("targets").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(listing) = table::listing(&targets, AIMS, context.out.look) {
        context.out.notice(&listing);
    }
    let rails = client.get(&["v1", "rails"], &[]).await.unwrap_or_default();
    let intent =
        Intent { action: "warrant.request", consequence: consequence(&preview, &rails), target: &preview };
    if consent_by(context, &intent, dry_run, &value_at(&preview, "/count"))? == Verdict::Go {
        flag(&mut body, false);
        let came = client.post(path, &body).await?;
        context.out.item(&came, REQUESTED)?;
        let id = value_at(&came, "/warrant");
        context.out.notice(&format!("Now approvers look and sign: muster warrant sign {id} --key FILE"));
    }
    Ok(())
}

/// What a request will come to, in sentences.
fn consequence(preview: &Value, rails: &Value) -> String {
    let outcome = outcome(preview);
    // A lock can be undone, and costs nothing.
    let budget = if value_at(preview, "/kind") == "lock" { String::new() } else { budget_left(rails) };
    match preview.get("waits_until").and_then(Value::as_str) {
        None => format!("{outcome} {budget}").trim_end().to_owned(),
        Some(until) => format!("{} {outcome} {budget}", waits(until)).trim_end().to_owned(),
    }
}

fn outcome(preview: &Value) -> String {
    let [kind, needed, there, deadline] =
        ["/kind", "/required", "/approvers", "/deadline"].map(|at| value_at(preview, at));
    let count = devices(preview.get("count").and_then(Value::as_u64).unwrap_or(0));
    let signatures = match needed.as_str() {
        "1" => "One approver's signature alone is enough: one key can do it.".to_owned(),
        _ => format!("{needed} of the {there} approvers have to sign.{}", counting(preview)),
    };
    if kind == "wipe_on_lapse" {
        let hours = preview.pointer("/action/after_s").and_then(Value::as_u64).unwrap_or(0) / 3600;
        return format!(
            "{count} will clear itself, for good, after {hours} hours of running without a newer word from this server, where \
             its lease says on_lapse = \"clear\". Whoever silences the server for so long sets that off. {signatures}"
        );
    }
    if kind != "wipe" {
        return format!("{count} will be sent the order {kind}. {signatures}");
    }
    let level = value_at(preview, "/level");
    format!(
        "{count} will be let go: from now on only orders are heard there; once the warrant is signed everything that the \
         level {level} names is wiped, for good; from {deadline} on the certificate of whatever is not proven is revoked. \
         {signatures}"
    )
}

/// How many approvers count today, where that is not all of them; begins with a blank then.
fn counting(preview: &Value) -> String {
    let [needed, there, today] = ["/required", "/approvers", "/approvers_counting"]
        .map(|at| preview.pointer(at).and_then(Value::as_u64));
    match (needed, there, today) {
        (Some(needed), Some(there), Some(today)) if today < there => {
            let enough = if today < needed { ", which is too few" } else { "" };
            let count = if today == 1 { "counts" } else { "count" };
            format!(
                " {today} of them {count} today{enough}; who has joined counts a day later, and `muster authority show` says when."
            )
        }
        _ => String::new(),
    }
}

/// The ids of the devices that a request names.
async fn named(client: &Client, args: &RequestArgs) -> Result<Vec<String>, Error> {
    if !args.filters.is_empty() {
        let query: Vec<(&str, &str)> =
            args.filters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let found = client.list(&["v1", "devices"], &query, None).await?;
        let may_be_named = |device: &&Value| {
            let state = device.get("state").and_then(Value::as_str).unwrap_or_default();
            ["commissioning", "active", "quarantined"].contains(&state)
        };
        let id = |device: &Value| device.get("id").and_then(Value::as_str).map(str::to_owned);
        let ids: Vec<String> = found.iter().filter(may_be_named).filter_map(id).collect();
        return if ids.is_empty() {
            Err(Error::not_found("No device in use matches", "Look with `muster device list --filter`."))
        } else {
            Ok(ids)
        };
    }
    let names = match &args.list {
        Some(file) => {
            let text = std::fs::read_to_string(file).map_err(Error::file("read", file))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        }
        None => args.devices.clone(),
    };
    let mut ids = Vec::with_capacity(names.len());
    for name in &names {
        ids.push(device::resolve(client, name).await?);
    }
    Ok(ids)
}

/// Shows a warrant by its bytes; a warrant whose words they do not bear out is refused.
fn show(context: &Context, shown: &Value, package: Option<&Path>) -> Result<(), Error> {
    let paper = Paper::read(shown)?;
    if let Some(file) = package {
        std::fs::write(file, format!("{shown:#}\n")).map_err(Error::file("write", file))?;
    }
    context.out.item(shown, RECORD)?;
    if !context.out.is_json()
        && let Some(names) = table::listing(&came_to(paper.names(), shown), TARGETS, context.out.look)
    {
        context.out.line(&format!("\n{names}"))?;
    }
    Ok(())
}

/// `names`, as the bytes of the warrant bear them out, with what the server says came of each.
fn came_to(mut names: Vec<Value>, shown: &Value) -> Vec<Value> {
    let targets = shown.get("targets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (name, target) in names.iter_mut().filter_map(Value::as_object_mut).zip(targets) {
        for field in ["phase", "reason"] {
            name.insert(field.to_owned(), target.get(field).cloned().unwrap_or(Value::Null));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wipe_without_a_level_is_told_which_there_are_and_what_each_does() {
        let error = level_of(Kind::Wipe, None).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        for level in Level::value_variants() {
            assert!(error.remedy().contains(&format!("{} (", level.as_str())), "{}", error.remedy());
        }
        assert!(!error.remedy().contains("()"), "{}", error.remedy());
        assert_eq!(level_of(Kind::WipeOnLapse, None).unwrap(), Some(Level::Clear));
        assert_eq!(level_of(Kind::Lock, None).unwrap(), None);
        assert!(level_of(Kind::Lock, Some(Level::Clear)).is_err());
        assert!(level_of(Kind::WipeOnLapse, Some(Level::Retire)).is_err());
    }

    #[test]
    fn a_target_is_shown_with_the_reason_that_its_device_gave() {
        let shown =
            json!({"targets": [{"device": "x", "phase": "refused", "reason": "no hook"}, {"device": "y"}]});
        let names = came_to(vec![json!({"device": "a"}), json!({"device": "b"})], &shown);
        assert_eq!(names[0], json!({"device": "a", "phase": "refused", "reason": "no hook"}));
        assert_eq!(names[1], json!({"device": "b", "phase": null, "reason": null}));
    }

    fn preview(level: &str, required: u8) -> Value {
        json!({
            "kind": "wipe", "level": level, "count": 3, "required": required, "approvers": 3,
            "deadline": "2026-12-01T00:00:00Z",
        })
    }

    #[test]
    fn a_preview_says_how_many_how_far_and_who_can_do_it() {
        let rails = json!({"day": 3, "used_day": 1, "hour": 10, "used_hour": 1});
        let two = consequence(&preview("clear", 2), &rails);
        assert!(two.contains("room for 2 devices in these 24 hours"), "{two}");
        assert!(
            two.contains("3 devices") && two.contains("level clear") && two.contains("2 of the 3 approvers")
        );
        assert!(two.contains("2026-12-01"));
        assert!(consequence(&preview("retire", 1), &rails).contains("one key can do it"));
        assert!(!two.contains("today"), "all of them count: {two}");
    }

    #[test]
    fn an_approver_who_counts_only_from_tomorrow_is_not_counted_today() {
        let today = |counting: u8| {
            let mut preview = preview("clear", 2);
            preview["approvers_counting"] = counting.into();
            outcome(&preview)
        };
        assert!(today(2).contains("2 of them count today; who has joined"), "{}", today(2));
        assert!(today(1).contains("1 of them counts today, which is too few;"), "{}", today(1));
        assert!(!today(3).contains("today"));
    }

    #[test]
    fn levels_are_spelled_on_the_command_line_as_in_the_api() {
        for level in Level::value_variants() {
            assert_eq!(level.to_possible_value().unwrap().get_name(), level.as_str());
        }
    }
}
