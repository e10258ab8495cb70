//! Who gets in where: the table "Certificate status × door" of contract.md, as one pure function.
//!
//! [`admit`] answers every door of the server: the TLS handshake, each HTTPS request, renewal, and the MQTT
//! gate. It knows neither sockets nor the store; the doors hand it what the status index says about a serial
//! number, and nothing else decides. [`published`] is the table's last column, for CRLs and OCSP.
//!
//! The second half holds the rules for a reply that was lost: when the same bytes are given again, and when a
//! request replaces a certificate that was issued but never used. There are never two current certificates.
//!
//! All times are UTC in whole seconds since 1970. A certificate is good through the last second of its
//! `notAfter` (RFC 5280 §4.1.2.5).

use muster_wire::topic::Channel;

/// How long the same request is answered with the same bytes: 24 h, in seconds.
pub const SAME_BYTES_FOR_S: i64 = 24 * 60 * 60;

/// How long a device whose receipt proved the wipe may still fetch the `ack` of it: 24 h, in seconds.
pub const PROVEN_FOR_S: i64 = 24 * 60 * 60;

/// What the store says about one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateStatus {
    /// Released, but no authenticated request has shown that the device holds it.
    Issued,
    /// The certificate of its device.
    Current,
    /// Another one took its place.
    Superseded,
    /// Revoked, whatever the reason.
    Revoked,
}

/// What the store says about the device that a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceStanding {
    /// Commissioning or active.
    Active {
        /// How long after `notAfter` renewal stays open, in seconds; 0 when the policy grants no grace.
        grace_s: u32,
    },
    /// Quarantined: its certificates are on hold.
    Held {
        /// As for an active device.
        grace_s: u32,
    },
    /// An order to wipe is on its way.
    Deprovisioning {
        /// From this second on the device is doomed; 0 when it is doomed for good.
        doomed_from: i64,
        /// Is there an order that the device may still fetch?
        order: Order,
    },
    /// A verified receipt proved the wipe; it waits for its `ack`.
    Proven {
        /// The last second at which the device is let in for it.
        until: i64,
    },
    /// Its life is over; also a life that was cancelled before it began.
    Retired,
    /// It names no device but an observer, whom [`observer::admit`](super::observer::admit) judges.
    Observer,
}

/// Whether an order for the device is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// There is one to be fetched, executed or answered.
    Open,
    /// There is none, or it was stopped or lapsed.
    Closed,
}

/// Everything that [`admit`] judges by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The certificate.
    pub certificate: CertificateStatus,
    /// The device that it names.
    pub device: DeviceStanding,
    /// The certificate's `notAfter`.
    pub not_after: i64,
}

impl Facts {
    fn expired(&self, now: i64) -> bool {
        now > self.not_after
    }
}

/// A place where a certificate is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The TLS handshake and the moment after it. It lets in whoever some other door lets in, and promotes nothing.
    Handshake,
    /// An authenticated HTTPS request that is no renewal.
    Https,
    /// Renewal, over EST or inside the MQTT session.
    Renew,
    /// CONNECT at the MQTT gate.
    Gate,
}

/// What a certificate that was let in may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The certificate was issued and this is its first use: commit it as current, and the former one as
    /// superseded, before anything is answered.
    pub promote: bool,
    /// The topics of its session. Who may hear `desired` may also fetch baselines.
    pub topics: Topics,
    /// Whether it may ask for its successor.
    pub renew: Renew,
}

/// Whether a certificate may ask for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// No.
    No,
    /// Yes.
    Yes,
    /// Yes, but the successor lives shortly and is held like its device.
    Held,
    /// Yes, after its expiry: an event is recorded.
    Recorded,
    /// After its expiry and for a quarantined device: recorded, short and held.
    RecordedHeld,
}

/// Why a certificate was not let in. For logs and the audit log; a peer never learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// We never issued it, or have forgotten it: the index is an allow-list.
    Unknown,
    /// Another certificate took its place.
    Superseded,
    /// It was revoked.
    Revoked,
    /// Its device's life is over.
    Retired,
    /// It expired, and neither grace nor an open order speaks for it.
    Expired,
    /// The device is doomed and no order is open.
    NoOpenOrder,
    /// It is let in elsewhere, but may not renew.
    MayNotRenew,
}

