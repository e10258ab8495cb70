use super::*;
use crate::audit::entry::tests::draft;
use crate::audit::export::{Directory as ExportDirectory, Export, ExportError, Sink, export};
use crate::audit::key::AuditKey;
use crate::audit::key::tests::key;
use crate::audit::memory::Site;
use crate::audit::{export::manifest_text, log};
use ed25519_dalek::SigningKey;
use muster_wire::authority::{Approver, Required};
use muster_wire::key::Ed25519Key;
use proptest::prelude::*;
use std::process::Command;

type Bytes = BTreeMap<String, Vec<u8>>;

fn ed25519(key: &SigningKey) -> Ed25519Key {
    Ed25519Key::from_bytes(key.verifying_key().as_bytes()).unwrap()
}

/// A founding authority document that names `audit`.
fn authority(audit: Ed25519Key) -> Vec<u8> {
    let command = SigningKey::from_bytes(&[1; 32]);
    let document = Authority {
        version: 1,
        trust_domain: "example.com".parse().unwrap(),
        command_keys: vec![ed25519(&command)],
        audit_keys: vec![audit],
        approvers: vec![Approver {
            name: "ada".parse().unwrap(),
            key: ed25519(&SigningKey::from_bytes(&[2; 32])),
            valid_from: Timestamp(0),
        }],
        recovery: Vec::new(),
        required: Required::solo(),
        previous: None,
    };
    let mut signed = MultiSigned::unsigned(&document);
    signed.add_signature(&command).unwrap();
    signed.to_bytes()
}

fn exported(site: &mut Site) -> Bytes {
    let export = Export::cover(&site.store, &mut site.publisher).unwrap();
    let mut files = Bytes::new();
    export.write(&site.store, &[authority(site.key.public().key())], &mut files).unwrap();
    let report = judged(&files);
    assert!(report.ok, "{report:?}");
    files
}

fn export_of(size: usize) -> Bytes {
    exported(&mut Site::with(size))
}

fn judged(files: &Bytes) -> Report {
    let pinned = key("example.com", 7).public();
    let by_itself = verify_bytes(files, Known::default());
    let report = verify_bytes(files, Known { key: Some(&pinned), ..Known::default() });
    assert!(
        report.ok || !by_itself.ok,
        "the pinned key finds what the export's own key does not: {report:?}"
    );
    report
}

fn found(files: &Bytes) -> (Option<u64>, String) {
    let report = judged(files);
    assert!(!report.ok);
    (report.first_bad, report.problem.unwrap())
}

const ENTRIES: &str = "tile/entries/000.p/5";
const HASHES: &str = "tile/0/000.p/5";

/// Where each entry begins in a bundle, its length included.
fn starts(bundle: &[u8]) -> Vec<usize> {
    let (entries, _) = tiles::split_entries(bundle);
    entries.iter().scan(0, |at, entry| Some(std::mem::replace(at, *at + 2 + entry.len()))).collect()
}

#[test]
fn an_export_verifies_at_every_kind_of_size() {
    for size in [0, 1, 2, 255, 256, 257, 700] {
        let report = judged(&export_of(size));
        assert!(report.ok, "{size}: {report:?}");
        assert_eq!((report.size, report.first_bad), (size as u64, None));
        assert_eq!(report.root_sha256.len(), 64);
        assert_eq!(report.authority_sha256.unwrap().len(), 64);
    }
}

#[test]
fn every_bit_of_every_file_counts() {
    let whole = export_of(2);
    for (path, bytes) in &whole {
        for at in 0..bytes.len() {
            let mut files = whole.clone();
            files.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            assert!(!judged(&files).ok, "{path}, byte {at}");
        }
    }
}

#[test]
fn every_cut_of_every_file_counts_and_so_does_every_byte_more() {
    let whole = export_of(2);
    for (path, bytes) in &whole {
        for at in 0..bytes.len() {
            let mut files = whole.clone();
            files.get_mut(path).unwrap().truncate(at);
            assert!(!judged(&files).ok, "{path} cut at {at}");
        }
        for more in [b"\n", b" ", b"\0"] {
            let mut files = whole.clone();
            files.get_mut(path).unwrap().extend(more);
            assert!(!judged(&files).ok, "{path} and {more:?}");
        }
    }
}

