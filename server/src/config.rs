//! Settings: defaults, then the file, then the environment; the later one wins.
//!
//! [`KEYS`] is the one table of everything that can be set. The file is TOML; `listen.device` there is
//! `MUSTER_LISTEN_DEVICE` in the environment. What is not in the table is refused with its line and the key that
//! was probably meant, and every value is checked here, so that the rest of the server never meets a bad one.

use muster_firmware_profiles::schema::nearest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

mod keys;
pub mod misspelt;
#[cfg(test)]
mod tests;

pub use keys::{KEYS, Key};

/// Name of the settings file in the data directory, read when `--config` names no other.
pub const FILE_NAME: &str = "muster.toml";

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the server listens.
    pub listen: Listen,
    /// What it is called from outside.
    pub advertise: Advertise,
    /// Host name that everything advertised defaults to; set by `muster init --public-name`.
    pub public_name: Option<String>,
    /// Trust domain of every identity issued; defaults to the public name. Fixed at founding.
    pub trust_domain: Option<String>,
    /// Concessions to EST clients.
    pub est: Est,
    /// Limits and deadlines.
    pub limits: Limits,
    /// The MQTT gate.
    pub mqtt: Mqtt,
    /// The audit log.
    pub audit: Audit,
    /// Posture.
    pub posture: Posture,
    /// The store.
    pub store: Store,
    /// How much may be destroyed at a time.
    pub rails: Rails,
    /// Where alarms go.
    pub alarm: Alarm,
    /// The server's own log.
    pub log: Log,
}

/// Addresses of the listeners; port 0 takes a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// EST and discovery for devices, HTTPS.
    pub device: SocketAddr,
    /// MQTT over mutual TLS.
    pub mqtt: SocketAddr,
    /// CRLs, CA certificates and health, plain HTTP.
    pub status: SocketAddr,
    /// REST for operators, HTTPS.
    pub admin: SocketAddr,
}

/// Names and ports as seen from outside: burnt into certificates, CRLs and enrolment strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertise {
    /// Of the device listener.
    pub device: Option<Advertised>,
    /// Of the MQTT listener.
    pub mqtt: Option<Advertised>,
    /// Of the status listener.
    pub status: Option<Advertised>,
}

/// A host, and a port when it is not the one bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; the bound one when left out.
    pub port: Option<u16>,
}

impl Advertised {
    /// What a listener is called from outside: `set` where it says something, else `public_name` and `bound`.
    pub fn or(set: Option<&Self>, public_name: &str, bound: u16) -> (String, u16) {
        set.map_or_else(
            || (public_name.to_owned(), bound),
            |set| (set.host.clone(), set.port.unwrap_or(bound)),
        )
    }
}

/// Concessions to EST clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Est {
    /// Whether TLS 1.2 is accepted on the device listener.
    pub tls12: bool,
}

/// Limits and deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Wrong tokens a minute from one address before wrong ones get 429.
    pub wrong_tokens_per_minute: u32,
    /// Renewals of one device in an hour; 0 is no limit, here and in the next two.
    pub device_renewals_per_hour: u32,
    /// Enrolments in a minute with tokens that were made together.
    pub batch_enrolments_per_minute: u32,
    /// Enrolments in a minute at one site.
    pub site_enrolments_per_minute: u32,
    /// Deadline of a TLS handshake, and of a request's head.
    pub handshake: Duration,
    /// Deadline of a request's body.
    pub body: Duration,
    /// Connections open at once on each listener.
    pub connections: u32,
    /// Time that open requests get at a stop.
    pub shutdown: Duration,
}

/// The MQTT gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// The longest keep-alive in seconds, and that of who asks for none.
    pub keep_alive_cap_s: u16,
    /// Sessions that one device may begin in a minute.
    pub connects_per_minute: u32,
    /// Packets that one device may send in a second; ten times as many at once.
    pub packets_per_second: u32,
    /// KiB that one device may send in a second; sixteen times as much at once.
    pub kib_per_second: u32,
    /// Time that a device has to acknowledge a message.
    pub puback: Duration,
    /// Time that a write may make no progress.
    pub write: Duration,
    /// How often a session looks at what is due without being nudged.
    pub look: Duration,
}

