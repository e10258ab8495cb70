//! An encrypted volume of a device: a LUKS2 container in a file, judged by `cryptsetup`.

use std::path::{Path, PathBuf};

use crate::Agent;
use crate::run::{Launch, Run, run};

/// Who knows this opens it.
const PASSPHRASE: &[u8] = b"correct horse";

/// A container that a device names as its own.
#[derive(Debug)]
pub struct Volume(PathBuf);

impl Volume {
    /// Makes a container at `path` on the device of `agent`, which names it as one to be erased.
    ///
    /// # Panics
    /// When it cannot be made: Debian's package cryptsetup-bin is missing.
    pub async fn of(agent: &Agent, path: &str) -> Self {
        let _ = agent.put(path, "").put("/etc/muster/wipe-volumes", &format!("{path}\n"));
        let place = agent.within(path);
        let file = std::fs::File::options().write(true).open(&place).expect("it is there");
        file.set_len(2 << 20).expect("the device's tree is writable");
        let volume = Self(place);
        let words = "luksFormat --type luks2 -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
                     --luks2-metadata-size 16k --luks2-keyslots-size 256k --key-file -";
        let _ = volume.cryptsetup(words).await.ok();
        volume
    }

    /// Whether whoever knows the passphrase can open it.
    pub async fn opens(&self) -> bool {
        self.cryptsetup("open --test-passphrase --key-file -").await.code == Some(0)
    }

    async fn cryptsetup(&self, words: &str) -> Run {
        let path = self.0.display().to_string();
        let words: Vec<&str> = words.split_whitespace().chain([path.as_str()]).collect();
        let launch = Launch::plain().with("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(&launch, Path::new("cryptsetup"), &words, PASSPHRASE).await
    }
}
