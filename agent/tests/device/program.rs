//! The real program against real TLS: exit codes, JSON, files and their modes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use muster_agent::clock::Clock;
use muster_agent::shell::lock;
use muster_wire::enrollment::EnrollmentString;
use muster_wire::failure::Failure;
use muster_wire::time::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Fault, Fleet};
use crate::stub::{Manners, Stub};

const DAY: i64 = 86_400;

pub(crate) struct Device(TempDir);

pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) json: Value,
    pub(crate) error: Value,
    pub(crate) stderr: String,
}

impl Device {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        self.run_under(&[], arguments, input)
    }

    /// Runs the program as an argument of `wrapper`, where there is one.
    pub(crate) fn run_under(&self, wrapper: &[String], arguments: &[&str], input: &[u8]) -> Ran {
        let program = env!("CARGO_BIN_EXE_muster-agent").to_owned();
        let words: Vec<&String> = wrapper.iter().chain([&program]).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(arguments)
            .arg("--json")
            .arg("--state-dir")
            .arg(self.state())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read its input may be gone before it is written.
        let _ = child.stdin.take().unwrap().write_all(input);
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        let error = stderr.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        if let (Some(told), Some(exit)) = (&error, status.code()) {
            let failure: Failure = serde_json::from_value(told.clone()).unwrap();
            assert_eq!(i32::from(failure.exit), exit, "{told}");
            assert_eq!(
                serde_json::to_value(&failure).unwrap(),
                *told,
                "the members that `muster` prints, no others"
            );
        }
        Ran {
            // A killed program has no code.
            exit: status.code().unwrap_or(-1),
            json: serde_json::from_slice(&stdout).unwrap_or(Value::Null),
            error: error.unwrap_or(Value::Null),
            stderr,
        }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, b"")
    }

    pub(crate) fn enroll(&self, string: &EnrollmentString) -> Ran {
        self.run_with(&["enroll", "-"], string.reveal().as_bytes())
    }

    pub(crate) fn certificate(&self) -> Vec<u8> {
        fs::read(self.state().join("identity/certificate.pem")).unwrap()
    }
}

pub(crate) fn now() -> i64 {
    Clock::system().now_s()
}

pub(crate) fn stub() -> (Stub, EnrollmentString) {
    let at = now();
    let mut fleet = Fleet::founded(at);
    let mut string = fleet.mint("127.0.0.1", 0);
    let stub = Stub::serve(fleet, at);
    string.port = stub.port;
    (stub, string)
}

fn every_file(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { every_file(&path) } else { vec![path] }).collect()
}

#[test]
fn a_device_enrols_says_so_twice_and_renews() {
    let (stub, string) = stub();
    let device = Device::new();

    let enrolled = device.enroll(&string);
    assert_eq!(enrolled.exit, 0, "{}", enrolled.stderr);
    assert_eq!(enrolled.json["outcome"], "enrolled");
    let certificate = device.certificate();

    let again = device.enroll(&string);
    assert_eq!((again.exit, &again.json["outcome"]), (0, &Value::from("already_enrolled")));
    assert_eq!(device.certificate(), certificate);

    let status = device.run(&["status"]);
    assert_eq!(status.json["device"], stub.fleet.lock().unwrap().devices[0].id.to_string());
    assert_eq!(status.json["state"], "commissioning");
    assert_eq!(status.json["server"], format!("https://127.0.0.1:{}", stub.port));
    assert_eq!(status.json["authority_version"], 1);
    assert_eq!(status.json["root"], device.state().join("root").display().to_string());
    assert_eq!(status.json["certificate"]["serial"].as_str().unwrap().len(), 32);

    let doctor = device.run(&["doctor"]);
    assert_eq!((doctor.exit, &doctor.json["ok"]), (0, &Value::Bool(true)), "{}", doctor.json);

    let renewed = device.run(&["renew"]);
    assert_eq!((renewed.exit, &renewed.json["outcome"]), (0, &Value::from("renewed")), "{}", renewed.stderr);
    assert_ne!(device.certificate(), certificate);
    assert_eq!(stub.fleet.lock().unwrap().devices.len(), 1);
}