/// The audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Longest time that an entry waits for the checkpoint that covers it.
    pub checkpoint_interval: Duration,
    /// Number of entries after which a checkpoint does not wait for the interval.
    pub checkpoint_entries: u32,
}

/// Posture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posture {
    /// Days for which the history of postures is kept.
    pub history_days: u32,
    /// Devices that rules may hold in an hour in any case.
    pub quarantines_per_hour: u32,
    /// Or so many of a hundred devices, if that is more.
    pub quarantines_percent: u32,
}

/// How much may be destroyed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rails {
    /// Devices in 24 hours in any case.
    pub day_least: u32,
    /// Or so many of a hundred that have been active for 30 days, if that is more.
    pub day_percent: u32,
    /// Devices in an hour.
    pub hour: u32,
    /// How long an act beyond that waits, in seconds.
    pub cooling_off_s: u32,
}

/// Where alarms go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// URL that is sent each alarm by POST.
    pub webhook: Option<String>,
    /// File that holds the secret which signs for it.
    pub secret_file: Option<PathBuf>,
    /// File with the authorities, in PEM, to one of which its certificate must lead.
    pub ca_file: PathBuf,
    /// Whether it may be on this machine or in a private network.
    pub allow_private: bool,
    /// `udp://host:port`, or the path of a socket.
    pub syslog: Option<String>,
}

/// The store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Cache in bytes; real memory is two to three times as much.
    pub cache_bytes: u64,
    /// Free space in bytes below which new enrolments are refused.
    pub free_space_floor_bytes: u64,
    /// Commits that may wait for the writer before requests get 503.
    pub queue: u32,
}

/// The server's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// For machines or for people.
    pub format: LogFormat,
}

/// How the server's own log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Human,
}

impl Default for Settings {
    fn default() -> Self {
        let everywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            listen: Listen {
                device: everywhere(8443),
                mqtt: everywhere(8883),
                status: everywhere(8080),
                admin: SocketAddr::from(([127, 0, 0, 1], 9443)),
            },
            advertise: Advertise::default(),
            public_name: None,
            trust_domain: None,
            est: Est { tls12: false },
            limits: Limits {
                wrong_tokens_per_minute: 30,
                device_renewals_per_hour: 20,
                batch_enrolments_per_minute: 0,
                site_enrolments_per_minute: 0,
                handshake: Duration::from_secs(10),
                body: Duration::from_secs(30),
                connections: 20_000,
                shutdown: Duration::from_secs(10),
            },
            mqtt: Mqtt {
                keep_alive_cap_s: 1_200,
                connects_per_minute: 30,
                packets_per_second: 20,
                kib_per_second: 64,
                puback: Duration::from_secs(30),
                write: Duration::from_secs(30),
                look: Duration::from_secs(300),
            },
            audit: Audit { checkpoint_interval: Duration::from_secs(1), checkpoint_entries: 256 },
            posture: Posture { history_days: 30, quarantines_per_hour: 10, quarantines_percent: 5 },
            store: Store { cache_bytes: 64 << 20, free_space_floor_bytes: 256 << 20, queue: 4096 },
            rails: Rails { day_least: 3, day_percent: 1, hour: 10, cooling_off_s: 4 * 60 * 60 },
            alarm: Alarm { ca_file: "/etc/ssl/certs/ca-certificates.crt".into(), ..Alarm::default() },
            log: Log { format: LogFormat::Json },
        }
    }
}

