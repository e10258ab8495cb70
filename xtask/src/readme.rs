//! What the README promises about settings is what the server reads.

use std::fs;
use std::path::Path;

/// The text of a file of this repository.
fn text(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap()
}

/// The string literals that follow `field: ` in Rust source, in order.
fn literals(source: &str, field: &str) -> Vec<String> {
    let marker = format!("        {field}: \"");
    source
        .lines()
        .filter_map(|line| line.strip_prefix(&marker)?.strip_suffix("\",").map(str::to_owned))
        .collect()
}

#[test]
fn every_setting_stands_in_the_readme_with_its_default_and_its_words() {
    let source = text("server/src/config/keys.rs");
    let readme = text("README.md");
    let (names, defaults) = (literals(&source, "name"), literals(&source, "default"));
    let help = literals(&source, "help");
    assert!(names.len() > 10, "the table of keys was not found");
    assert!(names.len() == defaults.len() && names.len() == help.len(), "a key is spelled in an unknown way");
    for ((name, default), help) in names.iter().zip(&defaults).zip(&help) {
        let default = if default.is_empty() { "–".to_owned() } else { format!("`{default}`") };
        let row = format!("| `{name}` | {default} | {help} |");
        assert!(readme.contains(&row), "README.md lacks the row\n{row}");
    }
    let settings = readme.split("## Settings").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let rows = settings.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, names.len(), "README.md names a setting that does not exist");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for document in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/adr/README.md"] {
        let here = Path::new(document).parent().unwrap();
        for link in text(document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with('#') || link.contains("://") {
                continue;
            }
            assert!(root.join(here).join(link).exists(), "{document} links to {link}");
        }
    }
}
