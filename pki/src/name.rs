//! Subjects: what stands in a distinguished name, and how long it may be.
//!
//! A subject of ours has an optional organisation, a common name and an optional hardware serial. Nothing in it
//! authorises anything: that is read from the subject alternative name and the store. A subject is always built from
//! the record, never copied from a request.

use thiserror::Error;

use crate::tlv;

/// OID contents of commonName, 2.5.4.3.
pub(crate) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// OID contents of serialNumber, 2.5.4.5.
pub(crate) const SERIAL_NUMBER: &[u8] = &[0x55, 0x04, 0x05];
/// OID contents of organizationName, 2.5.4.10.
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// The longest common name, organisation or hardware serial (`ub-common-name`, RFC 5280 appendix A.1).
pub const MAX_CHARS: usize = 64;

/// Why a value cannot stand in a subject.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Empty, longer than [`MAX_CHARS`] characters, or with control characters.
    #[error("{attribute} must have 1 to 64 characters and no control characters")]
    Text {
        /// The attribute that was to be set.
        attribute: &'static str,
    },
    /// A hardware serial with characters outside PrintableString.
    #[error("a serial number may hold only letters, digits, space and '()+,-./:=?")]
    NotPrintable,
}

/// A subject in the making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    common_name: String,
    organization: Option<String>,
    serial_number: Option<String>,
}

impl Subject {
    /// A subject with a common name of 1 to 64 characters.
    ///
    /// # Errors
    /// [`NameError::Text`] when the name is empty, too long or holds control characters.
    pub fn new(common_name: &str) -> Result<Self, NameError> {
        let common_name = text("commonName", common_name)?;
        Ok(Self { common_name, organization: None, serial_number: None })
    }

    /// The same with an organisation.
    ///
    /// # Errors
    /// [`NameError::Text`] as for the common name.
    pub fn with_organization(mut self, organization: &str) -> Result<Self, NameError> {
        self.organization = Some(text("organizationName", organization)?);
        Ok(self)
    }

    /// The same with a hardware serial, which must be a PrintableString (RFC 5280 appendix A.1).
    ///
    /// # Errors
    /// [`NameError::Text`] by length, [`NameError::NotPrintable`] by alphabet.
    pub fn with_serial_number(mut self, serial_number: &str) -> Result<Self, NameError> {
        let serial_number = text("serialNumber", serial_number)?;
        if !is_printable(&serial_number) {
            return Err(NameError::NotPrintable);
        }
        self.serial_number = Some(serial_number);
        Ok(self)
    }

    /// The common name.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The hardware serial, if there is one.
    #[must_use]
    pub fn serial_number(&self) -> Option<&str> {
        self.serial_number.as_deref()
    }

    /// The name as DER: organisation, common name, serial number, in this order, one attribute to a set.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        const UTF8: u8 = 0x0c;
        const PRINTABLE: u8 = 0x13;
        let values = [
            (ORGANIZATION, UTF8, self.organization.as_deref()),
            (COMMON_NAME, UTF8, Some(self.common_name.as_str())),
            (SERIAL_NUMBER, PRINTABLE, self.serial_number.as_deref()),
        ];
        let sets = values.into_iter().filter_map(|(oid, tag, value)| {
            let value = tlv::encode(tag, value?.as_bytes());
            let attribute = tlv::encode_all(tlv::SEQUENCE, &[&tlv::encode(tlv::OID, oid), &value]);
            Some(tlv::encode(tlv::SET, &attribute))
        });
        tlv::encode(tlv::SEQUENCE, &sets.collect::<Vec<_>>().concat())
    }
}

/// Whether every character belongs to PrintableString (X.680 §41.4).
#[must_use]
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte))
}

fn text(attribute: &'static str, value: &str) -> Result<String, NameError> {
    let good = (1..=MAX_CHARS).contains(&value.chars().count()) && !value.chars().any(char::is_control);
    if good { Ok(value.to_owned()) } else { Err(NameError::Text { attribute }) }
}

/// The value of the one attribute with this type in a DER name; nothing when there are two or it is no ASCII or
/// UTF-8 string.
pub(crate) fn attribute(name: &[u8], wanted: &[u8]) -> Option<String> {
    let mut sets = tlv::single(name, tlv::SEQUENCE).ok()?.reader();
    let mut found = None;
    while !sets.is_empty() {
        let mut set = sets.expect(tlv::SET).ok()?.reader();
        while !set.is_empty() {
            let mut pair = set.expect(tlv::SEQUENCE).ok()?.reader();
            let (oid, value) = (pair.expect(tlv::OID).ok()?, pair.any().ok()?);
            if oid.body == wanted && found.replace(value).is_some() {
                return None;
            }
        }
    }
    // UTF8String, PrintableString and IA5String.
    let value = found.filter(|value| matches!(value.tag, 0x0c | 0x13 | 0x16))?;
    std::str::from_utf8(value.body).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_a_printable_string_or_nothing() {
        let subject = Subject::new("device").unwrap();
        assert!(subject.clone().with_serial_number("SN-0042/A (rev 2)").is_ok());
        for bad in ["SN_42", "SN*", "S\u{430}", "a\0b", "", "é"] {
            assert!(subject.clone().with_serial_number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sixty_four_characters_are_the_most() {
        assert!(Subject::new(&"ä".repeat(64)).is_ok());
        assert_eq!(Subject::new(&"a".repeat(65)), Err(NameError::Text { attribute: "commonName" }));
        assert!(Subject::new("two\nlines").is_err());
    }

    #[test]
    fn the_name_has_one_attribute_to_a_set_in_a_fixed_order() {
        let subject =
            Subject::new("d").unwrap().with_serial_number("7").unwrap().with_organization("o").unwrap();
        let hex: String = subject.to_der().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "3024310a3008060355040a0c016f310a300806035504030c0164310a3008060355040513013 7".replace(' ', "")
        );
    }
}
