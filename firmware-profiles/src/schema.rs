//! Reading a profile file, and saying exactly what is wrong with one.
//!
//! Three passes, each with its own kind of error: the text is TOML; every key is one of [`KEYS`]; the values have
//! the types and ranges that [`crate::profile`] names. An error gives file, line and key, and where a key looks
//! like another one, that one. The first error ends the reading.

use crate::profile::{BaselineFile, Profile};
use serde::de::DeserializeOwned;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

mod check;

/// Every key that a profile file may have. `*` stands for any name; list elements repeat the path of their list.
pub const KEYS: &[&str] = &[
    "name",
    "description",
    "personal",
    "certificate.keys",
    "certificate.validity_days",
    "certificate.grace_days",
    "certificate.renew_percent",
    "enrollment.approval",
    "enrollment.serial",
    "est.server_keygen",
    "est.tls12",
    "intervals.report_s",
    "intervals.posture_s",
    "lease.lasts_hours",
    "lease.on_lapse",
    "baseline.files.path",
    "baseline.files.content",
    "baseline.files.mode",
    "baseline.files.owner",
    "baseline.sysctl.*",
    "posture.rules.fact",
    "posture.rules.remediation",
    "posture.rules.grace_hours",
    "posture.rules.action",
    "posture.rules.unknown",
    "wipe.roots",
    "wipe.data_roots",
    "wipe.levels",
    "override.site",
    "override.label",
    "override.certificate.validity_days",
    "override.certificate.grace_days",
    "override.certificate.renew_percent",
    "override.lease.lasts_hours",
    "override.lease.on_lapse",
    "override.baseline.files.path",
    "override.baseline.files.content",
    "override.baseline.files.mode",
    "override.baseline.files.owner",
    "override.baseline.sysctl.*",
    "override.posture.rules.fact",
    "override.posture.rules.remediation",
    "override.posture.rules.grace_hours",
    "override.posture.rules.action",
    "override.posture.rules.unknown",
];

/// Why a profile file is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is not TOML.
    #[error("{file}:{line}: not TOML: {message}")]
    Syntax {
        /// Name of the file, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the TOML reader says.
        message: String,
    },
    /// The key is none of [`KEYS`].
    #[error("{file}:{line}: unknown key `{key}`{}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// Name of the file, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key with its path.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The value has the wrong type, is none of the words that are allowed, or a key is missing.
    #[error("{file}:{line}: {}{message}", quoted(.key))]
    WrongType {
        /// Name of the file, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key with its path; that of the table when a key is missing in it; empty for the whole file.
        key: String,
        /// What was found and what is expected.
        message: String,
    },
    /// The value is of the right type and makes no sense.
    #[error("{file}:{line}: `{key}`: {why}")]
    Invalid {
        /// Name of the file, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// The key with its path.
        key: String,
        /// What is wrong, and what would be right.
        why: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; remove it, or see the list of keys in firmware-profiles/README.md".to_owned(),
        |key| format!("; did you mean `{key}`?"),
    )
}

fn quoted(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

/// Every key that a baseline file may have; see [`KEYS`].
pub const BASELINE_KEYS: &[&str] = &[
    "profile",
    "baseline.files.path",
    "baseline.files.content",
    "baseline.files.mode",
    "baseline.files.owner",
    "baseline.sysctl.*",
    "lease.lasts_hours",
    "lease.on_lapse",
    "override.site",
    "override.label",
    "override.lease.lasts_hours",
    "override.lease.on_lapse",
    "override.baseline.files.path",
    "override.baseline.files.content",
    "override.baseline.files.mode",
    "override.baseline.files.owner",
    "override.baseline.sysctl.*",
];

pub(crate) fn parse(file: &str, text: &str) -> Result<Profile, SchemaError> {
    read(&Place { file, text, keys: KEYS }, check::profile)
}

pub(crate) fn parse_baseline(file: &str, text: &str) -> Result<BaselineFile, SchemaError> {
    read(&Place { file, text, keys: BASELINE_KEYS }, check::baseline_file)
}

fn read<T: DeserializeOwned>(
    place: &Place<'_>,
    check: impl Fn(&T) -> Result<(), check::Fault>,
) -> Result<T, SchemaError> {
    let table = DeTable::parse(place.text).map_err(|error| SchemaError::Syntax {
        file: place.file.to_owned(),
        line: place.line(error.span()),
        message: error.message().to_owned(),
    })?;
    refuse_unknown(place, table.get_ref(), "")?;
    let said = T::deserialize(toml::de::Deserializer::from(table.clone())).map_err(|error| {
        SchemaError::WrongType {
            file: place.file.to_owned(),
            line: place.line(error.span()),
            key: error.span().and_then(|span| key_at(table.get_ref(), &span)).unwrap_or_default(),
            message: in_plain_words(error.message()),
        }
    })?;
    check(&said).map_err(|fault| SchemaError::Invalid {
        file: place.file.to_owned(),
        line: place.line(span_of(table.get_ref(), &fault.path)),
        key: fault.key(),
        why: fault.why,
    })?;
    Ok(said)
}

/// Turns byte offsets into lines.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
    keys: &'static [&'static str],
}

