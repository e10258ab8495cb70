//! An installation on disk: a data directory, and its approvers' keys beside it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use crate::run::{Launch, Run, run};
use crate::server::Server;
use crate::server_program;

/// The public name that every certificate of a test installation carries.
pub(crate) const PUBLIC_NAME: &str = "localhost";

/// A directory in which `muster init` has run or will run.
#[derive(Debug)]
pub struct Site {
    directory: TempDir,
}

impl Site {
    /// An empty place: nothing founded yet, no data directory.
    pub fn empty() -> Self {
        Self::beneath(&std::env::temp_dir())
    }

    /// The same, on whatever disk `place` is.
    fn beneath(place: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("muster-site-").tempdir_in(place);
        Self { directory: directory.expect("a temporary directory") }
    }

    /// Founded with two approvers.
    pub async fn founded() -> Self {
        Self::founded_beneath(&std::env::temp_dir()).await
    }

    /// The same, on whatever disk `place` is.
    pub async fn founded_beneath(place: &Path) -> Self {
        let site = Self::beneath(place);
        let keys = [site.approver("alice").await, site.approver("bob").await];
        let arguments: Vec<&str> = keys.iter().flat_map(|key| ["--approver", key.as_str()]).collect();
        let _ = site.init(&Launch::plain(), &arguments).await.ok();
        site
    }

    /// Makes the key of an approver with `muster operator keygen`; answers the path of its public half.
    pub async fn approver(&self, name: &str) -> String {
        let key = self.path(&format!("{name}.key"));
        let arguments = ["operator".as_ref(), "keygen".as_ref(), key.as_os_str()];
        let _ = run(&Launch::plain(), &server_program(), &arguments, b"").await.ok();
        self.path(&format!("{name}.pub")).display().to_string()
    }

    /// Runs `muster init` with the public name and `arguments`.
    pub async fn init(&self, launch: &Launch, arguments: &[&str]) -> Run {
        let mut words = vec!["init", "--public-name", PUBLIC_NAME];
        words.extend(arguments);
        self.muster(launch, &words).await
    }

    /// Runs `muster` with `--data-dir` and `--json` and no input, whether a server runs or not.
    pub async fn muster(&self, launch: &Launch, arguments: &[&str]) -> Run {
        let data = self.data_dir().display().to_string();
        let words: Vec<&str> = arguments.iter().copied().chain(["--data-dir", &data, "--json"]).collect();
        run(launch, &server_program(), &words, b"").await
    }

    /// Starts `muster serve` here and waits until every listener accepts.
    pub async fn serve(self) -> Server {
        Server::on(self, Launch::plain()).await
    }

    /// Where the server keeps everything.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// A path beside the data directory, removed with the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the last `muster serve` here wrote to its standard error: the structured log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// `admin.credential`: `{server, root_spki_sha256, token}`.
    pub fn credential(&self) -> Value {
        read_json(&self.data_dir().join("admin.credential"))
    }
}

pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
}
