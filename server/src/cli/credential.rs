//! Which server a command talks to, and as whom.
//!
//! The order is that of `contract.md`: `--server` and `--credential`, then `MUSTER_SERVER` and
//! `MUSTER_CREDENTIAL`, then the data directory of a local server. A credential is a file, never a secret on the
//! command line or in the environment. With the data directory the address comes from `endpoints.json`, which is
//! there exactly while the server accepts connections; the address inside `admin.credential` is not asked.

use super::Global;
use super::error::Error;
use muster_wire::digest::Sha256Digest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use url::Url;
use zeroize::Zeroizing;

/// Largest credential or endpoints file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// The file in the data directory that tells where the server listens.
pub const ENDPOINTS: &str = "endpoints.json";

/// The file in the data directory that founding leaves for the first operator.
pub const ADMIN_CREDENTIAL: &str = "admin.credential";

/// The secret that opens the admin listener. It is dropped zeroed, and neither shown nor serialised.
#[derive(Clone)]
pub struct Bearer(Zeroizing<String>);

impl Bearer {
    /// The secret, for the one header that carries it and the one file that keeps it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl From<String> for Bearer {
    fn from(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }
}

impl<'de> Deserialize<'de> for Bearer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// What a credential file holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Credential {
    /// The admin listener: `https://host:port`.
    pub server: String,
    /// SHA-256 of the root's SubjectPublicKeyInfo, which the server's chain has to lead to; hex.
    pub root_spki_sha256: Sha256Digest,
    /// The bearer secret.
    pub token: Bearer,
}

impl Credential {
    /// The text of the file that keeps it.
    pub fn to_file(&self) -> Zeroizing<String> {
        let server = Value::from(self.server.as_str());
        let token = Value::from(self.token.reveal());
        Zeroizing::new(format!(
            "{{\"server\":{server},\"root_spki_sha256\":\"{}\",\"token\":{token}}}\n",
            self.root_spki_sha256
        ))
    }
}

/// Where the listeners of a running server are.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// EST and discovery for devices.
    #[serde(deserialize_with = "url")]
    pub device: Url,
    /// MQTT for devices.
    #[serde(deserialize_with = "url")]
    pub mqtt: Url,
    /// CRLs, CA certificates, health.
    #[serde(deserialize_with = "url")]
    pub status: Url,
    /// REST for operators.
    #[serde(deserialize_with = "url")]
    pub admin: Url,
}

/// A server and what opens it.
#[derive(Clone, Debug)]
pub struct Access {
    /// The admin listener.
    pub server: Url,
    /// The root that the server's chain has to lead to.
    pub root_spki_sha256: Sha256Digest,
    /// The bearer secret.
    pub token: Bearer,
}

/// Finds server and credential; `environment` answers for one variable.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::NotRunning`] when nothing on the way leads to a server, [`Error::Refused`] for a
/// credential that others may read, [`Error::Usage`] for an address that is none.
pub fn find(global: &Global, environment: impl Fn(&str) -> Option<OsString>) -> Result<Access, Error> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let named_file = global.credential.clone().or_else(|| variable("MUSTER_CREDENTIAL").map(PathBuf::from));
    let named_server = match (&global.server, variable("MUSTER_SERVER")) {
        (Some(server), _) => Some(server.clone()),
        (None, Some(value)) => Some(value.to_string_lossy().into_owned()),
        (None, None) => None,
    };
    let data_dir = global.data_dir();
    let file = named_file.clone().unwrap_or_else(|| data_dir.join(ADMIN_CREDENTIAL));
    let credential = match read_credential(&file) {
        Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(no_credential(&file, named_file.is_some(), &data_dir));
        }
        // Nobody chose that file: it is damaged.
        Err(Error::Usage { what, remedy }) if named_file.is_none() => {
            return Err(Error::Failed { what, remedy });
        }
        other => other?,
    };
    let server = match (named_server, named_file) {
        (Some(server), _) => address(&server)?,
        (None, Some(_)) => address(&credential.server)?,
        (None, None) => read_endpoints(&data_dir)?.admin,
    };
    Ok(Access { server, root_spki_sha256: credential.root_spki_sha256, token: credential.token })
}

/// Whether a server is named otherwise than by a data directory.
pub(super) fn is_server_named(global: &Global, environment: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name: &str| environment(name).is_some_and(|value| !value.is_empty());
    let is_given = global.server.is_some() || global.credential.is_some();
    is_given || is_set("MUSTER_SERVER") || is_set("MUSTER_CREDENTIAL")
}

