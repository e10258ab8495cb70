//! `muster device`: the devices, one at a time or all of them.
//!
//! A device is named by its id or by its serial number; a serial that several lives share is refused with the
//! ids to choose from.

use super::client::Client;
use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::foresee::{Cost, Foreseen, foresee, named};
use super::table::{Column, column, value_at};
use super::warrant::{Level, Terms};
use super::{Context, audit, warrant};
use clap::{Args, Subcommand, ValueEnum};
use muster_wire::id::DeviceId;
use muster_wire::problem::Exit;
use muster_wire::rest::DEVICE_STATES;
use serde_json::{Value, json};

/// The commands about devices.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// List devices
    List(ListArgs),
    /// Show one device
    Show(Device),
    /// Show everything that was ever done to a device or refused to it
    History(Device),
    /// Say which rule refused a device, and what would make it pass
    Explain(Device),
    /// Show the sanitisation record of a device whose wipe is proven
    Record(super::record::RecordArgs),
    /// Let a device in that waits for approval
    Approve(Device),
    /// Hold a device: it may mend itself and nothing more, and its certificate is on hold
    Quarantine(QuarantineArgs),
    /// Let a held device go back to where it was
    Release(ReleaseArgs),
    /// Set or remove labels of a device; the one that protects it is removed with `unprotect`
    Label(LabelArgs),
    /// Take the label `protected` from a device, so that it can be wiped, revoked and quarantined again
    Unprotect(UnprotectArgs),
    /// End a device's certificate at every door; there is no way back
    Revoke(RevokeArgs),
    /// Ask for a warrant that wipes a device and lets it go
    Deprovision(DeprovisionArgs),
    /// Give up waiting for a doomed device: it is retired unproven
    Retire(RetireArgs),
}

/// A device, by name.
#[derive(Args, Debug)]
pub struct Device {
    /// Id or serial number of the device
    #[arg(value_name = "D")]
    pub device: String,
}

/// What `muster device list` takes.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only devices with this value of state, profile, site, owner or serial; may be given again
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = filter)]
    pub filters: Vec<(String, String)>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub limit: Option<usize>,
}

/// What `muster device quarantine` takes.
#[derive(Args, Debug)]
pub struct QuarantineArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// Why, in up to 200 bytes of plain text, for whoever looks at it later
    #[arg(long, value_name = "TEXT", default_value = "not said")]
    pub reason: String,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster device label` takes.
#[derive(Args, Debug)]
pub struct LabelArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// A label to set, or KEY- to remove one; may be given again
    #[arg(value_name = "KEY=VALUE|KEY-", required = true)]
    pub labels: Vec<String>,
}

/// What `muster device unprotect` takes.
#[derive(Args, Debug)]
pub struct UnprotectArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster device release` takes.
#[derive(Args, Debug)]
pub struct ReleaseArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// Why, in up to 200 bytes of plain text, for whoever looks at it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster device revoke` takes.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// Why, as it will stand in the CRL
    #[arg(long, value_enum, value_name = "R")]
    pub reason: Reason,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `muster device deprovision` takes.
#[derive(Args, Debug)]
pub struct DeprovisionArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// How far it is wiped
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "retire")]
    pub wipe: Level,
    /// How long it may take, and what happens first
    #[command(flatten)]
    pub terms: Terms,
}

/// What `muster device retire` takes.
#[derive(Args, Debug)]
pub struct RetireArgs {
    /// The device
    #[command(flatten)]
    pub device: Device,
    /// Say what would happen, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Why a certificate is revoked (RFC 5280 §5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Reason {
    /// No reason is given
    Unspecified,
    /// The private key is, or may be, in wrong hands
    KeyCompromise,
    /// The device belongs to somebody else now
    AffiliationChanged,
    /// Another certificate took its place
    Superseded,
    /// The device is no longer needed
    CessationOfOperation,
    /// What it was allowed is taken from it
    PrivilegeWithdrawn,
}

/// What a listing may be filtered by.
const FILTERS: &[&str] = &["state", "profile", "site", "owner", "serial"];

