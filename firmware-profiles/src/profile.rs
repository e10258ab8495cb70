//! The typed profile: what each key of a profile file means.
//!
//! The types are the schema: a key that is not a field here is refused by [`crate::schema`]. Every list keeps the
//! file's order; every map is sorted by key, so that two readers of one file digest the same bytes.

use crate::schema::{self, SchemaError};
use crate::version::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a device of a kind should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The profile's name, and its label in EST paths: 1 to 63 of `a-z`, `0-9`, `-`, starting with a letter or digit.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Whether the device belongs to the person who carries it; such a device is only ever retired, never erased.
    #[serde(default)]
    pub personal: bool,
    /// The certificate that a device of this kind carries.
    pub certificate: CertificatePolicy,
    /// What enrolment asks for.
    #[serde(default)]
    pub enrollment: EnrollmentPolicy,
    /// Which concessions EST makes to devices of this kind.
    #[serde(default)]
    pub est: EstPolicy,
    /// How often the device speaks.
    #[serde(default)]
    pub intervals: Intervals,
    /// How long the device may go without a word from the server; without limit where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
    /// The configuration that it should have.
    #[serde(default)]
    pub baseline: Baseline,
    /// What its posture is judged by.
    #[serde(default)]
    pub posture: PosturePolicy,
    /// What a wipe may touch.
    pub wipe: WipePlan,
    /// Deviations for a site or a label, applied in this order; see [`crate::resolve()`].
    #[serde(default, rename = "override", skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
}

impl Profile {
    /// Reads a profile from TOML; `file` is the name that error messages give.
    ///
    /// # Errors
    /// [`SchemaError`] for text that is not TOML, an unknown key, a value of the wrong type or out of range, each
    /// with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, SchemaError> {
        schema::parse(file, text)
    }

    /// The digest of what the profile says; comments, spacing and key order do not count.
    pub fn version(&self) -> Version {
        Version::of(self)
    }
}

/// A baseline that takes the place of a profile's own, for every device of that profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineFile {
    /// The profile's name.
    pub profile: String,
    /// The configuration that its devices should have.
    #[serde(default)]
    pub baseline: Baseline,
    /// How long they may go without a word from the server; as the profile says where it is left out.
    #[serde(default)]
    pub lease: Option<LeasePolicy>,
    /// Deviations for a site or a label, applied in this order; only their baselines and leases are said.
    #[serde(default, rename = "override")]
    pub overrides: Vec<Override>,
}

impl BaselineFile {
    /// Reads a baseline from TOML; `file` is the name that error messages give.
    ///
    /// # Errors
    /// As [`Profile::parse`].
    pub fn parse(file: &str, text: &str) -> Result<Self, SchemaError> {
        schema::parse_baseline(file, text)
    }
}

/// A public key algorithm, as profiles spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of 2048 bits or more; for legacy EST clients only.
    Rsa,
}

/// The certificate that a device carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatePolicy {
    /// Accepted key algorithms, the preferred one first.
    #[serde(default = "default_keys")]
    pub keys: Vec<KeyAlgorithm>,
    /// Life of a certificate in days, 1 to 398.
    pub validity_days: u16,
    /// Days after expiry in which the device may still renew with its bound key, 0 to 398.
    #[serde(default)]
    pub grace_days: u16,
    /// Share of the life after which the device renews, in percent, 10 to 90.
    #[serde(default = "default_renew_percent")]
    pub renew_percent: u8,
}

impl CertificatePolicy {
    /// Life of a certificate in seconds.
    pub fn validity_s(&self) -> i64 {
        i64::from(self.validity_days) * 86_400
    }

    /// Grace after expiry in seconds.
    pub fn grace_s(&self) -> i64 {
        i64::from(self.grace_days) * 86_400
    }
}

fn default_keys() -> Vec<KeyAlgorithm> {
    vec![KeyAlgorithm::P256]
}

fn default_renew_percent() -> u8 {
    66
}

/// What enrolment asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrollmentPolicy {
    /// Whether a person approves each device before it gets a certificate.
    pub approval: Approval,
    /// What is asked of a hardware serial number.
    pub serial: SerialRule,
}

/// Whether a person approves each device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// The token is enough.
    #[default]
    None,
    /// The device waits in `pending` until `muster device approve`.
    Required,
}

/// What is asked of a hardware serial number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SerialRule {
    /// None is asked for; one that is present is recorded, and compared when the token is bound to one.
    #[default]
    Ignore,
    /// A request without a serial number is refused.
    Require,
    /// A request without one is refused, and so is a token that is not bound to one.
    Bound,
}

/// Concessions that EST makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EstPolicy {
    /// Whether the server may make the device's key; not offered in this release, so `true` is refused.
    pub server_keygen: bool,
    /// Whether TLS 1.2 is good enough for this kind; only where the server's `est.tls12` is on too.
    pub tls12: bool,
}

