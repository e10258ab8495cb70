//! `agent_integrity`: the running program against the digest that its release names, and who may touch the identity.
//!
//! The list of digests lies beside the program and is not signed: it shows a damaged or exchanged program, not an
//! attacker who is root. The digest is the value, so that the server can compare it with what it knows.

use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

use muster_wire::digest::Sha256Digest;
use muster_wire::posture::{FactState, FactValue};
use sha2::{Digest, Sha256};

use super::finding::Finding;
use super::tree::{Tree, Unread};

/// Written by the packages: lines of `sha256sum`.
pub(super) const RELEASE: &str = "/usr/share/muster-agent/release.sha256";

/// No agent is larger, not even one built for debugging.
const PROGRAM_CAP: u64 = 512 * 1024 * 1024;

const SOURCE: &str = "/proc/self/exe, /usr/share/muster-agent/release.sha256, modes of the state directory";

/// `agent_integrity` of the program with `digest`, whose state lies in `state`.
pub(super) fn agent_integrity(tree: &Tree, state: &Tree, digest: Result<Sha256Digest, String>) -> Finding {
    if let Some(loose) = loose_mode(state) {
        return Finding::fail(FactValue::Nothing, loose).from(SOURCE);
    }
    let digest = match digest {
        Ok(digest) => digest.to_string(),
        Err(why) => return Finding::unknown(format!("the running program {why}")).from(SOURCE),
    };
    let value = FactValue::Text(digest.clone());
    let finding = match tree.text(RELEASE) {
        Ok(list) if names(&list, &digest) => Finding::pass(value, "the program is the one of its release"),
        Ok(_) => Finding::fail(value, format!("{RELEASE} does not name the running program")),
        Err(Unread::Missing) => {
            Finding::new(FactState::Unknown, value, "no list of the release's digests is here")
        }
        Err(why) => Finding::new(FactState::Unknown, value, format!("{RELEASE} {why}")),
    };
    finding.from(SOURCE)
}

/// The digest of the program that runs, taken once: a running program does not change.
pub(super) fn own_digest() -> Result<Sha256Digest, String> {
    static OWN: OnceLock<Result<Sha256Digest, String>> = OnceLock::new();
    OWN.get_or_init(|| digest_of("/proc/self/exe").map_err(|error| format!("cannot be read: {error}")))
        .clone()
}

fn digest_of(path: &str) -> std::io::Result<Sha256Digest> {
    let mut file = File::open(path)?.take(PROGRAM_CAP);
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(Sha256Digest(hasher.finalize().into()))
}

fn names(list: &str, digest: &str) -> bool {
    list.lines().filter_map(|line| line.split_ascii_whitespace().next()).any(|named| named == digest)
}

/// The first file of the identity that others than its owner may read or change.
fn loose_mode(state: &Tree) -> Option<String> {
    let files = state.names("/identity").unwrap_or_default();
    let paths =
        std::iter::once("/identity".to_owned()).chain(files.iter().map(|name| format!("/identity/{name}")));
    paths.take(32).find_map(|path| {
        let mode = state.mode(&path).ok()? & 0o7777;
        (mode & 0o077 != 0)
            .then(|| format!("mode {mode:04o} lets others at {}", path.trim_start_matches('/')))
    })
}