const LISTING: &[Column] = &[
    column("ID", "/id"),
    column("SERIAL", "/serial"),
    column("STATE", "/state"),
    column("PROFILE", "/profile"),
    column("SITE", "/site"),
    column("CONNECTED", "/connected"),
    column("DESIRED", "/generation/desired"),
    column("REPORTED", "/generation/reported"),
    column("POSTURE", "/posture/verdict"),
    column("CERTIFICATE", "/certificate/status"),
    column("UNTIL", "/certificate/not_after"),
];

const RECORD: &[Column] = &[
    column("id", "/id"),
    column("name", "/spiffe"),
    column("asset", "/asset"),
    column("serial", "/serial"),
    column("state", "/state"),
    column("quarantine", "/quarantine/reason"),
    column("  by", "/quarantine/by"),
    column("  since", "/quarantine/since"),
    column("  former", "/quarantine/former"),
    column("retirement", "/retirement"),
    column("phase", "/phase"),
    column("profile", "/profile"),
    column("site", "/site"),
    column("owner", "/owner"),
    column("labels", "/labels"),
    column("connected", "/connected"),
    column("  since", "/connected_since"),
    column("certificate", "/certificate/status"),
    column("  on hold", "/certificate/held"),
    column("  serial", "/certificate/serial"),
    column("  sha256", "/certificate/sha256"),
    column("  not after", "/certificate/not_after"),
    column("generation", "/generation"),
    column("posture", "/posture/verdict"),
    column("  failing", "/posture/failing"),
    column("  unknown", "/posture/unknown"),
    column("last report", "/last_contact"),
    column("agent", "/agent_version"),
    column("created", "/created_at"),
    column("changed", "/changed_at"),
];

const EXPLANATION: &[Column] = &[column("code", "/code"), column("rule", "/rule"), column("field", "/field")];

/// Runs one of the commands about devices.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow.
pub async fn run(context: &Context, command: DeviceCommand) -> Result<Exit, Error> {
    let client = context.client()?;
    match command {
        DeviceCommand::List(args) => list(context, &client, &args).await?,
        DeviceCommand::Show(Device { device }) => {
            let id = resolve(&client, &device).await?;
            context.out.item(&client.get(&["v1", "devices", &id], &[]).await?, RECORD)?;
        }
        DeviceCommand::History(Device { device }) => {
            let id = resolve(&client, &device).await?;
            let items = client.list(&["v1", "devices", &id, "history"], &[], None).await?;
            audit::print(context, items, "Nothing is recorded about this device.")?;
        }
        DeviceCommand::Explain(Device { device }) => {
            let id = resolve(&client, &device).await?;
            let item = client.get(&["v1", "devices", &id, "explain"], &[]).await?;
            explain(context, &item)?;
        }
        DeviceCommand::Record(args) => {
            let id = resolve(&client, &args.device.device).await?;
            super::record::show(context, &client, &id, &args).await?;
        }
        DeviceCommand::Approve(Device { device }) => {
            let id = resolve(&client, &device).await?;
            let item = client.act(&["v1", "devices", &format!("{id}:approve")]).await?;
            context.out.item(&item, RECORD)?;
        }
        DeviceCommand::Quarantine(args) => quarantine(context, &client, &args).await?,
        DeviceCommand::Label(args) => label(context, &client, &args).await?,
        DeviceCommand::Unprotect(args) => unprotect(context, &client, &args).await?,
        DeviceCommand::Release(args) => release(context, &client, &args).await?,
        DeviceCommand::Revoke(args) => revoke(context, &client, &args).await?,
        DeviceCommand::Deprovision(args) => deprovision(context, &client, &args).await?,
        DeviceCommand::Retire(args) => retire(context, &client, &args).await?,
    }
    Ok(Exit::Done)
}

async fn list(context: &Context, client: &Client, args: &ListArgs) -> Result<(), Error> {
    let query: Vec<(&str, &str)> =
        args.filters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let items = client.list(&["v1", "devices"], &query, args.limit).await?;
    let nothing = if query.is_empty() {
        "No devices. `muster token create --profile P` makes a token for the first."
    } else {
        "No device matches."
    };
    context.out.items(items, LISTING, nothing)
}

