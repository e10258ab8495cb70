//! What the CA and the authority are, as operators see them; readiness.

use super::{Acknowledged, App, Error, Profiles};
use crate::ca::{Role, issuer_id};
use crate::domain::policy::{Permit, act};
use crate::domain::revocation::ShardHead;
use crate::store::collections::{CRL_HEADS, INSTALLATION, REVOCATIONS, decode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_pki::certificate::Certificate;
use muster_wire::digest::Sha256Digest;
use muster_wire::key::Ed25519Key;
use std::collections::BTreeMap;

/// A CA certificate.
#[derive(Clone, Debug)]
pub struct CaShown {
    /// What it is for.
    pub role: Role,
    /// Its name in paths.
    pub name: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// Digest of its DER.
    pub sha256: Sha256Digest,
    /// Digest of its public key.
    pub spki_sha256: Sha256Digest,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
    /// PEM.
    pub pem: String,
}

/// A CRL that was signed.
#[derive(Clone, Debug)]
pub struct CrlHead {
    /// Its issuer's name in paths.
    pub issuer: String,
    /// Its shard.
    pub shard: u8,
    /// Its number.
    pub number: u64,
    /// When it was signed, unix seconds.
    pub this_update: i64,
    /// Revocations in the store for this shard.
    pub entries: u64,
    /// Where it is published.
    pub url: String,
}

/// The authority chain.
#[derive(Clone, Debug)]
pub struct AuthorityShown {
    /// Version of the newest document.
    pub version: u64,
    /// Digest of the first.
    pub digest: Sha256Digest,
    /// Digest of the newest.
    pub newest: Sha256Digest,
    /// The trust domain.
    pub trust_domain: String,
    /// Who approves.
    pub approvers: Vec<SignerShown>,
    /// The recovery keys.
    pub recovery: Vec<SignerShown>,
    /// Approvers needed, by matter.
    pub required: BTreeMap<String, u64>,
    /// Base64 of each document, oldest first.
    pub chain: Vec<String>,
}

/// An approver, or a recovery key.
#[derive(Clone, Debug)]
pub struct SignerShown {
    /// Whose.
    pub name: String,
    /// The public key.
    pub key: Ed25519Key,
    /// When they joined, unix seconds; `None` for recovery keys.
    pub valid_from: Option<i64>,
    /// From when on their signature counts, unix seconds; `None` for recovery keys.
    pub counts_from: Option<i64>,
}

/// Why requests cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The store failed or is closed.
    #[error("the store does not answer")]
    Store,
}

impl App {
    /// Every authority that counts, the root first, then the issuing CA that signs.
    ///
    /// # Errors
    /// [`Error::Internal`] where a certificate cannot be read.
    pub fn hierarchy(&self, _permit: &Permit<act::ReadCa>) -> Result<Vec<CaShown>, Error> {
        let shown = |(role, certificate): (Role, &crate::ca::CaCertificate)| {
            let parsed = Certificate::parse(certificate.der())
                .map_err(|error| Error::internal("reading a CA certificate")(Box::new(error)))?;
            Ok(CaShown {
                role,
                name: hex::encode(issuer_id(certificate)),
                serial: hex::encode(parsed.serial_bytes()),
                sha256: Sha256Digest(parsed.sha256()),
                spki_sha256: Sha256Digest(parsed.spki_sha256()),
                not_before: parsed.not_before_s(),
                not_after: parsed.not_after_s(),
                pem: muster_pki::armor::pem("CERTIFICATE", certificate.der()),
            })
        };
        self.ca.certificates().into_iter().map(shown).collect()
    }

    /// How many devices have the authorities that were added last; `None` where none was ever added.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn acknowledged(&self, _permit: &Permit<act::ReadCa>) -> Result<Option<Acknowledged>, Error> {
        match self.ca.lineup().generation {
            0 => Ok(None),
            generation => Ok(Some(super::acknowledged::acknowledged(&self.store, generation)?)),
        }
    }

    /// Where the CRL of a shard of the issuing CA is, with `{shard}` in its place.
    pub fn crl_url_template(&self) -> String {
        self.urls.issuing.crl(0).replace("/00.crl", "/{shard}.crl")
    }

    /// Every CRL that was signed, by issuer and shard.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn crl_heads(&self, _permit: &Permit<act::ReadCa>) -> Result<Vec<CrlHead>, Error> {
        let mut heads = Vec::new();
        for id in self.ca.issuers() {
            let Some(urls) = self.urls.of_issuer(id) else { continue };
            for (key, found) in self.store.scan(&CRL_HEADS.key(&id), None, 256)? {
                let Some(shard) = key.last().copied() else { continue };
                let head: ShardHead = decode(&found.value)?;
                heads.push(CrlHead {
                    issuer: hex::encode(id),
                    shard,
                    number: head.number,
                    this_update: head.this_update,
                    entries: self.count_revocations(id, shard)?,
                    url: urls.crl(shard),
                });
            }
        }
        Ok(heads)
    }

    fn count_revocations(&self, issuer: crate::ca::IssuerId, shard: u8) -> Result<u64, Error> {
        let mut prefix = REVOCATIONS.key(&issuer);
        prefix.push(shard);
        let (mut count, mut after) = (0, None::<Vec<u8>>);
        loop {
            let page = self.store.scan(&prefix, after.as_deref(), 1_000)?;
            count += page.len() as u64;
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(count),
            }
        }
    }

    /// The authority chain, and what its newest document says.
    pub fn authority(&self, _permit: &Permit<act::ReadAuthority>) -> AuthorityShown {
        let in_force = self.in_force();
        let document = in_force.lineage.current();
        let approvers = document.approvers.iter().map(|approver| SignerShown {
            name: approver.name.to_string(),
            key: approver.key,
            valid_from: Some(approver.valid_from.seconds()),
            counts_from: Some(in_force.lineage.counts_from(approver).seconds()),
        });
        let recovery = document.recovery.iter().map(|one| SignerShown {
            name: one.name.to_string(),
            key: one.key,
            valid_from: None,
            counts_from: None,
        });
        AuthorityShown {
            version: document.version,
            digest: self.founding.authority_digest,
            newest: document.payload_digest(),
            trust_domain: document.trust_domain.as_str().to_owned(),
            approvers: approvers.collect(),
            recovery: recovery.collect(),
            required: document.required.iter().map(|(matter, count)| (matter.to_owned(), count)).collect(),
            chain: in_force.chain.iter().map(|link| STANDARD.encode(link)).collect(),
        }
    }

    /// The firmware profiles.
    pub fn profiles(&self, _permit: &Permit<act::ReadProfile>) -> &Profiles {
        &self.profiles
    }

    /// The names of the firmware profiles.
    pub fn profile_names(&self) -> Vec<&'static str> {
        self.profiles.iter().map(|profile| profile.name.as_str()).collect()
    }

    /// Version of the record of a device, for `If-Match`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn version_of(&self, id: muster_wire::id::DeviceId) -> Result<u64, Error> {
        Ok(self.device(id)?.version)
    }

    /// Whether requests can be answered.
    ///
    /// # Errors
    /// [`NotReady`].
    pub fn readiness(&self, _permit: &Permit<act::ReadHealth>) -> Result<(), NotReady> {
        self.store.get(&INSTALLATION.key(super::found::FOUNDING_ID)).map_err(|_| NotReady::Store).map(|_| ())
    }
}
