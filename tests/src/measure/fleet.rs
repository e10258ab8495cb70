//! Many devices: enrolled by plain EST, each with a key of its own.

use super::client;
use super::line::Line;
use crate::est::{self, Pledge};
use crate::{Identity, Minted, Server};
use muster_wire::cbor;
use muster_wire::desired::Generation;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::sign1;
use muster_wire::id::{DeviceId, OrderId, ReportId, RequestId};
use muster_wire::key::{PublicKey, SIGNATURE_LEN, SignError, Signer};
use muster_wire::posture::{PostureReport, StateReport};
use muster_wire::receipt::{Receipt, ReceiptOutcome, ReceiptPhase};
use muster_wire::renew::Renew;
use muster_wire::time::Timestamp;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::ClientConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Most tokens that one `token create` makes.
const PER_COMMAND: usize = 10_000;

/// How many are served at a time.
pub const IN_FLIGHT: usize = 64;

/// A device.
#[derive(Debug)]
pub struct Member {
    /// Its id.
    pub id: DeviceId,
    /// Its certificate and key, for TLS.
    pub identity: Identity,
    /// A client that shows them.
    pub config: Arc<ClientConfig>,
    key: KeyPair,
}

impl Member {
    /// The device whose enrolment with `pledge` was answered with `leaf`, DER.
    ///
    /// # Panics
    /// When that is no certificate of ours.
    pub fn new(pledge: Pledge, leaf: &[u8]) -> Self {
        let key = PrivateKeyDer::try_from(pledge.key.serialize_der()).expect("PKCS#8");
        let identity = Identity::of(leaf, key);
        let id = est::device_id(identity.leaf()).parse().expect("a device id");
        Self { id, config: client::config(Some(&identity)), identity, key: pledge.key }
    }

    /// SHA-256 of its certificate.
    pub fn certificate(&self) -> Sha256Digest {
        Sha256Digest::of(self.identity.leaf())
    }

    /// A request for its next certificate, with a new key: for EST, DER, and for `renew`, signed.
    pub fn renewal(&self) -> (Vec<u8>, Vec<u8>) {
        let csr = Pledge::renewing(&self.identity).csr;
        let renew = Renew {
            device: self.id,
            request: RequestId::from_parts(now_ms(), random()),
            certificate: self.certificate(),
            csr: csr.clone(),
        };
        (csr, sign1(&renew, self).expect("the key signs"))
    }

    /// A report that `generation` is in place.
    pub fn state(&self, generation: u64) -> Vec<u8> {
        cbor::encode(&StateReport {
            device: self.id,
            id: ReportId::from_parts(now_ms(), random()),
            generation: Some(Generation { restore_epoch: 0, counter: generation }),
            drift: Vec::new(),
            agent_version: "0.1.0".to_owned(),
            last_checkpoint: None,
            at: now(),
        })
    }

    /// A report of no facts.
    pub fn posture(&self) -> Vec<u8> {
        let id = ReportId::from_parts(now_ms(), random());
        cbor::encode(&PostureReport { device: self.id, id, facts: Vec::new(), at: now() })
    }

    /// The word that `order` was carried out.
    pub fn receipt(&self, order: OrderId) -> Vec<u8> {
        let receipt = Receipt {
            device: self.id,
            order,
            warrant: None,
            level: None,
            phase: ReceiptPhase::Verified,
            outcome: ReceiptOutcome::Done,
            items: Vec::new(),
            evidence: Sha256Digest::of(b""),
            previous: None,
            certificate: self.certificate(),
            last_checkpoint: None,
            at: now(),
        };
        sign1(&receipt, self).expect("the key signs")
    }
}