fn explain(context: &Context, item: &Value) -> Result<(), Error> {
    if !context.out.is_json() && item.get("code").is_none_or(Value::is_null) {
        return context.out.line("Nothing refuses this device.");
    }
    context.out.item(item, EXPLANATION)?;
    if context.out.is_json() {
        return Ok(());
    }
    // Beside the table, so that no command in it is broken to fit a column.
    context.out.line(&format!("next   {}", value_at(item, "/remedy")))
}

/// Nobody is asked first: it can be taken back, and whoever holds a device is in a hurry.
async fn quarantine(context: &Context, client: &Client, args: &QuarantineArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let path = ["v1", "devices", &format!("{id}:quarantine")];
    let body = json!({"reason": args.reason});
    if args.dry_run {
        let Foreseen { device, changes, budget } = foresee(client, (&path, body), Cost::Budget).await?;
        let consequence = if changes {
            format!(
                "Device {} will be held until somebody releases it: its connections are cut, it may mend itself and nothing \
                 more, and others see its certificate on hold. {budget}",
                named(&device),
            )
        } else {
            held_before(&device, &args.reason).unwrap_or_default()
        };
        return only_show(context, &Intent { action: "device.quarantine", consequence, target: &device });
    }
    let before = client.get(&["v1", "devices", &id], &[]).await?;
    let item = client.post(&path, &body).await?;
    context.out.item(&item, RECORD)?;
    if let Some(held) = held_before(&before, &args.reason) {
        context.out.notice(&held);
    }
    Ok(())
}

/// What to tell whoever gave `reason` where `device` is held by a person already.
fn held_before(device: &Value, reason: &str) -> Option<String> {
    let is_by_hand = |held: &&Value| held.get("by").and_then(Value::as_str) == Some("manual");
    let held = device.get("quarantine").filter(is_by_hand)?;
    let [since, by, before] = ["/since", "/operator", "/reason"].map(|at| value_at(held, at));
    let is_same = held.get("reason").and_then(Value::as_str) == Some(reason.trim());
    let lost = if is_same { "" } else { ", and this reason is not kept" };
    Some(format!(
        "It is held already, since {since} by {by}, for: {before}. Nothing changes{lost}; `muster device release` ends that \
         hold."
    ))
}

async fn label(context: &Context, client: &Client, args: &LabelArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let (mut set, mut remove) = (std::collections::BTreeMap::new(), Vec::new());
    for text in &args.labels {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => drop(set.insert(key, value)),
            (None, Some(key)) => remove.push(key),
            (None, None) => {
                return Err(Error::usage(
                    format!("{text:?} is no label"),
                    "Write KEY=VALUE to set one, KEY- to remove one.",
                ));
            }
        }
    }
    let body = json!({"set": set, "remove": remove});
    let item = client.post(&["v1", "devices", &format!("{id}:label")], &body).await?;
    context.out.item(&item, RECORD)
}

async fn unprotect(context: &Context, client: &Client, args: &UnprotectArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let target = client.get(&["v1", "devices", &id], &[]).await?;
    let consequence = format!(
        "Device {} can be wiped, revoked and quarantined again; whoever gets the alarms hears of it.",
        named(&target),
    );
    let intent = Intent { action: "device.unprotect", consequence, target: &target };
    if consent(context, &intent, args.dry_run)? == Verdict::Go {
        let item = client.act(&["v1", "devices", &format!("{id}:unprotect")]).await?;
        context.out.item(&item, RECORD)?;
    }
    Ok(())
}

