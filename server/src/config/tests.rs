use super::*;
use proptest::prelude::*;

fn from_file(text: &str) -> Result<Settings, String> {
    let mut settings = Settings::default();
    settings.apply_file("muster.toml", text).map(|()| settings).map_err(|error| error.to_string())
}

fn from_environment(name: &str, value: &str) -> Result<Settings, String> {
    Settings::load(None, [(name.to_owned(), value.to_owned())]).map_err(|error| error.to_string())
}

#[test]
fn every_default_in_the_table_is_the_default_in_the_program() {
    for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
        let mut settings = Settings::default();
        (key.apply)(&mut settings, key.default).unwrap();
        assert_eq!(settings, Settings::default(), "{}", key.name);
    }
}

#[test]
fn no_two_keys_share_a_name_or_a_variable() {
    let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    let variables: std::collections::BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
    assert_eq!((names.len(), variables.len()), (KEYS.len(), KEYS.len()));
    assert!(KEYS.iter().all(|key| !key.help.is_empty()));
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let mut settings = Settings::default();
    settings.apply_file("f", "[listen]\ndevice = \"127.0.0.1:1\"\nmqtt = \"127.0.0.1:2\"").unwrap();
    settings.apply_environment([("MUSTER_LISTEN_DEVICE".to_owned(), "127.0.0.1:0".to_owned())]).unwrap();
    assert_eq!(settings.listen.device, "127.0.0.1:0".parse().unwrap());
    assert_eq!(settings.listen.mqtt, "127.0.0.1:2".parse().unwrap());
    assert_eq!(settings.listen.admin, "127.0.0.1:9443".parse().unwrap());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
    insta::assert_snapshot!(from_file("[listen]\ndevcie = \"127.0.0.1:1\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("\n\ntls12 = true").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[weather]\nsunny = true").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[weather]").unwrap_err(), @"");
    insta::assert_snapshot!(from_environment("MUSTER_LISTEN_DEVCIE", "x").unwrap_err(), @"");
}

#[test]
fn a_bad_value_says_what_to_do() {
    insta::assert_snapshot!(from_file("[listen]\ndevice = \"localhost:8443\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[listen]\ndevice = 8443").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("listen = \"0.0.0.0:1\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[advertise]\ndevice = \"https://a/\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[est]\ntls12 = \"yes\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[limits]\nbody_s = 0").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[limits]\nbody_s = [1]").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("trust_domain = \"Example Com\"").unwrap_err(), @"");
    insta::assert_snapshot!(from_environment("MUSTER_LOG_FORMAT", "xml").unwrap_err(), @"");
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    insta::assert_snapshot!(from_file("[listen]\ndevice = 0.0.0.0:8443").unwrap_err(), @"");
    insta::assert_snapshot!(from_file("[listen]\n[listen]").unwrap_err(), @"");
}

#[test]
fn a_settings_file_that_cannot_be_read_is_refused_with_its_path() {
    let error = Settings::load(Some(Path::new("/nowhere/muster.toml")), []).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"");
}

#[test]
fn variables_of_other_programs_and_of_the_command_line_are_left_alone() {
    for name in ["MUSTER_SERVER", "MUSTER_CREDENTIAL", "MUSTER_LOG", "MUSTER_DATA_DIR", "PATH"] {
        assert_eq!(from_environment(name, "x"), Ok(Settings::default()));
    }
}

#[test]
fn an_advertised_name_keeps_its_port_or_takes_the_bound_one() {
    let text = "[advertise]\ndevice = \"a.example:443\"\nmqtt = \"[2001:db8::1]:1\"\nstatus = \"B.example\"";
    let settings = from_file(text).unwrap();
    let or = |set: &Option<Advertised>| Advertised::or(set.as_ref(), "public", 7);
    assert_eq!(or(&settings.advertise.device), ("a.example".to_owned(), 443));
    assert_eq!(or(&settings.advertise.mqtt), ("2001:db8::1".to_owned(), 1));
    assert_eq!(or(&settings.advertise.status), ("b.example".to_owned(), 7));
    assert_eq!(or(&None), ("public".to_owned(), 7));
}

proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in "[a-z_\\[\\]\\.=\" \n0-9:]{0,120}") {
        let _ = from_file(&text);
    }

    #[test]
    fn no_value_makes_a_key_panic(value in ".{0,80}") {
        for key in KEYS {
            let _ = (key.apply)(&mut Settings::default(), &value);
        }
    }
}
