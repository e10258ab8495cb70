use super::*;
use crate::builtin;
use proptest::prelude::*;

fn laptop() -> String {
    builtin::source("laptop-linux").unwrap().to_owned()
}

/// What the reader says when `from` in the laptop's file is replaced by `to`.
fn refusal(from: &str, to: &str) -> String {
    let text = laptop();
    assert!(text.contains(from), "the file has no {from:?}");
    Profile::parse("p.toml", &text.replacen(from, to, 1)).unwrap_err().to_string()
}

/// What the reader says about the laptop's file with `more` at its end.
fn refusal_of_more(more: &str) -> String {
    Profile::parse("p.toml", &format!("{}{more}", laptop())).unwrap_err().to_string()
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
    insta::assert_snapshot!(
        refusal("validity_days", "validity_day"),
        @"p.toml:8: unknown key `certificate.validity_day`; did you mean `certificate.validity_days`?"
    );
    insta::assert_snapshot!(refusal("renew_percent", "colour"), @"p.toml:11: unknown key `certificate.colour`; remove it, or see the list of keys in firmware-profiles/README.md");
    insta::assert_snapshot!(refusal("[est]", "[est]\nvalidity_days = 1"), @"p.toml:18: unknown key `est.validity_days`; did you mean `certificate.validity_days`?");
    insta::assert_snapshot!(refusal("[posture", "[postures"), @"p.toml:30: unknown key `postures`; did you mean `posture`?");
    insta::assert_snapshot!(refusal("remediation", "remedy"), @"p.toml:32: unknown key `posture.rules.remedy`; remove it, or see the list of keys in firmware-profiles/README.md");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    insta::assert_snapshot!(refusal("validity_days = 30", "validity_days = "), @"p.toml:8: not TOML: string values must be quoted, expected literal string");
    insta::assert_snapshot!(refusal("[est]", "[certificate]"), @"p.toml:17: not TOML: duplicate key");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_line() {
    insta::assert_snapshot!(refusal("validity_days = 30", "validity_days = \"30\""), @r#"p.toml:8: `certificate.validity_days`: invalid type: string "30", expected a whole number that fits"#);
    insta::assert_snapshot!(refusal("\"p384\"", "\"p385\""), @"p.toml:7: `certificate.keys`: unknown word `p385`, expected one of `p256`, `p384`, `ed25519`, `rsa`");
    insta::assert_snapshot!(refusal("approval = \"none\"", "approval = \"maybe\""), @"p.toml:14: `enrollment.approval`: unknown word `maybe`, expected `none` or `required`");
    insta::assert_snapshot!(refusal("validity_days = 30", "validity_days = -1"), @"p.toml:8: `certificate.validity_days`: invalid value: integer `-1`, expected a whole number that fits");
}

#[test]
fn a_missing_key_is_named() {
    insta::assert_snapshot!(refusal("name = \"laptop-linux\"\n", ""), @"p.toml:1: missing key `name`");
    insta::assert_snapshot!(refusal("validity_days = 30\n", ""), @"p.toml:6: `certificate`: missing key `validity_days`");
}

#[test]
fn a_value_out_of_range_is_refused_with_what_would_be_right() {
    insta::assert_snapshot!(refusal("\"laptop-linux\"", "\"Laptop Linux\""), @"p.toml:2: `name`: use 1 to 63 of a-z, 0-9 and -, starting with a letter or digit: the name is part of URLs");
    insta::assert_snapshot!(refusal("validity_days = 30", "validity_days = 3000"), @"p.toml:8: `certificate.validity_days`: 3000 is out of range; choose 1 to 398");
    insta::assert_snapshot!(refusal("renew_percent = 66", "renew_percent = 99"), @"p.toml:11: `certificate.renew_percent`: 99 is out of range; choose 10 to 90");
    insta::assert_snapshot!(refusal("server_keygen = false", "server_keygen = true"), @"p.toml:18: `est.server_keygen`: this release never makes a device's key on the server; set it to false");
    insta::assert_snapshot!(refusal("report_s = 900", "report_s = 1"), @"p.toml:22: `intervals.report_s`: 1 is out of range; choose 60 to 604800");
    insta::assert_snapshot!(refusal("\"kernel.dmesg_restrict\"", "dmesg"), @r#"p.toml:26: `baseline.sysctl.dmesg`: not the name of a kernel setting; write "kernel.kptr_restrict", quoted and with dots"#);
}

#[test]
fn a_posture_rule_is_refused_for_a_fact_that_no_agent_collects() {
    insta::assert_snapshot!(refusal("\"firewall\"", "\"firewal\""), @"p.toml:37: `posture.rules.fact`: no agent collects `firewal`; did you mean `firewall`?");
    insta::assert_snapshot!(refusal("\"firewall\"", "\"weather\""), @"p.toml:37: `posture.rules.fact`: no agent collects `weather`; choose one of agent_integrity, disk_encryption, firewall, kernel_lockdown, os_support, reboot_required, secure_boot, security_updates, ssh_password, ssh_root_login, swap_encryption, time_sync, tpm");
    insta::assert_snapshot!(refusal("\"firewall\"", "\"disk_encryption\""), @"p.toml:37: `posture.rules.fact`: this fact has a rule already");
}

#[test]
fn a_wipe_plan_names_directories_and_rising_levels() {
    let roots = "[\"/var/lib/muster-agent/managed\"]";
    insta::assert_snapshot!(refusal(roots, "[\"/\"]"), @"p.toml:70: `wipe.roots`: write absolute directories without `.`, `..` and `//`, and never `/` itself");
    insta::assert_snapshot!(refusal(roots, "[\"/srv/../etc\"]"), @"p.toml:70: `wipe.roots`: write absolute directories without `.`, `..` and `//`, and never `/` itself");
    insta::assert_snapshot!(refusal(roots, "[\"/srv/a\", \"/srv\"]"), @"p.toml:70: `wipe.roots`: a root lies inside another one; name the outer one only");
    let data = "data_roots = [\"/var/lib/muster-agent/managed\"]";
    insta::assert_snapshot!(refusal(data, "data_roots = [\"/home\"]"), @"p.toml:71: `wipe.data_roots`: name directories that are a root or lie inside one; nothing else is touched");
    insta::assert_snapshot!(refusal(data, "data_roots = [\"/var/lib/muster-agent/managed/..\"]"), @"p.toml:71: `wipe.data_roots`: name directories that are a root or lie inside one; nothing else is touched");
    insta::assert_snapshot!(refusal("\"retire\", \"clear\"", "\"clear\", \"retire\""), @"p.toml:72: `wipe.levels`: name each level once, mildest first: retire, clear, crypto-erase, factory-reset");
    insta::assert_snapshot!(refusal("\"retire\", \"clear\"", "\"clear\""), @"p.toml:72: `wipe.levels`: `retire` has to be among them");
    insta::assert_snapshot!(refusal("personal = false", "personal = true"), @r#"p.toml:72: `wipe.levels`: a personal device is only ever retired; write ["retire"]"#);
}

#[test]
fn a_managed_file_is_absolute_and_never_setuid() {
    let file = |path: &str, mode: &str| {
        format!(
            "[[override]]\nsite = \"x\"\n[[override.baseline.files]]\npath = \"{path}\"\nmode = \"{mode}\"\ncontent = \"\"\n"
        )
    };
    insta::assert_snapshot!(refusal_of_more(&file("etc/motd", "0644")), @"p.toml:76: `override.baseline.files.path`: write an absolute path without `.`, `..` and `//`");
    insta::assert_snapshot!(refusal_of_more(&file("/etc/motd", "4755")), @r#"p.toml:77: `override.baseline.files.mode`: write four octal digits, "0644" for instance, without setuid, setgid and sticky bit"#);
    insta::assert_snapshot!(refusal_of_more(&file("/etc/motd", "644")), @r#"p.toml:77: `override.baseline.files.mode`: write four octal digits, "0644" for instance, without setuid, setgid and sticky bit"#);
}

#[test]
fn a_lease_has_a_length_and_clears_only_where_the_profile_can() {
    let lease = |text: &str| refusal_of_more(&format!("[lease]\n{text}\n"));
    insta::assert_snapshot!(lease("lasts_hours = 0"), @"p.toml:74: `lease.lasts_hours`: 0 is out of range; choose 1 to 8784");
    insta::assert_snapshot!(lease("on_lapse = \"lock\""), @"p.toml:73: `lease`: missing key `lasts_hours`");
    insta::assert_snapshot!(lease("lasts_hours = 336\non_lapse = \"explode\""), @"p.toml:75: `lease.on_lapse`: unknown word `explode`, expected one of `report`, `drop_secrets`, `lock`, `clear`");
    let mild = format!("{}[lease]\nlasts_hours = 1\non_lapse = \"clear\"\n", laptop());
    assert!(Profile::parse("p.toml", &mild).is_ok());
    let mild = mild.replace("\"retire\", \"clear\", \"crypto-erase\"", "\"retire\"");
    insta::assert_snapshot!(Profile::parse("p.toml", &mild).unwrap_err().to_string(), @"p.toml:75: `lease.on_lapse`: `clear` is not among this profile's wipe levels; choose report, drop_secrets or lock");
}

#[test]
fn an_override_says_where_it_applies() {
    insta::assert_snapshot!(refusal_of_more("[[override]]\ncertificate = { validity_days = 3 }\n"), @"p.toml:73: `override.site`: an override needs `site` or `label`, or both; what holds everywhere goes to the top");
    insta::assert_snapshot!(refusal_of_more("[[override]]\nlabel = \"tier\"\n"), @r#"p.toml:74: `override.label`: write "key=value""#);
    insta::assert_snapshot!(
        refusal_of_more("[[override]]\nsite = \"x\"\ncertificate = { validity_days = 900 }\n"),
        @"p.toml:75: `override.certificate.validity_days`: 900 is out of range; choose 1 to 398"
    );
    insta::assert_snapshot!(refusal_of_more("[[override]]\nsite = \"x\"\nwipe = { roots = [\"/home\"] }\n"), @"p.toml:75: unknown key `override.wipe`; remove it, or see the list of keys in firmware-profiles/README.md");
}

#[test]
fn comments_spacing_and_order_do_not_change_the_version() {
    let plain = Profile::parse("p.toml", &laptop()).unwrap();
    let spaced = laptop().replace(" = ", "  =  ").replace("\n[est]", "\n# a word\n\n[est]");
    assert_eq!(plain.version(), Profile::parse("p.toml", &spaced).unwrap().version());
    let swapped = laptop().replace("report_s = 900\nposture_s = 3600", "posture_s = 3600\nreport_s = 900");
    assert_ne!(swapped, laptop());
    assert_eq!(plain.version(), Profile::parse("p.toml", &swapped).unwrap().version());
}

#[test]
fn a_change_of_meaning_changes_the_version() {
    let plain = Profile::parse("p.toml", &laptop()).unwrap();
    let other = Profile::parse("p.toml", &laptop().replace("grace_days = 60", "grace_days = 61")).unwrap();
    assert_ne!(plain.version(), other.version());
}

#[test]
fn every_field_of_the_types_is_a_known_key_and_every_known_key_is_a_field() {
    for key in KEYS {
        let leaf = key.rsplit('.').next().unwrap();
        assert!(leaf == "*" || whole().contains(leaf), "{key} is missing in the whole example");
    }
    Profile::parse("p.toml", &whole()).unwrap();
    assert_eq!(
        paths_of(DeTable::parse(&whole()).unwrap().get_ref(), ""),
        KEYS.iter().copied().map(str::to_owned).collect()
    );
}

/// A profile that uses every key once.
fn whole() -> String {
    format!(
        "{}[lease]\nlasts_hours = 336\non_lapse = \"lock\"\n[[baseline.files]]\npath = \"/etc/motd\"\ncontent = \"x\"\nmode = \"0644\"\nowner = \"root\"\n\
         [[override]]\nsite = \"x\"\nlabel = \"a=b\"\n\
         certificate = {{ validity_days = 1, grace_days = 1, renew_percent = 50 }}\n\
         lease = {{ lasts_hours = 1, on_lapse = \"report\" }}\n\
         baseline = {{ sysctl = {{ \"a.b\" = \"1\" }}, files = [{{ path = \"/a\", content = \"\", mode = \"0600\", owner = \"root\" }}] }}\n\
         posture = {{ rules = [{{ fact = \"ssh_password\", remediation = \"x\", grace_hours = 1, action = \"warn\", unknown = \"counted\" }}] }}\n",
        laptop()
    )
}

fn paths_of(table: &DeTable<'_>, prefix: &str) -> std::collections::BTreeSet<String> {
    let mut paths = std::collections::BTreeSet::new();
    for (key, value) in table {
        let path = known_path(KEYS, prefix, key.get_ref()).unwrap();
        let tables = tables_in(value.get_ref());
        if tables.is_empty() {
            paths.insert(path);
        } else {
            for table in tables {
                paths.extend(paths_of(table, &format!("{path}.")));
            }
        }
    }
    paths
}

#[test]
fn the_readme_explains_every_key() {
    let readme = include_str!("../../README.md");
    for key in KEYS.iter().filter(|key| !key.starts_with("override.")) {
        assert!(readme.contains(&format!("| `{key}` |")), "README.md says nothing about {key}");
    }
}

#[test]
fn the_readme_lists_the_kernel_settings_that_need_no_approver() {
    let readme = include_str!("../../README.md");
    let (_, listed) =
        readme.split_once("| kernel setting | values that need no approver |\n| --- | --- |\n").unwrap();
    let told: Vec<&str> = listed.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |(key, values): &(&str, &[&str])| {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        format!("| `{key}` | {} |", values.join(", "))
    };
    let rows: Vec<String> = muster_wire::approval::LISTED.iter().map(row).collect();
    assert_eq!(told, rows, "write it as the agent has it, in wire/src/approval.rs");
    for root in muster_wire::approval::DECLARED_ROOTS {
        assert!(readme.contains(&format!("`{root}`")), "README.md says nothing about {root}");
    }
}

proptest! {
    #[test]
    fn nothing_malformed_panics(text in "[a-z\\[\\]\\.=\" \n0-9{},]{0,200}") {
        let _ = Profile::parse("p.toml", &text);
    }

    #[test]
    fn a_damaged_profile_is_read_or_refused_and_never_panics(at in 0usize..2000, byte in 32u8..127) {
        let mut bytes = laptop().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Err(error) = Profile::parse("p.toml", &String::from_utf8(bytes).unwrap()) {
            prop_assert!(error.to_string().starts_with("p.toml:"));
        }
    }
}

#[test]
fn a_baseline_file_says_sections_and_deviations_and_nothing_of_the_rest_of_a_profile() {
    let text = "profile = \"laptop-linux\"\n[baseline.sysctl]\n\"kernel.kptr_restrict\" = \"2\"\n[[override]]\n\
                site = \"oslo\"\nbaseline = { sysctl = { \"kernel.kptr_restrict\" = \"1\" } }\n";
    let file = BaselineFile::parse("b.toml", text).unwrap();
    assert_eq!((file.profile.as_str(), file.overrides.len()), ("laptop-linux", 1));
    let wrong = |text: &str| BaselineFile::parse("b.toml", text).unwrap_err().to_string();
    assert!(
        wrong("profile = \"p\"\n[certificate]\nvalidity_days = 1\n").starts_with("b.toml:2: unknown key")
    );
    assert!(wrong("profile = \"p\"\n[baseline.sysctls]\n").contains("did you mean `baseline.sysctl`"));
    let relative = "profile = \"p\"\n\n[[baseline.files]]\npath = \"etc/motd\"\ncontent = \"\"\n";
    assert!(wrong(relative).starts_with("b.toml:4:"), "{}", wrong(relative));
    assert!(wrong("[baseline]\n").contains("missing key `profile`"));
}
