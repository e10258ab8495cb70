//! `muster baseline`: what devices of a profile should be like.

use super::Context;
use super::client::Client;
use super::error::Error;
use super::table::{Column, column};
use clap::{Args, Subcommand};
use http::HeaderValue;
use muster_firmware_profiles::profile::BaselineFile;
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The commands about baselines.
#[derive(Debug, Subcommand)]
pub enum BaselineCommand {
    /// Set what devices of a profile should be like, from a TOML file
    Set(SetArgs),
    /// Show the baselines of all profiles, or of one
    Show {
        /// Name of the profile
        #[arg(value_name = "P")]
        profile: Option<String>,
    },
    /// Show what a device should be like, beside what it reported
    Diff {
        /// Id or serial number of the device
        #[arg(value_name = "D")]
        device: String,
    },
    /// Sign what needs approvers: files beyond the declared roots, kernel settings beyond the agent's list
    Sign(SignArgs),
}

/// What `muster baseline sign` takes.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The generation that was looked at: `baseline show` names it
    #[arg(value_name = "G")]
    pub generation: u64,
    /// The approver's private key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Show what would be signed, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster baseline set` takes.
#[derive(Args, Debug)]
pub struct SetArgs {
    /// The file: `profile`, `[baseline]`, `[lease]` and `[[override]]` as in a firmware profile
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only while this generation of the profile's baseline is set: the one that was looked at, `baseline show P` names it
    #[arg(long, value_name = "GENERATION")]
    pub if_match: Option<u64>,
    /// Say what it would do, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

const LISTING: &[Column] = &[
    column("PROFILE", "/profile"),
    column("GENERATION", "/generation"),
    column("SET", "/set_at"),
    column("BY", "/set_by"),
];

const RECORD: &[Column] = &[
    column("profile", "/profile"),
    column("generation", "/generation"),
    column("  note", "/heard_because"),
    column("set", "/set_at"),
    column("by", "/set_by"),
    column("files", "/baseline/files"),
    column("sysctl", "/baseline/sysctl"),
    column("lease", "/lease"),
    column("overrides", "/overrides"),
    column("signed", "/papers"),
];

const EFFECT: &[Column] = &[
    column("profile", "/baseline/profile"),
    column("generation", "/baseline/generation"),
    column("devices", "/devices"),
    column("changed", "/changed"),
    column("needs approvers", "/approval/items"),
    column("signatures needed", "/approval/required"),
    column("  missing", "/approval/missing"),
    column("dry run", "/dry_run"),
];

const DIFFERENCE: &[Column] = &[
    column("desired", "/generation/desired"),
    column("  because", "/desired_because"),
    column("reported", "/generation/reported"),
    column("digest", "/digest"),
    column("sections", "/sections"),
    column("drift", "/drift"),
    column("differences", "/drift_total"),
    column("needs approvers", "/approval/items"),
    column("signatures needed", "/approval/required"),
    column("  missing", "/approval/missing"),
];

/// Runs one of the commands about baselines.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; for `set`, a file that cannot be read.
pub async fn run(context: &Context, command: BaselineCommand) -> Result<Exit, Error> {
    let client = context.client()?;
    match command {
        BaselineCommand::Set(args) => set(context, &client, &args).await?,
        BaselineCommand::Show { profile: None } => {
            let items = client.list(&["v1", "baselines"], &[], None).await?;
            context.out.items(items, LISTING, "The server knows no profile.")?;
        }
        BaselineCommand::Show { profile: Some(profile) } => {
            show(context, &client, &profile).await?;
        }
        BaselineCommand::Sign(args) => super::baseline_sign::sign(context, &client, &args).await?,
        BaselineCommand::Diff { device } => {
            let id = super::device::resolve(&client, &device).await?;
            let item = client.get(&["v1", "devices", &id, "baseline"], &[]).await?;
            context.out.item(&item, DIFFERENCE)?;
            tell_if_unsigned(context, &item);
        }
    }
    Ok(Exit::Done)
}

async fn show(context: &Context, client: &Client, profile: &str) -> Result<(), Error> {
    let mut baseline = client.get(&["v1", "baselines", profile], &[]).await?;
    let papers = client.get(&["v1", "baselines", profile, "papers"], &[]).await?;
    if let Some(shown) = baseline.as_object_mut() {
        shown.insert("papers".to_owned(), Value::Array(super::baseline_sign::told(papers)));
    }
    context.out.item(&baseline, RECORD)
}

async fn set(context: &Context, client: &Client, args: &SetArgs) -> Result<(), Error> {
    let file = args.file.display().to_string();
    let toml = std::fs::read_to_string(&args.file).map_err(Error::file("read", &args.file))?;
    let body = json!({ "file": file, "toml": toml, "dry_run": args.dry_run });
    // What does not parse the server refuses, by line.
    let replaced = match BaselineFile::parse(&file, &toml) {
        Ok(asked) => replaced(client, &asked.profile, args.if_match).await?,
        Err(_) => None,
    };
    let effect = client.post_over(&["v1", "baselines"], &body, replaced).await?;
    context.out.item(&effect, EFFECT)?;
    tell_if_unsigned(context, &effect);
    if !args.dry_run {
        super::rails::tell_if_frozen(context, client).await;
    }
    Ok(())
}

/// Says to a person that devices refuse a baseline for now, and how that ends.
fn tell_if_unsigned(context: &Context, item: &Value) {
    let is_missing = item.pointer("/approval/missing").and_then(Value::as_u64).is_some_and(|count| count > 0);
    if let Some(remedy) = item.pointer("/approval/remedy").and_then(Value::as_str).filter(|_| is_missing) {
        context.out.notice(&format!("Not signed yet. {}", super::table::plain(remedy)));
    }
}

/// The version that is about to be replaced, which has to be of the generation `wanted` where one is named. Whoever
/// sets another between this look and the change makes the change fail, rather than losing theirs.
async fn replaced(client: &Client, profile: &str, wanted: Option<u64>) -> Result<Option<HeaderValue>, Error> {
    let (present, version) = match client.get_versioned(&["v1", "baselines", profile]).await {
        // The server says so in its own words when it is asked to set it.
        Err(error) if error.exit() == Exit::NotFound => return Ok(None),
        present => present?,
    };
    let generation = present.get("generation").and_then(Value::as_u64);
    match wanted {
        Some(wanted) if generation != Some(wanted) => Err(Error::refused(
            format!(
                "The baseline of {profile} is of generation {} by now, not {wanted}",
                super::table::value_at(&present, "/generation"),
            ),
            format!("See `muster baseline show {profile}`, put your change into that, then set it again."),
        )),
        _ => Ok(version),
    }
}
