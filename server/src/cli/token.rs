//! `muster token`: one-time enrolment tokens.
//!
//! A token is shown once, by `create`, as an enrolment string that a person can paste and a QR code can carry.
//! Afterwards only its id, its bindings and its fate can be looked at.

use super::confirm::{Intent, Verdict, consent};
use super::error::Error;
use super::output::Progress;
use super::table::{Column, column, plain, value_at};
use super::{Context, client::Client};
use clap::{Args, Subcommand};
use muster_wire::id::TokenId;
use muster_wire::problem::Exit;
use muster_wire::rest::{TOKEN_LIFE_MAX_S, TOKEN_STATES};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Map, Value, json};

/// Tokens asked for in one request: with more, one lost reply would cost too much.
const BATCH: u32 = 100;

/// The commands about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make one or more tokens and show them, once
    Create(CreateArgs),
    /// List tokens; the secrets are not shown again
    List(ListArgs),
    /// Show one token: bindings, state, the device it became
    Show {
        /// Id of the token
        #[arg(value_name = "T")]
        token: TokenId,
    },
    /// Make a token worthless
    Revoke {
        /// Id of the token
        #[arg(value_name = "T")]
        token: TokenId,
        /// Say what would happen, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What `muster token create` takes.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Firmware profile of the device
    #[arg(long, value_name = "P")]
    pub profile: String,
    /// Only a device with this serial number may use it
    #[arg(long, value_name = "S")]
    pub serial: Option<String>,
    /// Where the device belongs
    #[arg(long, value_name = "X")]
    pub site: Option<String>,
    /// Whose device it will be
    #[arg(long, value_name = "U")]
    pub owner: Option<String>,
    /// A label the device gets; may be given again
    #[arg(long = "label", value_name = "K=V", value_parser = key_value)]
    pub labels: Vec<(String, String)>,
    /// How long it may be used: 90s, 15m, 1h, 7d; the server's default when left out
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub ttl: Option<u64>,
    /// How many one-use tokens
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// Show each as a QR code on the terminal
    #[arg(long, conflicts_with_all = ["csv", "json"])]
    pub qr: bool,
    /// Print comma-separated values, for a label printer or a manifest
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

/// What `muster token list` takes.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only tokens in this state
    #[arg(long, value_name = "STATE", value_parser = clap::builder::PossibleValuesParser::new(TOKEN_STATES))]
    pub state: Option<String>,
    /// Only tokens for this profile
    #[arg(long, value_name = "P")]
    pub profile: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = super::at_least_one)]
    pub limit: Option<usize>,
}

const LISTING: &[Column] = &[
    column("ID", "/id"),
    column("STATE", "/state"),
    column("PROFILE", "/profile"),
    column("SERIAL", "/serial"),
    column("SITE", "/site"),
    column("EXPIRES", "/expires_at"),
    column("DEVICE", "/device"),
];

const RECORD: &[Column] = &[
    column("id", "/id"),
    column("state", "/state"),
    column("profile", "/profile"),
    column("serial", "/serial"),
    column("site", "/site"),
    column("owner", "/owner"),
    column("labels", "/labels"),
    column("created", "/created_at"),
    column("created by", "/created_by"),
    column("expires", "/expires_at"),
    column("device", "/device"),
];

/// Runs one of the commands about tokens.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow.
pub async fn run(context: &Context, command: TokenCommand) -> Result<Exit, Error> {
    match command {
        TokenCommand::Create(args) => create(context, &args).await,
        TokenCommand::List(args) => list(context, &args).await,
        TokenCommand::Show { token } => {
            let item = context.client()?.get(&["v1", "tokens", &token.to_string()], &[]).await?;
            context.out.item(&item, RECORD)?;
            Ok(Exit::Done)
        }
        TokenCommand::Revoke { token, dry_run } => revoke(context, token, dry_run).await,
    }
}

async fn list(context: &Context, args: &ListArgs) -> Result<Exit, Error> {
    let mut query = Vec::new();
    if let Some(state) = &args.state {
        query.push(("state", state.as_str()));
    }
    if let Some(profile) = &args.profile {
        query.push(("profile", profile.as_str()));
    }
    let items = context.client()?.list(&["v1", "tokens"], &query, args.limit).await?;
    context.out.items(items, LISTING, "No tokens. `muster token create --profile P` makes one.")?;
    Ok(Exit::Done)
}

