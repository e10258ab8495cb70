//! What a command prints: a few aligned lines for people, one JSON document for machines. Errors go to stderr.

use std::io::Write as _;

use muster_wire::desired::{Generation, Mode};
use muster_wire::posture::{Fact, FactValue};
use muster_wire::time::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::doctor::Check;
use super::failure::Failure;
use super::simulate::Summary;
use crate::apply::{Action, Plan, PlannedStep};
use crate::core::not_taken::{NotTaken, holds};
use crate::core::status::{ClearsStatus, LeaseStatus, Status};
use crate::core::{Done, Refusal};
use crate::wipe::{Rehearsal, WouldRemove};

/// A line for whoever reads; when nobody reads any more, that is no reason to fail.
macro_rules! say {
    ($($line:tt)*) => { let _ = writeln!(std::io::stdout(), $($line)*); };
}

/// The same for errors.
macro_rules! say_err {
    ($($line:tt)*) => { let _ = writeln!(std::io::stderr(), $($line)*); };
}

/// Something beside the answer, for a person who watches; as it is, without a line end of its own.
pub fn aside(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// For whom to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// For a person.
    Text,
    /// For a program: JSON.
    Json,
}

/// What `enroll` and `renew` have done, and how things stand now.
pub fn done(manner: Manner, done: &Done, status: &Status) {
    match manner {
        Manner::Json => {
            #[derive(Serialize)]
            struct Answer<'a> {
                outcome: &'static str,
                #[serde(flatten)]
                status: &'a Status,
            }
            print_json(&Answer { outcome: done.outcome.as_str(), status });
        }
        Manner::Text => {
            say!("{}", done.outcome.sentence());
            print_status(status);
        }
    }
}

/// What came of simulated devices.
pub fn simulated(manner: Manner, summary: &Summary) {
    if manner == Manner::Json {
        return print_json(summary);
    }
    let Summary { count, enrolled, connected, applied, failed, elapsed_ms, .. } = summary;
    say!(
        "{enrolled} enrolled, {connected} connected, {applied} applied, {failed} failed of {count} in {elapsed_ms} ms"
    );
    let times = &summary.latency_ms;
    for (name, found) in
        [("enrolled", times.enrolled), ("connected", times.connected), ("applied", times.applied)]
    {
        if let Some(found) = found {
            say!("{name:10} p50 {:.1} ms, p99 {:.1} ms", found.p50, found.p99);
        }
    }
    for error in &summary.errors {
        say!("{error}");
    }
}

/// That the agent runs now; for a person who watches.
pub fn running(manner: Manner) {
    if manner == Manner::Text {
        say_err!("muster-agent: running; `muster-agent status` tells how it is");
    }
}

/// That this life is over; for a person who watches.
pub fn retired(manner: Manner) {
    if manner == Manner::Text {
        say_err!(
            "muster-agent: a wipe has ended this device's life; `muster-agent enroll` with a new string begins another"
        );
    }
}

/// What is not wrong and not as it was meant either; for a person.
pub fn warnings(manner: Manner, warnings: &[String]) {
    if manner == Manner::Text {
        for warning in warnings {
            say_err!("warning: {warning}");
        }
    }
}

/// What became of the newest baseline: `not_taken`, or, after that, the one `in_force`.
pub fn baseline(manner: Manner, not_taken: Option<&NotTaken>, in_force: Option<Generation>) {
    match (manner, not_taken) {
        (Manner::Json, _) => {
            let in_force = in_force.map(|generation| generation.counter);
            say_err!("{}", json!({ "not_taken": not_taken, "generation": in_force }));
        }
        (Manner::Text, Some(found)) => {
            say_err!("muster-agent: {}; {}; next: {}", found.sentence(), holds(in_force), found.remedy);
        }
        (Manner::Text, None) => {
            let generation = in_force.map_or_else(|| "-".to_owned(), |generation| generation.to_string());
            say_err!("muster-agent: generation {generation} is in force");
        }
    }
}

