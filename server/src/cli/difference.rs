//! Two authority documents beside each other, in words, read from the bytes that are signed.

use muster_wire::approver::{ApproverName, fingerprint};
use muster_wire::authority::Authority;
use muster_wire::key::Ed25519Key;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What `next` changes of `current`, a line each, in the order of the document.
pub(super) fn lines(current: &Authority, next: &Authority) -> Vec<String> {
    let mut lines = keys("command key", &current.command_keys, &next.command_keys);
    lines.extend(keys("audit key", &current.audit_keys, &next.audit_keys));
    let approvers = |document: &Authority| -> Vec<(ApproverName, Ed25519Key)> {
        document.approvers.iter().map(|one| (one.name.clone(), one.key)).collect()
    };
    let recovery = |document: &Authority| -> Vec<(ApproverName, Ed25519Key)> {
        document.recovery.iter().map(|one| (one.name.clone(), one.key)).collect()
    };
    lines.extend(people("approver", &approvers(current), &approvers(next)));
    for one in &next.approvers {
        let before = current.approvers.iter().find(|before| before.key == one.key);
        if before.is_some_and(|before| before.valid_from != one.valid_from) {
            lines.push(format!("~ approver {} valid from {}", one.name, one.valid_from));
        }
    }
    lines.extend(people("recovery key", &recovery(current), &recovery(next)));
    lines.extend(counts(current, next));
    if current.trust_domain != next.trust_domain {
        lines.push(format!(
            "~ trust domain {} becomes {}",
            current.trust_domain.as_str(),
            next.trust_domain.as_str()
        ));
    }
    lines
}

fn keys(what: &str, before: &[Ed25519Key], after: &[Ed25519Key]) -> Vec<String> {
    let gone =
        before.iter().filter(|key| !after.contains(key)).map(|key| format!("- {what} {}", fingerprint(key)));
    let new =
        after.iter().filter(|key| !before.contains(key)).map(|key| format!("+ {what} {}", fingerprint(key)));
    gone.chain(new).collect()
}

type Named = (ApproverName, Ed25519Key);

fn people(what: &str, before: &[Named], after: &[Named]) -> Vec<String> {
    let line = |sign: char, (name, key): &Named| format!("{sign} {what} {name}, key {}", fingerprint(key));
    let gone = before.iter().filter(|one| !after.contains(one)).map(|one| line('-', one));
    let new = after.iter().filter(|one| !before.contains(one)).map(|one| line('+', one));
    gone.chain(new).collect()
}

fn counts(current: &Authority, next: &Authority) -> Vec<String> {
    let before: BTreeMap<_, _> = current.required.iter().collect();
    let after: BTreeMap<_, _> = next.required.iter().collect();
    let mut lines = Vec::new();
    for (matter, count) in &after {
        match before.get(matter) {
            Some(former) if former == count => {}
            Some(former) => lines.push(format!("~ {matter} needs {count} approvers, {former} before")),
            None => lines.push(format!("+ {matter} needs {count} approvers")),
        }
    }
    let gone = before.keys().filter(|matter| !after.contains_key(*matter));
    lines.extend(gone.map(|matter| format!("- {matter} is refused from then on")));
    lines
}

/// What nobody could have done once `next` is in force: matters that it lets need more approvers than it names, where
/// `current` did not do just that, too.
pub(super) fn unmet(current: &Authority, next: &Authority) -> Vec<String> {
    let before: BTreeMap<_, _> = current.required.iter().collect();
    let (there, then) = (current.approvers.len() as u64, next.approvers.len() as u64);
    let is_news = |matter: &str, count: u64| {
        before.get(matter).is_none_or(|former| *former <= there || *former != count)
    };
    let short = next.required.iter().filter(|(matter, count)| *count > then && is_news(matter, *count));
    let told = short.map(|(matter, count)| {
        format!(
            "{matter} would need {count} approvers and there would be {then}: nobody could have it done until a later \
             successor lowers the number or adds approvers"
        )
    });
    told.collect()
}

/// Somebody as people compare keys: by fingerprint, not by the key itself.
pub(super) fn with_fingerprint(person: &Value) -> Value {
    let mut shown = person.clone();
    let mut key = [0; 32];
    let read = person.get("key").and_then(Value::as_str).map(|text| hex::decode_to_slice(text, &mut key));
    if let (Some(Ok(())), Ok(key), Some(fields)) = (read, Ed25519Key::from_bytes(&key), shown.as_object_mut())
    {
        fields.insert("key".to_owned(), json!(fingerprint(&key)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    use muster_wire::authority::{Approver, Matter, Required};
    use muster_wire::time::Timestamp;

    /// A key that no call before has answered.
    fn key() -> Ed25519Key {
        static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let seed = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        Ed25519Key::from_bytes(key.verifying_key().as_bytes()).unwrap()
    }

    fn approver(name: &str) -> Approver {
        Approver { name: name.parse().unwrap(), key: key(), valid_from: Timestamp(0) }
    }

    fn document() -> Authority {
        Authority {
            version: 1,
            trust_domain: "fleet.example".parse().unwrap(),
            command_keys: vec![key()],
            audit_keys: vec![key()],
            approvers: vec![approver("a"), approver("b")],
            recovery: Vec::new(),
            required: Required::founding(2).0,
            previous: None,
        }
    }

    #[test]
    fn a_person_is_shown_with_the_fingerprint_and_no_other_form_of_the_key() {
        let key = key();
        let person = json!({"name": "a", "key": hex::encode(key.as_bytes())});
        assert_eq!(with_fingerprint(&person), json!({"name": "a", "key": fingerprint(&key)}));
        let nobody = json!({"name": "a", "key": "00"});
        assert_eq!(with_fingerprint(&nobody), nobody);
    }

    #[test]
    fn what_nobody_could_have_done_any_more_is_told_and_what_was_so_before_is_not() {
        let current = document();
        assert_eq!(unmet(&current, &current), [""; 0], "many are beyond two approvers from the start");
        let mut next = current.clone();
        next.required = next.required.with(Matter::WipeClear, 9);
        let found = unmet(&current, &next);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("wipe(clear) would need 9 approvers and there would be 2:"),
            "{found:?}"
        );
        let mut next = current.clone();
        let _ = next.approvers.pop();
        assert!(unmet(&current, &next).iter().any(|line| line.starts_with("authority would need 2")));
    }

    #[test]
    fn every_change_has_its_line_and_nothing_else_has() {
        let current = document();
        assert_eq!(lines(&current, &current), [""; 0]);
        let mut next = current.clone();
        next.approvers[1] = approver("b");
        next.command_keys = vec![key()];
        next.required = next.required.with(Matter::Lock, 2);
        next.approvers[0].valid_from = Timestamp(5);
        let found = lines(&current, &next);
        let starts: Vec<_> = found.iter().map(|line| line.split(", key").next().unwrap()).collect();
        let expected = [
            format!("- command key {}", fingerprint(&current.command_keys[0])),
            format!("+ command key {}", fingerprint(&next.command_keys[0])),
            "- approver b".to_owned(),
            "+ approver b".to_owned(),
            "~ approver a valid from 1970-01-01T00:00:05Z".to_owned(),
            "~ lock needs 2 approvers, 1 before".to_owned(),
        ];
        assert_eq!(starts, expected);
    }
}
