//! `muster doctor`: a server looked at from all sides.
//!
//! It looks at the data directory when that is on this machine, then at the server through its own doors. What it
//! finds is good, a warning, or bad; anything bad ends with exit code 1, unless all that is bad is that nothing was founded
//! (4) or that no server answers (5).

use super::credential::{self, ADMIN_CREDENTIAL};
use super::error::Error;
use super::output::Reader;
use super::table::{column, listing, plain, value_at};
use super::{Context, connection};
use crate::app::found::{self, FoundError};
use muster_wire::problem::Exit;
use muster_wire::time::Timestamp;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The file with the root's private key.
const ROOT_KEY: &str = "root.key";

/// Free space below which a warning is due, in bytes.
const LOW_SPACE: u64 = 256 * 1024 * 1024;

/// Clocks further apart than this break certificates that are backdated by five minutes, in seconds.
const SKEW_S: i64 = 240;

/// Life below which an authority's certificate should be replaced, in seconds.
const AUTHORITY_LIFE_S: i64 = 90 * 86_400;

/// How one thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    Warning,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    name: &'static str,
    state: State,
    detail: String,
    remedy: String,
    /// How the command ends where nothing else is wrong.
    exit: Exit,
}

fn good(name: &'static str, detail: impl Into<String>) -> Check {
    Check { name, state: State::Good, detail: detail.into(), remedy: String::new(), exit: Exit::Done }
}

fn warning(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { name, state: State::Warning, detail: detail.into(), remedy: remedy.into(), exit: Exit::Done }
}

fn bad(name: &'static str, error: &Error) -> Check {
    let text = error.for_people();
    let detail = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let exit = match error.exit() {
        away @ (Exit::NotFound | Exit::Unreachable) => away,
        Exit::Done | Exit::Failed | Exit::Usage | Exit::Refused => Exit::Failed,
    };
    Check { name, state: State::Bad, detail, remedy: error.remedy(), exit }
}

/// Looks at everything and prints what was found.
///
/// # Errors
/// [`Error::Output`] when standard output cannot be written.
pub async fn run(context: &Context) -> Result<Exit, Error> {
    let mut checks = Vec::new();
    let data_dir = context.global.data_dir();
    if data_dir.join(ADMIN_CREDENTIAL).exists() || context.global.data_dir.is_some() {
        match found::founded(&data_dir) {
            Err(nothing @ FoundError::NotFounded { .. }) => {
                checks.push(bad("data directory", &Error::founding(&nothing)));
                // Without another server there is none to ask.
                if !credential::is_server_named(&context.global, |name| std::env::var_os(name)) {
                    return report(context, &checks);
                }
            }
            _ => {
                checks.extend(directory_checks(&data_dir));
                checks.extend(status_check(&data_dir).await);
            }
        }
    }
    checks.extend(server_checks(context).await);
    report(context, &checks)
}

/// How the command ends: with what is bad, where all that is bad ends it alike.
fn exit_of(checks: &[Check]) -> Exit {
    let mut bad = checks.iter().filter(|check| check.state == State::Bad).map(|check| check.exit);
    match bad.next() {
        None => Exit::Done,
        Some(first) if bad.all(|other| other == first) => first,
        Some(_) => Exit::Failed,
    }
}

fn report(context: &Context, checks: &[Check]) -> Result<Exit, Error> {
    let exit = exit_of(checks);
    let ok = exit == Exit::Done;
    let items: Vec<Value> = checks
        .iter()
        .map(|check| {
            let state = match check.state {
                State::Good => "good",
                State::Warning => "warning",
                State::Bad => "bad",
            };
            let remedy = (!check.remedy.is_empty()).then_some(&check.remedy);
            json!({"name": check.name, "state": state, "detail": check.detail, "remedy": remedy})
        })
        .collect();
    match context.out.reader {
        Reader::Program => context.out.json(&json!({"ok": ok, "checks": items}))?,
        Reader::Person => {
            let columns = [column("WHAT", "/name"), column("STATE", "/state"), column("FOUND", "/detail")];
            context.out.line(&listing(&items, &columns, context.out.look).unwrap_or_default())?;
            for check in checks.iter().filter(|check| !check.remedy.is_empty()) {
                context.out.line(&format!("next:  {}: {}", check.name, plain(&check.remedy)))?;
            }
        }
    }
    Ok(exit)
}