#[test]
fn a_file_that_is_dropped_added_or_renamed_is_found() {
    let whole = export_of(300);
    for path in whole.keys() {
        let mut files = whole.clone();
        let bytes = files.remove(path).unwrap();
        assert!(!judged(&files).ok, "without {path}");
        files.insert(format!("{path}.p/1"), bytes.clone());
        assert!(!judged(&files).ok, "{path} renamed");
        files.insert(path.clone(), bytes);
        assert!(!judged(&files).ok, "{path} twice");
    }
    for path in ["README", "tile/0/000.p/9", "authority/001", "tile/2/000.p/1"] {
        let mut files = whole.clone();
        files.insert(path.to_owned(), Vec::new());
        assert!(found(&files).1.contains(path));
    }
}

#[test]
fn the_entry_that_was_changed_is_named() {
    let whole = export_of(5);
    for (seq, start) in starts(&whole[ENTRIES]).into_iter().enumerate() {
        for at in [start, start + 1, start + 40] {
            let mut files = whole.clone();
            files.get_mut(ENTRIES).unwrap()[at] ^= 1;
            assert_eq!(found(&files).0, Some(seq as u64), "byte {at}");
        }
        let mut files = whole.clone();
        files.get_mut(HASHES).unwrap()[32 * seq + 31] ^= 1;
        assert_eq!(found(&files).0, Some(seq as u64));
    }
}

/// The files as somebody without the key would leave them who covers a change as well as possible.
fn covered_up(whole: &Bytes, entries: &[Vec<u8>]) -> Bytes {
    let mut files = whole.clone();
    files.retain(|path, _| !path.starts_with("tile/"));
    let (mut edge, mut bundle) = (Edge::default(), Vec::new());
    for entry in entries {
        tiles::push_entry(&mut bundle, entry);
        edge.append(leaf_hash(entry), |_, _, _| {});
    }
    files.insert(tiles::path(Kind::Entries, 0, entries.len()), bundle);
    for (level, index, hashes) in edge.partial() {
        files.insert(tiles::path(Kind::Hashes(level), index, hashes.len()), tiles::encode_hashes(hashes));
    }
    files
}

#[test]
fn an_entry_that_is_dropped_swapped_repeated_or_rewritten_is_found_with_all_hashes_made_anew() {
    let mut site = Site::with(5);
    let whole = exported(&mut site);
    let entries = site.entries();
    let mut dropped = entries.clone();
    dropped.remove(2);
    let mut swapped = entries.clone();
    swapped.swap(1, 3);
    let mut repeated = entries.clone();
    repeated[4] = repeated[3].clone();
    let mut rewritten = entries.clone();
    rewritten[2] = Entry::new(&draft("device/nobody"), 2).encode();
    assert!(judged(&covered_up(&whole, &entries)).ok);
    assert_eq!(
        found(&covered_up(&whole, &dropped)).0,
        Some(0),
        "the tiles are not those of the size promised"
    );
    assert_eq!(found(&covered_up(&whole, &swapped)).0, Some(1));
    assert_eq!(found(&covered_up(&whole, &repeated)).0, Some(4));
    assert!(found(&covered_up(&whole, &rewritten)).1.contains("root"));
    let mut spaced = entries;
    spaced[2].push(b' ');
    assert_eq!(found(&covered_up(&whole, &spaced)).0, Some(2));
}

#[test]
fn parts_of_two_exports_do_not_make_one() {
    let mut site = Site::with(3);
    let old = exported(&mut site);
    site.append(2);
    let new = exported(&mut site);
    for path in ["manifest", "checkpoint"] {
        let mut files = new.clone();
        files.insert(path.to_owned(), old[path].clone());
        assert!(!judged(&files).ok, "{path} of the older export");
    }
}

