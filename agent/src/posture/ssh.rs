//! What sshd lets in: `sshd_config` and what it includes, as sshd_config(5) reads them.
//!
//! The first value of a keyword wins. A `Match` block holds for some connections only: what it permits is
//! permitted to someone, so it counts against the device, and what it forbids helps nobody else. Options on sshd's
//! command line cannot be seen here.

use std::collections::VecDeque;

use muster_wire::posture::FactValue;

use super::finding::Finding;
use super::tree::{Tree, Unread};

const CONFIG: &str = "/etc/ssh/sshd_config";
const PROGRAMS: [&str; 3] = ["/usr/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"];

/// No configuration is spread over more files.
const FILES_CAP: usize = 128;

/// sshd's own limit on includes within includes.
const DEPTH_CAP: usize = 16;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    keyword: String,
    value: String,
    /// The conditions of the `Match` block it stands in.
    only_for: Option<String>,
}

/// `ssh_root_login` and `ssh_password`.
pub(super) fn ssh(tree: &Tree) -> (Finding, Finding) {
    let both = |finding: Finding| (finding.clone().from(CONFIG), finding.from(CONFIG));
    if !PROGRAMS.iter().any(|program| tree.surely_has(program)) {
        return both(if tree.surely_has("/usr") {
            Finding::not_applicable("sshd is not installed")
        } else {
            Finding::unknown("there is no /usr to find sshd in")
        });
    }
    match read(tree) {
        Ok(settings) => (root_login(&settings).from(CONFIG), password(&settings).from(CONFIG)),
        Err(why) => both(Finding::unknown(why)),
    }
}

fn root_login(settings: &[Setting]) -> Finding {
    let is_open = |value: &str| value == "yes";
    let global = global(settings, &["permitrootlogin"], "prohibit-password");
    let value = FactValue::Text(global.clone());
    if is_open(&global) {
        return Finding::fail(value, "PermitRootLogin is yes");
    }
    if !matches!(global.as_str(), "no" | "prohibit-password" | "without-password" | "forced-commands-only") {
        return Finding::unknown(format!("PermitRootLogin has the value {global:?}"));
    }
    match conditional(settings, &["permitrootlogin"], is_open) {
        Some(whom) => Finding::fail(value, format!("PermitRootLogin is yes for Match {whom}")),
        None => Finding::pass(value, format!("PermitRootLogin is {global}")),
    }
}

fn password(settings: &[Setting]) -> Finding {
    const PASSWORD: &[&str] = &["passwordauthentication"];
    const KEYBOARD: &[&str] = &["kbdinteractiveauthentication", "challengeresponseauthentication"];
    let is_open = |value: &str| value != "no";
    let by_pam = is_open(&global(settings, &["usepam"], "no"));
    let fail = |evidence: String| Finding::fail(FactValue::Bool(true), evidence);
    if is_open(&global(settings, PASSWORD, "yes")) {
        return fail("PasswordAuthentication is not no".into());
    }
    if by_pam && is_open(&global(settings, KEYBOARD, "yes")) {
        return fail("KbdInteractiveAuthentication is not no, and PAM asks for passwords".into());
    }
    let exception = conditional(settings, PASSWORD, is_open)
        .or_else(|| conditional(settings, KEYBOARD, is_open).filter(|_| by_pam));
    match exception {
        Some(whom) => fail(format!("passwords are accepted for Match {whom}")),
        None => Finding::pass(FactValue::Bool(false), "only keys are accepted"),
    }
}

fn global(settings: &[Setting], keywords: &[&str], default: &str) -> String {
    let mut named = settings.iter().filter(|one| keywords.contains(&one.keyword.as_str()));
    let first = named.find(|one| one.only_for.is_none());
    first.map_or_else(|| default.to_owned(), |one| one.value.to_ascii_lowercase())
}

/// The conditions under which one of `keywords` is open.
fn conditional<'a>(
    settings: &'a [Setting],
    keywords: &[&str],
    is_open: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let mut named = settings.iter().filter(|one| keywords.contains(&one.keyword.as_str()));
    named.find_map(|one| one.only_for.as_deref().filter(|_| is_open(&one.value.to_ascii_lowercase())))
}