#[test]
fn only_the_owner_may_read_what_an_enrolment_leaves_and_no_token_is_in_it() {
    let (_stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let files = every_file(&device.state());
    for name in ["key.pem", "certificate.pem", "journal", "trust", "authority", "lock"] {
        assert!(files.iter().any(|path| path.ends_with(name)), "{name} is missing");
    }
    for path in files {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{}", path.display());
        let content = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        assert!(!content.contains(string.token.reveal()), "{}", path.display());
    }
    assert_eq!(fs::metadata(device.state().join("identity")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_lost_reply_is_asked_for_again_and_enrols_once() {
    let (stub, string) = stub();
    let device = Device::new();
    stub.behave(Manners::LosesOneReply);
    let enrolled = device.enroll(&string);
    let enrolled = if enrolled.exit == 5 { device.enroll(&string) } else { enrolled };
    assert_eq!(enrolled.exit, 0, "{}", enrolled.stderr);
    assert_eq!(stub.fleet.lock().unwrap().devices.len(), 1);
}

#[test]
fn servers_that_misbehave_end_with_a_code_and_a_remedy() {
    for (manners, exit, code) in [
        (Manners::Hangs, 5, "unreachable"),
        (Manners::NoTls, 5, "unreachable"),
        (Manners::Gushes, 1, "answer_unreadable"),
        (Manners::Babbles, 1, "answer_unreadable"),
    ] {
        let (stub, string) = stub();
        stub.behave(manners);
        let device = Device::new();
        let ran = device.enroll(&string);
        assert_eq!((ran.exit, &ran.error["code"]), (exit, &Value::from(code)), "{manners:?}: {}", ran.stderr);
        assert!(!ran.error["remedy"].as_str().unwrap().is_empty());
        assert!(!device.state().join("identity").exists(), "{manners:?}");
        stub.behave(Manners::Good);
        assert_eq!(device.enroll(&string).exit, 0, "{manners:?}");
    }
}

#[test]
fn a_server_with_another_root_is_refused_before_anything_is_sent() {
    let (stub, string) = stub();
    let (other, _) = self::stub();
    let mut misled = string;
    misled.port = other.port;
    let ran = Device::new().enroll(&misled);
    assert_eq!((ran.exit, &ran.error["code"]), (3, &Value::from("pin_mismatch")), "{}", ran.stderr);
    assert!(stub.fleet.lock().unwrap().devices.is_empty() && other.fleet.lock().unwrap().devices.is_empty());
}

#[test]
fn a_server_reached_by_a_name_that_is_not_its_own_is_refused() {
    let mut fleet = Fleet::founded(now());
    fleet.fault = Fault::NamedLocalhost;
    let mut string = fleet.mint("127.0.0.1", 0);
    let stub = Stub::serve(fleet, now());
    string.port = stub.port;
    let ran = Device::new().enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (3, &Value::from("name_mismatch")), "{}", ran.stderr);
    string.host = "localhost".into();
    assert_eq!(Device::new().enroll(&string).exit, 0);
}

#[test]
fn nobody_listening_is_unreachable() {
    let (stub, string) = stub();
    drop(stub);
    let ran = Device::new().enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (5, &Value::from("unreachable")), "{}", ran.stderr);
}

#[test]
fn a_server_certificate_from_tomorrow_is_blamed_on_the_clock() {
    let mut fleet = Fleet::founded(now());
    let mut string = fleet.mint("127.0.0.1", 0);
    let stub = Stub::serve(fleet, now() + DAY);
    string.port = stub.port;
    let ran = Device::new().enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (1, &Value::from("clock")), "{}", ran.stderr);
    assert!(ran.error["remedy"].as_str().unwrap().contains("clock"));
}

#[test]
fn a_pending_device_is_told_to_come_again() {
    let (stub, string) = stub();
    stub.fleet.lock().unwrap().fault = Fault::Pending(1);
    let device = Device::new();
    let ran = device.enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (3, &Value::from("pending_approval")), "{}", ran.stderr);
    assert_eq!(device.run(&["status"]).json["state"], "enrolling");
    assert_eq!(device.enroll(&string).exit, 0);
}

#[test]
fn a_word_that_is_no_command_is_a_usage_error_for_people_and_programs() {
    let ran = Device::new().run(&["wipe"]);
    assert_eq!(
        (ran.exit, &ran.error["code"], &ran.error["exit"]),
        (2, &Value::from("usage"), &Value::from(2))
    );
    let plain = Command::new(env!("CARGO_BIN_EXE_muster-agent")).arg("wipe").output().unwrap();
    assert_eq!(plain.status.code(), Some(2));
    assert!(String::from_utf8(plain.stderr).unwrap().starts_with("error: "));
}

#[test]
fn a_string_on_the_command_line_needs_to_be_asked_for() {
    let (_stub, string) = stub();
    let device = Device::new();
    let text = string.reveal();
    let ran = device.run(&["enroll", &text]);
    assert_eq!((ran.exit, &ran.error["code"]), (2, &Value::from("enrolment_on_command_line")));
    assert!(!ran.stderr.contains(string.token.reveal()));
    assert_eq!(device.run(&["enroll", "--insecure-argv", &text]).exit, 0);
}

