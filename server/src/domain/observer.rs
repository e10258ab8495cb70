//! Observers: who may hear the event topics at the gate, and do nothing else anywhere.
//!
//! An observer is a name with one certificate. Its certificate is no device's: the table status × door does not know
//! it, and [`admit`] lets it in at the gate alone.

use super::admission::{CertificateStatus, DeviceStanding, Facts, Refusal};
use super::device::CertificateRef;
use super::policy::{Permit, act};
use super::refusal;
use super::revocation::Reason;
use muster_wire::id::ObserverName;
use muster_wire::problem::Code;
use serde::{Deserialize, Serialize};

/// How long an observer's certificate lives: 90 days, in seconds.
pub const VALIDITY_S: i64 = 90 * 86_400;

/// An observer as the store keeps it, under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    /// Version of this record's form.
    pub v: u8,
    /// Its name, which is its MQTT client id.
    pub name: ObserverName,
    /// Its certificate.
    pub certificate: CertificateRef,
    /// When it was added, unix seconds.
    pub created_at: i64,
    /// Who added it.
    pub created_by: String,
    /// How it ended, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
}

/// How an observer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// When, unix seconds.
    pub at: i64,
    /// Why.
    pub reason: Reason,
}

impl Observer {
    /// Its state at second `now`: `active`, `expired` or `revoked`.
    pub fn state(&self, now: i64) -> &'static str {
        match self.revoked {
            Some(_) => "revoked",
            None if now > self.certificate.not_after => "expired",
            None => "active",
        }
    }
}

/// What a request for the name of `there` amounts to, asking for the key `spki` at second `now`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addition {
    /// The same request again: the same certificate.
    Same,
    /// A new certificate.
    Issue,
}

/// Decides about a request for a name and a key. `there` holds the name, and `key_is_known` says whether the key was
/// ever certified for anyone.
///
/// # Errors
/// `conflict` where another key holds the name and lives; `csr_key_in_use` for a key that was certified before.
pub fn add(
    there: Option<&Observer>,
    spki: &muster_wire::digest::Sha256Digest,
    key_is_known: bool,
    now: i64,
) -> Result<Addition, refusal::Refusal> {
    let living = there.filter(|observer| observer.state(now) == "active");
    match living {
        Some(observer) if observer.certificate.spki == *spki => Ok(Addition::Same),
        Some(_) => Err(refusal::Refusal::by("observer.name_taken", Code::Conflict).at("name")),
        None if key_is_known => {
            Err(refusal::Refusal::by("observer.key_in_use", Code::CsrKeyInUse).at("subjectPublicKeyInfo"))
        }
        None => Ok(Addition::Issue),
    }
}

/// Whether an observer's certificate is let in at the gate at second `now`. There is no grace, and a certificate that
/// names a device is not an observer's.
///
/// # Errors
/// [`Refusal`].
pub fn admit(facts: Option<&Facts>, now: i64) -> Result<(), Refusal> {
    let Some(facts) = facts.filter(|facts| facts.device == DeviceStanding::Observer) else {
        return Err(Refusal::Unknown);
    };
    match facts.certificate {
        CertificateStatus::Superseded => Err(Refusal::Superseded),
        CertificateStatus::Revoked => Err(Refusal::Revoked),
        CertificateStatus::Issued | CertificateStatus::Current if now > facts.not_after => {
            Err(Refusal::Expired)
        }
        CertificateStatus::Issued | CertificateStatus::Current => Ok(()),
    }
}

/// The right of one observer to one certificate.
#[derive(Debug)]
pub struct ObserverGrant {
    name: ObserverName,
}

impl ObserverGrant {
    /// For the observer `name`.
    pub fn new(_permit: &Permit<act::AddObserver>, name: ObserverName) -> Self {
        Self { name }
    }

    /// Whose certificate it will be.
    pub fn name(&self) -> &ObserverName {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::{self, Door, Published};
    use muster_pki::serial::Serial;
    use muster_wire::digest::Sha256Digest;

    fn observer() -> Observer {
        let certificate = CertificateRef {
            ordinal: 1,
            serial: Serial::from_random([1; 16]),
            sha256: Sha256Digest([1; 32]),
            spki: Sha256Digest([2; 32]),
            issued_at: 0,
            not_after: 100,
        };
        let name = "dashboard".parse().unwrap();
        Observer { v: 1, name, certificate, created_at: 0, created_by: String::new(), revoked: None }
    }

    fn facts(certificate: CertificateStatus) -> Facts {
        Facts { certificate, device: DeviceStanding::Observer, not_after: 100 }
    }

    #[test]
    fn a_name_has_one_living_key_and_a_key_one_name_for_ever() {
        let held = observer();
        let (same, other) = (Sha256Digest([2; 32]), Sha256Digest([3; 32]));
        assert_eq!(add(Some(&held), &same, true, 50), Ok(Addition::Same));
        assert_eq!(add(Some(&held), &other, false, 50).unwrap_err().code, Code::Conflict);
        assert_eq!(add(Some(&held), &same, true, 101).unwrap_err().code, Code::CsrKeyInUse);
        assert_eq!(add(Some(&held), &other, false, 101), Ok(Addition::Issue));
        let revoked = Observer { revoked: Some(Revoked { at: 1, reason: Reason::Unspecified }), ..held };
        assert_eq!(add(Some(&revoked), &same, true, 50).unwrap_err().code, Code::CsrKeyInUse);
        assert_eq!(add(None, &other, false, 50), Ok(Addition::Issue));
    }

    #[test]
    fn an_observer_is_let_in_until_it_expires_or_is_revoked() {
        assert_eq!(admit(Some(&facts(CertificateStatus::Current)), 100), Ok(()));
        assert_eq!(admit(Some(&facts(CertificateStatus::Current)), 101), Err(Refusal::Expired));
        assert_eq!(admit(Some(&facts(CertificateStatus::Revoked)), 50), Err(Refusal::Revoked));
        assert_eq!(admit(None, 50), Err(Refusal::Unknown));
    }

    #[test]
    fn a_devices_certificate_is_no_observers_and_an_observers_no_devices() {
        let device =
            Facts { device: DeviceStanding::Active { grace_s: 0 }, ..facts(CertificateStatus::Current) };
        assert_eq!(admit(Some(&device), 50), Err(Refusal::Unknown));
        for door in [Door::Handshake, Door::Https, Door::Renew, Door::Gate] {
            let refused = admission::admit(Some(&facts(CertificateStatus::Current)), door, 50);
            assert_eq!(refused, Err(Refusal::Unknown), "{door:?}");
        }
    }

    #[test]
    fn what_is_published_of_an_observer_is_good_or_revoked() {
        let said = |certificate| admission::published(Some(&facts(certificate)), 50);
        assert_eq!(said(CertificateStatus::Current), Published::Good);
        assert_eq!(said(CertificateStatus::Revoked), Published::Revoked);
    }
}
