//! Fixtures: a workspace in which every arrow is right, and one for each arrow that is not.

use super::rules::{self, CLOCK_READS, CRATES, CrateRule, IMPURE_PACKAGES, Purity, RoomRule};
use super::{Findings, check};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A workspace with the crates of the tables, each with a source file for each of its rooms.
struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn clean() -> Self {
        Self::of(CRATES)
    }

    fn of(crates: &[CrateRule]) -> Self {
        let fixture = Self { directory: TempDir::new().unwrap() };
        let members: Vec<&str> = crates.iter().map(|rule| rule.name).collect();
        fixture.write("Cargo.toml", &format!("[workspace]\nmembers = {members:?}\n"));
        for rule in crates {
            fixture.manifest(rule, "");
            fixture.write(&format!("{}/src/lib.rs", rule.name), "//! A crate.\n");
            for room in rule.rooms.iter().filter(|room| room.name != "lib") {
                let lines: Vec<String> =
                    room.may_use.iter().map(|path| format!("use crate::{path};")).collect();
                fixture.room(rule, room, &lines.join("\n").replace("crate::", root_of(rule, room)));
            }
        }
        fixture
    }

    fn manifest(&self, rule: &CrateRule, more: &str) {
        let mut text = format!("[package]\nname = \"{}\"\n\n[dependencies]\n", rule.name);
        for dependency in rule.may_use {
            text.push_str(&format!("{dependency}.workspace = true\n"));
        }
        self.write(&format!("{}/Cargo.toml", rule.name), &format!("{text}{more}"));
    }

    fn room(&self, rule: &CrateRule, room: &RoomRule, text: &str) {
        let file = if matches!(room.name, "lib" | "main") {
            room.name.to_owned()
        } else {
            format!("{}/mod", room.name)
        };
        self.write(&format!("{}/src/{file}.rs", rule.name), text);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn check(&self) -> Findings {
        check(self.directory.path()).unwrap()
    }

    /// The violations as text, after `path` has been given `text`.
    fn with(&self, path: &str, text: &str) -> Vec<String> {
        let full = self.directory.path().join(path);
        let before = fs::read_to_string(&full).ok();
        self.write(path, text);
        let found = self.check().violations.iter().map(ToString::to_string).collect();
        match before {
            Some(before) => fs::write(full, before).unwrap(),
            None => fs::remove_file(full).unwrap(),
        }
        found
    }
}

/// How a room spells its own crate: `main.rs` is another crate and says the library's name.
fn root_of(rule: &CrateRule, room: &RoomRule) -> &'static str {
    match (room.name, rule.name) {
        ("main", "muster-server") => "muster_server::",
        ("main", _) => "muster_agent::",
        _ => "crate::",
    }
}

fn server() -> &'static CrateRule {
    rules::of_crate("muster-server").unwrap()
}

#[test]
fn every_arrow_that_is_drawn_is_allowed() {
    let findings = Fixture::clean().check();
    assert_eq!(findings.violations, [], "a clean house has no violations");
    assert!(findings.files > CRATES.len());
}