#[test]
fn a_file_is_read_and_a_missing_one_is_not_found() {
    let (_stub, string) = stub();
    let device = Device::new();
    let file = device.0.path().join("string");
    let name = file.to_str().unwrap();
    assert_eq!(device.run(&["enroll", name]).exit, 4);
    fs::write(&file, b"\xff\xfe").unwrap();
    assert_eq!(device.run(&["enroll", name]).exit, 2);
    fs::write(&file, format!("{}\n", string.reveal())).unwrap();
    assert_eq!(device.run(&["enroll", name]).exit, 0);
}

#[test]
fn a_digest_is_insisted_on_in_either_spelling() {
    let (_stub, string) = stub();
    let wrong = "0".repeat(64);
    let with = |device: &Device, digest: &str| {
        device.run_with(&["enroll", "-", "--auth", digest], string.reveal().as_bytes()).exit
    };
    let device = Device::new();
    assert_eq!(with(&device, &wrong), 3);
    assert_eq!(with(&device, "short"), 2);
    assert_eq!(with(&device, &string.auth.to_hex()), 0);
    assert_eq!(with(&device, &string.auth.to_base64url()), 0);
}

#[test]
fn two_agents_do_not_work_at_once() {
    let (_stub, string) = stub();
    let device = Device::new();
    fs::create_dir(device.state()).unwrap();
    let held = lock::take(&device.state()).unwrap();
    let ran = device.enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (1, &Value::from("locked")));
    drop(held);
    assert_eq!(device.enroll(&string).exit, 0);
}

#[test]
fn a_state_directory_that_cannot_be_made_is_named() {
    let (_stub, string) = stub();
    let device = Device::new();
    fs::write(device.state(), b"a file").unwrap();
    let ran = device.enroll(&string);
    assert_eq!((ran.exit, &ran.error["code"]), (1, &Value::from("file")), "{}", ran.stderr);
    assert!(ran.stderr.contains("state"));
}