/// What a wipe would do.
pub fn rehearsal(manner: Manner, rehearsal: &Rehearsal) {
    if manner == Manner::Json {
        return print_json(rehearsal);
    }
    let Rehearsal { level, would_remove, missed, stays, honest_level, .. } = rehearsal;
    say!("{:13} {level}", "level");
    say!("{:13} {honest_level}", "honestly");
    for WouldRemove { path, bytes, what } in would_remove {
        say!("{:13} {bytes:>12}  {:11}  {path}", "would remove", what.as_str());
    }
    for missed in missed {
        say!("{:13} {missed}", "would miss");
    }
    for stays in stays {
        say!("{:13} {stays}", "would stay");
    }
    if would_remove.is_empty() {
        say!("nothing would be removed");
    }
}

/// How things stand.
pub fn status(manner: Manner, status: &Status) {
    match manner {
        Manner::Json => print_json(status),
        Manner::Text => print_status(status),
    }
}

/// How the device stands.
pub fn posture(manner: Manner, facts: &[Fact], collected_at: Timestamp) {
    match manner {
        Manner::Json => {
            let told = |fact: &Fact| {
                let (state, value) = (fact.state.as_str(), fact_value(&fact.value));
                let told =
                    json!({"state": state, "value": value, "evidence": fact.evidence, "source": fact.source});
                (fact.name.as_str().to_owned(), told)
            };
            let facts: serde_json::Map<_, _> = facts.iter().map(told).collect();
            print_json(&json!({ "collected_at": collected_at, "facts": facts }));
        }
        Manner::Text => {
            let width = facts.iter().map(|fact| fact.name.as_str().len()).max().unwrap_or(0);
            for fact in facts {
                say!("{:14} {:width$}  {}", fact.state.as_str(), fact.name.as_str(), fact.evidence);
            }
        }
    }
}

fn fact_value(value: &FactValue) -> serde_json::Value {
    match value {
        FactValue::Nothing => serde_json::Value::Null,
        FactValue::Bool(value) => json!(value),
        FactValue::Number(value) => json!(value),
        FactValue::Text(value) => json!(value),
        FactValue::List(values) => json!(values),
    }
}

/// What `doctor` found.
pub fn checks(manner: Manner, checks: &[Check]) {
    match manner {
        Manner::Json => {
            print_json(&json!({ "ok": checks.iter().all(|check| !check.has_failed()), "checks": checks }))
        }
        Manner::Text => {
            let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
            for check in checks {
                say!("{:7} {:width$}  {}", check.state.as_str(), check.name, check.detail);
                if let Some(remedy) = &check.remedy {
                    say!("{:7} {:width$}  → {remedy}", "", "");
                }
            }
        }
    }
}

/// What applying the desired state would change.
pub fn plan(manner: Manner, plan: &Plan, not_taken: Option<&NotTaken>) {
    match manner {
        Manner::Json => print_json(&json!({
            "generation": plan.generation.map(generation_json),
            "in_force": plan.in_force.map(generation_json),
            "profile": plan.profile,
            "unfinished": plan.is_unfinished,
            "steps": plan.steps,
            "not_taken": not_taken,
        })),
        Manner::Text => print_plan(plan, not_taken),
    }
}

fn generation_json(generation: Generation) -> serde_json::Value {
    json!({ "restore_epoch": generation.restore_epoch, "counter": generation.counter })
}

fn print_plan(plan: &Plan, not_taken: Option<&NotTaken>) {
    print_not_taken(not_taken, plan.in_force);
    let Some(generation) = plan.generation else {
        if not_taken.is_none() {
            say!("no desired state has been received yet");
        }
        return;
    };
    say!("{:13} {generation}", "generation");
    say!("{:13} {}", "in force", plan.in_force.map_or_else(|| "-".to_owned(), |one| one.to_string()));
    if plan.is_unfinished {
        say!("a change was interrupted; the agent settles it when it starts");
    }
    if plan.steps.is_empty() {
        say!("nothing would change");
    }
    for PlannedStep { section, item, action, mode, problem } in &plan.steps {
        let would = match (mode, action) {
            (Mode::Audit, _) => "report",
            (Mode::Enforce, Action::Create) => "create",
            (Mode::Enforce, Action::Replace) => "replace",
            (Mode::Enforce, Action::Remove) => "remove",
            (Mode::Enforce, Action::Set) => "set",
        };
        say!("{would:8} {:8} {item}", section.as_str());
        if let Some(problem) = problem {
            say!("{:17} → cannot: {problem}", "");
        }
    }
}

