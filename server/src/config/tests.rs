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
    insta::assert_snapshot!(from_file("[listen]\ndevcie = \"127.0.0.1:1\"").unwrap_err(), @"muster.toml:2: unknown key `listen.devcie`; did you mean `listen.device`?");
    insta::assert_snapshot!(from_file("\n\ntls12 = true").unwrap_err(), @"muster.toml:3: unknown key `tls12`; did you mean `est.tls12`?");
    insta::assert_snapshot!(from_file("[weather]\nsunny = true").unwrap_err(), @"muster.toml:2: unknown key `weather.sunny`; remove it; `muster serve --help` lists every key");
    insta::assert_snapshot!(from_file("[weather]").unwrap_err(), @"muster.toml:1: unknown key `weather`; remove it; `muster serve --help` lists every key");
    insta::assert_snapshot!(from_environment("MUSTER_LISTEN_DEVCIE", "x").unwrap_err(), @"environment variable MUSTER_LISTEN_DEVCIE: unknown key `MUSTER_LISTEN_DEVCIE`; did you mean `MUSTER_LISTEN_DEVICE`?");
}

#[test]
fn a_bad_value_says_what_to_do() {
    insta::assert_snapshot!(from_file("[listen]\ndevice = \"localhost:8443\"").unwrap_err(), @r#"muster.toml:2: `listen.device` cannot be "localhost:8443": write an IP address and a port, "0.0.0.0:8443" or "[::]:8443"; host names belong to [advertise], and port 0 takes a free one"#);
    insta::assert_snapshot!(from_file("[listen]\ndevice = 8443").unwrap_err(), @r#"muster.toml:2: `listen.device` cannot be "8443": write an IP address and a port, "0.0.0.0:8443" or "[::]:8443"; host names belong to [advertise], and port 0 takes a free one"#);
    insta::assert_snapshot!(from_file("listen = \"0.0.0.0:1\"").unwrap_err(), @"muster.toml:1: unknown key `listen`; remove it; `muster serve --help` lists every key");
    insta::assert_snapshot!(from_file("[advertise]\ndevice = \"https://a/\"").unwrap_err(), @r#"muster.toml:2: `advertise.device` cannot be "https://a/": write host or host:port, "muster.example.com:443" or "[2001:db8::1]:443""#);
    insta::assert_snapshot!(from_file("[est]\ntls12 = \"yes\"").unwrap_err(), @r#"muster.toml:2: `est.tls12` cannot be "yes": write true or false"#);
    insta::assert_snapshot!(from_file("[limits]\nbody_s = 0").unwrap_err(), @r#"muster.toml:2: `limits.body_s` cannot be "0": write a whole number from 1 to 3600"#);
    insta::assert_snapshot!(from_file("[limits]\nbody_s = [1]").unwrap_err(), @r#"muster.toml:2: `limits.body_s` cannot be "a list": write a whole number from 1 to 3600"#);
    insta::assert_snapshot!(from_file("trust_domain = \"Example Com\"").unwrap_err(), @r#"muster.toml:1: `trust_domain` cannot be "Example Com": write 1 to 255 of a-z, 0-9, -, . and _, "devices.example.com""#);
    insta::assert_snapshot!(from_environment("MUSTER_LOG_FORMAT", "xml").unwrap_err(), @r#"environment variable MUSTER_LOG_FORMAT: `log.format` cannot be "xml": write json or human"#);
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_line() {
    insta::assert_snapshot!(from_file("[listen]\ndevice = 0.0.0.0:8443").unwrap_err(), @"muster.toml:2: not TOML: invalid float, expected nothing");
    insta::assert_snapshot!(from_file("[listen]\n[listen]").unwrap_err(), @"muster.toml:2: not TOML: duplicate key");
}

#[test]
fn a_settings_file_that_cannot_be_read_is_refused_with_its_path() {
    let error = Settings::load(Some(Path::new("/nowhere/muster.toml")), []).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"cannot read the settings file /nowhere/muster.toml; check the path after --config and that this user may read it");
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
