//! Successors of the authority document: proposed by an operator, signed by approvers, in force once enough have.
//!
//! ```text
//! propose: new keys on the disk ─▶ proposal stored
//! sign:    signature judged ─▶ stored; enough ─▶ chain, generation and keys' names in ONE commit ─▶ sign with the new keys
//! ```
//! What is in force lies in memory as one piece, so that an order's version and the key under it never disagree. A crash
//! after the commit is no half-way house: the next start reads the same record. A crash before it leaves a key file that
//! no proposal names, which the next start removes.
//!
//! A successor also counts as a new generation of everything desired: devices that are connected hear a head with a
//! number that they do not know, ask who is in force, and report that number when they do.

use super::found::{SUCCESSION_ID, authority_id};
use super::report::GENERATION_ID;
use super::{Acknowledged, App, Error, Slot};
use crate::audit::AuditKey;
use crate::ca::{Ca, Purpose, Replacement, key_file};
use crate::domain::desired::FIRST;
use crate::domain::ledger::Draft;
use crate::domain::policy::{Caller, Permit, act, decide};
use crate::domain::refusal::Refusal;
use crate::domain::signature::SignatureFlaw;
use crate::domain::succession::{
    Changes, Progress, Proposal, Quorum, Succession, check_signatures, successor,
};
use crate::store::collections::INSTALLATION;
use crate::store::{Batch, Expect, Store};
use muster_wire::authority::Authority;
use muster_wire::digest::Sha256Digest;
use muster_wire::envelope::{EnvelopeError, MultiSigned};
use muster_wire::key::Ed25519Key;
use muster_wire::lineage::{Lineage, LineageError};
use muster_wire::problem::Code;
use muster_wire::time::Timestamp;
use std::sync::{Arc, PoisonError, RwLock};

/// Under which id the proposal lies that waits for signatures.
const PENDING_ID: &[u8] = b"authority-pending";

/// Somebody else has proposed, or signed what is to be replaced, since it was looked at.
const CHANGED: Refusal = Refusal::by("authority.proposal_changed", Code::PreconditionFailed).at("If-Match");

/// The chain of authority documents, and what goes with its newest.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    /// Every signed document, oldest first.
    pub(super) chain: Vec<Vec<u8>>,
    /// The chain, verified.
    pub(super) lineage: Lineage,
    /// What successors settled.
    pub(super) succession: Succession,
    /// The key that signs checkpoints.
    pub(super) audit_key: AuditKey,
}

/// What is in force, replaced as one piece.
pub(super) type Current = RwLock<Arc<InForce>>;

/// A proposal that waits for signatures.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The document with its signatures so far, as COSE_Sign; without any it is still being signed.
    pub document: Vec<u8>,
    /// The document in force, signed.
    pub current: Vec<u8>,
    /// What it says.
    pub next: Authority,
    /// SHA-256 of its payload.
    pub digest: Sha256Digest,
    /// How far it has come.
    pub progress: Progress,
    /// When it was proposed, unix seconds.
    pub proposed_at: i64,
    /// Who proposed it.
    pub proposed_by: String,
    /// Whether it is in force by now.
    pub is_in_force: bool,
    /// The proposal in whose place it was just put, where somebody had signed that.
    pub replaced: Option<Replaced>,
    /// Version of its record, for `ETag`, where it was only looked at: each signature makes another one.
    pub version: Option<u64>,
}

/// A proposal that was signed and is none any more: its signatures count for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// SHA-256 of its payload.
    pub digest: Sha256Digest,
    /// Who had signed it.
    pub signed_by: Vec<String>,
}

/// What an operator asks a successor to be like.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What changes, the keys of the server aside.
    pub changes: Changes,
    /// Whether the command key is replaced.
    pub new_command_key: bool,
    /// Whether the audit key is replaced.
    pub new_audit_key: bool,
}

/// A proposal as it was read.
struct Held {
    record: Proposal,
    signed: MultiSigned<Authority>,
    next: Authority,
}