/// Every setting in the order in which sshd meets them.
fn read(tree: &Tree) -> Result<Vec<Setting>, String> {
    let mut settings = Vec::new();
    let mut budget = FILES_CAP;
    read_file(tree, CONFIG, &mut Scope { only_for: None, depth: 0 }, &mut budget, &mut settings)?;
    Ok(settings)
}

#[derive(Clone)]
struct Scope {
    only_for: Option<String>,
    depth: usize,
}

fn read_file(
    tree: &Tree,
    path: &str,
    scope: &mut Scope,
    budget: &mut usize,
    settings: &mut Vec<Setting>,
) -> Result<(), String> {
    let too_many = || format!("the includes of {CONFIG} go in a circle or are too many");
    *budget = budget.checked_sub(1).filter(|_| scope.depth <= DEPTH_CAP).ok_or_else(too_many)?;
    let text = match tree.text(path) {
        Ok(text) => text,
        // What goes away between the look and the reading was not there.
        Err(Unread::Missing) if scope.depth > 0 => return Ok(()),
        Err(why) => return Err(format!("{path} {why}")),
    };
    for mut words in text.lines().map(words) {
        let Some(keyword) = words.pop_front().map(|word| word.to_ascii_lowercase()) else { continue };
        match keyword.as_str() {
            "match" => scope.only_for = condition(words),
            "include" => {
                for path in words
                    .iter()
                    .map(|pattern| matching(tree, pattern))
                    .collect::<Result<Vec<_>, _>>()?
                    .concat()
                {
                    // A Match that begins in an included file ends with it.
                    let mut inner = Scope { only_for: scope.only_for.clone(), depth: scope.depth + 1 };
                    read_file(tree, &path, &mut inner, budget, settings)?;
                }
            }
            _ => {
                let value = words.pop_front().unwrap_or_default();
                settings.push(Setting { keyword, value, only_for: scope.only_for.clone() });
            }
        }
    }
    Ok(())
}

/// `Match all` holds for everyone, as if there were no condition.
fn condition(words: VecDeque<String>) -> Option<String> {
    let words: Vec<String> = words.into();
    let is_all = matches!(words.as_slice(), [word] if word.eq_ignore_ascii_case("all"));
    (!is_all).then(|| words.join(" "))
}

/// The files that an `Include` names, sorted as sshd sorts them.
fn matching(tree: &Tree, pattern: &str) -> Result<Vec<String>, String> {
    let absolute = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/ssh/{pattern}") };
    let (dir, name) = absolute.rsplit_once('/').unwrap_or(("", &absolute));
    if dir.contains(['*', '?', '[']) || name.contains('[') {
        return Err(format!("the pattern {pattern} in {CONFIG} is not understood"));
    }
    if !name.contains(['*', '?']) {
        return Ok(vec![absolute]);
    }
    match tree.names(dir) {
        Ok(names) => {
            let shown = names.iter().filter(|found| !found.starts_with('.') && fits(found, name));
            Ok(shown.map(|found| format!("{dir}/{found}")).collect())
        }
        Err(Unread::Missing) => Ok(Vec::new()),
        Err(why) => Err(format!("{dir} {why}")),
    }
}

/// Whether `name` fits a pattern of `*` and `?`, in time proportional to the product of their lengths.
fn fits(name: &str, pattern: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut reached = vec![false; pattern.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    let over_stars = |reached: &mut Vec<bool>| {
        for at in 0..pattern.len() {
            if pattern.get(at) == Some(&'*') && reached.get(at) == Some(&true) {
                reached.splice(at + 1..at + 2, [true]);
            }
        }
    };
    over_stars(&mut reached);
    for letter in name.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for (at, expected) in pattern.iter().enumerate() {
            if reached.get(at) != Some(&true) {
                continue;
            }
            let to = if *expected == '*' { at } else { at + 1 };
            if matches!(expected, '*' | '?') || *expected == letter {
                next.splice(to..=to, [true]);
            }
        }
        over_stars(&mut next);
        reached = next;
    }
    reached.last() == Some(&true)
}