impl Signer for Member {
    fn public_key(&self) -> PublicKey {
        PublicKey::from_spki_der(&self.key.subject_public_key_info()).expect("a P-256 key")
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignError> {
        let der = self.key.sign(message).map_err(|error| SignError(error.into()))?;
        Ok(fixed(&der))
    }
}

/// The numbers of an ECDSA signature in DER, each in 32 bytes (RFC 9053 §2.1).
fn fixed(der: &[u8]) -> [u8; SIGNATURE_LEN] {
    let mut signature = [0; SIGNATURE_LEN];
    let mut rest = &der[2..];
    for half in signature.chunks_mut(32) {
        let (number, after) = rest[2..].split_at(rest[1].into());
        let significant = &number[number.iter().take_while(|byte| **byte == 0).count()..];
        half[32 - significant.len()..].copy_from_slice(significant);
        rest = after;
    }
    signature
}

/// `count` devices of `profile`, enrolled and never seen again.
pub async fn enrolled(server: &Server, profile: &str, count: usize) -> Vec<Member> {
    let pledges = (0..count).map(|_| Pledge::new("device"));
    let work: Vec<(Minted, Pledge)> = tokens(server, profile, count).await.into_iter().zip(pledges).collect();
    let left = Arc::new(Mutex::new(work.into_iter()));
    let mut places = JoinSet::new();
    for _ in 0..IN_FLIGHT.min(count) {
        let mut door = est::connect(server).await.expect("the server accepts");
        let left = Arc::clone(&left);
        places.spawn(async move {
            let mut members = Vec::new();
            while let Some((token, pledge)) = next(&left) {
                let request = est::enroll_request(None, &token.token, &pledge.csr);
                let answer = door.send(request).await.expect("an answer");
                members.push(Member::new(pledge, &est::leaf(&answer)));
            }
            members
        });
    }
    places.join_all().await.into_iter().flatten().collect()
}

/// `count` tokens for `profile`.
pub async fn tokens(server: &Server, profile: &str, count: usize) -> Vec<Minted> {
    let mut tokens = Vec::with_capacity(count);
    while tokens.len() < count {
        let some = (count - tokens.len()).min(PER_COMMAND).to_string();
        tokens.extend(server.mint_with(&["--profile", profile, "--count", &some]).await);
    }
    tokens
}

/// A session of each of `members` at `to`, in their order; `more` are topics beside a device's own.
///
/// # Panics
/// When one is refused.
pub async fn connected(
    members: &[Arc<Member>],
    to: SocketAddr,
    keep_alive_s: u16,
    more: &'static [&'static str],
) -> Vec<Line> {
    let waiting: Vec<Arc<Member>> = members.to_vec();
    let left = Arc::new(Mutex::new(waiting.into_iter().enumerate()));
    let mut places = JoinSet::new();
    for _ in 0..IN_FLIGHT.min(members.len()) {
        let left = Arc::clone(&left);
        places.spawn(async move {
            let mut lines = Vec::new();
            while let Some((place, member)) = next(&left) {
                let line = Line::begin(&member, to, keep_alive_s, more).await;
                lines.push((place, line.unwrap_or_else(|error| panic!("no session: {error}"))));
            }
            lines
        });
    }
    let mut lines: Vec<(usize, Line)> = places.join_all().await.into_iter().flatten().collect();
    lines.sort_by_key(|(place, _)| *place);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Takes one of what is left.
pub fn next<T, I: Iterator<Item = T>>(left: &Mutex<I>) -> Option<T> {
    left.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn random() -> [u8; 10] {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("randomness");
    random
}

fn now_ms() -> u64 {
    u64::try_from(super::now().as_millis()).expect("before the year 500 million")
}

fn now() -> Timestamp {
    Timestamp(i64::try_from(now_ms() / 1000).expect("a clock of our time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_in_der_has_two_numbers_of_32_bytes() {
        let short = [&[0x30, 8, 2, 1, 5, 2, 3, 0, 0x80, 1][..]].concat();
        let mut expected = [0; 64];
        (expected[31], expected[62], expected[63]) = (5, 0x80, 1);
        assert_eq!(fixed(&short), expected);
    }
}