impl InForce {
    /// Reads the chain and verifies it from the digest that the founding settled.
    ///
    /// # Errors
    /// [`Error::Internal`] where it does not hold, or where the command key is not the one that it names.
    pub(super) fn read(
        store: &Store,
        founding: &super::Founding,
        ca: &Ca,
        audit_key: AuditKey,
    ) -> Result<Self, Error> {
        let mut chain = Vec::new();
        for version in 1_u64.. {
            match store.get_document(&INSTALLATION.key(&authority_id(version)))? {
                Some(document) => chain.push(document.value),
                None => break,
            }
        }
        // Each document was judged by the clock of its day.
        let lineage = Lineage::walk(&chain, founding.authority_digest, Timestamp(i64::MAX / 2))
            .map_err(|error| Error::internal("reading the authority")(Box::new(error)))?;
        let command = ca.command_public();
        if !lineage.current().command_keys.iter().any(|key| *key.as_bytes() == command) {
            let other = "the command key in keys/ is not the one that the authority document names; restore both from one backup";
            return Err(Error::internal("reading the authority")(other.into()));
        }
        Ok(Self { chain, lineage, succession: founding.succession.clone(), audit_key })
    }
}

impl App {
    /// What is in force now.
    pub(super) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The proposal that waits for signatures.
    ///
    /// # Errors
    /// [`Error::NotFound`] where none does.
    pub fn pending_authority(&self, _permit: &Permit<act::ReadAuthority>) -> Result<Pending, Error> {
        let (version, held) = self.held_proposal()?;
        let held = held.ok_or(Error::NotFound { kind: "proposal of an authority document" })?;
        Ok(Pending { version, ..self.shown_proposal(&held) })
    }