#[test]
fn a_log_that_went_back_or_forked_since_an_earlier_checkpoint_is_found() {
    let mut site = Site::with(3);
    let three = exported(&mut site);
    site.append(4);
    let seven = exported(&mut site);
    let mut other = Site::found();
    other.store.write(crate::domain::ledger::Ledger::seal(&mut other.log, &[draft("device/other")]));
    other.append(6);
    let forked = exported(&mut other);
    let since = |files: &Bytes, earlier: &Bytes| {
        let pinned = key("example.com", 7).public();
        verify_bytes(
            files,
            Known { key: Some(&pinned), earlier: Some(&earlier["checkpoint"]), ..Known::default() },
        )
    };
    assert!(since(&seven, &three).ok && since(&seven, &seven).ok && since(&seven, &export_of(0)).ok);
    assert!(judged(&forked).ok, "a fork is whole by itself");
    assert_eq!(since(&three, &seven).first_bad, Some(3));
    assert!(since(&three, &seven).problem.unwrap().contains("went back"));
    assert!(since(&forked, &three).problem.unwrap().contains("forked"));
    assert!(since(&forked, &seven).problem.unwrap().contains("forked"));
}

/// Signs an export anew, as somebody with another key would.
fn resigned(files: &Bytes, key: &AuditKey) -> Bytes {
    let mut files = files.clone();
    let own = key.public();
    let old = Checkpoint::open(&files["checkpoint"], &judged_key(&files)).unwrap();
    files.insert(PUBLIC_KEY.to_owned(), format!("{}\n", own.as_text()).into_bytes());
    files.insert(CHECKPOINT.to_owned(), Checkpoint::sign(key, old.size, old.root).unwrap().note);
    files.remove(MANIFEST);
    let digests = files.iter().map(|(path, bytes)| (path.clone(), Sha256Digest::of(bytes))).collect();
    let manifest = note::sign(&manifest_text(own.origin(), &digests), key).unwrap();
    files.insert(MANIFEST.to_owned(), manifest.into_bytes());
    files
}

fn judged_key(files: &Bytes) -> PinnedKey {
    PinnedKey::parse(std::str::from_utf8(&files[PUBLIC_KEY]).unwrap()).unwrap()
}

#[test]
fn an_export_signed_by_another_key_fails_against_the_pinned_one_and_against_the_authority() {
    let thief = key("example.com", 8);
    let mut forged = resigned(&export_of(3), &thief);
    let pinned = key("example.com", 7).public();
    assert!(!verify_bytes(&forged, Known { key: Some(&pinned), ..Known::default() }).ok);
    let unpinned = verify_bytes(&forged, Known::default());
    assert!(unpinned.problem.unwrap().contains("does not name the key"));
    forged.insert("authority/000".to_owned(), authority(thief.public().key()));
    let forged = resigned(&forged, &thief);
    let unpinned = verify_bytes(&forged, Known::default());
    assert!(unpinned.ok && !unpinned.key_is_pinned, "whole, and not by the key that anyone pinned");
    assert_ne!(unpinned.authority_sha256, judged(&export_of(3)).authority_sha256);
}

#[test]
fn an_export_under_another_logs_name_fails_against_the_pinned_key() {
    let renamed = resigned(&export_of(3), &key("example.org", 7));
    let pinned = key("example.com", 7).public();
    assert!(!verify_bytes(&renamed, Known { key: Some(&pinned), ..Known::default() }).ok);
}

#[test]
fn a_manifest_that_lists_what_does_not_belong_is_refused_even_when_signed() {
    let mut files = export_of(3);
    files.insert("notes".to_owned(), b"x".to_vec());
    assert!(found(&resigned(&files, &key("example.com", 7))).1.contains("notes"));
    files.remove("notes");
    files.insert("authority/000".to_owned(), b"x".to_vec());
    assert!(found(&resigned(&files, &key("example.com", 7))).1.contains("authority"));
}

#[test]
fn a_store_that_does_not_hold_what_was_promised_exports_nothing() {
    let mut site = Site::with(600);
    site.store.0.insert(log::entry_key(7), Entry::new(&draft("device/other"), 7).encode());
    site.restart().unwrap();
    let export = Export::cover(&site.store, &mut site.publisher).unwrap();
    let refused = export.write(&site.store, &[], &mut Bytes::new());
    assert!(matches!(refused, Err(ExportError::Damaged { size: 600 })));
}

