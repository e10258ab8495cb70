//! `muster order`: what was asked of devices, and what came of it.

use super::Context;
use super::error::Error;
use super::table::{Column, column};
use clap::{Args, Subcommand, ValueEnum};
use muster_wire::problem::Exit;
use serde_json::{Value, json};

/// The commands about orders.
#[derive(Debug, Subcommand)]
pub enum OrderCommand {
    /// List orders
    List(ListArgs),
    /// Show one order with its receipts
    Show {
        /// Id of the order
        #[arg(value_name = "O")]
        order: String,
    },
    /// Order something of a device that needs no approver
    Make(MakeArgs),
}

/// What `muster order list` takes.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only orders of this device, by id or serial number
    #[arg(long, value_name = "D")]
    pub device: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub limit: Option<usize>,
}

/// What `muster order make` takes.
#[derive(Args, Debug)]
pub struct MakeArgs {
    /// What is to be done
    #[arg(value_enum, value_name = "KIND")]
    pub kind: Kind,
    /// Id or serial number of the device
    #[arg(value_name = "D")]
    pub device: String,
}

/// The kinds that need no approver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Kind {
    /// Renew the certificate with a new key
    RotateIdentity,
    /// Report the posture now
    CollectPosture,
    /// Undo a lock
    Unlock,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::RotateIdentity => "rotate_identity",
            Self::CollectPosture => "collect_posture",
            Self::Unlock => "unlock",
        }
    }
}

const LISTING: &[Column] = &[
    column("ID", "/id"),
    column("DEVICE", "/device"),
    column("KIND", "/kind"),
    column("PHASE", "/phase"),
    column("MADE", "/made_at"),
    column("EXPIRES", "/expires"),
];

const RECORD: &[Column] = &[
    column("id", "/id"),
    column("device", "/device"),
    column("kind", "/kind"),
    column("level", "/level"),
    column("warrant", "/warrant"),
    column("phase", "/phase"),
    column("sequence", "/sequence"),
    column("made by", "/made_by"),
    column("made", "/made_at"),
    column("expires", "/expires"),
    column("receipts", "/receipts"),
];

/// Runs one of the commands about orders.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow.
pub async fn run(context: &Context, command: OrderCommand) -> Result<Exit, Error> {
    let client = context.client()?;
    match command {
        OrderCommand::List(args) => {
            let device = match &args.device {
                Some(name) => Some(super::device::resolve(&client, name).await?),
                None => None,
            };
            let query: Vec<(&str, &str)> = device.iter().map(|id| ("device", id.as_str())).collect();
            let items = client.list(&["v1", "orders"], &query, args.limit).await?;
            context.out.items(items, LISTING, "No orders.")?;
        }
        OrderCommand::Show { order } => {
            let mut shown = client.get(&["v1", "orders", &order], &[]).await?;
            if !context.out.is_json() {
                without_documents(&mut shown);
            }
            context.out.item(&shown, RECORD)?;
        }
        OrderCommand::Make(args) => {
            let device = super::device::resolve(&client, &args.device).await?;
            let body = json!({ "device": device, "kind": args.kind.as_str() });
            context.out.item(&client.post(&["v1", "orders"], &body).await?, RECORD)?;
            super::rails::tell_if_frozen(context, &client).await;
        }
    }
    Ok(Exit::Done)
}

/// Receipts as they came are for programs.
fn without_documents(order: &mut Value) {
    let receipts = order.get_mut("receipts").and_then(Value::as_array_mut);
    for receipt in receipts.into_iter().flatten().filter_map(Value::as_object_mut) {
        receipt.remove("signed");
    }
}