fn directory_checks(data_dir: &Path) -> Vec<Check> {
    let metadata = match std::fs::metadata(data_dir).map_err(Error::file("read", data_dir)) {
        Ok(metadata) => metadata,
        Err(error) => return vec![bad("data directory", &error)],
    };
    let mut checks = vec![good("data directory", data_dir.display().to_string())];
    if metadata.permissions().mode() & 0o022 != 0 {
        checks.push(warning(
            "data directory",
            "others may write to it",
            format!("chmod go-w {}", data_dir.display()),
        ));
    }
    checks.push(keys_check(&data_dir.join("keys")));
    checks.extend(root_list_check(data_dir));
    match rustix::fs::statvfs(data_dir) {
        Ok(space) if space.f_bavail.saturating_mul(space.f_frsize) < LOW_SPACE => checks.push(warning(
            "disk space",
            format!("{} MiB free", space.f_bavail.saturating_mul(space.f_frsize) >> 20),
            "Free space before the server has to refuse enrolments.",
        )),
        Ok(space) => checks.push(good(
            "disk space",
            format!("{} MiB free", space.f_bavail.saturating_mul(space.f_frsize) >> 20),
        )),
        Err(cause) => checks.push(bad("disk space", &Error::file("measure", data_dir)(cause.into()))),
    }
    checks
}

/// What is wrong with the root's list of revoked authorities, which is served as it lies there.
fn root_list_check(data_dir: &Path) -> Option<Check> {
    let wrong = crate::app::found::check_root_list(data_dir).err()?;
    Some(bad("root's revocation list", &Error::told(&wrong)))
}

/// Whether the private keys are their owner's alone.
fn keys_check(keys: &Path) -> Check {
    let entries = match std::fs::read_dir(keys).map_err(Error::file("read", keys)) {
        Ok(entries) => entries,
        Err(error) => return bad("keys", &error),
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            count += 1;
            if metadata.permissions().mode() & 0o077 != 0 {
                let path = entry.path();
                let error = Error::refused(
                    format!("{} may be read by others", path.display()),
                    format!("chmod 600 {}; if others may have read it, replace the key.", path.display()),
                );
                return bad("keys", &error);
            }
        }
    }
    if keys.join(ROOT_KEY).exists() {
        return warning(
            "keys",
            "the root's private key lies on this machine",
            format!("Move {} to an offline place, and a copy to another.", keys.join(ROOT_KEY).display()),
        );
    }
    good("keys", format!("{count} files, for their owner alone"))
}

/// Whether the status listener says that the server is ready.
async fn status_check(data_dir: &Path) -> Option<Check> {
    let endpoints = match credential::read_endpoints(data_dir) {
        Ok(endpoints) => endpoints,
        Err(error) => return Some(bad("status listener", &error)),
    };
    let url = endpoints.status.join("/readyz").ok()?;
    Some(match connection::get_plain(&url).await {
        Ok((200, _)) => good("status listener", format!("{url} answers 200")),
        Ok((status, _)) => bad(
            "status listener",
            &Error::failed(
                format!("{url} answers {status}"),
                "Look at the server's log for what it waits for.",
            ),
        ),
        Err(error) => bad("status listener", &error),
    })
}

async fn server_checks(context: &Context) -> Vec<Check> {
    let client = match context.client() {
        Ok(client) => client,
        Err(error) => return vec![bad("credential", &error)],
    };
    let authority = match client.get_dated(&["v1", "authority"]).await {
        Ok(answer) => answer,
        Err(error) => return vec![bad("server", &error)],
    };
    let (document, server_s) = authority;
    let mut checks = vec![good(
        "server",
        format!("{} lets this credential in", client.server().origin().ascii_serialization()),
    )];
    checks.extend(server_s.map(|server_s| clock_check(server_s, context.clock.now_s())));
    checks.extend(authority_checks(&document));
    match client.get(&["v1", "rails"], &[]).await {
        Ok(rails) => checks.push(freeze_check(&rails)),
        Err(error) => checks.push(bad("freeze", &error)),
    }
    match client.get(&["v1", "ca"], &[]).await {
        Ok(authorities) => checks.extend(expiry_checks(&authorities, context.clock.now_s())),
        Err(error) => checks.push(bad("certificate authorities", &error)),
    }
    checks
}

/// Whether a freeze keeps back everything that would leave.
fn freeze_check(rails: &Value) -> Check {
    match rails.get("frozen").filter(|frozen| !frozen.is_null()) {
        None => good("freeze", "none"),
        Some(frozen) => {
            let [since, by] = ["/began_at", "/by"].map(|at| value_at(frozen, at));
            let detail = format!("nothing new leaves since {since}, by {by}");
            warning("freeze", detail, super::rails::HOW_TO_LIFT)
        }
    }
}

fn clock_check(server_s: i64, here_s: i64) -> Check {
    let skew = server_s - here_s;
    if skew.abs() <= SKEW_S {
        return good("clock", "here and on the server the same");
    }
    let remedy = "Set both clocks by time synchronisation: certificates are judged by them.";
    warning("clock", format!("the server's differs by {skew} s from the one here"), remedy)
}

