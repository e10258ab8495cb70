//! X.509 for Muster: requests, profiles, lint, issuance, revocation lists, chains.
//!
//! ```text
//! body of a request ─▶ csr::VerifiedCsr ─▶ issuer::prepare ─▶ Prepared ─▶ sign(self, key) ─▶ Issued
//!                      possession proven    rcgen writes,      lint by a    exactly the bytes
//!                      key on the list      key carried raw    2nd parser   that were linted
//! ```
//!
//! Everything here is data in, data out: no clock, no socket, no disk. Randomness is passed in (serial numbers);
//! only key generation asks the crypto provider for its own. Times are UTC in whole seconds since 1970.
//!
//! * `request`: what a device needs: make a key and a request, check what came back, verify its server.
//! * `issue`: what the authority needs on top: intake, issuance, hierarchy, revocation lists.
//! * `ring`: take device keys from ring instead of aws-lc-rs. Verification takes the provider as an argument.

pub mod armor;
pub mod certificate;
pub mod chain;
pub mod cms;
#[cfg(feature = "issue")]
pub mod crl;
#[cfg(feature = "issue")]
pub mod csr;
#[cfg(feature = "issue")]
pub mod hierarchy;
#[cfg(feature = "issue")]
pub mod issuer;
pub mod key;
#[cfg(feature = "issue")]
pub mod lint;
pub mod name;
#[cfg(feature = "issue")]
pub mod profile;
pub mod renewal;
#[cfg(feature = "request")]
pub mod request;
pub mod serial;
mod tlv;
#[cfg(any(test, feature = "issue"))]
mod walk;

#[cfg(feature = "issue")]
mod authority;
#[cfg(feature = "issue")]
mod record;

pub use tlv::DerError;

/// SHA-256 of a DER SubjectPublicKeyInfo: the pin of a root, the identity of a key.
pub type SpkiDigest = [u8; 32];