/// Why the settings are refused. Each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the settings file {path}; check the path after --config and that this user may read it"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}:{line}: not TOML: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What the TOML reader says.
        message: String,
    },
    /// There is no such key.
    #[error("{place}: unknown key `{key}`; {}", remedy(.nearest.as_deref()))]
    UnknownKey {
        /// File and line, or the variable.
        place: Place,
        /// The key with its path.
        key: String,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The key does not take that value.
    #[error("{place}: `{key}` cannot be \"{value}\": {expected}")]
    BadValue {
        /// File and line, or the variable.
        place: Place,
        /// The key with its path.
        key: String,
        /// What stands there.
        value: String,
        /// What should.
        expected: String,
    },
}

fn remedy(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "remove it; `muster serve --help` lists every key".to_owned(),
        |key| format!("did you mean `{key}`?"),
    )
}

/// Where a setting was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

impl Settings {
    /// Defaults, then `file` if there is one, then the `MUSTER_…` variables of `environment`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] when `file` cannot be read, otherwise the first thing wrong in it, otherwise the
    /// first thing wrong in the environment.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
            settings.apply_file(&name, &text)?;
        }
        settings.apply_environment(environment)?;
        Ok(settings)
    }

    /// Applies the TOML in `text`; `path` is the name that errors give.
    ///
    /// # Errors
    /// The first thing wrong, with its line.
    pub fn apply_file(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let mut found = Vec::new();
        flatten("", table.get_ref(), &mut found);
        found.sort_by_key(|one| one.at);
        for one in found {
            let place = Place::File { path: path.to_owned(), line: line_of(text, one.at) };
            self.set(place, &one.key, &one.value)?;
        }
        Ok(())
    }

    /// Applies the variables whose name is that of a key; see [`Key::variable`].
    ///
    /// A variable that begins like a section of the table, `MUSTER_LISTEN_…` for instance, and names no key is
    /// refused. Others are none of ours.
    ///
    /// # Errors
    /// The first thing wrong, with the variable's name.
    pub fn apply_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in environment {
            let place = Place::Variable(name.clone());
            if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
                self.set(place, key.name, &value)?;
            } else if keys::sections().any(|section| name.starts_with(&variable_of(&format!("{section}.")))) {
                let variables: Vec<_> = KEYS.iter().map(Key::variable).collect();
                let nearest = nearest(&name, variables.iter().map(String::as_str)).map(str::to_owned);
                return Err(ConfigError::UnknownKey { place, key: name, nearest });
            }
        }
        Ok(())
    }

    fn set(&mut self, place: Place, key: &str, value: &str) -> Result<(), ConfigError> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            return Err(ConfigError::UnknownKey { place, key: key.to_owned(), nearest: meant(key) });
        };
        (known.apply)(self, value).map_err(|expected| ConfigError::BadValue {
            place,
            key: key.to_owned(),
            value: value.to_owned(),
            expected,
        })
    }
}

/// The key that was probably meant: one that looks alike, or the same name in the section where it belongs.
fn meant(key: &str) -> Option<String> {
    let names = || KEYS.iter().map(|known| known.name);
    let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
    nearest(key, names()).or_else(|| names().find(|name| last(name) == last(key))).map(str::to_owned)
}

/// `listen.device` → `MUSTER_LISTEN_DEVICE`.
fn variable_of(key: &str) -> String {
    format!("MUSTER_{}", key.replace('.', "_").to_ascii_uppercase())
}

/// A value of the file in text, its key with its path, and where it stands.
struct Found {
    at: usize,
    key: String,
    value: String,
}

fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut Vec<Found>) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        let text = match value.get_ref() {
            DeValue::Table(inner) => {
                flatten(&format!("{path}."), inner, found);
                if inner.is_empty() && !keys::sections().any(|section| section == path) {
                    found.push(Found { at: key.span().start, key: path, value: String::new() });
                }
                continue;
            }
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Datetime(instant) => instant.to_string(),
            DeValue::Array(_) => "a list".to_owned(),
        };
        found.push(Found { at: key.span().start, key: path, value: text });
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Whether `name` can stand in a URL and a certificate as a host: a DNS name or an address.
fn is_host(name: &str) -> bool {
    if name.parse::<IpAddr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