#[test]
fn every_arrow_between_rooms_that_is_not_drawn_is_found_in_every_spelling() {
    let mut tried = 0;
    for rule in CRATES {
        let fixture = Fixture::of(std::slice::from_ref(rule));
        for room in rule.rooms {
            for target in rule.rooms.iter().filter(|target| !matches!(target.name, "lib" | "main")) {
                if room.allows(&[target.name.to_owned()]) {
                    continue;
                }
                every_spelling(&fixture, rule, room, target.name);
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "only {tried} arrows tried");
}

fn every_spelling(fixture: &Fixture, rule: &CrateRule, room: &RoomRule, target: &str) {
    let root = root_of(rule, room);
    let file = match room.name {
        "lib" | "main" => format!("{}/src/{}.rs", rule.name, room.name),
        name => format!("{}/src/{name}/deep.rs", rule.name),
    };
    let mut spellings = vec![
        format!("\nuse {root}{target}::thing;\n"),
        format!("\nuse {root}{{{target}::{{thing as other}}}};\n"),
        format!("\nfn f() {{ {root}{target}::thing() }}\n"),
        format!("\nfn f() {{ format!(\"{{}}\", {root}{target}::thing()); }}\n"),
        format!("\n#[serde(with = \"{root}{target}::thing\")] struct S;\n"),
    ];
    if root == "crate::" && room.name != "lib" {
        spellings.push(format!("\nuse super::super::{target}::thing;\n"));
        spellings.push(format!("\nmod inner {{ fn f() {{ super::super::super::{target}::thing() }} }}\n"));
    }
    for text in spellings {
        let found = fixture.with(&file, &text);
        let expected = format!("{file}:2: `{}` may not name `{target}", room.name);
        assert!(
            found.len() == 1 && found.iter().all(|found| found.starts_with(&expected)),
            "{text} gave {found:?}"
        );
    }
}

#[test]
fn a_room_may_name_itself_by_every_road() {
    let text = "use super::key;\nuse crate::store::key as other;\nmod tests { use super::*; use super::super::writer; }\n";
    assert_eq!(Fixture::clean().with("muster-server/src/store/deep.rs", text), Vec::<String>::new());
}

#[test]
fn the_command_line_may_name_only_what_is_named_for_it() {
    let fixture = Fixture::clean();
    for allowed in ["app::found", "app::found::Founding", "audit::verify"] {
        assert_eq!(
            fixture.with("muster-server/src/cli/x.rs", &format!("use crate::{allowed};")),
            Vec::<String>::new()
        );
    }
    for forbidden in ["app", "app::enroll", "app::{self, found}", "audit::log", "audit::*"] {
        let found = fixture.with("muster-server/src/cli/x.rs", &format!("use crate::{forbidden};"));
        assert_eq!(found.len(), 1, "{forbidden}");
    }
}

#[test]
fn nothing_hides_behind_the_root_a_path_attribute_or_an_unknown_room() {
    let fixture = Fixture::clean();
    for (text, expected) in [
        ("use crate::*;", "imports the crate's root"),
        ("use super::super::*;", "imports the crate's root"),
        ("use super::super as root;", "imports the crate's root"),
        ("use crate::{self as root};", "imports the crate's root"),
        ("extern crate self as root;", "imports the crate's root"),
        ("#[path = \"../http/est.rs\"] mod est;", "`#[path]` to another directory hides"),
        ("mod inner { #[path = \"est.rs\"] mod est; }", "`#[path]` to another directory hides"),
    ] {
        let found = fixture.with("muster-server/src/store/deep.rs", text);
        assert!(
            found.len() == 1 && found.iter().all(|found| found.contains(expected)),
            "{text} gave {found:?}"
        );
    }
    let found = fixture.with("muster-server/src/utils.rs", "//! No room of ours.");
    assert!(
        found.iter().any(|found| found.contains("room `utils` of muster-server has no rule")),
        "{found:?}"
    );
}

#[test]
fn a_neighbour_taken_in_by_path_stands_where_it_was_taken_in() {
    let fixture = Fixture::clean();
    fixture.write(
        "muster-server/src/store/writer.rs",
        "#[cfg(test)]\n#[path = \"writer_tests.rs\"]\nmod tests;\n",
    );
    let neighbour = "muster-server/src/store/writer_tests.rs";
    assert_eq!(fixture.with(neighbour, "use super::*;\nuse super::super::key;\n"), Vec::<String>::new());
    let found = fixture.with(neighbour, "use super::super::super::http::est;\n");
    assert_eq!(found.len(), 1);
    assert!(
        found
            .iter()
            .all(|found| found.starts_with(&format!("{neighbour}:1: `store` may not name `http::est`")))
    );
}

#[test]
fn every_dependency_that_is_not_drawn_is_found_in_every_table() {
    let fixture = Fixture::clean();
    for rule in CRATES {
        for other in
            CRATES.iter().filter(|other| other.name != rule.name && !rule.may_use.contains(&other.name))
        {
            every_table(&fixture, rule, other.name, "may not depend on");
        }
    }
}

#[test]
fn a_pure_crate_depends_on_nothing_that_touches_the_world() {
    let fixture = Fixture::clean();
    for rule in CRATES.iter().filter(|rule| rule.purity == Purity::Pure) {
        for package in IMPURE_PACKAGES {
            every_table(&fixture, rule, package, "is pure and may not depend on");
        }
    }
}

fn every_table(fixture: &Fixture, rule: &CrateRule, package: &str, expected: &str) {
    let allowed = rule.may_use.len();
    for (text, line) in [
        (format!("{package} = \"1\"\n"), 5 + allowed),
        (format!("{package}.workspace = true\n"), 5 + allowed),
        (format!("disguise = {{ version = \"1\", package = \"{package}\" }}\n"), 5 + allowed),
        (format!("[dev-dependencies]\n{package} = \"1\"\n"), 6 + allowed),
        (format!("[build-dependencies]\n{package} = \"1\"\n"), 6 + allowed),
        (format!("[target.'cfg(unix)'.dependencies]\n{package} = \"1\"\n"), 6 + allowed),
        (format!("[dependencies.{package}]\nversion = \"1\"\n"), 5 + allowed),
    ] {
        let text =
            if text.starts_with("[dependencies.") && allowed == 0 { format!("\n{text}") } else { text };
        let line = if text.starts_with('\n') { line + 1 } else { line };
        let path = format!("{}/Cargo.toml", rule.name);
        fixture.manifest(rule, &text);
        let manifest = fs::read_to_string(fixture.directory.path().join(&path)).unwrap();
        let found = fixture.with(&path, &manifest);
        fixture.manifest(rule, "");
        let at = format!("{path}:{line}: {} {expected} {package}", rule.name);
        assert_eq!(found, [at], "{text}");
    }
}

#[test]
fn a_dependency_renamed_in_the_root_is_found() {
    let fixture = Fixture::clean();
    let root = fs::read_to_string(fixture.directory.path().join("Cargo.toml")).unwrap();
    let root =
        format!("{root}\n[workspace.dependencies]\ndisguise = {{ version = \"1\", package = \"tokio\" }}\n");
    fs::write(fixture.directory.path().join("Cargo.toml"), root).unwrap();
    fixture.manifest(rules::of_crate("muster-wire").unwrap(), "disguise.workspace = true\n");
    let found: Vec<String> = fixture.check().violations.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["muster-wire/Cargo.toml:5: muster-wire is pure and may not depend on tokio"]);
}

#[test]
fn a_pure_crate_or_room_reads_no_clock() {
    let fixture = Fixture::clean();
    let places = ["muster-wire/src/x.rs", "muster-pki/src/x.rs", "muster-firmware-profiles/src/x.rs"];
    for place in places.into_iter().chain(["muster-server/src/domain/x.rs", "muster-agent/src/core/x.rs"]) {
        let reads = CLOCK_READS.iter().map(|read| format!("\nfn f() {{ any::Type::{read}(); }}"));
        let names = [
            "\nuse std::time::{Duration, SystemTime};".to_owned(),
            "\nuse std::time::Instant as Other;".to_owned(),
            "\nfn f(at: std::time::Instant) {}".to_owned(),
            "\nfn f() { assert!(x < std::time::SystemTime::UNIX_EPOCH); }".to_owned(),
        ];
        for text in reads.chain(names) {
            let found = fixture.with(place, &text);
            let expected = format!("{place}:2: ");
            assert!(
                !found.is_empty() && found.iter().all(|found| found.starts_with(&expected)),
                "{place} {text} {found:?}"
            );
        }
        let innocent = "use std::time::Duration;\nfn f(now: i64) -> i64 { now }\n";
        assert_eq!(fixture.with(place, innocent), Vec::<String>::new());
    }
    let shell = fixture.with("muster-server/src/clock.rs", "fn f() { std::time::SystemTime::now(); }");
    assert_eq!(shell, Vec::<String>::new());
}

#[test]
fn a_crate_without_a_rule_is_found() {
    let fixture = Fixture::clean();
    fixture.write("stranger/Cargo.toml", "[package]\nname = \"muster-stranger\"\n");
    let found = fixture.with("Cargo.toml", "[workspace]\nmembers = [\"stranger\"]\n");
    assert_eq!(found.len(), 1);
    assert!(found.iter().all(|found| found.contains("crate muster-stranger has no rule")));
}

#[test]
fn this_workspace_is_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    assert_eq!(check(root).unwrap().violations, []);
}

#[test]
fn the_tables_name_each_room_once() {
    let mut names: Vec<&str> = server().rooms.iter().map(|room| room.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
