//! Everything Muster's server and agent must agree on: ids, documents, topics, envelopes, problems.
//!
//! Pure: data in, data out. Nothing here reads a clock, draws randomness, opens a socket or a file; whoever
//! calls says what time it is and brings the entropy. Documents follow `authority.md`, everything a user may
//! rely on follows `contract.md`.

pub mod approval;
pub mod approver;
pub mod authority;
pub mod cbor;
pub mod checkpoint;
pub mod desired;
pub mod digest;
pub mod discovery;
pub mod enrollment;
pub mod envelope;
pub mod failure;
pub mod id;
pub mod key;
pub mod lift;
pub mod lineage;
pub mod merkle;
pub mod order;
pub mod posture;
pub mod problem;
pub mod receipt;
pub mod renew;
pub mod rest;
pub mod time;
pub mod topic;
pub mod warrant;

pub use digest::Sha256Digest;
pub use envelope::{MultiSigned, Signed, Verified};
pub use id::{AssetId, DeviceId, OperatorId, OrderId, ReportId, RequestId, TokenId, TrustDomain, WarrantId};
pub use key::{KeyId, PublicKey, Signer};
pub use time::Timestamp;