async fn revoke(context: &Context, token: TokenId, dry_run: bool) -> Result<Exit, Error> {
    let client = context.client()?;
    let target = client.get(&["v1", "tokens", &token.to_string()], &[]).await?;
    let consequence = format!(
        "Token {token} (profile {}, {}) will enrol nothing any more; there is no way back.",
        value_at(&target, "/profile"),
        value_at(&target, "/state"),
    );
    let intent = Intent { action: "token.revoke", consequence, target: &target };
    if consent(context, &intent, dry_run)? == Verdict::Go {
        let item = client.act(&["v1", "tokens", &format!("{token}:revoke")]).await?;
        context.out.item(&item, RECORD)?;
    }
    Ok(Exit::Done)
}

/// Makes the tokens in batches. When one fails, those already made are printed before the failure is told:
/// nobody could ever see them again.
async fn create(context: &Context, args: &CreateArgs) -> Result<Exit, Error> {
    refuse_double_labels(&args.labels)?;
    let client = context.client()?;
    let progress = (args.count > BATCH).then(|| Progress::of(args.count.into(), "tokens"));
    let mut made = Vec::new();
    let mut outcome = Ok(Exit::Done);
    let mut missing = args.count;
    while missing > 0 {
        let batch = missing.min(BATCH);
        match create_batch(&client, args, batch).await {
            Ok(tokens) => made.extend(tokens),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
        missing -= batch;
        progress.iter().for_each(|progress| progress.advance(batch.into()));
    }
    drop(progress);
    if outcome.is_ok() || !made.is_empty() {
        print(context, args, made)?;
    }
    outcome
}

/// A label has one value; which of two was meant nobody can tell.
fn refuse_double_labels(labels: &[(String, String)]) -> Result<(), Error> {
    let mut seen = std::collections::BTreeSet::new();
    match labels.iter().find(|(key, _)| !seen.insert(key)) {
        Some((key, _)) => {
            Err(Error::usage(format!("--label {key} is given twice"), "Give each label one value."))
        }
        None => Ok(()),
    }
}

async fn create_batch(client: &Client, args: &CreateArgs, count: u32) -> Result<Vec<Value>, Error> {
    let made = client.post(&["v1", "tokens"], &order(args, count)).await?;
    if let Value::Array(tokens) = made {
        return Ok(tokens);
    }
    Err(Error::Answer {
        server: client.server().to_string(),
        status: 201,
        what: "something that is no list of tokens".into(),
    })
}

/// The body of the request for `count` tokens.
fn order(args: &CreateArgs, count: u32) -> Value {
    let mut body = Map::new();
    body.insert("profile".into(), json!(args.profile));
    for (name, value) in [("serial", &args.serial), ("site", &args.site), ("owner", &args.owner)] {
        if let Some(value) = value {
            body.insert(name.into(), json!(value));
        }
    }
    if !args.labels.is_empty() {
        let labels: Map<String, Value> =
            args.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        body.insert("labels".into(), Value::Object(labels));
    }
    if let Some(ttl) = args.ttl {
        body.insert("ttl_s".into(), json!(ttl));
    }
    body.insert("count".into(), json!(count));
    Value::Object(body)
}

fn print(context: &Context, args: &CreateArgs, tokens: Vec<Value>) -> Result<(), Error> {
    if context.out.is_json() {
        return context.out.json(&Value::Array(tokens));
    }
    if args.csv {
        return context.out.raw(csv(args, &tokens).as_bytes());
    }
    for token in &tokens {
        let enrollment = token.get("enrollment").and_then(Value::as_str).unwrap_or_default();
        if args.qr {
            let image = qr(enrollment, context.out.look.styled)?;
            context.out.line(&format!(
                "{image}\n{}  {}",
                value_at(token, "/id"),
                value_at(token, "/profile")
            ))?;
        } else {
            context.out.line(&plain(enrollment))?;
        }
    }
    if let (Some(first), false) = (tokens.first(), args.qr) {
        let many =
            if tokens.len() == 1 { "One token".to_owned() } else { format!("{} tokens", tokens.len()) };
        context.out.notice(&format!(
            "{many} for {}, one use each, until {}. Shown only now.\n\
             On the device: paste the line into `muster-agent enroll -`.",
            plain(&args.profile),
            value_at(first, "/expires_at"),
        ));
    }
    Ok(())
}

/// The enrolment string as a QR code in half-height blocks. Where attributes are allowed, black and white are said, so
/// that it is dark on light whatever the terminal's colours; elsewhere it takes the background for the dark.
fn qr(enrollment: &str, styled: bool) -> Result<String, Error> {
    let code = QrCode::new(enrollment).map_err(|cause| {
        Error::failed(
            format!("The enrolment string makes no QR code: {cause}"),
            "Leave out --qr and paste the string.",
        )
    })?;
    let image = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    if !styled {
        return Ok(image);
    }
    let lines: Vec<String> = image.lines().map(|line| format!("\u{1b}[97;40m{line}\u{1b}[0m")).collect();
    Ok(lines.join("\n"))
}

/// The tokens as RFC 4180 text. A value that a spreadsheet would take for a formula is disarmed with a quote.
fn csv(args: &CreateArgs, tokens: &[Value]) -> String {
    let mut text = String::from("id,profile,serial,site,owner,expires_at,token,enrollment\r\n");
    for token in tokens {
        let of = |name: &str| token.get(name).and_then(Value::as_str).unwrap_or_default();
        let given = |value: &Option<String>| value.clone().unwrap_or_default();
        let fields = [
            of("id").to_owned(),
            of("profile").to_owned(),
            given(&args.serial),
            given(&args.site),
            given(&args.owner),
            of("expires_at").to_owned(),
            of("token").to_owned(),
            of("enrollment").to_owned(),
        ];
        text.push_str(&fields.map(|field| csv_field(&field)).join(","));
        text.push_str("\r\n");
    }
    text
}

fn csv_field(value: &str) -> String {
    let disarmed = if value.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{value}")
    } else {
        value.to_owned()
    };
    if disarmed.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", disarmed.replace('"', "\"\""))
    } else {
        disarmed
    }
}