/// How often the device speaks, in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Intervals {
    /// Between two state reports, 60 to 604,800.
    pub report_s: u32,
    /// Between two posture reports, 60 to 604,800.
    pub posture_s: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Self { report_s: 900, posture_s: 3600 }
    }
}

/// How long the device may go without a word from the server, and what it does then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeasePolicy {
    /// Hours that the device is switched on, asleep or awake, without a newer word: 1 to 8,784.
    pub lasts_hours: u16,
    /// What it does then.
    #[serde(default)]
    pub on_lapse: OnLapse,
}

impl LeasePolicy {
    /// How long it lasts, in seconds.
    pub fn lasts_s(&self) -> u64 {
        u64::from(self.lasts_hours) * 3600
    }
}

/// What a device does when its lease lapses, the mildest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLapse {
    /// It tells, once it can, and says so in `muster-agent status`.
    #[default]
    Report,
    /// It drops the secrets that it can get again.
    DropSecrets,
    /// It locks, until a newer word comes.
    Lock,
    /// It wipes itself at `clear`, where approvers have placed a warrant for it beforehand; otherwise it only tells.
    Clear,
}

/// The configuration that the device should have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Baseline {
    /// Files with their content.
    pub files: Vec<ManagedFile>,
    /// Kernel settings by name.
    pub sysctl: BTreeMap<String, String>,
}

/// A file that the device should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagedFile {
    /// Absolute path without `.` and `..`.
    pub path: String,
    /// The whole content, UTF-8.
    pub content: String,
    /// Permission bits in octal, `0644` for instance; no setuid, setgid or sticky bit.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Owner's user name.
    #[serde(default = "default_owner")]
    pub owner: String,
}

fn default_mode() -> String {
    "0644".to_owned()
}

fn default_owner() -> String {
    "root".to_owned()
}

/// What the posture is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PosturePolicy {
    /// One rule a fact.
    pub rules: Vec<PostureRule>,
}

/// A fact that has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostureRule {
    /// One of [`FACTS`].
    pub fact: String,
    /// What the person at the device does about it.
    pub remediation: String,
    /// Hours that a failing fact is tolerated before the action, 0 to 2,160.
    #[serde(default)]
    pub grace_hours: u16,
    /// What then happens.
    pub action: Action,
    /// What it means when the agent cannot tell.
    #[serde(default, skip_serializing_if = "WhenUnknown::is_counted")]
    pub unknown: WhenUnknown,
}

impl PostureRule {
    /// Grace in seconds.
    pub fn grace_s(&self) -> i64 {
        i64::from(self.grace_hours) * 3600
    }
}

/// What it means when a rule's fact cannot be told. Neither quarantines a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnknown {
    /// The device has not passed.
    #[default]
    Counted,
    /// Nothing; the fact is shown as unknown.
    Tolerated,
}

impl WhenUnknown {
    fn is_counted(&self) -> bool {
        *self == Self::Counted
    }
}

/// What happens when a rule fails beyond its grace, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is shown, to the operator and at the device.
    Warn,
    /// The device is quarantined until the fact holds again.
    Quarantine,
}

/// The facts that an agent collects.
pub const FACTS: &[&str] = &[
    "agent_integrity",
    "disk_encryption",
    "firewall",
    "kernel_lockdown",
    "os_support",
    "reboot_required",
    "secure_boot",
    "security_updates",
    "ssh_password",
    "ssh_root_login",
    "swap_encryption",
    "time_sync",
    "tpm",
];

/// What a wipe may touch, and how far it may go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WipePlan {
    /// The only directories that a wipe touches: absolute, normal, none inside another. Fixed at enrolment.
    pub roots: Vec<String>,
    /// What `clear` and above destroy besides what is managed: directories within the roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_roots: Vec<String>,
    /// Levels that this kind can carry out, mildest first; `retire` always among them.
    pub levels: Vec<WipeLevel>,
}

/// How far a wipe goes, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WipeLevel {
    /// Managed secrets and configuration.
    Retire,
    /// The profile's data roots too.
    Clear,
    /// Volume keys too.
    CryptoErase,
    /// The platform's own reset.
    FactoryReset,
}

/// A deviation for a site or a label. What is left out stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// Applies to devices of this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Applies to devices with this label, `key=value`. With `site` too, both have to match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Other figures for the certificate.
    pub certificate: CertificateOverride,
    /// Another lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeasePolicy>,
    /// Files by path and kernel settings by name, added or put in place of the profile's.
    pub baseline: Baseline,
    /// Rules by fact, added or put in place of the profile's.
    pub posture: PosturePolicy,
}

/// Other figures for the certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateOverride {
    /// As [`CertificatePolicy::validity_days`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity_days: Option<u16>,
    /// As [`CertificatePolicy::grace_days`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_days: Option<u16>,
    /// As [`CertificatePolicy::renew_percent`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renew_percent: Option<u8>,
}