impl Place<'_> {
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let start = span.map_or(0, |span| span.start);
        1 + self.text.bytes().take(start).filter(|byte| *byte == b'\n').count()
    }
}

fn refuse_unknown(place: &Place<'_>, table: &DeTable<'_>, prefix: &str) -> Result<(), SchemaError> {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        let Some(known) = known_path(place.keys, prefix, key.get_ref()) else {
            return Err(SchemaError::UnknownKey {
                file: place.file.to_owned(),
                line: place.line(Some(key.span())),
                nearest: meant(place.keys, prefix, key.get_ref()),
                key: path,
            });
        };
        for table in tables_in(value.get_ref()) {
            refuse_unknown(place, table, &format!("{known}."))?;
        }
    }
    Ok(())
}

/// What was probably meant by the unknown `key` under `prefix`: a key of the same table that looks like it, or the
/// same key in the table where it belongs.
fn meant(keys: &[&str], prefix: &str, key: &str) -> Option<String> {
    let beside = keys.iter().filter_map(|known| known.strip_prefix(prefix)?.split('.').next());
    if let Some(near) = nearest(key, beside.filter(|name| *name != "*")) {
        return Some(format!("{prefix}{near}"));
    }
    keys.iter().find(|known| known.rsplit('.').next() == Some(key)).map(|known| (*known).to_owned())
}

/// The path of `key` under `prefix` when some known key is it or lies beneath it.
fn known_path(keys: &[&str], prefix: &str, key: &str) -> Option<String> {
    if keys.contains(&format!("{prefix}*").as_str()) {
        return Some(format!("{prefix}*"));
    }
    let path = format!("{prefix}{key}");
    let beneath = format!("{path}.");
    keys.iter().any(|known| *known == path || known.starts_with(&beneath)).then_some(path)
}

fn tables_in<'t, 'i>(value: &'t DeValue<'i>) -> Vec<&'t DeTable<'i>> {
    match value {
        DeValue::Table(table) => vec![table],
        DeValue::Array(array) => array.iter().filter_map(|item| item.get_ref().as_table()).collect(),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => Vec::new(),
    }
}

/// The candidate that `word` was probably meant to be: the most similar one, if it is similar at all.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .map(|(_, candidate)| candidate)
}

/// The words of the deserialiser in those of a person who writes TOML.
fn in_plain_words(message: &str) -> String {
    let mut plain =
        message.replace("missing field", "missing key").replace("unknown variant", "unknown word");
    for number in ["u8", "u16", "u32"] {
        plain = plain.replace(&format!("expected {number}"), "expected a whole number that fits");
    }
    plain
}

/// The path of the innermost key whose value covers `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let covers =
        |value: &Spanned<DeValue<'_>>| value.span().start <= span.start && span.end <= value.span().end;
    for (key, value) in table {
        let inner = tables_in(value.get_ref()).into_iter().find_map(|table| key_at(table, span));
        if let Some(inner) = inner {
            return Some(format!("{}.{inner}", key.get_ref()));
        }
        if covers(value) {
            return Some(key.get_ref().to_string());
        }
    }
    None
}

/// Where the value at `path` stands in the text; the innermost table that exists when it was left out.
fn span_of(table: &DeTable<'_>, path: &[check::Step]) -> Option<Range<usize>> {
    let mut span = None;
    let mut here: Option<&Spanned<DeValue<'_>>> = None;
    for step in path {
        let next = match (step, here) {
            (check::Step::Key(key), None) => table.get(key.as_str()),
            (check::Step::Key(key), Some(value)) => {
                value.get_ref().as_table().and_then(|t| t.get(key.as_str()))
            }
            (check::Step::Index(index), Some(value)) => {
                value.get_ref().as_array().and_then(|a| a.get(*index))
            }
            (check::Step::Index(_), None) => None,
        };
        let Some(value) = next else { break };
        span = Some(value.span());
        here = next;
    }
    span
}

#[cfg(test)]
mod tests;