fn no_credential(file: &Path, named: bool, data_dir: &Path) -> Error {
    if named {
        return Error::not_found(
            format!("There is no credential file {}", file.display()),
            "Check --credential and MUSTER_CREDENTIAL; `muster operator add NAME` writes such a file.",
        );
    }
    Error::not_found(
        format!("No server is named, and {} holds no {ADMIN_CREDENTIAL}", data_dir.display()),
        "Name a credential with --credential FILE, or the data directory of a local server with --data-dir DIR; \
         `muster init` founds one.",
    )
}

/// Reads a credential file, which only its owner may be able to read.
///
/// # Errors
/// [`Error::File`] when it cannot be read, [`Error::Refused`] when others may read it, [`Error::Usage`] when it is no
/// credential.
pub fn read_credential(path: &Path) -> Result<Credential, Error> {
    let file = File::open(path).map_err(Error::file("read", path))?;
    let mode = file.metadata().map_err(Error::file("read", path))?.permissions().mode();
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text).map_err(Error::file("read", path))?;
    let credential = serde_json::from_str(&text).map_err(|cause| {
        let place = format!("line {}, column {}", cause.line(), cause.column());
        Error::usage(
            format!("{} is not a credential ({place})", path.display()),
            "Use the file that `muster init` or `muster operator add` wrote; an approver's key is none, and goes with --key.",
        )
    })?;
    // After that: the mode of a file that is no credential is nothing to warn of.
    if mode & 0o077 != 0 {
        return Err(Error::refused(
            format!("The credential {} may be read by others (mode {:o})", path.display(), mode & 0o777),
            format!("Run `chmod 600 {}`; if others may have read it, replace it.", path.display()),
        ));
    }
    Ok(credential)
}

/// Where the server of `data_dir` listens, while it does.
///
/// # Errors
/// [`Error::NotRunning`] when the file is not there, [`Error::File`] or [`Error::Failed`] when it cannot be read.
pub fn read_endpoints(data_dir: &Path) -> Result<Endpoints, Error> {
    let path = data_dir.join(ENDPOINTS);
    let text = match std::fs::read_to_string(&path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotRunning {
                what: format!("The server of {} is not running", data_dir.display()),
                remedy: format!("Start it with `muster serve --data-dir {}`.", data_dir.display()),
            });
        }
        other => other.map_err(Error::file("read", &path))?,
    };
    serde_json::from_str(&text).map_err(|cause| {
        Error::failed(
            format!("{} cannot be understood: {cause}", path.display()),
            "Restart the server; it writes the file anew.",
        )
    })
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn address(text: &str) -> Result<Url, Error> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    match Url::parse(&with_scheme) {
        Ok(url) if url.scheme() == "https" && url.has_host() => Ok(url),
        _ => Err(Error::usage(
            format!("{text} is not the address of an admin listener"),
            "Write it as https://host:port.",
        )),
    }
}

/// A file that only its owner may read and that was not there before.
#[derive(Debug)]
pub struct NewSecretFile {
    path: PathBuf,
    file: File,
}

