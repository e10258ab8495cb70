//! The server certificate: CA:FALSE, digitalSignature, serverAuth only, exactly the ordered names and addresses.

use std::net::IpAddr;

use x509_cert::TbsCertificate;

use super::extensions::{self as ext, SERVER_AUTH};
use super::{Expected, Finding, leaf};

/// The rules of a server certificate beyond the fields that every certificate has.
pub(super) fn check(
    tbs: &TbsCertificate,
    expected: &Expected<'_>,
    names: &[String],
    addresses: &[IpAddr],
) -> Result<(), Finding> {
    leaf::end_entity(tbs, expected)?;
    ext::extended_key_usage(tbs, SERVER_AUTH)?;
    ext::hosts(tbs, names, addresses)
}