#[test]
fn a_directory_takes_an_export_only_when_it_is_empty_and_keeps_paths_inside() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("new");
    let mut site = Site::with(300);
    site.append(1);
    let made = export(&site.store, &mut site.publisher, &[authority(site.key.public().key())], &dir).unwrap();
    assert_eq!(made.size, 301);
    assert!(verify(&dir, Known::default()).ok);
    let again = export(&site.store, &mut site.publisher, &[], &dir);
    assert!(matches!(again, Err(ExportError::NotEmpty { .. })));
    for path in ["../x", "/x", "a/../x", "a//x", "", "a\\x"] {
        let mut sink = ExportDirectory::at(&home.path().join(format!("d{}", path.len()))).unwrap();
        assert!(sink.put(path, b"").is_err(), "{path}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_in_an_export_is_no_file_of_it() {
    let home = tempfile::tempdir().unwrap();
    write_to(home.path(), &export_of(3));
    assert!(verify(home.path(), Known::default()).ok);
    std::os::unix::fs::symlink("checkpoint", home.path().join("link")).unwrap();
    assert!(verify(home.path(), Known::default()).problem.unwrap().contains("link"));
}

#[test]
fn a_live_directory_verifies_beside_what_is_newer_or_older_than_its_checkpoint() {
    let mut site = Site::with(3);
    site.append(2);
    site.publish();
    fs::write(site.dir.join("tile/0/000.p/6"), [0; 192]).unwrap();
    assert!(verify_live(&site.dir, &site.key.public()).ok);
    fs::write(site.dir.join("tile/0/000.p/5"), [0; 160]).unwrap();
    assert_eq!(verify_live(&site.dir, &site.key.public()).first_bad, Some(0));
}

fn write_to(dir: &Path, files: &Bytes) {
    for (path, bytes) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// What the script in `docs` says about these files, when it is given `more` files.
fn script(files: &Bytes, more: &[(&str, &[u8])]) -> serde_json::Value {
    script_told(files, more, &[])
}

/// The same, when it is also told `words`.
fn script_told(files: &Bytes, more: &[(&str, &[u8])], words: &[&str]) -> serde_json::Value {
    let home = tempfile::tempdir().unwrap();
    write_to(&home.path().join("export"), files);
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify-audit.py"))
        .arg(home.path().join("export"))
        .args(words);
    for (option, bytes) in more {
        let path = home.path().join(option.trim_start_matches('-'));
        fs::write(&path, bytes).unwrap();
        command.arg(option).arg(path);
    }
    let output = command.output().expect("python3 runs; the tests need it");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no answer: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(output.status.code(), Some(if answer["ok"] == true { 0 } else { 1 }));
    answer
}

#[test]
fn the_script_blames_an_argument_that_is_no_digest_and_not_the_log() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify-audit.py");
    let told = Command::new("python3").args([script, "export", "--authority", "zz"]).output().unwrap();
    let words = String::from_utf8_lossy(&told.stderr);
    assert_eq!((told.status.code(), told.stdout.is_empty()), (Some(2), true));
    assert!(words.contains("--authority") && words.contains("64 hexadecimal digits"), "{words}");
}

#[test]
fn the_script_says_when_nothing_ties_a_log_to_a_server() {
    let files = export_of(5);
    let alone = script(&files, &[]);
    assert_eq!(alone["ok"], true, "{alone}");
    assert!(alone["note"].as_str().unwrap().contains("not tied to an authority you know"), "{alone}");
    assert_eq!(script(&files, &[("--key", &files[PUBLIC_KEY])])["note"], serde_json::Value::Null);
}

#[test]
fn the_script_comes_to_the_same_root() {
    for size in [0, 1, 5, 256, 700] {
        let files = export_of(size);
        let (ours, theirs) = (judged(&files), script(&files, &[("--key", &files[PUBLIC_KEY])]));
        assert_eq!(theirs["ok"], true, "{size}: {theirs}");
        assert_eq!(theirs["root_sha256"], ours.root_sha256);
        assert_eq!(theirs["size"], ours.size);
        assert_eq!(theirs["first_bad"], serde_json::Value::Null);
    }
}

#[test]
fn the_script_finds_a_change_in_every_file_and_names_the_entry() {
    let whole = export_of(5);
    for (path, bytes) in &whole {
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut files = whole.clone();
            files.get_mut(path).unwrap()[at] ^= 4;
            let (ours, theirs) = (judged(&files), script(&files, &[("--key", &whole[PUBLIC_KEY])]));
            assert_eq!(theirs["ok"], false, "{path}, byte {at}");
            assert_eq!(
                theirs["first_bad"],
                serde_json::to_value(ours.first_bad).unwrap(),
                "{path}, byte {at}"
            );
        }
        let mut files = whole.clone();
        files.remove(path);
        assert_eq!(script(&files, &[("--key", &whole[PUBLIC_KEY])])["ok"], false, "without {path}");
    }
    let mut files = whole;
    files.insert("README".to_owned(), Vec::new());
    assert_eq!(script(&files, &[])["ok"], false);
}

