//! Serial number to status, in memory: the allow-list that every door asks.
//!
//! A serial number that is not in here is refused, so an index that lost something fails closed. It is filled
//! from the store at the start and afterwards only by the store's commit observer, in commit order, before a
//! commit is answered: nobody is told of a certificate that the index does not know yet, and a revocation
//! counts at every door before its caller hears of it.
//!
//! A million certificates must fit into little memory, so an entry is packed into 16 bytes beside its 16 bytes
//! of serial number, and the map is cut into shards that are locked one at a time. Readers share the lock and
//! hold it for one look-up.

use super::peer::{ObserverCertificate, PeerCertificate, Serial};
use crate::domain::admission::{
    Admission, CertificateStatus, DeviceStanding, Door, Facts, Order, Refusal, admit,
};
use crate::domain::observer;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{PoisonError, RwLock};

const SHARDS: usize = 64;

/// What the index knows about one serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The start of the certificate's SHA-256, [`print_of`]: a certificate that somebody else signed with our key
    /// under the same serial number is not this one.
    pub print: u64,
    /// The certificate.
    pub certificate: CertificateStatus,
    /// Its device.
    pub device: DeviceStanding,
}

/// The part of a certificate's SHA-256 that the index keeps: its first eight bytes.
///
/// Finding another certificate with the same ones takes some 2^63 signatures.
pub fn print_of(sha256: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *sha256;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A [`Standing`] in 16 bytes.
#[derive(Clone, Copy)]
struct Packed {
    print: u64,
    /// Grace in seconds, or an instant in seconds since 1970 (good until 2106), as the device's tag says.
    span: u32,
    certificate: CertificateStatus,
    device: Tag,
}

#[derive(Clone, Copy)]
enum Tag {
    Active,
    Held,
    LeavingOrderOpen,
    LeavingOrderClosed,
    Proven,
    Retired,
    Observer,
}

impl Packed {
    fn pack(standing: &Standing) -> Self {
        let (device, span) = match standing.device {
            DeviceStanding::Active { grace_s } => (Tag::Active, grace_s),
            DeviceStanding::Held { grace_s } => (Tag::Held, grace_s),
            DeviceStanding::Deprovisioning { doomed_from, order: Order::Open } => {
                (Tag::LeavingOrderOpen, instant(doomed_from))
            }
            DeviceStanding::Deprovisioning { doomed_from, order: Order::Closed } => {
                (Tag::LeavingOrderClosed, instant(doomed_from))
            }
            DeviceStanding::Proven { until } => (Tag::Proven, instant(until)),
            DeviceStanding::Retired => (Tag::Retired, 0),
            DeviceStanding::Observer => (Tag::Observer, 0),
        };
        Self { print: standing.print, span, certificate: standing.certificate, device }
    }

    fn unpack(self) -> Standing {
        let at = i64::from(self.span);
        let device = match self.device {
            Tag::Active => DeviceStanding::Active { grace_s: self.span },
            Tag::Held => DeviceStanding::Held { grace_s: self.span },
            Tag::LeavingOrderOpen => DeviceStanding::Deprovisioning { doomed_from: at, order: Order::Open },
            Tag::LeavingOrderClosed => {
                DeviceStanding::Deprovisioning { doomed_from: at, order: Order::Closed }
            }
            Tag::Proven => DeviceStanding::Proven { until: at },
            Tag::Retired => DeviceStanding::Retired,
            Tag::Observer => DeviceStanding::Observer,
        };
        Standing { print: self.print, certificate: self.certificate, device }
    }
}

/// Seconds since 1970 as 32 bits; what lies outside is moved to the nearer end.
fn instant(at: i64) -> u32 {
    u32::try_from(at.max(0)).unwrap_or(u32::MAX)
}

/// A serial number as a key. We draw serial numbers at random, so eight of their bytes are hash enough; an
/// attacker can look others up but never put one in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; 16]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [_, _, _, _, a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

#[derive(Default)]
struct Verbatim(u64);

impl Hasher for Verbatim {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Shard = HashMap<Key, Packed, BuildHasherDefault<Verbatim>>;

/// The live status of every certificate that may still be shown to us.
pub struct StatusIndex {
    shards: [RwLock<Shard>; SHARDS],
}

impl StatusIndex {
    /// An index that refuses everyone.
    pub fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()) }
    }

    /// Sets what is known about `serial`, in place of what was known before, which is the answer.
    pub fn set(&self, serial: &Serial, standing: &Standing) -> Option<Standing> {
        let mut shard = self.shard(serial).write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(key(serial), Packed::pack(standing)).map(Packed::unpack)
    }

    /// Forgets `serial`, which is from now on unknown and therefore refused.
    pub fn remove(&self, serial: &Serial) {
        let mut shard = self.shard(serial).write().unwrap_or_else(PoisonError::into_inner);
        shard.remove(&key(serial));
    }

    /// What is known about `serial`; `None` means: refuse.
    pub fn lookup(&self, serial: &Serial) -> Option<Standing> {
        let shard = self.shard(serial).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key(serial)).map(|packed| packed.unpack())
    }

    /// What the certificate shown, with this serial number, `notAfter` and [`print_of`] its SHA-256, may do at
    /// `door` at second `now`.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] where the serial number belongs to another certificate, else the row of the table that
    /// refuses it.
    pub fn admit_shown(&self, shown: &PeerCertificate, door: Door, now: i64) -> Result<Admission, Refusal> {
        let genuine = |standing: &Standing| standing.print == print_of(shown.sha256.as_bytes());
        let facts = self.lookup(&shown.serial).filter(genuine).map(|standing| Facts {
            certificate: standing.certificate,
            device: standing.device,
            not_after: shown.not_after,
        });
        admit(facts.as_ref(), door, now)
    }

    /// What a certificate with this serial number and `notAfter` may do at `door` at second `now`, where it has been
    /// compared with the index before.
    ///
    /// # Errors
    /// The row of the table that refuses it.
    pub fn admit(&self, serial: &Serial, not_after: i64, door: Door, now: i64) -> Result<Admission, Refusal> {
        let facts = self.lookup(serial).map(|standing| Facts {
            certificate: standing.certificate,
            device: standing.device,
            not_after,
        });
        admit(facts.as_ref(), door, now)
    }

    /// Whether the observer's certificate shown is let in at the gate at second `now`.
    ///
    /// # Errors
    /// As [`observer::admit`]; [`Refusal::Unknown`] where the serial number belongs to another certificate.
    pub fn admit_observer(&self, shown: &ObserverCertificate, now: i64) -> Result<(), Refusal> {
        let genuine = |standing: &Standing| standing.print == print_of(shown.sha256.as_bytes());
        let facts = self.lookup(&shown.serial).filter(genuine).map(|standing| Facts {
            certificate: standing.certificate,
            device: standing.device,
            not_after: shown.not_after,
        });
        observer::admit(facts.as_ref(), now)
    }

    /// Whether any door lets in who showed this serial number, expiry set aside.
    pub fn is_let_in(&self, serial: &Serial, now: i64) -> bool {
        let facts = self.lookup(serial).map(|standing| Facts {
            certificate: standing.certificate,
            device: standing.device,
            not_after: now,
        });
        admit(facts.as_ref(), Door::Handshake, now).is_ok() || observer::admit(facts.as_ref(), now).is_ok()
    }

    /// How many serial numbers are known.
    pub fn len(&self) -> usize {
        self.read_shards(Shard::len)
    }

    /// Is none known?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the map's tables occupy, room for growth included.
    pub fn table_bytes(&self) -> usize {
        // A slot holds key and entry, and one byte of control; an eighth of the slots is always free.
        let slot = size_of::<(Key, Packed)>() + 1;
        self.read_shards(|shard| shard.capacity() * 8 / 7 * slot)
    }

    fn read_shards(&self, count: impl Fn(&Shard) -> usize) -> usize {
        self.shards.iter().map(|shard| count(&shard.read().unwrap_or_else(PoisonError::into_inner))).sum()
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn shard(&self, serial: &Serial) -> &RwLock<Shard> {
        let [.., last] = *serial.as_bytes();
        &self.shards[usize::from(last) % SHARDS]
    }
}

