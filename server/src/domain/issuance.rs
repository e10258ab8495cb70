//! The right to one certificate.
//!
//! The CA signs only for a [`Grant`], and a grant is made only from a [`Permit`] for an act that issues: so the
//! authorisation step cannot be passed by.

use super::device::Device;
use super::policy::{Permit, act};
use super::quarantine::HELD_LEAF_S;
use muster_wire::id::DeviceId;

/// The right of one device to one certificate.
///
/// Holds what the certificate will say of the device; nothing in it comes from the request but the serial number
/// that the decision accepted.
#[derive(Debug)]
pub struct Grant {
    device: DeviceId,
    serial_number: Option<String>,
    profile: String,
    term: Term,
}

/// How long a certificate may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// As long as its profile says.
    Full,
    /// [`HELD_LEAF_S`] at most: its device is in quarantine.
    Held,
}

impl Term {
    /// The life in seconds of a certificate whose profile says `full_s`.
    pub fn life_s(self, full_s: i64) -> i64 {
        match self {
            Self::Full => full_s,
            Self::Held => full_s.min(HELD_LEAF_S),
        }
    }
}

impl Grant {
    /// For the first certificate of `device`.
    pub fn first(_permit: &Permit<act::SimpleEnroll>, device: &Device) -> Self {
        Self::of(device)
    }

    /// For the next certificate of `device`.
    pub fn next(_permit: &Permit<act::SimpleReenroll>, device: &Device) -> Self {
        Self::of(device)
    }

    fn of(device: &Device) -> Self {
        Self {
            device: device.id,
            serial_number: device.serial.clone(),
            profile: device.profile.clone(),
            term: if device.quarantine.is_some() { Term::Held } else { Term::Full },
        }
    }

    /// Whose certificate it will be.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The hardware serial number it will carry.
    pub fn serial_number(&self) -> Option<&str> {
        self.serial_number.as_deref()
    }

    /// How long it may live.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The firmware profile that shapes it.
    pub fn profile(&self) -> &str {
        &self.profile
    }
}
