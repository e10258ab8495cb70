//! A successor of the authority document in words, read from the bytes that are signed.

use super::difference;
use super::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_wire::authority::Authority;
use muster_wire::envelope::MultiSigned;
use serde_json::Value;

/// A successor beside the document that it follows, read from the bytes that are signed.
pub(super) struct Change {
    pub(super) signed: MultiSigned<Authority>,
    pub(super) current: Authority,
    pub(super) next: Authority,
}

impl Change {
    /// Reads a proposal as the server or a package tells it.
    pub(super) fn of(pending: &Value) -> Result<Self, Error> {
        let current = read(pending.get("current").unwrap_or(&Value::Null))?;
        let signed = read(pending.get("document").unwrap_or(&Value::Null))?;
        let (before, next) = (current.read_unverified(), signed.read_unverified());
        let (Ok(before), Ok(next)) = (before, next) else { return Err(unreadable()) };
        // Signed for is a document with this predecessor: so what it changes is changed in nothing but that one.
        let follows = next.previous == Some(current.payload_digest())
            && before.version.checked_add(1) == Some(next.version);
        let is_in_force = current.payload_digest() == signed.payload_digest();
        if follows || is_in_force {
            return Ok(Self { signed, current: before, next });
        }
        Err(Error::refused(
            format!("The proposal of version {} does not follow version {}", next.version, before.version),
            "Sign nothing: get a new package, and ask whoever runs the server.",
        ))
    }

    pub(super) fn lines(&self) -> Vec<String> {
        difference::lines(&self.current, &self.next)
    }

    /// What nobody could have done any more.
    pub(super) fn warnings(&self) -> Vec<String> {
        difference::unmet(&self.current, &self.next)
    }

    pub(super) fn in_words(&self) -> String {
        let (from, to) = (self.current.version, self.next.version);
        let domain = self.next.trust_domain.as_str();
        let head = format!("The authority of {domain}, version {from}, becomes version {to}:");
        let lines = self.lines();
        let lines = if lines.is_empty() { vec!["nothing changes".to_owned()] } else { lines };
        let warnings = self.warnings().into_iter().map(|warning| format!("\nWARNING: {warning}."));
        format!("{head}\n  {}{}", lines.join("\n  "), warnings.collect::<String>())
    }

    /// Whose key has this id, in either document.
    pub(super) fn name_of(&self, key: &muster_wire::key::KeyId) -> Option<String> {
        let approvers = self.current.approvers.iter().chain(&self.next.approvers);
        let mut names = approvers.map(|one| (one.key, &one.name));
        let mut recovery = self.current.recovery.iter().map(|one| (one.key, &one.name));
        let found = names.find(|(held, _)| held.key_id() == *key);
        found.or_else(|| recovery.find(|(held, _)| held.key_id() == *key)).map(|(_, name)| name.to_string())
    }
}

/// A signed document, from base64.
pub(super) fn read(text: &Value) -> Result<MultiSigned<Authority>, Error> {
    let bytes = text.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or_else(unreadable)?;
    MultiSigned::parse_unfinished(&bytes).map_err(|_| unreadable())
}

pub(super) fn unreadable() -> Error {
    Error::failed(
        "What came is no proposal of an authority document",
        "Get it again with `muster authority show --pending --package FILE`.",
    )
}
