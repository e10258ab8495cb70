//! What happens between token and certificate: the decision, without the effects.
//!
//! A request names a token, a public key and perhaps a serial number. [`decide`] says whether a first
//! certificate may be issued, a person must be asked, or it is refused; [`replay`] says whether a lost reply may
//! be given again. Names and extensions of the request play no part: the certificate's names come from the
//! record (contract.md, "Device and asset").
//!
//! **Serial numbers** are compared as X.520 compares them (RFC 4518: blanks around it do not count, a run of blanks
//! counts as one, case does not matter): what a person would call the same number is one asset. [`serial_key`] is
//! that form; assets lie under it. A device carries the number as it was given, without idle blanks.

use super::admission::{self, SpentToken};
use super::device::{CertificateRef, Device};
use super::refusal::Refusal;
use super::token::refused;
use muster_wire::digest::Sha256Digest;
use muster_wire::id::DeviceId;
use muster_wire::problem::Code;

/// What the profile says about a serial number in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialRule {
    /// Taken where it is given.
    Optional,
    /// Must be given, by the token or by the request.
    Required,
    /// Must be given by the token: a request's own word is not enough.
    Bound,
}

/// Whether the profile wants a person to say yes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalRule {
    /// The token is enough.
    None,
    /// A person approves each device.
    Required,
}

/// What is known when a fresh token is redeemed.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The serial number the token is bound to.
    pub bound: Option<&'a str>,
    /// The serial number the request claims.
    pub claimed: Option<&'a str>,
    /// The device, whatever its state, on which this public key was seen before.
    pub key_holder: Option<DeviceId>,
    /// The open life of the asset with that serial number.
    pub open_life: Option<DeviceId>,
    /// The profile's rule for approval.
    pub approval: ApprovalRule,
    /// The profile's rule for serial numbers.
    pub serial: SerialRule,
}

/// What to do with a fresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Issue a first certificate; end the open life of the same asset in the same commit.
    Issue {
        /// The serial number the device will carry.
        serial: Option<String>,
        /// The life that ends.
        supersede: Option<DeviceId>,
    },
    /// Keep the request until a person has decided.
    Wait {
        /// The serial number the device would carry.
        serial: Option<String>,
        /// Why a person is asked.
        rule: &'static str,
    },
}

/// `serial` without idle blanks: none around it, single ones within. Empty where it is nothing but blanks.
pub fn tidy_serial(serial: &str) -> String {
    serial.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The form in which serial numbers are compared: two are the same number exactly when this is the same.
pub fn serial_key(serial: &str) -> String {
    tidy_serial(serial).to_ascii_uppercase()
}

/// Whether the two are one serial number.
pub fn is_same_serial(one: &str, other: &str) -> bool {
    serial_key(one) == serial_key(other)
}

/// The serial number that a redemption would give the device, without idle blanks, before any rule is asked: as
/// the token spells it, else as the request does.
///
/// # Errors
/// [`Code::TokenRefused`] where token and request name different ones: to another device the token is worth
/// nothing, and is not told why. [`Code::CsrSerialMismatch`] where the request's is nothing but blanks.
pub fn effective_serial(bound: Option<&str>, claimed: Option<&str>) -> Result<Option<String>, Refusal> {
    match (bound, claimed) {
        (Some(bound), Some(claimed)) if !is_same_serial(bound, claimed) => {
            Err(refused("token.serial").at("serialNumber"))
        }
        (None, Some(claimed)) if tidy_serial(claimed).is_empty() => {
            Err(Refusal::by("enrollment.serial_blank", Code::CsrSerialMismatch).at("serialNumber"))
        }
        (bound, claimed) => Ok(bound.or(claimed).map(tidy_serial)),
    }
}

/// Decides what a fresh token gets.
///
/// # Errors
/// [`Code::CsrKeyInUse`] where the key was seen on another device: one key is one device, for ever.
/// [`Code::TokenRefused`] where token and request disagree; [`Code::CsrSerialMismatch`] where the profile
/// requires a serial number and neither names one.
pub fn decide(given: &Circumstances<'_>) -> Result<Decision, Refusal> {
    if given.key_holder.is_some() {
        return Err(Refusal::by("enrollment.key_in_use", Code::CsrKeyInUse).at("subjectPublicKeyInfo"));
    }
    let serial = effective_serial(given.bound, given.claimed)?;
    let named = match given.serial {
        SerialRule::Optional => true,
        SerialRule::Required => serial.is_some(),
        SerialRule::Bound => given.bound.is_some(),
    };
    if !named {
        return Err(Refusal::by("profile.serial_required", Code::CsrSerialMismatch).at("serialNumber"));
    }
    if given.open_life.is_some() && given.bound.is_none() {
        return Ok(Decision::Wait { serial, rule: "asset.claimed_while_another_life_is_open" });
    }
    if given.approval == ApprovalRule::Required {
        return Ok(Decision::Wait { serial, rule: "profile.approval" });
    }
    Ok(Decision::Issue { serial, supersede: given.open_life })
}

/// The certificate that answers the same token and key once more.
///
/// # Errors
/// [`Code::TokenRefused`] where [`admission::spent_token`] says so, or the life has ended.
pub fn replay<'a>(device: &'a Device, spki: &Sha256Digest, now: i64) -> Result<&'a CertificateRef, Refusal> {
    if !device.state.is_open() {
        return Err(refused("token.replay_after_end"));
    }
    let issued = device.issued.as_ref().ok_or(refused("token.replay_after_use"))?;
    match admission::spent_token(&earlier(issued), spki.as_bytes(), now) {
        SpentToken::SameBytes => Ok(issued),
        SpentToken::Refused => Err(refused("token.replay_too_late")),
    }
}