#[test]
fn a_damaged_journal_stops_everything_and_doctor_says_why() {
    let (_stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let journal = device.state().join("journal");
    let text = fs::read_to_string(&journal).unwrap();
    fs::write(&journal, text.replacen("accepted", "accepteb", 1)).unwrap();
    for command in ["status", "renew"] {
        let ran = device.run(&[command]);
        assert_eq!((ran.exit, &ran.error["code"]), (1, &Value::from("journal_damaged")), "{command}");
        assert!(ran.error["remedy"].as_str().unwrap().contains("backup"));
    }
    let doctor = device.run(&["doctor"]);
    assert_eq!((doctor.exit, &doctor.json["ok"]), (1, &Value::Bool(false)));
    let checks = doctor.json["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "journal" && check["state"] == "fail"));
}

#[test]
fn doctor_finds_an_open_key_an_expired_clock_and_a_silent_server() {
    let (stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let key = device.state().join("identity/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    drop(stub);
    let doctor = device.run(&["doctor"]);
    assert_eq!(doctor.exit, 1);
    for name in ["modes", "tcp"] {
        let checks = doctor.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["state"], "fail", "{check}");
        assert!(!check["remedy"].as_str().unwrap().is_empty());
    }
}

#[test]
fn doctor_says_when_device_and_server_disagree_about_the_time() {
    let (stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    for (off_s, exit, state) in [(0, 0, "pass"), (-600, 1, "fail"), (600, 1, "fail")] {
        stub.fleet.lock().unwrap().date = Some(Timestamp(now() + off_s));
        let doctor = device.run(&["doctor"]);
        let checks = doctor.json["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "server_clock").unwrap();
        assert_eq!((doctor.exit, &check["state"]), (exit, &Value::from(state)), "{check}");
    }
}

#[test]
fn a_device_that_was_never_enrolled_says_so() {
    let device = Device::new();
    let status = device.run(&["status"]);
    assert_eq!((status.exit, &status.json["state"]), (0, &Value::from("unenrolled")));
    assert_eq!(device.run(&["renew"]).exit, 4);
    assert!(!device.state().exists(), "asking makes nothing");
}

#[test]
fn the_root_is_where_the_contract_says_and_stays_there() {
    let (_stub, string) = stub();
    let device = Device::new();
    let root = device.0.path().join("tree");
    let root = root.to_str().unwrap();
    let ran = device.run_with(&["enroll", "-", "--root", root], string.reveal().as_bytes());
    assert_eq!((ran.exit, &ran.json["root"]), (0, &Value::from(root)), "{}", ran.stderr);
    assert_eq!(device.run(&["status"]).json["root"], root);
    assert_eq!(device.enroll(&string).exit, 0, "without --root the persisted one stands");
    assert_eq!(device.run(&["status", "--root", "/elsewhere"]).exit, 3);
    let doctor = device.run(&["doctor"]).json.to_string();
    assert!(doctor.contains(&format!("root {root}")), "{doctor}");
}

#[test]
fn posture_is_told_before_and_after_enrolment_beneath_the_root() {
    let device = Device::new();
    let root = device.state().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/os-release"), "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n").unwrap();
    let (_stub, string) = stub();
    for is_enrolled in [false, true] {
        if is_enrolled {
            assert_eq!(device.enroll(&string).exit, 0);
        }
        let told = device.run(&["posture"]);
        assert_eq!(told.exit, 0, "{}", told.stderr);
        assert!(told.json["collected_at"].as_str().unwrap().parse::<Timestamp>().is_ok());
        let facts = told.json["facts"].as_object().unwrap();
        assert_eq!(facts.len(), 13);
        for (name, fact) in facts {
            let members: Vec<_> = fact.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(members, ["evidence", "source", "state", "value"], "{name}");
        }
        assert_eq!(facts["os_support"]["value"], "debian 12");
        assert_eq!(facts["disk_encryption"]["state"], "unknown");
        assert_eq!(facts["agent_integrity"]["state"], "unknown", "its identity is its own");
    }
    let key = device.state().join("identity/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(device.run(&["posture"]).json["facts"]["agent_integrity"]["state"], "fail");
    assert_eq!(device.run(&["posture", "--root", "/elsewhere"]).exit, 3);
}

#[test]
fn lost_pins_are_fetched_and_checked_again_by_a_renewal() {
    let (_stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let files = ["trust", "authority"].map(|name| device.state().join(name));
    let before = files.clone().map(|file| fs::read(file).unwrap());
    fs::remove_file(&files[0]).unwrap();
    fs::write(&files[1], b"damaged").unwrap();
    let doctor = device.run(&["doctor"]);
    assert_eq!(doctor.exit, 1, "{}", doctor.json);
    assert_eq!(device.run(&["renew"]).exit, 0);
    assert_eq!(files.map(|file| fs::read(file).unwrap()), before);
    assert_eq!(device.run(&["doctor"]).exit, 0);
}

#[test]
fn a_lost_journal_is_mended_by_the_same_string() {
    let (stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let certificate = device.certificate();
    fs::remove_file(device.state().join("journal")).unwrap();
    assert_eq!(device.run(&["renew"]).exit, 4);
    assert_eq!(device.enroll(&string).exit, 0);
    assert_eq!(device.certificate(), certificate);
    assert_eq!(stub.fleet.lock().unwrap().devices.len(), 1);
    assert_eq!(device.run(&["renew"]).exit, 0);
}

#[test]
fn a_state_directory_that_somebody_else_may_write_in_is_refused_and_nothing_is_written_through_its_links() {
    let (_stub, string) = stub();
    let device = Device::new();
    let theirs = device.state().with_file_name("theirs");
    fs::write(&theirs, b"theirs").unwrap();
    fs::create_dir(device.state()).unwrap();
    fs::set_permissions(device.state(), fs::Permissions::from_mode(0o777)).unwrap();
    std::os::unix::fs::symlink(&theirs, device.state().join("lock")).unwrap();
    for refused in [device.enroll(&string), device.run(&["renew"])] {
        assert_eq!((refused.exit, &refused.error["code"]), (3, &Value::from("state_dir_unsafe")));
    }
    // The directory put right, the link is still followed by nobody.
    fs::set_permissions(device.state(), fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["lock", "journal"] {
        let _ = fs::remove_file(device.state().join("lock"));
        std::os::unix::fs::symlink(&theirs, device.state().join(name)).unwrap();
        for failed in [device.enroll(&string), device.run(&["renew"])] {
            assert_eq!(failed.exit, 1, "{name}: {}", failed.stderr);
            assert!(failed.error["remedy"].as_str().unwrap().contains("symbolic link"), "{}", failed.error);
        }
    }
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
    let doctor = device.run(&["doctor"]);
    assert!(doctor.json.to_string().contains("is a symbolic link"), "{}", doctor.json);
}

#[test]
fn an_identity_without_its_journal_is_named_and_taken_up_without_claiming_that_a_token_was_used() {
    let (stub, string) = stub();
    let device = Device::new();
    assert_eq!(device.enroll(&string).exit, 0);
    let certificate = device.certificate();
    let journal = device.state().join("journal");
    fs::File::options().write(true).open(&journal).unwrap().set_len(100).unwrap();

    assert_eq!(device.run(&["status"]).json["state"], "journal_lost");
    let doctor = device.run(&["doctor"]);
    assert_eq!(doctor.exit, 1);
    assert!(doctor.json.to_string().contains("without the journal"), "{}", doctor.json);

    let mut other = stub.fleet.lock().unwrap().mint("127.0.0.1", 0);
    other.port = stub.port;
    let taken = device.enroll(&other);
    assert_eq!((taken.exit, &taken.json["outcome"]), (0, &Value::from("taken_up")), "{}", taken.stderr);
    assert_eq!(device.certificate(), certificate);
    assert_eq!(stub.fleet.lock().unwrap().devices.len(), 1);
}