    /// How many devices were told of the document in force; `None` where there was never a successor.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn authority_heard(
        &self,
        _permit: &Permit<act::ReadAuthority>,
    ) -> Result<Option<Acknowledged>, Error> {
        match self.in_force().succession.generation {
            0 => Ok(None),
            generation => Ok(Some(super::acknowledged::acknowledged(&self.store, generation)?)),
        }
    }

    /// Stores a successor for signing, in place of one that waited: what was gathered for that is lost, and said to be.
    /// `is_meant` is asked about the version of the one that waits, or about nothing where none does.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what no device would take; [`Error::Refused`] with `precondition_failed` where another one was
    /// meant to be replaced.
    pub async fn propose_authority(
        &self,
        permit: Permit<act::ProposeAuthority>,
        asked: Asked,
        kept: Option<Slot>,
        is_meant: impl Fn(Option<u64>) -> bool,
    ) -> Result<Pending, Error> {
        let now_s = kept.as_ref().map_or(self.clock.now_s(), |slot| slot.began_ms().div_euclid(1000));
        let request = kept.map_or_else(String::new, |slot| hex::encode(slot.derive::<32>(b"authority", 0)));
        let (_, waiting) = self.held_proposal()?;
        if let Some(waiting) = waiting.filter(|held| !request.is_empty() && held.record.request == request) {
            return Ok(self.shown_proposal(&waiting));
        }
        let proposed = self.propose(&permit, asked, (now_s, request), is_meant).await;
        // Whatever was made for a proposal that is none, or none any more, goes.
        self.clear_server_keys();
        proposed
    }

    async fn propose(
        &self,
        permit: &Permit<act::ProposeAuthority>,
        asked: Asked,
        (now_s, request): (i64, String),
        is_meant: impl Fn(Option<u64>) -> bool,
    ) -> Result<Pending, Error> {
        let made = |wanted: bool, purpose| {
            let made = wanted.then(|| self.ca.make_server_key(purpose)).transpose();
            made.map_err(|error| Error::internal("making a key for a successor")(Box::new(error)))
        };
        let changes = Changes {
            command_key: made(asked.new_command_key, Purpose::Command)?,
            audit_key: made(asked.new_audit_key, Purpose::Audit)?,
            ..asked.changes
        };
        for _ in 0..super::ATTEMPTS {
            let in_force = self.in_force();
            let next = successor(in_force.lineage.current(), &changes, Timestamp(now_s))
                .map_err(|flaw| Error::Invalid { field: "changes", expected: flaw.to_string() })?;
            let signed = MultiSigned::unsigned(&next);
            let record = Proposal {
                v: 1,
                signed: hex::encode(signed.to_bytes()),
                proposed_at: now_s,
                proposed_by: permit.caller().principal.actor(),
                request: request.clone(),
            };
            let (version, waiting) = self.held_proposal()?;
            if !is_meant(waiting.as_ref().and(version)) {
                let object = format!("authority/{}", next.version);
                return Err(self.decline(permit, &object, CHANGED).await);
            }
            let replaced = waiting.as_ref().and_then(|waiting| self.loses(waiting));
            let entry = permit
                .entry(self.clock.now_ms(), format!("authority/{}", next.version))
                .states(waiting.map_or("", |_| "pending"), "pending")
                .facts(replaced.iter().flat_map(Replaced::facts));
            let entry = Draft { payload_sha256: signed.payload_digest().to_hex(), ..entry };
            let held = Held { record, signed, next };
            match self.commit(self.proposal_batch(version, Some(&held.record))?.audit(entry)).await {
                Err(Error::Contended) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(Pending { replaced, ..self.shown_proposal(&held) }),
            }
        }
        Err(Error::Contended)
    }

    /// What is lost with `waiting`, if anybody has signed it.
    fn loses(&self, waiting: &Held) -> Option<Replaced> {
        let Progress { current, next, recovery, waiting: young } = self.shown_proposal(waiting).progress;
        let names = current.signed.iter().chain(&next.signed).chain(&recovery.signed);
        let names = names.chain(young.iter().map(|(name, _)| name)).map(ToString::to_string);
        let signed_by: Vec<_> = names.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        (!signed_by.is_empty()).then(|| Replaced { digest: waiting.signed.payload_digest(), signed_by })
    }

    /// Takes the signatures under `copy`, a copy of the proposal, and lets the proposal take over once enough are there.
    ///
    /// # Errors
    /// [`Error::NotFound`] where nothing is proposed; [`Error::Refused`] with `conflict` for a copy of something else and
    /// with `forbidden` for a signature that cannot count; [`Error::Invalid`] for what is no such document.
    pub async fn sign_authority(
        &self,
        permit: Permit<act::SignAuthority>,
        copy: &[u8],
    ) -> Result<Pending, Error> {
        let copy = MultiSigned::<Authority>::parse(copy).map_err(|error| Error::Invalid {
            field: "signature",
            expected: format!("is refused: {error}"),
        })?;
        for _ in 0..super::ATTEMPTS {
            let in_force = self.in_force();
            if copy.payload_digest() == in_force.lineage.current().payload_digest() {
                return Ok(taken_over(&in_force));
            }
            let nothing = Error::NotFound { kind: "proposal of an authority document" };
            let (version, held) = self.held_proposal()?;
            let mut held = held.ok_or(nothing)?;
            let added = match self.add_signatures(&in_force, &mut held, &copy) {
                Ok(added) => added,
                Err(error) => {
                    let object = format!("authority/{}", held.next.version);
                    return Err(self.decline_for(&permit, &object, error).await);
                }
            };
            let judged = in_force.lineage.succeed(&held.signed, Timestamp(self.clock.now_s()));
            let settled = match judged {
                Ok(lineage) => self.adopt(&permit, (version, &held), &in_force, lineage).await,
                Err(LineageError::Envelope(EnvelopeError::TooFew { .. } | EnvelopeError::UnknownSigner)) => {
                    self.keep_signatures(&permit, version, &held, added).await
                }
                Err(error) => return Err(Error::internal("judging a successor")(Box::new(error))),
            };
            match settled {
                Err(Error::Contended) => {}
                settled => return settled,
            }
        }
        Err(Error::Contended)
    }

    /// Adds the signatures under `copy` to those of `held`; answers how many were new.
    fn add_signatures(
        &self,
        in_force: &InForce,
        held: &mut Held,
        copy: &MultiSigned<Authority>,
    ) -> Result<usize, Error> {
        let other = Refusal::by("authority.other_proposal", Code::Conflict).at("signature");
        let added = held.signed.merge(copy).map_err(|_| other)?;
        let judged = check_signatures(&in_force.lineage, &held.next, &held.signed);
        let refused = |flaw: SignatureFlaw| {
            let is_false = matches!(flaw, SignatureFlaw::False(_));
            let rule = if is_false { "authority.signature_false" } else { "authority.no_approver" };
            Error::signature(Refusal::by(rule, Code::Forbidden).at("signature"))(flaw)
        };
        judged.map(|()| added).map_err(refused)
    }

    async fn keep_signatures(
        &self,
        permit: &Permit<act::SignAuthority>,
        version: Option<u64>,
        held: &Held,
        added: usize,
    ) -> Result<Pending, Error> {
        if added == 0 {
            return Ok(self.shown_proposal(held));
        }
        let record = Proposal { signed: hex::encode(held.signed.to_bytes()), ..held.record.clone() };
        let entry = self.signing_entry(permit, held);
        self.commit(self.proposal_batch(version, Some(&record))?.audit(entry)).await?;
        Ok(self.shown_proposal(held))
    }

    fn signing_entry(&self, permit: &Permit<act::SignAuthority>, held: &Held) -> Draft {
        let signers = held.signed.key_ids().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let entry = permit
            .entry(self.clock.now_ms(), format!("authority/{}", held.next.version))
            .states("pending", "pending")
            .facts([("signers", signers)]);
        Draft { payload_sha256: held.signed.payload_digest().to_hex(), ..entry }
    }

    /// Lets the newest document of `lineage` take over: one commit, then the keys, then the devices are told. Whatever can
    /// fail is ready before the commit.
    async fn adopt(
        &self,
        permit: &Permit<act::SignAuthority>,
        (version, held): (Option<u64>, &Held),
        in_force: &InForce,
        lineage: Lineage,
    ) -> Result<Pending, Error> {
        let (before, document) = (in_force.lineage.current(), lineage.current());
        let replaced = |now: &[Ed25519Key], then: &[Ed25519Key]| {
            now.first().filter(|key| then.first() != Some(key)).copied()
        };
        let command = replaced(&document.command_keys, &before.command_keys);
        let audit = replaced(&document.audit_keys, &before.audit_keys);
        let failed = |error| Error::internal("reading a successor's keys")(error);
        let keys = self.ca.prepare_server_keys(command.as_ref(), audit.as_ref());
        let keys = keys.map_err(|error| failed(Box::new(error)))?;
        let audit_key = match keys.audit() {
            Some(key) => AuditKey::new(self.founding.trust_domain.as_str(), key)
                .map_err(|error| failed(Box::new(error)))?,
            None => in_force.audit_key.clone(),
        };
        let (generation_version, stands) = self.generation_counter()?;
        let generation = stands.max(FIRST).saturating_add(1);
        let mut succession = Succession { v: 1, generation, ..in_force.succession.clone() };
        if let Some(key) = &command {
            succession.command = Some(key_file(Purpose::Command, key));
        }
        if let Some(key) = &audit {
            succession.audit = Some(key_file(Purpose::Audit, key));
            succession.former_audit.extend(before.audit_keys.first().map(|key| hex::encode(key.as_bytes())));
        }
        let entry = self.adoption_entry(held, (command.as_ref(), audit.as_ref()), generation)?;
        let batch = self.adoption_batch(version, held, &succession)?;
        let key = INSTALLATION.key(GENERATION_ID);
        let batch = batch
            .expect(key.clone(), generation_version.map_or(Expect::Absent, Expect::Version))
            .put(key, generation.to_be_bytes())
            .audit(self.signing_entry(permit, held))
            .audit(entry);
        self.commit(batch).await?;
        let mut chain = in_force.chain.clone();
        chain.push(held.signed.to_bytes());
        self.take_over(InForce { chain, lineage, succession, audit_key }, keys);
        Ok(Pending { is_in_force: true, ..self.shown_proposal(held) })
    }

    fn adoption_entry(
        &self,
        held: &Held,
        (command, audit): (Option<&Ed25519Key>, Option<&Ed25519Key>),
        generation: u64,
    ) -> Result<Draft, Error> {
        let permit = decide::<act::AdoptAuthority>(Caller::server())?;
        let version = held.next.version;
        let key = |name, key: Option<&Ed25519Key>| key.map(|key| (name, key.key_id().to_string()));
        let entry = permit
            .entry(self.clock.now_ms(), format!("authority/{version}"))
            .states(format!("version {}", version.saturating_sub(1)), format!("version {version}"))
            .facts([("generation", generation.to_string())])
            .facts([key("command_key", command), key("audit_key", audit)].into_iter().flatten());
        Ok(Draft { payload_sha256: held.signed.payload_digest().to_hex(), ..entry })
    }

    fn adoption_batch(
        &self,
        version: Option<u64>,
        held: &Held,
        succession: &Succession,
    ) -> Result<Batch, Error> {
        let mut batch = self.proposal_batch(version, None)?;
        let document = INSTALLATION.key(&authority_id(held.next.version));
        self.store.put_document(&mut batch, &document, &held.signed.to_bytes())?;
        let bytes = serde_json::to_vec(succession)
            .map_err(|error| Error::internal("writing what a successor settled")(Box::new(error)))?;
        Ok(batch.put(INSTALLATION.key(SUCCESSION_ID), bytes))
    }

    /// What was committed is what is signed with and served from now on.
    fn take_over(&self, next: InForce, keys: Replacement) {
        {
            // The publisher first: it may be busy with the disk, and nobody has to wait for that with what is in force.
            let mut publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
            let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
            self.ca.replace_server_keys(keys);
            if next.audit_key.public() != in_force.audit_key.public() {
                publisher.succeed(next.audit_key.clone());
            }
            *in_force = Arc::new(next);
        }
        self.clear_server_keys();
        self.doors.registry.nudge_all();
    }

    /// Removes the files of keys that nothing names. One that stays is tried again at the next start.
    pub(super) fn clear_server_keys(&self) {
        let pending = match self.held_proposal() {
            Ok((_, held)) => held.map_or_else(Vec::new, |held| key_files(&held.next)),
            Err(error) => return tracing::warn!(%error, "old keys were not looked for"),
        };
        if let Err(error) = self.ca.clear_server_keys(&self.in_force().succession, &pending) {
            tracing::warn!(%error, "a key that nothing uses was not removed");
        }
    }

    /// A batch in which `record`, or nothing, takes the place of the proposal of this version of the store's.
    fn proposal_batch(&self, version: Option<u64>, record: Option<&Proposal>) -> Result<Batch, Error> {
        let key = INSTALLATION.key(PENDING_ID);
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| Error::internal("writing a proposal")(Box::new(error)))?;
        let mut batch = Batch::default().expect(key.clone(), version.map_or(Expect::Absent, Expect::Version));
        self.store.put_document(&mut batch, &key, &bytes)?;
        Ok(batch)
    }

    /// The version of the record of proposals, and the one that waits.
    fn held_proposal(&self) -> Result<(Option<u64>, Option<Held>), Error> {
        let unread = |error| Error::internal("reading a proposal")(error);
        let Some(found) = self.store.get_document(&INSTALLATION.key(PENDING_ID))? else {
            return Ok((None, None));
        };
        let record: Option<Proposal> =
            serde_json::from_slice(&found.value).map_err(|error| unread(Box::new(error)))?;
        let Some(record) = record else { return Ok((Some(found.version), None)) };
        let bytes = hex::decode(&record.signed).map_err(|error| unread(Box::new(error)))?;
        let signed = MultiSigned::parse_unfinished(&bytes).map_err(|error| unread(Box::new(error)))?;
        let next = signed.read_unverified().map_err(|error| unread(Box::new(error)))?;
        Ok((Some(found.version), Some(Held { record, signed, next })))
    }

    fn shown_proposal(&self, held: &Held) -> Pending {
        let in_force = self.in_force();
        let now = Timestamp(self.clock.now_s());
        Pending {
            document: held.signed.to_bytes(),
            current: in_force.chain.last().cloned().unwrap_or_default(),
            next: held.next.clone(),
            digest: held.signed.payload_digest(),
            progress: Progress::of(&in_force.lineage, &held.next, &held.signed, now),
            proposed_at: held.record.proposed_at,
            proposed_by: held.record.proposed_by.clone(),
            is_in_force: false,
            replaced: None,
            version: None,
        }
    }
}