impl Refusal {
    /// A stable code for logs and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "certificate_unknown",
            Self::Superseded => "certificate_superseded",
            Self::Revoked => "certificate_revoked",
            Self::Retired => "device_retired",
            Self::Expired => "certificate_expired",
            Self::NoOpenOrder => "no_open_order",
            Self::MayNotRenew => "may_not_renew",
        }
    }
}

/// A set of a device's topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topics(u16);

impl Topics {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `order`, to the device.
    pub const ORDER: Self = Self(1);
    /// `ack`, to the device.
    pub const ACK: Self = Self(1 << 1);
    /// `desired`, to the device.
    pub const DESIRED: Self = Self(1 << 2);
    /// `credential`, to the device.
    pub const CREDENTIAL: Self = Self(1 << 3);
    /// `report/state`, from the device.
    pub const REPORT_STATE: Self = Self(1 << 4);
    /// `report/posture`, from the device.
    pub const REPORT_POSTURE: Self = Self(1 << 5);
    /// `report/event`, from the device.
    pub const REPORT_EVENT: Self = Self(1 << 6);
    /// `renew`, from the device.
    pub const RENEW: Self = Self(1 << 7);
    /// `receipt`, from the device.
    pub const RECEIPT: Self = Self(1 << 8);
    /// Every topic a device has.
    pub const ALL: Self = Self((1 << 9) - 1);
    /// What a device in quarantine keeps.
    pub const HELD: Self = Self(Self::ALL.0 & !Self::REPORT_EVENT.0);
    /// What is left after expiry, within grace.
    pub const GRACE: Self = Self(Self::RENEW.0 | Self::CREDENTIAL.0);
    /// What a device needs to be wiped and to have it acknowledged.
    pub const FAREWELL: Self = Self(Self::ORDER.0 | Self::ACK.0 | Self::RECEIPT.0);

    /// The set of one channel.
    pub const fn of(channel: Channel) -> Self {
        match channel {
            Channel::Order => Self::ORDER,
            Channel::Ack => Self::ACK,
            Channel::Desired => Self::DESIRED,
            Channel::Credential => Self::CREDENTIAL,
            Channel::ReportState => Self::REPORT_STATE,
            Channel::ReportPosture => Self::REPORT_POSTURE,
            Channel::ReportEvent => Self::REPORT_EVENT,
            Channel::Renew => Self::RENEW,
            Channel::Receipt => Self::RECEIPT,
        }
    }

    /// What is in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the topics of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Are all topics of `other` in this set?
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The table: which of its rows fits `facts` at second `now`, and what that row grants at `door`.
///
/// `None` is a serial number that the index does not hold. Rows are tried from the lowest up, because the
/// lowest that fits wins.
///
/// # Errors
/// The [`Refusal`] that the row, or the absence of one, means.
pub fn admit(facts: Option<&Facts>, door: Door, now: i64) -> Result<Admission, Refusal> {
    let facts = facts.ok_or(Refusal::Unknown)?;
    let (topics, renew) = row(facts, now)?;
    if door == Door::Renew && renew == Renew::No {
        return Err(Refusal::MayNotRenew);
    }
    let promote = facts.certificate == CertificateStatus::Issued && door != Door::Handshake;
    Ok(Admission { promote, topics, renew })
}

fn row(facts: &Facts, now: i64) -> Result<(Topics, Renew), Refusal> {
    match facts.certificate {
        CertificateStatus::Superseded => return Err(Refusal::Superseded),
        CertificateStatus::Revoked => return Err(Refusal::Revoked),
        CertificateStatus::Issued | CertificateStatus::Current => {}
    }
    match facts.device {
        DeviceStanding::Observer => Err(Refusal::Unknown),
        DeviceStanding::Retired => Err(Refusal::Retired),
        DeviceStanding::Deprovisioning { doomed_from, order } => {
            let doomed = now >= doomed_from || facts.expired(now);
            if doomed && order == Order::Closed {
                return Err(Refusal::NoOpenOrder);
            }
            Ok((Topics::FAREWELL, Renew::No))
        }
        // Expiry does not matter here: a doomed device may prove its wipe after its certificate has expired,
        // and would otherwise never hear that we know.
        DeviceStanding::Proven { until } if now <= until => Ok((Topics::FAREWELL, Renew::No)),
        DeviceStanding::Proven { .. } => Err(Refusal::Retired),
        DeviceStanding::Held { grace_s } if facts.expired(now) => {
            within_grace(facts, grace_s, now).map(|()| (Topics::GRACE, Renew::RecordedHeld))
        }
        DeviceStanding::Held { .. } => Ok((Topics::HELD, Renew::Held)),
        DeviceStanding::Active { grace_s } if facts.expired(now) => {
            within_grace(facts, grace_s, now).map(|()| (Topics::GRACE, Renew::Recorded))
        }
        DeviceStanding::Active { .. } => Ok((Topics::ALL, Renew::Yes)),
    }
}

/// Grace is for the current certificate; one that expired unused has nothing that speaks for it.
fn within_grace(facts: &Facts, grace_s: u32, now: i64) -> Result<(), Refusal> {
    let until = facts.not_after.saturating_add(i64::from(grace_s));
    if facts.certificate == CertificateStatus::Current && now <= until {
        Ok(())
    } else {
        Err(Refusal::Expired)
    }
}

/// What others are told about a certificate, by CRL and OCSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Good; expiry is for the reader to see.
    Good,
    /// Revoked with reason certificateHold.
    Hold,
    /// Revoked.
    Revoked,
    /// Never issued by us.
    Unknown,
}

