//! Which operating system runs, from os-release(5). Whether it is still supported is the server's to judge: the
//! dates move, and devices do not hear of it.

use std::collections::BTreeMap;

use muster_wire::posture::{FactState, FactValue};

use super::finding::Finding;
use super::tree::{Tree, Unread};

/// The files, the first that exists counts.
const FILES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// `os_support`: value `debian 12` (ID and VERSION_ID), evidence PRETTY_NAME.
pub(super) fn os_support(tree: &Tree) -> Finding {
    for file in FILES {
        match tree.text(file) {
            Ok(text) => return told(&os_release(&text)).from(file),
            Err(Unread::Missing) => {}
            Err(why) => return Finding::unknown(format!("{file} {why}")).from(file),
        }
    }
    Finding::unknown("there is no os-release file").from(FILES.join(", "))
}

/// The system's ID, for collectors that differ by system.
pub(super) fn id(tree: &Tree) -> Option<String> {
    let text = FILES.iter().find_map(|file| tree.text(file).ok())?;
    os_release(&text).remove("ID")
}

fn told(fields: &BTreeMap<String, String>) -> Finding {
    let word = |key: &str| fields.get(key).filter(|value| is_word(value)).cloned();
    let Some(id) = word("ID") else {
        return Finding::unknown("os-release names no ID");
    };
    let value = match word("VERSION_ID") {
        Some(version) => format!("{id} {version}"),
        None => id,
    };
    let pretty = fields.get("PRETTY_NAME").cloned().unwrap_or_else(|| value.clone());
    Finding::new(FactState::Unknown, FactValue::Text(value), pretty)
}

/// "a lower-case string … 0–9, a–z, '.', '_' and '-'" (os-release(5)).
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

/// The assignments in `text`; the last one of a name counts, as in a shell.
pub(super) fn os_release(text: &str) -> BTreeMap<String, String> {
    let assignment = |line: &str| {
        let (name, value) = line.trim().split_once('=')?;
        let is_name =
            name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        (is_name && !name.is_empty()).then(|| (name.to_owned(), unquote(value)))
    };
    text.lines().filter_map(assignment).collect()
}

fn unquote(value: &str) -> String {
    let value = value.trim();
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    let mut plain = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        if letter == '\\' { plain.extend(letters.next()) } else { plain.push(letter) }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_and_escapes_are_those_of_a_shell() {
        let fields =
            os_release("# x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='A \"b\"'\nNAME=\"a\\$b\"\nlow=1\n");
        assert_eq!(fields["ID"], "debian");
        assert_eq!(fields["VERSION_ID"], "12");
        assert_eq!(fields["PRETTY_NAME"], "A \"b\"");
        assert_eq!(fields["NAME"], "a$b");
        assert!(!fields.contains_key("low"));
    }

    #[test]
    fn an_id_that_is_no_word_is_no_system() {
        let found = told(&os_release("ID=\"rm -rf /\"\nVERSION_ID=1\n"));
        assert_eq!((found.state, found.value), (FactState::Unknown, FactValue::Nothing));
    }

    #[test]
    fn a_rolling_release_has_an_id_alone() {
        let found = told(&os_release("ID=arch\nPRETTY_NAME=\"Arch Linux\"\n"));
        assert_eq!(found.value, FactValue::Text("arch".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[=\"'\\\\\n]|ID){0,200}") {
            told(&os_release(&text));
        }
    }
}