impl Default for StatusIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for StatusIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusIndex({} serials)", self.len())
    }
}

fn key(serial: &Serial) -> Key {
    Key(*serial.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(n: u64) -> Serial {
        // A multiplicative step spreads the numbers as random serials are spread.
        let spread = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut bytes = [0x40; 16];
        bytes[4..12].copy_from_slice(&spread.to_le_bytes());
        bytes[12..].copy_from_slice(&(spread >> 32).to_le_bytes()[..4]);
        Serial::from_random(bytes)
    }

    fn current(print: u64) -> Standing {
        Standing {
            print,
            certificate: CertificateStatus::Current,
            device: DeviceStanding::Active { grace_s: 60 },
        }
    }

    #[test]
    fn what_was_set_is_found_and_what_was_not_is_refused() {
        let index = StatusIndex::new();
        index.set(&serial(1), &current(7));
        assert_eq!(index.lookup(&serial(1)), Some(current(7)));
        assert_eq!(index.admit(&serial(2), 100, Door::Handshake, 50), Err(Refusal::Unknown));
        assert!(index.admit(&serial(1), 100, Door::Handshake, 50).is_ok());
    }

    #[test]
    fn a_later_status_replaces_the_earlier_and_removal_means_unknown() {
        let index = StatusIndex::new();
        index.set(&serial(1), &current(7));
        index.set(&serial(1), &Standing { certificate: CertificateStatus::Revoked, ..current(7) });
        assert_eq!(index.admit(&serial(1), 100, Door::Https, 50), Err(Refusal::Revoked));
        assert_eq!(index.len(), 1);
        index.remove(&serial(1));
        assert_eq!(index.admit(&serial(1), 100, Door::Https, 50), Err(Refusal::Unknown));
        assert!(index.is_empty());
    }

    #[test]
    fn another_certificate_under_a_known_serial_number_is_unknown() {
        let index = StatusIndex::new();
        let shown = crate::doors::fixture::peer_certificate(1);
        index.set(&shown.serial, &current(print_of(shown.sha256.as_bytes())));
        assert!(index.admit_shown(&shown, Door::Https, 50).is_ok());
        let forged = PeerCertificate { sha256: muster_wire::digest::Sha256Digest([2; 32]), ..shown };
        assert_eq!(index.admit_shown(&forged, Door::Https, 50), Err(Refusal::Unknown));
    }

    #[test]
    fn every_standing_survives_the_packing() {
        let devices = [
            DeviceStanding::Active { grace_s: u32::MAX },
            DeviceStanding::Held { grace_s: 0 },
            DeviceStanding::Deprovisioning { doomed_from: 1_900_000_000, order: Order::Open },
            DeviceStanding::Deprovisioning { doomed_from: 0, order: Order::Closed },
            DeviceStanding::Proven { until: 4_000_000_000 },
            DeviceStanding::Retired,
            DeviceStanding::Observer,
        ];
        let index = StatusIndex::new();
        for device in devices {
            for certificate in [
                CertificateStatus::Issued,
                CertificateStatus::Current,
                CertificateStatus::Superseded,
                CertificateStatus::Revoked,
            ] {
                let standing = Standing { print: u64::MAX, certificate, device };
                index.set(&serial(3), &standing);
                assert_eq!(index.lookup(&serial(3)), Some(standing));
            }
        }
    }

    #[test]
    fn instants_outside_32_bits_move_to_the_nearer_end() {
        let index = StatusIndex::new();
        for (given, kept) in [(i64::MIN, 0), (i64::MAX, i64::from(u32::MAX))] {
            let device = DeviceStanding::Proven { until: given };
            index.set(&serial(1), &Standing { device, ..current(1) });
            let found = index.lookup(&serial(1)).map(|standing| standing.device);
            assert_eq!(found, Some(DeviceStanding::Proven { until: kept }));
        }
    }

    #[test]
    fn an_entry_is_at_most_24_bytes_and_100_000_of_them_stay_below_80_bytes_each() {
        assert!(size_of::<Packed>() <= 24, "{}", size_of::<Packed>());
        let index = StatusIndex::new();
        for n in 0..100_000 {
            index.set(&serial(n), &current(n));
        }
        assert_eq!(index.len(), 100_000);
        let each = index.table_bytes() / index.len();
        assert!((33..80).contains(&each), "{each} bytes a certificate");
    }
}
