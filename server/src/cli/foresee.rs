//! What a destructive act would come to: asked of the server before a person is asked.
//!
//! What the server would refuse it refuses here, so that nobody confirms what cannot be. What would wait is told in the
//! words of the real refusal, beside how much the budget still allows.

use super::client::Client;
use super::error::Error;
use super::rails::budget_left;
use super::table::value_at;
use serde_json::{Value, json};

/// What an act on one device would come to.
#[derive(Debug)]
pub(super) struct Foreseen {
    /// The device, as it is.
    pub(super) device: Value,
    /// Whether anything would change.
    pub(super) changes: bool,
    /// What the budget makes of it, in sentences; empty where it has no say.
    pub(super) budget: String,
}

/// Whether an act comes out of the budget of destructive acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// It does.
    Budget,
    /// It does not.
    Nothing,
}

/// Asks the server what a POST of `body` to `path` would come to.
///
/// # Errors
/// What the server would refuse, as it would; whatever the way there does not allow.
pub(super) async fn foresee(
    client: &Client,
    (path, mut body): (&[&str], Value),
    cost: Cost,
) -> Result<Foreseen, Error> {
    if let Some(fields) = body.as_object_mut() {
        fields.insert("preview".to_owned(), json!(true));
    }
    let device = client.post(path, &body).await?;
    let changes = device.pointer("/preview/changes").and_then(Value::as_bool).unwrap_or(true);
    let budget = if changes && cost == Cost::Budget {
        // Whoever ends a device in an emergency is not held up because the budget cannot be shown.
        let rails = client.get(&["v1", "rails"], &[]).await.unwrap_or_default();
        in_words(device.pointer("/preview/waits_until").and_then(Value::as_str), &rails)
    } else {
        String::new()
    };
    Ok(Foreseen { device, changes, budget })
}

fn in_words(waits_until: Option<&str>, rails: &Value) -> String {
    match waits_until {
        Some(until) => format!("{} {}", waits(until), budget_left(rails)).trim_end().to_owned(),
        None => budget_left(rails),
    }
}

/// What is beyond the budget.
pub(super) fn waits(until: &str) -> String {
    format!(
        "This is beyond what may be destroyed at a time: asked for now it waits, and whoever gets the alarms hears of it; \
         asked for again after {until}, it is done."
    )
}

/// A device in a sentence: id, serial number, profile and state.
pub(super) fn named(device: &Value) -> String {
    let [id, serial, profile, state] =
        ["/id", "/serial", "/profile", "/state"].map(|at| value_at(device, at));
    format!("{id} (serial {serial}, profile {profile}, {state})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_how_much_the_budget_still_allows_and_until_when_it_would_wait() {
        let rails = json!({"day": 3, "used_day": 2, "hour": 10, "used_hour": 12});
        let within = in_words(None, &rails);
        assert_eq!(
            within,
            "The budget has room for 1 device in these 24 hours (of 3), for 0 devices in this hour (of 10)."
        );
        let beyond = in_words(Some("2026-12-01T00:00:00Z"), &rails);
        assert!(beyond.contains("after 2026-12-01T00:00:00Z, it is done. The budget has room"), "{beyond}");
        assert_eq!(in_words(None, &Value::Null), "", "rails that could not be read");
        assert!(in_words(Some("2026-12-01T00:00:00Z"), &Value::Null).ends_with("it is done."));
    }
}
