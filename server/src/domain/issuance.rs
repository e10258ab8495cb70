//! The right to one certificate.
//!
//! The CA signs only for a [`Grant`], and a grant is made only from a [`Permit`] for an act that issues: so the
//! authorisation step cannot be passed by.

use super::device::Device;
use super::policy::{Permit, act};
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
        Self { device: device.id, serial_number: device.serial.clone(), profile: device.profile.clone() }
    }

    /// Whose certificate it will be.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// The hardware serial number it will carry.
    pub fn serial_number(&self) -> Option<&str> {
        self.serial_number.as_deref()
    }

    /// The firmware profile that shapes it.
    pub fn profile(&self) -> &str {
        &self.profile
    }
}