/// The table's last column at second `now`. Quarantine outlasts expiry: a held certificate stays on hold.
pub fn published(facts: Option<&Facts>, now: i64) -> Published {
    let Some(facts) = facts else { return Published::Unknown };
    match (facts.certificate, facts.device) {
        (CertificateStatus::Superseded | CertificateStatus::Revoked, _)
        | (_, DeviceStanding::Retired | DeviceStanding::Proven { .. }) => Published::Revoked,
        (_, DeviceStanding::Deprovisioning { doomed_from, .. }) => {
            if now >= doomed_from || facts.expired(now) { Published::Revoked } else { Published::Good }
        }
        (_, DeviceStanding::Held { .. }) => Published::Hold,
        (_, DeviceStanding::Active { .. } | DeviceStanding::Observer) => Published::Good,
    }
}

/// A certificate that was released earlier for the same token or the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
    /// When it was issued.
    pub issued_at: i64,
    /// What became of it.
    pub status: CertificateStatus,
}

impl Earlier {
    /// Is a request for the key `spki_sha256` at second `now` a repetition whose reply was lost?
    fn lost_reply(&self, spki_sha256: &[u8; 32], now: i64) -> bool {
        self.status == CertificateStatus::Issued
            && self.spki_sha256 == *spki_sha256
            && now <= self.issued_at.saturating_add(SAME_BYTES_FOR_S)
    }
}

/// What a spent token still gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpentToken {
    /// Its reply was lost: the very bytes that were issued for it.
    SameBytes,
    /// The one refusal; the audit log records it.
    Refused,
}

/// A token that was spent on `earlier` comes again, asking for the key `spki_sha256`.
///
/// The same key gets the same bytes while that certificate is still issued, for 24 h at most, never after
/// revocation. Everything else is refused.
pub fn spent_token(earlier: &Earlier, spki_sha256: &[u8; 32], now: i64) -> SpentToken {
    if earlier.lost_reply(spki_sha256, now) { SpentToken::SameBytes } else { SpentToken::Refused }
}

/// How a renewal is answered, once [`admit`] has let the caller through [`Door::Renew`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Its reply was lost: the bytes of the certificate that is issued.
    SameBytes,
    /// Issue; nothing is outstanding.
    Issue,
    /// Issue, and supersede the outstanding certificate in the same commit, so that no two are outstanding.
    Replace,
}

/// The current certificate asks for a successor with the key `spki_sha256`; `outstanding` is the device's
/// certificate that was issued and not used yet, if there is one.
///
/// A caller that showed the outstanding certificate itself has made it current first
/// ([`Admission::promote`]), so nothing is outstanding then.
pub fn renewal(outstanding: Option<&Earlier>, spki_sha256: &[u8; 32], now: i64) -> Renewal {
    match outstanding {
        Some(earlier) if earlier.lost_reply(spki_sha256, now) => Renewal::SameBytes,
        Some(earlier) if earlier.status == CertificateStatus::Issued => Renewal::Replace,
        Some(_) | None => Renewal::Issue,
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
