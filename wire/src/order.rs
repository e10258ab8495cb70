//! Orders: what the command key asks of one device, and everything the device asks before it obeys.
//!
//! An order is re-made at each delivery. It carries warrant, leaf and inclusion proof where its kind needs one,
//! and always a checkpoint of the audit log with a consistency proof from the last one that the device saw.
//! [`admit`] asks all that can be asked without the journal (`authority.md`, "Warrant and order"); whether the
//! order id has run and whether the warrant was stopped, the journal knows.

use crate::cbor::{self, Cbor, CborError, Document, Reader, Writer, record};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::digest::Sha256Digest;
use crate::envelope::{EnvelopeError, MultiSigned, SignedOnce, Verified};
use crate::id::{DeviceId, OrderId, WarrantId};
use crate::lineage::Lineage;
use crate::merkle::{ConsistencyProof, InclusionProof, ProofError, TreeHead, verify_consistency};
use crate::time::Timestamp;
use crate::warrant::{self, Kind, Level, Target, Warrant, WarrantError};

/// Where an order stands among all that a device ever gets; compared field by field, in this order.
///
/// A stolen command key cannot exhaust it for its successor, which begins with a higher authority version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    /// Version of the authority document in force.
    pub authority_version: u64,
    /// Counts the restores of the server's store.
    pub restore_epoch: u64,
    /// Counts orders to this device.
    pub counter: u64,
}
record!(Sequence { authority_version, restore_epoch, counter });

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Renew with a new identity key.
    RotateIdentity,
    /// Take a new secret.
    RotateSecret {
        /// What the secret is called.
        name: String,
        /// The secret, encrypted to the device (HPKE, RFC 9180).
        sealed: Vec<u8>,
    },
    /// Report posture now.
    CollectPosture,
    /// Lock the device.
    Lock,
    /// Undo [`Action::Lock`].
    Unlock,
    /// Wipe.
    Wipe {
        /// How far.
        level: Level,
        /// The profile's data roots, beneath the declared roots.
        data_roots: Vec<String>,
    },
    /// Wipe by itself, once nothing newer was heard for `after_s` and the lease in force says so, too.
    WipeOnLapse {
        /// For how long nothing newer must have been heard, in seconds of boot time, however short the lease is.
        after_s: u64,
        /// How far.
        level: Level,
        /// The profile's data roots, beneath the declared roots.
        data_roots: Vec<String>,
    },
    /// Stop a warrant.
    Stop {
        /// Which.
        warrant: WarrantId,
    },
    /// Take a new set of roots.
    UpdateTrust {
        /// The trust bundle's version.
        version: u64,
        /// DER of each root.
        roots: Vec<Vec<u8>>,
    },
    /// Take another agent.
    UpdateAgent {
        /// Its version.
        version: String,
        /// SHA-256 of its bytes.
        sha256: Sha256Digest,
        /// How many bytes.
        size_bytes: u64,
    },
}

