//! Arrows between crates: what each `Cargo.toml` depends on, in every dependency table.

use super::rules::{self, CrateRule, IMPURE_PACKAGES, Purity};
use super::{Findings, Violation};
use crate::task::Failure;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// One crate of the workspace.
#[derive(Debug)]
pub(crate) struct Member {
    /// Directory, relative to the root.
    pub(crate) directory: PathBuf,
    /// Package name.
    pub(crate) name: String,
    /// `Cargo.toml` as text, for line numbers.
    text: String,
    /// `Cargo.toml` as data.
    manifest: Table,
    /// `[workspace.dependencies]` of the root.
    inherited: Table,
}

impl Member {
    /// The rule of this crate, when the tables know it.
    pub(crate) fn rule(&self) -> Option<&'static CrateRule> {
        rules::of_crate(&self.name)
    }
}

/// The members that the root manifest lists.
pub(crate) fn members(root: &Path) -> Result<Vec<Member>, Failure> {
    let (_, top) = read(&root.join("Cargo.toml"))?;
    let workspace = table(&top, "workspace");
    let inherited = table(&workspace, "dependencies");
    let listed = workspace.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = Vec::new();
    for directory in listed.iter().filter_map(Value::as_str) {
        let (text, manifest) = read(&root.join(directory).join("Cargo.toml"))?;
        let name =
            table(&manifest, "package").get("name").and_then(Value::as_str).unwrap_or(directory).to_owned();
        found.push(Member {
            directory: directory.into(),
            name,
            text,
            manifest,
            inherited: inherited.clone(),
        });
    }
    Ok(found)
}

/// Adds every forbidden dependency of `member`.
pub(crate) fn check(root: &Path, member: &Member, findings: &mut Findings) -> Result<(), Failure> {
    findings.files += 1;
    let Some(rule) = member.rule() else {
        findings.violations.push(violation(
            member,
            1,
            format!("crate {} has no rule; draw its arrows in xtask/src/layers/rules.rs", member.name),
        ));
        return Ok(());
    };
    let ours: Vec<String> = members(root)?.into_iter().map(|member| member.name).collect();
    for (key, package) in dependencies(member) {
        let what = if ours.contains(&package) && !rule.may_use.contains(&package.as_str()) {
            format!("{} may not depend on {package}", rule.name)
        } else if rule.purity == Purity::Pure && IMPURE_PACKAGES.contains(&package.as_str()) {
            format!("{} is pure and may not depend on {package}", rule.name)
        } else {
            continue;
        };
        findings.violations.push(violation(member, line_of(&member.text, &key), what));
    }
    Ok(())
}

fn violation(member: &Member, line: usize, what: String) -> Violation {
    Violation { file: member.directory.join("Cargo.toml"), line, what }
}

/// Every dependency as (key in the manifest, real package name): ordinary, for tests, for build scripts, and
/// each of them again under `[target.…]`.
fn dependencies(member: &Member) -> Vec<(String, String)> {
    let mut places = vec![member.manifest.clone()];
    for platform in table(&member.manifest, "target").values() {
        places.extend(platform.as_table().cloned());
    }
    let mut found = Vec::new();
    for place in &places {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (key, value) in &table(place, kind) {
                found.push((key.clone(), package_name(key, value, &member.inherited)));
            }
        }
    }
    found
}

/// The package behind a key: a dependency may be renamed here or in the root.
fn package_name(key: &str, value: &Value, inherited: &Table) -> String {
    let renamed = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
    renamed(value).or_else(|| inherited.get(key).and_then(renamed)).unwrap_or_else(|| key.to_owned())
}

fn table(parent: &Table, key: &str) -> Table {
    parent.get(key).and_then(Value::as_table).cloned().unwrap_or_default()
}

fn line_of(text: &str, key: &str) -> usize {
    let starts = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.starts_with([' ', '=', '.']))
            || line.trim_end().ends_with(&format!("ependencies.{key}]"))
    };
    text.lines().position(starts).map_or(1, |index| index + 1)
}

fn read(path: &Path) -> Result<(String, Table), Failure> {
    let text = std::fs::read_to_string(path).map_err(Failure::file(path))?;
    let parsed = text.parse::<Table>().map_err(|cause| {
        Failure::red(format!("{}: {cause}", path.display()), "mend the manifest; cargo cannot read it either")
    })?;
    Ok((text, parsed))
}
