//! `muster profile`: what a device of a kind should be.
//!
//! `check` reads a file on this machine and needs no server.

use super::Context;
use super::error::Error;
use super::output::Reader;
use super::table::{self, Column, column};
use clap::Subcommand;
use muster_firmware_profiles::{Profile, SchemaError};
use muster_wire::problem::Exit;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The commands about firmware profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// List the profiles the server knows
    List,
    /// Show one profile
    Show {
        /// Name of the profile
        #[arg(value_name = "P")]
        profile: String,
    },
    /// Check profile files on this machine; exit code 1 when one is wrong
    Check {
        /// The files
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

const LISTING: &[Column] = &[
    column("NAME", "/name"),
    column("DESCRIPTION", "/description"),
    column("VALID DAYS", "/validity_days"),
    column("APPROVAL", "/profile/enrollment/approval"),
    column("VERSION", "/version"),
];

/// Runs one of the commands about firmware profiles.
///
/// # Errors
/// Whatever the server refuses or the way there does not allow; for `check`, a file that cannot be read.
pub async fn run(context: &Context, command: ProfileCommand) -> Result<Exit, Error> {
    match command {
        ProfileCommand::List => {
            let items = context.client()?.list(&["v1", "profiles"], &[], None).await?;
            context.out.items(items, LISTING, "The server knows no profile.")?;
            Ok(Exit::Done)
        }
        ProfileCommand::Show { profile } => {
            let item = context.client()?.get(&["v1", "profiles", &profile], &[]).await?;
            show(context, &item)?;
            Ok(Exit::Done)
        }
        ProfileCommand::Check { files } => match files.as_slice() {
            [file] => check(context, file),
            files => check_all(context, files),
        },
    }
}

fn show(context: &Context, item: &Value) -> Result<(), Error> {
    if context.out.reader == Reader::Program {
        return context.out.json(item);
    }
    let pairs = rows(item);
    let pairs: Vec<(&str, String)> =
        pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    context.out.line(&table::facts(&pairs, context.out.look))
}

/// What is shown of a profile: what it is first, then everything it says, each once.
fn rows(item: &Value) -> Vec<(String, String)> {
    let mut said = Vec::new();
    flatten("", item.get("profile").unwrap_or(item), &mut said);
    let is_first = |name: &str| matches!(name, "name" | "description");
    let (mut pairs, rest): (Vec<_>, Vec<_>) = said.into_iter().partition(|(name, _)| is_first(name));
    pairs.sort_by(|one, other| other.0.cmp(&one.0));
    pairs.push(("version".to_owned(), table::value_at(item, "/version")));
    pairs.extend(rest);
    pairs
}

/// Every leaf of `value` with its path, `certificate.validity_days` for instance; what is empty is left out.
fn flatten(path: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path =
                    if path.is_empty() { table::plain(key) } else { format!("{path}.{}", table::plain(key)) };
                flatten(&path, value, pairs);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), item, pairs);
            }
        }
        Value::Array(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            let words = table::value_at(value, "");
            if words != "-" {
                pairs.push((path.to_owned(), words));
            }
        }
    }
}

fn check(context: &Context, path: &Path) -> Result<Exit, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
    let (exit, document, words) = judge(&path.display().to_string(), &text);
    match context.out.reader {
        Reader::Program => context.out.json(&document)?,
        Reader::Person if exit == Exit::Done => context.out.line(&words)?,
        Reader::Person => return Err(Error::failed(words, "Correct that line and check again.")),
    }
    Ok(exit)
}

/// Several files: a line for each, or with `--json` an array of what one alone would print.
fn check_all(context: &Context, paths: &[PathBuf]) -> Result<Exit, Error> {
    let mut found = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        found.push(judge(&path.display().to_string(), &text));
    }
    let wrong = found.iter().filter(|(exit, ..)| *exit != Exit::Done).count();
    if context.out.reader == Reader::Program {
        let documents = found.into_iter().map(|(_, document, _)| document).collect();
        context.out.json(&Value::Array(documents))?;
        return Ok(if wrong == 0 { Exit::Done } else { Exit::Failed });
    }
    for (_, _, words) in &found {
        context.out.line(&table::plain(words))?;
    }
    if wrong == 0 {
        return Ok(Exit::Done);
    }
    let what = format!("{wrong} of {} profiles are wrong", paths.len());
    Err(Error::failed(what, "Correct the lines named above and check again."))
}

/// What there is to say about the profile in `text`: exit code, for programs, for people.
fn judge(file: &str, text: &str) -> (Exit, Value, String) {
    match Profile::parse(file, text) {
        Ok(profile) => {
            let version = profile.version().to_string();
            let words = format!("{file} is good: profile {}, version {version}", profile.name);
            let document =
                json!({"ok": true, "file": file, "profile": profile.name, "version": version, "errors": []});
            (Exit::Done, document, words)
        }
        Err(error) => {
            let errors = json!([{"line": line_of(&error), "message": error.to_string()}]);
            let document =
                json!({"ok": false, "file": file, "profile": null, "version": null, "errors": errors});
            (Exit::Failed, document, error.to_string())
        }
    }
}

fn line_of(error: &SchemaError) -> Option<usize> {
    match error {
        SchemaError::Syntax { line, .. }
        | SchemaError::UnknownKey { line, .. }
        | SchemaError::WrongType { line, .. }
        | SchemaError::Invalid { line, .. } => Some(*line),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_profile_is_named_by_line_and_ends_with_one() {
        let (exit, document, words) = judge("p.toml", "name = \"p\"\ncolour = \"red\"\n");
        assert_eq!(
            (exit as u8, &document["ok"], &document["errors"][0]["line"]),
            (1, &json!(false), &json!(2))
        );
        assert!(words.starts_with("p.toml:2: unknown key `colour`"), "{words}");
    }

    #[test]
    fn built_in_profiles_pass_the_check() {
        for (file, text) in muster_firmware_profiles::builtin::SOURCES {
            let (exit, document, _) = judge(file, text);
            assert_eq!((exit as u8, &document["ok"]), (0, &json!(true)), "{file}");
            assert_eq!(document["version"].as_str().unwrap().len(), 64);
        }
    }

    #[test]
    fn a_profile_is_shown_with_everything_once_and_its_name_first() {
        let profile = json!({"personal": true, "name": "p", "description": "d", "posture": {"x": 1}});
        let item =
            json!({"name": "p", "description": "d", "personal": true, "version": "v", "profile": profile});
        let names: Vec<String> = rows(&item).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["name", "description", "version", "personal", "posture.x"]);
    }

    #[test]
    fn a_profile_is_shown_leaf_by_leaf() {
        let mut pairs = Vec::new();
        flatten("", &json!({"a": {"b": 1, "c": []}, "d": [{"e": "x"}], "f": ["y", "z"]}), &mut pairs);
        let wanted = [("a.b", "1"), ("d[0].e", "x"), ("f", "y, z")];
        assert_eq!(pairs, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