/// `k=v`, both sides said.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as key=value".to_owned()),
    }
}

/// A time span such as `90s`, `15m`, `1h`, `7d`, in seconds: as long as a token may live.
fn seconds(text: &str) -> Result<u64, String> {
    let span = span(text)?;
    if (1..=u64::from(TOKEN_LIFE_MAX_S)).contains(&span) {
        Ok(span)
    } else {
        Err(format!("a token lives one second to {} days", TOKEN_LIFE_MAX_S / 86_400))
    }
}

/// A time span in seconds: a number and one of `s`, `m`, `h`, `d`.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let wrong = || "write a number and one of s, m, h, d: 90s, 15m, 1h, 7d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let digits = text.get(..text.len() - 1).unwrap_or_default();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> CreateArgs {
        CreateArgs {
            profile: "sensor-linux".into(),
            serial: None,
            site: Some("=cmd()".into()),
            owner: None,
            labels: vec![("line".into(), "3".into())],
            ttl: Some(3600),
            count: 1,
            qr: false,
            csv: true,
        }
    }

    #[test]
    fn time_spans_are_numbers_with_a_unit() {
        for (text, span) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800), ("90d", 7_776_000)] {
            assert_eq!(seconds(text), Ok(span));
        }
        for text in [
            "",
            "h",
            "1",
            "1 h",
            "-1h",
            "+1h",
            "1.5h",
            "1y",
            "0s",
            "91d",
            "99999d",
            "99999999999999999999s",
            "1é",
        ] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_request_says_only_what_was_asked() {
        let body = order(&args(), 20);
        let wanted = json!({
            "profile": "sensor-linux", "site": "=cmd()", "labels": {"line": "3"}, "ttl_s": 3600, "count": 20
        });
        assert_eq!(body, wanted);
    }

    #[test]
    fn a_label_has_one_value() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let error = refuse_double_labels(&[pair("a", "b"), pair("c", "b"), pair("a", "c")]).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.to_string().contains("--label a"), "{error}");
        assert!(refuse_double_labels(&[pair("a", "b"), pair("c", "b")]).is_ok());
    }

    #[test]
    fn a_spreadsheet_finds_no_formula_and_no_second_field() {
        let token = json!({"id": "t1", "token": "muster_x", "enrollment": "muster://h:1/x?ca=a&auth=b",
            "profile": "sensor-linux", "expires_at": "2026-01-01T00:00:00Z"});
        let text = csv(&args(), &[token]);
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "t1,sensor-linux,,'=cmd(),,2026-01-01T00:00:00Z,muster_x,muster://h:1/x?ca=a&auth=b"
        );
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn an_enrolment_string_fits_into_a_code_of_a_terminals_width() {
        let string = format!(
            "muster://muster.example.org:8443/muster_{}?ca={}&auth={}",
            "x".repeat(38),
            "a".repeat(43),
            "b".repeat(43)
        );
        let image = qr(&string, false).unwrap();
        assert!(image.lines().all(|line| line.chars().count() <= 80));
    }
}