impl Action {
    /// The order kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::RotateIdentity => Kind::RotateIdentity,
            Self::RotateSecret { .. } => Kind::RotateSecret,
            Self::CollectPosture => Kind::CollectPosture,
            Self::Lock => Kind::Lock,
            Self::Unlock => Kind::Unlock,
            Self::Wipe { .. } => Kind::Wipe,
            Self::WipeOnLapse { .. } => Kind::WipeOnLapse,
            Self::Stop { .. } => Kind::Stop,
            Self::UpdateTrust { .. } => Kind::UpdateTrust,
            Self::UpdateAgent { .. } => Kind::UpdateAgent,
        }
    }

    /// How far a wipe goes.
    pub fn level(&self) -> Option<Level> {
        match self {
            Self::Wipe { level, .. } | Self::WipeOnLapse { level, .. } => Some(*level),
            Self::RotateIdentity
            | Self::RotateSecret { .. }
            | Self::CollectPosture
            | Self::Lock
            | Self::Unlock
            | Self::Stop { .. }
            | Self::UpdateTrust { .. }
            | Self::UpdateAgent { .. } => None,
        }
    }

    /// SHA-256 of the encoded body: the plan that a warrant names.
    pub fn plan(&self) -> Sha256Digest {
        let mut out = Writer::new();
        self.write_body(&mut out);
        Sha256Digest::of(&out.into_bytes())
    }

    fn write_body(&self, out: &mut Writer) {
        match self {
            Self::RotateIdentity | Self::CollectPosture | Self::Lock | Self::Unlock => out.array(0),
            Self::RotateSecret { name, sealed } => {
                out.array(2);
                name.write(out);
                sealed.write(out);
            }
            Self::Wipe { level, data_roots } => {
                out.array(2);
                level.write(out);
                data_roots.write(out);
            }
            Self::WipeOnLapse { after_s, level, data_roots } => {
                out.array(3);
                after_s.write(out);
                level.write(out);
                data_roots.write(out);
            }
            Self::Stop { warrant } => {
                out.array(1);
                warrant.write(out);
            }
            Self::UpdateTrust { version, roots } => {
                out.array(2);
                version.write(out);
                roots.write(out);
            }
            Self::UpdateAgent { version, sha256, size_bytes } => {
                out.array(3);
                version.write(out);
                sha256.write(out);
                size_bytes.write(out);
            }
        }
    }

    fn read_body(kind: Kind, input: &mut Reader<'_>) -> Result<Self, CborError> {
        let fields = match kind {
            Kind::RotateIdentity | Kind::CollectPosture | Kind::Lock | Kind::Unlock => 0,
            Kind::Stop => 1,
            Kind::RotateSecret | Kind::Wipe | Kind::UpdateTrust => 2,
            Kind::UpdateAgent | Kind::WipeOnLapse => 3,
        };
        input.array(fields)?;
        Ok(match kind {
            Kind::RotateIdentity => Self::RotateIdentity,
            Kind::CollectPosture => Self::CollectPosture,
            Kind::Lock => Self::Lock,
            Kind::Unlock => Self::Unlock,
            Kind::RotateSecret => Self::RotateSecret { name: Cbor::read(input)?, sealed: Cbor::read(input)? },
            Kind::Wipe => Self::Wipe { level: Cbor::read(input)?, data_roots: Cbor::read(input)? },
            Kind::WipeOnLapse => Self::WipeOnLapse {
                after_s: Cbor::read(input)?,
                level: Cbor::read(input)?,
                data_roots: Cbor::read(input)?,
            },
            Kind::Stop => Self::Stop { warrant: Cbor::read(input)? },
            Kind::UpdateTrust => Self::UpdateTrust { version: Cbor::read(input)?, roots: Cbor::read(input)? },
            Kind::UpdateAgent => Self::UpdateAgent {
                version: Cbor::read(input)?,
                sha256: Cbor::read(input)?,
                size_bytes: Cbor::read(input)?,
            },
        })
    }
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// To whom.
    pub device: DeviceId,
    /// Its name; it runs at most once.
    pub id: OrderId,
    /// Its place.
    pub sequence: Sequence,
    /// What is to be done: kind and body on the wire.
    pub action: Action,
    /// The warrant as it was signed: a COSE_Sign.
    pub warrant: Option<Vec<u8>>,
    /// This device's leaf in the warrant's list.
    pub leaf: Option<Target>,
    /// That the leaf stands there.
    pub inclusion: Option<InclusionProof>,
    /// When this delivery was made.
    pub issued_at: Timestamp,
    /// Its last second.
    pub expires: Timestamp,
    /// A checkpoint that covers the order, as a signed note.
    pub checkpoint: String,
    /// From the last checkpoint the device reported.
    pub consistency: ConsistencyProof,
}