/// Whether the approvers there are can do what the document asks of them, with somebody to spare.
fn authority_checks(document: &Value) -> Vec<Check> {
    let approvers = document.get("approvers").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    let required = document.get("required").and_then(Value::as_object);
    let needs: Vec<(&String, u64)> =
        required.into_iter().flatten().filter_map(|(kind, needs)| Some((kind, needs.as_u64()?))).collect();
    let unmet: Vec<&str> =
        needs.iter().filter(|(_, needs)| *needs > approvers).map(|(kind, _)| kind.as_str()).collect();
    let all_needed = needs.iter().any(|(_, needs)| *needs == approvers && approvers > 0);
    let mut checks = Vec::new();
    if !unmet.is_empty() {
        checks.push(warning(
            "authority",
            format!("{approvers} approvers cannot meet: {}", unmet.join(", ")),
            "Name more approvers at the next founding or in a successor document.",
        ));
    }
    if all_needed {
        checks.push(warning(
            "authority",
            format!("as many approvers are needed as exist ({approvers}): one lost key stops everything"),
            "Name another approver, and recovery keys that are kept offline.",
        ));
    }
    if checks.is_empty() {
        checks.push(good(
            "authority",
            format!("version {}, {approvers} approvers", value_at(document, "/version")),
        ));
    }
    checks
}

fn expiry_checks(authorities: &Value, now_s: i64) -> Vec<Check> {
    let mut checks = Vec::new();
    for name in ["root", "issuing", "names"] {
        let not_after = authorities.get(name).and_then(|one| one.get("not_after")).and_then(Value::as_str);
        let Some(until) = not_after.and_then(|text| text.parse::<Timestamp>().ok()) else { continue };
        if until.seconds() - now_s < AUTHORITY_LIFE_S {
            let detail = format!("the {name} authority ends {until}");
            checks.push(warning("certificate authorities", detail, "Replace it before devices outlive it."));
        }
    }
    if checks.is_empty() {
        checks.push(good("certificate authorities", "none ends within 90 days"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(checks: &[Check]) -> Vec<State> {
        checks.iter().map(|check| check.state).collect()
    }

    #[test]
    fn a_server_that_does_not_answer_is_unreachable_and_whatever_else_is_wrong_a_failure() {
        let away = || Error::NotRunning { what: "It is not running".into(), remedy: "Start it.".into() };
        let wrong = || Error::refused("a key may be read by others", "chmod 600");
        assert_eq!(exit_of(&[good("a", "b"), warning("c", "d", "e")]), Exit::Done);
        assert_eq!(exit_of(&[good("a", "b"), bad("c", &away()), bad("d", &away())]), Exit::Unreachable);
        assert_eq!(exit_of(&[bad("c", &away()), bad("d", &wrong())]), Exit::Failed);
        assert_eq!(exit_of(&[bad("d", &wrong())]), Exit::Failed);
        assert_eq!(exit_of(&[bad("e", &Error::not_found("nothing", "look"))]), Exit::NotFound);
    }

    #[test]
    fn as_many_approvers_as_are_needed_is_a_warning() {
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let document =
            |needs: u64| json!({"version": 1, "approvers": two, "required": {"wipe.clear": needs}});
        assert_eq!(states(&authority_checks(&document(1))), [State::Good]);
        assert_eq!(states(&authority_checks(&document(2))), [State::Warning]);
        let unmet = authority_checks(&document(3));
        assert!(unmet[0].detail.contains("wipe.clear"));
    }

    #[test]
    fn a_freeze_is_a_warning_that_says_since_when_and_how_it_ends() {
        assert_eq!(freeze_check(&json!({"frozen": null})).state, State::Good);
        let frozen = json!({"frozen": {"began_at": "2026-01-01T00:00:00Z", "by": "operator/ada"}});
        let found = freeze_check(&frozen);
        assert_eq!(found.state, State::Warning);
        assert!(found.detail.contains("2026-01-01T00:00:00Z") && found.detail.contains("operator/ada"));
        assert!(found.remedy.contains("muster freeze --lift"));
    }

    #[test]
    fn clocks_a_day_apart_are_a_warning() {
        assert_eq!(clock_check(1_000_000, 1_000_000 - 86_400).state, State::Warning);
        assert_eq!(clock_check(1_000_000, 1_000_060).state, State::Good);
    }

    #[test]
    fn an_authority_that_ends_soon_is_a_warning() {
        let authorities = json!({"root": {"not_after": "2045-01-01T00:00:00Z"}, "issuing": {"not_after": "2026-02-01T00:00:00Z"}});
        let now_s = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().seconds();
        let checks = expiry_checks(&authorities, now_s);
        assert_eq!(states(&checks), [State::Warning]);
        assert!(checks[0].detail.contains("issuing"));
    }

    #[test]
    fn a_key_that_others_may_read_is_bad() {
        let directory = tempfile::TempDir::new().unwrap();
        let key = directory.path().join("issuing.key");
        std::fs::write(&key, "x").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(keys_check(directory.path()).state, State::Good);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(keys_check(directory.path()).state, State::Bad);
    }

    #[test]
    fn a_root_key_that_is_still_here_is_a_warning() {
        let directory = tempfile::TempDir::new().unwrap();
        let key = directory.path().join(ROOT_KEY);
        std::fs::write(&key, "x").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(keys_check(directory.path()).state, State::Warning);
    }
}