#[test]
fn the_script_finds_a_log_that_went_back_or_forked_and_a_foreign_key() {
    let mut site = Site::with(3);
    let three = exported(&mut site);
    site.append(4);
    let seven = exported(&mut site);
    let mut other = Site::found();
    other.store.write(crate::domain::ledger::Ledger::seal(&mut other.log, &[draft("device/other")]));
    other.append(6);
    let forked = exported(&mut other);
    assert_eq!(script(&seven, &[("--since", &three["checkpoint"])])["ok"], true);
    assert_eq!(script(&three, &[("--since", &seven["checkpoint"])])["problem"], "the log went back");
    assert_eq!(script(&forked, &[("--since", &three["checkpoint"])])["problem"], "the log forked");
    let forged = resigned(&three, &key("example.com", 8));
    assert_eq!(script(&forged, &[("--key", &three[PUBLIC_KEY])])["ok"], false);
}

#[test]
fn the_script_proves_every_entry_by_the_path_that_our_own_code_finds() {
    for size in [1, 2, 5, 7] {
        let files = export_of(size);
        let bundle = &files[&tiles::path(Kind::Entries, 0, size)];
        let leaves: Vec<_> = tiles::split_entries(bundle).0.into_iter().map(leaf_hash).collect();
        for at in 0..size {
            let told = script_told(&files, &[], &["--entry", &at.to_string()]);
            assert_eq!(told["entry"]["seq"], at, "{told}");
            let path = muster_wire::merkle::prove_inclusion(&leaves, at).unwrap().path;
            let path: Vec<String> = path.iter().map(Sha256Digest::to_hex).collect();
            assert_eq!(told["inclusion"], serde_json::json!(path), "entry {at} of {size}");
        }
        assert_eq!(script_told(&files, &[], &["--entry", &size.to_string()])["ok"], false);
    }
}

#[test]
fn the_script_believes_the_keys_that_a_known_authority_names_and_no_others() {
    let files = export_of(3);
    let digest = verify_bytes(&files, Known::default()).authority_sha256.unwrap();
    let known = ["--authority", digest.as_str()];
    assert_eq!(script_told(&files, &[], &known)["ok"], true);
    let foreign = script_told(&files, &[], &["--authority", &"0".repeat(64)]);
    assert_eq!(foreign["problem"], "the authority is not the one that is known");
    // Whoever holds another key signs the whole export anew; the authority does not name it.
    let thief = key("example.com", 8);
    let forged = resigned(&files, &thief);
    assert_eq!(script(&forged, &[])["ok"], true, "by itself it is whole");
    let found = script_told(&forged, &[], &known);
    assert_eq!(found["problem"], "the export is not signed by an audit key that the authority names");
    for at in 0..files["authority/000"].len() {
        if at % 16 == 0 {
            let mut changed = files.clone();
            changed.get_mut("authority/000").unwrap()[at] ^= 1;
            assert_eq!(script_told(&changed, &[], &known)["ok"], false, "byte {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_change_to_any_export_is_found(
        size in 1usize..300, file: prop::sample::Index, at: prop::sample::Index, flip in 1u8..,
    ) {
        let mut files = export_of(size);
        let path = file.get(&files.keys().cloned().collect::<Vec<_>>()).clone();
        let bytes = files.get_mut(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(!judged(&files).ok, "{} byte {}", path, at);
    }

    #[test]
    fn no_files_make_the_checker_panic(
        checkpoint: Vec<u8>, manifest: Vec<u8>, bundle: Vec<u8>, size in 0usize..4,
    ) {
        let mut files = export_of(size);
        files.insert(tiles::path(Kind::Entries, 0, size.max(1)), bundle);
        prop_assert!(!judged(&files).ok);
        files.insert(CHECKPOINT.to_owned(), checkpoint);
        files.insert(MANIFEST.to_owned(), manifest);
        prop_assert!(!judged(&files).ok);
    }
}