async fn release(context: &Context, client: &Client, args: &ReleaseArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let before = client.get(&["v1", "devices", &id], &[]).await?;
    let was_held = value_at(&before, "/state") == "quarantined";
    if args.dry_run {
        let consequence = if was_held {
            format!(
                "Device {} will go back to where it was before it was held, and what its posture fails now is not held \
                 against it again.",
                named(&before),
            )
        } else {
            format!("Device {} is not held: there is nothing to release.", named(&before))
        };
        return only_show(context, &Intent { action: "device.release", consequence, target: &before });
    }
    let body = args.reason.as_ref().map_or_else(|| json!({}), |reason| json!({"reason": reason}));
    let item = client.post(&["v1", "devices", &format!("{id}:release")], &body).await?;
    context.out.item(&item, RECORD)?;
    if !was_held {
        context.out.notice("It was not held: nothing has changed.");
    }
    Ok(())
}

fn only_show(context: &Context, intent: &Intent<'_>) -> Result<(), Error> {
    consent(context, intent, true).map(drop)
}

async fn revoke(context: &Context, client: &Client, args: &RevokeArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let path = ["v1", "devices", &format!("{id}:revoke")];
    let body = json!({"reason": args.reason.as_str()});
    let (cost, urgent) = if args.reason == Reason::KeyCompromise {
        (Cost::Nothing, "For key_compromise it never waits.")
    } else {
        (Cost::Budget, "")
    };
    let consequence = |device: &Value, budget: &str| {
        format!(
            "Device {} will be retired without proof: its certificate opens no door any more, nothing is wiped, and there \
             is no way back. One operator's credential can do this. {budget}{urgent}",
            named(device),
        )
    };
    let act = Ending { action: "device.revoke", cost, again: "It is revoked already" };
    end(context, client, (&path, body), (act, args.dry_run), consequence).await
}

/// An act that ends a device's life.
struct Ending {
    /// The act, as the API spells it.
    action: &'static str,
    cost: Cost,
    /// What is said where it has ended so before.
    again: &'static str,
}

/// Ends a device's life by a POST of `body` to `path`: what the server would refuse it refuses before anybody is asked.
async fn end(
    context: &Context,
    client: &Client,
    (path, body): (&[&str], Value),
    (ending, dry_run): (Ending, bool),
    consequence: impl Fn(&Value, &str) -> String,
) -> Result<(), Error> {
    let Ending { action, cost, again } = ending;
    let again = format!("{again}: nothing changes.");
    let Foreseen { device, changes, budget } = foresee(client, (path, body.clone()), cost).await?;
    let consequence = if changes { consequence(&device, &budget) } else { again.clone() };
    let intent = Intent { action, consequence: consequence.trim_end().to_owned(), target: &device };
    if dry_run {
        return only_show(context, &intent);
    }
    if changes && consent(context, &intent, false)? == Verdict::OnlyShown {
        return Ok(());
    }
    context.out.item(&client.post(path, &body).await?, RECORD)?;
    if !changes {
        context.out.notice(&again);
    }
    Ok(())
}

async fn deprovision(context: &Context, client: &Client, args: &DeprovisionArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let body = json!({
        "level": args.wipe.as_str(), "deadline_s": args.terms.deadline, "valid_s": args.terms.valid,
    });
    let path = ["v1", "devices", &format!("{id}:deprovision")];
    warrant::request(context, client, (&path, body), args.terms.dry_run).await
}

async fn retire(context: &Context, client: &Client, args: &RetireArgs) -> Result<(), Error> {
    let id = resolve(client, &args.device.device).await?;
    let path = ["v1", "devices", &format!("{id}:retire")];
    let consequence = |device: &Value, _: &str| {
        format!(
            "Device {} will be retired unproven: its order is closed, nothing lets it in any more, and whether it was wiped \
             stays unknown.",
            named(device),
        )
    };
    let act = Ending { action: "device.retire", cost: Cost::Nothing, again: "It is given up already" };
    end(context, client, (&path, json!({})), (act, args.dry_run), consequence).await
}

/// The id of the device called `name`, which may be its serial number.
pub(super) async fn resolve(client: &Client, name: &str) -> Result<String, Error> {
    if let Ok(id) = name.parse::<DeviceId>() {
        return Ok(id.to_string());
    }
    let found = client.list(&["v1", "devices"], &[("serial", name)], Some(10)).await?;
    choose(name, &found)
}

