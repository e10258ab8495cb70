//! What lies where: the collections, their keys and their indexes.
//!
//! | prefix | collection | id | value |
//! | --- | --- | --- | --- |
//! | `t/` | tokens | SHA-256 of the token's text | [`TokenRecord`] |
//! | `d/` | devices | device id, UUIDv7, 16 bytes | [`Device`] |
//! | `s/` | assets | serial number, UTF-8 | [`Asset`] |
//! | `c/` | certificates | ordinal, 8 bytes, big endian | [`CertificateRecord`] |
//! | `x/` | certificate bytes | ordinal | DER |
//! | `k/` | keys | SHA-256 of a subject public key info | device id, 16 bytes |
//! | `r/` | revocations | issuer 8 ‖ shard 1 ‖ serial 16 | [`revocation::Entry`] |
//! | `n/` | CRL heads | issuer 8 ‖ shard 1 | [`revocation::ShardHead`] |
//! | `o/` | operators | SHA-256 of the credential | [`Operator`] |
//! | `q/` | idempotency | slot digest | [`Kept`] |
//! | `m/` | installation | name | [`Founding`] and documents |
//! | `a/` | audit log | see the audit room | |
//! | `i/` | indexes | kept by the writer | |

use super::key::{Collection, Index};
use super::{Batch, Expect, ReadError, Store, Versioned, Write};
use crate::domain::device::{Asset, CertificateRecord, Device};
use crate::domain::idempotency::Kept;
use crate::domain::operator::Operator;
use crate::domain::revocation;
use crate::domain::token::TokenRecord;
use serde::Serialize;
use serde::de::DeserializeOwned;