impl NewSecretFile {
    /// Makes the empty file, so that what will be secret has a place before it exists.
    ///
    /// # Errors
    /// [`Error::File`]; an existing file is never overwritten.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(Error::file("create", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Writes the content and waits until it lies on the disk.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written.
    pub fn fill(mut self, content: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(content)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| sync_directory_of(&self.path))
            .map_err(Error::file("write", &self.path))
    }

    /// Removes the file again, since there is nothing to put into it.
    pub fn discard(self) {
        // An empty file left behind holds no secret; the next attempt names it.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn put(directory: &TempDir, name: &str, server: &str, mode: u32) -> PathBuf {
        let path = directory.path().join(name);
        let text = format!(
            r#"{{"server":"{server}","root_spki_sha256":"{}","token":"musterop_x"}}"#,
            "ab".repeat(32)
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn running(directory: &TempDir, admin: &str) {
        let text = format!(
            r#"{{"device":"https://127.0.0.1:1","mqtt":"mqtts://127.0.0.1:2","status":"http://127.0.0.1:3","admin":"{admin}"}}"#
        );
        std::fs::write(directory.path().join(ENDPOINTS), text).unwrap();
    }

    fn global(directory: &TempDir) -> Global {
        Global { data_dir: Some(directory.path().to_owned()), ..Global::default() }
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_data_directory() {
        let directory = TempDir::new().unwrap();
        put(&directory, ADMIN_CREDENTIAL, "https://founding:9443", 0o600);
        running(&directory, "https://127.0.0.1:4");
        let flag = put(&directory, "flag", "https://flag:1", 0o600);
        let variable = put(&directory, "variable", "https://variable:1", 0o600);
        let environment = |name: &str| match name {
            "MUSTER_CREDENTIAL" => Some(variable.clone().into_os_string()),
            _ => None,
        };
        let host = |access: Access| access.server.host_str().unwrap().to_owned();
        let with_flag = Global { credential: Some(flag), ..global(&directory) };
        assert_eq!(host(find(&with_flag, environment).unwrap()), "flag");
        let nothing = |_: &str| None;
        assert!(is_server_named(&with_flag, nothing) && is_server_named(&global(&directory), environment));
        assert!(!is_server_named(&global(&directory), nothing), "a data directory is no server");
        assert_eq!(host(find(&global(&directory), environment).unwrap()), "variable");
        assert_eq!(find(&global(&directory), |_| None).unwrap().server.port(), Some(4));
    }

    #[test]
    fn a_named_server_wins_over_the_one_in_the_credential() {
        let directory = TempDir::new().unwrap();
        let file = put(&directory, "c", "https://inside:1", 0o600);
        let environment = |name: &str| (name == "MUSTER_SERVER").then(|| OsString::from("variable:2"));
        let named = Global { credential: Some(file), ..global(&directory) };
        assert_eq!(find(&named, environment).unwrap().server.as_str(), "https://variable:2/");
        let flagged = Global { server: Some("https://flag:3".into()), ..named };
        assert_eq!(find(&flagged, environment).unwrap().server.as_str(), "https://flag:3/");
    }

    #[test]
    fn a_data_directory_whose_server_does_not_run_is_unreachable() {
        let directory = TempDir::new().unwrap();
        put(&directory, ADMIN_CREDENTIAL, "https://founding:9443", 0o600);
        let error = find(&global(&directory), |_| None).unwrap_err();
        assert_eq!(error.exit() as u8, 5);
        assert!(error.remedy().contains("muster serve --data-dir"));
    }

    #[test]
    fn nothing_that_leads_to_a_server_is_not_found() {
        let directory = TempDir::new().unwrap();
        assert_eq!(find(&global(&directory), |_| None).unwrap_err().exit() as u8, 4);
    }

    #[test]
    fn a_file_that_is_no_credential_is_a_wrong_word_where_it_was_named_and_else_damage() {
        let directory = TempDir::new().unwrap();
        let key = directory.path().join("alice.key");
        for mode in [0o600, 0o644] {
            std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\n").unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            let named = Global { credential: Some(key.clone()), ..global(&directory) };
            assert_eq!(find(&named, |_| None).unwrap_err().exit() as u8, 2);
        }
        std::fs::rename(&key, directory.path().join(ADMIN_CREDENTIAL)).unwrap();
        assert_eq!(find(&global(&directory), |_| None).unwrap_err().exit() as u8, 1);
    }

    #[test]
    fn a_credential_that_others_may_read_is_refused() {
        let directory = TempDir::new().unwrap();
        let file = put(&directory, "c", "https://inside:1", 0o640);
        let error = read_credential(&file).unwrap_err();
        assert_eq!(error.exit() as u8, 3);
        assert!(error.remedy().contains("chmod 600"));
    }

    #[test]
    fn an_address_without_tls_is_no_address() {
        for text in ["http://host:1", "mqtts://host:1", "https://", "ho st"] {
            assert_eq!(address(text).unwrap_err().exit() as u8, 2, "{text}");
        }
    }

    #[test]
    fn a_secret_file_is_private_and_never_overwritten() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("a.credential");
        NewSecretFile::create(&path).unwrap().fill(b"secret").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(NewSecretFile::create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        let directory = TempDir::new().unwrap();
        let credential = read_credential(&put(&directory, "c", "https://inside:1", 0o600)).unwrap();
        assert!(!format!("{credential:?}").contains("musterop_"));
    }

    #[test]
    fn a_credential_reads_back_from_the_file_it_is_kept_in() {
        let directory = TempDir::new().unwrap();
        let first = read_credential(&put(&directory, "c", "https://inside:1", 0o600)).unwrap();
        let copy = directory.path().join("d");
        NewSecretFile::create(&copy).unwrap().fill(first.to_file().as_bytes()).unwrap();
        let second = read_credential(&copy).unwrap();
        assert_eq!((second.server, second.token.reveal()), (first.server, first.token.reveal()));
        assert_eq!(second.root_spki_sha256, first.root_spki_sha256);
    }
}