impl Replaced {
    fn facts(&self) -> [(&'static str, String); 2] {
        [("replaced_sha256", self.digest.to_hex()), ("replaced_signed_by", self.signed_by.join(","))]
    }
}

/// The document in force, as the answer to a signature that came too late to matter.
fn taken_over(in_force: &InForce) -> Pending {
    let current = in_force.lineage.current();
    let none = || Quorum { needed: 0, signed: Vec::new() };
    let bytes = in_force.chain.last().cloned().unwrap_or_default();
    Pending {
        document: bytes.clone(),
        current: bytes,
        next: Authority::clone(current),
        digest: current.payload_digest(),
        progress: Progress { current: none(), next: none(), recovery: none(), waiting: Vec::new() },
        proposed_at: 0,
        proposed_by: String::new(),
        is_in_force: true,
        replaced: None,
        version: None,
    }
}

/// The files of the server's keys in `document`, as they are called when they were made for it.
fn key_files(document: &Authority) -> Vec<String> {
    let files =
        |purpose, keys: &[Ed25519Key]| keys.iter().map(|key| key_file(purpose, key)).collect::<Vec<_>>();
    let mut all = files(Purpose::Command, &document.command_keys);
    all.extend(files(Purpose::Audit, &document.audit_keys));
    all
}