/// The one device among those with the serial number `serial`: the only one, or the only one not retired.
fn choose(serial: &str, found: &[Value]) -> Result<String, Error> {
    let id = |device: &Value| device.get("id").and_then(Value::as_str).map(str::to_owned);
    let open = |device: &&Value| device.get("state").and_then(Value::as_str) != Some("retired");
    let open: Vec<&Value> = found.iter().filter(open).collect();
    let one = match (found, open.as_slice()) {
        ([one], _) => id(one),
        (_, [one]) => id(one),
        ([], _) => None,
        _ => {
            let ids: Vec<String> = found.iter().filter_map(id).collect();
            return Err(Error::usage(
                format!("Several devices have had the serial number {serial}: {}", ids.join(", ")),
                "Name one by its id.",
            ));
        }
    };
    one.ok_or_else(|| {
        Error::not_found(
            format!("No device has the id or serial number {serial}"),
            "Look for it with `muster device list`.",
        )
    })
}

/// `key=value` with a key that listings can be filtered by.
pub(super) fn filter(text: &str) -> Result<(String, String), String> {
    let (key, value) = super::token::key_value(text)?;
    if !FILTERS.contains(&key.as_str()) {
        return Err(format!("the key is one of {}", FILTERS.join(", ")));
    }
    if key == "state" && !DEVICE_STATES.contains(&value.as_str()) {
        return Err(format!("a state is one of {}", DEVICE_STATES.join(", ")));
    }
    Ok((key, value))
}

impl Reason {
    /// The reason as the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key_compromise",
            Self::AffiliationChanged => "affiliation_changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation_of_operation",
            Self::PrivilegeWithdrawn => "privilege_withdrawn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(id: &str, state: &str) -> Value {
        json!({"id": id, "state": state})
    }

    #[test]
    fn a_second_hold_is_said_to_change_nothing_and_by_whom_the_device_is_held() {
        let device = json!({"quarantine": {
            "by": "manual", "operator": "operator/ada", "reason": "left in a train", "since": "2026-01-01T00:00:00Z",
        }});
        let same = held_before(&device, " left in a train").unwrap();
        assert!(same.contains("Nothing changes;"), "{same}");
        let told = held_before(&device, "stolen").unwrap();
        for part in ["2026-01-01T00:00:00Z", "operator/ada", "left in a train", "not kept"] {
            assert!(told.contains(part), "{told}");
        }
        let by_rule = json!({"quarantine": {"by": "rule", "fact": "firewall", "reason": "x"}});
        assert_eq!(held_before(&by_rule, "stolen"), None);
        assert_eq!(held_before(&json!({"quarantine": null}), "stolen"), None);
    }

    #[test]
    fn a_serial_number_names_its_open_life() {
        assert_eq!(choose("S", &[life("a", "retired"), life("b", "active")]).unwrap(), "b");
        assert_eq!(choose("S", &[life("a", "retired")]).unwrap(), "a");
    }

    #[test]
    fn a_serial_number_of_several_lives_is_no_name() {
        let error = choose("S", &[life("a", "active"), life("b", "pending")]).unwrap_err();
        assert_eq!(error.exit() as u8, 2);
        assert!(error.to_string().contains("a, b"));
        assert!(choose("S", &[life("a", "retired"), life("b", "retired")]).is_err());
    }

    #[test]
    fn a_serial_number_of_no_device_is_not_found() {
        assert_eq!(choose("S", &[]).unwrap_err().exit() as u8, 4);
    }

    #[test]
    fn reasons_are_spelled_on_the_command_line_as_in_the_api() {
        for reason in Reason::value_variants() {
            assert_eq!(reason.to_possible_value().unwrap().get_name(), reason.as_str());
        }
    }

    #[test]
    fn filters_come_from_a_closed_list() {
        assert_eq!(filter("site=a=b"), Ok(("site".into(), "a=b".into())));
        for text in ["colour=red", "state", "state=", "=x", "state=nope"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}