impl Cbor for Order {
    fn write(&self, out: &mut Writer) {
        out.array(13);
        out.unsigned(cbor::SCHEMA);
        self.device.write(out);
        self.id.write(out);
        self.sequence.write(out);
        self.action.kind().write(out);
        self.action.write_body(out);
        self.warrant.write(out);
        self.leaf.write(out);
        self.inclusion.write(out);
        self.issued_at.write(out);
        self.expires.write(out);
        self.checkpoint.write(out);
        self.consistency.write(out);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, CborError> {
        cbor::open_document(input, 13)?;
        Ok(Self {
            device: Cbor::read(input)?,
            id: Cbor::read(input)?,
            sequence: Cbor::read(input)?,
            action: Kind::read(input).and_then(|kind| Action::read_body(kind, input))?,
            warrant: Cbor::read(input)?,
            leaf: Cbor::read(input)?,
            inclusion: Cbor::read(input)?,
            issued_at: Cbor::read(input)?,
            expires: Cbor::read(input)?,
            checkpoint: Cbor::read(input)?,
            consistency: Cbor::read(input)?,
        })
    }
}

impl Document for Order {
    const NAME: &'static str = "order";
    const MAX_BYTES: usize = 64 * 1024;
}

impl SignedOnce for Order {}

/// Why a device does not obey.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// It is for somebody else.
    #[error("the order is for another device")]
    OtherDevice,
    /// Not above the highest sequence seen.
    #[error("the order is not newer than the last one")]
    Sequence,
    /// Made under another authority document than the one in force here.
    #[error("authority version {version} is not the one in force here")]
    AuthorityVersion {
        /// The version named.
        version: u64,
    },
    /// Too late.
    #[error("the order expired at {expires}")]
    Expired {
        /// Its last second.
        expires: Timestamp,
    },
    /// This kind needs a warrant, a leaf and a proof.
    #[error("this order needs a warrant")]
    WarrantMissing,
    /// The warrant cannot be read.
    #[error("the warrant cannot be read")]
    WarrantEnvelope(#[source] EnvelopeError),
    /// The warrant does not hold, or does not name this device.
    #[error("the warrant does not cover this order")]
    Warrant(#[source] WarrantError),
    /// The leaf names another device or serial number, or the body is not the warrant's plan.
    #[error("the warrant is about something else")]
    OtherTarget,
    /// The checkpoint does not hold.
    #[error("the checkpoint does not hold")]
    Checkpoint(#[source] CheckpointError),
    /// The log is not the one that was seen before.
    #[error("the log does not continue the one seen before")]
    Consistency(#[source] ProofError),
}

/// What a device knows of itself when an order comes.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// Its id.
    pub device: DeviceId,
    /// Its hardware serial number.
    pub serial: Option<&'a str>,
    /// The highest sequence it has persisted.
    pub highest: Option<Sequence>,
    /// The audit log's name.
    pub log_origin: &'a str,
    /// The last checkpoint it has verified; an empty tree when there is none.
    pub log_head: TreeHead,
}

/// An order that may be journaled and then obeyed.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The warrant, where the kind needs one.
    pub warrant: Option<Verified<Warrant>>,
    /// The checkpoint to remember.
    pub log_head: TreeHead,
}

/// Asks everything that can be asked of a verified order without the journal.
///
/// # Errors
/// The first [`OrderError`] found.
pub fn admit(
    order: &Verified<Order>,
    recipient: &Recipient<'_>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Admitted, OrderError> {
    if order.device != recipient.device {
        return Err(OrderError::OtherDevice);
    }
    if recipient.highest.is_some_and(|highest| order.sequence <= highest) {
        return Err(OrderError::Sequence);
    }
    // A higher version without its document would let a stolen key exhaust the sequence.
    let version = order.sequence.authority_version;
    if version != lineage.current().version {
        return Err(OrderError::AuthorityVersion { version });
    }
    if now > order.expires {
        return Err(OrderError::Expired { expires: order.expires });
    }
    let warrant = admit_warrant(order, recipient, lineage, now)?;
    Ok(Admitted { warrant, log_head: admit_checkpoint(order, recipient, lineage)? })
}

fn admit_warrant(
    order: &Order,
    recipient: &Recipient<'_>,
    lineage: &Lineage,
    now: Timestamp,
) -> Result<Option<Verified<Warrant>>, OrderError> {
    let (kind, level) = (order.action.kind(), order.action.level());
    let needed = warrant::approvers_needed(&lineage.current().required, kind, level, 1);
    if needed.map_err(OrderError::Warrant)? == 0 {
        return Ok(None);
    }
    let (Some(bytes), Some(leaf), Some(proof)) = (&order.warrant, &order.leaf, &order.inclusion) else {
        return Err(OrderError::WarrantMissing);
    };
    let signed = MultiSigned::parse(bytes).map_err(OrderError::WarrantEnvelope)?;
    let warrant = warrant::verify(&signed, lineage, now).map_err(OrderError::Warrant)?;
    warrant.check_target(leaf, proof).map_err(OrderError::Warrant)?;
    let same = leaf.device == recipient.device
        && leaf.serial.as_deref() == recipient.serial
        && (warrant.kind, warrant.level) == (kind, level)
        && warrant.plan == order.action.plan();
    if same { Ok(Some(warrant)) } else { Err(OrderError::OtherTarget) }
}

fn admit_checkpoint(
    order: &Order,
    recipient: &Recipient<'_>,
    lineage: &Lineage,
) -> Result<TreeHead, OrderError> {
    let keys = &lineage.current().audit_keys;
    let checkpoint = Checkpoint::verify(&order.checkpoint, recipient.log_origin, keys);
    let head = checkpoint.map_err(OrderError::Checkpoint)?.head;
    verify_consistency(&recipient.log_head, &head, &order.consistency).map_err(OrderError::Consistency)?;
    Ok(head)
}

#[cfg(test)]
mod tests;