/// Which baseline is not in force and why, and then what to do; nothing where the newest one is.
fn print_not_taken(not_taken: Option<&NotTaken>, in_force: Option<Generation>) {
    if let Some(found) = not_taken {
        say!("{} ({}); {}", found.sentence(), found.at, holds(in_force));
        say!("{:13} {}", "next", found.remedy);
    }
}

/// Why the command failed, and what to do.
pub fn failure(manner: Manner, failure: &Failure) {
    match manner {
        Manner::Json => {
            say_err!("{}", serde_json::to_string(&failure.for_machines()).unwrap_or_default());
        }
        Manner::Text => {
            say_err!(
                "error: {}.\nnext:  {}.",
                failure.sentence().trim_end_matches('.'),
                failure.remedy().trim_end_matches('.')
            );
        }
    }
}

fn print_status(status: &Status) {
    let none = || "-".to_owned();
    let certificate = status.certificate.as_ref();
    let rows = [
        ("device", status.device.map_or_else(none, |device| device.to_string())),
        ("state", status.state.clone()),
        ("server said", said(status)),
        ("server", status.server.clone().unwrap_or_else(none)),
        ("certificate", certificate.map_or_else(none, |c| c.serial.clone())),
        ("valid until", certificate.map_or_else(none, |c| c.not_after.to_string())),
        ("authority", status.authority_version.map_or_else(none, |version| format!("version {version}"))),
        ("connected", if status.connected { "yes" } else { "no" }.to_owned()),
        ("generation", status.generation.map_or_else(none, |generation| generation.to_string())),
        ("lease", status.lease.as_ref().map_or_else(none, lease)),
        ("clears", status.clears.as_ref().map_or_else(none, clears)),
        ("stale", if status.stale { "yes" } else { "no" }.to_owned()),
        ("last contact", status.last_contact.map_or_else(none, |at| at.to_string())),
        ("root", status.root.clone().unwrap_or_else(none)),
    ];
    for (name, value) in rows {
        say!("{name:13} {value}");
    }
    print_not_taken(status.not_taken.as_ref(), status.generation);
    if let Some(refused) = &status.refused {
        say!(
            "the server refused this device at {} ({}); ask its operator why: `muster device explain` tells",
            refused.at,
            refused.word
        );
    }
    if status.state == "journal_lost" {
        say!("{}; {}", Refusal::JournalLost, Refusal::JournalLost.remedy());
    }
    if status.renewal_unfinished {
        say!("a renewal was interrupted; `muster-agent renew` takes it up");
    }
}

/// The state in the server's words; they are as old as they are.
fn said(status: &Status) -> String {
    status.said.as_ref().map_or_else(|| "-".to_owned(), |said| format!("{} at {}", said.word, said.at))
}

fn clears(clears: &ClearsStatus) -> String {
    let ClearsStatus { after_s, warrant, not_after } = clears;
    format!("itself after {} h without a newer word, by warrant {warrant} until {not_after}", after_s / 3600)
}

fn lease(lease: &LeaseStatus) -> String {
    let LeaseStatus { left_s, on_lapse, newest, .. } = lease;
    let (hours, minutes) = (left_s / 3600, left_s % 3600 / 60);
    let left = if lease.lapsed { "lapsed".to_owned() } else { format!("{hours} h {minutes} min left") };
    format!("{left} since the word of {newest}, then {on_lapse}")
}

fn print_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => {
            say!("{text}");
        }
        Err(error) => {
            say_err!("muster-agent: cannot print the answer: {error}");
        }
    }
}