/// What a renewal gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal<'a> {
    /// The certificate that was issued and not yet used, once more.
    SameBytes(&'a CertificateRef),
    /// A new certificate; the one that was issued and never used, if there is one, dies in the same commit.
    Issue {
        /// The one that dies.
        replaced: Option<&'a CertificateRef>,
    },
}

/// Decides what an authenticated device gets for a renewal with the key `spki`.
///
/// Whether the presented certificate may renew at all was settled at the door ([`admission::admit`]);
/// `key_holder` is the device on which this key was seen before.
///
/// # Errors
/// [`Code::CsrKeyInUse`] where the key is another device's; [`Code::DeviceStateRefused`] where the life has ended.
pub fn renew<'a>(
    device: &'a Device,
    spki: &Sha256Digest,
    key_holder: Option<DeviceId>,
    now: i64,
) -> Result<Renewal<'a>, Refusal> {
    if !device.state.is_open() {
        return Err(Refusal::by("renewal.life_ended", Code::DeviceStateRefused));
    }
    if key_holder.is_some_and(|holder| holder != device.id) {
        return Err(Refusal::by("renewal.key_in_use", Code::CsrKeyInUse).at("subjectPublicKeyInfo"));
    }
    let Some(issued) = &device.issued else { return Ok(Renewal::Issue { replaced: None }) };
    match admission::renewal(Some(&earlier(issued)), spki.as_bytes(), now) {
        admission::Renewal::SameBytes => Ok(Renewal::SameBytes(issued)),
        admission::Renewal::Replace | admission::Renewal::Issue => {
            Ok(Renewal::Issue { replaced: Some(issued) })
        }
    }
}

fn earlier(issued: &CertificateRef) -> admission::Earlier {
    admission::Earlier {
        spki_sha256: *issued.spki.as_bytes(),
        issued_at: issued.issued_at,
        status: admission::CertificateStatus::Issued,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Circumstances<'_> = Circumstances {
        bound: None,
        claimed: None,
        key_holder: None,
        open_life: None,
        approval: ApprovalRule::None,
        serial: SerialRule::Optional,
    };

    fn device(n: u8) -> DeviceId {
        DeviceId::from_parts(u64::from(n), [n; 10])
    }

    fn issue(serial: Option<&str>, supersede: Option<DeviceId>) -> Result<Decision, Refusal> {
        Ok(Decision::Issue { serial: serial.map(str::to_owned), supersede })
    }

    #[test]
    fn a_token_without_bindings_is_enough() {
        assert_eq!(decide(&PLAIN), issue(None, None));
    }

    #[test]
    fn a_token_bound_to_the_serial_supersedes_the_open_life() {
        let given = Circumstances { bound: Some("S1"), open_life: Some(device(7)), ..PLAIN };
        assert_eq!(decide(&given), issue(Some("S1"), Some(device(7))));
    }

    #[test]
    fn a_serial_merely_claimed_while_another_life_holds_it_waits() {
        let given = Circumstances { claimed: Some("S1"), open_life: Some(device(7)), ..PLAIN };
        assert!(matches!(decide(&given), Ok(Decision::Wait { .. })));
    }

    #[test]
    fn a_claimed_serial_that_nobody_holds_is_taken() {
        assert_eq!(decide(&Circumstances { claimed: Some("S1"), ..PLAIN }), issue(Some("S1"), None));
    }

    #[test]
    fn token_and_request_must_name_the_same_serial() {
        let given = Circumstances { bound: Some("S1"), claimed: Some("S2"), ..PLAIN };
        assert_eq!(decide(&given).unwrap_err().rule, "token.serial");
    }

    #[test]
    fn serials_that_a_person_would_call_the_same_are_the_same() {
        for alike in ["SN7", "SN7 ", "  sn7", "Sn7"] {
            assert!(is_same_serial("SN7", alike), "{alike:?}");
            let given = Circumstances { bound: Some("SN7"), claimed: Some(alike), ..PLAIN };
            assert_eq!(decide(&given), issue(Some("SN7"), None), "{alike:?}");
        }
        assert!(is_same_serial("rack 4  unit 2", "RACK 4 UNIT 2"));
        for other in ["SN 7", "SN70", ""] {
            assert!(!is_same_serial("SN7", other), "{other:?}");
        }
    }

    #[test]
    fn a_serial_is_carried_as_given_without_idle_blanks_and_blanks_alone_are_none() {
        assert_eq!(decide(&Circumstances { claimed: Some(" a  B "), ..PLAIN }), issue(Some("a B"), None));
        let blank = decide(&Circumstances { claimed: Some("  "), ..PLAIN }).unwrap_err();
        assert_eq!(blank.rule, "enrollment.serial_blank");
    }

    #[test]
    fn a_required_serial_must_be_named() {
        let given = Circumstances { serial: SerialRule::Required, ..PLAIN };
        assert_eq!(decide(&given).unwrap_err().rule, "profile.serial_required");
        assert_eq!(decide(&Circumstances { claimed: Some("S"), ..given }), issue(Some("S"), None));
    }

    #[test]
    fn one_key_is_one_device() {
        let given = Circumstances { key_holder: Some(device(1)), ..PLAIN };
        assert_eq!(decide(&given).unwrap_err().code, Code::CsrKeyInUse);
    }

    #[test]
    fn a_profile_may_ask_for_a_person() {
        let given = Circumstances { approval: ApprovalRule::Required, ..PLAIN };
        assert_eq!(decide(&given), Ok(Decision::Wait { serial: None, rule: "profile.approval" }));
    }
}