/// The words of a line: separated by blanks or one `=`, quoted with `"`, up to `#`.
fn words(line: &str) -> VecDeque<String> {
    let mut words = VecDeque::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(&letter) = letters.peek() {
        if letter == '#' {
            break;
        }
        if letter.is_whitespace() || (letter == '=' && words.len() == 1) {
            letters.next();
            continue;
        }
        let mut word = String::new();
        if letter == '"' {
            letters.next();
            word.extend(letters.by_ref().take_while(|letter| *letter != '"'));
        } else {
            let ends = |letter: &char| !letter.is_whitespace() && (*letter != '=' || !words.is_empty());
            while let Some(letter) = letters.next_if(ends) {
                word.push(letter);
            }
        }
        words.push_back(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_wire::posture::FactState;
    use proptest::prelude::*;

    fn found(config: &str) -> (Finding, Finding) {
        let dir = tempfile::tempdir().unwrap();
        for path in ["usr/sbin", "etc/ssh"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("usr/sbin/sshd"), "").unwrap();
        std::fs::write(dir.path().join("etc/ssh/sshd_config"), config).unwrap();
        ssh(&Tree::at(dir.path()))
    }

    fn states(config: &str) -> (FactState, FactState) {
        let (root, password) = found(config);
        (root.state, password.state)
    }

    use FactState::{Fail, Pass, Unknown};

    #[test]
    fn what_is_not_said_is_as_openssh_ships_it() {
        assert_eq!(states(""), (Pass, Fail));
    }

    #[test]
    fn the_first_value_wins() {
        assert_eq!(states("PermitRootLogin no\nPermitRootLogin yes\n").0, Pass);
        assert_eq!(states("permitrootlogin = \"yes\"\nPermitRootLogin no\n").0, Fail);
    }

    #[test]
    fn keyboard_interactive_is_a_password_where_pam_asks() {
        assert_eq!(states("PasswordAuthentication no\n").1, Pass);
        assert_eq!(states("PasswordAuthentication no\nUsePAM yes\n").1, Fail);
        assert_eq!(
            states("UsePAM yes\nPasswordAuthentication no\nChallengeResponseAuthentication no\n").1,
            Pass
        );
    }

    #[test]
    fn what_a_match_permits_counts_and_what_it_forbids_does_not() {
        let (root, _) =
            found("PermitRootLogin no\nMatch Address 10.0.0.0/8 # inside\n  PermitRootLogin yes\n");
        assert_eq!(
            (root.state, root.evidence.as_str()),
            (Fail, "PermitRootLogin is yes for Match Address 10.0.0.0/8")
        );
        assert_eq!(states("Match User bob\n PasswordAuthentication no\n").1, Fail);
        assert_eq!(
            states("Match User bob\n X11Forwarding no\nMatch all\nPasswordAuthentication no\n").1,
            Pass
        );
    }

    #[test]
    fn an_include_in_a_circle_ends_as_unknown() {
        assert_eq!(states("Include sshd_config\n"), (Unknown, Unknown));
        assert_eq!(states("Include /etc/*/x\n"), (Unknown, Unknown));
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        assert!(fits("50-cloud.conf", "*.conf") && fits("a", "?") && fits("", "*") && fits("abc", "a*c"));
        assert!(!fits("50-cloud.conf~", "*.conf") && !fits("", "?") && !fits("ab", "a*c"));
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "(\\PC|[=\"# \t]){0,80}", name in "[ab]{0,12}", pattern in "[ab*?]{0,8}") {
            words(&line);
            if !pattern.contains(['*', '?']) {
                prop_assert_eq!(fits(&name, &pattern), name == pattern);
            }
            let long = format!("{pattern}*");
            prop_assert!(!fits(&name, &pattern) || fits(&name, &long));
        }
    }
}
