//! Whose a file is: names to numbers by `<root>/etc/passwd` and `<root>/etc/group`, and no other directory service,
//! since a device must be able to do it offline and a tree beneath `--root` has its own accounts.
//!
//! `root` is 0 everywhere. Numbers are no names.

use super::disk::{Dir, Found, Mounts};
use super::trouble::Trouble;

/// The accounts of one tree, as far as they were asked for.
#[derive(Debug)]
pub(super) struct Accounts {
    users: String,
    groups: String,
}

impl Accounts {
    /// The accounts of the tree at `root`; a missing file has nobody in it.
    pub(super) fn of(root: &Dir) -> Self {
        let text = |name| {
            let found = root.child("etc", Mounts::Crossed).and_then(|etc| etc.look(name));
            match found {
                Ok(Found::Plain(file)) => String::from_utf8_lossy(&file.content).into_owned(),
                Ok(Found::Absent | Found::Large | Found::Foreign) | Err(_) => String::new(),
            }
        };
        Self { users: text("passwd"), groups: text("group") }
    }

    pub(super) fn uid(&self, name: &str) -> Result<u32, Trouble> {
        number(&self.users, name).ok_or_else(|| Trouble::NoOwner { name: name.to_owned() })
    }

    pub(super) fn gid(&self, name: &str) -> Result<u32, Trouble> {
        number(&self.groups, name).ok_or_else(|| Trouble::NoGroup { name: name.to_owned() })
    }
}

/// The third field of the line that `name` begins, as both files have it.
fn number(text: &str, name: &str) -> Option<u32> {
    if name == "root" {
        return Some(0);
    }
    let mut lines = text.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let is_same = !name.is_empty() && fields.next() == Some(name);
        let number = fields.nth(1)?.parse().ok().filter(|number| *number != u32::MAX);
        if is_same { number } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_number_of_its_line_and_nothing_else_has_one() {
        let text =
            "daemon:x:1:1::/:\nbroken\n:x:7:7\nalice:x:1000:1000::/home/alice:/bin/sh\nall:x:4294967295:\n";
        assert_eq!(number(text, "alice"), Some(1000));
        assert_eq!(number(text, "root"), Some(0));
        for nobody in ["", "alic", "bob", "1000", "broken", "all"] {
            assert_eq!(number(text, nobody), None, "{nobody}");
        }
    }
}
